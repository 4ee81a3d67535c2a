"""A version on trial: a share of the requests ask it, and the stable one where it fails them.

Which requests is drawn from their ids, so that all photographs of one are read by one version and a
repeated request gets the same. A canary that fails is counted and logged, and its request is
answered by the stable version in the time that is left: later than without a trial, and seldom not
at all. Only where the servers are busy nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gateway import tracing
from gateway.breaker import Breaker
from gateway.deadline import Deadline
from gateway.errors import ModelMisbehaved, ModelUnavailable, ServiceError
from gateway.model_client import ModelClient, Prediction

_LOG = logging.getLogger(__name__)
Outcome = Literal["answered", "replaced", "failed"]
_Ask = Callable[[ModelClient, Deadline], Awaitable[Prediction]]


class Canary:
    """Two versions that are asked as if they were one."""

    def __init__(
        self,
        stable: ModelClient,
        canary: ModelClient,
        share: float,
        patience: float,
        tell: Callable[[Outcome], None],
        *,
        breaker: Breaker | None = None,
    ) -> None:
        """``share`` of the requests, 0 to 1, ask ``canary``; ``tell`` hears what came of each.

        They wait ``patience`` seconds for it, and half of their own time at most. After several in
        a row that waited or asked for nothing, ``breaker`` keeps the others from it.
        """
        self._stable, self._canary = stable, canary
        self._share, self._patience, self._tell = share, patience, tell
        self._breaker = breaker or Breaker()

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
        if not self._on_trial(deadline):
            return await ask(self._stable, deadline)
        if tried := await self._try(ask, deadline):
            self._tell("answered")
            return tried
        try:
            prediction = await ask(self._stable, deadline)
        except ServiceError:
            self._tell("failed")
            raise
        self._tell("replaced")
        return prediction

    def _on_trial(self, deadline: Deadline) -> bool:
        """Whether a request was drawn; one that is short of time would blame the canary for it."""
        trace = tracing.current()
        drawn_so = trace is not None and drawn(trace.request_id, self._share)
        return drawn_so and deadline.remaining() >= self._patience

    async def _try(self, ask: _Ask, deadline: Deadline) -> Prediction | None:
        """Ask the canary; None: it fails, or has failed too often."""
        if not self._breaker.admit():
            return None
        patience = min(self._patience, deadline.remaining() / 2)
        try:
            prediction = await ask(self._canary, Deadline.after(patience, deadline.clock))
        except (ModelUnavailable, ModelMisbehaved) as error:
            self._breaker.failed()
            why = ", ".join([type(error).__name__, *getattr(error, "__notes__", ())])
            _LOG.warning("the canary failed, and the stable version is asked: %s", why)
            return None
        self._breaker.succeeded()
        return prediction


def drawn(request_id: str, share: float) -> bool:
    """Tell whether a request is among the ``share``, 0 to 1; always the same for the same id."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
