"""Plots of a load test's raw data: `python -m loadtest.plots load.csv --folder DIR`.

NAME-latency.png: percentiles of the latency over the load, of each kind of request.
NAME-throughput.png: photographs answered and refused a second over the load.
NAME-stages.png: where the server's time went, by its own account.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest import samples
from loadtest.arguments import amount
from loadtest.gates import percentile
from loadtest.refusal import refuse
from loadtest.samples import RIGHT, Sample

_PERCENTS = {50: ":", 99: "-"}
_MARKERS = {50: "o", 99: "^"}
_ANSWERED, _REFUSED = (RIGHT,), ("429", "503")
_OUTCOMES = {_ANSWERED: "-", _REFUSED: "--"}
_STAGES = ("read", "wait", "prepare", "predict", "explain")
_LOAD = "load: users, or requests a second in an open loop"
_DPI = 110
_WIDE_ENOUGH = 0.04  # of a bar, to have its figure in it


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all three."""
    given = _arguments(arguments)
    runs = [_read(raw) for raw in given.raw]
    measured = [one for run in runs for one in run]
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, figure in {
        "latency": latency(measured, given.objective),
        "throughput": throughput(runs),
        "stages": stages(measured),
    }.items():
        path = given.folder / f"{given.name or given.raw[0].stem}-{name}.png"
        figure.savefig(path, dpi=_DPI)
        print(path)
    return 0


def _read(raw: Path) -> list[Sample]:
    try:
        found = samples.read(raw)
    except OSError as error:
        refuse(f"{raw} cannot be read: {error.strerror}.")
    except ValueError:  # other columns, or no text
        refuse(f"{raw} has no samples: what --raw of the locustfile wrote is needed.")
    return found or refuse(f"{raw} has not one request in it: there is nothing to draw.")


def latency(measured: Sequence[Sample], objective_ms: float) -> Figure:
    """Percentiles of what was answered rightly, over the load.

    ``objective_ms`` is one photograph's; a form of several has as many times that.
    """
    figure, axes = _figure()
    for number, (name, levels) in enumerate(_by_name(measured).items()):
        right = {
            level: [sample.ms for sample in of_level if sample.outcome == RIGHT]
            for level, of_level in levels.items()
        }
        right = {level: times for level, times in right.items() if times}
        for percent, style in _PERCENTS.items():
            values = [percentile(times, percent) for times in right.values()]
            label = f"{name}, p{percent}"
            marker = _MARKERS[percent]
            axes.plot([*right], values, style, marker=marker, ms=5, color=f"C{number}", label=label)
    for photographs in sorted({sample.photographs for sample in measured}):
        _objective(axes, objective_ms * photographs, photographs)
    axes.set(xlabel=_LOAD, ylabel="milliseconds", title="Latency over load")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _objective(axes: Axes, ms: float, photographs: int) -> None:
    of = "" if photographs == 1 else f" of {photographs} photographs"
    axes.axhline(ms, color="black", linewidth=0.8)
    label = f"objective{of}: {ms:g} ms"
    axes.annotate(label, (0, ms), xytext=(4, 3), textcoords="offset points", fontsize=8)


def throughput(runs: Iterable[Sequence[Sample]]) -> Figure:
    """Photographs answered rightly, and refused, a second, over the load."""
    figure, axes = _figure()
    kinds = [(_seconds(run), *kind) for run in runs for kind in _by_name(run).items()]
    for number, (seconds, name, levels) in enumerate(kinds):
        for outcomes, style in _OUTCOMES.items():
            rates = [_count(of, outcomes) / seconds[level] for level, of in levels.items()]
            if outcomes == _ANSWERED or any(rates):
                label = name if outcomes == _ANSWERED else f"{name}, refused (429, 503)"
                marker = "o" if outcomes == _ANSWERED else "x"
                axes.plot([*levels], rates, style, marker=marker, color=f"C{number}", label=label)
    axes.set(xlabel=_LOAD, ylabel="photographs a second", title="Throughput over load")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def stages(measured: Iterable[Sample]) -> Figure:
    """The stages' mean shares of the time that one photograph took, by Server-Timing."""
    figure, axes = _figure()
    timed: dict[str, list[dict[str, float]]] = defaultdict(list)
    for one in measured:
        if one.outcome == RIGHT and one.photographs == 1 and one.server_timing:
            timed[one.name].append({"round trip": one.ms, **one.stages()})
    for row, (name, times) in enumerate(timed.items()):
        _bar(axes, row, times)
        count = f"{name}\n{len(times)} requests"
        axes.text(0, row - 0.34, count, fontsize=8, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(timed) - 0.4, -0.6)
    axes.set(xlabel="milliseconds, mean of all requests")
    axes.set_title("Where the time goes")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside right upper", fontsize=8)
    return figure


def _bar(axes: Axes, row: int, times: Sequence[dict[str, float]]) -> None:
    left = 0.0
    parts = {name: float(np.mean([one.get(name, 0.0) for one in times])) for name in _STAGES}
    total = float(np.mean([one["total"] for one in times]))
    parts["else in the gateway"] = max(0.0, total - sum(parts.values()))
    parts["outside it"] = max(0.0, float(np.mean([one["round trip"] for one in times])) - total)
    for number, (name, ms) in enumerate(parts.items()):
        axes.barh(row, ms, left=left, height=0.4, color=f"C{number}", label=name)
        if ms > _WIDE_ENOUGH * (total + parts["outside it"]):
            axes.text(left + ms / 2, row, f"{ms:.1f}", ha="center", va="center", color="white")
        left += ms


def _figure() -> tuple[Figure, Axes]:
    figure = Figure((9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _by_name(measured: Iterable[Sample]) -> dict[str, dict[int, list[Sample]]]:
    """Sort by kind of request, then by level, the lowest first."""
    found: dict[str, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(measured, key=lambda one: (one.name, one.level)):
        found[one.name][one.level].append(one)
    return found


def _seconds(run: Iterable[Sample]) -> dict[int, float]:
    """How long each level lasted: each time from its first request to its last."""
    lasted: dict[int, float] = defaultdict(float)
    ordered = sorted(run, key=lambda one: one.at)
    for level, stage in groupby(ordered, key=lambda one: one.level):
        instants = [one.at for one in stage]
        lasted[level] += instants[-1] - instants[0]
    return {level: max(1.0, seconds) for level, seconds in lasted.items()}


def _count(of_level: Iterable[Sample], outcomes: Container[str]) -> int:
    return sum(one.photographs for one in of_level if one.outcome in outcomes)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.plots", description="Draw a CSV.")
    parser.add_argument("raw", type=Path, nargs="+", help="what --raw of the locustfile wrote")
    parser.add_argument("--folder", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--name", help="what their names begin with; default: the first file's")
    parser.add_argument(
        "--objective",
        type=amount,
        default=200.0,
        metavar="MS",
        help="of one photograph; default: 200",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
