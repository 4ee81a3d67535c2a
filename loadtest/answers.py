"""What a reply says, and whether two replies to the same request say the same.

Read from the reply's bytes without parsing the pictures in it: the load generator shares its
machine with what it loads.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TOLERANCE = 0.02  # of 1: of a probability, or of a colour
_RESULT = re.compile(rb'"prediction": ?"(\w+)".{0,100}?"probabilities": ?(\{[^}]*\})', re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What is said: class names, and figures from 0 to 1."""

    classes: tuple[str, ...]
    figures: NDArray[np.float32]

    def same_as(self, other: Answer) -> bool:
        """Compare; figures may differ by rounding."""
        return (
            self.classes == other.classes
            and self.figures.shape == other.figures.shape
            and bool(np.allclose(self.figures, other.figures, rtol=0, atol=_TOLERANCE))
        )


def results(body: bytes) -> Answer:
    """Read the classifications in a reply in JSON, of one photograph or of several.

    Raises:
        ValueError: there is none.
    """
    found = _RESULT.findall(body)
    if not found:
        raise ValueError("a reply without a classification")
    classes = tuple(name.decode() for name, _ in found)
    figures = [list(json.loads(probabilities).values()) for _, probabilities in found]
    return Answer(classes, np.array(figures, np.float32))


def overlay(body: bytes) -> Answer:
    """Read the pixels of a reply that is a picture.

    Raises:
        ValueError: it is none.
    """
    try:
        pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.float32)
    except OSError as error:
        raise ValueError("a reply that is no picture") from error
    return Answer((), pixels / 255)
