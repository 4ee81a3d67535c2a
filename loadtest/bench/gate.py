"""Has anything become slower? Ratios against recorded ones, within their measured noise. Pure.

The noise is that between whole runs, each with all processes started anew. A ratio's band is a
prediction interval: with m and s the mean and the standard deviation of the logarithms of a
ratio in k recorded runs, the logarithm of one more run's ratio lies in

    m +/- t * s * sqrt(1 + 1/k)

with t Student's quantile of k - 1 degrees of freedom (G. Hahn and W. Meeker, *Statistical
Intervals*, 1991, 4.2). t is chosen so that a run without any change has all of its ratios inside
with 95 %: each of n ratios may fall outside with 5 %/n (Bonferroni).

Ratios carry over to other machines of the same build; which ones that are, ``differences`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from loadtest.bench import BASELINE
from loadtest.bench.outcome import MEASURES, MORE_IS_BETTER, Figures
from loadtest.machine import Machine

_FALSE_ALARMS = 0.05
"""Share of unchanged runs in which any ratio may lie outside its band."""

_NEEDED = ("architecture", "flags", "cores")
_NEEDED_PACKAGES = ("tensorflow",)


class Band(NamedTuple):
    """A recorded ratio, and between which values one more run's is expected."""

    low: float
    value: float
    high: float


Bands = dict[str, dict[str, Band]]
"""Contender -> measure -> band."""


class Deviation(NamedTuple):
    """A ratio outside its band."""

    contender: str
    measure: str
    ratio: float
    band: Band
    worse: bool

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"{'WORSE' if self.worse else 'better'}: {self.contender}, {MEASURES[self.measure]}: "
            f"{self.ratio:.2f} times {BASELINE}; recorded {self.band.value:.2f}, noise "
            f"{self.band.low:.2f} to {self.band.high:.2f}."
        )


def bands(repetitions: Sequence[Figures]) -> Bands:
    """Return the band of every ratio but the baseline's own, from the ratios of k >= 2 runs."""
    names = [name for name in repetitions[0] if name != BASELINE]
    t = student_t(_FALSE_ALARMS / (len(names) * len(MEASURES)), len(repetitions) - 1)
    return {
        name: {
            measure: _band([run[name][measure] for run in repetitions], t) for measure in MEASURES
        }
        for name in names
    }


def _band(observed: Sequence[float], t: float) -> Band:
    logs = np.log(observed)
    middle = float(logs.mean())
    reach = t * float(logs.std(ddof=1)) * (1 + 1 / len(logs)) ** 0.5
    low, value, high = np.exp([middle - reach, middle, middle + reach])
    return Band(float(low), float(value), float(high))


def student_t(outside: float, degrees: int) -> float:
    """Return t with P(T < -t or T > t) = ``outside`` for Student's T with ``degrees`` of freedom.

    With T = sqrt(degrees) tan(a), the density of the angle a is proportional to
    cos(a)^(degrees - 1), which is summed over a fine grid. Good to three digits for ``outside``
    of 0.0001 and above.
    """
    # from a right angle down, dense where the tail is
    angles = np.pi / 2 - np.geomspace(np.pi / 2, 1e-9, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    steps = np.diff(angles) * (density[1:] + density[:-1]) / 2
    tail = np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]]) / steps.sum()
    angle = float(np.interp(-outside, -tail, angles))
    return float(degrees**0.5 * np.tan(angle))


def deviations(measured: Figures, recorded: Bands, ours: set[str]) -> list[Deviation]:
    """Return every ratio outside its band.

    What is not ours is as fast as ever: where it comes nearer to the baseline, it is the model
    server that has become slower, so for these the nearer is the worse.
    """
    found = []
    for name, of_one in recorded.items():
        for measure, band in of_one.items():
            ratio = measured[name][measure]
            if not band.low <= ratio <= band.high:
                less_is_worse = (measure in MORE_IS_BETTER) == (name in ours)
                worse = (ratio < band.low) == less_is_worse
                found.append(Deviation(name, measure, ratio, band, worse))
    return found


def differences(here: Machine, there: Machine) -> list[str]:
    """Say in which facts two machines differ so that their ratios are not comparable.

    These are what decides between which kernels TensorFlow chooses and how many run at once:
    architecture, instruction sets, cores and TensorFlow's version. A faster clock, more memory
    or another kernel changes all contenders alike.
    """
    pairs: list[tuple[str, Any, Any]] = [(name, here[name], there[name]) for name in _NEEDED]  # type: ignore[literal-required]
    pairs += [
        (name, here["packages"].get(name), there["packages"].get(name)) for name in _NEEDED_PACKAGES
    ]
    return [
        f"{name} is {_shown(this)} here and {_shown(that)} there"
        for name, this, that in pairs
        if this != that
    ]


def _shown(fact: object) -> str:
    return ", ".join(map(str, fact)) or "none" if isinstance(fact, list) else str(fact)
