"""Who makes load: people, programs, and what asks the model server without a gateway.

In a closed loop a user waits for the answer, thinks, and asks again. In an open loop each user is
a stream of one request a second on average, at instants that were drawn before (Poisson): they are
sent whatever became of those before, and their time counts from those instants. So many users are
so many requests a second, on any number of workers.

Timed is the exchange alone: bodies were made before, and a reply is judged when its time is over.

A process has one series of photographs under way at a time, as a laboratory counts one smear after
the other: a gateway lets one client have few of them at once.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle
from typing import Any, ClassVar

import gevent
import grpc
from gevent.event import Event
from gevent.pool import Group
from geventhttpclient import HTTPClient
from grpc.experimental import gevent as grpc_gevent
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest import requests
from loadtest.photographs import Photograph
from loadtest.predict import METHOD
from loadtest.requests import Reply, Request
from loadtest.samples import RIGHT, Sample
from loadtest.shapes import Shape, level_at
from loadtest.target import Target

grpc_gevent.init_gevent()

PATIENCE = 60.0
"""Seconds for one answer."""

_MOST_AT_ONCE = 1000  # connections of one user, in an open loop

_EPOCH = time.time() - time.perf_counter()

Make = Callable[[Sequence[Photograph], int], Iterator[Request]]

_ONE_AT_A_TIME: frozenset[Make] = frozenset({requests.differential})
_busy: set[Make] = set()


def now() -> float:
    """Tell the time, in seconds of the Unix epoch; nobody sets this clock while it runs."""
    return _EPOCH + time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """What all users of a process share.

    ``think`` is how long a person looks at an answer, in seconds on average; ``keep`` takes each
    sample.
    """

    target: Target
    model_server: str
    photographs: Sequence[Photograph]
    size: int
    think: float
    open_loop: bool
    shape: Shape
    keep: Callable[[Sample], None]


class Asking(User):
    """Sends requests of the kinds in ``kinds``, each as often as its figure says."""

    abstract = True
    protocol: ClassVar[str] = "HTTP"
    host = "http://127.0.0.1:8080"  # unless --host names another
    kinds: ClassVar[Mapping[Make, int]] = {}
    setting: ClassVar[Setting]
    ready: ClassVar[dict[Make, list[Request]]] = {}
    """The requests of each kind, with their right answers."""
    prepared: ClassVar[Event] = Event()
    began: ClassVar[float] = 0.0
    """When the test began, as ``now`` tells."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        Asking.prepared.wait()  # a worker is told to begin while it learns the right answers
        self._send = self.sender(self.setting)
        self._requests = {
            make: cycle(random.sample(kind, len(kind))) for make, kind in self.ready.items()
        }
        self._due = now()
        self._under_way = Group()

    @classmethod
    def sender(cls, setting: Setting) -> requests.Send:
        """Return what sends a request and returns the reply."""
        return gateway_sender(setting.target)

    @classmethod
    def prepare(cls, setting: Setting) -> list[Request]:
        """Make the requests and learn the right answers, from a service that is idle."""
        send = cls.sender(setting)
        Asking.setting = setting
        cls.ready = {
            make: requests.with_right_answers(make(setting.photographs, setting.size), send)
            for make in cls.kinds
        }
        return list(chain.from_iterable(cls.ready.values()))

    def wait_time(self) -> float:
        """Think, in a closed loop; the instants of an open one are drawn by ``ask``."""
        mean = 0.0 if self.setting.open_loop else self.setting.think
        return random.expovariate(1 / mean) if mean else 0.0

    @task
    def ask(self) -> None:
        """Send one request."""
        if not self.setting.open_loop:
            self._exchange(now(), self._level())
            return
        self._due += random.expovariate(1)
        gevent.sleep(max(0.0, self._due - now()))
        self._under_way.spawn(self._exchange, self._due, self._level())

    def _level(self) -> int:
        """Return the shape's level.

        Raises:
            StopUser: the test is over.
        """
        level = level_at(self.setting.shape, now() - self.began)
        if level is None:
            raise StopUser
        return level

    def on_stop(self) -> None:
        """Wait for what is under way."""
        self._under_way.join(timeout=PATIENCE)

    def _exchange(self, due: float, level: int) -> None:
        with self._kind() as kind:
            self._ask(next(self._requests[kind]), due, level)

    @contextmanager
    def _kind(self) -> Iterator[Make]:
        """Draw a kind; of a series none while the process has one under way."""
        free = {kind: often for kind, often in self.kinds.items() if kind not in _busy}
        (drawn,) = random.choices([*free], [*free.values()])  # noqa: S311  # no secret
        _busy.update(_ONE_AT_A_TIME & {drawn})
        try:
            yield drawn
        finally:
            _busy.discard(drawn)

    def _ask(self, request: Request, due: float, level: int) -> None:
        sent = now()
        reply = self._send(request)
        ended = now()
        sample = Sample(
            at=due,
            level=level,
            name=request.name,
            photographs=len(request.photographs),
            ms=(ended - due) * 1000,
            late_ms=(sent - due) * 1000,
            outcome=request.outcome(reply),
            server_timing=reply.server_timing,
        )
        self.setting.keep(sample)
        self._tell_locust(sample, len(reply.body))

    def _tell_locust(self, sample: Sample, length: int) -> None:
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=sample.name,
            response_time=sample.ms,
            response_length=length,
            exception=None if sample.outcome == RIGHT else RuntimeError(sample.outcome),
            context={},
        )


class Interactive(Asking):
    """A person who looks at one cell after the other."""

    kinds: ClassVar = {requests.interactive: 1}


class Explain(Asking):
    """A person who asks where another class was seen."""

    kinds: ClassVar = {requests.explain: 1}


class Batch(Asking):
    """A program that sends several photographs at once, to be classified or counted."""

    kinds: ClassVar = {requests.batch: 1, requests.differential: 1}


class Mixed(Asking):
    """All of them, as a laboratory's day may have them."""

    kinds: ClassVar = {
        requests.interactive: 8,
        requests.explain: 2,
        requests.batch: 1,
        requests.differential: 1,
    }


class ModelServer(Asking):
    """A gateway without a gateway: what the model server does by itself."""

    protocol = "gRPC"
    kinds: ClassVar = {requests.model_server: 1}

    @classmethod
    def sender(cls, setting: Setting) -> requests.Send:
        """Return what asks the model server."""
        return model_server_sender(setting.model_server)


def gateway_sender(target: Target) -> requests.Send:
    """Return what posts a request to a gateway, over connections of its own."""

    def context(**_: Any) -> ssl.SSLContext:
        return target.tls_context()

    client = HTTPClient.from_url(
        target.url,
        concurrency=_MOST_AT_ONCE,
        connection_timeout=PATIENCE,
        network_timeout=PATIENCE,
        ssl_context_factory=context,
    )

    def send(request: Request) -> Reply:
        headers = {**target.headers, **request.headers}
        try:
            reply = client.request("POST", request.path, request.body, headers)
            body = bytes(reply.read())
        except (OSError, http.client.HTTPException) as error:  # closed too early, or no HTTP
            return Reply(0, failure=type(error).__name__)
        return Reply(reply.status_code, body, str(reply.get("Server-Timing") or ""))

    return send


def model_server_sender(address: str) -> requests.Send:
    """Return what asks a model server, over a channel of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(address, options)
    predict = channel.unary_unary(METHOD)

    def send(request: Request) -> Reply:
        try:
            return Reply(200, predict(request.body, timeout=PATIENCE))
        except grpc.RpcError as error:
            return Reply(0, failure=f"{error.code().name}: {error.details()}")

    return send
