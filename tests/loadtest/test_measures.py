"""What is measured beside load: codecs, the start, the memory."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from loadtest import codecs, footprint, stages


@pytest.fixture
def samples(jpeg, tmp_path):
    """A folder with one photograph."""
    (tmp_path / "cell.jpg").write_bytes(jpeg)
    return tmp_path


def test_codecs_are_compared_on_every_size(samples, tmp_path, capsys):
    """A table for each stage, and every time in the file; Pillow's own way changes no pixel."""
    raw = tmp_path / "times.csv"
    assert codecs.main([str(samples), "--rounds", "1", "--raw", str(raw)]) == 0
    printed = capsys.readouterr().out
    with raw.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["side"] for row in rows} == {"256", "360", "640", "2048"}
    for stage in ("decode", "resize", "encode"):
        assert f"| {stage}: median ms" in printed
    (header,) = (line for line in printed.splitlines() if "encode" in line)
    assert all(len(line) == len(header) for line in printed.split(header)[1].split("\n")[1:3])
    assert {row["result"] for row in rows if row["contender"] == "bilinear"} == {"0"}


def test_a_photographs_time_is_told_stage_by_stage(samples, tiny_models, tmp_path, capsys):
    """The stages and what is beside them add up to what the client waited, in every row."""
    raw = tmp_path / "stages.csv"
    given = [str(samples), "--models", str(tiny_models), "--rounds", "2", "--raw", str(raw)]
    assert stages.main(given) == 0
    printed = capsys.readouterr().out
    for row in ("decode, resize, tensor", "HTTP, JSON, waits", "the client waits"):
        assert f"| {row} " in printed
    with raw.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["side"] for row in rows] == ["256", "360", "640", "2048"] * 2
    for row in rows:
        staged = sum(float(row[stage]) for stage in ("prepare", "predict", "explain"))
        assert 0 < staged < float(row["client"])
        assert float(row["bare"]) > 0


def test_codecs_refuse_what_is_no_picture(samples, capsys):
    """With the file's name."""
    (samples / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as refused:
        codecs.main([str(samples)])
    assert refused.value.code == 2
    assert "/broken.jpg is no picture" in capsys.readouterr().err


def test_the_contenders_png_is_one():
    """What is timed as a PNG decodes to the picture."""
    picture = Image.effect_noise((41, 33), 60).convert("RGB")
    with Image.open(io.BytesIO(codecs._one_filter(picture, codecs._huffman))) as decoded:
        assert np.array_equal(np.asarray(decoded), np.asarray(picture))


def test_the_footprint_is_told_and_judged(samples, model_server, tmp_path, capsys):
    """Starts and memory are read from a real gateway; a limit that is passed is status 1."""
    raw = tmp_path / "footprint.csv"
    given = ["--photographs", str(samples), "--model-server", model_server, "--raw", str(raw)]
    status = footprint.main([*given, "--starts", "2", "--requests", "20"])
    assert "start to ready" in capsys.readouterr().out
    with raw.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows if row["what"] == "memory MB"][-1] == "20"
    assert all(float(row["value"]) > 0 for row in rows)
    memory = [float(row["value"]) for row in rows if row["what"] == "memory MB"]
    (highest,) = (float(row["value"]) for row in rows if row["what"] == "highest memory MB")
    assert highest >= max(memory)
    assert status in (0, 1)  # how quick this machine is today is not this test's


def test_too_slow_or_too_large_is_not_kept():
    """Each limit counts by itself."""
    assert footprint._kept([1.0], {0: 80.0, 10: 90.0, 20: 91.0}, 92.0)
    assert not footprint._kept([2.0], {0: 80.0, 10: 90.0, 20: 91.0}, 92.0)
    assert not footprint._kept([1.0], {0: 80.0, 10: 90.0, 20: 91.0}, 151.0)
    assert not footprint._kept([1.0], {0: 80.0, 10: 90.0, 20: 97.0}, 98.0)


def test_memory_that_grew_under_load_is_not_hidden_by_what_is_given_back_at_its_end():
    """The halves' highest are compared, not their last readings."""
    assert footprint._growth_mb({0: 80.0, 10: 90.0, 20: 90.0, 30: 97.0, 40: 84.0}) == 7.0


def test_a_gateway_that_does_not_become_ready_is_refused(unready, capsys):
    """With what it answered, when the time is over; one that is ready is not waited for."""
    with pytest.raises(SystemExit) as refused:
        footprint.wait_until_ready(unready, deadline=0.0)
    assert refused.value.code == 2
    assert "/readyz answered 503: " in capsys.readouterr().err


def test_a_gateway_that_is_ready_is_found_so(gateway):
    """However late it is asked."""
    footprint.wait_until_ready(gateway, deadline=0.0)


def test_the_footprint_refuses_what_is_no_picture(tmp_path, capsys):
    """Before anything is started."""
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as refused:
        footprint.main(["--photographs", str(tmp_path)])
    assert refused.value.code == 2
    assert "/broken.jpg is no picture" in capsys.readouterr().err
