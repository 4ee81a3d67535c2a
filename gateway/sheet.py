"""A differential count as one page to read, print, sign and file.

Pure. The page is whole in itself: no script, no picture and no font comes from elsewhere, nothing
is told by colour, and what it says is there without printed backgrounds.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from xml.etree.ElementTree import Element

from gateway.chart import chart
from gateway.differential import Differential, Made, Part, Share
from gateway.figures import percent
from gateway.finding import STATEMENT, counted_in_words, in_a_word, in_words, range_in_words, span
from gateway.markup import document, element

_STYLE = files("gateway").joinpath("sheet.css").read_text("utf-8")

STYLE_SHA256 = f"sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}"
"""The one style of every page, as a Content-Security-Policy's `style-src` names it."""

_GLUED = re.compile(r"(?<=\d) (?=%|to \d)|(?<=\d to) (?=\d)| (?== \d)|(?<= =) (?=\d)")

_Row = dict[str, str | Element]


def page(differential: Differential, made: Made) -> str:
    """Write the count as an HTML page, for A4, Letter and screens."""
    title = f"Differential count of {differential.cells:,} cells, request {made.request_id}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE),
    )
    return document(element("html", head, _body(differential, made), lang="en"))


def _body(differential: Differential, made: Made) -> Element:
    return element(
        "body",
        element(
            "header",
            element("h1", "Differential count of white blood cells"),
            element("p", "Preliminary", class_="preliminary"),
        ),
        element("p", STATEMENT, class_="small"),
        _by_hand("Patient", "Specimen"),
        element(
            "main",
            element("p", counted_in_words(differential, made), class_="lead"),
            *_shares(differential),
            *_charts(differential),
            element("div", *_warnings(differential), _origins(differential, made), class_="beside"),
        ),
        _by_hand("Reviewed by", "Date"),
    )


def _by_hand(*names: str) -> Element:
    return element("div", *(element("p", name) for name in names), class_="by-hand")


def _shares(differential: Differential) -> Iterator[Element]:
    heads = _heads(corrected=any(share.corrected for share in differential.shares))
    rows = [_class_cells(share) for share in differential.shares] + _rest(differential)
    yield element("h2", "Shares of all counted cells", id="shares")
    yield element(
        "table",
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(_row(heads, cells) for cells in rows)),
        aria_labelledby="shares",
    )
    yield element("p", _held(_reading(differential)), class_="small")


def _heads(*, corrected: bool) -> tuple[str, ...]:
    beside = ("Corrected",) if corrected else ()
    return (
        *("Class", "Cells", "Share", "95 % limits"),
        *beside,
        *("All considered", "Normal", "Finding"),
    )


def _class_cells(share: Share) -> _Row:
    normal = share.leukocyte.normal_range
    corrected, word = share.corrected, in_a_word(share)
    return {
        "Class": share.leukocyte.name,
        "Cells": f"{share.count:,}",
        "Share": percent(share.percent),
        "95 % limits": span(share.limits),
        "Corrected": f"{percent(corrected.percent)} ({span(corrected.limits)})"
        if corrected
        else "",
        "All considered": span(share.widest, normal),
        "Normal": range_in_words(normal),
        "Finding": element("strong", word) if share.finding in {"low", "high"} else word,
    }


def _rest(differential: Differential) -> list[_Row]:
    other = differential.other
    rows = [_part_cells("Unclassified", differential.unclassified)]
    return [*rows, _part_cells("Other", other)] if other.count else rows


def _part_cells(name: str, part: Part) -> _Row:
    return {
        "Class": name,
        "Cells": f"{part.count:,}",
        "Share": percent(part.percent),
        "95 % limits": span(part.limits),
    }


def _row(heads: tuple[str, ...], cells: _Row) -> Element:
    """A narrow screen shows no heads: each cell brings its own."""
    first, *others = heads
    return element(
        "tr",
        element("th", cells[first], scope="row"),
        *(element("td", cells.get(head, ""), data_head=head) for head in others),
    )


def _reading(differential: Differential) -> str:
    """How to read the table; what it has no row or column of is not mentioned."""
    other = "Other: another kind of cell, as a reader said. " if differential.other.count else ""
    corrected = (
        "Corrected: without the mistakes that the model made with validation photographs "
        f"of {differential.confusion}. "
        if any(share.corrected for share in differential.shares)
        else ""
    )
    return (
        f"Unclassified: the program would not name them. {other}95 % limits: what chance allows "
        f"for, exact (Clopper and Pearson). {corrected}All considered: from the lowest to the "
        "highest of these, whatever the unclassified cells may be. The finding is low or high "
        "where all of that lies outside the normal range, and within where all of it lies inside."
    )


def _charts(differential: Differential) -> Iterator[Element]:
    drawn = (_drawn(share, differential.cells) for share in differential.shares)
    yield element("h2", "Against the normal ranges")
    yield element("ul", *drawn, class_="charts")
    note = "Hatched: the normal range. Dot: the share. Each scale is the class's own, from 0."
    yield element("p", note, class_="small")


def _drawn(share: Share, cells: int) -> Element:
    name = element("h3", share.leukocyte.name)
    return element("li", name, element("p", _held(in_words(share, cells))), chart(share))


def _warnings(differential: Differential) -> Iterator[Element]:
    if differential.warnings:
        told = (element("li", _held(warning.detail)) for warning in differential.warnings)
        yield element("section", element("h2", "Keep in mind"), element("ul", *told))


def _origins(differential: Differential, made: Made) -> Element:
    """Where every figure comes from, as terms and what is to be said of them."""
    facts = {
        "Basis": _basis(made),
        "Readers": _readers(differential),
        "Model": f"{made.model_name}, version {made.model_version}",
        "Weights": f"SHA-256 {made.weights_sha256}" if made.weights_sha256 else "no hash is known",
        "Request": made.request_id,
        "Time": f"{made.issued:%Y-%m-%d %H:%M:%S %Z}",
        "Normal ranges": _held(" ".join([f"{made.ranges}.", *_remarks(differential, made)])),
    }
    pairs = (element("div", element("dt", t), element("dd", fact)) for t, fact in facts.items())
    return element("section", element("h2", "How it was made"), element("dl", *pairs))


def _basis(made: Made) -> str:
    if made.recounted:
        return "what the program answered to photographs earlier, as a client sent it back"
    return "photographs, classified for this count"


def _readers(differential: Differential) -> str:
    if not differential.by_reader and not differential.excluded:
        return "none: every answer is the model's"
    return (
        f"{differential.by_reader:,} of {differential.cells:,} cells are as a reader said, "
        f"{differential.changed:,} of them not as the model had said; excluded from the count: "
        f"{differential.excluded:,}"
    )


def _remarks(differential: Differential, made: Made) -> Iterator[str]:
    """What is to be said of the range of one class alone."""
    for share in differential.shares:
        normal = share.leukocyte.normal_range
        if normal and normal.source not in made.ranges:
            yield f"{share.leukocyte.name}: {normal.source}."
        if normal and normal.note:
            yield f"{share.leukocyte.name}: {normal.note}"


def _held(text: str) -> str:
    """Keep figures and their signs on one line."""
    return _GLUED.sub("\N{NO-BREAK SPACE}", text)
