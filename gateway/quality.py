"""Is this photograph fit to be read, and does the answer deserve trust? Pure.

What is measured is what the model sees: the photograph at 224 x 224. The thresholds were chosen on
training photographs of PBC and BCCD and their degraded copies; ``loadtest/quality.py`` measures
what they find, and the README has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.contract import FAMILIAR_UP_TO, INPUT_SIZE
from gateway.imaging import Photograph

_CONTRAST = 24  # grey levels; a nucleus on an empty slide has well over 100
_SQUARE_ENOUGH = 1.5  # whole microscope fields are 4:3, and the network was trained on those
_SHARP_ENOUGH = 0.01
_BRIGHT_ENOUGH = 120.0  # grey levels
_MOST_CLIPPED = 0.1
_NUCLEUS = 0.07  # optical density
_CLIPPED_FROM = 0b1111_1110  # so that `and` of three channels reaches it where each does
_LOGARITHMS = np.log10(np.arange(1, 257, dtype=np.float32))  # of each level and 1
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Measures:
    """What the flags stand on.

    ``sharpness`` is the variance of the Laplacian over that of the grey levels; Pech-Pacheco et
    al., Diatom autofocusing in brightfield microscopy, ICPR 2000, less the contrast.
    ``brightness`` is the 95th percentile of the grey levels, 0 to 255: the empty slide.
    ``clipped`` is the share of pixels that are white in all channels.
    ``nucleus`` is the optical density (Ruifrok & Johnston, Anal Quant Cytol Histol 23, 2001) in
    red less that in blue, against the slide, which 1 % of the picture exceeds: nuclear stain
    absorbs red light, haemoglobin blue.
    """

    sharpness: float
    brightness: float
    clipped: float
    nucleus: float


@dataclass(frozen=True)
class Flag:
    """A remark on a photograph: a name for programs, a sentence for people.

    ``worthless`` says that no answer can be taken from such a photograph.
    """

    flag: str
    detail: str
    worthless: bool = False


@dataclass(frozen=True)
class Quality:
    """Size in pixels, format, what was measured, and a flag for each reason to trust less."""

    width: int
    height: int
    format: str
    measures: Measures
    flags: tuple[Flag, ...]


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
DISTORTED = Flag(
    "distorted",
    "The photograph is long and narrow, so the model saw it strongly distorted. Send a field that "
    "is about as wide as it is high.",
)
FIRST_OF_SEVERAL = Flag(
    "first-of-several", "The file holds several pictures; only the first was read."
)
UNIFORM = Flag(
    "uniform",
    "The photograph is almost uniform, so there is no cell to be seen in it. If the camera stores "
    "12 bits in 16, scale them up before you send it.",
    worthless=True,
)
NO_NUCLEUS = Flag(
    "no-nucleus",
    "Nothing in the photograph has the colour of a stained nucleus. Centre a white cell, and let "
    "it fill at least a tenth of the field's width.",
    worthless=True,
)
BLURRED = Flag("blurred", "The photograph is out of focus. Focus anew, and send that.")
UNDEREXPOSED = Flag(
    "underexposed", "The photograph is dark: even the empty slide is. Expose it for longer."
)
OVEREXPOSED = Flag(
    "overexposed",
    "Much of the photograph is pure white, so pale structures are lost. Expose it for shorter.",
)


def doubts(unfamiliarity: float, quality: Quality) -> tuple[Doubt, ...]:
    """Say why the model's answer should not be taken; nothing where it may be."""
    model = (UNFAMILIAR,) if unfamiliarity > FAMILIAR_UP_TO else ()
    return (*model, *(Doubt(f.flag, f.detail) for f in quality.flags if f.worthless))


def assess(photograph: Photograph) -> Quality:
    """Weigh what the photograph's shape and pixels say about the answer."""
    measures = measure(photograph.tensor)
    flags = (*_shape_flags(photograph), *_pixel_flags(photograph, measures))
    return Quality(photograph.width, photograph.height, photograph.format, measures, flags)


def measure(tensor: NDArray[np.uint8]) -> Measures:
    """Measure a photograph as the model sees it: uint8 [224, 224, 3], RGB."""
    grey = tensor @ _LUMINANCE
    red, green, blue = np.moveaxis(tensor, -1, 0)
    return Measures(
        sharpness=float(_laplacian(grey).var() / max(float(grey.var()), 1.0)),
        brightness=_percentile(grey[::2, ::2], 95),
        clipped=float(np.mean(red & green & blue >= _CLIPPED_FROM)),
        nucleus=_nucleus(tensor),
    )


def _shape_flags(photograph: Photograph) -> list[Flag]:
    width, height = photograph.width, photograph.height
    flags = []
    if _enlarged(photograph):
        detail = (
            f"The photograph was enlarged: it is {width} x {height} pixels, and the model reads "
            f"{INPUT_SIZE} x {INPUT_SIZE}. Detail that was never recorded cannot be seen."
        )
        flags.append(Flag("enlarged", detail))
    if max(width, height) > _SQUARE_ENOUGH * min(width, height):
        flags.append(DISTORTED)
    if photograph.first_of_several:
        flags.append(FIRST_OF_SEVERAL)
    return flags


def _pixel_flags(photograph: Photograph, measures: Measures) -> list[Flag]:
    levels = photograph.tensor[::4, ::4]
    contrast = _percentile(levels, 99) - _percentile(levels, 1)
    uniform = contrast < _CONTRAST  # nothing is sharp or stained in it
    found = {
        UNIFORM: uniform,
        UNDEREXPOSED: measures.brightness < _BRIGHT_ENOUGH,
        OVEREXPOSED: measures.clipped > _MOST_CLIPPED,
        NO_NUCLEUS: not uniform and measures.nucleus < _NUCLEUS,
        BLURRED: not uniform and not _enlarged(photograph) and measures.sharpness < _SHARP_ENOUGH,
    }
    return [flag for flag, there in found.items() if there]


def _enlarged(photograph: Photograph) -> bool:
    return min(photograph.width, photograph.height) < INPUT_SIZE


def _laplacian(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian: NDArray[np.float32] = around - 4 * grey[1:-1, 1:-1]
    return laplacian


def _nucleus(tensor: NDArray[np.uint8]) -> float:
    red, _, blue = Image.fromarray(tensor).reduce(2).split()  # grain is no nucleus
    return _percentile(_density(red) - _density(blue), 99)


def _density(channel: Image.Image) -> NDArray[np.float32]:
    """Optical density of a channel against the slide, its brightest tenth; >= 0."""
    levels = np.asarray(channel)
    slide = _percentile(levels, 90)
    empty = np.float32(np.log10(slide + 1))
    density: NDArray[np.float32] = np.maximum(empty - _LOGARITHMS[levels], 0)
    return density


def _percentile(values: NDArray[np.uint8] | NDArray[np.float32], percent: int) -> float:
    """Find what ``percent`` of the values lie below, as ``np.percentile``, in a third of its time.

    Between two of them it interpolates linearly.
    """
    whole, rest = divmod(percent * (values.size - 1), 100)
    ordered = np.partition(values, (whole, whole + 1), axis=None)
    below, above = float(ordered[whole]), float(ordered[whole + 1])
    return below + (above - below) * rest / 100
