"""What the gateway costs beside time: how soon it is ready, and its memory after many answers.

The model server is up already; ready is the first 200 of /readyz after the gateway's process was
begun. Then photographs are sent by a few clients, and the process's resident memory is read after
each tenth of them. Status 1 where a limit is passed; the limits are the project's own goals.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import aiohttp

from loadtest import photographs, processes
from loadtest.arguments import count

START_SECONDS = 1.5
"""The slowest median start that is called quick."""

MEMORY_MB = 150
GROWTH_MB = 5
"""The most that the later half of the requests may add."""

_STARTS = 5
_READINGS = 10
_CLIENTS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; return its exit status."""
    given = _parser().parse_args(arguments)
    bodies = photographs.read(given.photographs, given.most)
    with processes.model_server(models=given.models) as server:
        starts = [_seconds_to_ready(server.address) for _ in range(_STARTS)]
        with processes.gateway(server.address) as gateway:
            pid = gateway.process.pid
            memory = asyncio.run(_memory(gateway.address, pid, bodies, given.requests))
    _write(given.raw, starts, memory)
    print(_told(starts, memory))
    return 0 if _kept(starts, memory) else 1


def _seconds_to_ready(model_server: str) -> float:
    begun = time.perf_counter()
    with (
        processes.gateway(model_server) as gateway,
        urllib.request.urlopen(f"{gateway.address}/readyz", timeout=10),  # noqa: S310  # our own
    ):
        return time.perf_counter() - begun


async def _memory(url: str, pid: int, bodies: list[bytes], requests: int) -> dict[int, float]:
    """Send them; return the process's memory in MB by how many it had answered."""
    memory = {0: _resident_mb(pid)}
    left, answered = iter(range(requests)), itertools.count(1)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as clients:

        async def client() -> None:
            for number in left:
                await _answer(session, f"{url}/v1/classify", bodies[number % len(bodies)])
                if (done := next(answered)) % (requests // _READINGS or 1) == 0:
                    memory[done] = _resident_mb(pid)

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


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _growth_mb(memory: dict[int, float]) -> float:
    readings = list(memory.values())
    return readings[-1] - readings[len(readings) // 2]


def _kept(starts: list[float], memory: dict[int, float]) -> bool:
    quick = statistics.median(starts) < START_SECONDS
    return quick and max(memory.values()) < MEMORY_MB and _growth_mb(memory) < GROWTH_MB


def _told(starts: list[float], memory: dict[int, float]) -> str:
    readings = "  ".join(f"{done}: {mb:.0f}" for done, mb in memory.items())
    return (
        f"start to ready: {statistics.median(starts):.2f} s ({min(starts):.2f} to "
        f"{max(starts):.2f}, {len(starts)} starts); at most {START_SECONDS} are wanted\n"
        f"memory in MB after so many answers: {readings}; at most {MEMORY_MB} are wanted, and "
        f"{GROWTH_MB} more in the later half ({_growth_mb(memory):+.1f})"
    )


def _write(path: Path, starts: list[float], memory: dict[int, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "number", "value"])
        writer.writerows(["start s", n, f"{seconds:.3f}"] for n, seconds in enumerate(starts))
        writer.writerows(["memory MB", done, f"{mb:.1f}"] for done, mb in memory.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.footprint", description="How soon the gateway is ready, how large."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, metavar="DIR", help="default: models/hemavision")
    parser.add_argument("--most", type=count, default=100, help="photographs taken from DIR")
    parser.add_argument("--requests", type=count, default=10_000)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/footprint.csv"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
