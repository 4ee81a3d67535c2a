"""An evaluation holds every source and split, and reads the same in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export import card, figures, report
from export.dataset import NONE_OF_THESE, Photograph
from export.evaluate import Answers, measure_familiarity, softmax
from export.release import SHIPPED

RNG = np.random.default_rng(5)


def photographs(source: str, split: str, count: int) -> list[Photograph]:
    return [
        Photograph(Path(f"{source}-{split}-{n}.png"), n % 4, source, split, f"{source} {split} {n}")
        for n in range(count)
    ]


def answers(shown: list[Photograph], sure: float = 6.0, strange: float = 0.5) -> Answers:
    """Right nine times in ten, and as unfamiliar as ``strange``."""
    labels = np.array([p.label for p in shown])
    wrong = RNG.random(len(shown)) < 0.1
    logits = sure * np.eye(4)[np.where(wrong, (labels + 1) % 4, labels)]
    noise = RNG.normal(size=logits.shape)
    return Answers(shown, logits + noise, strange * RNG.uniform(0.8, 1.2, len(shown)))


@pytest.fixture(scope="module")
def known() -> Answers:
    cells = [
        *photographs("pbc", "val", 60),
        *photographs("pbc", "test", 80),
        *photographs("bccd", "test", 40),
    ]
    return answers(cells)


@pytest.fixture(scope="module")
def others() -> Answers:
    kinds = ("BASOPHIL", "PLATELET")
    cells = [
        Photograph(Path(f"{n}.png"), NONE_OF_THESE, "pbc", "other", f"other {n}", kind=kinds[n % 2])
        for n in range(20)
    ]
    return answers(cells, strange=2.0)


@pytest.fixture(scope="module")
def evaluation(known: Answers, others: Answers) -> report.Evaluation:
    trained = {("pbc", "pbc test 3"), ("bccd", "bccd test 1")}
    return report.evaluate(known, others, trained, 2.0, applied=False)


def test_every_source_and_split_is_measured(evaluation: report.Evaluation) -> None:
    """And again without what training saw, where a split holds some of that."""
    assert {name: row["photographs"] for name, row in evaluation["metrics"].items()} == {
        "bccd/test": 40,
        "bccd/test, cells not in training": 39,
        "pbc/test": 80,
        "pbc/test, cells not in training": 79,
        "pbc/val": 60,
    }


def test_calibration_is_told_before_and_after(
    evaluation: report.Evaluation, known: Answers
) -> None:
    """Dividing by the temperature changes the confidence, and nothing of who is right."""
    pair = evaluation["calibration"]["reliability"]["pbc/test"]
    before, after = (
        sum(b["photographs"] * b["confidence"] for b in pair[when]["reliability"]) / 80
        for when in ("before", "after")
    )
    test = known.of("pbc", "test").logits
    assert before == pytest.approx(softmax(test).max(1).mean(), abs=1e-4)
    assert after == pytest.approx(softmax(test / 2).max(1).mean(), abs=1e-4)
    error = evaluation["metrics"]["pbc/test"]["expected_calibration_error"]
    assert error == pair["before"]["expected_calibration_error"]


def test_an_applied_temperature_is_in_every_figure(known: Answers, others: Answers) -> None:
    """Known and other cells alike: a confidence divided on one side alone would tell them apart."""
    applied = report.evaluate(known, others, set(), 2.0, applied=True)
    divided = report.evaluate(
        known.divided_by(2.0), others.divided_by(2.0), set(), 1.0, applied=False
    )
    assert applied["metrics"] == divided["metrics"]
    assert applied["familiarity"] == divided["familiarity"]
    pair = applied["calibration"]["reliability"]["pbc/test"]
    error = applied["metrics"]["pbc/test"]["expected_calibration_error"]
    assert error == pair["after"]["expected_calibration_error"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "100.0 %"), (0.9999, ">99.9 %"), (0.99949, "99.9 %"), (0.0001, "<0.1 %"), (0, "0.0 %")],
)
def test_no_figure_rounds_to_certainty(value: float, shown: str) -> None:
    """What is not all is not printed as 100 %, and what is not nothing not as 0."""
    assert report.percent({"value": value, "interval_95": [None, None]}) == shown


def test_what_is_turned_away_is_counted(known: Answers, others: Answers) -> None:
    """Two in ten others are familiar, one in eighty of the known is not."""
    shown = known.of("pbc", "test")
    scores = np.full(80, 0.5)
    scores[7] = 1.5
    strange = np.where(np.arange(20) < 4, 0.4, 3.0)
    found = measure_familiarity(
        Answers(shown.photographs, shown.logits, scores),
        Answers(others.photographs, others.logits, strange),
    )
    assert found["turned_away"] == {"known": 0.0125, "unknown": 0.8}
    # 16 of 20 are above all 80; the other 4 above none
    assert found["roc_auc"]["value"] == 0.8
    low, high = found["roc_auc"]["interval_95"]
    assert low < 0.8 < high
    assert found["kinds"]["BASOPHIL"] == {"photographs": 10, "turned_away": 0.8, "roc_auc": 0.8}


def test_the_temperature_is_fitted_on_validation_alone(known: Answers) -> None:
    """Other photographs do not move it, and without validation it stays 1."""
    validation = known.where(lambda p: p.split == "val")
    assert report.refit_temperature(known) == report.refit_temperature(validation)
    assert report.refit_temperature(known.where(lambda p: p.split == "test")) == 1


def test_the_text_says_what_the_figures_say(evaluation: report.Evaluation) -> None:
    """Each split with its accuracy and interval, as a person reads it."""
    text = report.as_text(evaluation)
    for name, row in evaluation["metrics"].items():
        assert f"{name}: {row['photographs']} photographs" in text
        low, high = (100 * edge for edge in row["accuracy"]["interval_95"])
        percent = 100 * row["accuracy"]["value"]
        assert f"accuracy         {percent:.1f} % ({low:.1f} to {high:.1f})" in text
    assert "pbc/other: 100.0 % turned away, ROC AUC 1.000 (1.000 to 1.000)" in text


def test_an_evaluation_is_json(evaluation: report.Evaluation) -> None:
    """No figure is anything that JSON has no word for."""
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_figures_are_drawn(
    evaluation: report.Evaluation, known: Answers, others: Answers, tmp_path: Path
) -> None:
    """One PNG a subject, not blank, and nothing half written beside them."""
    written = figures.draw(evaluation, known, others, tmp_path / "figures")
    assert {path.stem for path in written} == set(card.FIGURES)
    assert set(written) == set((tmp_path / "figures").iterdir())
    for path in written:
        assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_a_model_without_familiarity_is_measured_all_the_same(known: Answers) -> None:
    """Weights in the making have no score yet."""
    plain = Answers(known.photographs, known.logits, np.empty(0))
    nobody = Answers([], np.empty((0, 4)), np.empty(0))
    found = report.evaluate(plain, nobody, set(), 1.0, applied=False)
    assert "familiarity" not in found
    assert "turned away" not in report.as_text(found)


def test_confusions_are_counted_on_validation_with_abstentions() -> None:
    """Each source's own; what is too unfamiliar is in the last column."""
    cells = [
        *photographs("pbc", "val", 8),
        *photographs("bccd", "val", 4),
        *photographs("pbc", "test", 4),
    ]
    said = [0, 1, 2, 3, 0, 1, 3, 3, 0, 1, 2, 3, 3, 3, 3, 3]
    strange = np.array([0.5] * 5 + [1.1] + [0.5] * 10)
    found = report.confusions(Answers(cells, np.eye(4)[said], strange))
    assert found == {
        "bccd": [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]],
        "pbc": [[2, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 2, 0]],
    }


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(SHIPPED.with_name("model_card.json").read_text())
    return written


def test_the_readable_card_is_the_card(shipped: dict[str, Any]) -> None:
    """What people read beside the weights was made of what programs read."""
    readable = SHIPPED.with_name("MODEL_CARD.md").read_text("utf-8")
    assert readable == card.as_markdown(shipped)


def test_every_figure_of_the_card_is_there(shipped: dict[str, Any]) -> None:
    """No picture that the readable card shows is missing, and none is left over."""
    text = card.as_markdown(shipped)
    folder = SHIPPED.parent
    shown = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line[:2] == "!["}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert shown == there


def test_a_card_with_a_pipe_in_it_stays_a_table(shipped: dict[str, Any]) -> None:
    """A character that Markdown would take for a column's edge is escaped."""
    changed = shipped | {"classes": ["A|B", *shipped["classes"][1:]]}
    assert "| classes | A\\|B, LYMPHOCYTE" in card.as_markdown(changed)
