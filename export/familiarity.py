"""How far a photograph lies from everything that the network was trained on.

A softmax must name one of its classes, whatever it is shown. This score can say 'none of these':
the Mahalanobis distance (Lee et al., NeurIPS 2018) of the network's last hidden features to the
nearest mean of a class in one source's photographs. The features are scaled to length 1. Each
source has a covariance of its own, since laboratories scatter differently: that of probabilistic
PCA (Tipping & Bishop, J R Stat Soc B 61, 1999), the strongest axes and one variance for all the
others, since 1024 features have more covariances than there are photographs to estimate them.

The score is divided by its threshold, so that 1 is the limit of the familiar for whoever reads
it, and no threshold has to travel with it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_AXES = 64

Floats = NDArray[np.float64]


class Familiarity(NamedTuple):
    """What the score needs, float32: for each of S sources, K means of D features, A axes."""

    means: NDArray[np.float32]
    """[S, K, D]: of the classes in each source's photographs."""
    axes: NDArray[np.float32]
    """[S, D, A]: orthonormal, the directions in which features of one class differ most."""
    precisions: NDArray[np.float32]
    """[S, A]: one over the variance along each axis."""
    other_precisions: NDArray[np.float32]
    """[S]: one over the variance along every other direction."""
    threshold: NDArray[np.float32]
    """[]: the distance that counts as 1."""

    @classmethod
    def fit(
        cls, features: Floats, sources: Sequence[str], labels: Sequence[int], axes: int = _AXES
    ) -> Familiarity:
        """Estimate it from features [N, D] of photographs of known source and class.

        The threshold is 1 until ``turning_away`` sets it.
        """
        unit, source, label = _unit(features), np.array(sources), np.array(labels)
        names, classes = np.unique(source), np.unique(label)
        # half as many axes as the smallest source has photographs: the rest need a variance too
        axes = max(
            1, min(axes, unit.shape[1] - 1, np.unique(source, return_counts=True)[1].min() // 2)
        )
        parts = []
        for name in names:
            own = {c: unit[(source == name) & (label == c)] for c in classes}
            known = {c: features.mean(0) for c, features in own.items() if len(features)}
            scatter = np.concatenate([own[c] - mean for c, mean in known.items()])
            # a class that a source lacks has another's mean twice, which changes no minimum
            any_mean = next(iter(known.values()))
            means = np.stack([known.get(c, any_mean) for c in classes])
            parts.append((means, *_principal(scatter, axes)))
        means, directions, along, other = (
            np.stack(arrays).astype(np.float32) for arrays in zip(*parts, strict=True)
        )
        return cls(means, directions, along, other, np.array(1, np.float32))

    def score(self, features: Floats) -> Floats:
        """Score features [N, D]: float64 [N]."""
        scores: Floats = unfamiliarity(tf.constant(features), self).numpy().astype(np.float64)
        return scores

    def turning_away(self, share: float, scores: Floats) -> Familiarity:
        """Return this with the threshold that at most ``share`` of ``scores`` [N] exceed."""
        limit = np.quantile(scores, 1 - share, method="higher")
        return self._replace(threshold=np.asarray(limit * self.threshold, np.float32))

    @classmethod
    def load(cls, path: Path) -> Familiarity:
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError: there is no such file, or it is another's.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                missing = set(cls._fields) - set(stored.files)
                if missing:
                    raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
                return cls(*(stored[name] for name in cls._fields))
        except (zipfile.BadZipFile, EOFError, AttributeError) as error:
            raise ValueError(f"{path} is damaged, or no familiarity: {error}") from error

    def save(self, path: Path) -> None:
        """Write an ``.npz`` of the fields."""
        np.savez(path, **self._asdict())


def unfamiliarity(hidden: tf.Tensor, familiarity: Familiarity) -> tf.Tensor:
    """Score hidden features [N, D]: float32 [N], above 1 where the photograph is unfamiliar."""
    unit = tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=1)
    away = unit[:, tf.newaxis, tf.newaxis] - familiarity.means
    along = tf.einsum("nskd,sda->nska", away, familiarity.axes)
    # the part along no axis is what the axes leave of the squared length
    rest = tf.maximum(tf.reduce_sum(away**2, 3) - tf.reduce_sum(along**2, 3), 0)
    squared = (
        tf.einsum("nska,sa->nsk", along**2, familiarity.precisions)
        + rest * familiarity.other_precisions[:, np.newaxis]
    )
    return tf.reduce_min(squared, axis=[1, 2]) / familiarity.threshold


def _principal(scatter: Floats, axes: int) -> tuple[Floats, Floats, Floats]:
    """The axes of [N, D] with most variance, the precisions along them, and along the rest."""
    variances, directions = np.linalg.eigh(scatter.T @ scatter / len(scatter))  # ascending
    # floored: few photographs lie in few dimensions, and nothing varies by exactly nothing
    other = max(float(variances[:-axes].mean()), 1e-3 * float(variances.mean()), 1e-12)
    along = np.maximum(variances[-axes:], other)
    return directions[:, -axes:], 1 / along, np.array(1 / other)


def _unit(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12))
