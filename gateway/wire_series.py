"""A series of photographs as JSON: its report, the lines before it, and a report sent back.

Beside ``wire``, and in the same way: each reply is a type whose fields carry their meaning.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict, cast

from gateway import contract, wire
from gateway.differential import Corrected, Differential, Finding, Interval, Made, Part, Share
from gateway.finding import STATEMENT, in_words
from gateway.ranges import Band, Ranges
from gateway.smear import WORDS, Photograph, Smear, Status
from gateway.wire import (
    Cell,
    Fingerprint,
    NormalRange,
    Overlay,
    Percent,
    Problem,
    RequestId,
    Rule,
    normal_range_json,
)
from gateway.wire import Share as Probability

Number = Annotated[int, Rule(minimum=1)]
Amount = Annotated[int, Rule(minimum=0)]
Word = Annotated[str, Rule(enum=list(WORDS))]
Basis = Literal["photographs", "recount"]
_EACH = Rule(propertyNames={"enum": list(contract.CLASSES)}, required=list(contract.CLASSES))


class SeriesPhotograph(TypedDict):
    """One photograph of a series, and what became of it."""

    number: Annotated[Number, "Its place in the order sent, from 1."]
    name: Annotated[str | None, "The file's name, without folders; for people alone."]
    status: Annotated[
        Status,
        "`counted`; `unclassified`: the model abstained, it is counted in no class; `duplicate`: "
        "to the model the pixels of an earlier one; `failed`: it could not be read; `excluded` by "
        "a reader.",
    ]
    prediction: Annotated[
        Cell | None, "The class; no more than the nearest where there are `abstain_reasons`."
    ]
    confidence: Annotated[Probability | None, "The calibrated probability of `prediction`."]
    probabilities: Annotated[
        dict[str, Probability] | None, "The probability of each class, or null."
    ]
    abstain_reasons: Annotated[list[wire.Doubt], "Why the answer is not to be taken."]
    fingerprint: Annotated[
        Fingerprint | None, "Identifies what the model saw; the same twice is counted once."
    ]
    duplicate_of: Annotated[Number | None, "The number of the one that is counted."]
    problem: Annotated[Problem | None, "Why it could not be read."]
    reader: Annotated[Word | None, "What a reader said of it, in place of the model."]
    heatmap: Annotated[Overlay | None, "Where the class was seen, as asked."]


class Totals(TypedDict):
    """How many there are."""

    photographs: Annotated[Amount, "Sent."]
    cells: Annotated[Amount, "Counted: in a class, unclassified or other. 100 % of the shares."]
    unclassified: Annotated[Amount, "The model abstained, and no reader said anything."]
    other: Annotated[Amount, "A reader said `OTHER`."]
    duplicates: Annotated[Amount, "The pixels of an earlier one: counted once."]
    failed: Annotated[Amount, "They could not be read."]
    excluded: Annotated[Amount, "A reader said `NOT_COUNTED`."]
    by_reader: Annotated[Amount, "Counted as a reader said."]
    changed: Annotated[Amount, "Of these, not as the model had said."]


class Limits(TypedDict):
    """Two-sided 95 % limits, in percent of the counted cells."""

    low: Annotated[Percent, "The lower one."]
    high: Annotated[Percent, "The upper one."]


class CorrectedShare(TypedDict):
    """A share as it would be without the model's own confusion."""

    percent: Annotated[Percent, "Of the counted cells."]
    limits: Limits


_OfClass = TypedDict("_OfClass", {"class": Annotated[Cell, "The class."]})


class ClassShare(_OfClass):
    """The share of one class among the counted cells."""

    name: Annotated[str, "The cell's name."]
    count: Annotated[Amount, "Cells of this class."]
    percent: Annotated[Percent, "Of the counted cells."]
    limits: Limits
    corrected: Annotated[CorrectedShare | None, "Null where nothing is known to correct it by."]
    widest: Annotated[
        Limits, "What holds `limits`, `corrected` and whatever the unclassified cells may be."
    ]
    normal_range: Annotated[NormalRange | None, "Null where there is none for this age."]
    finding: Annotated[
        Finding,
        "`low` or `high` where all of `widest` lies outside the normal range, `within` where all "
        "of it lies inside, else `untold`.",
    ]
    in_words: Annotated[str, "The finding with the figures that it stands on."]
    more_cells: Annotated[
        Amount | None, "So many more would tell, if the share stayed as it is; null: it is told."
    ]


class PartShare(TypedDict):
    """Counted cells that are in no class."""

    count: Annotated[Amount, "So many."]
    percent: Annotated[Percent, "Of the counted cells."]
    limits: Limits


class Correction(TypedDict):
    """What `corrected` stands on."""

    source: Annotated[str, "The photographs on which the model's confusion was measured."]


class NormalRanges(TypedDict):
    """Which normal ranges the shares are compared with."""

    version: Annotated[str, "The laboratory's own word for it."]
    source: Annotated[str, "Where they come from."]
    band: Annotated[str | None, "Whose they are; null where there are none for this age."]


class SeriesWarning(TypedDict):
    """What to keep in mind with the count."""

    warning: Annotated[str, "A name for programs."]
    detail: Annotated[str, "A sentence for people."]


class DifferentialReport(TypedDict):
    """The differential count of a series of photographs."""

    request_id: Annotated[RequestId, "The request's id, as in X-Request-ID."]
    model: wire.Model
    basis: Annotated[Basis, "Whether photographs were looked at, or an earlier report came back."]
    photographs: Annotated[list[SeriesPhotograph], "Each that was sent, in that order."]
    totals: Totals
    shares: Annotated[list[ClassShare], "One for each class."]
    unclassified: PartShare
    other: PartShare
    correction: Annotated[Correction | None, "Null where nothing is corrected."]
    ranges: NormalRanges
    warnings: Annotated[list[SeriesWarning], "What to keep in mind with the count."]
    statement: Annotated[str, "What to keep in mind with every count."]


class PhotographLine(SeriesPhotograph):
    """A line for each photograph, in their order."""

    kind: Literal["photograph"]


class ReportLine(DifferentialReport):
    """The last line; the overlays were in those before."""

    kind: Literal["report"]


class ProblemLine(Problem):
    """The last line where the series came to nothing after the first one."""

    kind: Literal["problem"]


Line = PhotographLine | ReportLine | ProblemLine


class ReaderWord(TypedDict):
    """What a reader says of one photograph."""

    number: Annotated[Number, "Which one."]
    reader: Annotated[Word | None, "A class, `OTHER` (a white cell of another kind), `NOT_COUNTED` "
    "(no white cell, or there twice); null takes back what was said before."]  # fmt: skip


# what may be left out: the rest is an earlier report, and everything in it but these is worked
# out anew
class _Returned(TypedDict):
    photographs: Annotated[list[SeriesPhotograph], "As they were answered.", Rule(minItems=1)]


class Recount(_Returned, total=False):
    """A report sent back, whole or its photographs alone, to be worked out anew."""

    model: wire.Model
    readers: Annotated[list[ReaderWord], "What a reader says, in place of the model."]


def photograph_json(photograph: Photograph, *, drawn: bool = True) -> SeriesPhotograph:
    """One photograph of a series; with its overlay, where it is to be ``drawn``."""
    answer = photograph.answer
    overlay = answer.overlay if answer and drawn else None
    return {
        "number": photograph.number,
        "name": photograph.name,
        "status": photograph.status,
        "prediction": answer.prediction if answer else None,
        "confidence": answer.confidence if answer else None,
        "probabilities": dict(answer.probabilities) if answer else None,
        "abstain_reasons": [
            {"reason": d.reason, "detail": d.detail} for d in (answer.doubts if answer else ())
        ],
        "fingerprint": answer.fingerprint if answer else None,
        "duplicate_of": photograph.duplicate_of,
        "problem": cast("Problem | None", photograph.problem),
        "reader": photograph.reader,
        "heatmap": cast("Overlay | None", overlay),
    }


def report_json(
    smear: Smear,
    differential: Differential,
    made: Made,
    ranges: NormalRanges,
) -> DifferentialReport:
    """The reply of ``POST /v1/differential``, without the overlays."""
    return {
        "request_id": made.request_id,
        "model": {"name": made.model_name, "version": made.model_version},
        "basis": "recount" if made.recounted else "photographs",
        "photographs": [photograph_json(p, drawn=False) for p in smear.photographs],
        "totals": _totals(smear, differential),
        "shares": [_class_share(share, differential.cells) for share in differential.shares],
        "unclassified": _part(differential.unclassified),
        "other": _part(differential.other),
        "correction": {"source": differential.confusion} if differential.confusion else None,
        "ranges": ranges,
        "warnings": [{"warning": w.warning, "detail": w.detail} for w in differential.warnings],
        "statement": STATEMENT,
    }


def ranges_json(ranges: Ranges, band: Band | None) -> NormalRanges:
    """Which normal ranges the shares are compared with."""
    title = band.title if band else None
    return {"version": ranges.version, "source": ranges.source, "band": title}


def _totals(smear: Smear, differential: Differential) -> Totals:
    return {
        "photographs": len(smear.photographs),
        "cells": differential.cells,
        "unclassified": differential.unclassified.count,
        "other": differential.other.count,
        "duplicates": smear.of("duplicate"),
        "failed": smear.of("failed"),
        "excluded": differential.excluded,
        "by_reader": differential.by_reader,
        "changed": differential.changed,
    }


def _class_share(share: Share, cells: int) -> ClassShare:
    normal = share.leukocyte.normal_range
    return {
        "class": share.name,
        "name": share.leukocyte.name,
        "count": share.count,
        "percent": _percent(share.percent),
        "limits": _limits(share.limits),
        "corrected": _corrected(share.corrected) if share.corrected else None,
        "widest": _limits(share.widest),
        "normal_range": normal_range_json(normal) if normal else None,
        "finding": share.finding,
        "in_words": in_words(share, cells),
        "more_cells": share.more_cells,
    }


def _corrected(corrected: Corrected) -> CorrectedShare:
    return {"percent": _percent(corrected.percent), "limits": _limits(corrected.limits)}


def _part(part: Part) -> PartShare:
    return {
        "count": part.count,
        "percent": _percent(part.percent),
        "limits": _limits(part.limits),
    }


def _limits(interval: Interval) -> Limits:
    return {"low": _percent(interval.low), "high": _percent(interval.high)}


def _percent(percent: float) -> float:
    return round(percent, 4)
