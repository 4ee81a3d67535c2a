"""Figures agree with those worked out by hand, and intervals know what one observation is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.dataset import Photograph
from export.evaluate import (
    Answers,
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    measure,
    softmax,
)

LABELS = [0, 0, 0, 1, 1, 2, 3, 3]
PREDICTED = [0, 0, 1, 1, 1, 2, 3, 0]


def answers(labels: list[int], predicted: list[int], groups: list[str] | None = None) -> Answers:
    """Answers that are sure of what they predict."""
    groups = groups or [str(number) for number in range(len(labels))]
    photographs = [
        Photograph(Path(f"{n}.png"), label, "pbc", "test", group)
        for n, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    return Answers(photographs, 20.0 * np.eye(4)[predicted], np.empty(0))


def width(answers: Answers) -> float:
    low, high = measure(answers)["accuracy"]["interval_95"]
    return float(high - low)


def values(row: dict[str, Any]) -> dict[str, float | None]:
    """A class's figures without their intervals."""
    return {k: v["value"] if isinstance(v, dict) else v for k, v in row.items()}


def test_softmax_is_the_textbooks() -> None:
    """exp(x) over its sum, also where exp(x) alone would overflow."""
    np.testing.assert_allclose(softmax(np.log([[1.0, 2.0, 3.0, 4.0]])), [[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0]])), [[0.5, 0.5]])


def test_the_confusion_matrix_counts_true_by_predicted() -> None:
    """A neutrophil called eosinophil is in row 3, column 0."""
    found = confusion_matrix(np.array(LABELS), np.array(PREDICTED))
    assert found.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]


def test_figures_are_those_worked_out_by_hand() -> None:
    """Accuracy 6/8; precision 2/3 2/3 1 1; recall 2/3 1 1 1/2; F1 2/3 4/5 1 2/3."""
    found = measure(answers(LABELS, PREDICTED))
    assert found["photographs"] == 8
    assert found["accuracy"]["value"] == 0.75
    assert found["macro_precision"]["value"] == 0.8333
    assert found["macro_recall"]["value"] == 0.7917
    assert found["macro_f1"]["value"] == 0.7833
    assert values(found["classes"]["EOSINOPHIL"]) == {
        # of 3 x 5 pairs, the 2 that are sure are above 4 others and level with 1; the third,
        # given no chance, is level with 4
        "photographs": 3, "precision": 0.6667, "recall": 0.6667, "f1": 0.6667, "roc_auc": 0.7333,
    }  # fmt: skip
    assert values(found["classes"]["LYMPHOCYTE"]) == {
        "photographs": 2, "precision": 0.6667, "recall": 1.0, "f1": 0.8, "roc_auc": 0.9167,
    }  # fmt: skip
    assert found["classes"]["NEUTROPHIL"]["recall"]["value"] == 0.5
    assert found["confusion_shares"][0][1]["value"] == 0.3333
    assert found["confusion_matrix"][3] == [1, 0, 0, 1]
    assert found["expected_calibration_error"] == 0.25  # sure of all, right in three quarters


def test_what_cannot_be_divided_has_no_figure() -> None:
    """A class without photographs has no recall, one never predicted no precision."""
    found = measure(answers([0, 0, 1, 1], [0, 0, 0, 0]))
    assert values(found["classes"]["MONOCYTE"]) == {
        "photographs": 0, "precision": None, "recall": None, "f1": None, "roc_auc": None,
    }  # fmt: skip
    assert found["classes"]["MONOCYTE"]["recall"]["interval_95"] == [None, None]
    assert found["classes"]["LYMPHOCYTE"]["precision"]["value"] is None
    assert found["classes"]["LYMPHOCYTE"]["recall"]["value"] == 0
    assert found["macro_recall"]["value"] == 0.5  # of the two classes that occur
    assert found["macro_precision"]["value"] == 0.25  # never predicted counts as 0


def test_the_calibration_error_is_that_worked_out_by_hand() -> None:
    """Half the answers are 70 % sure and 60 % right, half 97 % sure and all right: 0.065."""
    sure = np.log([[0.7, 0.1, 0.1, 0.1]] * 10 + [[0.97, 0.01, 0.01, 0.01]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    assert expected_calibration_error(sure, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.03)


def test_full_confidence_falls_into_the_last_bin() -> None:
    """A confidence of exactly 1 is no sixteenth bin."""
    assert expected_calibration_error(np.array([[2000.0, 0, 0, 0]]), np.array([0])) == 0


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 7.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    """Labels drawn from softmax(logits / T) give T back, within the error of the sample."""
    rng = np.random.default_rng(0)
    logits = 4 * rng.standard_normal((20_000, 4))
    drawn = rng.random((len(logits), 1)) > softmax(logits / temperature).cumsum(1)[:, :3]
    found = fit_temperature(logits, drawn.sum(1))
    assert found == pytest.approx(temperature, rel=0.05)


def test_calibrating_lowers_the_calibration_error() -> None:
    """Overconfident logits are honest once they are divided by the temperature found."""
    rng = np.random.default_rng(1)
    logits = 4 * rng.standard_normal((5_000, 4))
    labels = (rng.random((len(logits), 1)) > softmax(logits / 3).cumsum(1)[:, :3]).sum(1)
    before = expected_calibration_error(logits, labels)
    after = expected_calibration_error(logits / fit_temperature(logits, labels), labels)
    assert before > 0.1
    assert after < 0.02


@pytest.fixture(scope="module")
def sixty() -> tuple[list[int], list[int]]:
    """Sixty labels and answers, three in four of them right."""
    rng = np.random.default_rng(2)
    labels: npt.NDArray[np.int64] = rng.integers(0, 4, 60)
    wrong = rng.random(60) < 0.25
    return labels.tolist(), np.where(wrong, (labels + 1) % 4, labels).tolist()


def test_every_interval_holds_its_value(sixty: tuple[list[int], list[int]]) -> None:
    """The figure itself lies inside its interval, which has a width and stays within 0 and 1."""
    found = measure(answers(*sixty))
    for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1"):
        low, high = found[name]["interval_95"]
        assert 0 <= low < found[name]["value"] < high <= 1


def test_the_interval_is_as_wide_as_theory_says(sixty: tuple[list[int], list[int]]) -> None:
    """For single photographs the bootstrap agrees with the binomial's 1.96 standard errors."""
    accuracy = measure(answers(*sixty))["accuracy"]["value"]
    expected = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / 60)
    assert width(answers(*sixty)) == pytest.approx(expected, rel=0.2)


def test_copies_of_a_photograph_are_one_observation(sixty: tuple[list[int], list[int]]) -> None:
    """Five photographs of each cell narrow the interval only for who forgets the groups."""
    labels, predicted = (np.repeat(values, 5).tolist() for values in sixty)
    cells = [f"cell {number // 5}" for number in range(len(labels))]
    grouped, single = width(answers(labels, predicted, cells)), width(answers(labels, predicted))
    assert grouped > 1.8 * single
    assert grouped == pytest.approx(width(answers(*sixty)), rel=0.15)


def test_figures_are_the_same_every_time(sixty: tuple[list[int], list[int]]) -> None:
    """The resampling is seeded."""
    assert measure(answers(*sixty)) == measure(answers(*sixty))
    assert measure(answers(*sixty), seed=1) != measure(answers(*sixty))


def test_some_of_the_answers_keep_their_photographs() -> None:
    """Choosing photographs chooses their rows of logits with them."""
    chosen = answers(LABELS, PREDICTED).where(lambda photograph: photograph.label == 3)
    assert chosen.labels.tolist() == [3, 3]
    assert chosen.logits.argmax(1).tolist() == [3, 0]
