"""The benchmark as a command: one small run of everything, its record, its gate, its refusals."""

import json
from pathlib import Path
from statistics import median

import pytest

from export.smear import draw_samples
from loadtest import machine, photographs, pictures, tables
from loadtest.bench import BASELINE, gate, goals, report
from loadtest.bench.__main__ import main
from loadtest.bench.contenders import NAMES
from loadtest.bench.outcome import MEASURES, Turn
from loadtest.photographs import Photograph

RECORD = Path(__file__).parents[2] / "loadtest/results/bench.json"


@pytest.fixture(scope="module")
def weights(tiny_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.keras"
    tiny_model.save(path)
    return path


@pytest.fixture
def samples(jpeg, tmp_path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "cell.jpg").write_bytes(jpeg)
    return folder


@pytest.fixture
def options(samples, tiny_models, weights, tmp_path) -> list[str]:
    return [
        *("--photographs", str(samples), "--models", str(tiny_models), "--weights", str(weights)),
        *("--results", str(tmp_path / "results"), "--rounds", "3", "--turns", "1"),
        *("--seconds", "0.2", "--clients", "2"),
    ]


def invented_runs(factor: float) -> list[report.Run]:
    """Three runs in which all contenders take the same, and those of ours ``factor`` times it."""
    return [
        report.Run(
            {name: [10.0 * (1 if name == BASELINE else factor) * near] * 3 for name in NAMES},
            [Turn(0, name, 1.0, 100, 0, 1.0, 10**9) for name in NAMES],
        )
        for near in (0.99, 1.0, 1.01)
    ]


def record(results: Path, factor: float, photographs: str, **facts: object) -> None:
    """Write a record as if runs had been so."""
    plan = report.Plan(3, 1, 0.2, 2, photographs)
    runs = invented_runs(factor)
    here = machine.facts() | facts
    ours = {name for name in NAMES if name.startswith(("bare", "gateway"))}
    report.write(results, "bench", report.record(runs, plan, here, ours, "here"), runs)


def test_one_run_measures_all_and_the_gate_tells_what_is_worse(options, jpeg, tmp_path, capsys):
    """Every contender has every figure; against a record a hundred times faster, status 1."""
    results = tmp_path / "results"
    record(results, 0.01, pictures.digest([Photograph("cell.jpg", jpeg, "samples")]))
    assert main([*options, "--check"]) == 1
    said = capsys.readouterr().out
    assert "WORSE: gateway overlay, p50, ms: " in said
    assert " worse than recorded, " in said
    assert "a check tells: p50 " in said
    assert "gateway overlay's p50 at most 1.2 times bare gradcam's: " in said
    latest = json.loads((results / "latest.json").read_text())
    assert tuple(latest["figures"][0]) == NAMES
    assert latest["refused"] == dict.fromkeys(NAMES, 0)
    for of_one in latest["figures"][0].values():
        assert list(of_one) == list(MEASURES)
        assert all(figure > 0 for figure in of_one.values())
    assert len((results / "latest-times.csv").read_text().splitlines()) == 1 + 3
    assert len((results / "latest-turns.csv").read_text().splitlines()) == 1 + len(NAMES)
    for plot in ("latest-latency.png", "latest-cost.png"):
        assert (results / plot).stat().st_size > 0


@pytest.mark.parametrize(
    ("facts", "photographs", "told"),
    [
        ({"cores": 1000}, None, "cores is"),
        ({"packages": {"tensorflow": "1"}}, None, "tensorflow is"),
        ({}, "others", "the photographs are others"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    facts, photographs, told, options, tmp_path, capsys
):
    """Status 2 and a sentence, where the machine or the photographs are others."""
    record(tmp_path / "results", 1.0, photographs or "these", **facts)
    with pytest.raises(SystemExit) as refused:
        main([*options, "--check"])
    assert refused.value.code == 2
    assert told in capsys.readouterr().err


def test_a_record_of_other_contenders_is_refused(options, jpeg, tmp_path, capsys):
    """One was renamed since: status 2 before anything runs, and both its names are told."""
    path = tmp_path / "results/bench.json"
    record(tmp_path / "results", 1.0, pictures.digest([Photograph("cell.jpg", jpeg, "samples")]))
    path.write_text(path.read_text().replace("gateway overlay png", "gateway overlay jpeg"))
    with pytest.raises(SystemExit) as refused:
        main([*options, "--check"])
    assert refused.value.code == 2
    assert "(gateway overlay jpeg, gateway overlay png)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("samples", "export draw"),
        ("models", "python -m export saved-model --if-needed"),
        ("weights", "--weights"),
        ("record", "make bench-record"),
    ],
)
def test_what_is_missing_is_told_with_status_2(missing, told, options, samples, tmp_path, capsys):
    """An empty folder of photographs, no model, no weights, nothing to check against."""
    (tmp_path / "empty").mkdir()
    changed = {
        "samples": ["--photographs", str(tmp_path / "empty")],
        "models": ["--models", str(tmp_path / "empty")],
        "weights": ["--weights", str(tmp_path / "none.keras")],
        "record": ["--check"],
    }
    with pytest.raises(SystemExit) as refused:
        main([*options, *changed[missing]])
    assert refused.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--turns", "--clients", "--most", "--seconds"])
def test_nothing_cannot_be_measured(option, options, capsys):
    """None of something is refused by its option's name, before anything starts."""
    with pytest.raises(SystemExit) as refused:
        main([*options, option, "0"])
    assert refused.value.code == 2
    assert f"argument {option}: '0' is no " in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut off"])
def test_what_is_no_picture_is_named(body, options, samples, capsys):
    """A broken file among the photographs is refused, not a traceback."""
    (samples / "broken.jpg").write_bytes(body)
    with pytest.raises(SystemExit) as refused:
        main(options)
    assert refused.value.code == 2
    told = capsys.readouterr().err
    assert told == "samples/broken.jpg is no picture that can be decoded.\n"


@pytest.mark.parametrize("runs", ["1", "2", "-3", "many"])
def test_one_run_is_no_record(runs, options, capsys):
    """Noise shows between runs."""
    with pytest.raises(SystemExit) as refused:
        main([*options, "--record", "--runs", runs])
    assert refused.value.code == 2
    assert "3 or more" in capsys.readouterr().err


def test_the_readme_has_the_record():
    """Its table is the one that the record gives, and its bands are those of its ratios."""
    recorded = json.loads(RECORD.read_text())
    readme = tables.README.read_text()
    assert report.table(recorded) in readme
    assert goals.told(recorded) in readme
    again = gate.bands(recorded["ratios"], set(recorded["ours"]))
    for name, of_one in report.recorded_bands(recorded).items():
        for measure, band in of_one.items():
            assert band == pytest.approx(again[name][measure])


def test_the_record_is_of_what_is_compared_now(tmp_path):
    """Its contenders are today's and, on a machine of its kind, its photographs the samples."""
    recorded = json.loads(RECORD.read_text())
    assert tuple(recorded["figures"][0]) == NAMES
    draw_samples(tmp_path / "samples", seed=1)
    found = photographs.named(tmp_path / "samples", most=100)
    assert recorded["photographs"] == [one.name for one in found]
    if not gate.differences(machine.facts(), recorded["machine"]):
        assert recorded["plan"]["photographs"] == pictures.digest(found)


def test_the_capacity_of_a_cluster_is_planned_with_the_record():
    """What a photograph takes of the processors there, in milliseconds, is what was measured."""
    recorded = json.loads(RECORD.read_text())
    server = median(run[BASELINE]["cpu"] for run in recorded["figures"])
    ratio = median(run["gateway overlay"]["cpu"] for run in recorded["ratios"])
    planned = (RECORD.parents[2] / "k8s/README.md").read_text()
    assert f"| {server:.1f} ms |" in planned
    assert f"| {server * (ratio - 1):.1f} ms |" in planned


def test_a_table_is_put_where_the_document_has_a_place_for_it(tmp_path):
    """And nowhere else."""
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- here -->\nold\n<!-- /here -->\nafter\n")
    tables.put("here", tables.markdown(["", "ms"], [["bare", "1"]]), document)
    table = "|      | ms |\n| ---- | -: |\n| bare |  1 |"
    assert document.read_text() == f"before\n<!-- here -->\n\n{table}\n\n<!-- /here -->\nafter\n"
    with pytest.raises(ValueError, match="no place for there"):
        tables.put("there", table, document)
