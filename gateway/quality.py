"""Is this photograph fit to be read, and does the answer deserve trust? Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.contract import FAMILIAR_UP_TO, INPUT_SIZE
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


@dataclass(frozen=True)
class Doubt:
    """Why not to take the model's answer: a name for programs, a sentence for people."""

    reason: str
    detail: str


UNFAMILIAR = Doubt(
    "unfamiliar",
    "The photograph is unlike those that the model learnt from: it may show another kind of cell, "
    "no cell, or a stain or camera that the model has not seen. Let a person read it.",
)


def doubts(unfamiliarity: float) -> tuple[Doubt, ...]:
    """Say why the model's answer should not be taken; nothing where it may be."""
    return (UNFAMILIAR,) if unfamiliarity > FAMILIAR_UP_TO else ()


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
