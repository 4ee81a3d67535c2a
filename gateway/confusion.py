"""How often the model takes one class for another, as its card knows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.contract import CLASSES
from gateway.errors import InvalidOption

LARGEST, NONE = "largest", "none"
"""What may be asked for beside a source of the card: that of most photographs, or nothing."""


@dataclass(frozen=True)
class Confusion:
    """How often the model took which class for which, on photographs it had not learnt from.

    ``counts`` has a row for each class in ``contract.CLASSES`` and a column for each answer: the
    classes in the same order, and last, abstaining. ``source`` says where it was measured.
    """

    source: str
    counts: tuple[tuple[int, ...], ...]

    @property
    def photographs(self) -> int:
        """How many it was measured on."""
        return sum(map(sum, self.counts))


def confusions_of(card: Mapping[str, Any] | None) -> Mapping[str, Confusion]:
    """Read the confusions of a model card by where they were measured; none of a card without.

    One that does not fit the classes, or lacks a named photograph of one, corrects nothing.
    """
    found = (card or {}).get("confusion")
    if not isinstance(found, Mapping):
        return {}
    return {
        source: Confusion(source, tuple(map(tuple, counts)))
        for source, counts in found.items()
        if _is_confusion(counts) and source not in (LARGEST, NONE)
    }


def _is_confusion(counts: object) -> bool:
    return (
        isinstance(counts, list)
        and len(counts) == len(CLASSES)
        and all(
            isinstance(row, list)
            and len(row) == len(CLASSES) + 1
            and all(type(n) is int and n >= 0 for n in row)
            and sum(row[:-1]) > 0
            for row in counts
        )
    )


def confusion_of(card: Mapping[str, Any] | None, source: str) -> Confusion | None:
    """Find what is known of the model's confusion on photographs of ``source``.

    ``largest`` is the source of most photographs, ``none`` no source at all.

    Raises:
        InvalidOption: nothing, and the source was named.
    """
    if source == NONE:
        return None
    known = confusions_of(card)
    if source == LARGEST:
        return max(known.values(), key=lambda confusion: confusion.photographs, default=None)
    if source not in known:
        raise InvalidOption(
            f"`correction` is one of {', '.join([*known, LARGEST, NONE])}, as the model's card "
            f"has it; not {source!r}."
        )
    return known[source]
