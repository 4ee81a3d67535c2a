"""How many threads and photographs at once a gateway should have: `python -m loadtest.pools`.

For each number of cores, clients, gateways and model server together are kept to so many, and all
settings take turns in one run, as in ``loadtest.bench``. Beside them is the least that a gateway
in Python does, with Python's own event loop and with uvloop: what another loop would gain.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from loadtest import machine, photographs, pictures, processes, tables
from loadtest.arguments import amount, command, count
from loadtest.bench import contenders, report, rounds
from loadtest.bench.contenders import Contender
from loadtest.refusal import refuse

_RESULTS = Path("loadtest/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with each number of cores, keep every time, and print a table of each."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, most=100)
    pixels, bodies = pictures.digest(found), [one.body for one in found]
    told = []
    made = command("loadtest.pools", arguments)
    for cores in _possible(given.cores):
        plan = report.Plan(given.rounds, given.turns, given.seconds, 3 * cores, pixels)
        with _kept_to(cores):
            described = _measured(plan, cores, bodies, given, made)
        text = f"{cores} {'core' if cores == 1 else 'cores'}:\n\n{report.table(described)}"
        print(f"\n{text}")
        told.append(f"{text}\n\n{_links(cores)}")
    if given.record and given.results == _RESULTS:  # the README refers to these files
        tables.put("pools", "\n\n".join([*told, f"{machine.sentence(machine.facts())}."]))
    return 0


def _possible(wanted: Sequence[int]) -> Sequence[int]:
    """Refuse to measure with more cores than there are.

    Raises:
        SystemExit: it was asked for.
    """
    there = machine.usable_cores()
    if max(wanted) > there:
        refuse(f"{max(wanted)} cores cannot be measured here: this process may use {there}.")
    return wanted


@contextmanager
def _kept_to(cores: int) -> Iterator[None]:
    """Keep this process, and those that it starts, to so many cores."""
    before = os.sched_getaffinity(0)
    _keep_threads_to(set(sorted(before)[:cores]))
    try:
        yield
    finally:
        _keep_threads_to(before)


def _keep_threads_to(cores: set[int]) -> None:
    """Keep all threads of this process, gRPC's too, and those that they will start."""
    for thread in psutil.Process().threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.sched_setaffinity(thread.id, cores)


def _measured(
    plan: report.Plan, cores: int, bodies: list[bytes], given: argparse.Namespace, made: str
) -> dict[str, object]:
    with _running(cores, bodies, given.models) as compared:
        rounds.check_agreement(compared, len(bodies))
        times = rounds.interleaved(compared, plan.rounds, len(bodies))
        turns = rounds.saturated(compared, plan.turns, plan.clients, plan.seconds, len(bodies))
    run = report.Run(times, turns)
    described = report.record([run], plan, machine.facts(), set(), made)
    prefix = "" if given.record else "latest-"
    report.write(given.results, f"{prefix}pools-{cores}", described, [run])
    return described


@contextmanager
def _running(cores: int, bodies: list[bytes], models: Path) -> Iterator[list[Contender]]:
    """Start a model server, and before it a gateway for each pair of settings."""
    with ExitStack() as stack:
        server = stack.enter_context(processes.model_server(models=models))
        compared = contenders.bare(server, bodies)
        for workers, at_once in _settings(cores):
            given = {"WORKERS": str(workers), "MAX_IN_FLIGHT": str(at_once)}
            part = stack.enter_context(
                processes.gateway(server.address, **processes.PATIENT, **given)
            )
            name, url = f"threads {workers}, at once {at_once}", f"{part.address}/v1/classify"
            compared.append(contenders.over_http(name, url, bodies, part, server))
        for name, loop in {"asyncio": (), "uvloop": ("--uvloop",)}.items():
            asking = ("--model-server", server.address, *loop)
            part = stack.enter_context(processes.baseline("aiohttp_app", *asking))
            url = f"{part.address}/classify"
            compared.append(contenders.over_http(f"the least, {name}", url, bodies, part, server))
        yield compared


def _settings(cores: int) -> list[tuple[int, int]]:
    """Worker threads and photographs at once: one of both varied, the other the default."""
    threads = {(workers, cores + 1) for workers in (1, cores, 2 * cores)}
    at_once = {(cores, places) for places in (cores, cores + 1, 2 * cores, 4 * cores)}
    return sorted(threads | at_once)


def _links(cores: int) -> str:
    times, turns = (f"results/pools-{cores}-{what}.csv" for what in ("times", "turns"))
    return f"[Every time]({times}), [every turn]({turns})."


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.pools",
        description="A gateway's threads, and its photographs at once, by the number of cores.",
    )
    there = machine.usable_cores()
    cores = [number for number in (1, 2, 8) if number <= there]
    parser.add_argument("--cores", type=count, nargs="+", default=cores, metavar="N")
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--rounds", type=count, default=100, help="for one client")
    parser.add_argument("--turns", type=count, default=3, help="of each at saturation")
    parser.add_argument("--seconds", type=amount, default=4.0, help="of a turn")
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
