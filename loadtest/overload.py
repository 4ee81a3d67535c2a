"""More than the service can do: `python -m loadtest.overload`.

First comes the number of clients that gets most answered in a closed loop. Each round measures the
capacity with so many, and then offers a half, all, twice and four times of it in an open loop
(independent arrivals, sent whatever became of those before). The exit status is 1 where goodput at
the most is below 0.9 of the best, what is accepted is late, a refusal is slow or lacks Retry-After,
or an answer is wrong; 2 where the sender was late itself, or an open loop got over a tenth more
answered than the capacity, unless something came that no load excuses.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import (
    answers,
    arrivals,
    idle,
    machine,
    photographs,
    processes,
    sender,
    tables,
)
from loadtest.answers import Answer
from loadtest.arguments import amount, command, count
from loadtest.gates import percentile
from loadtest.photographs import Photograph
from loadtest.refusal import STATUS, refuse
from loadtest.samples import RIGHT, WRONG
from loadtest.sender import Exchange
from loadtest.target import Target

CLOSED = 0.0
"""The load of the closed loop, which measures the capacity."""
FACTORS = (0.5, 1.0, 2.0, 4.0)
_CLIENTS = (2, 3, 4, 6, 8)
_LATE_MS = 20.0
_MORE_THAN_ALL = 1.1
"""So many times the capacity cannot be answered, but for the noise."""
_RECORD = Path("loadtest/results/overload.csv")
_LINKS = """[Every request](results/overload.csv).

![Goodput and latency over the offered load](results/overload.png)"""


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
    retry_after: float | None


@dataclass(frozen=True)
class Figures:
    """A load's figures over all rounds: rates a second, and milliseconds."""

    load: float
    offered: float
    answered: float
    goodput: float
    accepted: list[float]
    refused: list[float]


@dataclass(frozen=True)
class Demands:
    """What the service is to keep to."""

    goodput: float = 0.9
    accepted_ms: float = 200.0
    refused_ms: float = 100.0

    def missed(self, loads: Sequence[Figures]) -> list[str]:
        """Say what was missed that a load may excuse."""
        return [*self._goodput(loads), *self._slow(loads)]

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
    found = photographs.named(given.photographs, given.most)
    here = machine.facts()
    with _service(given) as service:
        outcomes = list(_measure(service, found, given))
    loads = figures(outcomes, given.accepted_ms, given.seconds)
    print(_table(loads))
    unusable = _unusable(outcomes, loads)
    demands = Demands(given.goodput, given.accepted_ms, given.refused_ms)
    status = _judge(demands, outcomes, loads, unusable)
    kept, raw, plot = _files(given, proven=not unusable)
    _write(raw, outcomes)
    print(f"every request: {raw}")
    if plot:
        from loadtest import overload_plot  # matplotlib takes a second

        overload_plot.draw(plot, loads, given.accepted_ms)
        print(f"plot: {plot}")
    if kept:
        made = command("loadtest.overload", arguments)
        told = f"`{made}`:\n\n{_table(loads)}\n\n{machine.sentence(here)}.\n\n{_LINKS}"
        tables.put("overload", told)
    return status


def _files(given: argparse.Namespace, *, proven: bool) -> tuple[bool, Path, Path | None]:
    """Return whether it is kept as the record, and where all requests and the plot go."""
    if given.record and proven:
        return True, _RECORD, _RECORD.with_suffix(".png")
    return False, given.raw, given.plot


def _judge(
    demands: Demands,
    outcomes: Sequence[Outcome],
    loads: Sequence[Figures],
    unusable: Sequence[str],
) -> int:
    """Say what was missed; ``unusable`` is why the figures prove nothing, if so."""
    for sentence in unusable:
        print(sentence, file=sys.stderr)
    certain, missed = _misbehaviour(outcomes), demands.missed(loads)
    for sentence in certain:
        print(f"Objective missed: {sentence}", file=sys.stderr)
    for sentence in missed:
        proof = "Missed too, though these figures prove nothing" if unusable else "Objective missed"
        print(f"{proof}: {sentence}", file=sys.stderr)
    if certain or (missed and not unusable):
        return 1
    if unusable:
        return STATUS
    print("Objective met.")
    return 0


def _unusable(outcomes: Sequence[Outcome], loads: Sequence[Figures]) -> list[str]:
    """Say why the figures prove nothing, and are no record, if so."""
    return [*_late(outcomes), *_too_low(loads)]


def _late(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Say that these times prove nothing, if they do not."""
    late = percentile([one.late_ms for one in outcomes if one.load != CLOSED], 99)
    if late > _LATE_MS:
        yield (
            f"The sender could not keep up: 1 % of the requests were sent {late:.0f} ms late or "
            f"more, where {_LATE_MS:g} are allowed. Use more --senders, or another machine."
        )


def _too_low(loads: Sequence[Figures]) -> Iterator[str]:
    """Say that the loads were no multiples of the capacity, if more was answered than that."""
    (capacity,) = (one.answered for one in loads if one.load == CLOSED)
    most = max(one.answered for one in loads)
    if most > _MORE_THAN_ALL * capacity:
        yield (
            f"The capacity was measured too low: {capacity:.1f} photographs a second in the "
            f"closed loop, and {most:.1f} were answered in an open one. So the loads are no "
            "multiples of it: measure again, with longer --seconds, on an idle machine, or with "
            "more --clients."
        )


@contextmanager
def _service(given: argparse.Namespace) -> Iterator[Target]:
    """Find the gateway that runs at --host, or run one with a model server of its own."""
    if given.host:
        yield Target(given.host, given.key, given.cacert)
        return
    with (
        processes.model_server(models=given.models) as model_server,
        # all load comes from one address here
        processes.gateway(
            model_server.address, **{"CLIENT_SHARE": "1", "LOG_LEVEL": "warning", **dict(given.set)}
        ) as gateway,
    ):
        yield Target(gateway.address)


def _measure(
    service: Target, found: Sequence[Photograph], given: argparse.Namespace
) -> Iterator[Outcome]:
    requests = idle.requests(service, found)
    right = {o.photograph: answers.results(o.body) for o in idle.answered(service, found)}
    clients = _best_clients(service, requests, given)
    for number in range(given.rounds):
        exchanges = sender.closed_loop(service, requests, clients, given.seconds, given.senders)
        yield from (_outcome(number, CLOSED, one, right) for one in exchanges)
        capacity = _rate(exchanges, given.seconds)
        for factor in FACTORS:
            instants = arrivals.poisson(factor * capacity, given.seconds, seed=number)
            exchanges = sender.open_loop(service, requests, instants, given.senders)
            yield from (_outcome(number, factor, one, right) for one in exchanges)


def _best_clients(service: Target, requests: Sequence[bytes], given: argparse.Namespace) -> int:
    """Return how many clients get most answered, by the median of the rounds.

    What they get is measured anew afterwards: the best of noisy runs is no capacity.
    """
    rates: dict[int, list[float]] = {clients: [] for clients in given.clients}
    for _, clients in itertools.product(range(given.rounds), given.clients):
        exchanges = sender.closed_loop(service, requests, clients, given.seconds, given.senders)
        rates[clients].append(_rate(exchanges, given.seconds))
    return max(rates, key=lambda clients: statistics.median(rates[clients]))


def _rate(exchanges: Sequence[Exchange], seconds: float) -> float:
    """Return the photographs a second that were answered.

    Raises:
        SystemExit: none was.
    """
    answered = sum(one.status == 200 for one in exchanges)
    if not answered:
        met = ", ".join(sorted({str(one.status or "no answer") for one in exchanges}))
        refuse(f"Nothing was answered by 200 in {seconds:g} s without a pause, only by: {met}.")
    return answered / seconds


def _outcome(number: int, load: float, one: Exchange, right: dict[int, Answer]) -> Outcome:
    outcome = str(one.status)
    if one.status == 200:
        same = answers.results(one.body).same_as(right[one.photograph])
        outcome = RIGHT if same else WRONG
    return Outcome(number, load, one.due, one.late_ms, one.ms, outcome, one.retry_after)


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
        answered=len(accepted) / seconds,
        goodput=sum(ms <= in_time_ms for ms in accepted) / seconds,
        accepted=accepted,
        refused=[one.ms for one in outcomes if _is_refusal(one)],
    )


def _is_refusal(one: Outcome) -> bool:
    return one.outcome in ("429", "503")


def _misbehaviour(outcomes: Iterable[Outcome]) -> list[str]:
    """Say what no load excuses."""
    wrong = [one for one in outcomes if one.outcome == WRONG]
    bare = [one for one in outcomes if _is_refusal(one) and one.retry_after is None]
    others = [one for one in outcomes if one.outcome not in (RIGHT, WRONG) and not _is_refusal(one)]
    kinds = ", ".join(
        sorted({"no answer" if one.outcome == "0" else one.outcome for one in others})
    )
    return [
        *([f"{len(wrong)} answers differ from those of the idle service."] if wrong else []),
        *([f"{len(bare)} refusals have no Retry-After that can be read."] if bare else []),
        *([f"{len(others)} requests got neither an answer nor a refusal: {kinds}."] * bool(others)),
    ]


def _table(loads: Sequence[Figures]) -> str:
    best = max(one.goodput for one in loads)
    header = ["load", "offered a second", "in time a second", "of the best", "answers, p50, ms",
              "answers, p99, ms", "refused", "refusals, p50, ms", "refusals, p99, ms"]  # fmt: skip
    rows = [
        [
            "closed" if one.load == CLOSED else f"{one.load:g} x",
            f"{one.offered:.1f}",
            f"{one.goodput:.1f}",
            f"{one.goodput / best:.2f}" if best else "",
            *_pair(one.accepted),
            f"{len(one.refused):,}",
            *_pair(one.refused),
        ]
        for one in loads
    ]
    return tables.markdown(header, rows)


def _pair(times: Sequence[float]) -> list[str]:
    return [f"{percentile(times, p):.0f}" if times else "" for p in (50, 99)]


def _write(path: Path, outcomes: Iterable[Outcome]) -> None:
    header = ["round", "load", "due_s", "late_ms", "ms", "outcome", "retry_after"]
    tables.write_csv(path, header, map(_row, outcomes))


def _row(one: Outcome) -> list[object]:
    times = f"{one.due:.3f}", f"{one.late_ms:.1f}", f"{one.ms:.1f}"
    wait = "" if one.retry_after is None else f"{one.retry_after:g}"
    return [one.round, one.load, *times, one.outcome, wait]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.overload", description="More than the service can do."
    )
    add = parser.add_argument
    add("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    add("--most", type=count, default=20, help="photographs taken from DIR")
    add("--host", metavar="URL", help="a gateway that runs; else one is started")
    add("--key", default=os.environ.get("HEMAVISION_KEY"), help="its API key; or HEMAVISION_KEY")
    add("--cacert", metavar="FILE", help="the authority of its certificate")
    add(
        "--models",
        type=Path,
        default=Path("models/hemavision"),
        metavar="DIR",
        help="for the model server that is started",
    )
    add(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the gateway started",
    )
    numbers = f"that are tried for the capacity; default: {' '.join(map(str, _CLIENTS))}"
    add("--clients", type=count, nargs="+", default=_CLIENTS, metavar="N", help=numbers)
    add("--rounds", type=count, default=3)
    add("--seconds", type=amount, default=6.0, help="of each load")
    add("--senders", type=count, default=1, help="processes that send")
    add("--goodput", type=float, default=0.9, help="least share of the best at the most load")
    add("--accepted-ms", type=float, default=200.0, help="most that 99 %% of the answers take")
    add("--refused-ms", type=float, default=100.0, help="most that 99 %% of the refusals take")
    add("--raw", type=Path, default=_RECORD.with_name("latest-overload.csv"), metavar="FILE")
    add("--plot", type=Path, metavar="FILE", help="draw it as PNG")
    add("--record", action="store_true", help="keep it with its plot, also in the README")
    return parser.parse_args(arguments)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE, such as MAX_IN_FLIGHT=8")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
