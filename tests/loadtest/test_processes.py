"""A part that does not start says why."""

import pytest

from loadtest import processes


def test_a_part_that_does_not_start_is_told_in_its_own_words(capsys):
    """Status 2, with the last thing that it said."""
    with pytest.raises(SystemExit) as refused, processes.gateway("127.0.0.1:1", WORKERS="many"):
        pytest.fail("it started")
    assert refused.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("gateway.cli did not start: ")
    assert "HEMAVISION_WORKERS='many'" in told
