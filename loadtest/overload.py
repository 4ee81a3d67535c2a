"""More than the service can do: `python -m loadtest.overload`.

Each round measures the capacity first, in a closed loop, and then offers a half, all, twice and
four times of it in an open loop (independent arrivals, sent whatever became of those before). The
exit status is 1 where goodput at the most is below 0.9 of the best, what is accepted is late, a
refusal is slow or lacks Retry-After, or an answer is wrong; 2 where the sender was late itself.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import answers, arrivals, photographs, processes, sender, target
from loadtest.answers import Answer
from loadtest.gates import percentile
from loadtest.refusal import STATUS, refuse
from loadtest.samples import RIGHT, WRONG
from loadtest.sender import Exchange
from loadtest.target import Target

CLOSED = 0.0
"""The load of the closed loop, which measures the capacity."""
FACTORS = (0.5, 1.0, 2.0, 4.0)
_CLIENTS = (2, 3, 4, 6)
_LATE_MS = 20.0


@dataclass(frozen=True)
class Outcome:
    """One request: its round, its load as a multiple of the capacity, and what became of it.

    ``outcome`` is RIGHT, WRONG or a status; ``ms`` counts from when it was due.
    """

    round: int
    load: float
    due: float
    late_ms: float
    ms: float
    outcome: str
    retry_after: str


@dataclass(frozen=True)
class Figures:
    """A load's figures over all rounds: rates a second, and milliseconds."""

    load: float
    offered: float
    goodput: float
    accepted: list[float]
    refused: list[float]


@dataclass(frozen=True)
class Demands:
    """What the service is to keep to."""

    goodput: float = 0.9
    accepted_ms: float = 200.0
    refused_ms: float = 100.0

    def missed(self, outcomes: Sequence[Outcome], loads: Sequence[Figures]) -> list[str]:
        """Say what was missed."""
        return [*_misbehaviour(outcomes), *self._goodput(loads), *self._slow(loads)]

    def _goodput(self, loads: Sequence[Figures]) -> Iterator[str]:
        best, most = max(one.goodput for one in loads), loads[-1]
        if most.goodput < self.goodput * best:
            yield (
                f"At {most.load:g} times the capacity {most.goodput:.1f} photographs a second were "
                f"answered in time, {most.goodput / best:.2f} of the best, {best:.1f}; "
                f"{self.goodput:g} is asked."
            )

    def _slow(self, loads: Sequence[Figures]) -> Iterator[str]:
        for one in loads:
            for what, times, most in (
                ("answers", one.accepted, self.accepted_ms),
                ("refusals", one.refused, self.refused_ms),
            ):
                if times and one.load != CLOSED and (p99 := percentile(times, 99)) > most:
                    yield (
                        f"At {one.load:g} times the capacity 1 % of the {what} took {p99:.0f} ms "
                        f"or more; {most:g} ms are allowed."
                    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write every request, draw, and judge."""
    given = _arguments(arguments)
    found = photographs.read(given.photographs, given.most)
    with _service(given) as service:
        target.check(service)
        outcomes = list(_measure(service, found, given))
    _write(given.raw, outcomes)
    loads = figures(outcomes, given.accepted_ms, given.seconds)
    print(_table(loads))
    print(f"every request: {given.raw}")
    if given.plot:
        from loadtest import overload_plot  # matplotlib takes a second

        overload_plot.draw(given.plot, loads, given.accepted_ms)
    return _judge(Demands(given.goodput, given.accepted_ms, given.refused_ms), outcomes, loads)


def _judge(demands: Demands, outcomes: Sequence[Outcome], loads: Sequence[Figures]) -> int:
    late = percentile([one.late_ms for one in outcomes if one.load != CLOSED], 99)
    if late > _LATE_MS:
        print(
            f"The sender could not keep up: 1 % of the requests were sent {late:.0f} ms late or "
            f"more, where {_LATE_MS:g} are allowed. Use more --senders, or another machine.",
            file=sys.stderr,
        )
        return STATUS
    missed = demands.missed(outcomes, loads)
    for sentence in missed:
        print(f"Objective missed: {sentence}", file=sys.stderr)
    if not missed:
        print("Objective met.")
    return 1 if missed else 0


@contextmanager
def _service(given: argparse.Namespace) -> Iterator[Target]:
    """Find the gateway that runs at --host, or run one with a model server of its own."""
    if given.host:
        yield Target(given.host, given.key, given.cacert)
        return
    settings = dict(setting.split("=", 1) for setting in given.set)
    with (
        processes.model_server(models=given.models) as model_server,
        # all load comes from one address here
        processes.gateway(
            model_server.address, **{"CLIENT_SHARE": "1", "LOG_LEVEL": "warning", **settings}
        ) as gateway,
    ):
        yield Target(gateway.address)


def _measure(
    service: Target, found: Sequence[bytes], given: argparse.Namespace
) -> Iterator[Outcome]:
    requests = [sender.request(service, given.path, body) for body in found]
    right = _right_answers(service, requests)
    for number in range(given.rounds):
        capacity, exchanges = _capacity(service, requests, given)
        yield from (_outcome(number, CLOSED, one, right) for one in exchanges)
        for factor in FACTORS:
            instants = arrivals.poisson(factor * capacity, given.seconds, seed=number)
            exchanges = sender.open_loop(service, requests, instants, given.senders)
            yield from (_outcome(number, factor, one, right) for one in exchanges)


def _right_answers(service: Target, requests: Sequence[bytes]) -> dict[int, Answer]:
    """Learn them from the idle service, which is warm then."""
    exchanges: list[Exchange] = []
    while len({one.photograph for one in exchanges}) < len(requests):
        taken = sender.closed_loop(service, requests, clients=1, seconds=0.2 * len(requests))
        if bad := [one for one in taken if one.status != 200]:
            refuse(f"A photograph got {bad[0].status} from an idle service: {bad[0].body!r}")
        exchanges += taken
    return {one.photograph: answers.results(one.body) for one in exchanges}


def _capacity(
    service: Target, requests: Sequence[bytes], given: argparse.Namespace
) -> tuple[float, list[Exchange]]:
    """Return the most photographs a second that any number of clients got answered, and how."""
    tried = [
        sender.closed_loop(service, requests, clients, given.seconds, given.senders)
        for clients in _CLIENTS
    ]
    best = max(tried, key=lambda exchanges: sum(one.status == 200 for one in exchanges))
    return sum(one.status == 200 for one in best) / given.seconds, best


def _outcome(number: int, load: float, one: Exchange, right: dict[int, Answer]) -> Outcome:
    outcome = str(one.status)
    if one.status == 200:
        same = answers.results(one.body).same_as(right[one.photograph])
        outcome = RIGHT if same else WRONG
    retry_after = one.retry_after or ""
    return Outcome(number, load, one.due, one.late_ms, one.ms, outcome, retry_after)


def figures(outcomes: Sequence[Outcome], in_time_ms: float, seconds: float) -> list[Figures]:
    """Sum up each load over the rounds; the least first."""
    rounds = 1 + max(one.round for one in outcomes)
    return [
        _of_load(load, [one for one in outcomes if one.load == load], in_time_ms, rounds * seconds)
        for load in sorted({one.load for one in outcomes})
    ]


def _of_load(
    load: float, outcomes: Sequence[Outcome], in_time_ms: float, seconds: float
) -> Figures:
    accepted = [one.ms for one in outcomes if one.outcome == RIGHT]
    return Figures(
        load=load,
        offered=len(outcomes) / seconds,
        goodput=sum(ms <= in_time_ms for ms in accepted) / seconds,
        accepted=accepted,
        refused=[one.ms for one in outcomes if _is_refusal(one)],
    )


def _is_refusal(one: Outcome) -> bool:
    return one.outcome in ("429", "503")


def _misbehaviour(outcomes: Iterable[Outcome]) -> list[str]:
    """Say what no load excuses."""
    wrong = [one for one in outcomes if one.outcome == WRONG]
    bare = [one for one in outcomes if _is_refusal(one) and not one.retry_after.isdigit()]
    others = [one for one in outcomes if one.outcome not in (RIGHT, WRONG) and not _is_refusal(one)]
    kinds = ", ".join(
        sorted({"no answer" if one.outcome == "0" else one.outcome for one in others})
    )
    return [
        *([f"{len(wrong)} answers differ from those of the idle service."] if wrong else []),
        *([f"{len(bare)} refusals have no Retry-After."] if bare else []),
        *([f"{len(others)} requests got neither an answer nor a refusal: {kinds}."] * bool(others)),
    ]


def _table(loads: Sequence[Figures]) -> str:
    best = max(one.goodput for one in loads)
    header = f"{'load':>8}{'offered/s':>11}{'in time/s':>11}{'of best':>9}"
    lines = [f"{header}{'p50 ms':>8}{'p99 ms':>8}{'refused':>9}{'p50 ms':>8}{'p99 ms':>8}"]
    for one in loads:
        name = "closed" if one.load == CLOSED else f"{one.load:g} x"
        rates = f"{one.offered:>11.1f}{one.goodput:>11.1f}{one.goodput / best:>9.2f}"
        lines.append(
            f"{name:>8}{rates}{_pair(one.accepted)}{len(one.refused):>9}{_pair(one.refused)}"
        )
    return "\n".join(lines)


def _pair(times: Sequence[float]) -> str:
    return "".join(f"{percentile(times, p):>8.0f}" if times else f"{'':>8}" for p in (50, 99))


def _write(path: Path, outcomes: Iterable[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    with aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "load", "due_s", "late_ms", "ms", "outcome", "retry_after"])
        for one in outcomes:
            times = f"{one.due:.3f}", f"{one.late_ms:.1f}", f"{one.ms:.1f}"
            writer.writerow([one.round, one.load, *times, one.outcome, one.retry_after])
    aside.replace(path)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.overload", description="More than the service can do."
    )
    add = parser.add_argument
    add("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    add("--most", type=int, default=20, help="photographs taken from DIR")
    add("--host", metavar="URL", help="a gateway that runs; else one is started")
    add("--key", default=os.environ.get("HEMAVISION_KEY"), help="its API key; or HEMAVISION_KEY")
    add("--cacert", metavar="FILE", help="the authority of its certificate")
    add("--models", type=Path, metavar="DIR", help="for the model server that is started")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="of the gateway started")
    add("--path", default="/v1/classify", help="what is asked")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=6.0, help="of each load")
    add("--senders", type=int, default=1, help="processes that send")
    add("--goodput", type=float, default=0.9, help="least share of the best at the most load")
    add("--accepted-ms", type=float, default=200.0, help="most that 99 %% of the answers take")
    add("--refused-ms", type=float, default=100.0, help="most that 99 %% of the refusals take")
    add("--raw", type=Path, default=Path("loadtest/results/latest-overload.csv"), metavar="FILE")
    add("--plot", type=Path, metavar="FILE", help="draw it as PNG")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
