"""What is to be sent: files, the pictures in folders, and standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.ask.terminal import printable
from gateway.errors import HemaVisionError

STANDARD_INPUT = Path("-")
OVERLAY = ".overlay.png"
"""How the name of an overlay ends: such files are not photographs."""

_MOST_BYTES = 128 * 1024 * 1024
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class NothingToSend(HemaVisionError):
    """What was named holds no photograph, or cannot be looked into."""


class TooLong(Exception):
    """A file that nobody took with a microscope."""


class Photograph(NamedTuple):
    """One file; ``overlay`` is where in the folder of overlays its own belongs."""

    path: Path
    overlay: Path

    @property
    def name(self) -> str:
        """As it was given; a name may hold anything but a zero byte."""
        return str(self.path)

    def read(self) -> bytes:
        """Read it whole.

        Raises:
            OSError: it cannot be read.
            TooLong: 128 MiB were read and there was more.
        """
        # standard input by its number: Python ends badly while a thread waits on `sys.stdin`
        source = 0 if self.path == STANDARD_INPUT else self.path
        with open(source, "rb", closefd=source != 0) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise TooLong(f"it has more than {_MOST_BYTES // 1024**2} MiB")
        return data


def find(named: Sequence[Path]) -> list[Photograph]:
    """List what the names stand for: a folder for the pictures in it, by their content, sorted.

    A name that stands for none is told on standard error.

    Raises:
        NothingToSend: there is no photograph, a folder cannot be read, or standard input is
            named twice or is a terminal.
    """
    _check_standard_input(named)
    found = [(path, list(_behind(path))) for path in named]
    for path, inside in found:
        if not inside:
            reason = "no photograph in it" if path.is_dir() else "an overlay"
            print(f"{printable(str(path))}: {reason}, left out", file=sys.stderr)
    wanted = [photograph for _, inside in found for photograph in inside]
    if not wanted:
        raise NothingToSend("there is no photograph in what was named")
    return wanted


def _check_standard_input(named: Sequence[Path]) -> None:
    times = named.count(STANDARD_INPUT)
    if times > 1:
        raise NothingToSend("standard input (-) can be read once: name it once")
    if times and os.isatty(0):
        raise NothingToSend("standard input (-) is this terminal: pipe a photograph into it")


def _behind(path: Path) -> Iterator[Photograph]:
    if path == STANDARD_INPUT:
        yield Photograph(path, Path(f"standard-input{OVERLAY}"))
    elif path.is_dir():
        yield from _inside(path)
    elif not path.name.endswith(OVERLAY):
        yield Photograph(path, Path(path.stem + OVERLAY))


def _inside(folder: Path) -> Iterator[Photograph]:
    """Walk through a folder, in the order of names, without what is hidden."""
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and not name.endswith(OVERLAY) and _is_picture(path):
                below = path.relative_to(folder)
                yield Photograph(path, below.with_name(path.stem + OVERLAY))


def _unreadable(error: OSError) -> None:
    raise NothingToSend(f"{error.filename} cannot be looked into ({error.strerror})") from error


def _is_picture(path: Path) -> bool:
    """Tell by the first bytes; what cannot be opened is sent, so that it is told."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # a pipe in a folder would be waited for
        with path.open("rb") as file:
            begins = file.read(12)
    except OSError:
        return True
    return begins.startswith(_BEGINNINGS) or (begins[:4], begins[8:]) == (b"RIFF", b"WEBP")
