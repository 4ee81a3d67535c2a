"""`python -m loadtest.capacity`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest import machine, photographs, processes, tables
from loadtest.arguments import amount, command, count
from loadtest.capacity import model, report
from loadtest.capacity.measure import Plan, measure

_RESULTS = Path("loadtest/results")

_LINKS = """[Record](results/capacity.json), [every time](results/capacity-times.csv).

![The model's percentiles over the load, and the measured ones](results/capacity.png)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, predict, and print the tables; status 1 where nothing can be concluded."""
    given = _arguments(arguments)
    found = photographs.named(given.photographs, given.most)
    processes.newest_version(given.models)
    here = machine.facts()
    print(machine.sentence(here))
    measured = measure(found, given.models, Plan(given.rounds, given.seconds, given.late_ms))
    queue = model.replica(measured)
    doubts = model.doubts(queue, measured.opened)
    name = given.results / ("capacity" if given.record and not doubts else "latest-capacity")
    made = command("loadtest.capacity", arguments)
    report.write(name, here, measured, queue, made)
    comparison = report.comparison(queue, measured)
    print(f"\n{comparison}\n\nevery time: {name}-times.csv")
    if doubts:
        print(f"No conclusion, and nothing is recorded: {' '.join(doubts)}", file=sys.stderr)
        return 1
    text = report.conclusion(measured, queue, here["cores"], given)
    print(f"\n{text}")
    if given.record and given.results == _RESULTS:  # the README refers to these files
        told = f"{comparison}\n\n{text}\n\n{machine.sentence(here)}."
        tables.put("capacity", f"{told}\n\n{_LINKS}")
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.capacity", description="Replicas for N photographs a second."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--most", type=count, default=100, help="photographs taken from DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--rounds", type=count, default=5, help="each of all loads")
    parser.add_argument("--seconds", type=amount, default=6.0, help="of each load in a round")
    parser.add_argument("--late-ms", type=amount, default=20.0, help="most for 99 %% of sends")
    parser.add_argument("--gigabits", type=amount, default=10.0, help="of a network card, a second")
    parser.add_argument("--price-per-core-hour", type=amount, metavar="PRICE")
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
