"""`hemavision classify`: send photographs, print each outcome, write the overlays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.ask import overlays, photographs
from gateway.ask.block import show_block
from gateway.ask.client import Gateway, GatewayUnusable, Json, Refused, problem, with_advice
from gateway.ask.crew import Crew
from gateway.ask.outcome import Outcome, Tally
from gateway.ask.photographs import Photograph, TooLong
from gateway.ask.table import Table
from gateway.ask.terminal import Progress, tell

INTERRUPTED = 130


class Order(NamedTuple):
    """What was asked for: ``options`` are the query of `/v1/classify`."""

    options: Mapping[str, str]
    overlays: Path | None
    jobs: int
    as_json: bool


def classify(named: Sequence[Path], gateway: Gateway, order: Order) -> int:
    """Send what is named, print the outcomes in that order, and return the exit status.

    0: all were answered, be it with `not sure`; 1: some were refused, or an overlay could not be
    written; 130: interrupted.

    Raises:
        NothingToSend, NoPlace: nothing was sent.
        GatewayUnusable: the rest was not sent; what was answered before is printed.
    """
    wanted = photographs.find(named)
    if order.overlays is not None:
        overlays.prepare(order.overlays, wanted)
    crew = Crew(partial(_one, gateway, order), wanted, min(order.jobs, len(wanted)))
    printed = _Printed(wanted, as_json=order.as_json)
    try:
        for outcome in crew.results():
            printed.add(outcome)
    except (KeyboardInterrupt, GatewayUnusable) as error:
        for outcome in crew.stop():
            printed.add(outcome)
        printed.close()
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        raise with_advice(error) from error
    printed.close()
    return 1 if printed.tally.problems else 0


class _Printed:
    """What was printed so far, with a bar below it."""

    def __init__(self, wanted: Sequence[Photograph], *, as_json: bool) -> None:
        self.tally = Tally()
        self._asked = len(wanted)
        self._progress = Progress(self._asked)
        self._table = None if as_json or self._asked == 1 else Table(wanted)
        self._show = _show_line if as_json else self._table.show if self._table else show_block
        self._progress.draw(0)

    def add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        self._progress.clear()
        self._show(outcome)
        self._progress.draw(self.tally.total)

    def close(self) -> None:
        self._progress.clear()
        if self._table is not None and self.tally.total:
            self._table.close(self.tally, self._asked)


def _show_line(outcome: Outcome) -> None:
    tell(json.dumps(outcome.as_json()))


def _one(gateway: Gateway, order: Order, photograph: Photograph) -> Outcome:
    """Everything that happens to one photograph, in a thread of the crew."""
    try:
        reply = gateway.classify(photograph.read(), order.options)
    except Refused as error:
        return Outcome(photograph, None, None, error.problem)
    except (OSError, TooLong) as error:
        return Outcome(photograph, None, None, _unreadable(error))
    if order.overlays is None:
        return Outcome(photograph, reply, None, None)
    try:
        path = overlays.write(order.overlays, photograph, reply["heatmap"].pop("data"))
    except OSError as error:
        detail = f"The overlay could not be written: {_words(error)}."
        told = problem("overlay-not-written", "Overlay not written", detail)
        return Outcome(photograph, reply, None, told)
    return Outcome(photograph, reply, str(path), None)


def _unreadable(error: Exception) -> Json:
    return problem("unreadable-file", "Unreadable file", f"It cannot be read: {_words(error)}.")


def _words(error: Exception) -> str:
    return f"{getattr(error, 'strerror', None) or error}"
