"""What the gateway may cost beside the bare model server, and whether a record keeps to it. Pure.

Of several runs the middle one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from loadtest.bench import BASELINE

OVERLAY = 1.2
"""The most that a photograph with its overlay may take, p50 of one client, times the baseline's."""

NONE_MS = 4.0
"""How much longer one without heat map may take, p50 of one client, in ms."""

THROUGHPUT = 0.9
"""The least share of the baseline's throughput that is left with overlays, at saturation."""


def told(described: dict[str, Any]) -> str:
    """Say of each goal what it is, what was measured, and whether it was met, as a list."""
    return "\n".join(
        f"- {'met' if met else 'MISSED'}: {goal}: {measured}"
        for goal, measured, met in _goals(described)
    )


def _goals(described: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    overlay = median(run["gateway overlay"]["p50"] for run in described["ratios"])
    yield (
        f"gateway overlay's p50 at most {OVERLAY:g} times {BASELINE}'s",
        f"{overlay:.2f}",
        overlay <= OVERLAY,
    )
    longer = median(
        run["gateway none"]["p50"] - run[BASELINE]["p50"] for run in described["figures"]
    )
    yield (
        f"gateway none's p50 at most {NONE_MS:g} ms more than {BASELINE}'s",
        f"{longer:+.1f} ms",
        longer <= NONE_MS,
    )
    share = median(run["gateway overlay"]["throughput"] for run in described["ratios"])
    yield (
        f"gateway overlay's throughput at least {THROUGHPUT:g} times {BASELINE}'s",
        f"{share:.2f}",
        share >= THROUGHPUT,
    )
