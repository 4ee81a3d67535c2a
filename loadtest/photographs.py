"""The photographs that a folder holds, to be sent."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def read(folder: Path, most: int) -> list[bytes]:
    """Read at most ``most`` files, spread over the folder: its first may all be of one class.

    Raises:
        SystemExit: it has none; the message says where it looked.
    """
    files = sorted(p for p in folder.glob("**/*") if _is_photograph(p))
    if not files:
        raise SystemExit(f"no photograph in {folder}: `python -m export draw {folder}` draws some")
    return [path.read_bytes() for path in files[:: max(1, len(files) // most)][:most]]


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and ".overlay" not in path.name
