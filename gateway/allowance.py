"""How much memory pictures may take while they are decoded, all of them together.

The number of photographs at once says nothing of memory: one of 25 megapixels takes as much as
two hundred of those that a laboratory's camera gives. A large one waits until there is room.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import Overloaded, PhotographTooLarge

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK = 1024 * 1024  # bytes; an ordinary photograph's pixels stay below


def return_large_blocks() -> None:
    """Have glibc hand each large block back to the system once it is freed; elsewhere, nothing.

    Left alone it raises its own threshold, up to 32 MB, and keeps what pictures below that took,
    once for each thread. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


class Allowance:
    """At most ``total`` bytes, shared by what is decoded at the same time."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._returned = asyncio.Condition()

    @asynccontextmanager
    async def of(self, weight: int, patience: float) -> AsyncIterator[None]:
        """Wait for room for ``weight`` bytes, at most ``patience`` seconds, and hold it.

        Raises:
            PhotographTooLarge: it would never be there.
            Overloaded: it did not come free in time.
        """
        if weight > self._total:
            raise PhotographTooLarge(
                f"Decoding this picture takes about {weight >> 20} MB of memory; at most "
                f"{self._total >> 20} MB are given to it. Scale it down, or save it as an "
                "ordinary (not progressive) JPEG."
            )
        try:
            async with asyncio.timeout(patience), self._returned:
                await self._returned.wait_for(lambda: weight <= self._free)
                self._free -= weight
        except TimeoutError as error:
            raise Overloaded(
                "Other large pictures took all the memory there is for decoding, for as long as "
                "there was time. Try again in a moment, or scale the picture down."
            ) from error
        try:
            yield
        finally:
            self._free += weight  # before anything that a cancellation could stop
            async with self._returned:
                self._returned.notify_all()
