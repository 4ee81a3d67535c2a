"""The arithmetic of loads: levels over time, and instants of arrival."""

import itertools
import statistics

import pytest

from loadtest import arrivals
from loadtest.shapes import SHAPES, Stage, level_at


def levels(name: str, top: int, seconds: float) -> list[int]:
    """The level in each stage."""
    return [stage.level for stage in SHAPES[name](top, seconds)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("top", [1, 2, 7, 40])
def test_every_shape_lasts_as_long_as_asked_and_reaches_its_top(name, top):
    """Never above it, and nobody is never there."""
    stages = SHAPES[name](top, 30.0)
    assert sum(stage.seconds for stage in stages) == pytest.approx(30.0)
    assert max(stage.level for stage in stages) == top
    assert min(stage.level for stage in stages) >= 1


def test_each_shape_has_its_form():
    """One level; even steps; a peak between two calm times; a start and then one level."""
    assert levels("steady", 8, 10) == [8]
    assert levels("step", 10, 10) == [2, 4, 6, 8, 10]
    assert levels("step", 2, 10) == [1, 2]
    assert levels("spike", 8, 10) == [2, 8, 2]
    assert levels("soak", 8, 10) == [4, 8]


def test_a_level_holds_until_its_stage_ends():
    """The end of the last is the end of the test."""
    shape = [Stage(2.0, 5), Stage(1.0, 9)]
    assert [level_at(shape, second) for second in (0, 1.9, 2.0, 2.9, 3.0)] == [5, 5, 9, 9, None]


def test_arrivals_have_their_rate_and_are_as_random_as_people():
    """Poisson's: the gaps' standard deviation is their mean. The same seed gives the same ones."""
    instants = arrivals.poisson(50, 200, seed=1)
    gaps = [late - early for early, late in itertools.pairwise(instants)]
    assert instants == sorted(instants)
    assert instants[-1] < 200
    assert len(instants) == pytest.approx(10_000, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert arrivals.poisson(50, 200, seed=1) == instants
    assert arrivals.poisson(50, 200, seed=2) != instants
