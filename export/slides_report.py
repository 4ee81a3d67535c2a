"""What ``slides`` measured, shown to people: a table, a picture, and the files that keep them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.atomic import write_text, written_aside
from gateway.contract import CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "slides of",
    "cells",
    "raw limits hold",
    "corrected limits hold",
    "flagged wrongly",
    "low or high, and told",
)
_COLOURS = {"raw": "#999999", "corrected": "#0072B2"}
# Okabe & Ito's colours, which colour-blind readers tell apart
_PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#000000")


def table(report: dict[str, Any]) -> dict[str, Any]:
    """Show a study as a table of text: ``about``, ``columns`` and ``rows``.

    The rows are those corrected by the source's own confusion.
    """
    photographs = "; ".join(
        f"{source}: " + ", ".join(f"{n} {kind}" for kind, n in found["photographs"].items())
        for source, found in report["sources"].items()
    )
    return {
        "about": f"{report['slides']} slides a row, drawn with replacement from test photographs "
        f"({photographs}). How often 95 % limits hold the true share, and how often a share is "
        "called low or high that is not: of four classes the one worst off. Told: how often a "
        "share outside its range is called so. Corrected by what validation photographs of the "
        "same source were taken for.",
        "columns": list(COLUMNS),
        "rows": [
            _row(source, result)
            for source, found in report["sources"].items()
            for result in _by_its_own(source, found["results"])
        ],
    }


def _by_its_own(source: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those corrected by the source's confusion; without a correction where it has none."""
    own = [result for result in results if result["correction"] == source]
    return own or [result for result in results if result["correction"] == "none"]


def _corrected(result: dict[str, Any]) -> float:
    """How often corrected limits hold, for the class that is worst off."""
    return float(min(row["corrected"] for row in result["classes"].values()))


def _row(source: str, result: dict[str, Any]) -> list[str]:
    classes = result["classes"]
    return [
        f"{source}, {result['composition']}",
        str(result["cells"]),
        _percent(min(row["raw"] for row in classes.values())),
        _percent(_corrected(result)) if result["correction"] != "none" else "-",
        _percent(max(row["flagged_wrongly"] for row in classes.values())),
        "; ".join(f"{name} {_percent(classes[name]['told'])}" for name in _outside(classes)) or "-",
    ]


def _outside(classes: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name in CLASSES if classes[name]["truth"] in ("low", "high")]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def write(report: dict[str, Any], folder: Path) -> None:
    """Write ``slides.json`` and ``slides.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "slides.json", json.dumps(report, indent=2) + "\n")
    write_figure(report, folder / "slides.png")


def write_figure(report: dict[str, Any], path: Path) -> None:
    """Draw how often limits hold the truth and how often a deviation is told, by source."""
    from matplotlib.figure import Figure

    sources = report["sources"]
    figure = Figure(figsize=(10, 4.2 * len(sources)), layout="constrained")
    axes = figure.subplots(len(sources), 2, squeeze=False)
    for (left, right), (source, found) in zip(axes, sources.items(), strict=True):
        results = _by_its_own(source, found["results"])
        _draw_coverage(
            left,
            f"{source}/test: limits that hold the true share\n(a point a class and composition)",
            results,
        )
        _draw_told(right, f"{source}/test: low or high, and told", results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def _draw_coverage(axes: Axes, title: str, results: list[dict[str, Any]]) -> None:
    sizes = sorted({result["cells"] for result in results})
    for shift, (kind, colour) in zip((-0.12, 0.12), _COLOURS.items(), strict=True):
        points = [
            (sizes.index(result["cells"]) + shift, 100 * row[kind])
            for result in results
            for row in result["classes"].values()
            if row[kind] is not None
        ]
        if points:
            places, held = zip(*points, strict=True)
            axes.plot(places, held, "o", markersize=4, alpha=0.6, color=colour, label=kind)
    axes.axhline(95, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set(title=title, xlabel="cells", ylabel="slides, in percent")
    axes.legend(loc="lower left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_told(axes: Axes, title: str, results: list[dict[str, Any]]) -> None:
    for (name, kind, truth), colour in zip(_deviations(results), _PALETTE, strict=False):
        line = sorted(
            (result["cells"], 100 * result["classes"][kind]["told"])
            for result in results
            if result["composition"] == name
        )
        axes.plot(
            *zip(*line, strict=True),
            "o-",
            color=colour,
            markersize=4,
            label=f"{name}: {kind} {truth}",
        )
    axes.set(title=title, xlabel="cells", ylabel="slides, in percent", ylim=(-3, 103))
    axes.legend(loc="best", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _deviations(results: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Composition, class and side of each share that lies outside its range, in order."""
    found = {
        (result["composition"], name, str(result["classes"][name]["truth"])): None
        for result in results
        for name in _outside(result["classes"])
    }
    return list(found)
