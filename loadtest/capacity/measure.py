"""Measure one replica: in closed loops with 1, 2, … clients, and in open ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loadtest import arrivals, idle, machine, processes, sender
from loadtest.capacity import cost
from loadtest.capacity.cost import Cost
from loadtest.gates import percentile
from loadtest.photographs import Photograph
from loadtest.refusal import refuse
from loadtest.sender import Exchange
from loadtest.target import Target

SHARES = (0.5, 0.95, 0.99)
_LONE = 0.1  # of the capacity, at even distances: each request meets nobody
_LOADS = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9)


class Loop(NamedTuple):
    """A load, and its requests in each round.

    ``load`` is the number of clients in a closed loop, and photographs a second in an open one.
    """

    load: float
    rounds: list[list[Exchange]]

    @property
    def percentiles(self) -> tuple[float, ...]:
        """Percentiles in seconds of all that were sent; what got no 200 took longer than all."""
        return summed_up(
            [[e.ms / 1000 if e.status == 200 else math.inf for e in sent] for sent in self.rounds]
        )

    @property
    def rate(self) -> float:
        """How many a second were answered, in the middle round."""
        return float(np.median([_rate(sent) for sent in self.rounds]))

    @property
    def exchanges(self) -> list[Exchange]:
        """Those of all rounds."""
        return [one for sent in self.rounds for one in sent]


@dataclass(frozen=True)
class Measured:
    """Lone requests; closed loops with 1, 2, … clients; open loops, the lowest first; the cost."""

    lone: Loop
    closed: list[Loop]
    opened: list[Loop]
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """How often each load comes and for how long, and how late 99 % may be sent."""

    rounds: int
    seconds: float
    late_ms: float


def summed_up(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return a percentile for each of ``SHARES``: the middle one of the rounds'."""
    return tuple(
        float(np.median([percentile(times, 100 * share) for times in rounds])) for share in SHARES
    )


def measure(found: Sequence[Photograph], models: Path, plan: Plan) -> Measured:
    """Start a replica and measure it.

    Its gateway lets all wait: the times of a gateway that refuses are of no queue.

    Raises:
        SystemExit: a photograph is refused by the idle service, more than 1 % of a load were not
            answered, or 1 % were sent late.
    """
    places = machine.usable_cores() + 1  # the gateway's own choice where nothing is set
    settings = processes.PATIENT | {"MAX_IN_FLIGHT": str(places)}
    with (
        processes.model_server(models=models) as server,
        processes.gateway(server.address, **settings) as gateway,
    ):
        target = Target(gateway.address)
        idle.answered(target, found)
        requests = idle.requests(target, found)
        with cost.metering(gateway, server) as meter:
            busy = [
                sender.closed_loop(target, requests, places, plan.seconds)
                for _ in range(plan.rounds)
            ]
        capacity = float(np.median([_rate(sent) for sent in busy]))
        lone, closed, opened = _rounds(target, requests, capacity, places, plan)
        taken = cost.of_one(meter, sum(map(len, busy)), gateway, server, found)
    for loop in (lone, *opened):
        check(loop, plan.late_ms)
    return Measured(lone, closed, opened, taken)


def _rounds(
    target: Target, requests: list[bytes], capacity: float, places: int, plan: Plan
) -> tuple[Loop, list[Loop], list[Loop]]:
    """Measure each load once in each round: a machine whose speed drifts slows all alike."""
    lone = Loop(_LONE * capacity, [])
    closed = [Loop(clients, []) for clients in range(1, places + 1)]
    opened = [Loop(share * capacity, []) for share in _LOADS]
    for number in range(plan.rounds):
        evenly = [one / lone.load for one in range(math.ceil(lone.load * plan.seconds))]
        lone.rounds.append(sender.open_loop(target, requests, evenly))
        for loop in closed:
            clients = int(loop.load)
            loop.rounds.append(sender.closed_loop(target, requests, clients, plan.seconds))
        for loop in opened:
            instants = arrivals.poisson(loop.load, plan.seconds, seed=number)
            loop.rounds.append(sender.open_loop(target, requests, instants))
    return lone, closed, opened


def _rate(sent: Sequence[Exchange]) -> float:
    """Return how many a second were answered.

    Raises:
        SystemExit: not all were.
    """
    if not sent or _answered(sent) < len(sent):
        refuse(f"A client that waits for each answer did not get one: {_met(sent)}.")
    return len(sent) / max(one.ended for one in sent)


def _answered(sent: Sequence[Exchange]) -> int:
    return sum(one.status == 200 for one in sent)


def check(loop: Loop, late_ms: float) -> None:
    """Make sure that an open loop says something of the service.

    Raises:
        SystemExit: nothing was sent, or the sender was late, or a percentile is of no answer.
    """
    if not all(loop.rounds):
        refuse(f"Nothing was due at {loop.load:.2f} photographs a second: let it run for longer.")
    late = percentile([one.late_ms for one in loop.exchanges], 99)
    if late > late_ms:
        refuse(
            f"At {loop.load:.1f} photographs a second 1 % were sent {late:.0f} ms late or more, "
            f"where {late_ms:g} are allowed: measure on a machine that is idle."
        )
    if _answered(loop.exchanges) < SHARES[-1] * len(loop.exchanges):
        met = _met(loop.exchanges)
        refuse(f"At {loop.load:.1f} photographs a second too few were answered: {met}.")


def _met(sent: Sequence[Exchange]) -> str:
    met = Counter(str(one.status or "no answer") for one in sent)
    return ", ".join(f"{count} x {outcome}" for outcome, count in met.most_common())
