"""The circuit breaker: when a call is let through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.breaker import Breaker


def broken(clock, threshold: int = 5) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(threshold, clock, jitter=lambda: 1.0)
    for _ in range(threshold):
        assert breaker.admit()
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it(clock):
    """The threshold opens it; no call is let through then."""
    breaker = broken(clock)
    assert breaker.open
    assert breaker.pause() == pytest.approx(0.1)
    assert not breaker.admit()


def test_a_success_between_failures_keeps_it_closed(clock):
    """A server that answers now and then is not dead."""
    breaker = Breaker(5, clock)
    for _ in range(20):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.open
    assert breaker.admit()


def test_one_call_is_let_through_after_each_pause_and_the_pauses_grow(clock):
    """0.1 s, doubled each time up to 1 s; the others wait on."""
    breaker, pauses = broken(clock), []
    for _ in range(6):
        pauses.append(breaker.pause())
        clock.now += breaker.pause() + 1e-6
        assert breaker.admit()
        assert not breaker.admit()
        breaker.failed()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_first_success_closes_it(clock):
    """It is as new: only as many failures in a row as before open it again."""
    breaker = broken(clock)
    clock.now += 0.2
    assert breaker.admit()
    breaker.succeeded()
    assert not breaker.open
    for _ in range(4):
        assert breaker.admit()
        breaker.failed()
    assert breaker.admit()


def test_calls_that_were_under_way_do_not_prolong_the_pause(clock):
    """Eight calls fail together when a server dies: that is one failure's worth of waiting."""
    breaker = broken(clock)
    for _ in range(8):
        breaker.failed()
    assert breaker.pause() == pytest.approx(0.1)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["failed", "nothing"]), min_size=5, max_size=60))
def test_a_recovery_is_never_hidden_for_long(reports):
    """Whatever became of the trials, hung ones included: the next is at most 1.2 s away."""
    now = [100.0]
    breaker = Breaker(5, lambda: now[0])
    for _ in range(5):
        breaker.failed()
    for report in reports:
        assert breaker.pause() <= 1.2
        now[0] += breaker.pause() + 1e-6
        assert breaker.admit()
        if report == "failed":
            breaker.failed()
