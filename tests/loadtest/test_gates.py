"""When an objective is missed, and what is said then."""

import dataclasses

import pytest

from loadtest import plots
from loadtest import samples as raw
from loadtest.gates import Objective, judge, percentile
from loadtest.samples import RIGHT, WRONG, Sample


def sample(ms=20.0, outcome=RIGHT, name="interactive", photographs=1, late_ms=0.1, **others):
    given = {"at": 1.5, "level": 2, "server_timing": "wait;dur=1.0, predict;dur=12.5, total;dur=15"}
    return Sample(
        ms=ms, outcome=outcome, name=name, photographs=photographs, late_ms=late_ms,
        **(given | others),
    )  # fmt: skip


def test_an_objective_that_is_met_ends_with_0(capsys):
    """One of a hundred may be late."""
    assert judge(Objective(), [*[sample()] * 99, sample(ms=900)]) == 0
    assert "Objective met: 100 requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([*[sample()] * 98, sample(ms=201), sample(ms=900)], "interactive took 201 ms or more"),
        ([*[sample()] * 99, sample(outcome="500")], "1 of 100 requests of interactive were answer"),
        (
            [sample(), sample(outcome="503")],
            "1 of 2 requests of interactive were answered with 503",
        ),
        ([sample(), sample(outcome="429")], "got 429: one client may have no more at once"),
        ([sample(), sample(outcome=WRONG)], "answered otherwise than by the idle service"),
        ([sample(), sample(outcome="ConnectionResetError")], "no answer: ConnectionResetError"),
    ],
)
def test_what_is_missed_ends_with_1_and_one_sentence(samples, sentence, capsys):
    """Each way in which an objective is missed has its own."""
    assert judge(Objective(), samples) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert sentence in told


def test_a_form_has_the_time_of_all_its_photographs():
    """Four may take four times as long."""
    four = {"name": "batch of 4", "photographs": 4}
    assert not Objective(200).missed([sample(ms=799, **four)])
    assert Objective(200).missed([sample(ms=801, **four)])


def test_each_kind_is_judged_by_itself():
    """Many quick ones hide no slow one."""
    quick, slow = [sample()] * 1000, [sample(ms=300, name="explain")]
    (told,) = Objective().missed(quick + slow)
    assert "explain took 300 ms" in told


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [([], "Not one request"), ([sample(late_ms=80)], "could not keep up")],
)
def test_what_proves_nothing_ends_with_2(samples, sentence, capsys):
    """No request at all, or one that the load generator itself sent late."""
    assert judge(Objective(), samples) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("outcome", [WRONG, "500", "HTTPParseError"])
def test_a_late_load_generator_hides_nothing_that_no_load_excuses(outcome, capsys):
    """Wrong answers, failures and broken connections are a missed objective all the same."""
    assert judge(Objective(), [sample(late_ms=80), sample(late_ms=80, outcome=outcome)]) == 1
    late, missed = capsys.readouterr().err.splitlines()
    assert "could not keep up" in late
    assert missed.startswith("Objective missed: 1 of 2 requests")


def test_a_late_load_generator_may_have_brought_refusals_about(capsys):
    """It sent at once what was to come one after the other."""
    late = {"late_ms": 80, "ms": 900}
    assert judge(Objective(), [sample(**late), sample(**late, outcome="503")]) == 2
    assert "missed" not in capsys.readouterr().err


def test_percentiles_are_times_that_were_measured():
    """The nearest rank: no interpolation makes up a time."""
    assert [percentile(range(1, 101), p) for p in (0, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0


def test_raw_data_is_read_as_it_was_written(tmp_path):
    """And the server's own account with it."""
    kept = [sample(ms=20.125), sample(outcome="503", server_timing="")]
    raw.write(tmp_path / "raw.csv", kept)
    assert raw.read(tmp_path / "raw.csv") == kept
    assert kept[0].stages() == {"wait": 1.0, "predict": 12.5, "total": 15.0}


def test_plots_are_drawn_from_raw_data(tmp_path):
    """Of several files too; a kind without an answer is left out."""
    at = [
        dataclasses.replace(sample(), at=float(second), level=second // 5) for second in range(10)
    ]
    raw.write(tmp_path / "a.csv", at)
    raw.write(tmp_path / "b.csv", [sample(name="model server", server_timing=""), sample(
        outcome="503", name="explain")])  # fmt: skip
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert plots.main([*files, "--folder", str(tmp_path / "out"), "--name", "x"]) == 0
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == ["x-latency.png", "x-stages.png", "x-throughput.png"]
