"""Below the application: refuses what is no HTTP as all else is, and leaves who does not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.middleware import MALFORMED

IDLE_SECONDS = 75.0
"""How long a connection is kept without a whole request head: longer than proxies keep theirs."""

UNREAD_SECONDS = 30.0
"""How long a client may take nothing of its reply before the system closes the connection."""

_READ_AHEAD = 64 * 1024  # bytes of a body, or twice that, wait on a connection while nobody reads

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Runner(web.AppRunner):
    """Run an application made by ``create_app``."""

    def __init__(
        self, app: web.Application, *, unread_seconds: float = UNREAD_SECONDS, **others: Any
    ) -> None:
        super().__init__(app, **others)
        self._unread_seconds = unread_seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        def make_request(message: RawRequestMessage, *others: Any) -> web.BaseRequest:
            return made.request_factory(_mended(message), *others)

        return _Server(
            made.request_handler,
            unread_seconds=self._unread_seconds,
            request_factory=make_request,
            keepalive_timeout=IDLE_SECONDS,
            read_bufsize=_READ_AHEAD,
            **made._kwargs,  # noqa: SLF001  # the base class has no way to name its server's class
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    """A connection.

    aiohttp itself would answer its parser's errors in plain text, and keep for ever what a client
    does not read.
    """

    __slots__ = ("_unread_seconds",)

    def __init__(self, manager: web.Server, *, unread_seconds: float, **others: Any) -> None:
        super().__init__(manager, **others)
        self._unread_seconds = unread_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        # a reply is written only once the system has all of it: then the process may end
        transport.set_write_buffer_limits(high=1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux, for TLS too: see tcp(7)
            connection = transport.get_extra_info("socket")
            milliseconds = int(1000 * self._unread_seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    # `handle_error`, which has a public name, can await no middleware
    def _make_error_handler(self, err_info: Any) -> Handler:
        answer = self._request_handler
        assert answer is not None  # the connection is open

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            request[MALFORMED] = err_info.message
            return await answer(request)

        return handle


def _mended(message: RawRequestMessage) -> RawRequestMessage:
    """Give what is no HTTP headers that can be asked, and forget what is not to be heeded.

    An ``Expect`` that is not understood may be ignored (RFC 9110, 10.1.1); aiohttp would refuse
    it in plain text, before any middleware.
    """
    expected = message.headers.get("Expect", "100-continue")
    if isinstance(message.headers, CIMultiDictProxy) and expected.lower() == "100-continue":
        return message
    headers = CIMultiDict(message.headers)
    headers.popall("Expect", None)
    return message._replace(headers=CIMultiDictProxy(headers))
