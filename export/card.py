"""The model card for people (Mitchell et al., FAT* 2019): the same figures, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from export import trust_report
from export.report import percent

Card = dict[str, Any]

FIGURES = {
    "reliability": "Confidence against accuracy, before and after temperature scaling",
    "confusion": "Photographs by true and predicted class",
    "classes": "Precision, recall and F1 of each class, with 95 % intervals",
    "roc": "Each class against the rest",
    "familiarity": "Unfamiliarity of the four classes' cells and of all others",
}


def as_markdown(card: Card) -> str:
    """Render a card; parts that it lacks are left out."""
    return "\n".join([*_lines(card)]) + "\n"


def _lines(card: Card) -> Iterator[str]:
    yield f"# Model card: {card['name']}"
    yield ""
    yield "Written from `model_card.json`, with it, by `python -m export`; do not edit."
    yield ""
    yield card["purpose"]
    yield ""
    yield from _model(card)
    yield from _accuracy(card)
    yield from _calibration(card)
    if "familiarity" in card:
        yield from _abstaining(card)
    if "confusion" in card:
        yield from _confusion(card)
    if "slides" in card:
        yield from _slides(card["slides"])
    if "explanation_trust" in card:
        yield from _trust(card["explanation_trust"])
    if "ablation" in card:
        yield from _ablation(card["ablation"])
    yield from _training(card)
    yield "## Limitations"
    yield ""
    yield from (f"- {text}" for text in card["limitations"])
    yield ""
    yield "## Data"
    yield ""
    for source, about in card["data"].items():
        licence = f", {about['licence']}" if "licence" in about else ""
        yield f"- **{source}**: {about['citation']}{licence}"


def _model(card: Card) -> Iterator[str]:
    preprocessing = card["preprocessing"]
    height, width, _ = preprocessing["input"]
    yield "## Model"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("classes", ", ".join(card["classes"])),
            ("input", f"{height} x {width}, {preprocessing['dtype']}"),
            (
                "resize",
                f"{preprocessing['resize_policy']}, {preprocessing['resize_filter']}",
            ),
            ("normalisation", preprocessing["normalisation"]),
            ("parameters", f"{card['weights']['parameters']:,}"),
            ("weights", f"`{card['weights']['file']}`, SHA-256 `{card['weights']['sha256']}`"),
        ],
    )


def _accuracy(card: Card) -> Iterator[str]:
    yield "## Accuracy"
    yield ""
    yield "With 95 % intervals: bootstrap over groups of photographs that show the same cell."
    yield ""
    yield from _table(
        ("photographs", "n", "accuracy", "macro precision", "macro recall", "macro F1", "ROC AUC"),
        [
            (
                name,
                figures["photographs"],
                *(
                    percent(figures[key])
                    for key in (
                        "accuracy",
                        "macro_precision",
                        "macro_recall",
                        "macro_f1",
                        "macro_roc_auc",
                    )
                ),
            )
            for name, figures in card["metrics"].items()
        ],
    )
    for name, figures in card["metrics"].items():
        if not name.endswith("/test"):
            continue
        yield f"### {name}, by class"
        yield ""
        yield from _table(
            ("class", "n", "precision", "recall", "F1", "ROC AUC", *(c for c in card["classes"])),
            [
                (
                    kind,
                    row["photographs"],
                    *(percent(row[key]) for key in ("precision", "recall", "f1", "roc_auc")),
                    *counts,
                )
                for (kind, row), counts in zip(
                    figures["classes"].items(), figures["confusion_matrix"], strict=True
                )
            ],
        )
    yield "The last columns count what the class's photographs were predicted to be."
    yield ""
    for figure in ("confusion", "classes", "roc"):
        yield from _figure(card, figure)


def _calibration(card: Card) -> Iterator[str]:
    calibration = card["calibration"]
    yield "## Calibration"
    yield ""
    yield (
        f"Temperature {calibration['temperature']:g}, fitted on validation photographs alone and "
        "folded into the last layer: the served softmax is the calibrated one."
    )
    yield ""
    yield from _table(
        ("photographs", "expected calibration error before", "after"),
        [
            (name, *(f"{pair[when]['expected_calibration_error']:.4f}" for when in pair))
            for name, pair in calibration["reliability"].items()
        ],
    )
    yield from _figure(card, "reliability")


def _abstaining(card: Card) -> Iterator[str]:
    familiarity = card["familiarity"]
    yield "## What it does not know"
    yield ""
    about = card["abstaining"]
    yield f"Score: {about['unfamiliarity']}. Threshold: {about['threshold']}."
    yield ""
    yield from _table(
        ("photographs of the four classes", "turned away"),
        [(name, f"{100 * share:.1f} %") for name, share in familiarity["turned_away"].items()],
    )
    for source, found in familiarity["test_against_other_cells"].items():
        yield f"### {source}: the test photographs against other cells"
        yield ""
        low, high = found["roc_auc"]["interval_95"]
        yield (
            f"ROC AUC {found['roc_auc']['value']:.3f} ({low:.3f} to {high:.3f}); of the confidence "
            f"alone {found['roc_auc_of_confidence']:.3f}. Turned away: "
            f"{100 * found['turned_away']['unknown']:.1f} % of the others."
        )
        yield ""
        yield from _table(
            ("cell", "n", "turned away", "ROC AUC"),
            [
                (kind, row["photographs"], f"{100 * row['turned_away']:.0f} %", row["roc_auc"])
                for kind, row in found["kinds"].items()
            ],
        )
    yield from _figure(card, "familiarity")


def _confusion(card: Card) -> Iterator[str]:
    yield "## What a count is corrected by"
    yield ""
    yield (
        "Validation photographs of each class, and what they were answered; abstained from: too "
        "unfamiliar. The gateway corrects a differential count by one of these "
        "(`/v1/differential`), for photographs like those it was measured on. They chose the "
        "weights' epoch, so they flatter a little."
    )
    yield ""
    for source, counts in card["confusion"].items():
        yield from _table(
            (f"{source}/val", *card["classes"], "abstained"),
            [(kind, *row) for kind, row in zip(card["classes"], counts, strict=True)],
        )


def _slides(slides: dict[str, Any]) -> Iterator[str]:
    yield "## How well it counts"
    yield ""
    yield slides["about"]
    yield ""
    yield from _table(slides["columns"], slides["rows"])
    yield "![Limits that hold the true share, and deviations that are told](figures/slides.png)"
    yield ""


def _trust(trust: dict[str, Any]) -> Iterator[str]:
    yield "## How far the heat maps can be trusted"
    yield ""
    yield trust_report.LEGEND
    yield ""
    for source, found in trust.items():
        yield f"{trust_report.title(source, found)}."
        yield ""
        yield from _table(trust_report.COLUMNS, trust_report.rows(found))
    yield "![On the cell, deletion, insertion, randomisation](figures/trust.png)"
    yield ""


def _ablation(ablation: dict[str, Any]) -> Iterator[str]:
    yield "## What each choice is worth"
    yield ""
    yield ablation["about"]
    yield ""
    yield from _table(ablation["columns"], ablation["rows"])


def _training(card: Card) -> Iterator[str]:
    training = card["training"]
    yield "## Training"
    yield ""
    if "note" in training:
        yield training["note"]
        yield ""
    counts = ", ".join(f"{count} {split}" for split, count in training["photographs"].items())
    progress = training["progress"]
    yield from _table(
        ("", ""),
        [
            ("photographs", counts),
            ("epochs", f"{progress['epoch']}, of which {progress['best_epoch']} was the best"),
            ("hours", f"{progress['seconds'] / 3600:.1f}"),
            *((name, _short(value)) for name, value in training["recipe"].items()),
            ("seed", training["seed"]),
            ("precision", training["precision"]),
        ],
    )
    yield "![Accuracy by epoch](history.png)"
    yield ""


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(_short(item) for item in value)
    return str(value)


def _figure(card: Card, name: str) -> Iterator[str]:
    if name not in card["figures"]:
        return
    yield f"![{FIGURES[name]}](figures/{name}.png)"
    yield ""


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield _row(head)
    yield "|" + " --- |" * len(head)
    yield from (_row(row) for row in rows)
    yield ""


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
