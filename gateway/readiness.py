"""Which model version is there to answer: asked at most once a second, for all probes together."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from gateway.deadline import Clock, Deadline

_PATIENCE = 0.8  # seconds: Kubernetes' probes wait one, unless told otherwise
_MEMORY = 1.0  # seconds


class Model(Protocol):
    """What is asked; ``ModelClient`` is the one there is."""

    async def available_version(self, deadline: Deadline) -> int:
        """Return the version that is served, or raise."""
        ...


class Readiness:
    """Remembers the last answer, a refusal too, for a second."""

    def __init__(self, model: Model, clock: Clock = time.monotonic) -> None:
        self._model, self._clock = model, clock
        self._asked: asyncio.Task[int] | None = None
        self._stale = 0.0

    async def version(self) -> int:
        """Return the version that the model server calls AVAILABLE, or did a moment ago.

        Raises:
            ServiceError: it has none, or does not answer within a probe's patience.
        """
        if self._asked is None or (self._asked.done() and self._clock() >= self._stale):
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)  # a probe that goes away leaves it to the others

    async def _ask(self) -> int:
        try:
            return await self._model.available_version(Deadline.after(_PATIENCE))
        finally:
            self._stale = self._clock() + _MEMORY
