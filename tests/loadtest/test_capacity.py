"""The capacity study: a replica measured, and what is made of its figures."""

import argparse
import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from loadtest import arrivals, machine
from loadtest.bench import BASELINE
from loadtest.capacity import PLANNED, model, report
from loadtest.capacity import __main__ as capacity
from loadtest.capacity.cost import Cost
from loadtest.capacity.measure import Loop, Measured, Plan, check, measure
from loadtest.photographs import Photograph
from loadtest.queueing import Replica
from loadtest.sender import Exchange

ROOT = Path(__file__).parents[2]
COST = Cost(
    gateway=0.010, event_loop=0.001, model_server=0.030,
    received=50e3, sent=100e3, asked=150e3, told=10e3,
)  # fmt: skip
GIVEN = argparse.Namespace(gigabits=10.0, price_per_core_hour=None)


def exchange(due=1.0, seconds=0.03, status=200, late=0.0) -> Exchange:
    """One that took so long from when it was due."""
    return Exchange(0, due, due + late, due + seconds, status, None, b"")


def taken(queue: Replica, rate: float, slower: float = 1.0) -> Loop:
    """What is measured at a load of a service that is that queue, or a slower one."""
    due = arrivals.poisson(rate, 10.0, seed=1)
    sent = [exchange(*one) for one in zip(due, slower * queue.times(due), strict=True)]
    return Loop(rate, [sent])


@pytest.fixture
def queue() -> Replica:
    """33 photographs a second with one at once, 50 with two."""
    return Replica(np.full(20, 0.030), np.full(20, 0.030), (1 / 0.030, 50.0))


def measured(queue: Replica, slower: float = 1.0) -> Measured:
    """Four loads on it, the last one too many."""
    closed = [Loop(1, [[exchange(number * 0.03) for number in range(100)]])]
    closed.append(Loop(2, [[exchange(number * 0.02, 0.02) for number in range(100)]]))
    lone = Loop(5, [[exchange(number * 0.2, 0.04) for number in range(50)]])
    opened = [taken(queue, rate, slower) for rate in (10, 20, 30, 49.9)]
    return Measured(lone, closed, opened, COST)


def test_a_replica_is_measured_in_closed_loops_and_open_ones(jpeg, tiny_models):
    """Rates of 1, 2, … clients, times of rising loads, and what a photograph takes of all parts."""
    found = measure([Photograph("cell.jpg", jpeg, "")], tiny_models, Plan(2, 0.5, 1e5))
    assert found.lone.load < found.opened[0].load
    assert [loop.load for loop in found.closed] == list(range(1, machine.usable_cores() + 2))
    assert all(loop.rate > 0 for loop in found.closed)
    assert [loop.load for loop in found.opened] == sorted(loop.load for loop in found.opened)
    assert all(len(loop.rounds) == 2 for loop in (*found.closed, *found.opened))
    assert all(loop.percentiles[0] <= loop.percentiles[2] for loop in found.opened)
    assert 0 < found.cost.event_loop < found.cost.gateway
    assert found.cost.model_server > 0
    assert found.cost.received == len(jpeg)
    assert found.cost.asked > 224 * 224 * 3  # a tensor
    assert found.cost.told > 18 * 18 * 4  # a map


def test_what_was_refused_took_longer_than_all_else():
    """It is no censored datum: a refusal in a hundred leaves the 99 % alone, a second does not."""
    answered = [exchange()] * 98
    few = Loop(10.0, [[*answered, exchange(), exchange(status=503)]])
    check(few, 20)
    assert few.percentiles == (pytest.approx(0.03),) * 3
    with pytest.raises(SystemExit) as refused:
        check(Loop(10.0, [[*answered, exchange(status=503), exchange(status=0)]]), 20)
    assert refused.value.code == 2


def test_refusals_of_a_few_rounds_are_no_matter_of_the_middle_one():
    """Two of five rounds were refused: that is 40 % of the load."""
    answered, lost = [exchange()] * 100, [exchange(status=503)] * 100
    with pytest.raises(SystemExit) as refused:
        check(Loop(10.0, [lost, lost, answered, answered, answered]), 20)
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("exchanges", "told"),
    [
        ([], "let it run for longer"),
        ([exchange(late=0.025)], "25 ms late"),
        ([exchange(), exchange(status=503), exchange(status=0)], "1 x 200, 1 x 503, 1 x no answer"),
    ],
)
def test_a_load_that_proves_nothing_ends_with_2(exchanges, told, capsys):
    """Nothing sent, sent late, or not answered: a sentence."""
    with pytest.raises(SystemExit) as refused:
        check(Loop(10.0, [exchanges]), 20)
    assert refused.value.code == 2
    assert told in capsys.readouterr().err


def test_a_disturbed_round_is_not_the_middle_one():
    """A load's percentiles are the middle of the rounds'."""
    rounds = [[exchange(seconds=seconds)] * 10 for seconds in (0.03, 0.9, 0.04)]
    assert Loop(10.0, rounds).percentiles == (pytest.approx(0.04),) * 3


def test_the_closed_loops_are_the_queue(queue):
    """What they answered a second, one client's times, and those of lone requests."""
    found = model.replica(measured(queue))
    assert found.rates == (pytest.approx(1 / 0.03, rel=0.01), pytest.approx(50, rel=0.01))
    assert found.next == pytest.approx(0.03)
    assert found.first == pytest.approx(0.04)


def test_loads_count_up_to_the_first_that_misses_the_objective(queue):
    """One above it that was quicker by chance does not."""
    opened = measured(queue).opened
    assert [loop.load for loop in model.held(opened)] == [10, 20, 30]
    assert model.held([opened[3], opened[0]]) == []


def test_a_model_that_is_right_is_concluded_from(queue):
    """And not beyond what was measured."""
    opened = measured(queue).opened
    assert model.doubts(queue, opened) == []
    assert queue.most(0.99, 0.2) > 30
    assert model.holds(queue, opened) == 30
    assert model.holds(queue, [*opened[:3], Loop(49.0, [[exchange()] * 100])]) == queue.most(
        0.99, 0.2
    )


@pytest.mark.parametrize(("slower", "doubts"), [(1.25, 0), (1.35, 3), (0.7, 3)])
def test_a_model_that_is_off_by_more_than_30_in_100_is_doubted(queue, slower, doubts):
    """Either way, and once for each load that counts."""
    found = model.doubts(queue, measured(queue, slower).opened)
    assert len(found) == doubts
    assert all("where 30 % are allowed" in sentence for sentence in found)


def test_a_service_that_never_meets_the_objective_is_told(queue):
    """No load counts then."""
    (told,) = model.doubts(queue, measured(queue, slower=9).opened)
    assert "missed at 10.0 photographs a second already" in told


def test_the_model_is_shown_beside_what_was_measured(queue):
    """Each load's percentiles, whether it counts, and what was not answered."""
    table = report.comparison(queue, measured(queue))
    rows = [[c.strip() for c in row.strip("|").split("|")] for row in table.splitlines()[4:]]
    assert [row[0] for row in rows] == ["10.0", "20.0", "30.0", "49.9 (too many)"]
    assert all(row[4] == "0 %" for row in rows)
    assert rows[0][1] == "30, 30"
    assert "33.3 with 1, 50.0 with 2" in table


def test_the_narrowest_resource_comes_first():
    """Processors, the event loop, then a card of 10 Gbit/s, first what the gateway sends."""
    table = report.limits(COST, cores=2, gigabits=10)
    rows = [[c.strip() for c in row.strip("|").split("|")] for row in table.splitlines()[2:-2]]
    assert [row[0] for row in rows] == [
        "all cores",
        "the cores, had the model server all",
        "the cores, had the gateway all",
        "the gateway's event loop, one thread",
        "what the gateway sends, to clients and model server, of a card of 10 Gbit/s",
        "what the gateway gets, from clients and model server, of a card of 10 Gbit/s",
    ]
    assert [row[2] for row in rows] == ["50", "67", "200", "1,000", "5,000", "20,833"]
    assert table.endswith("What ends first: all cores.")


def test_a_fleet_is_sized_up_to_100_000_photographs_a_second():
    """Replicas are rounded up, and one is to spare; network, core-hours and cost follow."""
    rows = report.sizes(40.0, COST, cores=2, price=0.05).splitlines()
    cells = [cell.strip() for cell in rows[6].strip("|").split("|")]
    assert cells == ["100,000", "2,501", "5,002", "40.0", "80.0", "128.0", "13.9", "250.10"]
    assert [cell.strip() for cell in rows[2].split("|")][2:7] == [
        "2", "4", "0.004", "0.008", "0.0128"
    ]  # fmt: skip
    assert "cost an hour, at" not in report.sizes(40.0, COST, 2, None)


def test_the_conclusion_says_how_busy_the_cores_are_beside_what_kubernetes_plans(queue):
    """30 a second at 40 ms of processor time, on two cores."""
    told = report.conclusion(measured(queue), queue, 2, GIVEN)
    assert "up to 30.0 photographs a second a replica" in told
    assert "60 % busy then" in told
    assert "60 % for model servers, 50 % for gateways" in told


def test_kubernetes_is_planned_by_the_same_formula_and_figures():
    """At 100 a second, with two cores a pod, from the recorded processor times."""
    recorded = json.loads((ROOT / "loadtest/results/bench.json").read_text())
    server = median(run[BASELINE]["cpu"] for run in recorded["figures"]) / 1000
    ratio = median(run["gateway overlay"]["cpu"] for run in recorded["ratios"])
    planned = (ROOT / "k8s/README.md").read_text().replace("\N{MULTIPLICATION SIGN}", "x")
    for name, symbol, cpu in (
        ("model servers", "s", server),
        ("gateways", "g", server * (ratio - 1)),
    ):
        busy = PLANNED[name]
        assert f"⌈λ x {symbol} / (2 x {busy:g})⌉ + 1" in planned
        assert f"{model.pods(100, 2 * busy / cpu) - 1} + 1 {name}" in planned


def test_the_study_is_kept(queue, tmp_path):
    """Its record, every reply's time and the plot, under one name."""
    report.write(tmp_path / "capacity", machine.facts(), measured(queue), queue, "made so")
    record = json.loads((tmp_path / "capacity.json").read_text())
    assert record["rates"] == [1 / 0.030, 50.0]
    assert record["holds"] == 30
    assert record["made"] == "made so"
    rows = (tmp_path / "capacity-times.csv").read_text().splitlines()
    assert rows[0] == "load,unit,round,due_s,late_ms,ms,status"
    assert rows[1] == '5.0,"a second, evenly",0,0.000,0.0,40.0,200'
    assert (tmp_path / "capacity.png").stat().st_size > 0


def test_what_is_missing_is_told_with_status_2(jpeg, tmp_path, capsys):
    """No photograph, or no model."""
    for told in ("export draw", "export saved-model"):
        with pytest.raises(SystemExit) as refused:
            capacity.main(["--photographs", str(tmp_path), "--models", str(tmp_path)])
        assert refused.value.code == 2
        assert told in capsys.readouterr().err
        (tmp_path / "cell.jpg").write_bytes(jpeg)
