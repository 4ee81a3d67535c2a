"""Steady load: one photograph after the other at a given rate, whatever becomes of them.

An open loop: a slow or failing service does not slow the sending down, so nothing hides.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

REFUSED = "refused"
"""The outcome of a request that was never sent: nobody took the connection."""


@dataclass(frozen=True)
class Reply:
    """What became of one request: its status, REFUSED, or the name of what went wrong.

    ``sent`` and ``ended`` are on the monotonic clock, in seconds.
    """

    outcome: str
    sent: float
    ended: float


@asynccontextmanager
async def steady_load(url: str, bodies: list[bytes], rate: float) -> AsyncIterator[list[Reply]]:
    """Send ``rate`` photographs a second; yield the replies, which grow until the block ends."""
    replies: list[Reply] = []
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as requests:

        async def post(body: bytes) -> None:
            sent = time.monotonic()
            outcome = await _outcome(session, url, body)
            replies.append(Reply(outcome, sent, time.monotonic()))

        async def send() -> None:
            next_one = time.monotonic()
            for body in itertools.cycle(bodies):
                requests.create_task(post(body))
                next_one += 1 / rate
                await asyncio.sleep(next_one - time.monotonic())

        sending = requests.create_task(send())
        try:
            yield replies
        finally:
            sending.cancel()  # and those under way are waited for


async def _outcome(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    try:
        async with session.post(url, data=body) as response:
            await response.read()
            return str(response.status)
    except aiohttp.ClientConnectorError:
        return REFUSED
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


def counts(replies: Iterable[Reply], *named: str) -> tuple[int, ...]:
    """Count the replies with each outcome of ``named``, then all others."""
    counted = Counter(reply.outcome for reply in replies)
    known = [counted.pop(outcome, 0) for outcome in named]
    return (*known, counted.total())
