"""The queueing formulas against published values and exact cases."""

import numpy as np
import pytest

from loadtest.capacity.measure import Cost, Measured, Point
from loadtest.capacity.model import fitted, typical_error
from loadtest.queueing import Replica, erlang_c, mean_wait


@pytest.mark.parametrize(
    ("servers", "offered", "waiting"),
    [
        # L. Kleinrock, Queueing Systems 1, 3.5, and Erlang C tables, to four digits
        (1, 0.5, 0.5),
        (2, 1.0, 0.3333),
        (2, 1.8, 0.8526),
        (3, 2.0, 0.4444),
        (5, 4.0, 0.5541),
        (10, 8.0, 0.4092),
        (10, 9.0, 0.6687),
    ],
)
def test_erlangs_c_is_the_published_one(servers, offered, waiting):
    """The share of arrivals that wait."""
    assert erlang_c(servers, offered) == pytest.approx(waiting, abs=1e-4)


def test_nobody_waits_where_nobody_comes_and_no_queue_holds_too_much():
    """The ends of the formula."""
    assert erlang_c(4, 0) == 0
    with pytest.raises(ValueError, match="4 erlangs are too many for 4 servers"):
        erlang_c(4, 4)


def test_the_wait_is_exact_with_one_server():
    """Pollaczek and Khinchine: half as long for services of one length as for exponential ones."""
    rate, service = 8.0, 0.1
    exponential = rate * service**2 / (1 - rate * service)
    assert mean_wait(1, rate, service, scv_service=1) == pytest.approx(exponential)
    assert mean_wait(1, rate, service, scv_service=0) == pytest.approx(exponential / 2)


def test_the_wait_is_near_a_simulated_queue():
    """Two servers with services of one length, 80 % loaded: within a tenth of the simulation."""
    dice = np.random.default_rng(7)
    arrivals = np.cumsum(dice.exponential(1 / 1.6, 200_000))
    free, waited = [0.0, 0.0], 0.0
    for arrived in arrivals:
        first = min(free)
        started = max(arrived, first)
        waited += started - arrived
        free[free.index(first)] = started + 1.0
    assert mean_wait(2, 1.6, 1.0, scv_service=0) == pytest.approx(waited / len(arrivals), rel=0.1)


def exponential(mean: float) -> np.ndarray:
    """Evenly spread quantiles of an exponential distribution."""
    return -mean * np.log(1 - (np.arange(4000) + 0.5) / 4000)


def test_percentiles_are_those_of_an_m_m_1_queue():
    """Its time in system is exponential with rate mu - lambda."""
    queue = Replica(1, 10.0, exponential(0.1), 1.0)
    for share in (0.5, 0.95, 0.99):
        expected = -np.log(1 - share) / (10 - 6)
        assert queue.percentile(share, 6.0) == pytest.approx(expected, rel=0.02)


def test_a_request_alone_takes_what_it_took_alone_and_too_many_for_ever():
    """The ends of the load."""
    queue = Replica(2, 20.0, np.array([0.1] * 98 + [0.3] * 2), 0.1)
    assert queue.percentile(0.5, 0.0) == pytest.approx(0.1, abs=1e-3)
    assert queue.percentile(0.99, 0.0) == pytest.approx(0.3, abs=1e-3)
    assert queue.percentile(0.5, 20.0) == float("inf")


def test_the_highest_rate_meets_the_objective_and_one_more_percent_does_not():
    """`most` inverts `percentile`."""
    queue = Replica(2, 50.0, np.full(100, 0.03), 0.1)
    most = queue.most(0.99, 0.2)
    assert queue.percentile(0.99, most) <= 0.2 < queue.percentile(0.99, 1.01 * most)
    assert Replica(1, 5.0, np.full(100, 0.3), 0.1).most(0.99, 0.2) == 0


def test_a_queue_is_found_again_from_its_own_percentiles():
    """What is measured of a queue with four servers is fitted by one with four."""
    queue = Replica(4, 40.0, np.linspace(0.09, 0.11, 50), 0.01)
    points = [
        Point(rate, tuple(queue.percentile(s, rate) for s in (0.5, 0.95, 0.99)), 100, 0)
        for rate in (10.0, 20.0, 28.0, 34.0, 38.0)
    ]
    cost = Cost(0, 0, 0, 0, 0, 0)
    found = fitted(Measured(queue.alone, 40.0, points, cost, []))
    assert (found.servers, found.capacity) == (4, pytest.approx(40.0))
    assert typical_error(found, points) < 0.01
