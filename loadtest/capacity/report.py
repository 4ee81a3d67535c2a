"""The fit beside what was measured, what ends first, and the table of sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loadtest import machine, tables
from loadtest.capacity import OBJECTIVE
from loadtest.capacity.measure import SHARES, Cost, Measured
from loadtest.capacity.model import fitted_points, predicted_points, typical_error
from loadtest.queueing import Replica

_RATES = (10, 100, 1_000, 10_000, 100_000)


def fit(replica: Replica, measured: Measured) -> str:
    """Show each load's percentiles, measured and by the model, and what the model is."""
    fitted_to = fitted_points(measured.points)
    rows = [
        [
            f"{point.rate:.1f} ({'fitted' if point in fitted_to else 'predicted'})",
            *(
                f"{1000 * seen:.0f} / {_predicted(replica.percentile(share, point.rate))}"
                for share, seen in zip(SHARES, point.percentiles, strict=True)
            ),
            f"{point.failed} of {point.answered + point.failed}",
        ]
        for point in measured.points
    ]
    names = [f"p{100 * share:.0f}, measured / model" for share in SHARES]
    table = tables.markdown(["photographs a second", *names, "not answered"], rows)
    rate = replica.most(*OBJECTIVE)
    return (
        f"{table}\n\nMeasured at saturation: {measured.capacity:.1f} photographs a second. Fitted: "
        f"{replica.servers} servers, {replica.capacity:.1f} a second together, "
        f"Cs² {replica.scv:.3f}. {_off(replica, measured)} "
        f"The objective holds up to {rate:.1f} photographs a second."
    )


def _predicted(seconds: float) -> str:
    return "too much" if math.isinf(seconds) else f"{1000 * seconds:.0f}"


def _off(replica: Replica, measured: Measured) -> str:
    error = typical_error(replica, predicted_points(measured.points))
    if math.isinf(error):
        return "The fitted capacity is less than a load that was to be predicted, and was answered."
    return f"What was predicted is off by {100 * error:.0f} % (root mean square)."


def limits(cost: Cost, cores: int, gigabits: float) -> str:
    """For each resource, what a photograph takes of it, and where it alone would end."""
    bytes_a_second = gigabits * 1e9 / 8
    most = {
        "all processors": (f"{1000 * cost.processors:.1f} ms", cores / cost.processors),
        "the model server's share of them": (
            f"{1000 * cost.model_server:.1f} ms",
            cores / cost.model_server,
        ),
        "the gateway's share of them": (f"{1000 * cost.gateway:.1f} ms", cores / cost.gateway),
        "the gateway's event loop, one thread": (
            f"{1000 * cost.event_loop:.2f} ms",
            1 / cost.event_loop,
        ),
        f"network out, {gigabits:g} Gbit/s": (
            f"{cost.sent / 1000:.0f} kB",
            bytes_a_second / cost.sent,
        ),
        f"network in, {gigabits:g} Gbit/s": (
            f"{cost.received / 1000:.0f} kB",
            bytes_a_second / cost.received,
        ),
    }
    rows = [
        [name, taken, f"{rate:,.0f}"]
        for name, (taken, rate) in sorted(most.items(), key=lambda item: item[1][1])
    ]
    header = ["of one replica", "a photograph takes", "enough for, a second"]
    return tables.markdown(header, rows)


def sizes(rate: float, cost: Cost, cores: int, price: float | None) -> str:
    """Size fleets of replicas that hold the objective up to ``rate`` each."""
    header = ["photographs a second", "replicas", "cores", "in, Gbit/s", "out, Gbit/s",
              "gateway to model, Gbit/s", "core-hours a million"]  # fmt: skip
    if price is not None:
        header.append(f"cost an hour at {price:g}")
    rows = []
    for wanted in _RATES:
        replicas = math.ceil(wanted / rate)
        traffic = (wanted * size * 8 / 1e9 for size in (cost.received, cost.sent, cost.internal))
        hours = replicas * cores / (wanted * 3600) * 1e6
        row = [f"{wanted:,}", f"{replicas:,}", f"{replicas * cores:,}",
               *(f"{gigabits:.3g}" for gigabits in traffic), f"{hours:.1f}"]  # fmt: skip
        rows.append(row + ([] if price is None else [f"{replicas * cores * price:,.2f}"]))
    formula = "cost an hour = replicas x cores of a replica x price of a core-hour"
    return f"{tables.markdown(header, rows)}\n\nReplicas are N / {rate:.1f}, rounded up; {formula}."


def write(target: Path, here: machine.Machine, measured: Measured, replica: Replica) -> None:
    """Write the record, every request's time, and the plot; their names begin with ``target``'s."""
    target.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "machine": here,
        "alone_ms": [round(1000 * seconds, 2) for seconds in measured.alone],
        "capacity": measured.capacity,
        "cost": vars(measured.cost),
        "points": [point._asdict() for point in measured.points],
        "fit": {"servers": replica.servers, "capacity": replica.capacity, "scv": replica.scv},
    }
    target.with_suffix(".json").write_text(json.dumps(record) + "\n")
    tables.write_csv(
        target.with_name(f"{target.name}-times.csv"),
        ["offered a second", "status", "ms"],
        ([f"{rate:.1f}", one.status, f"{one.ms:.1f}"] for rate, one in measured.exchanges),
    )
    _plot(replica, measured).savefig(target.with_suffix(".png"), dpi=110)


def _plot(replica: Replica, measured: Measured) -> Figure:
    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots()
    rates = np.linspace(0.02, 0.99, 60) * replica.capacity
    for number, share in enumerate(SHARES):
        times = [1000 * replica.percentile(share, rate) for rate in rates]
        axes.plot(rates, times, color=f"C{number}", label=f"p{100 * share:.0f}")
        for points, fill in (
            (fitted_points(measured.points), "full"),
            (predicted_points(measured.points), "none"),
        ):
            seen = [1000 * point.percentiles[number] for point in points]
            axes.plot([p.rate for p in points], seen, "o", color=f"C{number}", fillstyle=fill)
    axes.axhline(1000 * OBJECTIVE[1], color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="photographs a second, Poisson arrivals", ylabel="milliseconds")
    axes.set_ylim(0, 400)
    axes.set_title("Lines: the model. Filled: fitted to. Hollow: predicted. Dotted: the objective")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
