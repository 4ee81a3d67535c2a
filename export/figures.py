"""Draw an evaluation: reliability, confusion, ROC curves, each class, and what is unfamiliar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from export.atomic import written_aside
from export.evaluate import Answers, softmax
from export.report import Evaluation
from gateway.contract import CLASSES, FAMILIAR_UP_TO

_SHORT = [name[:3] for name in CLASSES]
# Okabe & Ito's colours, which colour-blind readers tell apart
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
_BEFORE, _AFTER, _LINE = "#999999", "#0072B2", "#D55E00"


def draw(evaluation: Evaluation, answers: Answers, others: Answers, folder: Path) -> list[Path]:
    """Write one PNG a subject into ``folder`` and return their paths.

    ``answers`` are calibrated already; ``others`` shows no cell of the classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = _test_parts(evaluation)
    panels: dict[str, Callable[[Axes, str], None]] = {
        "reliability": lambda axes, name: _reliability(axes, name, evaluation),
        "confusion": lambda axes, name: _confusion(axes, name, evaluation),
        "classes": lambda axes, name: _classes(axes, name, evaluation),
        "roc": lambda axes, name: _roc(axes, name, answers),
    }
    if len(answers.unfamiliarity) and others.photographs:
        panels["familiarity"] = lambda axes, name: _familiarity(axes, name, answers, others)
    return [_written(folder / f"{subject}.png", names, panel) for subject, panel in panels.items()]


def _test_parts(evaluation: Evaluation) -> list[str]:
    """The test splits; where there are none, whatever was measured."""
    measured = list(evaluation["calibration"]["reliability"])
    return [name for name in measured if name.endswith("/test")] or measured


def _written(path: Path, names: list[str], panel: Callable[[Axes, str], None]) -> Path:
    figure = Figure(figsize=(4.6 * len(names), 4.2), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        panel(axes, name)
        axes.spines[["top", "right"]].set_visible(False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return path


def _reliability(axes: Axes, name: str, evaluation: Evaluation) -> None:
    pair = evaluation["calibration"]["reliability"][name]
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for when, colour in (("before", _BEFORE), ("after", _AFTER)):
        bins = pair[when]["reliability"]
        error = pair[when]["expected_calibration_error"]
        axes.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            color=colour,
            linewidth=1,
            label=f"{when} scaling, ECE {error:.3f}",
        )
        sizes = [8 + 160 * b["photographs"] / sum(c["photographs"] for c in bins) for b in bins]
        axes.scatter(
            [b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=sizes, color=colour
        )
    axes.set(title=name, xlabel="confidence", ylabel="share that is right", ylim=(-0.03, 1.05))
    axes.set_xlim(0.2, 1.03)
    axes.legend(loc="lower right", frameon=False, title="size: share of photographs")


def _confusion(axes: Axes, name: str, evaluation: Evaluation) -> None:
    counts = np.array(evaluation["metrics"][name]["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, said), count in np.ndenumerate(counts):
        colour = "white" if shares[true, said] > 0.5 else "black"
        axes.text(said, true, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(CLASSES)), _SHORT)
    axes.set_yticks(range(len(CLASSES)), _SHORT)
    axes.set(title=name, xlabel="predicted", ylabel="true")


def _classes(axes: Axes, name: str, evaluation: Evaluation) -> None:
    rows = evaluation["metrics"][name]["classes"]
    for offset, (key, marker) in enumerate((("precision", "o"), ("recall", "s"), ("f1", "D"))):
        for place, (kind, row) in enumerate(rows.items()):
            if row[key]["value"] is None:
                continue
            y = place + 0.22 * (offset - 1)
            label = key.replace("f1", "F1")
            axes.plot(row[key]["interval_95"], [y, y], color=_COLOURS[place], linewidth=2)
            axes.plot(
                row[key]["value"],
                y,
                marker,
                color=_COLOURS[place],
                markersize=5,
                label=label if kind == next(iter(rows)) else None,
            )
    axes.set_yticks(range(len(rows)), [kind[:3] for kind in rows])
    axes.invert_yaxis()
    axes.set(title=f"{name}, with 95 % intervals", xlabel="figure")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left", frameon=False)


def _roc(axes: Axes, name: str, answers: Answers) -> None:
    source, split = name.split("/")
    part = answers.of(source, split)
    probabilities, labels = softmax(part.logits), part.labels
    for label, colour in enumerate(_COLOURS):
        order = np.argsort(-probabilities[:, label])
        hits = labels[order] == label
        if not hits.any() or hits.all():
            continue
        axes.step(
            np.r_[0, np.cumsum(~hits) / (~hits).sum()],
            np.r_[0, np.cumsum(hits) / hits.sum()],
            where="post",
            color=colour,
            label=_SHORT[label],
        )
    axes.set(title=name, xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(-0.01, 0.3), ylim=(0.7, 1.005))
    axes.legend(loc="lower right", frameon=False)


def _familiarity(axes: Axes, name: str, answers: Answers, others: Answers) -> None:
    source, split = name.split("/")
    known = answers.of(source, split).unfamiliarity
    unknown = others.of(source, "other").unfamiliarity
    spread = np.concatenate([known, unknown])
    edges = np.geomspace(max(spread.min(), 1e-3), spread.max() * 1.01, 40)
    for scores, colour, label in ((known, _AFTER, "the four classes"), (unknown, _LINE, "others")):
        if len(scores):
            weights = np.full(len(scores), 1 / len(scores))
            axes.hist(
                scores, edges.tolist(), weights=weights, color=colour, alpha=0.55, label=label
            )
    axes.axvline(FAMILIAR_UP_TO, color="black", linewidth=0.8, linestyle=":")
    axes.set(title=name, xlabel="unfamiliarity (1: turned away above)", ylabel="share")
    axes.set_xscale("log")
    axes.legend(loc="upper right", frameon=False)
