"""What a count says, in words: the same on paper, in JSON, in FHIR and on a terminal.

Pure. It decides nothing: ``differential`` has found what is low or high, and how sure that is.
"""

from __future__ import annotations

from math import ceil

from gateway import figures
from gateway.differential import Differential, Interval, Made, Share
from gateway.ranges import NormalRange

STATEMENT = (
    "A reading aid, not a medical device. This count was made by a program and is preliminary: "
    "someone qualified to read smears must confirm it before anyone acts on it."
)
"""What stands with every differential count."""


def counted_in_words(differential: Differential, made: Made) -> str:
    """Say how many cells are counted, and which photographs are not."""
    left_out = {
        "excluded by a reader": differential.excluded,
        "that could not be read": made.failed,
        "there already": made.duplicates,
    }
    told = ", ".join(f"{number:,} {why}" for why, number in left_out.items() if number)
    counted = _counted(differential)
    return f"{counted} Photographs not counted: {told}." if told else counted


def in_words(share: Share, cells: int) -> str:
    """Say what the share of one class among ``cells`` is, with the figures that it stands on.

    The limits are those of ``share.widest``: the finding was made from them.
    """
    if not cells:
        return "cannot be told: no cell was counted"
    normal = share.leukocyte.normal_range
    shown = f"{figures.percent(share.percent)} ({span(share.widest, normal)})"
    if normal is None:
        return f"cannot be told without a normal range: {shown}"
    told = {"within": "within the normal range", "untold": f"cannot be told at n = {cells:,}"}
    words = f"{told.get(share.finding, share.finding)}: {shown}, normal {range_in_words(normal)}"
    return f"{words}; {_advice(share)}" if share.finding == "untold" else words


def in_a_word(share: Share) -> str:
    """Say the same where the figures stand beside it."""
    return "cannot be told" if share.finding == "untold" else share.finding


def span(interval: Interval, normal: NormalRange | None = None) -> str:
    """Write limits so that it is seen on which side of ``normal`` they lie."""
    ends = (normal.low, normal.high) if normal else ()
    return figures.span(interval.low, interval.high, ends)


def range_in_words(normal: NormalRange | None) -> str:
    """Write a normal range; nothing where there is none."""
    return f"{normal.low:g} to {normal.high:g} %" if normal else ""


def _counted(differential: Differential) -> str:
    if not differential.cells:
        return "No cell was counted."
    cells, other, unsure = differential.cells, differential.other, differential.unclassified
    named = cells - other.count - unsure.count
    parts = [f"{named:,} named", f"{unsure.count:,} unclassified"]
    parts += [f"{other.count:,} of another kind"] if other.count else []
    return f"{cells:,} {'cell' if cells == 1 else 'cells'} counted: {', '.join(parts)}."


def _advice(share: Share) -> str:
    if share.more_cells is None:
        return "more cells alone would hardly settle it"
    number = _rounded_up(share.more_cells)
    some = f"about {number:,} more cells" if number > 1 else "1 more cell"
    return f"{some} would settle it if the share stays"


def _rounded_up(number: int) -> int:
    """Keep two digits: nobody counts 337 cells because 337 was said."""
    unit = int("1" + "0" * (len(str(number)) - 2))
    return ceil(number / unit) * unit
