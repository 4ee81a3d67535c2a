"""What a terminal can show: how wide it is, which characters it has, and a progress bar."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from typing import NamedTuple, TextIO

_WIDEST = 100  # longer lines are hard to read
_NARROWEST = 40
_REDRAW = 0.1  # seconds
_BAR = 24
_CLEAR = "\r\x1b[K"


class Drawing(NamedTuple):
    """Characters to draw with."""

    full: str
    empty: str
    ellipsis: str


def drawing(stream: TextIO) -> Drawing:
    """Those that ``stream`` can show."""
    try:
        "█·…".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return Drawing("#", ".", "...")
    return Drawing("█", "·", "…")


def printable(text: str, encoding: str = "utf-8") -> str:
    """Write as an escape what would move the cursor, or what the encoding does not have."""
    known = text.encode(encoding, "backslashreplace").decode(encoding)
    if known.isprintable():
        return known
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in known
    )


def tell(text: str) -> None:
    """Print on standard output, at once, whatever ``text`` holds; its own lines stay lines."""
    encoding = sys.stdout.encoding or "ascii"
    print("\n".join(printable(line, encoding) for line in text.split("\n")), flush=True)


def columns() -> int | None:
    """How many characters fit on a line; None where no person is looking."""
    import shutil  # slow to import, and not for `check`

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def reading_width() -> int:
    """How long a line of prose may get."""
    return max(_NARROWEST, min(columns() or _WIDEST, _WIDEST))


def wrapped(text: str, first: str, others: str) -> str:
    """Break prose into lines, the first of which begins with ``first``."""
    import textwrap  # slow to import, and not for `check`

    return textwrap.fill(
        text, width=reading_width(), initial_indent=first, subsequent_indent=others
    )


def width(text: str) -> int:
    """How many columns a text takes: none for an accent, two for 細胞 and most emoji."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


class Progress:
    """A bar on standard error, where that is a terminal and there is more than one to wait for."""

    def __init__(self, total: int) -> None:
        able = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = able and total > 1
        self._total, self._done = total, 0
        self._drawn, self._started = 0.0, time.monotonic()
        self._chars = drawing(sys.stderr)

    def draw(self, done: int) -> None:
        """Show that ``done`` are done; not more often than one can see."""
        self._done, now = done, time.monotonic()
        if self._shown and now - self._drawn >= _REDRAW:
            self._drawn = now
            print(f"{_CLEAR}{self._line(now)}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away: something else is printed."""
        if self._shown and self._drawn:
            self._drawn = 0.0
            print(_CLEAR, end="", file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        counted = f"{self._done:,} of {self._total:,}"
        if self._done:
            left = (now - self._started) / self._done * (self._total - self._done)
            counted += f", {left:.0f} s left"
        length = max(0, min(_BAR, os.get_terminal_size(2).columns - len(counted) - 2))
        full = length * self._done // self._total
        return f"{self._chars.full * full}{self._chars.empty * (length - full)} {counted}"
