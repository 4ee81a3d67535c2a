"""Classifying a series of photographs: a few at a time, with patience, and only while it matters.

Photographs are taken from the upload as there is room for them, and told of in their order. One
that cannot be read is a result; a service that is busy, or a model that is away for a moment, is
waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gateway.deadline import Deadline
from gateway.errors import (
    ModelUnavailable,
    Overloaded,
    RequestError,
    TooManyAtOnce,
)
from gateway.smear import Answer, Photograph, Row, Smear
from gateway.upload import Sent

_LEAST_PAUSE = 0.1  # seconds, before what was refused for the moment is tried again


@dataclass(frozen=True)
class Answered:
    """What the model said of a photograph, and which version."""

    answer: Answer
    model_version: int


Ask = Callable[[bytes, Deadline], Awaitable[Answered]]
"""Has one photograph classified before a deadline."""

Describe = Callable[[RequestError], Mapping[str, Any]]
"""Puts into words, as it is replied, why a photograph could not be read."""

Told = Callable[[Photograph], None]


class Patience:
    """How series share the service: with each other, and with those who ask about one photograph.

    All together hold at most ``places``; one of them ``at_once``. ``one`` is a single photograph's
    time in seconds, and ``go_on`` raises where there is no use in going on.
    """

    def __init__(self, places: int, at_once: int, one: float) -> None:
        self._places, self._one = asyncio.Semaphore(places), one
        self.at_once = at_once

    async def ask(
        self, ask: Ask, data: bytes, deadline: Deadline, go_on: Callable[[], None]
    ) -> Answered:
        """Ask until there is an answer, or a reason that does not pass.

        Raises:
            RequestError: the photograph cannot be read.
            ServiceError, TooManyAtOnce: there was no answer before ``deadline``.
        """
        while True:
            try:
                async with self._places:
                    go_on()
                    return await ask(data, Deadline.after(min(self._one, deadline.remaining())))
            except (Overloaded, ModelUnavailable, TooManyAtOnce) as error:
                pause = max(_LEAST_PAUSE, error.retry_after or 0.0)
                if deadline.remaining() <= pause:
                    raise
            await asyncio.sleep(pause)


@dataclass(frozen=True)
class Series:
    """One series under way.

    ``go_on`` raises where the work should end: nobody waits for it any more, or the service stops.
    """

    patience: Patience
    ask: Ask
    describe: Describe
    go_on: Callable[[], None]
    deadline: Deadline

    async def classify(self, sent: AsyncGenerator[Sent], told: Told) -> Smear:
        """Classify what is sent, and tell of each photograph in its order.

        Raises:
            HemaVisionError: the series as a whole came to nothing.
        """
        row, versions = Row(), set[int]()
        room = asyncio.Semaphore(self.patience.at_once)

        async def classify(one: Sent) -> None:
            try:
                photograph, answered = await self._one(one)
            finally:
                room.release()
            if answered:
                versions.add(answered.model_version)
            for settled in row.put(photograph):
                told(settled)

        try:
            async with aclosing(sent), asyncio.TaskGroup() as group:
                async for one in sent:
                    await room.acquire()
                    group.create_task(classify(one))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return Smear(tuple(row.photographs), tuple(sorted(versions)))

    async def _one(self, sent: Sent) -> tuple[Photograph, Answered | None]:
        if isinstance(sent.data, RequestError):
            return self._failed(sent, sent.data), None
        try:
            answered = await self.patience.ask(self.ask, sent.data, self.deadline, self.go_on)
        except TooManyAtOnce:
            raise
        except RequestError as error:
            return self._failed(sent, error), None
        return Photograph(sent.number, sent.name, answered.answer), answered

    def _failed(self, sent: Sent, error: RequestError) -> Photograph:
        return Photograph(sent.number, sent.name, problem=self.describe(error))
