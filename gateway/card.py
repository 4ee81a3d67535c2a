"""The model's card, which lies beside its weights: what it was trained on and measured at."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from gateway.contract import MODEL_CARD_FILE

_LOG = logging.getLogger(__name__)


def read_card(models: Path | None, version: int) -> dict[str, Any] | None:
    """Read the card of a version of the model; None where there is none to be read."""
    if models is None:
        return None
    try:
        text = (models / str(version) / MODEL_CARD_FILE).read_text("utf-8")
        card: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        _LOG.warning("no model card for version %d: %s", version, error)
        return None
    return card
