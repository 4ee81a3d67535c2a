"""The model beside what was measured, what ends first, and the table of sizes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loadtest import machine, tables
from loadtest.capacity import OBJECTIVE, PLANNED
from loadtest.capacity.cost import Cost
from loadtest.capacity.measure import SHARES, Loop, Measured
from loadtest.capacity.model import held, holds, off, pods, predicted
from loadtest.queueing import Replica

_RATES = (10, 100, 1_000, 10_000, 100_000)
_HIGHEST = 400  # ms, in the plot


def comparison(queue: Replica, measured: Measured) -> str:
    """Show what the model is made of, and each load's percentiles beside its own."""
    counting = held(measured.opened)
    rows = [_compared(queue, loop, loop in counting) for loop in measured.opened]
    names = [f"p{100 * share:.0f}, ms" for share in SHARES]
    header = ["photographs a second", *names, "off by", "not answered"]
    alone, following = (1000 * float(np.median(times)) for times in (queue.first, queue.next))
    each = ", ".join(f"{rate:.1f} with {n}" for n, rate in enumerate(queue.rates, 1))
    return (
        f"Answered a second, by the clients at once: {each}. One that comes to an idle service "
        f"takes {alone:.0f} ms (p50), one after the other {following:.0f} ms. Measured, and what "
        f"the model says from that:\n\n{tables.markdown(header, rows)}"
    )


def _compared(queue: Replica, loop: Loop, counts: bool) -> list[str]:
    pairs = zip(loop.percentiles, predicted(queue, loop), strict=True)
    lost = sum(one.status != 200 for one in loop.exchanges)
    return [
        f"{loop.load:.1f}{'' if counts else ' (too many)'}",
        *(f"{1000 * seen:.0f}, {1000 * said:.0f}" for seen, said in pairs),
        f"{100 * off(queue, loop):.0f} %",
        f"{lost:,} of {len(loop.exchanges):,}",
    ]


def conclusion(measured: Measured, queue: Replica, cores: int, given: argparse.Namespace) -> str:
    """Say how many a second a replica holds, what ends first, and how many replicas it takes."""
    rate, cost = holds(queue, measured.opened), measured.cost
    busy = rate * cost.processors / cores
    planned = ", ".join(f"{100 * share:.0f} % for {name}" for name, share in PLANNED.items())
    share, seconds = OBJECTIVE
    held_up_to = (
        f"{100 * share:.0f} % are answered within {1000 * seconds:.0f} ms, in the middle round, up "
        f"to {rate:.1f} photographs a second a replica (the model says "
        f"{queue.most(*OBJECTIVE):.1f}, and {held(measured.opened)[-1].load:.1f} were measured). "
        f"Its cores are {100 * busy:.0f} % "
        f"busy then; k8s/README.md plans with {planned}."
    )
    limits_ = limits(cost, cores, given.gigabits)
    return f"{held_up_to}\n\n{limits_}\n\n{sizes(rate, cost, cores, given.price_per_core_hour)}"


def limits(cost: Cost, cores: int, gigabits: float) -> str:
    """For each resource, what a photograph takes of it, and where it alone would end."""
    card = f"of a card of {gigabits:g} Gbit/s"
    processors = {
        "all cores": (cost.processors, cores),
        "the cores, had the model server all": (cost.model_server, cores),
        "the cores, had the gateway all": (cost.gateway, cores),
        "the gateway's event loop, one thread": (cost.event_loop, 1),
    }
    network = {
        f"what the gateway sends, to clients and model server, {card}": cost.sent + cost.asked,
        f"what the gateway gets, from clients and model server, {card}": cost.received + cost.told,
    }
    most = {name: (f"{1000 * s:.2f} ms", n / s) for name, (s, n) in processors.items()}
    most |= {n: (f"{b / 1000:.0f} kB", gigabits * 1e9 / 8 / b) for n, b in network.items()}
    ordered = sorted(most.items(), key=lambda item: item[1][1])
    rows = [[name, taken, f"{rate:,.0f}"] for name, (taken, rate) in ordered]
    header = ["of one replica", "a photograph takes", "enough for, a second"]
    return f"{tables.markdown(header, rows)}\n\nWhat ends first: {ordered[0][0]}."


def sizes(rate: float, cost: Cost, cores: int, price: float | None) -> str:
    """Size fleets of replicas that hold the objective up to ``rate`` each, and one to spare."""
    header = ["photographs a second", "replicas", "cores", "from clients, Gbit/s",
              "to clients, Gbit/s", "gateways and model servers, Gbit/s",
              "core-hours a million"]  # fmt: skip
    if price is not None:
        header.append(f"cost an hour, at {price:g} a core-hour")
    rows = [_sized(wanted, pods(wanted, rate) * cores, cost, cores, price) for wanted in _RATES]
    formula = "cost an hour = replicas x cores of a replica x price of a core-hour"
    return (
        f"{tables.markdown(header, rows)}\n\nReplicas are N / {rate:.1f}, rounded up, and one more "
        f"for the one that is lost or drained at the peak; {formula}."
    )


def _sized(wanted: int, total: int, cost: Cost, cores: int, price: float | None) -> list[str]:
    """One row, of a fleet with ``total`` cores."""
    traffic = (
        wanted * size * 8 / 1e9 for size in (cost.received, cost.sent, cost.asked + cost.told)
    )
    hours = total / (wanted * 3600) * 1e6
    row = [f"{wanted:,}", f"{total // cores:,}", f"{total:,}",
           *(f"{gigabits:.4f}".rstrip("0") if gigabits < 1 else f"{gigabits:.1f}"
             for gigabits in traffic), f"{hours:.1f}"]  # fmt: skip
    return row + ([] if price is None else [f"{total * price:,.2f}"])


def write(
    target: Path, here: machine.Machine, measured: Measured, queue: Replica, made: str
) -> None:
    """Write the record, every request's time, and the plot; their names begin with ``target``'s.

    ``made`` is the command line that made them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "made": made,
        "machine": here,
        "first_ms": 1000 * float(np.median(queue.first)),
        "next_ms": 1000 * float(np.median(queue.next)),
        "rates": queue.rates,
        "cost": vars(measured.cost),
        "loads": [
            {"load": loop.load, "seen": loop.percentiles, "predicted": predicted(queue, loop)}
            for loop in measured.opened
        ],
        "holds": holds(queue, measured.opened) if held(measured.opened) else 0.0,
    }
    target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    loops = {
        "a second, evenly": [measured.lone],
        "clients": measured.closed,
        "a second": measured.opened,
    }
    tables.write_csv(
        target.with_name(f"{target.name}-times.csv"),
        ["load", "unit", "round", "due_s", "late_ms", "ms", "status"],
        (
            [f"{loop.load:.1f}", unit, number, f"{one.due:.3f}", f"{one.late_ms:.1f}",
             f"{one.ms:.1f}", one.status]
            for unit, each in loops.items()
            for loop in each
            for number, sent in enumerate(loop.rounds)
            for one in sent
        ),
    )  # fmt: skip
    _plot(queue, measured).savefig(target.with_suffix(".png"), dpi=110)


def _plot(queue: Replica, measured: Measured) -> Figure:
    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots()
    rates = np.linspace(0.05, 0.97, 25) * queue.capacity
    loads = [loop.load for loop in measured.opened]
    for number, share in enumerate(SHARES):
        colour, name = f"C{number}", f"p{100 * share:.0f}"
        times = [1000 * queue.percentile(share, rate) for rate in rates]
        axes.plot(rates, times, color=colour, label=f"{name}, the model")
        seen = [1000 * loop.percentiles[number] for loop in measured.opened]
        axes.plot(loads, seen, "o", color=colour, label=f"{name}, measured")
        said = [1000 * predicted(queue, loop)[number] for loop in measured.opened]
        axes.plot(loads, said, "x", color=colour, label=f"{name}, predicted of these arrivals")
    axes.axhline(1000 * OBJECTIVE[1], color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="photographs a second, Poisson arrivals", ylabel="milliseconds")
    axes.set_ylim(0, _HIGHEST)
    axes.set_title(
        f"How long one takes, by the load; dotted: the objective; over {_HIGHEST} ms: not drawn"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
