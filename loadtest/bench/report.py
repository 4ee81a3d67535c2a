"""A run, or several, as a record in JSON, as raw times in CSV, and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from loadtest import tables
from loadtest.bench import BASELINE
from loadtest.bench.gate import FEWEST_RUNS, Band, Bands, bands, smallest
from loadtest.bench.outcome import MEASURES, Figures, Turn, figures, plain, ratios, refusals
from loadtest.machine import Machine


@dataclass(frozen=True)
class Plan:
    """What a run does: two runs can be compared where theirs are equal.

    ``seconds`` are those of a turn, ``photographs`` a digest of the pixels.
    """

    rounds: int
    turns: int
    seconds: float
    clients: int
    photographs: str


@dataclass(frozen=True)
class Run:
    """One run: each contender's times in milliseconds, and the turns at saturation."""

    times: dict[str, list[float]]
    turns: list[Turn]

    @property
    def figures(self) -> Figures:
        """Its figures in the units of ``MEASURES``."""
        return figures(self.times, self.turns)


def record(
    runs: Sequence[Run], plan: Plan, machine: Machine, ours: set[str], made: str
) -> dict[str, Any]:
    """Describe the runs; with enough of them, the bands between which one more is expected.

    ``made`` is the command line that made them.
    """
    of_runs = [plain(ratios(run.figures)) for run in runs]
    described: dict[str, Any] = {
        "made": made,
        "plan": asdict(plan),
        "machine": machine,
        "ours": sorted(ours),
        "figures": [plain(run.figures) for run in runs],
        "ratios": of_runs,
        "refused": refusals(turn for run in runs for turn in run.turns),
    }
    if len(runs) >= FEWEST_RUNS:
        described["bands"] = bands(of_runs, ours)
    return described


def recorded_bands(described: dict[str, Any]) -> Bands:
    """Read the bands of a record."""
    return {
        name: {measure: Band(*band) for measure, band in of_one.items()}
        for name, of_one in described["bands"].items()
    }


def write(folder: Path, name: str, described: dict[str, Any], runs: Sequence[Run]) -> None:
    """Write the record and the raw data: every time, and every turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    contenders = list(runs[0].times)
    tables.write_csv(
        folder / f"{name}-times.csv",
        ["run", "round", *(f"{contender} ms" for contender in contenders)],
        (
            [number, turn, *(f"{ms:.2f}" for ms in row)]
            for number, run in enumerate(runs)
            for turn, row in enumerate(zip(*run.times.values(), strict=True))
        ),
    )
    tables.write_csv(
        folder / f"{name}-turns.csv",
        ["run", *(column.name for column in fields(Turn))],
        ([number, *astuple(turn)] for number, run in enumerate(runs) for turn in run.turns),
    )


def table(described: dict[str, Any]) -> str:
    """Draw the ratios, with the runs' lowest and highest, and how many were refused at saturation.

    What the baseline's 1 stands for is below.
    """
    of_runs: list[Figures] = described["ratios"]
    rows = [
        [
            name,
            *(_spread([run[name][measure] for run in of_runs]) for measure in MEASURES),
            str(described["refused"][name]),
        ]
        for name in of_runs[0]
    ]
    drawn = tables.markdown(["", *MEASURES, "refused"], rows)
    base = [run[BASELINE] for run in described["figures"]]
    units = "; ".join(
        f"{unit} {_plain(median(run[measure] for run in base))}"
        for measure, unit in MEASURES.items()
    )
    return f"{drawn}\n\n1.00 is {BASELINE}: {units}."


def told(recorded: Bands) -> str:
    """Say how large a change for the worse must be for a check to tell it."""
    each = ", ".join(f"{name} {100 * share:.0f} %" for name, share in smallest(recorded).items())
    return f"The smallest change for the worse that a check tells: {each}."


def _plain(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _spread(values: Sequence[float]) -> str:
    middle = f"{median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"
