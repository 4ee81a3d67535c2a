"""Prepared requests on their way: connections that end, services that are silent."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from loadtest import retry_after, sender
from loadtest.target import Target

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def service(serve):
    """A target whose connections ``serve`` has, with their number; the server ends with them."""
    numbers = iter(range(1000))

    async def connected(reader, writer):
        try:
            await serve(next(numbers), reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Target(f"http://127.0.0.1:{port}")


async def test_a_kept_connection_that_was_closed_is_not_used_again():
    """Each connection is closed after its reply without a word; both requests are answered."""
    closed = asyncio.Queue()

    async def serve(number, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.put_nowait(number)

    async with service(serve) as target:
        connections = sender._Connections(target)
        request = sender.request(target, "/", b"")
        assert (await connections.answer(request)).status == 200
        (kept,) = connections._idle
        await closed.get()
        while kept.usable:  # noqa: ASYNC110  # until the end of the connection has arrived here
            await asyncio.sleep(0)
        assert (await connections.answer(request)).status == 200


async def test_a_silent_service_is_not_waited_for_for_ever():
    """No answer counts as a broken connection, and what comes later is nobody's answer."""

    async def serve(number, reader, writer):
        await reader.read()  # until the sender gives up

    async with service(serve) as target:
        connections = sender._Connections(target, patience=0.05)
        answer = await connections.answer(sender.request(target, "/", b""))
    assert answer.status == 0
    assert answer.ended > answer.sent
    assert not connections._idle


async def test_a_request_is_sent_when_it_asks_for_a_connection(monkeypatch):
    """What a service takes to accept is its own time, and not a late sender's."""
    loop = asyncio.get_running_loop()
    opened = []
    connect = loop.create_connection

    async def slow(*given, **named):
        opened.append(loop.time())
        return await connect(*given, **named)

    async def serve(number, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY)
        await reader.read()

    monkeypatch.setattr(loop, "create_connection", slow)
    async with service(serve) as target:
        answer = await sender._Connections(target).answer(sender.request(target, "/", b""))
        assert answer.sent <= opened[0] <= answer.ended


async def test_each_request_is_sent_once():
    """However slow the service is."""
    asked = []

    async def serve(number, reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked.append(head.split()[1])
            writer.write(REPLY)

    async with service(serve) as target:
        requests = [sender.request(target, f"/{number}", b"") for number in range(3)]
        exchanges = await asyncio.to_thread(sender.each_once, target, requests)
    assert asked == [b"/0", b"/1", b"/2"]
    assert [one.photograph for one in exchanges] == [0, 1, 2]


NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)  # the date of RFC 9110's examples


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, wait):
    """A date in any of HTTP's three forms; one that is over is no wait, and nonsense is nothing."""
    assert retry_after.seconds(value, NOW) == wait


async def test_a_refused_client_waits_as_it_is_asked_to_and_not_beyond_the_end():
    """A date that is over is not waited for; an hour is over when the load ends."""
    waits = [b"Sun, 06 Nov 1994 08:49:37 GMT", b"3600"]
    asked = 0

    async def serve(number, reader, writer):
        nonlocal asked
        while await reader.readuntil(b"\r\n\r\n"):
            wait = waits[min(asked, 1)]
            asked += 1
            writer.write(
                b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: " + wait + b" \r\n\r\n"
            )

    async with service(serve) as target:
        requests = [sender.request(target, "/", b"")]
        exchanges = await asyncio.to_thread(sender.closed_loop, target, requests, 1, 0.2)
    assert asked == 2
    assert [(one.status, one.retry_after) for one in exchanges] == [(503, 0.0), (503, 3600.0)]
