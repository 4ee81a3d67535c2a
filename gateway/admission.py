"""How many photographs are worked on at once, who waits, and who is turned away.

An endless queue makes everybody late. A short one, first come first served, answers the requests
that can still be answered in time and turns the others away at once: where the queue is full,
where the wait would be too long for the request's deadline, and where one client holds so much
that the others would get nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.allowance import Shares
from gateway.deadline import Clock, Deadline, RecentCost
from gateway.errors import Overloaded, TooManyAtOnce
from gateway.metrics import Metrics


@dataclass(frozen=True)
class Limits:
    """How much at once.

    ``in_flight`` photographs are worked on and ``waiting`` wait, each at most ``wait`` seconds;
    one client holds at most ``client_share`` of both together, where that is below 1.
    """

    in_flight: int
    waiting: int
    wait: float
    client_share: float

    @property
    def of_one_client(self) -> int:
        """How many photographs one client may have here, where its share is limited."""
        return max(1, int(self.client_share * (self.in_flight + self.waiting)))


class Admission:
    """Gives out the places."""

    def __init__(self, limits: Limits, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self._limits, self._metrics = limits, metrics
        self._places = asyncio.Semaphore(limits.in_flight)  # first come, first served
        self._waiting = 0
        self._shares = Shares(limits.of_one_client if limits.client_share < 1 else float("inf"))
        self._service = RecentCost(clock=clock)

    @asynccontextmanager
    async def place(
        self, client: str, deadline: Deadline, flexible: bool = False
    ) -> AsyncIterator[None]:
        """Hold one place for ``client``, which needs its answer before ``deadline``.

        With ``flexible`` it makes do with less than the usual time, should no more be left.

        Raises:
            TooManyAtOnce: the client holds its share already.
            Overloaded: none comes free in time.
        """
        self._check_share(client)
        with self._shares.holding(client, 1):
            await self._enter(deadline, flexible)
            try:
                with self._metrics.in_flight.track_inprogress():
                    yield
            finally:
                self._places.release()

    def answered(self, seconds: float) -> None:
        """Learn what one photograph took that was answered, without the waits of its own."""
        self._service.observe(seconds)

    def _check_share(self, client: str) -> None:
        if not self._shares.allow(client, 1):
            self._metrics.refusals.labels("client").inc()
            raise TooManyAtOnce(
                f"You have {self._shares.held[client]} photographs here that are not answered yet, "
                "as many as one client may have. Wait for an answer before you send another.",
                retry_after=self._foreseen_wait(),
            )

    async def _enter(self, deadline: Deadline, flexible: bool) -> None:
        """Take a place, after a wait where need be."""
        leeway = deadline.remaining() - (0.0 if flexible else self._service.mean())
        patience = min(self._limits.wait, leeway)
        limit = "deadline" if leeway < self._limits.wait else "wait"
        if leeway <= 0:
            raise self._refusal("deadline", f"{deadline.remaining():.2g} s are left for it")
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._waiting >= self._limits.waiting:
            raise self._refusal("queue", f"{self._waiting} are waiting already")
        if self._foreseen_wait() > patience:
            raise self._refusal(limit, f"it can wait {patience:.2g} s")
        await self._wait(patience, limit)

    async def _wait(self, patience: float, limit: str) -> None:
        self._waiting += 1
        try:
            with self._metrics.waiting.track_inprogress():
                async with asyncio.timeout(patience):
                    await self._places.acquire()
        except TimeoutError as error:
            raise self._refusal(limit, f"none came free within {patience:.2g} s") from error
        finally:
            self._waiting -= 1

    def _foreseen_wait(self) -> float:
        """Seconds until all who wait now, and one more, have a place; 0 where nothing is known."""
        return self._service.mean() * (self._waiting + 1) / self._limits.in_flight

    def _refusal(self, reason: str, circumstance: str) -> Overloaded:
        self._metrics.refusals.labels(reason).inc()
        return Overloaded(
            f"This photograph cannot be answered in time: {self._limits.in_flight} at once are "
            f"worked on, one takes about {self._service.mean():.2g} s, and {circumstance}. "
            "Try again in a moment, or give it more time.",
            retry_after=self._foreseen_wait(),
            short_of_time=reason == "deadline",
        )
