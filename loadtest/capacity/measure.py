"""Measure one replica: alone, at saturation, and in open loops with Poisson arrivals."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from loadtest import arrivals, machine, predict, processes, sender
from loadtest.bench import contenders, rounds
from loadtest.gates import percentile
from loadtest.refusal import refuse
from loadtest.sender import Exchange
from loadtest.target import Target

SHARES = (0.5, 0.95, 0.99)
_LOADS = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9)
_PATH = "/v1/classify"


class Point(NamedTuple):
    """An open loop at ``rate`` a second: percentiles in seconds, and how many got no 200.

    Percentiles are of all that were sent; what got no 200 took longer than all else.
    """

    rate: float
    percentiles: tuple[float, ...]
    answered: int
    failed: int


@dataclass(frozen=True)
class Cost:
    """What one photograph takes.

    Processor seconds of the gateway, of these its event loop's, and of the model server; bytes
    from the client and back to it, and between gateway and model server.
    """

    gateway: float
    event_loop: float
    model_server: float
    received: float
    sent: float
    internal: float

    @property
    def processors(self) -> float:
        """Processor seconds in all."""
        return self.gateway + self.model_server


@dataclass(frozen=True)
class Measured:
    """Times alone in seconds, photographs a second at saturation, the open loops, the cost."""

    alone: NDArray[np.float64]
    capacity: float
    points: list[Point]
    cost: Cost
    exchanges: list[tuple[float, Exchange]]
    """Every exchange of the open loops, with the rate that it was sent at."""


def measure(
    bodies: list[bytes], models: Path, alone: int, seconds: float, late_ms: float
) -> Measured:
    """Start a replica and measure it: ``alone`` photographs of one client, then loads.

    Its gateway lets all wait: the times of a gateway that refuses are of no queue.

    Raises:
        SystemExit: more than 1 % of a load were not answered, or 1 % were sent more than
            ``late_ms`` late.
    """
    with (
        processes.model_server(models=models) as server,
        processes.gateway(server.address, **processes.PATIENT) as gateway,
    ):
        times, sent = _alone(gateway.address, bodies, alone)
        capacity, cost = _saturated(gateway, server, bodies, seconds, sent)
        loops = [
            (share * capacity, _open_loop(gateway.address, bodies, share * capacity, seconds))
            for share in _LOADS
        ]
    points = [_point(rate, exchanges, late_ms) for rate, exchanges in loops]
    every = [(rate, exchange) for rate, exchanges in loops for exchange in exchanges]
    return Measured(times, capacity, points, cost, every)


def _alone(url: str, bodies: list[bytes], count: int) -> tuple[NDArray[np.float64], float]:
    """Return one client's times in seconds, and the mean size of a reply in bytes."""
    times, sizes = [], []
    with contenders.http_client(url, _PATH, contenders.BINARY, bodies) as ask:
        for number in range(-5, count):
            started = time.perf_counter()
            reply = ask(number % len(bodies))
            if number >= 0:
                times.append(time.perf_counter() - started)
                sizes.append(len(reply))
    return np.array(times), float(np.mean(sizes))


def _saturated(
    gateway: processes.Part,
    server: processes.Part,
    bodies: list[bytes],
    seconds: float,
    reply_bytes: float,
) -> tuple[float, Cost]:
    """Load the gateway twice, metering the gateway's process and then the model server's."""

    def metering(part: processes.Part) -> contenders.Contender:
        return contenders.Contender(
            "gateway",
            lambda: contenders.http_client(gateway.address, _PATH, contenders.BINARY, bodies),
            lambda _: "",
            (part.process.pid,),
        )

    clients = 3 * machine.usable_cores()
    with _loop_share(gateway.process.pid) as share:
        turns = rounds.saturated(
            [metering(gateway), metering(server)], 1, clients, seconds, len(bodies)
        )
    if refused := sum(turn.refused for turn in turns):
        refuse(f"{refused} photographs were refused at saturation: that is no capacity.")
    of_gateway, of_server = (turn.cpu_seconds / turn.answered for turn in turns)
    capacity = sum(turn.answered for turn in turns) / sum(turn.seconds for turn in turns)
    return capacity, Cost(
        gateway=of_gateway,
        event_loop=of_gateway * share[0],
        model_server=of_server,
        received=float(np.mean([len(body) for body in bodies])),
        sent=reply_bytes,
        internal=float(len(predict.request(bodies[0]))),
    )


@contextmanager
def _loop_share(pid: int) -> Iterator[list[float]]:
    """Yield a list that then holds the main thread's share of a process's processor time."""
    process, share = psutil.Process(pid), [0.0]

    def seconds() -> tuple[float, float]:
        of_threads = {t.id: t.user_time + t.system_time for t in process.threads()}
        return of_threads[pid], sum(of_threads.values())

    main_before, all_before = seconds()
    yield share
    main_after, all_after = seconds()
    share[0] = (main_after - main_before) / max(all_after - all_before, 1e-9)


def _open_loop(url: str, bodies: list[bytes], rate: float, seconds: float) -> list[Exchange]:
    target = Target(url)
    requests_ready = [sender.request(target, _PATH, body) for body in bodies]
    return sender.open_loop(target, requests_ready, arrivals.poisson(rate, seconds, seed=7))


def _point(rate: float, exchanges: Sequence[Exchange], late_ms: float) -> Point:
    """Sum up a load.

    Raises:
        SystemExit: nothing was sent, or the sender was late, or a percentile is of no answer.
    """
    if not exchanges:
        refuse(f"Nothing was due at {rate:.2f} photographs a second: let it run for longer.")
    late = percentile([one.late_ms for one in exchanges], 99)
    if late > late_ms:
        refuse(
            f"At {rate:.1f} photographs a second 1 % were sent {late:.0f} ms late or more, where "
            f"{late_ms:g} are allowed: measure on a machine that is idle."
        )
    times = [one.ms / 1000 if one.status == 200 else math.inf for one in exchanges]
    percentiles = tuple(percentile(times, 100 * share) for share in SHARES)
    if math.isinf(percentiles[-1]):
        refuse(f"At {rate:.1f} photographs a second too few were answered: {_met(exchanges)}.")
    failed = sum(map(math.isinf, times))
    return Point(rate, percentiles, len(times) - failed, failed)


def _met(exchanges: Sequence[Exchange]) -> str:
    met = Counter(str(one.status or "no answer") for one in exchanges)
    return ", ".join(f"{count} x {outcome}" for outcome, count in met.most_common())
