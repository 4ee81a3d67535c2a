"""The forms in which a count can be had, beside JSON and its lines."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway import fhir, sheet
from gateway.differential import Differential, Made
from gateway.ranges import Band
from gateway.reply import FHIR, HTML
from gateway.smear import Smear


@dataclass(frozen=True)
class Count:
    """A counted series, to be shown in one way or another."""

    smear: Smear
    differential: Differential
    made: Made
    band: Band | None


@dataclass(frozen=True)
class Document:
    """One of them."""

    render: Callable[[Count], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


def _bundle(counted: Count) -> bytes:
    heatmaps = list(_attachments(counted.smear))
    return json.dumps(fhir.bundle(counted.differential, counted.made, heatmaps)).encode() + b"\n"


def _page(counted: Count) -> bytes:
    return sheet.page(counted.differential, counted.made).encode()


def _attachments(smear: Smear) -> Iterator[fhir.Attachment]:
    for photograph in smear.photographs:
        if photograph.answer and photograph.answer.overlay:
            drawn = photograph.answer.overlay
            yield fhir.Attachment(
                name=photograph.name or f"photograph {photograph.number}",
                explained_class=drawn["explained_class"],
                media_type=drawn["media_type"],
                data=base64.b64decode(drawn["data"]),
            )


_SHEETS_POLICY = (
    f"default-src 'none'; style-src '{sheet.STYLE_SHA256}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
DOCUMENTS: Mapping[str, Document] = {
    FHIR: Document(_bundle),
    HTML: Document(_page, {"Content-Security-Policy": _SHEETS_POLICY}),
}
"""Each by its media type."""
