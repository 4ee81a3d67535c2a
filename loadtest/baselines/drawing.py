"""A heat map over a photograph, as whoever knows Pillow draws it."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ALPHA = 0.4
_HEAT = np.linspace(0, 4, 256)[:, np.newaxis]
_JET = (np.clip(1.5 - abs(_HEAT - (3, 2, 1)), 0, 1) * 255).astype(np.uint8)
"""RGB by heat: each of jet's colours rises, stays and falls in straight lines."""


def overlay(photograph: Image.Image, cam: NDArray[np.float32]) -> str:
    """Lay a map >= 0, float32 [h, h], over an RGB photograph; a JPEG, in base64."""
    highest = float(cam.max())
    levels = (cam * (255 / highest) if highest > 0 else cam).astype(np.uint8)
    heat = Image.fromarray(levels).resize(photograph.size, Image.Resampling.BICUBIC)
    heat.putpalette(_JET.tobytes())
    buffer = io.BytesIO()
    Image.blend(photograph, heat.convert("RGB"), _ALPHA).save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
