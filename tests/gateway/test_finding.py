"""What a finding says, word for word."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import figures, finding
from gateway.annotation import load_reference
from gateway.differential import Finding, Interval, Share

EOSINOPHIL = load_reference().classes["EOSINOPHIL"]


def share(
    told: Finding, percent: float, low: float, high: float, more_cells: int | None = None
) -> Share:
    """A share of eosinophils, whose normal range is 1 to 4 %."""
    limits = Interval(low, high)
    return Share("EOSINOPHIL", 1, percent, limits, None, limits, EOSINOPHIL, told, more_cells)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (share("high", 12.4, 8.6, 17.1), "high: 12.4 % (8.6 to 17.1), normal 1 to 4 %"),
        (share("low", 0, 0, 0.73), "low: 0.0 % (0.0 to 0.7), normal 1 to 4 %"),
        (
            share("within", 2.5, 1.6, 3.7),
            "within the normal range: 2.5 % (1.6 to 3.7), normal 1 to 4 %",
        ),
        (
            share("untold", 5, 1.64, 11.28, 337),
            (
                "cannot be told at n = 1,000: 5.0 % (1.6 to 11.3), normal 1 to 4 %"
                "; about 340 more cells would settle it if the share stays"
            ),
        ),
        (
            share("untold", 4, 1.1, 9.9),
            (
                "cannot be told at n = 1,000: 4.0 % (1.1 to 9.9), normal 1 to 4 %"
                "; more cells alone would hardly settle it"
            ),
        ),
    ],
)
def test_a_finding_stands_with_its_figures(found, words):
    """The share, the limits that the finding was made from, and the normal range."""
    assert finding.in_words(found, 1000) == words


@pytest.mark.parametrize(
    ("told", "word"),
    [("high", "high"), ("low", "low"), ("within", "within"), ("untold", "cannot be told")],
)
def test_beside_the_figures_it_is_short(told, word):
    """A table has the figures in columns of their own."""
    assert finding.in_a_word(share(told, 5, 1, 9)) == word


def test_no_cell_is_no_finding():
    """Nor is it told how many more would do."""
    nothing = share("untold", 0, 0, 100, 90)
    assert finding.in_words(nothing, 0) == "cannot be told: no cell was counted"


def test_without_a_normal_range_there_is_no_finding():
    """The share and its limits are told all the same."""
    unknown = replace(share("untold", 5, 1, 11), leukocyte=replace(EOSINOPHIL, normal_range=None))
    words = "cannot be told without a normal range: 5.0 % (1.0 to 11.0)"
    assert finding.in_words(unknown, 100) == words
    assert finding.range_in_words(None) == ""


@pytest.mark.parametrize(
    ("more", "told"),
    [(1, "1 more cell"), (12, "about 12 more"), (101, "about 110 more"), (999, "about 1,000 more")],
)
def test_cells_to_come_are_rounded_up(more, told):
    """To two digits: fewer would not do."""
    assert f"; {told}" in finding.in_words(share("untold", 5, 1, 11, more), 100)


def test_the_limits_shown_are_those_of_the_finding():
    """Not the narrower ones of sampling alone."""
    wide = replace(share("untold", 3, 2, 3.5, 50), widest=Interval(0.4, 9))
    assert "3.0 % (0.4 to 9.0)" in finding.in_words(wide, 500)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0.0 %"), (0.01, "< 0.1 %"), (50, "50.0 %"), (99.99, "> 99.9 %"), (100, "100.0 %")],
)
def test_neither_all_nor_nothing_comes_from_rounding(value, words):
    """One cell of ten thousand is not none."""
    assert figures.percent(value) == words


def test_rounding_moves_no_limit_over_the_normal_range():
    """4.04 is above 4, and 3.996 is below it: a reader must see it."""
    normal = EOSINOPHIL.normal_range
    assert finding.span(Interval(4.04, 9.13), normal) == "4.04 to 9.13"
    assert finding.span(Interval(1.5, 3.996), normal) == "1.500 to 3.996"
    assert finding.span(Interval(4.04, 9.13)) == "4.0 to 9.1"


@given(st.floats(0, 100), st.floats(0, 100))
def test_limits_are_written_to_a_tenth(one, other):
    """Of a percent, whatever they are."""
    low, high = sorted((one, other))
    shown = [float(text) for text in finding.span(Interval(low, high)).split(" to ")]
    assert shown == pytest.approx([low, high], abs=0.051)
