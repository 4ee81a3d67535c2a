"""Numbers that mean nothing are refused by every command alike."""

import pytest

from loadtest import arguments, codecs, drain, fleet, footprint, hostile, outage, overload
from loadtest.capacity import __main__ as capacity


@pytest.mark.parametrize("given", ["0", "-3", "1.5", "many", "", "\N{SUPERSCRIPT TWO}"])
def test_how_many_is_1_or_more(given, capsys):
    """Anything else is told, with status 2."""
    with pytest.raises(SystemExit) as ended:
        overload.main([f"--most={given}"])
    assert ended.value.code == 2
    assert f"argument --most: {given!r} is no whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "-0.5", "nan", "inf", "long"])
def test_how_long_is_more_than_0(given, capsys):
    """Anything else is told, with status 2."""
    with pytest.raises(SystemExit) as ended:
        overload.main([f"--seconds={given}"])
    assert ended.value.code == 2
    assert f"argument --seconds: {given!r} is no number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "given"),
    [
        (capacity.main, ["--most=0"]),
        (capacity.main, ["--seconds=0"]),
        (codecs.main, [".", "--rounds=0"]),
        (drain.main, ["--seconds=0"]),
        (fleet.main, ["--seconds=0"]),
        (footprint.main, ["--most=0"]),
        (hostile.main, ["--rounds=0"]),
        (outage.main, ["--seconds=0"]),
        (overload.main, ["--rounds=0"]),
    ],
)
def test_every_command_takes_no_other(main, given, capsys):
    """Before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert "'0' is no " in capsys.readouterr().err


def test_a_command_line_is_told_as_it_can_be_given_again():
    """Quoted where a shell needs it; without arguments none of this process's are made up."""
    told = arguments.command("loadtest.bench", ["--photographs", "my cells"])
    assert told == "python -m loadtest.bench --photographs 'my cells'"
    assert arguments.command("loadtest.bench", []) == "python -m loadtest.bench"
