"""The tables of `python -m export speed`, in Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from export.agreement import Agreement
from export.processor import name as processor_name
from export.speed import BATCHES, MATMUL, Figures, Timing, figures

_SPEED = (
    "variant",
    "ms for one",
    "with its maps",
    *(f"ms a picture at {batch}" for batch in BATCHES[1:]),
    "GFLOP/s",
    "x matmul, for one (quartiles)",
    *(f"x at {batch}" for batch in BATCHES[1:]),
)
_AGREEMENT = (
    "variant",
    "photographs",
    "accuracy",
    "calibration error",
    "answered otherwise",
    "turned away otherwise",
    "largest difference of a probability",
    "of a map: `cam`, `cam_fine`",
    "hottest cell moved",
)


def about(operations: int) -> str:
    """What was measured, on what."""
    processor = processor_name() or "a processor that does not tell its name"
    return (
        f"{operations / 1e9:.2f} GFLOP a photograph; {os.cpu_count()} cores of {processor}. "
        f"{MATMUL}: as many operations as one product of matrices, in each round with the others."
    )


def speed_table(timings: Sequence[Timing], names: Iterable[str], operations: int) -> str:
    """A line for each variant, and one for the floor."""
    rows = [_speed_row(name, figures(timings, name), operations) for name in (*names, MATMUL)]
    return _markdown(_SPEED, rows)


def agreement_table(agreements: Iterable[Agreement]) -> str:
    """A line for each variant and source."""
    return _markdown(_AGREEMENT, [_agreement_row(found) for found in agreements])


def _speed_row(name: str, found: Figures, operations: int) -> list[str]:
    explained = f"{found.explained[1]:.2f}" if found.explained else "-"
    low, high = found.spread
    return [
        name,
        f"{found.milliseconds[1]:.2f}",
        explained,
        *(f"{found.milliseconds[batch]:.2f}" for batch in BATCHES[1:]),
        f"{operations / found.milliseconds[1] / 1e6:.0f}",
        f"{found.ratio[1]:.2f} ({low:.2f} to {high:.2f})",
        *(f"{found.ratio[batch]:.2f}" for batch in BATCHES[1:]),
    ]


def _agreement_row(found: Agreement) -> list[str]:
    return [
        found.name,
        f"{found.photographs} of {found.source}",
        f"{found.accuracy:.4f}",
        f"{found.calibration_error:.4f}",
        str(found.changed),
        str(found.unfamiliar),
        f"{found.probability:.1e}",
        f"{found.cam:.1e}, {found.cam_fine:.1e}",
        str(found.moved),
    ]


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
