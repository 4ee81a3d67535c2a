"""The gateway is told to stop under load: `python -m loadtest.drain`.

Every request that was sent is to be answered, and connections are to be refused only once the
gateway has said for its drain time that it stops. The exit status is 1 where it is otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from loadtest import idle, photographs, processes
from loadtest.arguments import amount
from loadtest.photographs import Photograph
from loadtest.steady import REFUSED, Reply, counts, steady_load
from loadtest.target import Target


@dataclass(frozen=True)
class _Seen:
    """What happened: times on the monotonic clock, in seconds."""

    replies: list[Reply]
    told: float
    ready: int
    status: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; status 1 where a request was lost, or refused too early."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, most=20)
    seen = asyncio.run(_drain(found, given))
    phases = {
        "before SIGTERM": [r for r in seen.replies if r.sent < seen.told],
        "after it": [r for r in seen.replies if r.sent >= seen.told],
    }
    print(f"{given.rate:g} photographs a second; SIGTERM with a drain of {given.drain:g} s")
    print(f"{'':<16}{'200':>6}{'503':>6}{'refused':>9}{'lost':>6}")
    for name, phase in phases.items():
        ok, unavailable, refused, lost = counts(phase, "200", "503", REFUSED)
        print(f"{name:<16}{ok:>6}{unavailable:>6}{refused:>9}{lost:>6}")
    first = min((r.sent for r in seen.replies if r.outcome == REFUSED), default=float("inf"))
    print(f"first refused {first - seen.told:.2f} s after SIGTERM")
    print(f"/readyz after SIGTERM: {seen.ready}; the gateway's exit status: {seen.status}")
    lost = counts(seen.replies, "200", "503", REFUSED)[-1]
    well = not lost and first - seen.told >= given.drain and (seen.ready, seen.status) == (503, 0)
    return 0 if well else 1


async def _drain(found: list[Photograph], given: Any) -> _Seen:
    with (
        processes.served(given.model_server, given.models) as model_server,
        # all load comes from one address here
        processes.gateway(model_server, CLIENT_SHARE="1", DRAIN=str(given.drain)) as gateway,
    ):
        idle.answered(Target(gateway.address), found)
        bodies = [one.body for one in found]
        async with (
            aiohttp.ClientSession() as session,
            steady_load(f"{gateway.address}/v1/classify", bodies, given.rate) as replies,
        ):
            await asyncio.sleep(given.seconds)
            told = time.monotonic()
            gateway.process.terminate()
            ready = await _not_ready(session, f"{gateway.address}/readyz")
            status = await asyncio.to_thread(gateway.process.wait, 60)
            await asyncio.sleep(0.5)  # of refused connections
    return _Seen(replies, told, ready, status)


async def _not_ready(session: aiohttp.ClientSession, url: str) -> int:
    """Ask until the answer is another than 200, for the signal may take a moment to arrive."""
    status = 200
    while status == 200:
        async with session.get(url) as response:
            status = response.status
    return status


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.drain", description="The gateway is told to stop under load."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--model-server", metavar="HOST:PORT", help="one that runs already")
    parser.add_argument("--rate", type=amount, default=20, help="photographs a second")
    parser.add_argument("--seconds", type=amount, default=2, help="of load before SIGTERM")
    parser.add_argument("--drain", type=float, default=1, help="HEMAVISION_DRAIN, in seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
