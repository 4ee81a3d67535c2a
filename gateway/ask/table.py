"""Many photographs' answers as a table that grows while they come in."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import chain, zip_longest

from gateway.ask.client import sentence
from gateway.ask.outcome import Outcome, Tally, remarks
from gateway.ask.photographs import Photograph
from gateway.ask.terminal import (
    columns,
    drawing,
    printable,
    tell,
    width,
    wrapped,
)
from gateway.figures import percent

_HEAD = ("answer", "confidence", "time", "doubts", "notes")
_WIDTHS = (10, 10, 8, 10, 5)
_GAP = "  "
_INDENT = "    "
_NARROWEST_FILE = 12
_FIGURE = re.compile(r"(\d+(?:\.\d+)?)")


class Table:
    """Prints a head, a row for each photograph, then what the marks in the rows mean."""

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        self._encoding = sys.stdout.encoding or "ascii"
        longest = max(width(self._name(photograph)) for photograph in photographs)
        room = columns()
        if room is not None:
            fixed = sum(_WIDTHS) + len(_GAP) * len(_WIDTHS)
            longest = min(longest, max(room - fixed, _NARROWEST_FILE))
        self._file = max(longest, len("file"))
        self._doubts: dict[str, str] = {}
        self._notes: dict[tuple[str, ...], list[list[str]]] = {}
        self._headed = False

    def show(self, outcome: Outcome) -> None:
        """Print one row, and below it why there is no answer."""
        if not self._headed:
            self._headed = True
            tell(self._row("file", _HEAD))
        tell(self._row(self._name(outcome.photograph), self._cells(outcome)))
        if outcome.problem is not None:
            tell(wrapped(sentence(outcome.problem), _INDENT, _INDENT))

    def close(self, tally: Tally, asked: int) -> None:
        """Print what the marks mean, and the counts of ``asked`` photographs."""
        marks = dict(self._doubts)
        for number, (words, figures) in enumerate(self._notes.items(), 1):
            marks[str(number)] = _true_of_all(words, figures)
        tell("")
        for mark, text in marks.items():
            tell(wrapped(text, f"{mark:<12}", " " * 12))
        if marks:
            tell("")
        for line in summary(tally, asked):
            tell(wrapped(line, "", ""))

    def _cells(self, outcome: Outcome) -> tuple[str, ...]:
        reply = outcome.reply
        if reply is None:
            return (outcome.answer, "", "", "", "")
        for doubt in reply["abstain_reasons"]:
            self._doubts[doubt["reason"]] = doubt["detail"]
        return (
            outcome.answer,
            "" if reply["abstain"] else percent(100 * reply["confidence"]),
            f"{reply['timing_ms']['total']:.0f} ms",
            ",".join(doubt["reason"] for doubt in reply["abstain_reasons"]),
            ",".join(str(self._number(text)) for text in remarks(reply)),
        )

    def _number(self, note: str) -> int:
        """Number the notes; those that differ in their figures alone are one."""
        parts = _FIGURE.split(note)
        words = tuple(parts[::2])
        self._notes.setdefault(words, []).append(parts[1::2])
        return list(self._notes).index(words) + 1

    def _row(self, name: str, cells: Sequence[str]) -> str:
        answer, confidence, time, doubts, notes = _WIDTHS
        padded = (
            self._shortened(name),
            f"{cells[0]:<{answer}}",
            f"{cells[1]:>{confidence}}",
            f"{cells[2]:>{time}}",
            f"{cells[3]:<{doubts}}",
            f"{cells[4]:<{notes}}",
        )
        return _GAP.join(padded).rstrip()

    def _name(self, photograph: Photograph) -> str:
        return printable(photograph.name, self._encoding)

    def _shortened(self, name: str) -> str:
        """Pad, or cut at the front: names differ at their ends."""
        if width(name) > self._file:
            ellipsis = drawing(sys.stdout).ellipsis
            while width(ellipsis + name) > self._file:
                name = name[1:]
            name = ellipsis + name
        return name + " " * (self._file - width(name))


def summary(tally: Tally, asked: int) -> list[str]:
    """The counts: of outcomes, and of each answer among those that were answered."""
    untried = asked - tally.total
    counted = (
        f"{sum(tally.answers.values()):,} answered, {tally.not_sure:,} not sure, "
        f"{tally.refused:,} refused" + (f", {untried:,} not tried" if untried else "")
    )
    answers = ", ".join(f"{name} {count:,}" for name, count in tally.answers.most_common())
    lines = [f"{asked:,} photographs: {counted}."]
    return [*lines, f"Answers: {answers}."] if answers else lines


def _true_of_all(words: Sequence[str], figures: Sequence[Sequence[str]]) -> str:
    """Put a note together again, with the span of each of its figures."""
    spans = [_span(column) for column in zip(*figures, strict=True)]
    return "".join(chain(*zip_longest(words, spans, fillvalue="")))


def _span(figures: Sequence[str]) -> str:
    least, most = min(figures, key=float), max(figures, key=float)
    return least if least == most else f"{least} to {most}"
