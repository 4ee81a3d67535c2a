"""Take the times: one client in interleaved rounds, then each contender alone at saturation."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from loadtest.bench.contenders import Ask, Contender, Refused
from loadtest.bench.outcome import Turn
from loadtest.refusal import refuse
from loadtest.usage import metered

_WARMUP_ROUNDS = 5
_REFUSED_PAUSE = 0.01  # seconds; a client that is turned away does not hammer


@dataclass
class _Tally:
    answered: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, answered: bool) -> None:
        with self.lock:
            self.answered += answered
            self.refused += not answered


def check_agreement(contenders: Sequence[Contender], photographs: int) -> None:
    """Make sure that all name the same class for each photograph.

    Raises:
        SystemExit: they do not; the sentence names the photograph and what each said.
    """
    with ExitStack() as stack:
        clients = {c: stack.enter_context(c.connect()) for c in contenders}
        for number in range(photographs):
            said = {c.name: c.predicted(ask(number)) for c, ask in clients.items()}
            if len(set(said.values())) > 1:
                each = ", ".join(f"{name} says {predicted}" for name, predicted in said.items())
                refuse(f"The contenders disagree on photograph {number}: {each}.")


def interleaved(
    contenders: Sequence[Contender], rounds: int, photographs: int
) -> dict[str, list[float]]:
    """Return each contender's times in milliseconds, one a round, for one client.

    The order within a round is drawn, from a fixed seed: nobody always follows the same one.
    """
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    order, dice = list(times), random.Random(7)  # noqa: S311  # no secret
    with ExitStack() as stack:
        clients = {c.name: stack.enter_context(c.connect()) for c in contenders}
        for number in range(-_WARMUP_ROUNDS, rounds):
            dice.shuffle(order)
            for name in order:
                elapsed = _timed(clients[name], number % photographs)
                if number >= 0:
                    times[name].append(elapsed)
    return times


def _timed(ask: Ask, number: int) -> float:
    started = time.perf_counter()
    ask(number)
    return (time.perf_counter() - started) * 1000


def saturated(
    contenders: Sequence[Contender], turns: int, clients: int, seconds: float, photographs: int
) -> list[Turn]:
    """Let ``clients`` ask each contender without a pause, one contender after the other."""
    return [
        _turn(number, contender, clients, seconds, photographs)
        for number in range(turns)
        for contender in contenders
    ]


def _turn(
    number: int, contender: Contender, clients: int, seconds: float, photographs: int
) -> Turn:
    _closed_loop(contender, clients, seconds / 4, photographs)  # warm, and all clients connected
    with metered(contender.pids) as usage:
        started = time.perf_counter()
        tally = _closed_loop(contender, clients, seconds, photographs)
        elapsed = time.perf_counter() - started  # the last answers included, as in the counts
    return Turn(
        number,
        contender.name,
        elapsed,
        tally.answered,
        tally.refused,
        usage.cpu_seconds,
        usage.peak_bytes,
    )


def _closed_loop(contender: Contender, clients: int, seconds: float, photographs: int) -> _Tally:
    tally = _Tally()
    end = time.perf_counter() + seconds

    def client(offset: int) -> None:
        with contender.connect() as ask:
            for number in itertools.count(offset):
                if time.perf_counter() >= end:
                    break
                tally.count(_answered(ask, number % photographs))

    with ThreadPoolExecutor(clients) as pool:
        for outcome in [pool.submit(client, offset) for offset in range(clients)]:
            outcome.result()
    return tally


def _answered(ask: Ask, number: int) -> bool:
    try:
        ask(number)
    except Refused:
        time.sleep(_REFUSED_PAUSE)
        return False
    return True
