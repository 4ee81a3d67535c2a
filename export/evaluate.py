"""How often the model is right, how sure of that one can be, and whether its confidence is honest.

Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993), resampling groups:
photographs of one cell are one observation, not several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.dataset import Photograph
from gateway.contract import CLASSES

_BINS = 15
_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The model's answers for some photographs: ``logits`` is float64 [N, C]."""

    photographs: Sequence[Photograph]
    logits: Floats

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true classes, int64 [N]."""
        return np.array([photograph.label for photograph in self.photographs])

    def where(self, chosen: Callable[[Photograph], bool]) -> Answers:
        """Return the answers for some of the photographs."""
        rows = [row for row, photograph in enumerate(self.photographs) if chosen(photograph)]
        return Answers([self.photographs[row] for row in rows], self.logits[rows])


def measure(answers: Answers, seed: int = 0) -> dict[str, Any]:
    """Accuracy, macro precision, recall and F1 with intervals, each class, confusion, ECE."""
    labels, predicted = answers.labels, answers.logits.argmax(1)
    matrix = confusion_matrix(labels, predicted)
    intervals = _intervals(answers, predicted, seed)
    figures = _figures(matrix)
    precision, recall, f1 = _per_class(matrix)
    return {
        "photographs": len(labels),
        **{
            name: {"value": _rounded(value), "interval_95": intervals[name]}
            for name, value in figures.items()
        },
        "classes": {
            name: {
                "photographs": int(matrix[label].sum()),
                "precision": _rounded(precision[label]),
                "recall": _rounded(recall[label]),
                "f1": _rounded(f1[label]),
            }
            for label, name in enumerate(CLASSES)
        },
        "confusion_matrix": matrix.tolist(),
        "expected_calibration_error": _rounded(expected_calibration_error(answers.logits, labels)),
    }


def softmax(logits: Floats) -> Floats:
    """Probabilities from logits, along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count [true, predicted], int64 [C, C]."""
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def expected_calibration_error(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean gap between confidence and accuracy, 15 equal bins (Guo et al., ICML 2017, eq. 3)."""
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The T that makes softmax(logits / T) likeliest (Guo et al. 2017), to three digits."""
    low, high = np.log(0.05), np.log(20.0)
    for _ in range(6):  # the likelihood has one peak in T: narrow a grid round it
        grid = np.linspace(low, high, 21)
        losses = [_negative_log_likelihood(logits / np.exp(t), labels) for t in grid]
        best = int(np.argmin(losses))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 20)]
    return round(float(np.exp(grid[best])), 3)


def _negative_log_likelihood(logits: Floats, labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _per_class(matrix: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class; NaN where there is nothing to divide by."""
    hits = np.diag(matrix).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = hits / matrix.sum(0)
        recall = hits / matrix.sum(1)
        f1 = 2 * hits / (matrix.sum(0) + matrix.sum(1))
    return precision, recall, f1


def _figures(matrix: NDArray[np.int64]) -> dict[str, float]:
    """Macro figures are means over the classes that occur; one never predicted has precision 0."""
    occurs = matrix.sum(1) > 0
    precision, recall, f1 = (np.nan_to_num(figure)[occurs] for figure in _per_class(matrix))
    return {
        "accuracy": float(np.diag(matrix).sum() / matrix.sum()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
    }


def _intervals(
    answers: Answers, predicted: NDArray[np.int64], seed: int
) -> dict[str, list[float | None]]:
    names, groups = np.unique([p.group for p in answers.photographs], return_inverse=True)
    # one confusion matrix a group, so that a resample is a weighted sum of them
    matrices = np.zeros((len(names), len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(matrices, (groups, answers.labels, predicted), 1)
    rng = np.random.default_rng(seed)
    drawn = [
        _figures(np.tensordot(times, matrices, 1))
        for times in rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)
    ]
    return {
        name: [_rounded(v) for v in np.percentile([d[name] for d in drawn], [2.5, 97.5])]
        for name in drawn[0]
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
