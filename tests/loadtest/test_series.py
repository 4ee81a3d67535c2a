"""A series beside its photographs one by one, and what stops that from being measured."""

import csv

import pytest

from loadtest import series


@pytest.fixture
def refused(capsys):
    """The one sentence in which a run is refused, with status 2."""

    def run(*given: object) -> str:
        with pytest.raises(SystemExit) as ended:
            series.main([*map(str, given)])
        assert ended.value.code == 2
        (told,) = capsys.readouterr().err.splitlines()
        return told

    return run


def test_each_way_is_measured_in_each_round(samples, model_server, tmp_path, capsys):
    """Its rates are in the file, and the table is of as many photographs as there are."""
    raw = tmp_path / "series.csv"
    given = [samples, "--model-server", model_server, "--rounds", 2, "--raw", raw]
    assert series.main([*map(str, given)]) == 0
    assert capsys.readouterr().out.startswith("photographs: 1\n")
    with raw.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sent as"] for row in rows] == ["singles", "form", "zip"] * 2
    assert all(float(row["photographs a second"]) > 0 for row in rows)


def test_an_empty_folder_is_refused(tmp_path, refused):
    """Nothing is started for it."""
    assert refused(tmp_path).startswith(f"no photograph in {tmp_path}")


def test_what_is_no_photograph_is_named(samples, model_server, refused):
    """With the gateway's own sentence."""
    (samples / "broken.jpg").write_bytes(b"no picture")
    told = refused(samples, "--model-server", model_server)
    assert told.startswith("photographs/broken.jpg was refused: This is not a picture")


def test_a_model_server_that_is_not_there_is_told(samples, nobody, refused):
    """In the gateway's own sentence."""
    told = refused(samples, "--model-server", nobody.removeprefix("http://"))
    assert told.startswith("photographs/cell.jpg was refused: ")
