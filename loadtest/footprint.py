"""What the gateway costs beside time: how soon it is ready, and its memory after many answers.

The model server is up already; ready is the first 200 of /readyz after the gateway's process was
begun. Then photographs are sent by a few clients, and the process's resident memory is read after
each tenth of them; its highest is the kernel's own (VmHWM), which no reading misses. Status 1
where a limit is passed; the limits are the project's own goals.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import aiohttp

from loadtest import machine, photographs, pictures, processes, tables
from loadtest.arguments import count
from loadtest.refusal import refuse

START_SECONDS = 1.5
"""The slowest median start that is called quick."""

MEMORY_MB = 150
GROWTH_MB = 5
"""The most that the later half of the requests may add."""

_READINGS = 10
_READY_WITHIN = 30.0  # seconds
_PAUSE = 0.01  # seconds between two questions whether it is ready
_CLIENTS = 4
_RECORD = Path("loadtest/results/footprint.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; return its exit status."""
    given = _parser().parse_args(arguments)
    chosen = photographs.named(given.photographs, given.most)
    for photograph in chosen:
        pictures.decoded(photograph)
    bodies = [photograph.body for photograph in chosen]
    with processes.served(given.model_server, given.models) as server:
        starts = [_seconds_to_ready(server) for _ in range(given.starts)]
        with processes.gateway(server) as gateway:
            pid = gateway.process.pid
            memory = asyncio.run(_memory(gateway.address, pid, bodies, given.requests))
            # the kernel counts in batches of pages, and may have noted a little less than was read
            highest = max(_mb(pid, "VmHWM"), *memory.values())
    raw = _RECORD if given.record else given.raw
    _write(raw, starts, memory, highest)
    told = _told(starts, memory, highest)
    print(f"{told}\nevery reading: {raw}")
    if given.record:
        here = machine.sentence(machine.facts())
        link = f"[Every reading](results/{_RECORD.name})"
        tables.put("footprint", f"```\n{told}\n```\n\n{here}. {link}.")
    return 0 if _kept(starts, memory, highest) else 1


def _seconds_to_ready(model_server: str) -> float:
    begun = time.perf_counter()
    with processes.gateway(model_server) as gateway:
        wait_until_ready(gateway.address, begun + _READY_WITHIN)
        return time.perf_counter() - begun


def wait_until_ready(url: str, deadline: float) -> None:
    """Ask a gateway until it is ready, at most until ``deadline`` (of time.perf_counter).

    Raises:
        SystemExit: it is not ready by then; the sentence says what it answered.
    """
    while said := _not_ready(url):
        if time.perf_counter() >= deadline:
            refuse(f"The gateway is not ready in time: /readyz answered {said}")
        time.sleep(_PAUSE)


def _not_ready(url: str) -> str:
    """Return what /readyz says against it, or nothing."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10):  # noqa: S310  # our own
            return ""
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read().decode(errors='replace')}"


async def _memory(url: str, pid: int, bodies: list[bytes], requests: int) -> dict[int, float]:
    """Send them; return the process's memory in MB by how many it had answered."""
    memory = {0: _mb(pid, "VmRSS")}
    left, answered = iter(range(requests)), itertools.count(1)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as clients:

        async def client() -> None:
            for number in left:
                await _answer(session, f"{url}/v1/classify", bodies[number % len(bodies)])
                if (done := next(answered)) % (requests // _READINGS or 1) == 0:
                    memory[done] = _mb(pid, "VmRSS")

        for _ in range(_CLIENTS):
            clients.create_task(client())
    return memory


async def _answer(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    """Send a photograph until it is answered: a busy machine turns some away."""
    while True:
        async with session.post(url, data=body) as reply:
            await reply.read()
            if reply.status != HTTPStatus.SERVICE_UNAVAILABLE:
                reply.raise_for_status()
                return
        await asyncio.sleep(0.1)


def _mb(pid: int, field: str) -> float:
    """Read a field of /proc/PID/status that is in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _growth_mb(memory: dict[int, float]) -> float:
    """Compare the halves' highest; the first reading is before any answer."""
    _, *readings = memory.values()
    middle = max(1, len(readings) // 2)
    return max(readings[middle:], default=0.0) - max(readings[:middle], default=0.0)


def _kept(starts: list[float], memory: dict[int, float], highest: float) -> bool:
    quick = statistics.median(starts) < START_SECONDS
    return quick and highest < MEMORY_MB and _growth_mb(memory) < GROWTH_MB


def _told(starts: list[float], memory: dict[int, float], highest: float) -> str:
    readings = "  ".join(f"{done}: {mb:.0f}" for done, mb in memory.items())
    return (
        f"start to ready: {statistics.median(starts):.2f} s ({min(starts):.2f} to "
        f"{max(starts):.2f}, {len(starts)} starts); at most {START_SECONDS} are wanted\n"
        f"memory in MB after so many answers: {readings}; highest {highest:.0f}, at most "
        f"{MEMORY_MB} are wanted, and {GROWTH_MB} more in the later half "
        f"({_growth_mb(memory):+.1f})"
    )


def _write(path: Path, starts: list[float], memory: dict[int, float], highest: float) -> None:
    rows: list[list[object]] = [
        *(["start s", number, f"{seconds:.3f}"] for number, seconds in enumerate(starts)),
        *(["memory MB", done, f"{mb:.1f}"] for done, mb in memory.items()),
        ["highest memory MB", "", f"{highest:.1f}"],
    ]
    tables.write_csv(path, ["what", "number", "value"], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.footprint", description="How soon the gateway is ready, how large."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--model-server", metavar="HOST:PORT", help="one that runs already")
    parser.add_argument("--starts", type=count, default=5)
    parser.add_argument("--most", type=count, default=100, help="photographs taken from DIR")
    parser.add_argument("--requests", type=count, default=10_000)
    parser.add_argument("--raw", type=Path, default=_RECORD.with_name(f"latest-{_RECORD.name}"))
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    return parser


if __name__ == "__main__":
    sys.exit(main())
