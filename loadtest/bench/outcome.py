"""What came out of one run: figures in their units, and as ratios to the baseline. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.bench import BASELINE

MEASURES = {
    "p50": "p50, ms",
    "p95": "p95, ms",
    "p99": "p99, ms",
    "throughput": "photographs a second",
    "cpu": "CPU seconds per 1,000",
    "memory": "peak memory, MB",
}
"""What is measured of each contender, and its name with its unit. All but the throughput are
better when lower; the memory is of the whole service while it is saturated."""

MORE_IS_BETTER = {"throughput"}

Figures = dict[str, dict[str, float]]
"""Contender -> measure -> figure."""


@dataclass(frozen=True)
class Turn:
    """One contender's turn at saturation.

    Answers and refusals of ``seconds``, the processor time in seconds that the service took for
    them, and its highest memory in bytes.
    """

    number: int
    contender: str
    seconds: float
    answered: int
    refused: int
    cpu_seconds: float
    peak_bytes: int


def figures(times: Mapping[str, Sequence[float]], turns: Sequence[Turn]) -> Figures:
    """Summarise a run, in the units of ``MEASURES``; over the turns, sums and the highest."""
    return {name: _latency(times[name]) | _cost(name, turns) for name in times}


def refusals(turns: Iterable[Turn]) -> dict[str, int]:
    """Count each contender's, over all turns."""
    counted: Counter[str] = Counter()
    for turn in turns:
        counted[turn.contender] += turn.refused
    return dict(counted)


def ratios(measured: Figures) -> Figures:
    """Divide every contender's figures by the baseline's."""
    base = measured[BASELINE]
    return {
        name: {measure: figure / base[measure] for measure, figure in of_one.items()}
        for name, of_one in measured.items()
    }


def _latency(milliseconds: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def _cost(name: str, turns: Sequence[Turn]) -> dict[str, float]:
    own = [turn for turn in turns if turn.contender == name]
    answered = max(1, sum(turn.answered for turn in own))
    return {
        "throughput": answered / sum(turn.seconds for turn in own),
        "cpu": 1000 * sum(turn.cpu_seconds for turn in own) / answered,
        "memory": max(turn.peak_bytes for turn in own) / 1e6,
    }


def plain(measured: Figures, digits: int = 4) -> dict[str, Any]:
    """Round to significant digits, for a file."""
    return {
        name: {measure: float(f"{figure:.{digits}g}") for measure, figure in of_one.items()}
        for name, of_one in measured.items()
    }
