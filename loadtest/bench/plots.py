"""A record's two plots: how long for one client, and what it costs at saturation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loadtest.bench import BASELINE
from loadtest.bench.outcome import Figures
from loadtest.bench.report import Run

_TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)
_COSTS = {
    "throughput": "photographs a second",
    "cpu": "CPU seconds per 1,000 photographs",
    "memory": "peak memory of all processes",
}


def draw(folder: Path, name: str, described: dict[str, Any], runs: Sequence[Run]) -> list[Path]:
    """Write NAME-latency.png and NAME-cost.png; return their paths."""
    latency, cost = folder / f"{name}-latency.png", folder / f"{name}-cost.png"
    _latency(runs).savefig(latency, dpi=110)
    _cost(described["ratios"]).savefig(cost, dpi=110)
    return [latency, cost]


def _latency(runs: Sequence[Run]) -> Figure:
    figure = Figure((10, 5), layout="constrained")
    axes = figure.subplots()
    for name in runs[0].times:
        times = np.sort([ms for run in runs for ms in run.times[name]])
        shares = np.arange(1, len(times) + 1) / len(times)
        axes.plot(times, 100 * shares, label=name, color=_colour(name), linestyle=_line(name))
    axes.axvline(200, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("objective", (200, 2), textcoords="offset points", xytext=(4, 0))
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_xlim(5, 1000)
    axes.set(xlabel="milliseconds for one client", ylabel="% of photographs answered by then")
    axes.set_title("One client, interleaved rounds")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _cost(of_runs: Sequence[Figures]) -> Figure:
    figure = Figure((11, 4), layout="constrained")
    panels = figure.subplots(1, len(_COSTS), sharey=True)
    names = list(reversed(of_runs[0]))
    for axes, (measure, title) in zip(panels, _COSTS.items(), strict=True):
        values = np.array([[run[name][measure] for name in names] for run in of_runs])
        middle = np.median(values, axis=0)
        spread = [middle - values.min(axis=0), values.max(axis=0) - middle]
        axes.barh(names, middle, xerr=spread, color=[_colour(name) for name in names])
        for row, ratio in enumerate(middle):
            beside = (values[:, row].max(), row)  # of the line that shows the runs' spread
            axes.annotate(
                f"{ratio:.2f}", beside, textcoords="offset points", xytext=(4, -3), fontsize=8
            )
        if measure == "cpu":  # one is ten times the others, which are the question
            axes.set_xscale("log")
            axes.set_xlim(0.5, values.max() * 2)
        else:
            axes.set_xlim(0, values.max() * 1.25)
        axes.set_title(f"{title}\n(times {BASELINE})", fontsize=9)
        axes.axvline(1, color="black", linewidth=0.8)
    if len(of_runs) > 1:
        figure.supxlabel(
            f"the median of {len(of_runs)} runs, and from lowest to highest", fontsize=8
        )
    return figure


def _colour(name: str) -> str:
    families = {"bare": "C7", "gateway": "C0", "aiohttp": "C2", "fastapi": "C1", "flask": "C3"}
    return families[name.partition(" ")[0]]


def _line(name: str) -> str:
    lines = {"none": ":", "serving_default": ":", "png": "--"}
    return lines.get(name.rpartition(" ")[2], "-")
