"""Several model servers behind the gateway's balancing: `python -m loadtest.fleet`.

Each server serves the same model under a version number of its own, so the gateway's metrics tell
which one answered: no proxy and no counter is in the way. Under a steady load each is to get its
even share, within 5 %; then one is stopped until calls hang at it, and killed, and no request is
to fail. Status 1 where it is otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import idle, machine, photographs, processes, tables
from loadtest.arguments import amount, count
from loadtest.photographs import Photograph
from loadtest.refusal import refuse
from loadtest.steady import Reply, counts, steady_load
from loadtest.target import Target

_MOST_UNEVEN = 0.05
_RESULTS = Path("loadtest/results")
_ANSWERED = re.compile(
    r'_rpc_duration_seconds_count\{code="OK",signature="gradcam",version="(\d+)"\} (\S+)'
)
_IN_FLIGHT = re.compile(r"^hemavision_photographs_in_flight (\S+)", re.MULTILINE)
_PATIENCE = 60  # seconds for what a load brings about
_HANGS = 0.5  # seconds: a server that runs has answered by then

_LINK = "[Every time](results/fleet-times.csv)."


@dataclass(frozen=True)
class Outcome:
    """What became of one fleet.

    ``answered`` counts what each server answered while all were there, ``survived`` what each
    did from when the first one was stopped, which was killed at ``killed`` with ``under_way`` calls
    at it.
    """

    answered: list[int]
    survived: list[int]
    before: list[Reply]
    after: list[Reply]
    under_way: int
    killed: float

    @property
    def unevenness(self) -> float:
        """The largest distance of a server's count from the even share, as a part of that."""
        even = sum(self.answered) / len(self.answered)
        return max(abs(count - even) for count in self.answered) / even if even else 1.0

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(counts(self.before + self.after, "200")[1:])

    @property
    def slowest(self) -> float:
        """The longest that anybody waited after the kill, in seconds."""
        return max(reply.ended - max(reply.sent, self.killed) for reply in self.after)

    @property
    def longest(self) -> float:
        """The longest that anybody waited at all, in seconds: at the stopped server as well."""
        return max(reply.ended - reply.sent for reply in self.before + self.after)

    def missed(self) -> list[str]:
        """Say what is not as it is to be."""
        sentences = []
        if self.unevenness > _MOST_UNEVEN:
            sentences.append(
                f"the shares ({', '.join(map(str, self.answered))}) are off even by "
                f"{100 * self.unevenness:.0f} %, where {100 * _MOST_UNEVEN:.0f} % are allowed."
            )
        if self.failed:
            met = Counter(r.outcome for r in self.before + self.after if r.outcome != "200")
            kinds = ", ".join(f"{number} x {outcome}" for outcome, number in met.most_common())
            sentences.append(f"{self.failed} requests were not answered with 200: {kinds}.")
        return sentences


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; status 1 where shares are uneven or a request failed."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, most=20)
    version = processes.newest_version(given.models)
    fleets = {size: _fleet(size, version, found, given) for size in given.servers}
    text = _table(fleets, given.rate)
    raw = given.results / f"{'' if given.record else 'latest-'}fleet-times.csv"
    _write(raw, fleets)
    print(f"{text}\n\nevery time: {raw}")
    if given.record and given.results == _RESULTS:  # the README refers to this file
        tables.put("fleet", f"{text}\n\n{machine.sentence(machine.facts())}.\n\n{_LINK}")
    missed = [(size, what) for size, outcome in fleets.items() for what in outcome.missed()]
    for size, sentence in missed:
        print(f"Missed: with {size} model servers {sentence}", file=sys.stderr)
    return 1 if missed else 0


def _fleet(size: int, version: Path, found: list[Photograph], given: argparse.Namespace) -> Outcome:
    with _running(size, version) as servers:
        address = ",".join(server.address for server in servers)
        # what is refused as too much is not the question
        with processes.gateway(address, **processes.PATIENT) as gateway:
            idle.answered(Target(gateway.address), found)
            bodies = [one.body for one in found]
            try:
                return asyncio.run(_load(gateway.address, servers, bodies, given))
            except TimeoutError:
                refuse(
                    f"With {size} model servers not all answered, or none hung when it was "
                    f"stopped, within {_PATIENCE} s: raise --rate, or see whether the machine is "
                    "idle."
                )


@contextmanager
def _running(size: int, version: Path) -> Iterator[list[processes.Part]]:
    """Run servers of one model; the nth calls it version n."""
    with tempfile.TemporaryDirectory() as folder:
        bases = [Path(folder, f"server{number}") for number in range(1, size + 1)]
        for number, base in enumerate(bases, 1):
            base.mkdir()
            (base / str(number)).symlink_to(version.resolve())
        servers = [processes.model_server(models=base) for base in bases]
        with processes.together(*servers) as running:
            yield running


async def _load(
    url: str, servers: list[processes.Part], bodies: list[bytes], given: argparse.Namespace
) -> Outcome:
    async with steady_load(f"{url}/v1/classify", bodies, given.rate) as replies:
        await _connected(url, servers)
        warm, start = time.monotonic(), await _counted(url, servers)
        await asyncio.sleep(given.seconds)
        middle = await _counted(url, servers)
        servers[0].process.send_signal(signal.SIGSTOP)
        under_way = await _hanging(url)
        servers[0].process.kill()
        killed = time.monotonic()
        await asyncio.sleep(given.seconds)
    end = await _counted(url, servers)
    return Outcome(
        [now - before for now, before in zip(middle, start, strict=True)],
        [now - before for now, before in zip(end, middle, strict=True)],
        [reply for reply in replies if warm <= reply.sent and reply.ended < killed],
        [reply for reply in replies if reply.ended >= killed],
        under_way,
        killed,
    )


async def _connected(url: str, servers: list[processes.Part]) -> None:
    """Wait until every server has answered."""
    async with asyncio.timeout(_PATIENCE):
        while not all(await _counted(url, servers)):  # noqa: ASYNC110  # the gateway's own count
            await asyncio.sleep(0.1)


async def _hanging(url: str) -> int:
    """Wait until calls hang, for half a second without an answer from anybody; return how many."""
    async with asyncio.timeout(_PATIENCE):
        before = await _metrics(url)
        while True:
            await asyncio.sleep(_HANGS)
            now = await _metrics(url)
            hanging = min(_in_flight(before), _in_flight(now))
            if hanging and _ANSWERED.findall(before) == _ANSWERED.findall(now):
                return hanging
            before = now


async def _counted(url: str, servers: Sequence[processes.Part]) -> list[int]:
    """What each server has answered so far, by the gateway's metrics."""
    found = {int(v): float(n) for v, n in _ANSWERED.findall(await _metrics(url))}
    return [int(found.get(number, 0)) for number in range(1, len(servers) + 1)]


def _in_flight(metrics: str) -> int:
    (count,) = _IN_FLIGHT.findall(metrics)
    return int(float(count))


async def _metrics(url: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:  # noqa: S310  # ours
            return str(reply.read().decode())

    return await asyncio.to_thread(read)


def _table(fleets: dict[int, Outcome], rate: float) -> str:
    rows = [
        [
            str(size),
            ", ".join(map(str, outcome.answered)),
            f"{100 * outcome.unevenness:.1f} %",
            str(outcome.under_way),
            ", ".join(map(str, outcome.survived)),
            f"{outcome.failed} of {len(outcome.before) + len(outcome.after)}",
            f"{1000 * outcome.slowest:.0f}",
            f"{1000 * outcome.longest:.0f}",
        ]
        for size, outcome in fleets.items()
    ]
    header = ["model servers", "each answered", "off even by at most",
              "under way at the first when it was killed", "answered from the stop on",
              "failed", "longest wait from the kill on, ms",
              "longest wait in all, ms"]  # fmt: skip
    return f"{rate:g} photographs a second:\n\n{tables.markdown(header, rows)}"


def _write(path: Path, fleets: dict[int, Outcome]) -> None:
    rows = (
        [size, phase, f"{reply.sent - outcome.killed:.3f}", reply.outcome,
         f"{1000 * (reply.ended - reply.sent):.1f}"]
        for size, outcome in fleets.items()
        for phase in ("before", "after")
        for reply in getattr(outcome, phase)
    )  # fmt: skip
    header = ["model servers", "phase", "sent, s after the kill", "outcome", "ms"]
    tables.write_csv(path, header, rows)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.fleet", description="Several model servers; one is killed."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--servers", type=count, nargs="+", default=[2, 4], metavar="N")
    parser.add_argument("--rate", type=amount, default=20, help="photographs a second")
    parser.add_argument("--seconds", type=amount, default=15, help="of load before and after")
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
