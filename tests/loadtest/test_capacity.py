"""The capacity study: a replica measured, and what is made of its figures."""

import json

import numpy as np
import pytest

from loadtest import machine
from loadtest.capacity import __main__ as capacity
from loadtest.capacity import report
from loadtest.capacity.measure import SHARES, Cost, Measured, Point, _point, measure
from loadtest.queueing import Replica
from loadtest.sender import Exchange

COST = Cost(
    gateway=0.010, event_loop=0.001, model_server=0.030, received=50e3, sent=100e3, internal=150e3
)


def exchange(status=200, late=0.0) -> Exchange:
    """One that took 30 ms from when it was due."""
    return Exchange(0, 1.0, 1.0 + late, 1.03, status, None, b"")


@pytest.fixture
def measured() -> tuple[Measured, Replica]:
    """Four loads on a replica for 50 photographs a second, and that replica."""
    replica = Replica(2, 50.0, np.full(20, 0.030), 0.1)
    points = [
        Point(rate, tuple(replica.percentile(share, rate) for share in SHARES), 100, 0)
        for rate in (10.0, 20.0, 30.0, 40.0)
    ]
    return Measured(replica.alone, 50.0, points, COST, [(10.0, exchange())]), replica


def test_a_replica_is_measured_alone_at_saturation_and_under_loads(jpeg, tiny_models):
    """Times, a rate, a cost of each part, and percentiles of rising loads."""
    found = measure([jpeg], tiny_models, alone=5, seconds=1, late_ms=1e5)
    assert len(found.alone) == 5
    assert found.capacity > 0
    assert [point.rate for point in found.points] == sorted(point.rate for point in found.points)
    assert all(point.percentiles[0] <= point.percentiles[2] for point in found.points)
    assert 0 < found.cost.event_loop < found.cost.gateway
    assert found.cost.model_server > 0
    assert found.cost.received == len(jpeg)
    assert found.cost.internal > 224 * 224 * 3


def test_what_was_refused_took_longer_than_all_else():
    """It is no censored datum: a refusal in a hundred leaves the 99 % alone, a second does not."""
    answered = [exchange()] * 98
    assert _point(10.0, [*answered, exchange(), exchange(503)], 20) == Point(
        10.0, (pytest.approx(0.03),) * 3, 99, 1
    )
    with pytest.raises(SystemExit) as refused:
        _point(10.0, [*answered, exchange(503), exchange(0)], 20)
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("exchanges", "told"),
    [
        ([], "let it run for longer"),
        ([exchange(late=0.025)], "25 ms late"),
        ([exchange(), exchange(503), exchange(0)], "1 x 200, 1 x 503, 1 x no answer"),
    ],
)
def test_a_load_that_proves_nothing_ends_with_2(exchanges, told, capsys):
    """Nothing sent, sent late, or not answered: a sentence."""
    with pytest.raises(SystemExit) as refused:
        _point(10.0, exchanges, 20)
    assert refused.value.code == 2
    assert told in capsys.readouterr().err


def test_a_load_over_the_fitted_capacity_is_told_in_words(measured):
    """No percentile is infinite, and no error."""
    low = Replica(2, 15.0, np.full(20, 0.030), 0.1)
    table = report.fit(low, measured[0])
    assert "30 / too much" in table
    assert "The fitted capacity is less than a load" in table
    assert "inf" not in table


def test_the_fit_is_shown_beside_what_was_measured(measured):
    """Each load says whether it was fitted to or predicted, and what was refused."""
    table = report.fit(measured[1], measured[0])
    assert "| 10.0 (fitted)        |" in table
    assert "| 20.0 (predicted)     |" in table
    assert "30 / 30" in table
    assert "0 of 100" in table
    assert "is off by 0 %" in table


def test_the_narrowest_resource_comes_first():
    """Processors before the event loop before a card of 10 Gbit/s."""
    rows = report.limits(COST, cores=2, gigabits=10).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "all processors",
        "the model server's share of them",
        "the gateway's share of them",
        "the gateway's event loop, one thread",
        "network out, 10 Gbit/s",
        "network in, 10 Gbit/s",
    ]
    assert [row.split("|")[3].strip() for row in rows] == [
        "50", "67", "200", "1,000", "12,500", "25,000"
    ]  # fmt: skip


def test_a_fleet_is_sized_up_to_100_000_photographs_a_second():
    """Replicas are rounded up; network, core-hours and cost follow."""
    row = report.sizes(40.0, COST, cores=2, price=0.05).splitlines()[6]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["100,000", "2,500", "5,000", "40", "80", "120", "13.9", "250.00"]
    assert "cost an hour at" not in report.sizes(40.0, COST, 2, None)


def test_the_study_is_kept(measured, tmp_path):
    """Its record, every reply's time and the plot, under one name."""
    report.write(tmp_path / "capacity", machine.facts(), *measured)
    record = json.loads((tmp_path / "capacity.json").read_text())
    assert record["fit"] == {"servers": 2, "capacity": 50.0, "scv": 0.1}
    assert (tmp_path / "capacity-times.csv").read_text().splitlines()[1] == "10.0,200,30.0"
    assert (tmp_path / "capacity.png").stat().st_size > 0


def test_what_is_missing_is_told_with_status_2(jpeg, tmp_path, capsys):
    """No photograph, or no model."""
    for told in ("export draw", "export saved-model"):
        with pytest.raises(SystemExit) as refused:
            capacity.main(["--photographs", str(tmp_path), "--models", str(tmp_path)])
        assert refused.value.code == 2
        assert told in capsys.readouterr().err
        (tmp_path / "cell.jpg").write_bytes(jpeg)
