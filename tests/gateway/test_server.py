"""The connections, below the application."""

import asyncio
import socket
import ssl

import pytest
import trustme
from aiohttp import web

from gateway.server import Runner

LARGE = 64 * 1024 * 1024


@pytest.fixture(params=["http", "https"])
async def runner(request):
    """A server of one large reply, whose clients may leave it unread for a moment only."""

    async def whole(_):
        return web.Response(body=bytes(LARGE))

    async def pieces(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(LARGE // 65536):
            await response.write(bytes(65536))
        return response

    app = web.Application()
    app.router.add_get("/whole", whole)
    app.router.add_get("/pieces", pieces)
    authority, tls = trustme.CA(), None
    if request.param == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(tls)
    runner = Runner(app, access_log=None, unread_seconds=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    runner.trust = None
    if tls:
        runner.trust = ssl.create_default_context()
        authority.configure_trust(runner.trust)
    yield runner
    await runner.cleanup()


async def connected(runner):
    name = "localhost" if runner.trust else None
    return await asyncio.open_connection(
        *runner.addresses[0], ssl=runner.trust, server_hostname=name
    )


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
@pytest.mark.parametrize("path", ["/whole", "/pieces"])
async def test_who_does_not_read_the_reply_is_left(runner, path):
    """The connection is closed, and what was to be sent is given up."""
    _, writer = await connected(runner)
    writer.transport.pause_reading()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(20):
        while not runner.server.requests_count:  # noqa: ASYNC110  # aiohttp tells nobody
            await asyncio.sleep(0.01)
        while runner.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    writer.transport.abort()


async def test_who_reads_gets_all_of_it(runner):
    """And then the next reply, on the same connection."""
    reader, writer = await connected(runner)
    for _ in range(2):
        writer.write(b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(LARGE)) == LARGE
    writer.transport.abort()
