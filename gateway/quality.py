"""Is this photograph fit to be read? Facts that a reader should weigh. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.contract import INPUT_SIZE
from gateway.imaging import Photograph

_CONTRAST = 24  # grey levels; a nucleus on an empty slide has well over 100
_SQUARE_ENOUGH = 1.5  # whole microscope fields are 4:3, and the network was trained on those


@dataclass(frozen=True)
class Quality:
    """Size in pixels, format, and a sentence for each reason to trust the answer less."""

    width: int
    height: int
    format: str
    warnings: tuple[str, ...]


def assess(photograph: Photograph) -> Quality:
    """Weigh what the photograph's shape says about the answer."""
    width, height = photograph.width, photograph.height
    warnings = []
    if min(width, height) < INPUT_SIZE:
        warnings.append(
            f"The photograph was enlarged: it is {width} x {height} pixels, and the model reads "
            f"{INPUT_SIZE} x {INPUT_SIZE}. Detail that was never recorded cannot be seen."
        )
    if max(width, height) > _SQUARE_ENOUGH * min(width, height):
        warnings.append(
            "The photograph is long and narrow, so the model saw it strongly distorted. Send a "
            "field that is about as wide as it is high."
        )
    if photograph.first_of_several:
        warnings.append("The file holds several pictures; only the first was read.")
    darkest, brightest = np.percentile(photograph.tensor[::4, ::4], [1, 99])
    if brightest - darkest < _CONTRAST:
        warnings.append(
            "The photograph is almost uniform, so there is no cell to be seen in it. If the camera "
            "stores 12 bits in 16, scale them up before you send it."
        )
    return Quality(width, height, photograph.format, tuple(warnings))
