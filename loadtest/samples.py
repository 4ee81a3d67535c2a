"""What became of each request of a load test, and the CSV file that keeps it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from loadtest import tables

RIGHT, WRONG = "right", "wrong answer"
_DURATION = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(frozen=True)
class Sample:
    """One request.

    ``at`` is when it was due, in seconds of the Unix epoch; ``level`` the shape's, of users or of
    requests a second; ``ms`` counts from ``at`` until all of the reply was there, and ``late_ms``
    is how much later than ``at`` it was sent. The outcome is RIGHT, WRONG, a status other than
    200, or the name of what broke.
    """

    at: float
    level: int
    name: str
    photographs: int
    ms: float
    late_ms: float
    outcome: str
    server_timing: str

    def stages(self) -> dict[str, float]:
        """Return the server's own account: milliseconds by stage, with their ``total``."""
        return {name: float(ms) for name, ms in _DURATION.findall(self.server_timing)}


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Write all of them, or leave what was there."""
    tables.write_csv(path, [field.name for field in fields(Sample)], map(_row, samples))


def read(path: Path) -> list[Sample]:
    """Read them back."""
    with path.open(newline="") as file:
        return [parse(list(row.values())) for row in csv.DictReader(file)]


def parse(row: Sequence[object]) -> Sample:
    """Make a sample of a row: numbers may be texts."""
    at, level, name, photographs, ms, late_ms, outcome, server_timing = map(str, row)
    return Sample(
        float(at),
        int(level),
        name,
        int(photographs),
        float(ms),
        float(late_ms),
        outcome,
        server_timing,
    )


def _row(sample: Sample) -> tuple[object, ...]:
    return tuple(
        round(value, 3) if isinstance(value, float) else value for value in astuple(sample)
    )
