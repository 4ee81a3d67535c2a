"""What one photograph takes of a replica: processor time, and bytes on the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil

from loadtest import predict, processes
from loadtest.bench import contenders
from loadtest.photographs import Photograph
from loadtest.usage import metered


@dataclass(frozen=True)
class Cost:
    """What one photograph takes.

    Processor seconds of the gateway, of these its event loop's, and of the model server; bytes
    from the client, back to it, to the model server and back from it, in messages' bodies: headers
    and TLS add a little.
    """

    gateway: float
    event_loop: float
    model_server: float
    received: float
    sent: float
    asked: float
    told: float

    @property
    def processors(self) -> float:
        """Processor seconds in all."""
        return self.gateway + self.model_server


@dataclass
class Meter:
    """Processor seconds of the gateway, of its event loop and of the model server."""

    gateway: float = 0.0
    event_loop: float = 0.0
    model_server: float = 0.0


@contextmanager
def metering(gateway: processes.Part, server: processes.Part) -> Iterator[Meter]:
    """Yield a meter that is complete when the block has ended."""
    meter, event_loop = Meter(), _main_thread(gateway)
    with metered([gateway.process.pid]) as ours, metered([server.process.pid]) as theirs:
        yield meter
        meter.event_loop = _main_thread(gateway) - event_loop
    meter.gateway, meter.model_server = ours.cpu_seconds, theirs.cpu_seconds


def of_one(
    meter: Meter,
    answered: int,
    gateway: processes.Part,
    server: processes.Part,
    found: Sequence[Photograph],
) -> Cost:
    """Divide by how many were ``answered``, and weigh each photograph's messages once."""
    bodies = [one.body for one in found]
    _, explained = contenders.bare(server, bodies)
    with (
        contenders.http_client(
            gateway.address, "/v1/classify", contenders.BINARY, bodies
        ) as from_gateway,
        explained.connect() as from_server,
    ):
        replies = [len(from_gateway(number)) for number in range(len(bodies))]
        answers = [len(from_server(number)) for number in range(len(bodies))]
    tensors = [len(predict.request(body)) for body in bodies]
    return Cost(
        gateway=meter.gateway / answered,
        event_loop=meter.event_loop / answered,
        model_server=meter.model_server / answered,
        received=_mean(len(body) for body in bodies),
        sent=_mean(replies),
        asked=_mean(tensors),
        told=_mean(answers),
    )


def _mean(sizes: Iterable[int]) -> float:
    return float(np.mean(list(sizes)))


def _main_thread(part: processes.Part) -> float:
    """Return the processor seconds of a process's first thread."""
    pid = part.process.pid
    (own,) = (thread for thread in psutil.Process(pid).threads() if thread.id == pid)
    return float(own.user_time + own.system_time)
