"""Which exporter made a version: a digest of the sources that decide what is in its graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

_EXPORT = Path(__file__).parent
_SOURCES = (
    *(
        _EXPORT / f"{name}.py"
        for name in ("architecture", "familiarity", "gradcam", "optimise", "saved_model", "warmup")
    ),
    _EXPORT.parent / "gateway" / "contract.py",
)


def exporter_fingerprint() -> str:
    """SHA-256 of the exporter's sources: another one may make another graph of the same weights."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()
