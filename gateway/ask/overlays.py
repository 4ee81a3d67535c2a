"""Write the heat maps: each whole or not at all, and never two under one name."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from gateway.ask import files
from gateway.ask.photographs import Photograph
from gateway.ask.terminal import printable
from gateway.errors import HemaVisionError


class NoPlace(HemaVisionError):
    """The overlays cannot be written where they were wanted."""


def prepare(folder: Path, photographs: Sequence[Photograph]) -> None:
    """Make the folder, and see that each overlay has a name of its own.

    Raises:
        NoPlace: it cannot be made, or two photographs would have one overlay.
    """
    owners: dict[Path, Photograph] = {}
    for photograph in photographs:
        other = owners.setdefault(photograph.overlay, photograph)
        if other is not photograph:
            raise NoPlace(
                f"{printable(other.name)} and {printable(photograph.name)} would have the same "
                f"overlay, {printable(str(photograph.overlay))}: send them one after the other"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoPlace(f"{folder} cannot be made ({error.strerror})") from error


def write(folder: Path, photograph: Photograph, data: str) -> Path:
    """Write one overlay from base64.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    path = folder / photograph.overlay
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write(path, base64.b64decode(data))
