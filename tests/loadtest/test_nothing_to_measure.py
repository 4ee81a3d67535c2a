"""Where nothing can be measured, each study says so in one sentence, with status 2."""

import csv

import pytest

from loadtest import (
    drain,
    fleet,
    footprint,
    hostile,
    idle,
    large,
    outage,
    overload,
    photographs,
    pools,
    quality,
    series,
    stages,
)
from loadtest.capacity import __main__ as capacity
from loadtest.target import Target

COLUMNS = ["path", "source", "split", "label", "wbc_boxes"]


@pytest.fixture
def refused(capsys):
    """Runs a command and returns what it says; it is one line, and the status is 2."""

    def run(main, *given) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in given])
        assert ended.value.code == 2
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line]
        return said

    return run


@pytest.fixture
def data(samples, jpeg):
    """A folder with a manifest that names its photograph."""
    with (samples / "manifest.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, ["cell.jpg", "pbc", "test", "NEUTROPHIL", ""]])
    return samples


@pytest.mark.parametrize("main", [capacity.main, drain.main, fleet.main, hostile.main,
                                  outage.main, overload.main])  # fmt: skip
def test_an_empty_folder_is_told(main, refused, tmp_path):
    """With the command that draws photographs."""
    assert "export draw" in refused(main, "--photographs", tmp_path)


@pytest.mark.parametrize("main", [drain.main, fleet.main, hostile.main, outage.main,
                                  footprint.main, overload.main, pools.main])  # fmt: skip
def test_a_missing_model_is_told(main, refused, samples, tmp_path):
    """With the command that makes one: a model server would wait for it for ever."""
    given = ["--photographs", samples, "--models", tmp_path / "none"]
    assert "export saved-model" in refused(main, *given)


@pytest.mark.parametrize("main", [series.main, stages.main])
def test_a_missing_model_is_told_of_a_folder_too(main, refused, samples, tmp_path):
    """The same, where the folder of photographs is no option."""
    assert "export saved-model" in refused(main, samples, "--models", tmp_path / "none")


@pytest.mark.parametrize("main", [drain.main, hostile.main])
def test_a_model_server_that_is_away_is_told(main, refused, samples, nobody):
    """By the gateway that is not ready."""
    given = ["--photographs", samples, "--model-server", nobody.removeprefix("http://")]
    assert "is not ready" in refused(main, *given)


def test_a_photograph_that_the_service_cannot_read_is_named(samples, jpeg, gateway, capsys):
    """With the reason in words, not in JSON."""
    (samples / "cut.jpg").write_bytes(jpeg[:2000])
    with pytest.raises(SystemExit) as ended:
        idle.answered(Target(gateway), photographs.named(samples, 2))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "photographs/cut.jpg got 422 from an idle service: The picture is damaged" in said
    assert "{" not in said


def test_a_gateway_to_overload_that_is_not_ready_is_told(refused, samples, unready):
    """With what /readyz says."""
    assert "is not ready" in refused(overload.main, "--photographs", samples, "--host", unready)


@pytest.mark.parametrize("main", [large.main, quality.main])
@pytest.mark.parametrize(
    ("url", "said"), [("nobody", "No gateway can be reached"), ("unready", "is not ready")]
)
def test_no_gateway_is_told(main, url, said, refused, data, request):
    """Whether nothing listens, or it has no model."""
    photographs = data if main is quality.main else data / "cell.jpg"
    assert said in refused(main, photographs, "--url", request.getfixturevalue(url))


def test_a_large_photograph_that_is_none_is_told(refused, tmp_path):
    """Whether it is missing or no picture."""
    assert "cannot be read" in refused(large.main, tmp_path / "none.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert "/broken.jpg is no picture" in refused(large.main, tmp_path / "broken.jpg")


def test_a_manifest_that_says_nothing_is_told(refused, data):
    """Not there, without a column, or without a photograph of the split."""
    assert "no photograph of train" in refused(quality.main, data, "--split", "train")
    (data / "manifest.csv").write_text("path,source\ncell.jpg,pbc\n")
    assert "has no column split, label, wbc_boxes" in refused(quality.main, data)
    (data / "manifest.csv").unlink()
    assert "manifest.csv cannot be read" in refused(quality.main, data)


def test_a_photograph_of_the_manifest_that_is_no_picture_is_named(refused, data, gateway):
    """By its file."""
    (data / "cell.jpg").write_bytes(b"no picture")
    assert "/cell.jpg is no picture" in refused(quality.main, data, "--url", gateway)


def test_what_the_flags_find_is_told_of_a_real_gateway(data, gateway, tmp_path, capsys):
    """A row for each kind, and every measure in the file."""
    raw = tmp_path / "quality.csv"
    given = [str(data), "--url", gateway, "--plain", "--raw", str(raw)]
    assert quality.main(given) == 0
    assert "| pbc as it is | 1 |" in capsys.readouterr().out
    assert len(raw.read_text().splitlines()) == 2


def test_what_the_flags_find_in_changed_copies_is_told(data, gateway, tmp_path, capsys):
    """Blurred, in another light, and from closer."""
    given = [str(data), "--url", gateway, "--raw", str(tmp_path / "quality.csv")]
    assert quality.main(given) == 0
    told = capsys.readouterr().out
    for kind in ("blur 4", "light x 0.05", "closer x 2"):
        assert f"| pbc {kind} | 1 |" in told


def test_what_a_large_photograph_costs_is_told_of_a_real_gateway(
    samples, gateway, tmp_path, capsys
):
    """A row for each size."""
    given = [str(samples / "cell.jpg"), "--url", gateway, "--rounds", "1"]
    assert large.main([*given, "--raw", str(tmp_path / "large.csv")]) == 0
    assert "| 6000 x 4000 |" in capsys.readouterr().out
