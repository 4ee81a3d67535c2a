"""The model server dies under load and is started again: `python -m loadtest.outage`.

Every request is to be answered: with 200, or with 503 while there is no model. What is counted
as other (a different status, a broken connection, no answer) makes the exit status 1, as does a
service that does not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import idle, photographs, processes
from loadtest.arguments import amount
from loadtest.photographs import Photograph
from loadtest.steady import Reply, counts, steady_load
from loadtest.target import Target

_MOST_RECOVERY = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; status 1 where a request got neither 200 nor 503, or there was no recovery."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, most=20)
    replies, killed, back = asyncio.run(_outage(found, given))
    phases = {
        "before": [r for r in replies if r.sent < killed],
        "down": [r for r in replies if killed <= r.sent < back],
        "back": [r for r in replies if back <= r.sent],
    }
    print(f"{given.rate:g} photographs a second; the model server is killed and started again")
    print(f"{'':<8}{'200':>6}{'503':>6}{'other':>7}{'p50 ms':>9}{'slowest ms':>12}")
    for name, phase in phases.items():
        print(_row(name, phase))
    other = [r.outcome for r in replies if r.outcome not in ("200", "503")]
    if other:
        print(f"other: {', '.join(sorted(set(other)))}")
    first = min((r.ended for r in phases["back"] if r.outcome == "200"), default=None)
    if first is None:
        print("no 200 after the model server was back")
        return 1
    print(f"first 200 after the model server's port was open: {first - back:.2f} s")
    return 1 if other else 0


async def _outage(found: list[Photograph], given: Any) -> tuple[list[Reply], float, float]:
    """Return the replies, and when the server was killed and its port was open again."""
    with ExitStack() as stack:
        first = stack.enter_context(processes.model_server(models=given.models))
        # all load comes from one address here
        gateway = stack.enter_context(processes.gateway(first.address, CLIENT_SHARE="1"))
        idle.answered(Target(gateway.address), found)
        url, bodies = f"{gateway.address}/v1/classify", [one.body for one in found]
        async with steady_load(url, bodies, given.rate) as replies:
            await asyncio.sleep(given.seconds)
            first.process.kill()
            first.process.wait()  # its port is closed now
            killed = time.monotonic()
            starting = asyncio.create_task(
                asyncio.to_thread(
                    stack.enter_context, processes.model_server(first.address, models=given.models)
                )
            )
            back = await _port_open(first.address)
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOST_RECOVERY):
                    await _answered(replies, back)
            await asyncio.sleep(given.seconds)
            await starting
    return replies, killed, back


async def _port_open(address: str) -> float:
    """Wait until somebody listens there; return when."""
    host, port = address.rsplit(":", 1)
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return time.monotonic()


async def _answered(replies: list[Reply], since: float) -> None:
    def answered() -> bool:
        return any(reply.outcome == "200" and reply.sent > since for reply in replies)

    while not answered():  # noqa: ASYNC110  # the replies are a plain list
        await asyncio.sleep(0.02)


def _row(name: str, phase: list[Reply]) -> str:
    ok, unavailable, other = counts(phase, "200", "503")
    took = [(reply.ended - reply.sent) * 1000 for reply in phase] or [0.0]
    p50, slowest = np.percentile(took, [50, 100])
    return f"{name:<8}{ok:>6}{unavailable:>6}{other:>7}{p50:>9.1f}{slowest:>12.1f}"


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.outage", description="The model server dies under load."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--rate", type=amount, default=10, help="photographs a second")
    parser.add_argument("--seconds", type=amount, default=3, help="of load before and after")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
