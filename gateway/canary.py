"""A version on trial: a share of the requests ask it, and the stable one where it fails them.

Which requests is drawn from their ids, so that all photographs of one are read by one version and a
repeated request gets the same. A canary that fails is counted and logged, and its request is
answered by the stable version in the time that is left: who sent it has no part in the trial's
risk, and who runs it sees all of it. Only where the servers are busy nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gateway import tracing
from gateway.deadline import Deadline
from gateway.errors import ModelMisbehaved, ModelUnavailable, ServiceError
from gateway.model_client import ModelClient, Prediction

_LOG = logging.getLogger(__name__)
_PATIENCE = 1.0
"""Seconds that a request waits for the canary at most, and never more than half of its time."""

Outcome = Literal["answered", "replaced", "failed"]
_Ask = Callable[[ModelClient, Deadline], Awaitable[Prediction]]


class Canary:
    """Two versions that are asked as if they were one."""

    def __init__(
        self,
        stable: ModelClient,
        canary: ModelClient,
        share: float,
        tell: Callable[[Outcome], None],
    ) -> None:
        """``share`` of the requests, 0 to 1, ask ``canary``; ``tell`` hears what came of each."""
        self._stable, self._canary, self._share, self._tell = stable, canary, share, tell

    def refuse_if_given_up(self) -> None:
        """Raise where the stable version would not be asked at this moment.

        Raises:
            ModelUnavailable: the breaker lets no call through.
        """
        self._stable.refuse_if_given_up()

    async def predict(self, tensor: NDArray[np.uint8], deadline: Deadline) -> Prediction:
        """Classify; see ``ModelClient.predict``."""
        return await self._ask(lambda model, until: model.predict(tensor, until), deadline)

    async def explain(
        self, tensor: NDArray[np.uint8], class_index: int, deadline: Deadline
    ) -> Prediction:
        """Classify and explain; see ``ModelClient.explain``."""
        return await self._ask(
            lambda model, until: model.explain(tensor, class_index, until), deadline
        )

    async def _ask(self, ask: _Ask, deadline: Deadline) -> Prediction:
        trace = tracing.current()
        if trace is None or not drawn(trace.request_id, self._share):
            return await ask(self._stable, deadline)
        try:
            prediction, outcome = await self._try(ask, deadline)
        except ServiceError:
            self._tell("failed")
            raise
        self._tell(outcome)
        return prediction

    async def _try(self, ask: _Ask, deadline: Deadline) -> tuple[Prediction, Outcome]:
        try:
            return await ask(self._canary, _patience(deadline)), "answered"
        except (ModelUnavailable, ModelMisbehaved) as error:
            why = ", ".join([type(error).__name__, *getattr(error, "__notes__", ())])
            _LOG.warning("the canary failed, and the stable version is asked: %s", why)
        return await ask(self._stable, deadline), "replaced"


def _patience(deadline: Deadline) -> Deadline:
    return Deadline.after(min(_PATIENCE, deadline.remaining() / 2), deadline.clock)


def drawn(request_id: str, share: float) -> bool:
    """Tell whether a request is among the ``share``, 0 to 1; always the same for the same id."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
