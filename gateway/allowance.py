"""How much memory photographs may take, all of them together: as uploads, and while decoded.

The number of photographs at once says nothing of memory: one of 25 megapixels takes as much as
two hundred of those that a laboratory's camera gives. A large one waits a moment for room.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gateway.deadline import Deadline
from gateway.errors import Overloaded, TooManyAtOnce
from gateway.metrics import Metrics
from gateway.tracing import Stage, stage

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_BLOCK = 1024 * 1024  # bytes; an ordinary photograph's pixels stay below
_KEPT = 8 * 1024 * 1024  # bytes, of each thread; what an ordinary photograph takes in all


def return_large_blocks() -> None:
    """Have glibc hand large blocks back to the system once freed, and keep small ones at hand.

    Left alone it raises its own threshold, up to 32 MB, and keeps what pictures below that took,
    once for each thread. With the threshold set it would give back each small photograph's memory
    too, which the system clears again for the next. Elsewhere, nothing. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)


class Shares:
    """How much each client holds; one may hold at most ``most``, or one thing that is more."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.held: Counter[str] = Counter()

    def allow(self, client: str, amount: int) -> bool:
        """Tell whether ``client`` may have so much more."""
        held = self.held[client]
        return not held or held + amount <= self._most

    @contextmanager
    def holding(self, client: str, amount: int) -> Iterator[None]:
        """Count what ``client`` holds."""
        self.held[client] += amount
        try:
            yield
        finally:
            self.held[client] -= amount
            if not self.held[client]:
                del self.held[client]  # clients come and go


class Allowance:
    """At most ``total`` bytes, shared by those who hold some at the same time.

    What is needed is taken at once: nobody waits for more while others wait for what he holds.
    """

    def __init__(self, total: int, wait: float, metrics: Metrics, share: float = 1.0) -> None:
        """``wait`` is the longest wait for room, in seconds.

        One client holds at most ``share`` of the total, where that is below 1.
        """
        self.total = self._free = total
        self._wait, self._metrics = wait, metrics
        self._shares = Shares(share * total if share < 1 else float("inf"))
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def of(self, weight: int, deadline: Deadline, client: str = "") -> AsyncIterator[Stage]:
        """Hold ``weight`` bytes, at most ``total``; yield what the wait for them took.

        Raises:
            TooManyAtOnce: the client holds its share already.
            Overloaded: they did not come free in time.
        """
        if not self._shares.allow(client, weight):
            raise self._too_much_of_one()
        with self._shares.holding(client, weight):
            waited = await self._take(weight, deadline)
            try:
                yield waited
            finally:
                self._free += weight
                self._returned.set()  # nothing is awaited here that a cancellation could stop

    async def _take(self, weight: int, deadline: Deadline) -> Stage:
        waited = Stage()
        if weight > self._free:
            with stage("wait") as waited:
                await self._room(weight, deadline)
        self._free -= weight
        return waited

    async def _room(self, weight: int, deadline: Deadline) -> None:
        patience = min(self._wait, deadline.remaining())
        try:
            async with asyncio.timeout(patience):
                while weight > self._free:
                    self._returned.clear()
                    await self._returned.wait()
        except TimeoutError as error:
            raise self._none_came_free(short_of_time=patience < self._wait) from error

    def _none_came_free(self, *, short_of_time: bool) -> Overloaded:
        self._metrics.refusals.labels("memory").inc()
        return Overloaded(
            "Other photographs took all the memory that there is for them, for as long as this one "
            "could wait. Try again in a moment, or send less at once.",
            short_of_time=short_of_time,
        )

    def _too_much_of_one(self) -> TooManyAtOnce:
        self._metrics.refusals.labels("client").inc()
        return TooManyAtOnce(
            "What you sent and is not answered yet takes as much memory as one client may have. "
            "Wait for an answer before you send more.",
            retry_after=Overloaded.retry_after,
        )
