"""The simulated queue against exact cases and published values."""

import numpy as np
import pytest

from loadtest import arrivals
from loadtest.queueing import Replica


def exponential(mean: float) -> np.ndarray:
    """Evenly spread quantiles of an exponential distribution."""
    return -mean * np.log(1 - (np.arange(4000) + 0.5) / 4000)


def replica(alone: np.ndarray, rates: tuple[float, ...]) -> Replica:
    """One whose first service is like all others."""
    return Replica(alone, alone, rates)


def mean_time(queue: Replica, rate: float) -> float:
    """Of a hundred thousand Poisson arrivals, in seconds."""
    return float(queue.times(arrivals.poisson(rate, 100_000 / rate, seed=1)).mean())


def test_one_at_a_time_is_a_line_at_a_counter():
    """Two come at once and one later: each begins when the one before it has ended."""
    queue = replica(np.array([1.0]), (1.0,))
    assert queue.times([0.0, 0.0, 5.0]) == pytest.approx([1.0, 2.0, 1.0])


def test_those_who_are_served_share_and_the_third_waits():
    """Two at once are half as fast each; who comes third begins when the first has ended."""
    queue = replica(np.array([1.0]), (1.0, 1.0))
    assert queue.times([0.0, 0.5, 0.6]) == pytest.approx([1.5, 2.0, 2.4])


def test_a_second_core_makes_two_as_fast_as_one():
    """With twice the rate nobody is slowed by the other."""
    queue = replica(np.array([1.0]), (1.0, 2.0))
    assert queue.times([0.0, 0.5]) == pytest.approx([1.0, 1.0])


def test_who_comes_to_an_idle_service_takes_longer():
    """And nobody after it, until it is idle again."""
    queue = Replica(np.array([2.0]), np.array([1.0]), (1.0,))
    assert queue.times([0.0, 1.0, 9.0]) == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("servers", "offered", "waiting"),
    # L. Kleinrock, Queueing Systems 1, 1975, 3.5, and Erlang C tables
    [(1, 0.5, 0.5), (2, 1.0, 0.3333), (3, 2.0, 0.4444), (5, 4.0, 0.5541)],
)
def test_several_servers_make_arrivals_wait_as_erlang_says(servers, offered, waiting):
    """Where n at once are n times as fast, it is M/M/c: its mean wait is C / (c mu - lambda)."""
    queue = replica(exponential(1.0), tuple(float(n) for n in range(1, servers + 1)))
    assert mean_time(queue, offered) == pytest.approx(1 + waiting / (servers - offered), rel=0.05)


def test_services_of_one_length_wait_half_as_long():
    """Pollaczek and Khinchine, M/D/1: lambda s^2 / 2 (1 - lambda s)."""
    assert mean_time(replica(np.array([0.1]), (10.0,)), 8.0) == pytest.approx(0.3, rel=0.05)


def test_sharing_among_all_is_the_same_for_services_of_any_length():
    """Processor sharing: s / (1 - load), whatever the distribution (Kleinrock 2, 1976, 4.4)."""
    for alone in (np.array([0.1]), exponential(0.1)):
        queue = replica(alone, tuple([10.0] * 60))
        assert mean_time(queue, 7.0) == pytest.approx(0.1 / 0.3, rel=0.05)


def test_percentiles_are_those_of_an_m_m_1_queue():
    """Its time in system is exponential with rate mu - lambda."""
    queue = replica(exponential(0.1), (10.0,))
    for share in (0.5, 0.95, 0.99):
        expected = -np.log(1 - share) / (10 - 6)
        assert queue.percentile(share, 6.0) == pytest.approx(expected, rel=0.1)
    assert queue.percentile(0.5, 10.0) == float("inf")


def test_the_highest_rate_meets_the_objective_and_a_few_more_do_not():
    """`most` inverts `percentile`."""
    queue = replica(np.full(100, 0.03), (33.0, 50.0, 55.0))
    most = queue.most(0.99, 0.2)
    assert queue.percentile(0.99, most) <= 0.2 < queue.percentile(0.99, 1.02 * most)
    assert replica(np.full(100, 0.3), (3.0,)).most(0.99, 0.2) == pytest.approx(0, abs=0.02)
