"""The photographs of one smear: what became of each, and which of them are counted. Pure.

A photograph that could not be read leaves the count, and one that shows the model the very pixels
of an earlier one is counted there. A reader's word stands in place of the model's; said of a
photograph that is not in the count, it is kept and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gateway.contract import CLASSES
from gateway.differential import NOT_COUNTED, OTHER, Cell, Remark
from gateway.errors import NoCells
from gateway.quality import Doubt

Status = Literal["counted", "unclassified", "duplicate", "failed", "excluded"]

WORDS = (*CLASSES, OTHER, NOT_COUNTED)
"""What a reader can say of a photograph."""

_LONGEST_NAME = 100  # characters, of what a client called its file
_SHOWN = 3  # reasons, where nothing could be read


@dataclass(frozen=True)
class Answer:
    """What the model said; with ``doubts``, ``prediction`` is no more than the nearest class.

    ``fingerprint`` identifies what the model saw, None where that is not known;
    ``overlay`` is the heat map over the photograph as it is replied; None where none was drawn.
    """

    prediction: str
    confidence: float
    probabilities: Mapping[str, float]
    doubts: tuple[Doubt, ...]
    fingerprint: str | None
    overlay: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Photograph:
    """One photograph of a series.

    ``number`` is its place in the order sent, from 1; ``name`` is for people alone. It has an
    ``answer``, or else is ``duplicate_of`` an earlier number, or else has a ``problem``: why it
    could not be read, as it is replied. ``reader`` is one of ``WORDS``, or None.
    """

    number: int
    name: str | None
    answer: Answer | None = None
    duplicate_of: int | None = None
    problem: Mapping[str, Any] | None = None
    reader: str | None = None

    @property
    def status(self) -> Status:
        """What became of it."""
        if self.answer is None:
            return "failed" if self.problem is not None else "duplicate"
        if self.reader == NOT_COUNTED:
            return "excluded"
        return "unclassified" if self.answer.doubts and self.reader is None else "counted"


@dataclass(frozen=True)
class Smear:
    """All photographs of a series, in order, and the versions of the model that answered."""

    photographs: tuple[Photograph, ...]
    model_versions: tuple[int, ...]

    def of(self, status: Status) -> int:
        """Count the photographs of which this became."""
        return sum(photograph.status == status for photograph in self.photographs)

    def cells(self) -> list[Cell]:
        """Tell what was said of each cell.

        Raises:
            NoCells: not one photograph could be read.
        """
        answered = [(p.answer, p.reader) for p in self.photographs if p.answer is not None]
        if not answered:
            raise _unread(self.photographs)
        return [Cell(None if a.doubts else a.prediction, reader) for a, reader in answered]

    def warnings(self) -> list[Remark]:
        """Tell what is to be kept in mind with these photographs."""
        return [*self._idle_words(), *self._several_versions()]

    def read_by(self, words: Mapping[int, str | None]) -> Smear:
        """Set what a reader says, by number; None takes back what was said."""
        told = (replace(p, reader=words.get(p.number, p.reader)) for p in self.photographs)
        return replace(self, photographs=tuple(told))

    def _idle_words(self) -> Iterable[Remark]:
        idle = [p.number for p in self.photographs if p.reader and p.answer is None]
        if idle:
            yield Remark(
                "idle-word",
                f"What was said of photograph {_listed(idle)} changes nothing: it could not be "
                "read, or repeats another. Say it of the one that is counted.",
            )

    def _several_versions(self) -> Iterable[Remark]:
        if len(self.model_versions) > 1:
            yield Remark(
                "several-versions",
                f"Versions {_listed(self.model_versions)} of the model answered: it was replaced "
                "meanwhile. Count again for the answers of one.",
            )


class Row:
    """Puts photographs that are done in any order into their own, and names the duplicates."""

    def __init__(self) -> None:
        self.photographs: list[Photograph] = []
        self._early: dict[int, Photograph] = {}
        self._first: dict[str, int] = {}

    def put(self, photograph: Photograph) -> list[Photograph]:
        """Take one; return those whose turn it is now."""
        self._early[photograph.number] = photograph
        settled = []
        while done := self._early.pop(len(self.photographs) + 1, None):
            self.photographs.append(self.settle(done))
            settled.append(self.photographs[-1])
        return settled

    def settle(self, photograph: Photograph) -> Photograph:
        """Name it a duplicate where an earlier one is the same."""
        if photograph.answer is None or photograph.answer.fingerprint is None:
            return photograph
        first = self._first.setdefault(photograph.answer.fingerprint, photograph.number)
        if first == photograph.number:
            return photograph
        return replace(photograph, answer=None, duplicate_of=first)


def shown_name(name: str | None) -> str | None:
    """What is shown of a file's name: its end, without its folders and what cannot be printed."""
    base = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(filter(str.isprintable, base))[:_LONGEST_NAME] or None


def _unread(photographs: Sequence[Photograph]) -> NoCells:
    reasons = dict.fromkeys(str(p.problem["detail"]) for p in photographs if p.problem)
    first = " ".join(list(reasons)[:_SHOWN])
    return NoCells(f"None of the {len(photographs)} photographs could be read. {first}"[:600])


def _listed(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers[:10]]
    more = [f"{len(numbers) - 10} more"] if len(numbers) > 10 else []
    *most, last = [*shown, *more]
    return f"{', '.join(most)} and {last}" if most else last
