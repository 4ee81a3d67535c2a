"""Deadlines, and what work took lately."""

import pytest

from gateway.deadline import Deadline, RecentCost


def test_a_deadline_runs_down_to_nothing(clock):
    """What is left shrinks with the clock, and is never negative."""
    deadline = Deadline.after(2.0, clock)
    assert deadline.remaining() == 2.0
    clock.now += 1.5
    assert deadline.remaining() == 0.5
    clock.now += 1.5
    assert deadline.remaining() == 0.0


def test_the_average_begins_with_the_first_and_follows_the_newest(clock):
    """One observation is the average; each further one moves it by a fifth of the way."""
    cost = RecentCost(clock=clock)
    assert cost.mean() == 0.0
    cost.observe(1.0)
    assert cost.mean() == 1.0
    cost.observe(2.0)
    assert cost.mean() == pytest.approx(1.2)


def test_what_was_not_tried_for_long_is_unknown_again(clock):
    """A slow spell cannot keep work from ever being tried again."""
    cost = RecentCost(memory=10.0, clock=clock)
    cost.observe(5.0)
    clock.now += 9.9
    assert cost.mean() == 5.0
    clock.now += 0.1
    assert cost.mean() == 0.0
    cost.observe(1.0)
    assert cost.mean() == 1.0


def test_a_block_is_measured_unless_it_fails(clock):
    """Seconds for each unit; what failed says nothing about what work takes."""
    cost = RecentCost(clock=clock)
    with pytest.raises(LookupError), cost.measured():
        raise LookupError
    assert cost.mean() == 0.0
    with cost.measured(per=4):
        clock.now += 2.0
    assert cost.mean() == 0.5
