"""The one route table: what each route takes and answers, and the handler that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway import errors, wire, wire_series
from gateway.body import FIELD, FORM
from gateway.handlers import PAGE_FILES, Handlers
from gateway.imaging import FORMATS
from gateway.openapi import Json, Operation
from gateway.pipeline import Options
from gateway.query import OPTIONS, OVERLAY_OPTIONS, SERIES_OPTIONS, Choice, SeriesOptions
from gateway.reply import FHIR, HTML, JSON, NDJSON
from gateway.upload import ZIPS
from gateway.words import CELLS

Handler = Callable[[Handlers, web.Request], Awaitable[web.StreamResponse]]

_FILE: Json = {"type": "string", "format": "binary", "description": "A photograph."}
_TEXT: Json = {"type": "string"}
_PAGE = {HTML: _TEXT}
_PICTURES = dict.fromkeys(wire.PICTURES, _FILE | {"description": "The overlay."})
_RAW = {f"image/{name.lower()}": _FILE for name in FORMATS} | {"application/octet-stream": _FILE}


def _form(photographs: Json) -> dict[str, Json]:
    return {FORM: {"type": "object", "properties": {FIELD: photographs}, "required": [FIELD]}}


_ONE = _form(_FILE)
_SEVERAL = _form({"type": "array", "items": _FILE, "minItems": 1})
_MODEL = (errors.Overloaded, errors.ModelUnavailable, errors.ModelMisbehaved)
_KEY = (errors.KeyRequired, errors.RateExceeded)
_PHOTOGRAPH = (
    errors.MalformedRequest,
    errors.MissingPhotograph,
    errors.UploadTooSlow,
    errors.PhotographTooLarge,
    errors.TooManyParts,
    errors.UnsupportedMedia,
    errors.UnreadablePhotograph,
    errors.TooManyAtOnce,
    *_KEY,
    *_MODEL,
)
_OPTIONS = (errors.InvalidOption, errors.NotAcceptable)
_SERIES: Json = {
    FORM: {
        "type": "object",
        "properties": {
            FIELD: {"type": "array", "items": _FILE, "minItems": 1},
            CELLS: {
                **_TEXT,
                "description": "What a reader says: a line of JSON for each photograph it is about,"
                ' as {"file": "cell-7.jpg", "reader": "MONOCYTE"}.',
            },
        },
        "required": [FIELD],
    },
    **dict.fromkeys(ZIPS, _FILE | {"description": "A zip of photographs."}),
    JSON: wire_series.Recount,
}
_COUNTED: Json = {
    JSON: wire_series.DifferentialReport,
    NDJSON: wire_series.Line,
    FHIR: {"type": "object", "description": "An HL7 FHIR R4 Bundle."},
    HTML: {**_TEXT, "description": "One page to print and sign."},
}

ROUTES: tuple[tuple[Operation, Handler], ...] = (
    (
        Operation(
            "POST",
            "/v1/classify",
            "Classify one photograph, or several in one form",
            "Photographs",
            replies={JSON: wire.Classification | wire.Batch, **_PICTURES},
            body=_RAW | _SEVERAL,
            options=OPTIONS,
            headers=("X-Abstain",),
            errors=(*_PHOTOGRAPH, *_OPTIONS),
            details="One photograph is answered by a `Classification`; with `Accept: image/png`, "
            "`image/jpeg` or `image/webp` by the overlay itself. A form with several parts named "
            f"`{FIELD}` is answered by a `Batch`, where a bad photograph is a `Problem` in its "
            "place and the others are answered all the same.",
        ),
        Handlers.classify,
    ),
    (
        Operation(
            "POST",
            "/v1/heatmap",
            "Draw where the model looked",
            "Photographs",
            replies=_PICTURES,
            body=_RAW | _ONE,
            options=OVERLAY_OPTIONS,
            defaults=Options(format="png"),  # unless `Accept` likes another best
            headers=("X-Abstain",),
            errors=(*_PHOTOGRAPH, *_OPTIONS),
            details="The overlay itself, in the `format` asked for or the one that `Accept` likes "
            "best. The header `X-Abstain` names the reasons not to take it.",
        ),
        Handlers.heatmap,
    ),
    (
        Operation(
            "POST",
            "/v1/differential",
            "Count the cells of a smear",
            "Photographs",
            replies=_COUNTED,
            body=_SERIES,
            options=SERIES_OPTIONS,
            defaults=SeriesOptions(),
            errors=(
                *_PHOTOGRAPH,
                *_OPTIONS,
                errors.SeriesTooLarge,
                errors.UnreadableZip,
                errors.InvalidCells,
                errors.NoCells,
                errors.NoRoom,
                errors.Stopping,
            ),
            details="Many photographs, each of one cell, are answered by how many there are of "
            f"each class. Send a form with them as `{FIELD}`, or a zip. With `Accept: {NDJSON}` "
            "there is a `PhotographLine` for each as it comes, and then a `ReportLine`, or a "
            "`ProblemLine` where it came to nothing. A report that is sent back as JSON with "
            "`readers` in it is counted anew, as these say.",
        ),
        Handlers.differential,
    ),
    (
        Operation(
            "POST",
            "/predict",
            "Answer as the original application did",
            "Photographs",
            replies={JSON: wire.OriginalAnswer},
            body=_ONE,
            errors=_PHOTOGRAPH,
            details="For its clients: percentages, and pictures as base64.",
        ),
        Handlers.predict,
    ),
    (
        Operation(
            "GET",
            "/v1/model",
            "Tell which model is served",
            "Knowledge",
            replies={JSON: wire.ModelDescription},
            errors=(*_KEY, *_MODEL),
        ),
        Handlers.model_information,
    ),
    (
        Operation(
            "GET",
            "/v1/reference",
            "List the clinical reference data",
            "Knowledge",
            replies={JSON: wire.ReferenceData},
        ),
        Handlers.clinical_reference,
    ),
    (
        Operation(
            "GET",
            "/livez",
            "Tell whether the process answers",
            "Operation",
            replies={JSON: wire.Alive},
        ),
        Handlers.livez,
    ),
    (
        Operation(
            "GET",
            "/readyz",
            "Tell whether the model server has a version",
            "Operation",
            replies={JSON: wire.Ready},
            errors=(errors.Stopping, *_MODEL),
        ),
        Handlers.readyz,
    ),
    (
        Operation(
            "GET",
            "/metrics",
            "Expose the metrics to Prometheus",
            "Operation",
            replies={"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
            errors=_KEY,
        ),
        Handlers.exposition,
    ),
    (
        Operation(
            "GET",
            "/openapi.json",
            "Describe the API",
            "Documents",
            replies={JSON: {"type": "object"}},
        ),
        Handlers.description,
    ),
    (
        Operation("GET", "/docs", "Read the description of the API", "Documents", replies=_PAGE),
        Handlers.docs,
    ),
    (
        Operation("GET", "/", "Open the web page", "Documents", replies=_PAGE),
        Handlers.page,
    ),
    (
        Operation(
            "GET",
            "/page/{name}",
            "Load a file of the web pages",
            "Documents",
            replies=dict.fromkeys(PAGE_FILES.values(), _TEXT),
            path_options=(Choice("name", "The file's name.", tuple(PAGE_FILES)),),
            errors=(errors.NotFound,),
        ),
        Handlers.page_file,
    ),
)
"""Every route but ``OPTIONS``, which each path answers, and ``HEAD``, which goes with ``GET``."""
