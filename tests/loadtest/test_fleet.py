"""Several model servers behind one gateway: even shares, and one that dies is not missed."""

import csv

import pytest

from loadtest import fleet
from loadtest.steady import Reply


def test_two_servers_share_evenly_and_one_may_die(jpeg, tiny_models, tmp_path, capsys):
    """No request fails, the second takes over, and the counts are within 5 % of even."""
    (tmp_path / "cell.jpg").write_bytes(jpeg)
    results = tmp_path / "results"
    given = [
        *("--photographs", str(tmp_path), "--models", str(tiny_models), "--servers", "2"),
        *("--rate", "25", "--seconds", "4", "--results", str(results)),
    ]
    status, told = fleet.main(given), capsys.readouterr().out
    assert status == 0, told
    servers, _, _, under_way, survived, *_ = [
        cell.strip() for cell in told.splitlines()[4].strip("|").split("|")
    ]
    assert servers == "2"
    assert int(under_way) > 0  # calls hung at the server that was killed
    first, second = map(int, survived.split(","))
    assert first < second  # one or so was on its way back when the first was stopped
    with (results / "latest-fleet-times.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["outcome"] for row in rows} == {"200"}
    assert {row["phase"] for row in rows} == {"before", "after"}
    sent = [float(row["sent, s after the kill"]) for row in rows]
    assert min(sent) < -4
    assert max(sent) > 3
    assert str(results / "latest-fleet-times.csv") in told


@pytest.mark.parametrize(
    ("answered", "outcome", "missed"),
    [
        ([100, 104], "200", []),
        ([100, 120], "200", ["the shares (100, 120) are off even by 9 %, where 5 % are allowed."]),
        ([100, 100], "503", ["2 requests were not answered with 200: 2 x 503."]),
        ([0, 0], "200", ["the shares (0, 0) are off even by 100 %, where 5 % are allowed."]),
    ],
)
def test_what_is_good_enough(answered, outcome, missed):
    """Within 5 % of even, and nothing but 200; no answers at all are not even."""
    replies = [Reply(outcome, 0.0, 0.1)]
    assert fleet.Outcome(answered, [0, 1], replies, replies, 3, 0.0).missed() == missed


def test_the_wait_for_another_server_counts_from_the_kill():
    """How long calls hung before is in the longest wait in all."""
    replies = [Reply("200", 0.0, 5.2), Reply("200", 5.1, 5.2)]
    found = fleet.Outcome([1, 1], [0, 2], [], replies, under_way=1, killed=5.0)
    assert found.slowest == pytest.approx(0.2)
    assert found.longest == pytest.approx(5.2)


def test_no_model_is_told_with_status_2(jpeg, tmp_path, capsys):
    """Before anything is started."""
    (tmp_path / "cell.jpg").write_bytes(jpeg)
    with pytest.raises(SystemExit) as refused:
        fleet.main(["--photographs", str(tmp_path), "--models", str(tmp_path)])
    assert refused.value.code == 2
    assert "export saved-model" in capsys.readouterr().err
