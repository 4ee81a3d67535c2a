"""A photograph's pixels, for what measures more than the service's answer to it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from PIL import Image

from loadtest.photographs import Photograph
from loadtest.refusal import refuse


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


def digest(found: Sequence[Photograph]) -> str:
    """Hash the pixels: files of the same pixels are the same photographs.

    Raises:
        SystemExit: one cannot be decoded.
    """
    pixels = hashlib.sha256()
    for photograph in found:
        pixels.update(decoded(photograph).tobytes())
    return pixels.hexdigest()[:16]
