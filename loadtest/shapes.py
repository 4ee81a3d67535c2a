"""How a load changes in the course of a test: a level in each of several stages.

In a closed loop the level is a number of people, each of whom waits for an answer; in an open
loop it is a rate of requests a second. Arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_STEPS = 5
_SPIKE = 4  # times the level before and after


@dataclass(frozen=True)
class Stage:
    """So many seconds at one level."""

    seconds: float
    level: int


Shape = Sequence[Stage]


def steady(top: int, seconds: float) -> list[Stage]:
    """Return one level all the time."""
    return [Stage(seconds, top)]


def step(top: int, seconds: float) -> list[Stage]:
    """Return levels that rise to ``top`` in even steps: where does it bend?"""
    levels = sorted({max(1, round(top * number / _STEPS)) for number in range(1, _STEPS + 1)})
    return [Stage(seconds / len(levels), level) for level in levels]


def spike(top: int, seconds: float) -> list[Stage]:
    """Return a quarter of ``top``, all of it in the middle third of the time, a quarter again."""
    calm = max(1, round(top / _SPIKE))
    return [Stage(seconds / 3, level) for level in (calm, top, calm)]


def soak(top: int, seconds: float) -> list[Stage]:
    """Return a tenth of the time for rising and all the rest at ``top``: does it stay as it was?"""
    return [Stage(seconds / 10, max(1, top // 2)), Stage(seconds * 9 / 10, top)]


SHAPES: dict[str, Callable[[int, float], list[Stage]]] = {
    "steady": steady,
    "step": step,
    "spike": spike,
    "soak": soak,
}


def level_at(shape: Shape, second: float) -> int | None:
    """Return the level at a time after the start; None once it is over."""
    end = 0.0
    for stage in shape:
        end += stage.seconds
        if second < end:
            return stage.level
    return None
