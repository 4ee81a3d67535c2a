"""How long requests wait where several servers share one queue. Pure formulas.

``erlang_c`` is the probability to wait at all in M/M/c (A. K. Erlang, 1917; L. Kleinrock,
*Queueing Systems* 1, 1975, 3.5). ``mean_wait`` is Allen and Cunneen's approximation for arrivals
and services of any distribution, GI/G/c (A. Allen, *Probability, Statistics, and Queueing
Theory*, 2nd ed. 1990, 5.5.2):

    Wq = C(c, a) / (c mu - lambda) * (Ca^2 + Cs^2) / 2

exact for M/M/c and for M/G/1 (Pollaczek and Khinchine). The wait of those who wait is taken as
exponential, as it is in M/M/c, and nearly so elsewhere in heavy traffic (J. F. C. Kingman, 1962).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def erlang_c(servers: int, offered: float) -> float:
    """Return the share of arrivals that wait, ``offered`` = lambda / mu in erlangs.

    Raises:
        ValueError: as much is offered as the servers can do, or more.
    """
    if not 0 <= offered < servers:
        raise ValueError(f"{offered:g} erlangs are too many for {servers} servers")
    blocked = 1.0  # Erlang's B, by its recursion in the number of servers
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    load = offered / servers
    return blocked / (1 - load + load * blocked)


def mean_wait(
    servers: int, rate: float, service: float, scv_service: float, scv_arrivals: float = 1.0
) -> float:
    """Return the mean wait in seconds of all arrivals, those that do not wait included.

    Args:
        servers: c, how many are served at once.
        rate: lambda, arrivals a second.
        service: 1/mu, the mean time of a service in seconds.
        scv_service: Cs^2, the squared coefficient of variation of that time: variance / mean^2.
        scv_arrivals: Ca^2 of the time between arrivals; 1 for a Poisson process.
    """
    waiting = erlang_c(servers, rate * service)
    return waiting / (servers / service - rate) * (scv_arrivals + scv_service) / 2


@dataclass(frozen=True)
class Replica:
    """A replica as a queue in front of c servers, with ``capacity`` services a second together.

    ``alone`` are measured times of requests that met nobody, in seconds; a request's time is one
    of these plus its wait. ``scv`` is the squared coefficient of variation of the services.
    """

    servers: int
    capacity: float
    alone: NDArray[np.float64]
    scv: float

    def percentile(self, share: float, rate: float) -> float:
        """Return the time in seconds within which ``share`` of requests are answered.

        Infinite where ``rate`` reaches the capacity.
        """
        if rate >= self.capacity:
            return float("inf")
        service = self.servers / self.capacity
        waiting = erlang_c(self.servers, rate * service)
        wait = mean_wait(self.servers, rate, service, self.scv) / waiting if waiting else 0.0
        return self._bisected(share, waiting, wait)

    def _bisected(self, share: float, waiting: float, wait: float) -> float:
        """Find t with P(T <= t) = share, T = alone + wait, to a tenth of a millisecond."""
        low, high = 0.0, float(self.alone.max()) + 50 * wait
        while high - low > 1e-4:
            middle = (low + high) / 2
            if self._later(middle, waiting, wait) > 1 - share:
                low = middle
            else:
                high = middle
        return high

    def _later(self, seconds: float, waiting: float, wait: float) -> float:
        """P(T > seconds): the mean over what a request takes alone."""
        left = seconds - self.alone
        if wait <= 0:
            return float((left < 0).mean())
        waited = waiting * np.exp(-np.maximum(left, 0) / wait)
        return float(np.where(left < 0, 1.0, waited).mean())

    def most(self, share: float, seconds: float) -> float:
        """Return the highest rate at which ``share`` of requests take at most ``seconds``."""
        low, high = 0.0, self.capacity
        while high - low > 1e-3 * self.capacity:
            middle = (low + high) / 2
            if self.percentile(share, middle) <= seconds:
                low = middle
            else:
                high = middle
        return low
