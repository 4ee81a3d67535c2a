"""A differential count for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.ask.client import sentence
from gateway.ask.terminal import columns, printable, tell, wrapped
from gateway.figures import percent, span

Json = dict[str, Any]
_Row = dict[str, str]

_TITLE = 15
_GAP = "  "
_ROOMY = ("class", "cells", "share", "95 % limits", "corrected", "normal", "finding")
_NARROW = ("class", "cells", "share", "95 % limits", "finding")
_TEXTS = {"class", "finding"}


def show(report: Json) -> None:
    """Print the shares as a table and in words, and what is to be kept in mind with them.

    Last come the photographs that are in no class, with the reason.
    """
    tell("\n".join(_lines(report)))


def _lines(report: Json) -> Iterator[str]:
    yield wrapped(_counted(report["totals"]), "", "")
    yield ""
    yield from _table([*map(_class_row, report["shares"]), *_rest(report)])
    yield ""
    confusion = "the model's confusion and " if report["correction"] else ""
    yield f"With {confusion}the unclassified cells considered:"
    for share in report["shares"]:
        yield _paragraph(share["name"], share["in_words"])
    yield ""
    for number, warning in enumerate(report["warnings"]):
        yield _paragraph("" if number else "Keep in mind", warning["detail"])
    for (fate, why), names in _fates(report["photographs"]).items():
        yield _paragraph(fate, ", ".join(names) + why)
    model = report["model"]
    yield _paragraph("Model", f"{model['name']}, version {model['version']}")
    yield _paragraph("Normal ranges", _ranges(report["ranges"]))
    yield ""
    yield wrapped(report["statement"], "", "")


def _counted(totals: Json) -> str:
    named = totals["cells"] - totals["unclassified"] - totals["other"]
    of_them = {"named": named, "unclassified": totals["unclassified"]}
    besides = {
        "of another kind": totals["other"],
        "counted already": totals["duplicates"],
        "not read": totals["failed"],
        "left out by a reader": totals["excluded"],
    }
    of_them |= {what: number for what, number in besides.items() if number}
    told = ", ".join(f"{number:,} {what}" for what, number in of_them.items())
    counted = f"{totals['photographs']:,} photographs, {totals['cells']:,} cells counted: {told}."
    if not totals["by_reader"]:
        return counted
    return (
        f"{counted} {totals['by_reader']:,} cells are as a reader said, {totals['changed']:,} of "
        "them not as the model had said."
    )


def _class_row(share: Json) -> _Row:
    corrected, normal = share["corrected"], share["normal_range"]
    return {
        **_part_row(share["name"], share),
        "corrected": f"{percent(corrected['percent'])} ({_span(corrected)})" if corrected else "",
        "normal": f"{normal['low']:g} to {normal['high']:g} %" if normal else "",
        "finding": "cannot be told" if share["finding"] == "untold" else share["finding"],
    }


def _rest(report: Json) -> Iterator[_Row]:
    yield _part_row("Unclassified", report["unclassified"])
    if report["other"]["count"]:
        yield _part_row("Other", report["other"])


def _part_row(name: str, part: Json) -> _Row:
    return {
        "class": name,
        "cells": f"{part['count']:,}",
        "share": percent(part["percent"]),
        "95 % limits": _span(part),
    }


def _ranges(ranges: Json) -> str:
    band = ranges["band"] or "none for this age"
    return f"{ranges['source']}, version {ranges['version']}, {band}"


def _span(part: Json) -> str:
    return span(**part["limits"])


def _table(rows: list[_Row]) -> list[str]:
    """As many columns as the terminal has room for, and as have anything in them."""
    heads = [head for head in _ROOMY if any(row.get(head) for row in rows)]
    lines = _aligned(heads, rows)
    room = columns()
    if room is None or max(map(len, lines)) <= room:
        return lines
    return _aligned([head for head in _NARROW if head in heads], rows)


def _aligned(heads: list[str], rows: list[_Row]) -> list[str]:
    cells = [{head: head for head in heads}, *rows]
    widths = {head: max(len(row.get(head, "")) for row in cells) for head in heads}
    sides = {head: "<" if head in _TEXTS else ">" for head in heads}
    return [
        _GAP.join(f"{row.get(head, ''):{sides[head]}{widths[head]}}" for head in heads).rstrip()
        for row in cells
    ]


def _fates(photographs: list[Json]) -> dict[tuple[str, str], list[str]]:
    """Those that are in no class: what became of them and why, with all of which that is true."""
    fates: dict[tuple[str, str], list[str]] = {}
    for photograph in photographs:
        name = f"{photograph['number']} {printable(photograph['name'] or '')}".strip()
        match photograph["status"]:
            case "failed":
                fate, why = "Not read", f": {sentence(photograph['problem'])}"
            case "unclassified":
                doubts = " ".join(doubt["detail"] for doubt in photograph["abstain_reasons"])
                fate, why = "Unclassified", f": {doubts}"
            case "duplicate":
                fate, why = "Duplicates", ""
                name += f" (again {photograph['duplicate_of']})"
            case "excluded":
                fate, why = "Left out", ": a reader said so."
            case _:
                continue
        fates.setdefault((fate, why), []).append(name)
    return fates


def _paragraph(title: str, text: str) -> str:
    return wrapped(text, f"{title:<{_TITLE}}", " " * _TITLE)
