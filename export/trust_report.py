"""What ``trust`` measured, shown to people: a table, a picture, and the files that keep them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import write_text, written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "gradcam_4x4": "GradCAM 4x4",
    "gradcam_18x18": "GradCAM 18x18",
    "layercam_18x18": "LayerCAM 18x18",
    "hirescam_18x18": "HiResCAM 18x18",
    "layercam_18x18_and_9x9": "LayerCAM 18x18, 9x9",
    "hirescam_18x18_layercam_9x9": "HiResCAM, LayerCAM 9x9",
    "hirescam_18x18_layercam_18x18_and_9x9": "HiResCAM, LayerCAM 18x18, 9x9 (served)",
    "random": "random order",
    "centre": "centre",
    "chance": "chance",
}
_COLOURS = dict(
    zip(_TITLES, ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "0.6", "0.35", "0.75"), strict=True)
)
_WIDEST = max(map(len, _TITLES.values()))
_BASELINES = ("random", "centre", "chance")

_COLUMNS: dict[str, Callable[[Iterable[float]], float]] = {
    "pointing": max,
    "energy": max,
    "deletion": min,
    "insertion": max,
}
"""The measures, and which of two values is the better one."""


LEGEND = (
    "pointing: the hottest pixel is on the cell. energy: share of the map on the cell. deletion "
    "(low is good), insertion: area under the class's probability. randomised: rank "
    "correlation once every kernel is random (none is good). In brackets: 95 % intervals. *: the "
    "best map."
)
COLUMNS = ("map", *_COLUMNS, "randomised")


def title(source: str, found: dict[str, Any]) -> str:
    """On how many photographs of a source what was measured."""
    splits = ", ".join(f"{count} {split}" for split, count in found["by_split"].items())
    return (
        f"{source}: {splits}; {found['boxed_and_right']} of {found['boxed']} with boxes are "
        f"answered right; deletion and insertion on {found['perturbed']}, randomisation on "
        f"{found['randomisation']['photographs']}"
    )


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Every map and baseline of a source: a row of text under ``COLUMNS``; the best has a star."""
    lines = []
    for name, named in _TITLES.items():
        last = found["randomisation"].get(name)
        cells = [_cell(found, column, name) for column in _COLUMNS]
        lines.append([named, *cells, f"{last[-1]:.3f}" if last else "-"])
    return lines


def table(report: dict[str, Any]) -> str:
    """What was measured, for a terminal."""
    lines = []
    for source, found in report.items():
        lines.append(title(source, found))
        for name, *figures in (COLUMNS, *rows(found)):
            cells = "".join(f"{figure:<24}" for figure in figures)
            lines.append(f"  {name:<{_WIDEST + 2}}{cells}".rstrip())
        lines.append("")
    return "\n".join([*lines, textwrap.fill(LEGEND, 100)])


def _cell(found: dict[str, Any], column: str, name: str) -> str:
    figures = found.get(column, {})
    if name not in figures:
        return "-"
    low, high = figures[name]["interval_95"]
    maps = [figure["value"] for other, figure in figures.items() if other not in _BASELINES]
    best = name not in _BASELINES and figures[name]["value"] == _COLUMNS[column](maps)
    return f"{figures[name]['value']:.3f} ({low:.3f}-{high:.3f}){' *' if best else ''}"


def write(report: dict[str, Any], out: Path) -> None:
    """Write ``trust.json`` and ``trust.png`` to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "trust.json", json.dumps(report, indent=2) + "\n")
    write_figure(report, out / "trust.png")


def write_figure(report: dict[str, Any], path: Path) -> None:
    """Draw what was measured as a PNG."""
    with written_aside(path) as aside:
        draw(report).savefig(aside, dpi=110, format="png")


def draw(report: dict[str, Any]) -> Figure:
    """A row of plots for each source: on the cell, deletion, insertion, randomisation."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(17, 4.2 * len(report)), layout="constrained")
    rows = figure.subplots(len(report), 4, squeeze=False)
    for (source, found), row in zip(report.items(), rows, strict=True):
        _draw_on_the_cell(row[0], found, source)
        for axes, measure in zip(row[1:3], ("deletion", "insertion"), strict=True):
            _draw_curves(axes, found[measure], f"{source}: {measure}")
        _draw_randomisation(row[3], found["randomisation"], f"{source}: randomisation")
    return figure


def _draw_on_the_cell(axes: Any, found: dict[str, Any], source: str) -> None:
    axes.set(title=f"{source}: on the cell", ylim=(0, 1.05), ylabel="share")
    if "pointing" not in found:
        axes.text(0.5, 0.5, "no boxes", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        return
    for place, measure in enumerate(("pointing", "energy")):
        bars = found[measure]
        for number, (name, figure) in enumerate(bars.items()):
            low, high = figure["interval_95"]
            axes.bar(
                place + (number - (len(bars) - 1) / 2) * 0.105,
                figure["value"],
                width=0.1,
                yerr=[[figure["value"] - low], [high - figure["value"]]],
                color=_COLOURS[name],
                label=_TITLES[name] if place == 0 else None,
            )
    axes.set_xticks([0, 1], ["hottest pixel", "energy"])
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _draw_curves(axes: Any, curves: dict[str, Any], title: str) -> None:
    for name, found in curves.items():
        curve = found["curve"]
        shares = [step / (len(curve) - 1) for step in range(len(curve))]
        style = "--" if name in _BASELINES else "-"
        label = f"{_TITLES[name]} ({found['value']:.3f})"
        axes.plot(shares, curve, style, color=_COLOURS[name], label=label)
    axes.set(
        title=title, xlabel="share of the pixels", ylabel="probability of the class", ylim=(0, 1.02)
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, title="area under the curve", title_fontsize=7)


def _draw_randomisation(axes: Any, found: dict[str, Any], title: str) -> None:
    layers = found["layers"]
    for name in (name for name in _TITLES if name in found):
        axes.plot(range(len(layers)), found[name], "o-", color=_COLOURS[name], label=_TITLES[name])
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right")
    axes.set(title=title, xlabel="randomised down to", ylabel="rank correlation with the trained")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
