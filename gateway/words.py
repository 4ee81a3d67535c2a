"""What a reader says of a series' cells, sent along with the photographs. Pure."""

from __future__ import annotations

import json
from collections import Counter

from gateway.errors import InvalidCells
from gateway.smear import WORDS, shown_name

CELLS = "cells"
"""Name of the form's part with it, a line of JSON each."""


def words_by_number(lines: bytes, names: list[str | None]) -> dict[int, str]:
    """Read a reader's words, by the number of the photograph that each is about.

    Raises:
        InvalidCells: a line cannot be used.
    """
    times, words = Counter(names), {}
    for line in filter(None, map(bytes.strip, lines.splitlines())):
        name, word = _word(line)
        if times[name] != 1:
            raise InvalidCells(
                f"`{CELLS}` speaks of {name!r}, and {times[name] or 'no'} photographs are called "
                "that. Count first, and send the report back with the words by number."
            )
        words[names.index(name) + 1] = word
    return words


def _word(line: bytes) -> tuple[str | None, str]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or set(said) != {"file", "reader"}:
        raise _unusable(line)
    name = shown_name(said["file"]) if isinstance(said["file"], str) else None
    if name is None or said["reader"] not in WORDS:
        raise _unusable(line)
    return name, said["reader"]


def _unusable(line: bytes) -> InvalidCells:
    return InvalidCells(
        f'A line of `{CELLS}` is {{"file": NAME, "reader": WORD}}, and WORD one of '
        f"{', '.join(WORDS)}; not {line[:80].decode(errors='replace')!r}."
    )
