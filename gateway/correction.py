"""Undo a classifier's own confusion in a count, with limits that hold its uncertainty too.

Pure. What the model names are shares of its answers, and its confusion, measured on photographs
of known class, tells what cells give such answers: a system of linear equations, as Rogan &
Gladen (Am J Epidemiol 107, 1978) solved it for two classes. Neither the shares nor the confusion
is known but by counting, so the limits are melded from the confidence distributions of both by
simulation (Fay, Proschan & Brittain, Biometrics 71, 2015; for a prevalence by an imperfect assay:
Bayer, Fay & Graubard, Stat Med 42, 2023, arXiv:2205.13494): for a lower limit each count is drawn
as if the next cell went against the class, for an upper one as if it went for it.
``export/slides.py`` measures how often such limits hold the truth.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.limits import TAIL, exact

DRAWS = 2000
"""How often the confusion and the shares are drawn."""

# fixed seeds: the same count gives the same figures
_CONFUSION, _OWN, _OTHERS = (1934, 0), (1934, 1), (1934, 2)
_NEVER_SEEN = 0.05  # of a cell, added to every count of the confusion: none is impossible
_TINY = 1e-300

Floats = NDArray[np.float64]
Counts = tuple[tuple[int, ...], ...]
"""A row for each of K classes, a column for each answer: the classes, and last, abstaining."""


class Tally(NamedTuple):
    """The counted cells, whole numbers or not.

    ``named`` [K] holds what the model named and nobody reviewed, ``reviewed`` [K] what a reader
    put into each class, ``unclassified`` what the model would not name, ``other`` the rest.
    """

    named: tuple[float, ...]
    reviewed: tuple[float, ...]
    unclassified: float
    other: float

    @property
    def cells(self) -> float:
        """All of them."""
        return sum(self.named) + sum(self.reviewed) + self.unclassified + self.other

    def of_class(self, index: int) -> float:
        """Those of one class, whoever said so."""
        return self.named[index] + self.reviewed[index]

    def scaled(self, factor: float) -> Tally:
        """The same shares of ``factor`` times as many cells."""
        return Tally(
            tuple(factor * count for count in self.named),
            tuple(factor * count for count in self.reviewed),
            factor * self.unclassified,
            factor * self.other,
        )


def corrected_shares(tally: Tally, confusion: Counts) -> Floats:
    """The share of each class among the counted cells, without the model's confusion: [K]."""
    expected = np.array(confusion, float) + _NEVER_SEEN
    named = np.array([tally.named]) / tally.cells
    unclassified = np.array([tally.unclassified]) / tally.cells
    undone = _undone(named, unclassified, _Undoing.of(expected[np.newaxis]))[0][0].clip(0)
    most = 1 - (sum(tally.reviewed) + tally.other) / tally.cells
    undone *= min(1, most / max(undone.sum(), _TINY))
    return np.asarray(undone + np.array(tally.reviewed) / tally.cells)


def corrected_limits(tally: Tally, confusion: Counts, class_index: int) -> tuple[float, float]:
    """Two-sided 95 % limits of one of ``corrected_shares``, whatever the unclassified cells are.

    With a confusion that is perfect and known from very many photographs they are Clopper's and
    Pearson's, but for the simulation's own error (0.1 % at 1000 cells).
    """
    low, high = (
        np.quantile(
            _drawn_shares(tally, _undoings(confusion, class_index, upper), class_index, upper),
            1 - TAIL if upper else TAIL,
        )
        for upper in (False, True)
    )
    # a confusion that tells nothing apart gives draws from anywhere
    return float(np.clip(min(low, high), 0, 1)), float(np.clip(max(low, high), 0, 1))


def explains(tally: Tally, confusion: Counts) -> bool:
    """Whether the model may abstain as often as it did, if it only met cells of the classes."""
    by_class = ((row[-1], sum(row)) for row in confusion)
    most = np.array([exact(abstained, shown)[1] for abstained, shown in by_class])
    expected = float(np.array(tally.named) @ (most / (1 - most).clip(_TINY)))
    named = sum(tally.named)
    least, _ = exact(tally.unclassified, named + tally.unclassified)
    return least * (named + expected) <= expected


class _Undoing(NamedTuple):
    """What turns shares of answers into shares of cells.

    ``inverse`` [D, K, K] of the confusion among cells that were named, ``answered`` [D, K] how
    much of each class is named.
    """

    inverse: Floats
    answered: Floats

    @classmethod
    def of(cls, weights: Floats) -> _Undoing:
        """From weights [D, K, K + 1] of the answers to each class.

        Classes that get the same answers share what they were named (Moore & Penrose's inverse).
        """
        named = weights[..., :-1].sum(-1)
        inverse = np.linalg.pinv(weights[..., :-1] / named[..., np.newaxis])
        return cls(inverse, named / weights.sum(-1))


@lru_cache(maxsize=64)
def _undoings(confusion: Counts, class_index: int, upper: bool) -> _Undoing:
    """Draws from the confidence distributions of the confusion, for one limit of one class.

    Its share is lower the more often it is named when it is there and when it is not.
    """
    classes = len(confusion)
    against = np.zeros((classes, classes + 1))
    if upper:
        against[np.diag_indices(classes)] = 1  # the others are named rightly
        against[class_index] = 1 / (classes - 1)  # it is taken for others,
        against[class_index, class_index], against[class_index, -1] = 0, 1  # or not named at all
    else:
        against[:, class_index] = 1
    generator = np.random.default_rng(_CONFUSION)
    shapes = np.array(confusion) + _NEVER_SEEN + against
    return _Undoing.of(generator.standard_gamma(shapes, (DRAWS, *shapes.shape)))


def _drawn_shares(tally: Tally, undoing: _Undoing, class_index: int, upper: bool) -> Floats:
    """Draws from a class's confidence distribution, lower or upper: [D]."""
    classes, named = len(tally.named), tally.named[class_index]
    own = tally.of_class(class_index)
    share = _beta(own + upper, tally.cells - own + (not upper))
    rest = _gammas(tally).copy()
    rest[:, [class_index, classes + 1 + class_index]] = 0
    rest *= ((1 - share) / rest.sum(1).clip(_TINY))[:, np.newaxis]
    by_model = named / own if own else 1.0
    rest[:, class_index] = by_model * share
    found, left = _undone(rest[:, :classes], rest[:, classes], undoing)
    # what else was unclassified may be of this class, or none of it
    return np.asarray(found[:, class_index] + (1 - by_model) * share + (left if upper else 0))


@lru_cache(maxsize=4)
def _gammas(tally: Tally) -> Floats:
    """Draws [D, 2 K + 2] for named, unclassified, reviewed and other cells.

    Over their sum they are shares from Dirichlet's distribution; what was not seen has none.
    """
    counts = [*tally.named, tally.unclassified, *tally.reviewed, tally.other]
    return np.random.default_rng(_OTHERS).standard_gamma(counts, (DRAWS, len(counts)))


def _undone(named: Floats, unclassified: Floats, undoing: _Undoing) -> tuple[Floats, Floats]:
    """Shares [D, K] of cells of each class, of what was named [D, K] and unclassified [D].

    Cells that the model would not name are shared out only as far as it does not name cells of
    the classes; what is left of them [D] is returned too. Shares may lie outside 0 to 1.
    """
    cells = np.einsum("dk,dkl->dl", named, undoing.inverse)
    unnamed = cells.clip(0) * (1 / undoing.answered - 1)
    explained = unnamed.sum(1)
    there = np.minimum(1, unclassified / explained.clip(_TINY))
    return cells + unnamed * there[:, np.newaxis], (unclassified - explained).clip(0)


def _beta(a: float, b: float) -> Floats:
    """Draws [D] of a beta variable; a parameter of 0 leaves it at that end."""
    if a <= 0 or b <= 0:
        return np.full(DRAWS, float(a > 0))
    return np.random.default_rng(_OWN).beta(a, b, DRAWS)
