"""How often the model is right, how sure of that one can be, and whether its confidence is honest.

Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993), resampling groups:
photographs of one cell are one observation, not several. Where all of them agree, resampling
knows no doubt; those intervals are exact ones of the groups (Clopper & Pearson 1934). Pure
functions of a model's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.dataset import NONE_OF_THESE, Cell, Photograph
from gateway.contract import CLASSES, FAMILIAR_UP_TO

_BINS = 15
_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The model's answers for some photographs: ``logits`` is float64 [N, C].

    ``unfamiliarity`` is float64 [N], or empty where the model gives none.
    """

    photographs: Sequence[Photograph]
    logits: Floats
    unfamiliarity: Floats

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true classes, int64 [N]."""
        return np.array([photograph.label for photograph in self.photographs], np.int64)

    def where(self, chosen: Callable[[Photograph], bool]) -> Answers:
        """Return the answers for some of the photographs."""
        rows = [row for row, photograph in enumerate(self.photographs) if chosen(photograph)]
        return Answers(
            [self.photographs[row] for row in rows],
            self.logits[rows],
            self.unfamiliarity[rows] if len(self.unfamiliarity) else self.unfamiliarity,
        )

    def divided_by(self, temperature: float) -> Answers:
        """Return the answers with their logits divided."""
        return Answers(self.photographs, self.logits / temperature, self.unfamiliarity)

    def of(self, source: str, split: str) -> Answers:
        """Return the answers for one split of one source."""
        return self.where(lambda p: (p.source, p.split) == (source, split))


def measure(answers: Answers, seed: int = 0) -> dict[str, Any]:
    """Measure accuracy, precision, recall, F1, ROC AUC and confusion, all with intervals, and ECE.

    Raises:
        ValueError: there are no answers.

    A figure is ``{"value", "interval_95"}``; null where there is nothing to divide by. The
    macro figures are means over the classes that occur; one never predicted has precision 0.
    """
    labels, predicted = answers.labels, answers.logits.argmax(1)
    if not len(labels):
        raise ValueError("there is no photograph to measure on")
    point = _figures(answers, np.ones((1, len(labels))))
    drawn = _figures(answers, _resampled(answers, seed))
    cells = _cells(answers)

    def figure(name: str, *index: int) -> dict[str, Any]:
        value = float(np.moveaxis(point[name], 0, -1)[index][0])
        values = np.moveaxis(drawn[name], 0, -1)[index]
        if value in (0, 1) and name in ("accuracy", "precision", "recall", "shares"):
            among = np.ones_like(labels, np.bool_)
            if index:
                among = (predicted if name == "precision" else labels) == index[0]
            edges = _exact(value, len(np.unique(cells[among])))
        else:
            edges = (_percentile(values, 2.5), _percentile(values, 97.5))
        return {"value": _rounded(value), "interval_95": [_rounded(edge) for edge in edges]}

    classes = range(len(CLASSES))
    per_class = ("precision", "recall", "f1", "roc_auc")
    return {
        "photographs": len(labels),
        **{name: figure(name) for name in ("accuracy", *(f"macro_{name}" for name in per_class))},
        "classes": {
            CLASSES[label]: {"photographs": int((labels == label).sum())}
            | {name: figure(name, label) for name in per_class}
            for label in classes
        },
        "confusion_matrix": confusion_matrix(labels, predicted).tolist(),
        "confusion_shares": [
            [figure("shares", true, said) for said in classes] for true in classes
        ],
        "expected_calibration_error": round(expected_calibration_error(answers.logits, labels), 4),
    }


def confusion_with_abstentions(answers: Answers) -> list[list[int]]:
    """Count the answers to each class's photographs: [C][C + 1], the last for abstaining.

    It abstains from what is unfamiliar; from pictures that nobody can read the gateway does too.
    """
    familiar = answers.unfamiliarity <= FAMILIAR_UP_TO
    said = np.where(familiar, answers.logits.argmax(1), len(CLASSES))
    counts = np.zeros((len(CLASSES), len(CLASSES) + 1), int)
    np.add.at(counts, (answers.labels, said), 1)
    return counts.tolist()  # type: ignore[no-any-return]  # of ints


def measure_calibration(answers: Answers, temperature: float) -> dict[str, Any]:
    """Measure how honest the confidence is, as it is given and divided by ``temperature``."""
    return {
        name: {
            "expected_calibration_error": round(expected_calibration_error(logits, labels), 4),
            "reliability": reliability(logits, labels),
        }
        for labels in (answers.labels,)
        for name, logits in (("before", answers.logits), ("after", answers.logits / temperature))
    }


def measure_familiarity(known: Answers, unknown: Answers, seed: int = 0) -> dict[str, Any]:
    """Measure how well the unfamiliarity tells cells of the classes from everything else.

    ROC AUC with intervals, beside the plain confidence's; the shares that are turned away; and
    how often the model is right about what it keeps.
    """
    both = Answers(
        [*known.photographs, *unknown.photographs],
        np.concatenate([known.logits, unknown.logits]),
        np.concatenate([known.unfamiliarity, unknown.unfamiliarity]),
    )
    strange = both.labels == NONE_OF_THESE
    weights = _resampled(both, seed)
    areas = _roc_auc(both.unfamiliarity, strange, weights)
    kept = known.unfamiliarity <= FAMILIAR_UP_TO
    right = known.logits.argmax(1) == known.labels
    kinds = {
        kind: unknown.where(lambda p, k=kind: p.kind == k)  # type: ignore[misc]  # bound
        for kind in sorted({p.kind for p in unknown.photographs})
    }
    return {
        "photographs": len(strange),
        "roc_auc": {
            "value": round(roc_auc(both.unfamiliarity, strange), 4),
            "interval_95": [_rounded(_percentile(areas, edge)) for edge in (2.5, 97.5)],
        },
        "roc_auc_of_confidence": round(roc_auc(-softmax(both.logits).max(1), strange), 4),
        "turned_away": {"known": _turned_away(known), "unknown": _turned_away(unknown)},
        "accuracy_of_the_kept": round(float(right[kept].mean()), 4) if kept.any() else None,
        "kinds": {
            kind: {
                "photographs": len(part.photographs),
                "turned_away": _turned_away(part),
                "roc_auc": round(
                    roc_auc(
                        np.concatenate([known.unfamiliarity, part.unfamiliarity]),
                        np.repeat([False, True], [len(kept), len(part.photographs)]),
                    ),
                    4,
                ),
            }
            for kind, part in kinds.items()
        },
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


def reliability(logits: Floats, labels: NDArray[np.int64]) -> list[dict[str, float]]:
    """Mean confidence and accuracy in each of 15 equal bins of confidence that is not empty."""
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        {
            "photographs": int((bins == b).sum()),
            "confidence": round(float(confidence[bins == b].mean()), 6),
            "accuracy": round(float(right[bins == b].mean()), 6),
        }
        for b in np.unique(bins)
    ]


def expected_calibration_error(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Mean gap between confidence and accuracy over the bins (Guo et al., ICML 2017, eq. 3)."""
    bins = reliability(logits, labels)
    gaps = [b["photographs"] * abs(b["confidence"] - b["accuracy"]) for b in bins]
    return float(sum(gaps) / len(labels))


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The T that makes softmax(logits / T) likeliest (Guo et al. 2017), to three decimals."""
    low, high = np.log(0.05), np.log(20.0)
    for _ in range(6):  # the likelihood has one peak in T: narrow a grid round it
        grid = np.linspace(low, high, 21)
        losses = [_negative_log_likelihood(logits / np.exp(t), labels) for t in grid]
        best = int(np.argmin(losses))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 20)]
    return round(float(np.exp(grid[best])), 3)


def roc_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic: that a positive scores above a negative."""
    return float(_roc_auc(scores, positive, np.ones((1, len(scores))))[0])


def _turned_away(answers: Answers) -> float:
    return round(float((answers.unfamiliarity > FAMILIAR_UP_TO).mean()), 4)


def _negative_log_likelihood(logits: Floats, labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _resampled(answers: Answers, seed: int) -> Floats:
    """How often each resample draws each photograph: [resamples, N], all of a group alike."""
    groups = _cells(answers)
    names = np.unique(groups)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)
    return times[:, groups].astype(float)


def _cells(answers: Answers) -> NDArray[np.int64]:
    """A number for each photograph, the same for all of one cell."""
    numbers: dict[Cell, int] = {}
    return np.array([numbers.setdefault(p.cell, len(numbers)) for p in answers.photographs])


def _figures(answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Every figure for every row of ``weights`` [R, N]; NaN where there is nothing to divide by."""
    labels, count = answers.labels, len(CLASSES)
    cells = np.eye(count * count)[labels * count + answers.logits.argmax(1)]
    matrices = (weights @ cells).reshape(-1, count, count)
    hits, truths, said = np.einsum("rii->ri", matrices), matrices.sum(2), matrices.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            "precision": hits / said,
            "recall": hits / truths,
            "f1": 2 * hits / (truths + said),
            "shares": matrices / truths[:, :, np.newaxis],
            "accuracy": hits.sum(1) / matrices.sum((1, 2)),
        }
    probabilities = softmax(answers.logits)
    areas = [_roc_auc(probabilities[:, c], labels == c, weights) for c in range(count)]
    figures["roc_auc"] = np.stack(areas, axis=1)
    occurs = truths > 0
    for name in ("precision", "recall", "f1"):
        kept = np.where(occurs, np.nan_to_num(figures[name]), 0)
        figures[f"macro_{name}"] = kept.sum(1) / occurs.sum(1)
    ranked = ~np.isnan(figures["roc_auc"])
    with np.errstate(invalid="ignore"):
        figures["macro_roc_auc"] = np.nansum(figures["roc_auc"], axis=1) / ranked.sum(1)
    return figures


def _roc_auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Mann-Whitney's U over its greatest value, for each row of weights; a tie counts half."""
    # a softmax summed in another order differs in its last bit: what is level stays level
    _, places = np.unique(scores.round(12), return_inverse=True)
    order = np.argsort(places, kind="stable")
    edges = np.flatnonzero(np.diff(places[order], prepend=-1))
    negatives = np.add.reduceat((weights * ~positive)[:, order], edges, axis=1)
    positives = np.add.reduceat((weights * positive)[:, order], edges, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))
    return np.asarray(area)


def _exact(value: float, count: int) -> tuple[float, float]:
    """Clopper's and Pearson's limits of a share that is 0 or 1 of ``count``."""
    widest = 0.025 ** (1 / count)
    return (widest, 1.0) if value == 1 else (0.0, 1 - widest)


def _percentile(values: Floats, edge: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.percentile(known, edge)) if len(known) else float("nan")


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
