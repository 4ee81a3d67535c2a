"""How long requests take where a few at once share a service, and the others wait. Pure.

Limited processor sharing: at most k requests are served at once, all at the same speed, and who
comes then waits for a place, first come, first served (B. Avi-Itzhak and S. Halfin, *Expected
Response Times in a Non-Symmetric Time Sharing Queue with a Limited Number of Service Positions*,
ITC 12, 1988; J. Zhang and B. Zwart, *Steady State Approximations of Limited Processor Sharing
Queues in Heavy Traffic*, Queueing Systems 60, 2008).

How fast n at once are served is no assumption: it is the throughput that is measured with n
clients in a closed loop (the flow-equivalent server of K. M. Chandy, U. Herzog and L. Woo,
*Parametric Analysis of Queuing Networks*, IBM J. Res. Dev. 19, 1975). So nothing is fitted.

Who comes to an idle service is served more slowly, for its processors sleep and their caches are
cold: P. D. Welch's exceptional first service (*On a Generalized M/G/1 Queuing Process in Which the
First Customer of Each Busy Period Receives Exceptional Service*, Operations Research 12, 1964).

There is no formula for the percentiles of such a queue: it is simulated, request by request.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from loadtest import arrivals

_SIMULATED = 20_000  # requests


@dataclass(frozen=True)
class Replica:
    """A service that lets in as many requests at once as it has ``rates``.

    ``first`` are the times in seconds of requests that come to an idle service, ``next`` of those
    that come as soon as the last is answered, and ``rates`` how many a second are answered with
    1, 2, … of these at once.
    """

    first: NDArray[np.float64]
    next: NDArray[np.float64]
    rates: tuple[float, ...]

    @property
    def capacity(self) -> float:
        """How many a second are answered with all places taken."""
        return self.rates[-1]

    def times(self, instants: Sequence[float]) -> NDArray[np.float64]:
        """Return the seconds that each request takes which comes at these instants, in order."""
        dice, count = np.random.default_rng(7), len(instants)
        first, following = dice.choice(self.first, count), dice.choice(self.next, count)
        queue = _Queue([rate / self.rates[0] / at_once for at_once, rate in self._numbered()])
        for number, instant in enumerate(instants):
            queue.advance(instant)
            queue.come(float((following if queue.served else first)[number]))
        queue.advance(math.inf)
        return np.subtract(queue.ended, instants)

    def percentile(self, share: float, rate: float) -> float:
        """Return the seconds within which ``share`` of Poisson arrivals are answered.

        Infinite where ``rate`` reaches the capacity.
        """
        if rate >= self.capacity:
            return math.inf
        instants = arrivals.poisson(rate, _SIMULATED / rate, seed=7)
        return float(np.quantile(self.times(instants), share))

    def most(self, share: float, seconds: float) -> float:
        """Return the highest rate at which ``share`` of requests take at most ``seconds``."""
        low, high = 0.0, self.capacity
        while high - low > 5e-3 * self.capacity:
            middle = (low + high) / 2
            if self.percentile(share, middle) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def _numbered(self) -> enumerate[float]:
        return enumerate(self.rates, 1)


@dataclass
class _Queue:
    """Who is served and who waits. All who are served have got as much since the beginning as one
    who would have been served all the time, ``got``: each ends when that is its own sum.
    """

    speeds: list[float]
    now: float = 0.0
    got: float = 0.0
    served: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[tuple[float, int]] = field(default_factory=deque)
    ended: list[float] = field(default_factory=list)

    def come(self, work: float) -> None:
        self.ended.append(math.nan)
        self.waiting.append((work, len(self.ended) - 1))
        self._let_in()

    def advance(self, until: float) -> None:
        while self.served and (ends := self._next_end()) <= until:
            self.now = ends
            self.got, number = heappop(self.served)
            self.ended[number] = ends
            self._let_in()
        if self.served:
            self.got += (until - self.now) * self.speeds[len(self.served) - 1]
        self.now = until

    def _next_end(self) -> float:
        return self.now + (self.served[0][0] - self.got) / self.speeds[len(self.served) - 1]

    def _let_in(self) -> None:
        while self.waiting and len(self.served) < len(self.speeds):
            work, number = self.waiting.popleft()
            heappush(self.served, (self.got + work, number))
