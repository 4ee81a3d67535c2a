"""How many photographs are worked on at once, and how long one waits to be let in.

An endless queue makes everybody late. A short one, with a limit on the wait, answers the
requests that can still be answered in time and turns the others away at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from gateway.errors import Overloaded


class Admission:
    """At most ``limit`` at once, each after at most ``max_wait`` seconds."""

    def __init__(self, limit: int, max_wait: float, in_flight: Gauge) -> None:
        self._places = asyncio.Semaphore(limit)
        self._limit, self._max_wait, self._in_flight = limit, max_wait, in_flight

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one place.

        Raises:
            Overloaded: none came free in time.
        """
        try:
            async with asyncio.timeout(self._max_wait):
                await self._places.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"{self._limit} photographs are being worked on and none finished within "
                f"{self._max_wait:g} s. Try again in a moment."
            ) from error
        try:
            with self._in_flight.track_inprogress():
                yield
        finally:
            self._places.release()
