"""Is there still time for it? A request's deadline, and what such work took lately.

The clock is monotonic, in seconds. Pure but for reading it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True)
class Deadline:
    """The moment after which nobody waits for the answer; made once a request, and handed down."""

    end: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """Set the deadline ``seconds`` from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Return the seconds that are left, never fewer than 0."""
        return max(0.0, self.end - self.clock())


class RecentCost:
    """What a piece of work took lately: a moving average that forgets.

    It weighs the newest by a fifth. Where nothing was observed for ``memory`` seconds it is 0
    again: work that is not tried since it seems too dear is so tried again.
    """

    _WEIGHT = 0.2

    def __init__(self, memory: float = 10.0, clock: Clock = time.monotonic) -> None:
        self._memory, self._clock = memory, clock
        self._mean, self._observed = 0.0, -float("inf")

    @contextmanager
    def measured(self, per: float = 1.0) -> Iterator[None]:
        """Observe the seconds that a block takes for each of ``per``, unless it fails."""
        started = self._clock()
        yield
        self.observe((self._clock() - started) / per)

    def observe(self, cost: float) -> None:
        """Take one more into account."""
        before = self.mean() or cost
        self._mean = before + self._WEIGHT * (cost - before)
        self._observed = self._clock()

    def mean(self) -> float:
        """Return the average, in the unit that was observed; 0 where nothing is known."""
        return self._mean if self._clock() - self._observed < self._memory else 0.0
