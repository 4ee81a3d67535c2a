"""What a service does under more than it can do, as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.gates import percentile
from loadtest.overload import CLOSED, Figures


def draw(path: Path, loads: Sequence[Figures], objective_ms: float) -> None:
    """Write a PNG: goodput, and the times of answers and of refusals, over the offered load."""
    figure = Figure((10, 4.2), layout="constrained")
    rates, times = figure.subplots(1, 2)
    _goodput(rates, loads)
    _times(times, loads, objective_ms)
    for axes in (rates, times):
        axes.set_xlabel("offered load, times the capacity")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _goodput(axes: Axes, loads: Sequence[Figures]) -> None:
    opened = [one for one in loads if one.load != CLOSED]
    best = max(one.goodput for one in loads)
    axes.plot([one.load for one in opened], [one.goodput for one in opened], "o-", label="goodput")
    axes.axhline(best, color="black", linewidth=0.8, linestyle=":", label="the best")
    axes.axhline(0.9 * best, color="black", linewidth=0.8, label="0.9 of it")
    axes.set(ylabel="photographs a second, answered in time", title="Goodput")


def _times(axes: Axes, loads: Sequence[Figures], objective_ms: float) -> None:
    kinds: dict[str, tuple[str, Callable[[Figures], list[float]]]] = {
        "answers": ("C0", lambda one: one.accepted),
        "refusals": ("C3", lambda one: one.refused),
    }
    for name, (colour, of) in kinds.items():
        shown = [one for one in loads if one.load != CLOSED and of(one)]
        for percent, style in ((50, ":"), (99, "-")):
            values = [percentile(of(one), percent) for one in shown]
            loads_shown = [one.load for one in shown]
            axes.plot(
                loads_shown, values, style, marker="o", color=colour, label=f"{name}, p{percent}"
            )
    axes.axhline(objective_ms, color="black", linewidth=0.8, label="objective")
    axes.set(ylabel="milliseconds from when it was due", title="Latency")
