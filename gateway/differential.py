"""Count the cells of a smear: shares with exact limits, and what they say against normal ranges.

Pure: it knows neither photographs nor HTTP. A cell that the model would not name stays in the
count as unclassified; it is never shared out among the classes. What a reader says of a cell
stands in place of what the model said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import sqrt
from typing import Literal

from gateway.annotation import Leukocyte
from gateway.confusion import Confusion
from gateway.contract import CLASSES
from gateway.correction import Tally, corrected_limits, corrected_shares, explains
from gateway.limits import exact
from gateway.ranges import NormalRange

OTHER = "OTHER"
"""A reader's word for a white cell of another kind, as a basophil: counted, but in no class."""

NOT_COUNTED = "NOT_COUNTED"
"""A reader's word for what is no white cell, or is there twice: it leaves the count."""

MOST_CELLS = 10_000
"""As many cells as nobody counts: what more would tell is not worth saying."""

_FEW_CELLS = 100
_MANY_UNCLASSIFIED = 10.0  # percent

Finding = Literal["low", "within", "high", "untold"]


@dataclass(frozen=True)
class Cell:
    """One cell of the smear.

    ``answer`` is the model's class, None where it abstained. ``reader`` is a person's word, which
    wins: a class, ``OTHER`` or ``NOT_COUNTED``; None where nobody said anything.
    """

    answer: str | None
    reader: str | None = None


@dataclass(frozen=True)
class Interval:
    """Two-sided 95 % limits of a share, in percent."""

    low: float
    high: float


@dataclass(frozen=True)
class Corrected:
    """A share as it would be without the model's own confusion, in percent.

    ``limits`` hold it whatever those unclassified cells are which the confusion does not explain.
    """

    percent: float
    limits: Interval


@dataclass(frozen=True)
class Share:
    """The share of one class among the counted cells, in percent.

    ``limits`` are exact (Clopper & Pearson, Biometrika 26, 1934). ``widest`` holds ``limits``,
    ``corrected`` and whatever all unclassified cells may be; ``finding`` compares it with the
    normal range: `low` or `high` where all of it is outside, `within` where all of it is inside,
    else `untold`; so it is where ``leukocyte`` has no range. ``more_cells`` would settle it if all
    shares stayed as they are; with those counted, that is at most 5 % above the fewest that
    would. None: settled, or not even ``MOST_CELLS`` would do.
    """

    name: str
    count: int
    percent: float
    limits: Interval
    corrected: Corrected | None
    widest: Interval
    leukocyte: Leukocyte
    finding: Finding
    more_cells: int | None


@dataclass(frozen=True)
class Part:
    """Counted cells that are in no class: how many, and their share in percent."""

    count: int
    percent: float
    limits: Interval


@dataclass(frozen=True)
class Remark:
    """What to keep in mind with a count: a name for programs, a sentence for people."""

    warning: str
    detail: str


NO_BASOPHILS = Remark(
    "no-basophils",
    "The model knows four kinds of cell, and basophils are none of them: it leaves them "
    "unclassified, or takes them for others. The shares are no five-part differential.",
)
CHOSEN_CELLS = Remark(
    "chosen-cells",
    "The limits hold for cells taken as they come across the smear. Where somebody chose the "
    "photographs, the shares are those of the choice, not of the blood.",
)
UNCORRECTED = Remark(
    "uncorrected",
    "The shares are not corrected for the model's own mistakes, and the limits leave them out.",
)
UNEXPLAINED = Remark(
    "unexplained",
    "More cells are unclassified than the model's confusion explains: there are other kinds of "
    "cell, or these photographs are unlike those that the correction was measured on, and it does "
    "not hold for them.",
)
ADULTS_ASSUMED = Remark(
    "adults-assumed",
    "The normal ranges are those of adults, since no age was given. What is usual for a child may "
    "be called low or high here.",
)
NO_RANGE = Remark(
    "no-range",
    "The reference ranges have none for this age, so no share can be called low or high.",
)


@dataclass(frozen=True)
class Differential:
    """The count of a smear.

    ``cells`` is how many are counted: in a class, unclassified or other. ``by_reader`` of them are
    as a reader said, and ``changed`` of those are not what the model had said; ``excluded`` more
    left the count, as a reader said. ``confusion`` says where the one was measured that shares are
    corrected by; None: they are not.
    """

    cells: int
    shares: tuple[Share, ...]
    unclassified: Part
    other: Part
    by_reader: int
    changed: int
    excluded: int
    confusion: str | None
    warnings: tuple[Remark, ...]


@dataclass(frozen=True)
class Made:
    """By whom, when, of what and against which ranges a count was made.

    ``duplicates`` of the photographs were there already, and ``failed`` could not be read.
    ``recounted`` tells that no photograph was looked at: the answers came back from a client.
    ``ranges`` names the laboratory's ranges, their version and band. ``issued`` has a time zone.
    """

    model_name: str
    model_version: int
    weights_sha256: str | None
    request_id: str
    issued: datetime
    ranges: str
    duplicates: int
    failed: int
    recounted: bool


def count(
    cells: Sequence[Cell],
    leukocytes: Mapping[str, Leukocyte],
    confusion: Confusion | None,
) -> Differential:
    """Count ``cells`` and compare their shares with the normal ranges of ``leukocytes``.

    With no cell to count, shares are 0 with limits from 0 to 100.
    """
    counted = [cell for cell in cells if cell.reader != NOT_COUNTED]
    tally = _tally(counted)
    shares = tuple(
        _share(index, tally, leukocytes[name], confusion) for index, name in enumerate(CLASSES)
    )
    reviewed = [cell for cell in counted if cell.reader is not None]
    differential = Differential(
        cells=len(counted),
        shares=shares,
        unclassified=_part(int(tally.unclassified), len(counted)),
        other=_part(int(tally.other), len(counted)),
        by_reader=len(reviewed),
        changed=sum(cell.reader != cell.answer for cell in reviewed),
        excluded=len(cells) - len(counted),
        confusion=confusion.source if confusion and any(tally.named) else None,
        warnings=(),
    )
    unexplained = bool(
        confusion and differential.confusion and not explains(tally, confusion.counts)
    )
    return replace(differential, warnings=tuple(_warnings(differential, unexplained)))


def _tally(counted: Sequence[Cell]) -> Tally:
    by_model = Counter(cell.answer for cell in counted if cell.reader is None)
    by_reader = Counter(cell.reader for cell in counted)
    return Tally(
        named=tuple(by_model[name] for name in CLASSES),
        reviewed=tuple(by_reader[name] for name in CLASSES),
        unclassified=by_model[None],
        other=by_reader[OTHER],
    )


def _share(index: int, tally: Tally, leukocyte: Leukocyte, confusion: Confusion | None) -> Share:
    own, cells = tally.of_class(index), tally.cells
    limits = _corrected_limits(index, tally, confusion)
    widest = _widest(index, tally, limits)
    finding = compare(widest, leukocyte.normal_range)
    return Share(
        name=CLASSES[index],
        count=int(own),
        percent=100 * own / cells if cells else 0.0,
        limits=_interval(own, cells),
        corrected=_corrected(index, tally, confusion, limits),
        widest=widest,
        leukocyte=leukocyte,
        finding=finding,
        more_cells=_more_cells(index, tally, leukocyte.normal_range, confusion)
        if finding == "untold"
        else None,
    )


def _part(count: int, cells: int) -> Part:
    return Part(count, 100 * count / cells if cells else 0.0, _interval(count, cells))


def _interval(count: float, cells: float) -> Interval:
    low, high = exact(count, cells)
    return Interval(100 * low, 100 * high)


def _corrected_limits(index: int, tally: Tally, confusion: Confusion | None) -> Interval | None:
    """None where there is nothing to correct, or nothing to do it with."""
    if confusion is None or not any(tally.named):
        return None
    low, high = corrected_limits(tally, confusion.counts, index)
    return Interval(100 * low, 100 * high)


def _corrected(
    index: int, tally: Tally, confusion: Confusion | None, limits: Interval | None
) -> Corrected | None:
    if confusion is None or limits is None:
        return None
    percent = 100 * float(corrected_shares(tally, confusion.counts)[index])
    return Corrected(min(max(percent, limits.low), limits.high), limits)


def _widest(index: int, tally: Tally, corrected: Interval | None) -> Interval:
    own, cells = tally.of_class(index), tally.cells
    low = _interval(own, cells).low
    high = _interval(own + tally.unclassified, cells).high
    if corrected is None:
        return Interval(low, high)
    return Interval(min(low, corrected.low), max(high, corrected.high))


def compare(interval: Interval, normal_range: NormalRange | None) -> Finding:
    """Say where an interval lies; `untold` where it crosses an end of the range, or has none."""
    if normal_range is None:
        return "untold"
    if interval.high < normal_range.low:
        return "low"
    if interval.low > normal_range.high:
        return "high"
    inside = normal_range.low <= interval.low and interval.high <= normal_range.high
    return "within" if inside else "untold"


def _more_cells(
    index: int, tally: Tally, normal_range: NormalRange | None, confusion: Confusion | None
) -> int | None:
    """Find by bisection how many more cells of the same shares would settle it.

    With those counted, they are at most 5 %, or one cell, above the fewest that would. The whole
    method is asked, the exact limits first: where they do not settle it, nothing does.
    """
    cells = int(tally.cells)

    def settled(number: int) -> bool:
        larger = tally.scaled(number / cells)
        if compare(_widest(index, larger, None), normal_range) == "untold":
            return False
        widest = _widest(index, larger, _corrected_limits(index, larger, confusion))
        return compare(widest, normal_range) != "untold"

    if not cells or normal_range is None or cells >= MOST_CELLS or not settled(MOST_CELLS):
        return None
    few, enough = cells, MOST_CELLS
    while enough - few > max(1, few // 20):
        middle = round(sqrt(few * enough))
        few, enough = (few, middle) if settled(middle) else (middle, enough)
    return enough - cells


def _warnings(differential: Differential, unexplained: bool) -> Iterator[Remark]:
    cells, unclassified = differential.cells, differential.unclassified
    yield NO_BASOPHILS
    yield CHOSEN_CELLS
    if cells < _FEW_CELLS:
        yield Remark(
            "few-cells",
            f"Cells counted: {cells}. A manual differential counts at least {_FEW_CELLS}.",
        )
    if unclassified.percent > _MANY_UNCLASSIFIED:
        yield Remark(
            "many-unclassified",
            f"The model would not name {unclassified.count} of {cells} cells. They may be of any "
            "kind: let a reader look at them.",
        )
    if differential.by_reader or differential.excluded:
        yield Remark(
            "reader",
            f"Cells counted as a reader said: {differential.by_reader}; otherwise than the model "
            f"had named them: {differential.changed}; excluded from the count: "
            f"{differential.excluded}.",
        )
    if differential.confusion:
        yield Remark(
            "other-photographs",
            "How often the model takes one class for another was measured on validation "
            f"photographs of {differential.confusion}, not on this laboratory's. On photographs "
            "unlike those, these limits may miss the truth.",
        )
        if unexplained:
            yield UNEXPLAINED
    elif cells > differential.by_reader + unclassified.count:
        yield UNCORRECTED
    if any(share.leukocyte.normal_range is None for share in differential.shares):
        yield NO_RANGE
