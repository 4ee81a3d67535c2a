"""Run the benchmark: `python -m loadtest.bench`, also to record it and to check against that."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest import machine, photographs, pictures, tables
from loadtest.arguments import amount, command, count
from loadtest.bench import BASELINE, contenders, gate, goals, outcome, plots, report, rounds
from loadtest.photographs import Photograph
from loadtest.refusal import refuse

_RESULTS = Path("loadtest/results")
_RECORD, _LATEST = "bench", "latest"

_LINKS = """[Record](results/bench.json), [every time](results/bench-times.csv), \
[every turn](results/bench-turns.csv).

![How long one client waits for each](results/bench-latency.png)

![What each costs at saturation](results/bench-cost.png)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; with --check, status 1 where a ratio is worse than its noise explains."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, given.most)
    plan, here = _plan(given, found), machine.facts()
    recorded = _recorded(given.results, plan, here) if given.check else None
    print(f"{machine.sentence(here)}\n{_told(given, plan)}")
    runs, ours = _runs(given, plan, [one.body for one in found])
    made = command("loadtest.bench", arguments)
    described = report.record(runs, plan, here, ours, made)
    described["photographs"] = [one.name for one in found]
    _keep(given, described, runs)
    return 0 if recorded is None else _compare(described, recorded)


def _runs(
    given: argparse.Namespace, plan: report.Plan, bodies: list[bytes]
) -> tuple[list[report.Run], set[str]]:
    """Make the runs, each with all processes started anew; return also which are ours."""
    runs, ours = [], set()
    for _ in range(given.runs if given.record else 1):
        with contenders.running(bodies, given.models, given.weights) as found:
            ours = {contender.name for contender in found if contender.ours}
            rounds.check_agreement(found, len(bodies))
            times = rounds.interleaved(found, plan.rounds, len(bodies))
            turns = rounds.saturated(found, plan.turns, plan.clients, plan.seconds, len(bodies))
        runs.append(report.Run(times, turns))
    return runs, ours


def _told(given: argparse.Namespace, plan: report.Plan) -> str:
    """Say what is about to be done."""
    runs = f"{given.runs} runs" if given.record else "One run"
    return (
        f"{runs} of {plan.rounds} rounds, and of {plan.turns} turns of {plan.seconds:g} s with "
        f"{plan.clients} clients{', as recorded' if given.check else ''}."
    )


def _keep(given: argparse.Namespace, described: dict[str, Any], runs: Sequence[report.Run]) -> None:
    name = _RECORD if given.record else _LATEST
    report.write(given.results, name, described, runs)
    plots.draw(given.results, name, described, runs)
    table = report.table(described)
    if not given.quick:  # which is too little to say so much
        table = f"{table}\n\n{goals.told(described)}"
    if given.record:
        table = f"{table}\n\n{report.told(report.recorded_bands(described))}"
    if given.quick:
        table = f"{table}\n\nSo few rounds say nothing of the goals, and their p99 is the slowest."
    print(f"\n{table}\n\nevery time, every turn, the record and plots: {given.results / name}*")
    if given.record and given.results == _RESULTS:  # the README refers to these files
        tables.put("bench", f"{table}\n\n{machine.sentence(described['machine'])}.\n\n{_LINKS}")


def _compare(described: dict[str, Any], recorded: dict[str, Any]) -> int:
    ratios = described["ratios"][0]
    bands = report.recorded_bands(recorded)
    found = gate.deviations(ratios, bands)
    for deviation in found:
        print(deviation)
    worse = sum(deviation.worse for deviation in found)
    print(report.told(bands))
    compared = len(bands) * len(outcome.MEASURES)
    better = len(found) - worse
    print(f"{compared} ratios to {BASELINE}: {worse} worse than recorded, {better} better.")
    return 1 if worse else 0


def _recorded(results: Path, plan: report.Plan, here: machine.Machine) -> dict[str, Any]:
    """Read the record that a run is to be compared with.

    Raises:
        SystemExit: there is none, or it is of another machine, of other photographs or of other
            contenders; the sentence names who is missing or new.
    """
    path = results / f"{_RECORD}.json"
    if not path.is_file():
        refuse(f"no record at {path}: `make bench-record` makes one.")
    recorded: dict[str, Any] = json.loads(path.read_text())
    differing = gate.differences(here, recorded["machine"])
    if recorded["plan"]["photographs"] != plan.photographs:
        differing.append("the photographs are others")
    if differing:
        refuse(
            f"The ratios in {path} cannot be compared with this machine's: {'; '.join(differing)}. "
            "`make bench-record` records this one's."
        )
    if others := sorted(set(contenders.NAMES) ^ set(recorded["figures"][0])):
        refuse(
            f"The record is of other contenders ({', '.join(others)}): `make bench-record` "
            "records these."
        )
    return recorded


def _plan(given: argparse.Namespace, found: Sequence[Photograph]) -> report.Plan:
    """What is to be done: for a check, what was done for the record."""
    path = given.results / f"{_RECORD}.json"
    pixels = pictures.digest(found)
    if given.check and path.is_file():
        return report.Plan(**(json.loads(path.read_text())["plan"] | {"photographs": pixels}))
    if given.quick:
        return report.Plan(30, 1, 2.0, given.clients, pixels)
    return report.Plan(given.rounds, given.turns, given.seconds, given.clients, pixels)


def _several(text: str) -> int:
    if not text.isdecimal() or int(text) < gate.FEWEST_RUNS:
        raise argparse.ArgumentTypeError(f"fewer hardly show the noise: {gate.FEWEST_RUNS} or more")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description="The gateway beside the bare model server and what others would write.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="a minute, for a first look")
    what.add_argument("--record", action="store_true", help="several runs, to check against")
    what.add_argument(
        "--check",
        action="store_true",
        help="status 1 where it is worse than the record, whose rounds and turns it has",
    )
    parser.add_argument("--runs", type=_several, default=4, help="for --record, 3 or more")
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--most", type=count, default=100, help="photographs taken from DIR")
    parser.add_argument("--rounds", type=count, default=300, help="for one client")
    parser.add_argument("--turns", type=count, default=3, help="of each contender, at saturation")
    parser.add_argument("--seconds", type=amount, default=5.0, help="of a turn")
    cores = machine.usable_cores()
    parser.add_argument("--clients", type=count, default=3 * cores, help="at saturation (3 a core)")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    weights = Path("export/weights/hemavision.keras")
    parser.add_argument("--weights", type=Path, default=weights, metavar="FILE", help="Flask's")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
