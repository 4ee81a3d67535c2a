"""Good photographs before, while and after hostile requests: `python -m loadtest.hostile`.

In each round good photographs are sent one after the other three times: before hostile requests,
while several clients send those without a pause, and after. Medians are told as ratios to
`before`. The exit status is 1 where a good photograph was not answered before or after, or a
hostile request got another reply than a 4xx, 200 or 503.
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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest import photographs, processes, tables
from loadtest.arguments import count

_PHASES = ("before", "while", "after")
_PATIENCE = 5.0  # seconds for a reply to what is hostile
_HELD = "no reply"

Time = tuple[int, str, int, float]
"""Of one good photograph: round, phase, status and milliseconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write every time, and print the table."""
    given = _arguments(arguments)
    bodies = photographs.read(given.photographs, most=20)
    with (
        processes.served(given.model_server, given.models) as model_server,
        # all comes from one address here
        processes.gateway(model_server, CLIENT_SHARE="1", DEADLINE="2") as gateway,
    ):
        times, hostile = asyncio.run(_measure(gateway.address, bodies, given))
    _write(given.raw, times)
    print(_table(times))
    print("hostile:", ", ".join(f"{n} x {status}" for status, n in sorted(hostile.items())))
    well = all(status == 200 for _, phase, status, _ in times if phase != "while")
    return 0 if well and all(_expected(status) for status in hostile) else 1


def _expected(status: str) -> bool:
    return status in ("200", "503", _HELD) or status.startswith("4")


async def _measure(url: str, bodies: list[bytes], given: Any) -> tuple[list[Time], Counter[str]]:
    times: list[Time] = []
    hostile: Counter[str] = Counter()
    async with aiohttp.ClientSession(f"{url}/") as session:
        await _one_by_one(session, bodies)  # warm
        for number in range(given.rounds):
            for phase in _PHASES:
                async with _hostility(url, bodies[0], hostile, clients=3 * (phase == "while")):
                    taken = await _one_by_one(session, bodies)
                times += [(number, phase, status, ms) for status, ms in taken]
    return times, hostile


async def _one_by_one(
    session: aiohttp.ClientSession, bodies: list[bytes]
) -> list[tuple[int, float]]:
    taken = []
    for body in bodies:
        started = time.perf_counter()
        async with session.post("v1/classify", data=body) as response:
            await response.read()
        taken.append((response.status, (time.perf_counter() - started) * 1000))
    return taken


@asynccontextmanager
async def _hostility(
    url: str, good: bytes, seen: Counter[str], *, clients: int
) -> AsyncIterator[None]:
    """Have so many clients send all that is hostile, again and again, until the block ends."""
    corpus = list(_corpus(good).values())
    over = asyncio.Event()

    async def send(first: int) -> None:
        for raw in itertools.islice(itertools.cycle(corpus), first, None):
            seen[await _exchange(url, raw)] += 1
            if over.is_set():
                return

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(send(number * len(corpus) // clients))
        yield
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


def _table(times: list[Time]) -> str:
    lines = [f"{'':<8}{'sent':>6}{'200':>6}{'p50 ms':>9}{'p50 / before':>14}"]
    before = 0.0
    for phase in _PHASES:
        answered = [ms for _, p, status, ms in times if p == phase and status == 200]
        sent = sum(p == phase for _, p, _, _ in times)
        median = statistics.median(answered) if answered else float("nan")
        before = before or median
        row = f"{phase:<8}{sent:>6}{len(answered):>6}{median:>9.1f}{median / before:>14.2f}"
        lines.append(row)
    return "\n".join(lines)


def _write(path: Path, times: list[Time]) -> None:
    rows = ([number, phase, status, f"{ms:.2f}"] for number, phase, status, ms in times)
    tables.write_csv(path, ["round", "phase", "status", "ms"], rows)


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.hostile",
        description="Are good photographs answered as fast after hostile requests as before?",
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--model-server", metavar="HOST:PORT", help="one that runs already")
    parser.add_argument("--rounds", type=count, default=20)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/hostile.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
