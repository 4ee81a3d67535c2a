"""The photographs of one smear as a form that is read from the disk while it is sent."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from gateway.ask import photographs
from gateway.ask.photographs import STANDARD_INPUT, NothingToSend
from gateway.ask.terminal import printable
from gateway.errors import HemaVisionError

_PIECE = 256 * 1024
_ZIP = b"PK\x03\x04"


class Unreadable(HemaVisionError):
    """A file that was named, or is in a folder that was, cannot be read: nothing is counted."""


class Series(NamedTuple):
    """``files`` are photographs and zips with photographs, ``total`` of these in all.

    ``readers`` is a file with what a reader says of them, a JSON object on each line.
    ``boundary`` parts the form; nothing in it holds that.
    """

    files: Sequence[Path]
    total: int
    readers: Path | None
    boundary: str

    def form(self) -> Iterator[bytes]:
        """Read everything, as a multipart form; no more than a piece of it is in memory.

        Raises:
            Unreadable: a file is gone, or is not ours to read.
        """
        if self.readers is not None:
            yield from _part(self.boundary, "cells", self.readers)
        for path in self.files:
            yield from _part(self.boundary, "file", path)
        yield f"--{self.boundary}--\r\n".encode()


def find(named: Sequence[Path], readers: Path | None) -> Series:
    """List the photographs behind files, folders and zips.

    Raises:
        NothingToSend: there is none, or standard input is named.
        Unreadable: a file cannot be read, or is called a zip and is none.
    """
    if STANDARD_INPUT in named:
        raise NothingToSend("a series is not read from standard input (-): name files or folders")
    files = [photograph.path for photograph in photographs.find(named)]
    return Series(files, sum(map(_photographs_in, files)), readers, secrets.token_hex(16))


def _photographs_in(path: Path) -> int:
    """How many a file holds, as far as its zip tells: enough for a bar that grows."""
    with _readable(path) as file:
        if path.suffix.lower() != ".zip" and file.read(len(_ZIP)) != _ZIP:
            return 1
        try:
            with zipfile.ZipFile(file) as zipped:
                return sum(not entry.is_dir() for entry in zipped.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise Unreadable(f"{printable(str(path))} is no zip, or a damaged one") from error


def _part(boundary: str, field: str, path: Path) -> Iterator[bytes]:
    name = _quoted(path.name)
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    with _readable(path) as file:
        while piece := file.read(_PIECE):
            yield piece
    yield b"\r\n"


def _quoted(name: str) -> str:
    """Write a file's name as browsers do: HTML, "multipart form data", step 4 of its encoding."""
    told = os.fsencode(name).decode("utf-8", "replace")
    return told.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


@contextmanager
def _readable(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise Unreadable(f"{printable(str(path))} cannot be read ({error.strerror})") from error
