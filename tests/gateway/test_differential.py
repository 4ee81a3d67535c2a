"""The differential count: every cell in its place, honest limits, and nothing said too early."""

from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.annotation import load_reference
from gateway.confusion import Confusion, confusions_of
from gateway.contract import CLASSES
from gateway.differential import (
    NOT_COUNTED,
    OTHER,
    Cell,
    Interval,
    compare,
    count,
)
from gateway.ranges import NormalRange

REFERENCE = load_reference()
ADULTS = REFERENCE.classes
FAIR = Confusion(
    "somewhere", ((300, 0, 0, 3, 2), (0, 108, 4, 0, 2), (0, 2, 140, 1, 3), (1, 0, 1, 324, 8))
)
PERFECT = Confusion("heaven", tuple(tuple(10**9 * (r == c) for c in range(5)) for r in range(4)))


def cells(*counts: int, unclassified: int = 0) -> list[Cell]:
    """So many cells of each class, in the order of the classes, and some unclassified."""
    kinds = zip((*CLASSES, None), (*counts, unclassified), strict=True)
    return list(chain.from_iterable(repeat(Cell(kind), n) for kind, n in kinds))


def test_every_cell_is_counted_once():
    """In its class, as unclassified, as other, or not at all where a reader says so."""
    series = [
        *cells(2, 3, 0, 10, unclassified=4),
        Cell("MONOCYTE", "LYMPHOCYTE"),
        Cell(None, "MONOCYTE"),
        Cell("NEUTROPHIL", OTHER),
        Cell(None, NOT_COUNTED),
        Cell("EOSINOPHIL", "EOSINOPHIL"),
    ]
    found = count(series, ADULTS, None)
    assert found.cells == len(series) - 1
    assert [share.count for share in found.shares] == [3, 4, 1, 10]
    assert (found.unclassified.count, found.other.count) == (4, 1)
    assert (found.by_reader, found.changed, found.excluded) == (4, 3, 1)
    parts = [*found.shares, found.unclassified, found.other]
    assert sum(part.percent for part in parts) == pytest.approx(100)


def test_nothing_counted_is_nothing_known():
    """Shares of 0 with limits from 0 to 100, and no finding; also where a reader took all out."""
    for series in ([], [Cell("MONOCYTE", NOT_COUNTED)]):
        found = count(series, ADULTS, FAIR)
        assert found.cells == 0
        for share in found.shares:
            assert (share.percent, share.limits, share.widest) == (0, *[Interval(0, 100)] * 2)
            assert (share.corrected, share.finding, share.more_cells) == (None, "untold", None)


def test_unclassified_cells_may_be_anything():
    """They widen each class upwards, and no class is given them."""
    without = count(cells(3, 30, 6, 61), ADULTS, None).shares
    found = count(cells(3, 30, 6, 41, unclassified=20), ADULTS, None)
    for share, before in zip(found.shares[:3], without, strict=False):
        assert share.limits == before.limits
        assert share.widest.low == share.limits.low
        assert share.widest.high > share.limits.high + 15


def test_a_share_is_flagged_only_where_all_of_it_is_outside():
    """`low` and `high` outside, `within` inside, else `untold`."""
    four = NormalRange(20, 40, "%", "test")
    findings = {
        (1, 19.9): "low",
        (1, 20): "untold",
        (20, 40): "within",
        (19, 30): "untold",
        (30, 41): "untold",
        (10, 90): "untold",
        (40, 60): "untold",
        (40.1, 60): "high",
    }
    assert {ends: compare(Interval(*ends), four) for ends in findings} == findings


@pytest.mark.parametrize("confusion", [None, FAIR])
def test_an_eosinophilia_is_told_and_a_normal_smear_is_not_flagged(confusion):
    """30 of 100 eosinophils are high; of a normal hundred nothing is low or high."""
    high = count(cells(30, 20, 5, 45), ADULTS, confusion).shares[0]
    assert (high.finding, high.more_cells) == ("high", None)
    for share in count(cells(3, 30, 5, 62), ADULTS, confusion).shares:
        assert share.finding in {"within", "untold"}


@pytest.mark.parametrize(("confusion", "eosinophils"), [(None, 10), (FAIR, 13)])
@pytest.mark.parametrize("unclassified", [0, 2])
def test_so_many_more_cells_settle_it(confusion, eosinophils, unclassified):
    """So many cells of the same shares are told, and a tenth less are not."""
    counted = (eosinophils, 56, 11, 120)
    series = cells(*counted, unclassified=unclassified)
    (share, *_) = count(series, ADULTS, confusion).shares
    assert share.finding == "untold"
    factor = (len(series) + share.more_cells) / len(series)

    def finding(times: float) -> str:
        counts = [round(times * n) for n in counted]
        more = cells(*counts, unclassified=round(times * unclassified))
        return count(more, ADULTS, confusion).shares[0].finding

    assert finding(1.03 * factor) == "high"
    assert finding(0.9 * factor) == "untold"


def test_what_lies_on_an_end_of_the_range_is_never_settled():
    """No number of cells is asked for."""
    share = count(cells(4, 30, 6, 60), ADULTS, None).shares[0]
    assert (share.percent, share.finding, share.more_cells) == (4, "untold", None)


def test_a_perfect_classifier_needs_no_correction():
    """With a perfect, infinitely well known confusion the limits are Clopper's and Pearson's."""
    for series in (cells(0, 30, 6, 64), cells(30, 300, 60, 610), cells(9, 1, 0, 0)):
        for share in count(series, ADULTS, PERFECT).shares:
            spread = 0.12 * (share.limits.high - share.limits.low)
            assert share.corrected.percent == pytest.approx(share.percent, abs=0.01)
            assert share.corrected.limits.low == pytest.approx(share.limits.low, abs=spread)
            assert share.corrected.limits.high == pytest.approx(share.limits.high, abs=spread)


def test_the_correction_finds_the_cells_behind_the_answers():
    """Answers as a known confusion gives them lead back to the composition."""
    truth = np.array([0.05, 0.3, 0.1, 0.55])
    confusion = Confusion(
        "lab", ((900, 0, 0, 50, 50), (0, 800, 100, 0, 100), (0, 50, 900, 0, 50), (20, 0, 0, 980, 0))
    )
    answers = 100_000 * truth @ (np.array(confusion.counts) / 1000)
    series = cells(*answers[:4].astype(int), unclassified=int(answers[4]))
    for share, true in zip(count(series, ADULTS, confusion).shares, 100 * truth, strict=True):
        assert share.corrected.percent == pytest.approx(true, abs=0.1)
        assert share.corrected.limits.low < true < share.corrected.limits.high
        assert abs(share.percent - true) > 0.3


def test_a_poorly_known_confusion_widens_the_limits():
    """A tenth of the photographs, the same rates."""
    poor = Confusion("lab", tuple(tuple(round(n / 10) for n in row) for row in FAIR.counts))
    series = cells(30, 300, 60, 610)
    for well, badly in zip(
        count(series, ADULTS, FAIR).shares, count(series, ADULTS, poor).shares, strict=True
    ):
        widths = [s.corrected.limits.high - s.corrected.limits.low for s in (well, badly)]
        assert widths[0] < widths[1]


def test_what_a_reader_said_is_not_corrected():
    """A reader's cells are certain: with all of them reviewed there is nothing to correct."""
    series = [Cell(c.answer, c.answer) for c in cells(3, 30, 6, 61)]
    reviewed = count(series, ADULTS, FAIR)
    shares = reviewed.shares
    assert (reviewed.confusion, [share.corrected for share in shares]) == (None, [None] * 4)
    assert not {"uncorrected", "other-photographs"} & warned(series)
    half = count([*series, *cells(3, 30, 6, 61)], ADULTS, FAIR).shares
    none = count(cells(6, 60, 12, 122), ADULTS, FAIR).shares
    for partly, not_at_all, raw in zip(half, none, shares, strict=True):
        moved = [abs(s.corrected.percent - raw.percent) for s in (partly, not_at_all)]
        assert moved[0] <= moved[1] + 1e-9


def test_the_same_count_gives_the_same_figures():
    """The simulation is repeatable, whatever was counted before."""
    first = count(cells(3, 30, 6, 61), ADULTS, FAIR)
    count(cells(50, 1, 1, 1), ADULTS, replace(FAIR, source="elsewhere"))
    assert count(cells(3, 30, 6, 61), ADULTS, FAIR) == first


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=6, max_size=6),
    st.lists(st.lists(st.integers(0, 30), min_size=5, max_size=5), min_size=4, max_size=4),
)
def test_limits_hold_their_share_whatever_the_confusion(counts, rows):
    """Also where the model was never right, or could not be told from chance."""
    named, unclassified, reviewed = counts[:4], counts[4], counts[5]
    series = [*cells(*named, unclassified=unclassified), *[Cell(None, "MONOCYTE")] * reviewed]
    confusion = Confusion("anywhere", tuple(map(tuple, rows)))
    for share in count(series, ADULTS, confusion).shares:
        assert 0 <= share.widest.low <= share.limits.low <= share.percent + 1e-9
        assert share.percent - 1e-9 <= share.limits.high <= share.widest.high <= 100
        if share.corrected:
            low, high = share.corrected.limits.low, share.corrected.limits.high
            assert share.widest.low <= low <= share.corrected.percent <= high <= share.widest.high


README = (Path(__file__).parents[2] / "gateway/README.md").read_text()


def warned(series: list[Cell], confusion: Confusion | None = FAIR) -> set[str]:
    """The warnings' names; each has a sentence, and a row in the README."""
    found = count(series, ADULTS, confusion)
    assert all(len(warning.detail) > 30 for warning in found.warnings)
    assert all(f"| `{warning.warning}` |" in README for warning in found.warnings)
    return {warning.warning for warning in found.warnings}


def test_only_warnings_that_apply_are_given():
    """Four classes and chosen photographs are told always, the rest where there is a reason."""
    always = {"no-basophils", "chosen-cells"}
    assert warned(cells(3, 30, 6, 61)) == always | {"other-photographs"}
    assert warned(cells(3, 30, 6, 61), None) == always | {"uncorrected"}
    assert "few-cells" in warned(cells(3, 30, 6, 60))
    assert "many-unclassified" in warned(cells(3, 30, 6, 61, unclassified=12))
    assert "many-unclassified" not in warned(cells(3, 30, 6, 61, unclassified=11))
    assert "reader" in warned([*cells(3, 30, 6, 61), Cell(None, "MONOCYTE")])
    assert "reader" in warned([*cells(3, 30, 6, 61), Cell("EOSINOPHIL", NOT_COUNTED)])


def test_more_abstaining_than_the_confusion_explains_is_told():
    """Three of a hundred are as expected, fifteen are not; they may then be of any kind."""
    expected, unlike = (cells(3, 28, 6, 60, unclassified=n) for n in (3, 15))
    assert "unexplained" not in warned(expected)
    assert "unexplained" in warned(unlike)
    for share in count(unlike, ADULTS, FAIR).shares:
        assert share.corrected.limits.high > share.limits.high + 3


def test_without_a_range_nothing_is_low_or_high():
    """For an age that the laboratory has no ranges for, the count stands and the reason is told."""
    child = REFERENCE.ranges.band(age=4)
    found = count(cells(30, 300, 60, 610), REFERENCE.within(child), FAIR)
    assert child is None
    assert {share.finding for share in found.shares} == {"untold"}
    assert {share.more_cells for share in found.shares} == {None}
    assert "no-range" in {warning.warning for warning in found.warnings}


COUNTS = [list(row) for row in FAIR.counts]


def test_confusions_are_read_from_the_card():
    """By source, as they are counted there."""
    found = confusions_of({"confusion": {"all": COUNTS, "pbc": COUNTS}})
    assert set(found) == {"all", "pbc"}
    assert found["all"] == replace(FAIR, source="all")


@pytest.mark.parametrize(
    "card",
    [
        None,
        {},
        {"confusion": None},
        {"confusion": {"all": None}},
        {"confusion": {"all": COUNTS[:3]}},
        {"confusion": {"all": [row[:4] for row in COUNTS]}},
        {"confusion": {"all": [*COUNTS[:3], [0, 0, 0, 0, 9]]}},
        {"confusion": {"all": [*COUNTS[:3], [1, 2, 3, -4, 5]]}},
        {"confusion": {"all": [*COUNTS[:3], [1, 2, 3, 4.5, 5]]}},
    ],
)
def test_a_card_without_a_usable_confusion_corrects_nothing(card):
    """Cards of older models, or of other classes, are no error."""
    assert confusions_of(card) == {}
