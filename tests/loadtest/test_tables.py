"""Raw data on its way into a file."""

import pytest

from loadtest import tables


def test_raw_data_is_written_in_a_folder_that_is_made(tmp_path):
    """A header and rows, each in a line of its own; commas and quotes survive."""
    path = tmp_path / "results" / "times.csv"
    tables.write_csv(path, ["what", "ms"], [["a, b", 1.5], ['"', None]])
    assert path.read_bytes() == b'what,ms\n"a, b",1.5\n"""",\n'


def test_raw_data_is_written_whole_or_not_at_all(tmp_path):
    """Where the rows end in an error, what was there before is there still, and nothing else."""
    path = tmp_path / "times.csv"
    path.write_text("before")

    def rows():
        yield ["a"]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tables.write_csv(path, ["what"], rows())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
