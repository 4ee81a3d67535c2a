"""What is far from everything known is found out, by the same arithmetic on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export.familiarity import Familiarity, unfamiliarity

RNG = np.random.default_rng(4)
CENTRES = RNG.random((3, 40))
KINDS = [number % 3 for number in range(600)]
HERE = ["here"] * 600


def features(count: int, spread: float = 0.05) -> np.ndarray:
    """Features of three kinds, wide along two directions and narrow along the rest."""
    wide = RNG.normal(0, 4 * spread, (count, 2)) @ np.eye(2, 40)
    return CENTRES[np.arange(count) % 3] + wide + RNG.normal(0, spread, (count, 40))


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    return Familiarity.fit(features(600), HERE, KINDS, axes=2)


def test_the_score_is_the_mahalanobis_distance(familiarity: Familiarity) -> None:
    """To the nearest mean, with the covariance written out and inverted."""
    seen = features(50)
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    axes = familiarity.axes[0].astype(float)
    inside = axes @ np.diag(1 / familiarity.precisions[0]) @ axes.T
    outside = (np.eye(40) - axes @ axes.T) / familiarity.other_precisions[0]
    inverse = np.linalg.inv(inside + outside)
    away = unit[:, None] - familiarity.means[0]
    expected = np.einsum("nkd,de,nke->nk", away, inverse, away).min(1)
    np.testing.assert_allclose(familiarity.score(seen), expected, rtol=1e-4)


def test_the_covariance_is_that_of_the_scatter(familiarity: Familiarity) -> None:
    """Distances of the photographs that it was fitted to average to the number of features."""
    seen = features(3000)
    assert familiarity.score(seen).mean() == pytest.approx(40, rel=0.1)


def test_other_things_score_higher(familiarity: Familiarity) -> None:
    """A fourth kind, away from the three, is above nearly all of them."""
    known, other = features(300), RNG.random((300, 40))
    assert familiarity.score(other).min() > np.quantile(familiarity.score(known), 0.99)


def test_brightness_of_the_features_does_not_count(familiarity: Familiarity) -> None:
    """Only their direction does."""
    seen = features(20)
    np.testing.assert_allclose(familiarity.score(3 * seen), familiarity.score(seen), rtol=1e-3)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_threshold_turns_away_no_more_than_asked(
    familiarity: Familiarity, share: float
) -> None:
    """At most that share of the scores it was set on lies above 1, and not much less."""
    seen = features(500)
    scores = familiarity.turning_away(share, familiarity.score(seen)).score(seen)
    assert share - 0.01 <= (scores > 1).mean() <= share


def test_setting_the_threshold_twice_is_setting_it_once(familiarity: Familiarity) -> None:
    """The second time starts from scores that are scaled already."""
    seen = features(200)
    once = familiarity.turning_away(0.1, familiarity.score(seen))
    twice = once.turning_away(0.1, once.score(seen))
    np.testing.assert_allclose(twice.threshold, once.threshold, rtol=1e-5)


def test_what_is_saved_is_loaded(familiarity: Familiarity, tmp_path: Path) -> None:
    """Every field, to the bit."""
    familiarity.save(tmp_path / "familiarity.npz")
    loaded = Familiarity.load(tmp_path / "familiarity.npz")
    for kept, read in zip(familiarity, loaded, strict=True):
        np.testing.assert_array_equal(read, kept)
        assert read.dtype == np.float32


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    """An archive of other arrays is no familiarity."""
    np.savez(tmp_path / "other.npz", means=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz lacks axes, other_precisions"):
        Familiarity.load(tmp_path / "other.npz")


def test_each_source_has_its_own_scatter() -> None:
    """What is far for a tidy laboratory is near for one whose photographs vary more."""
    tidy, wild = features(600, 0.01), features(600, 0.08) + 0.5
    both = Familiarity.fit(
        np.concatenate([tidy, wild]), [*HERE, *(["there"] * 600)], KINDS * 2, axes=2
    )
    alone = Familiarity.fit(tidy, HERE, KINDS, axes=2)
    np.testing.assert_allclose(both.score(tidy).mean(), both.score(wild).mean(), rtol=0.2)
    assert np.median(alone.score(wild)) > 20 * np.median(both.score(wild))


def test_a_source_without_a_class_is_no_trouble() -> None:
    """The class is then far from that source, and near to the other."""
    seen, kinds = features(600), np.array(KINDS)
    sources = np.where((kinds < 2) & (np.arange(600) % 2 == 0), "some", "all")
    fitted = Familiarity.fit(seen, sources.tolist(), KINDS, axes=2)
    assert np.median(fitted.score(seen[kinds == 2])) < 80


def test_few_photographs_still_give_finite_scores() -> None:
    """Fewer photographs than features leave directions without any variance."""
    few = Familiarity.fit(features(6), HERE[:6], KINDS[:6])
    assert np.isfinite(few.score(features(30))).all()


def test_features_that_are_all_zero_have_a_score(familiarity: Familiarity) -> None:
    """A dead photograph has no direction; its distance is finite, and large."""
    score = unfamiliarity(tf.zeros((1, 40)), familiarity).numpy()
    assert np.isfinite(score).all()
    assert score[0] > familiarity.score(features(100)).max()
