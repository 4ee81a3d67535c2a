"""Has anything become slower? Ratios against recorded ones, within their measured noise. Pure.

The noise is that between whole runs, each with all processes started anew. A ratio's band is a
prediction interval: with m the mean of the logarithms of a ratio in k recorded runs, and s the
standard deviation of one measure's, pooled over the n contenders, the logarithm of one more run's
ratio lies in

    m +/- t * s * sqrt(1 + 1/k)

with t a quantile of Student's (G. Hahn and W. Meeker, *Statistical Intervals*, 1991, 4.2). Each of
all ratios may lie on the worse side of its band with 5 % over their number (Bonferroni), so that
an unchanged service is called worse in at most 1 run of 20, and better as seldom.

Ratios of a run share the baseline's noise. Where all contenders are equally noisy, each two of
them are correlated by 1/2, and s has not n (k - 1) degrees of freedom but

    n^2 (k - 1) / sum of the correlations' squares = 4 n (k - 1) / (n + 3)

(F. Satterthwaite, *Biometrics Bulletin* 2, 1946).

Ratios carry over to other machines of the same build; which ones that are, ``differences`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.bench import BASELINE, WITNESS
from loadtest.bench.outcome import MEASURES, MORE_IS_BETTER, Figures
from loadtest.machine import Machine

_FALSE_ALARMS = 0.05
"""Share of unchanged runs in which any ratio may lie on the worse side of its band."""

FEWEST_RUNS = 3
"""That a record is made of: two hardly tell what the noise is."""

_NEEDED = ("architecture", "flags", "cores", "python")


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


def bands(repetitions: Sequence[Figures], ours: set[str]) -> Bands:
    """Return the band of every ratio that is judged, from ``FEWEST_RUNS`` runs or more.

    These are ours but the baseline's own, and the witness's.
    """
    names = [name for name in repetitions[0] if name in {*ours, WITNESS} - {BASELINE}]
    of_measures = {
        measure: _bands(
            np.log([[run[name][measure] for name in names] for run in repetitions]),
            _FALSE_ALARMS / (len(names) * len(MEASURES)),
        )
        for measure in MEASURES
    }
    return {
        name: {measure: found[number] for measure, found in of_measures.items()}
        for number, name in enumerate(names)
    }


def _bands(logs: NDArray[np.float64], worse: float) -> list[Band]:
    """Return a band for each contender, from one measure's logarithms, [runs, contenders]."""
    runs, contenders = logs.shape
    degrees = 4 * contenders * (runs - 1) / (contenders + 3)
    pooled = float(logs.var(axis=0, ddof=1).mean()) ** 0.5
    reach = student_t(2 * worse, degrees) * pooled * (1 + 1 / runs) ** 0.5
    return [
        Band(*(float(edge) for edge in np.exp([middle - reach, middle, middle + reach])))
        for middle in logs.mean(axis=0)
    ]


def smallest(recorded: Bands) -> dict[str, float]:
    """Return for each measure the smallest change for the worse that is told, as a share."""
    of_one = next(iter(recorded.values()))  # pooled: all contenders' reach as far
    return {
        measure: abs((band.low if measure in MORE_IS_BETTER else band.high) / band.value - 1)
        for measure, band in of_one.items()
    }


@cache
def student_t(outside: float, degrees: float) -> float:
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


def deviations(measured: Figures, recorded: Bands) -> list[Deviation]:
    """Return every ratio outside its band.

    The witness is as fast as ever: where it comes nearer to the baseline, it is the model server
    that has become slower, so for it the nearer is the worse.
    """
    found = []
    for name, of_one in recorded.items():
        for measure, band in of_one.items():
            ratio = measured[name][measure]
            if not band.low <= ratio <= band.high:
                less_is_worse = (measure in MORE_IS_BETTER) == (name != WITNESS)
                worse = (ratio < band.low) == less_is_worse
                found.append(Deviation(name, measure, ratio, band, worse))
    return found


def differences(here: Machine, there: Machine) -> list[str]:
    """Say in which facts two machines differ so that their ratios are not comparable.

    These are what decides between which kernels TensorFlow chooses and how many run at once:
    architecture, instruction sets and cores; and the versions of Python and of each package,
    each of which some contenders use and others do not. A faster clock, more memory or another
    kernel changes all contenders alike.
    """
    pairs: list[tuple[str, Any, Any]] = [(name, here[name], there[name]) for name in _NEEDED]  # type: ignore[literal-required]
    pairs += [
        (name, here["packages"].get(name, "not installed"), there["packages"].get(name, "not told"))
        for name in sorted({*here["packages"], *there["packages"]})
    ]
    return [
        f"{name} is {_shown(this)} here and {_shown(that)} there"
        for name, this, that in pairs
        if this != that
    ]


def _shown(fact: object) -> str:
    return ", ".join(map(str, fact)) or "none" if isinstance(fact, list) else str(fact)
