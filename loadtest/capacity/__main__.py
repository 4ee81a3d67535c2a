"""`python -m loadtest.capacity`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest import machine, photographs, tables
from loadtest.arguments import amount, count
from loadtest.bench.contenders import newest_version
from loadtest.capacity import OBJECTIVE, report
from loadtest.capacity.measure import Cost, measure
from loadtest.capacity.model import fitted
from loadtest.queueing import Replica
from loadtest.refusal import refuse

_RESULTS = Path("loadtest/results")

_LINKS = """[Record](results/capacity.json), [every time](results/capacity-times.csv).

![The model's percentiles over the load, and the measured ones](results/capacity.png)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit, and print the tables."""
    given = _arguments(arguments)
    bodies = photographs.read(given.photographs, given.most)
    newest_version(given.models)
    here = machine.facts()
    print(machine.sentence(here))
    measured = measure(bodies, given.models, given.alone, given.seconds, given.late_ms)
    replica = fitted(measured)
    report.write(given.results / _name(given), here, measured, replica)
    text = f"{report.fit(replica, measured)}\n\n{_table(given, measured.cost, replica, here)}"
    print(f"\n{text}")
    if given.record:
        tables.put("capacity", f"{text}\n\n{machine.sentence(here)}.\n\n{_LINKS}")
    return 0


def _name(given: argparse.Namespace) -> str:
    return "capacity" if given.record else "latest-capacity"


def _table(given: argparse.Namespace, cost: Cost, replica: Replica, here: machine.Machine) -> str:
    rate = replica.most(*OBJECTIVE)
    if rate == 0:
        refuse("Not even a lone photograph is answered within the objective on this machine.")
    limits = report.limits(cost, here["cores"], given.gigabits)
    return f"{limits}\n\n{report.sizes(rate, cost, here['cores'], given.price_per_core_hour)}"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.capacity", description="Replicas for N photographs a second."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--most", type=count, default=100, help="photographs taken from DIR")
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--seconds", type=amount, default=25.0, help="of each load")
    parser.add_argument("--alone", type=count, default=200, help="photographs of one client")
    parser.add_argument("--late-ms", type=amount, default=20.0, help="most for 99 %% of sends")
    parser.add_argument("--gigabits", type=amount, default=10.0, help="of a network card, a second")
    parser.add_argument("--price-per-core-hour", type=amount, metavar="PRICE")
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
