"""The photographs that a folder holds, to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.refusal import refuse

_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Photograph:
    """A file's name, its bytes, and the class that its folder is named after, if it is one."""

    name: str
    body: bytes
    folder: str


def named(folder: Path, most: int) -> list[Photograph]:
    """Read at most ``most`` files, spread over the folder: its first may all be of one class.

    Raises:
        SystemExit: there is none, or one cannot be read; the message says where it looked.
    """
    if not folder.is_dir():
        refuse(f"{folder} is no folder: name one with photographs.")
    try:
        files = sorted(p for p in folder.glob("**/*") if _is_photograph(p))
    except OSError as error:
        refuse(f"{error.filename or folder} cannot be read: {error.strerror}.")
    if not files:
        refuse(f"no photograph in {folder}: `python -m export draw {folder}` draws some")
    count = min(most, len(files))
    return [one(files[number * len(files) // count]) for number in range(count)]


def one(path: Path) -> Photograph:
    """Read a file.

    Raises:
        SystemExit: it cannot be read.
    """
    try:
        return Photograph(path.name, path.read_bytes(), path.parent.name)
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and ".overlay" not in path.name
