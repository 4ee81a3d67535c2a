"""A circuit breaker: after several failures in a row, leave the other side alone for a while.

Closed, it lets every call through. Open, it lets one through after each pause; the pauses grow,
to little more than a second, and are jittered, so that many gateways do not come back at once.
The first success closes it. A call that never reports back holds nothing up: the next pause is
over all the same. Pure but for its clock and its dice.

After M. Nygard, *Release It!* (2007).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Breaker:
    """Counts failures in a row; ``threshold`` of them open it."""

    _FIRST_PAUSE = 0.1
    _LONGEST_PAUSE = 1.0

    def __init__(
        self,
        threshold: int = 5,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311  # no secret
    ) -> None:
        self._threshold, self._clock, self._jitter = threshold, clock, jitter
        self._failures = 0
        self._pause, self._pause_end = 0.0, 0.0

    @property
    def open(self) -> bool:
        """Whether too many calls in a row have failed."""
        return self._failures >= self._threshold

    def pause(self) -> float:
        """Return for how many seconds no call is let through; 0: the next one is."""
        return max(0.0, self._pause_end - self._clock()) if self.open else 0.0

    def admit(self) -> bool:
        """Let a call through or not. While open this begins the next pause: one call a pause."""
        if self.pause() > 0:
            return False
        if self.open:
            self._begin_pause(min(2 * self._pause, self._LONGEST_PAUSE))
        return True

    def succeeded(self) -> None:
        """Report that the other side has answered."""
        self._failures = 0

    def failed(self) -> None:
        """Report that it has not."""
        self._failures += 1
        if self._failures == self._threshold:
            self._begin_pause(self._FIRST_PAUSE)

    def _begin_pause(self, seconds: float) -> None:
        self._pause, self._pause_end = seconds, self._clock() + seconds * self._jitter()
