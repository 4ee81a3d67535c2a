"""Exact limits: against published tables, and against the binomial distribution itself."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import TAIL, beta_quantile, exact, incomplete_beta

PUBLISHED = [
    (0, 100, 0.0, 3.6),
    (5, 100, 1.6, 11.3),
    (50, 100, 39.8, 60.2),
    (100, 200, 42.9, 57.1),
    (500, 1000, 46.9, 53.1),
]


@pytest.mark.parametrize(("count", "of", "low", "high"), PUBLISHED)
def test_limits_are_those_of_the_published_tables(count, of, low, high):
    """Clopper's and Pearson's 95 % limits, in percent with one decimal, rounded outwards."""
    found = [100 * limit for limit in exact(count, of)]
    assert found == pytest.approx([low, high], abs=0.0501)


def at_least(count: int, of: int, share: float) -> float:
    """How probably ``count`` or more of ``of`` are of a kind with that share: exact fractions."""
    p = Fraction(share)
    terms = (comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(count, of + 1))
    return float(sum(terms))


@given(st.integers(1, 60).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_each_limit_leaves_a_fortieth_beyond_it(counted):
    """What was seen is as improbable as that at either limit, in binomial sums of fractions."""
    count, of = counted
    low, high = exact(count, of)
    assert (low == 0) if count == 0 else at_least(count, of, low) == pytest.approx(TAIL, abs=1e-9)
    if count == of:
        assert high == 1
    else:
        assert 1 - at_least(count + 1, of, high) == pytest.approx(TAIL, abs=1e-9)


def test_limits_mirror_each_other():
    """Those of the rest are one less those of the share."""
    low, high = exact(3, 40)
    assert exact(37, 40) == pytest.approx((1 - high, 1 - low))


def test_of_nothing_everything_is_possible():
    """No cell, no knowledge."""
    assert exact(0, 0) == (0, 1)


@given(st.floats(0.01, 0.99), st.floats(1, 5000), st.floats(1, 5000))
def test_the_quantile_undoes_the_incomplete_beta(probability, a, b):
    """Also where counts are large, or lopsided."""
    assert incomplete_beta(beta_quantile(probability, a, b), a, b) == pytest.approx(
        probability, abs=1e-8
    )


def test_more_cells_of_the_same_share_narrow_the_limits():
    """Also for counts that are not whole."""
    widths = [high - low for low, high in (exact(0.123 * n, n) for n in (10, 33, 100, 333, 10_000))]
    assert widths == sorted(widths, reverse=True)
