"""Sends prepared requests at given instants, or as fast as answers come, and as cheaply as it can.

The load generator shares the machine with what it loads: requests are bytes that were made
before, and a reply is cut at its head and counted, nothing else. It runs in processes of its own,
so that nobody else's work makes it late; each exchange says how late it was.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loadtest import retry_after
from loadtest.target import Target

_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *([^\r]*?) *(?:\r|$)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_PATIENCE = 60.0  # seconds for one answer
_KEPT = 2048  # bytes of a reply's body: what is predicted comes first, and a problem is shorter


@dataclass(frozen=True)
class Exchange:
    """What became of one request.

    ``due`` is when it was to be sent, ``sent`` when it was and ``ended`` when all of its answer
    was there, in seconds from the start; ``status`` is 0 where the connection broke, or no answer
    came in time. ``retry_after`` is how long a refusal asks to wait, in seconds.
    """

    photograph: int
    due: float
    sent: float
    ended: float
    status: int
    retry_after: float | None
    body: bytes

    @property
    def ms(self) -> float:
        """From the instant in which it was due: a late sender hides nothing."""
        return (self.ended - self.due) * 1000

    @property
    def late_ms(self) -> float:
        """How late it was sent."""
        return (self.sent - self.due) * 1000


def request(target: Target, path: str, body: bytes) -> bytes:
    """Build a POST as it goes over the wire."""
    headers = {"Host": f"{target.host}:{target.port}", **target.headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Content-Type: application/octet-stream", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def open_loop(
    target: Target, requests: Sequence[bytes], instants: Sequence[float], senders: int = 1
) -> list[Exchange]:
    """Send one request at each instant (seconds from the start), whatever becomes of the others."""
    parts = [instants[number::senders] for number in range(senders)]
    return _in_processes([_Sending(target, requests, instants=part) for part in parts])


def closed_loop(
    target: Target, requests: Sequence[bytes], clients: int, seconds: float, senders: int = 1
) -> list[Exchange]:
    """Have each client send its next request once the last is answered.

    A refused one waits for as long as it was asked to, and no longer than until the end.
    """
    shares = [len(range(clients)[number::senders]) for number in range(senders)]
    return _in_processes(
        [_Sending(target, requests, clients=share, seconds=seconds) for share in shares]
    )


def each_once(target: Target, requests: Sequence[bytes]) -> list[Exchange]:
    """Have one client send each request once, however long that takes."""
    return _in_processes([_Sending(target, requests, clients=1, most=len(requests))])


@dataclass(frozen=True)
class _Sending:
    """What one process has to do: send at ``instants``, or as ``clients``.

    Clients send for ``seconds``, and ``most`` requests together.
    """

    target: Target
    requests: Sequence[bytes]
    instants: Sequence[float] = ()
    clients: int = 0
    seconds: float = math.inf
    most: int | None = None

    def run(self) -> list[Exchange]:
        return asyncio.run(self._take_turns() if self.clients else self._send_at_instants())

    async def _send_at_instants(self) -> list[Exchange]:
        send, start = self._sender()
        tasks: list[asyncio.Task[Exchange]] = []
        async with asyncio.TaskGroup() as group:
            for number, instant in enumerate(self.instants):
                await asyncio.sleep(start + instant - time.monotonic())
                tasks.append(group.create_task(send(number, instant)))
        return [task.result() for task in tasks]

    async def _take_turns(self) -> list[Exchange]:
        send, start = self._sender()
        numbers = itertools.islice(itertools.count(), self.most)

        async def client() -> list[Exchange]:
            done = []
            for number in numbers:
                if (now := time.monotonic() - start) >= self.seconds:
                    break
                done.append(await send(number, now))
                if wait := done[-1].retry_after:
                    await asyncio.sleep(min(wait, self.seconds - done[-1].ended))
            return done

        clients = await asyncio.gather(*(client() for _ in range(self.clients)))
        return list(itertools.chain.from_iterable(clients))

    def _sender(self) -> tuple[Callable[[int, float], Coroutine[Any, Any, Exchange]], float]:
        """Return what sends the request of a number that was due at an instant, and the start."""
        connections, start = _Connections(self.target), time.monotonic()

        async def send(number: int, due: float) -> Exchange:
            photograph = number % len(self.requests)
            answer = await connections.answer(self.requests[photograph])
            return Exchange(
                photograph,
                due,
                answer.sent - start,
                answer.ended - start,
                answer.status,
                answer.retry_after,
                answer.body,
            )

        return send, start


def _in_processes(sendings: Sequence[_Sending]) -> list[Exchange]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(sendings), mp_context=context) as pool:
        done = pool.map(_Sending.run, sendings)
        return sorted(itertools.chain.from_iterable(done), key=lambda exchange: exchange.due)


@dataclass
class _Answer:
    sent: float
    ended: float = 0.0
    status: int = 0
    retry_after: float | None = None
    body: bytes = b""


class _Connections:
    """Kept open and used again, the last one first; a new one where none is idle."""

    def __init__(self, target: Target, patience: float = _PATIENCE) -> None:
        self._target = target
        self._patience = patience
        self._tls = target.tls_context() if target.tls else None
        self._idle: list[_Connection] = []

    async def answer(self, request: bytes) -> _Answer:
        sent = time.monotonic()  # a service that is slow to take a connection is slow
        try:
            async with asyncio.timeout(self._patience):
                connection = self._kept() or await self._open()
                answer = await connection.answer(request, sent)
        except OSError:  # a TimeoutError is one
            return _Answer(sent, time.monotonic())
        if connection.usable:
            self._idle.append(connection)
        return answer

    def _kept(self) -> _Connection | None:
        """Return one that the service has not closed meanwhile."""
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
        return None

    async def _open(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._target.host, self._target.port, ssl=self._tls
        )
        return connection


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; replies have a Content-Length."""

    _last = False  # the service closes it after this reply

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return not (self._last or self._transport.is_closing())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()
        self._whole = 0  # bytes of the reply, once its head is there
        self._answer = _Answer(0.0)
        self._ended = asyncio.get_running_loop().create_future()

    async def answer(self, request: bytes, sent: float) -> _Answer:
        """Send a request and wait for its answer, or for the end of the connection."""
        self._received.clear()
        self._whole, self._answer = 0, _Answer(sent)
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._ended
        except asyncio.CancelledError:
            self._transport.abort()  # its answer may come yet, and is nobody's then
            raise
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole and _HEAD_END in self._received:
            self._read_head()
        if self._whole and len(self._received) >= self._whole:
            self._finish()

    def connection_lost(self, _: Exception | None) -> None:
        self._answer.status = 0
        self._finish()

    def _read_head(self) -> None:
        head, _, _ = bytes(self._received).partition(_HEAD_END)
        status, length = _STATUS.match(head), _LENGTH.search(head)
        asked = _RETRY_AFTER.search(head)
        assert status is not None, head
        assert length is not None, head
        self._answer.status = int(status[1])
        if asked:
            self._answer.retry_after = retry_after.seconds(
                asked[1].decode("latin-1"), datetime.now(UTC)
            )
        self._last = _CLOSE.search(head) is not None
        self._body = len(head) + len(_HEAD_END)
        self._whole = self._body + int(length[1])

    def _finish(self) -> None:
        if not self._ended.done():
            self._answer.ended = time.monotonic()
            if self._whole:
                self._answer.body = bytes(self._received[self._body : self._body + _KEPT])
            self._ended.set_result(None)
