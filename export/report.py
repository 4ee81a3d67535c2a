"""Put an evaluation together: every source and split, calibration, and what is turned away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.dataset import OTHER, Cell
from export.evaluate import (
    Answers,
    confusion_with_abstentions,
    fit_temperature,
    measure,
    measure_calibration,
    measure_familiarity,
)
from gateway.contract import CLASSES, FAMILIAR_UP_TO

Evaluation = dict[str, Any]


def evaluate(
    answers: Answers, others: Answers, trained: set[Cell], temperature: float, *, applied: bool
) -> Evaluation:
    """Measure answers, and what dividing their logits by ``temperature`` does to the confidence.

    Args:
        answers: of photographs of the four classes.
        others: of photographs that show no such cell; perhaps of none.
        trained: the cells that training saw. A split that holds some is measured without as well.
        temperature: see ``refit_temperature``.
        applied: whether the figures are those after the division, or as the model gives them.
    """
    given = answers.divided_by(temperature) if applied else answers
    parts = sorted({(p.source, p.split) for p in answers.photographs})
    metrics = {}
    for source, split in parts:
        chosen = given.of(source, split)
        metrics[f"{source}/{split}"] = measure(chosen)
        unseen = chosen.where(lambda p: p.cell not in trained)
        if split != "train" and 0 < len(unseen.photographs) < len(chosen.photographs):
            metrics[f"{source}/{split}, cells not in training"] = measure(unseen)
    evaluation: Evaluation = {
        "metrics": metrics,
        "calibration": {
            "temperature": temperature,
            "reliability": {
                f"{source}/{split}": measure_calibration(answers.of(source, split), temperature)
                for source, split in parts
            },
        },
    }
    if len(answers.unfamiliarity):
        unknown = others.divided_by(temperature) if applied else others
        evaluation["familiarity"] = _familiarity(given, unknown, parts)
    return evaluation


def confusions(answers: Answers) -> dict[str, list[list[int]]]:
    """What was taken for what on validation photographs, by source.

    Not of all sources together: what one laboratory's photographs are taken for tells nothing of
    another's, and a sum would be right for neither. They chose the epoch, the temperature and
    where familiar ends, so these counts flatter a little; the test photographs stay unseen, to
    measure what a correction by these is worth.
    """
    validation = answers.where(lambda p: p.split == "val")
    sources = sorted({p.source for p in validation.photographs})
    return {source: confusion_with_abstentions(validation.of(source, "val")) for source in sources}


def _familiarity(
    answers: Answers, others: Answers, parts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    away = {}
    against = {}
    for source, split in parts:
        known, unknown = answers.of(source, split), others.of(source, OTHER)
        share = float((known.unfamiliarity > FAMILIAR_UP_TO).mean())
        away[f"{source}/{split}"] = round(share, 4)
        if unknown.photographs and split == "test":
            against[source] = measure_familiarity(known, unknown)
    return {"turned_away": away, "test_against_other_cells": against}


def refit_temperature(answers: Answers) -> float:
    """The temperature that the validation photographs among ``answers`` ask for; 1 without any."""
    validation = answers.where(lambda p: p.split == "val")
    if not validation.photographs:
        return 1.0
    return fit_temperature(validation.logits, validation.labels)


def as_text(evaluation: Evaluation) -> str:
    """The evaluation for a terminal: a block for each source and split."""
    blocks = [_block(name, figures) for name, figures in evaluation["metrics"].items()]
    for name, pair in evaluation["calibration"]["reliability"].items():
        before, after = (pair[when]["expected_calibration_error"] for when in ("before", "after"))
        blocks.append(f"{name}: expected calibration error {before:.4f} before, {after:.4f} after")
    temperature = evaluation["calibration"]["temperature"]
    blocks.append(f"before and after division by {temperature:g}, which validation asks for")
    if "familiarity" in evaluation:
        blocks.extend(_familiarity_lines(evaluation["familiarity"]))
    return "\n".join(blocks)


def _block(name: str, figures: dict[str, Any]) -> str:
    lines = [f"{name}: {figures['photographs']} photographs"]
    lines += [
        f"  {title:<16} {percent(figures[key])}"
        for title, key in (
            ("accuracy", "accuracy"),
            ("macro precision", "macro_precision"),
            ("macro recall", "macro_recall"),
            ("macro F1", "macro_f1"),
            ("macro ROC AUC", "macro_roc_auc"),
        )
    ]
    lines.append(f"  {'':<16} {'precision':<26}{'recall':<26}{'F1':<26}ROC AUC")
    for kind, row in figures["classes"].items():
        cells = "".join(
            f"{percent(row[key]):<26}" for key in ("precision", "recall", "f1", "roc_auc")
        )
        lines.append(f"  {kind:<16} {cells.rstrip()}")
    lines.append(f"  {'true, predicted':<16} {'  '.join(f'{n[:5]:>5}' for n in CLASSES)}")
    for kind, counts in zip(CLASSES, figures["confusion_matrix"], strict=True):
        lines.append(f"  {kind:<16} {'  '.join(f'{count:>5}' for count in counts)}")
    return "\n".join(lines) + "\n"


def _familiarity_lines(familiarity: dict[str, Any]) -> list[str]:
    lines = [
        f"{name}: {100 * share:.1f} % turned away as unfamiliar"
        for name, share in familiarity["turned_away"].items()
    ]
    for source, found in familiarity["test_against_other_cells"].items():
        away = found["turned_away"]["unknown"]
        area = found["roc_auc"]
        lines.append(
            f"{source}/other: {100 * away:.1f} % turned away, ROC AUC {area['value']:.3f} "
            f"({area['interval_95'][0]:.3f} to {area['interval_95'][1]:.3f}); of the confidence "
            f"alone {found['roc_auc_of_confidence']:.3f}"
        )
    return lines


def percent(figure: Mapping[str, Any]) -> str:
    """A figure with its interval, for a person; nothing rounds to certainty."""
    if figure["value"] is None:
        return "-"
    low, high = figure["interval_95"]
    interval = "" if low is None else f" ({_hundredths(low)} to {_hundredths(high)})"
    return f"{_hundredths(figure['value'])} %{interval}"


def _hundredths(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1"
    return ">99.9" if 0.9995 <= share < 1 else f"{100 * share:.1f}"
