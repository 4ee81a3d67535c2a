"""Good photographs before, while and after hostile requests: `python -m loadtest.hostile`.

In each round good photographs are sent one after the other three times: before hostile requests,
while several clients send those without a pause, and after. Medians are told as ratios to
`before`. The exit status is 1 where a good photograph was not answered before or after, or a
hostile request got another reply than a 4xx, 200, 503 or none.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import statistics
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from loadtest import idle, photographs, processes, tables
from loadtest.arguments import count
from loadtest.target import Target

_PHASES = ("before", "while", "after")
_PATIENCE = 5.0  # seconds for a reply to what is hostile
_HELD = "no reply"
_CLIENTS = 3  # that send what is hostile

_GOOD = "a good photograph"


class Reply(NamedTuple):
    """What one request got: ``status`` is one of HTTP, or _HELD, ``what`` it was, _GOOD or not."""

    round: int
    phase: str
    what: str
    status: str
    ms: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write every reply, and print the tables."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, most=20)
    with (
        processes.served(given.model_server, given.models) as model_server,
        # all comes from one address here
        processes.gateway(model_server, CLIENT_SHARE="1", DEADLINE="2") as gateway,
    ):
        idle.answered(Target(gateway.address), found)
        bodies = [one.body for one in found]
        replies = asyncio.run(_measure(gateway.address, bodies, given.rounds))
    tables.write_csv(given.raw, Reply._fields, (_row(reply) for reply in replies))
    good, others = _parted(replies)
    print(f"{_table(good)}\n\n{_hostile_table(others)}\n\nevery reply: {given.raw}")
    sentences = missed(replies)
    for sentence in sentences:
        print(f"Missed: {sentence}", file=sys.stderr)
    return 1 if sentences else 0


def missed(replies: list[Reply]) -> list[str]:
    """Say which good photographs were not answered, and what hostile ones got that is not meant."""
    good, others = _parted(replies)
    return [*_lost(good), *_unexpected(others)]


def _parted(replies: list[Reply]) -> tuple[list[Reply], list[Reply]]:
    """Return the good ones' and the others'."""
    good = [reply for reply in replies if reply.what == _GOOD]
    return good, [reply for reply in replies if reply.what != _GOOD]


def _lost(good: list[Reply]) -> Iterator[str]:
    lost = Counter(r.status for r in good if r.phase != "while" and r.status != "200")
    for status, number in sorted(lost.items()):
        yield f"{number} good photographs got {status} before or after the hostile requests."


def _unexpected(hostile: list[Reply]) -> Iterator[str]:
    met = Counter((r.what, r.status) for r in hostile if not _expected(r.status))
    for (what, status), number in sorted(met.items()):
        yield f"{what} got {status}, {number} times: 4xx, 200, 503 or no reply is expected."


def _expected(status: str) -> bool:
    return status in ("200", "503", _HELD) or status.startswith("4")


async def _measure(url: str, bodies: list[bytes], rounds: int) -> list[Reply]:
    replies: list[Reply] = []
    async with aiohttp.ClientSession(f"{url}/") as session:
        for number in range(rounds):
            for phase in _PHASES:
                corpus = _corpus(bodies[0]) if phase == "while" else {}
                async with _hostility(url, corpus, number) as hostile:
                    good = await _one_by_one(session, bodies)
                replies += [Reply(number, phase, *one) for one in (*good, *hostile)]
    return replies


_Met = tuple[str, str, float]
"""What it was, its status, and milliseconds."""


async def _one_by_one(session: aiohttp.ClientSession, bodies: list[bytes]) -> list[_Met]:
    taken = []
    for body in bodies:
        started = time.perf_counter()
        try:
            async with session.post("v1/classify", data=body) as response:
                await response.read()
            status = str(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        taken.append((_GOOD, status, (time.perf_counter() - started) * 1000))
    return taken


@asynccontextmanager
async def _hostility(url: str, corpus: dict[str, bytes], first: int) -> AsyncIterator[list[_Met]]:
    """Have several clients send the corpus from its nth on, again and again until the block ends.

    Yields what they met, which grows until then.
    """
    met: list[_Met] = []
    over = asyncio.Event()

    async def send(first: int) -> None:
        for what, raw in itertools.islice(itertools.cycle(corpus.items()), first, None):
            started = time.perf_counter()
            status = await _exchange(url, raw)
            met.append((what, status, (time.perf_counter() - started) * 1000))
            if over.is_set():
                return

    async with asyncio.TaskGroup() as group:
        for number in range(_CLIENTS):
            group.create_task(send(first + number * len(corpus) // _CLIENTS))
        yield met
        over.set()


async def _exchange(url: str, raw: bytes) -> str:
    """Send bytes as they are; return the status of the reply, of which no more is read."""
    address = urlsplit(url)
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(raw)
            line = await reader.readline()
            writer.close()
        return line.split()[1].decode() if line else _HELD
    except (TimeoutError, ConnectionError):
        return _HELD


def _corpus(good: bytes) -> dict[str, bytes]:
    """Requests that are broken, endless, or more work than they look, by what is wrong."""
    form = "multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
    noise = bytes(n * n % 251 for n in range(50_000))
    return {
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        "a header without end": b"GET / HTTP/1.1\r\nX: " + 20_000 * b"a",
        "a chunk of no length": _post("image/jpeg", b"zz\r\n", "Transfer-Encoding: chunked"),
        "a body that stops": _post("image/jpeg", good[:100], f"Content-Length: {len(good)}"),
        "a photograph that is cut off": _post("image/jpeg", good[: len(good) // 2]),
        "noise": _post("image/jpeg", good[:200] + noise),
        "an encoding that unpacks to 40 MB": _post(
            "image/jpeg", gzip.compress(bytes(40_000_000)), "Content-Encoding: gzip"
        ),
        "a header of 2500 megapixels": _post("image/png", _png(50_000, 50_000, rows=1)),
        "24 megapixels in 70 kB": _post("image/png", _png(6000, 4000, rows=4000)),
        "thousands of parts": _post(form, 5000 * (part + b"y\r\n") + b"--b--\r\n"),
        "a form that never begins": _post(form, 300_000 * b"a\r\n"),
    }


def _post(kind: str, body: bytes, *headers: str) -> bytes:
    own_length = any("Content-Length" in h or "chunked" in h for h in headers)
    length = () if own_length else (f"Content-Length: {len(body)}",)
    lines = ("POST /v1/classify HTTP/1.1", "Host: x", f"Content-Type: {kind}", *headers, *length)
    return "\r\n".join((*lines, "", "")).encode() + body


def _png(width: int, height: int, rows: int) -> bytes:
    """A grey PNG that says it has ``height`` rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(rows * (width + 1) * b"\0")
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _table(good: list[Reply]) -> str:
    rows, before = [], None
    for phase in _PHASES:
        own = [reply for reply in good if reply.phase == phase]
        answered = [reply.ms for reply in own if reply.status == "200"]
        median = statistics.median(answered) if answered else float("nan")
        before = before or median
        counts = [f"{len(own):,}", f"{len(answered):,}"]
        rows.append([phase, *counts, f"{median:.1f}", f"{median / before:.2f}"])
    return tables.markdown(["good photographs", "sent", "200", "p50, ms", "p50 / before"], rows)


def _hostile_table(hostile: list[Reply]) -> str:
    met = Counter((reply.what, reply.status) for reply in hostile)
    rows = [[what, status, f"{count:,}"] for (what, status), count in sorted(met.items())]
    return tables.markdown(["hostile", "status", "times"], rows)


def _row(reply: Reply) -> Sequence[object]:
    return (*reply[:-1], f"{reply.ms:.2f}")


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.hostile",
        description="Are good photographs answered as fast after hostile requests as before?",
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--model-server", metavar="HOST:PORT", help="one that runs already")
    parser.add_argument("--rounds", type=count, default=20)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/latest-hostile.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
