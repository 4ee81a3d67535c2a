"""Write a file whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, data: bytes) -> Path:
    """Write it aside first, then put it in its place.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_bytes(data)
        return aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
