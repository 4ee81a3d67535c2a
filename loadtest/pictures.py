"""A photograph's pixels, for what measures more than the service's answer to it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from PIL import Image

from loadtest.photographs import Photograph
from loadtest.refusal import refuse

SIDES = (256, 360, 640, 2048)
"""The longer sides, in pixels, that a photograph is brought to where size matters: a cell's crop,
PBC's, BCCD's and a camera's."""


def decoded(photograph: Photograph) -> Image.Image:
    """Decode it to RGB.

    Raises:
        SystemExit: it is no picture, or a broken one; the sentence names it.
    """
    try:
        with Image.open(io.BytesIO(photograph.body)) as file:
            return file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        refuse(f"{photograph.folder}/{photograph.name} is no picture that can be decoded.")


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """Bring it to a longer side of ``side`` pixels."""
    scale = side / max(picture.size)
    width, height = picture.size
    return picture.resize((round(scale * width), round(scale * height)), Image.Resampling.BICUBIC)


def digest(found: Sequence[Photograph]) -> str:
    """Hash the pixels: files of the same pixels are the same photographs.

    Raises:
        SystemExit: one cannot be decoded.
    """
    pixels = hashlib.sha256()
    for photograph in found:
        pixels.update(decoded(photograph).tobytes())
    return pixels.hexdigest()[:16]
