"""A photograph's pixels, for what measures more than the service's answer to it."""

from __future__ import annotations

import io

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
