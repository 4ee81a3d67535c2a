"""Settings are compared on as many cores as asked for, and no more than there are."""

import csv
import os

import pytest

from loadtest import machine, pools


def test_settings_take_turns_on_one_core(jpeg, tiny_models, tmp_path, capsys):
    """A row for each setting and event loop, every time in a file, and the cores given back."""
    (tmp_path / "cell.jpg").write_bytes(jpeg)
    before = os.sched_getaffinity(0)
    given = ["--photographs", str(tmp_path), "--models", str(tiny_models)]
    quick = ["--cores", "1", "--rounds", "2", "--turns", "1", "--seconds", "0.2"]
    assert pools.main([*given, *quick, "--results", str(tmp_path)]) == 0
    assert os.sched_getaffinity(0) == before
    printed = capsys.readouterr().out
    assert "1 core:" in printed
    for row in ("threads 1, at once 2", "the least, uvloop"):
        assert f"| {row}" in printed
    with (tmp_path / "latest-pools-1-times.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_more_cores_than_there_are_are_refused(jpeg, tmp_path, capsys):
    """With the number that there is, before anything is started."""
    (tmp_path / "cell.jpg").write_bytes(jpeg)
    there = machine.usable_cores()
    with pytest.raises(SystemExit) as refused:
        pools.main(["--photographs", str(tmp_path), "--cores", str(there + 1)])
    assert refused.value.code == 2
    assert f"this process may use {there}" in capsys.readouterr().err
