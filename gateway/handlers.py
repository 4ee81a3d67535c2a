"""HTTP in and out, and nothing else: each handler reads a request, asks, and replies."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import heatmap, pipeline, wire
from gateway.admission import Admission
from gateway.annotation import Reference
from gateway.contract import CLASSES, MODEL_CARD_FILE
from gateway.errors import (
    InvalidOption,
    MissingPhotograph,
    PhotographTooLarge,
    UnreadablePhotograph,
    UnsupportedMedia,
)
from gateway.metrics import Metrics
from gateway.middleware import REQUEST_ID
from gateway.model_client import ModelClient
from gateway.pipeline import STAGES, Options, Pipeline, Report

_LOG = logging.getLogger(__name__)

FIELD = "file"
"""Name of the multipart part that holds the photograph."""

_MOST_PARTS = 20

_CHOICES: dict[str, tuple[str, ...]] = {
    "heatmap": get_args(pipeline.Kind),
    "resolution": get_args(pipeline.Resolution),
    "colormap": heatmap.COLORMAPS,
    "format": get_args(heatmap.PictureFormat),
    "explain": CLASSES,
}
_IDLE_OPTIONS = {
    "grid": {"alpha", "colormap", "format"},
    "none": {"alpha", "colormap", "explain", "format", "resolution"},
}
# the original application's reply has its own pictures: the overlay's encoding is not used
_ORIGINAL = Options(format="jpeg")
# The page brings everything with it and talks to nobody else.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_NO_STORE = {"Cache-Control": "no-store"}
_PAGE_FILES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "favicon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Handlers:
    """The service behind the routes; ``app`` makes one and maps routes to its methods."""

    pipeline: Pipeline
    model: ModelClient
    admission: Admission
    metrics: Metrics
    reference: Reference
    models: Path | None
    target_ms: float
    max_bytes: int

    async def classify(self, request: web.Request) -> web.Response:
        """POST /v1/classify: one photograph -> JSON."""
        options = read_options(request)
        async with self._answered(request, options) as report:
            body = wire.report_json(report, options, request[REQUEST_ID], self.target_ms)
        return web.json_response(body, headers=_server_timing(report) | _NO_STORE)

    async def heatmap(self, request: web.Request) -> web.Response:
        """POST /v1/heatmap: one photograph -> the overlay itself."""
        options = read_options(request)
        if options.heatmap != "overlay":
            raise InvalidOption("This route answers with the overlay: leave `heatmap` out.")
        async with self._answered(request, options) as report:
            assert report.heatmap is not None  # an overlay was asked for
        return web.Response(
            body=report.heatmap.encoded,
            content_type=f"image/{options.format}",
            headers=_server_timing(report) | _NO_STORE | _abstained(report),
        )

    async def predict(self, request: web.Request) -> web.Response:
        """POST /predict: the original application's request and reply."""
        if request.content_type != "multipart/form-data":
            raise UnsupportedMedia(f"Send a multipart form with the photograph as `{FIELD}`.")
        async with self._answered(request, _ORIGINAL) as report:
            body = await asyncio.to_thread(wire.predict_json, report)
        return web.json_response(body, headers=_NO_STORE)

    async def model_information(self, _: web.Request) -> web.Response:
        """GET /v1/model: which model is served, and its card."""
        version = await self.model.available_version()
        card = await asyncio.to_thread(read_model_card, self.models, version)
        return web.json_response(wire.model_json(version, card))

    async def clinical_reference(self, _: web.Request) -> web.Response:
        """GET /v1/reference: the clinical reference data with its sources."""
        return web.json_response(wire.reference_json(self.reference))

    async def livez(self, _: web.Request) -> web.Response:
        """GET /livez: the process answers."""
        return web.json_response({"status": "alive"}, headers=_NO_STORE)

    async def readyz(self, _: web.Request) -> web.Response:
        """GET /readyz: the model server has a version AVAILABLE; else 503."""
        version = await self.model.available_version()
        return web.json_response({"status": "ready", "model_version": version}, headers=_NO_STORE)

    async def exposition(self, _: web.Request) -> web.Response:
        """GET /metrics: for Prometheus."""
        return web.Response(
            body=self.metrics.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def page(self, request: web.Request) -> web.Response:
        """GET / and /page/...: the web page."""
        name = request.match_info.get("name", "index.html")
        if name not in _PAGE_FILES:
            raise web.HTTPNotFound
        body = files("gateway").joinpath("page", name).read_bytes()
        return web.Response(
            body=body, content_type=_PAGE_FILES[name], charset="utf-8", headers=_PAGE_HEADERS
        )

    @asynccontextmanager
    async def _answered(self, request: web.Request, options: Options) -> AsyncIterator[Report]:
        """Answer the request's photograph, and hold its place until the reply is made."""
        data = await read_photograph_bytes(request, self.max_bytes)
        arrived = time.perf_counter()
        async with self.admission.place():
            waited_ms = (time.perf_counter() - arrived) * 1000
            report = await self.pipeline.classify(data, options, waited_ms)
            for stage in STAGES:
                self.metrics.stage_seconds.labels(stage).observe(report.timing_ms[stage] / 1000)
            if not report.doubts:
                self.metrics.predictions.labels(report.prediction).inc()
            for doubt in report.doubts:
                self.metrics.abstentions.labels(doubt.reason).inc()
            yield report


def read_model_card(models: Path | None, version: int) -> dict[str, Any] | None:
    """Read the card of the version that is served; None where there is none to be read."""
    if models is None:
        return None
    try:
        text = (models / str(version) / MODEL_CARD_FILE).read_text("utf-8")
        card: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        _LOG.warning("no model card for version %d: %s", version, error)
        return None
    return card


def read_options(request: web.Request) -> Options:
    """Read the query.

    Raises:
        InvalidOption: an unknown name, a repeated one, or a value that is not accepted.
    """
    given: dict[str, Any] = {}
    for name, value in request.query.items():
        if name in given:
            raise InvalidOption(f"`{name}` is given twice: give it once.")
        given[name] = _option(name, value)
    kind = given.get("heatmap", "overlay")
    idle = sorted(_IDLE_OPTIONS.get(kind, set()) & set(given))
    if idle:
        raise InvalidOption(f"With `heatmap={kind}`, {', '.join(idle)} would do nothing.")
    return Options(**given)


def _option(name: str, value: str) -> str | float:
    if name == "alpha":
        return _alpha(value)
    if name not in _CHOICES:
        known = ", ".join((*_CHOICES, "alpha"))
        raise InvalidOption(f"There is no option `{name}`. Options are {known}.")
    chosen = value.upper() if name == "explain" else value
    if chosen not in _CHOICES[name]:
        raise InvalidOption(f"`{name}` is one of {', '.join(_CHOICES[name])}, not {value[:40]!r}.")
    return chosen


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 <= alpha <= 1:  # false for NaN as well
        raise InvalidOption(f"`alpha` is a number from 0 to 1, not {text[:40]!r}.")
    return alpha


async def read_photograph_bytes(request: web.Request, max_bytes: int) -> bytes:
    """Read the photograph from a raw body or the multipart part named ``file``, capped.

    Raises:
        MissingPhotograph, UnsupportedMedia, PhotographTooLarge: what the client should change.
    """
    kind = request.content_type
    if request.content_length is not None and request.content_length > max_bytes + 64 * 1024:
        raise _too_large(max_bytes)  # a form's head and borders stay well under 64 KiB
    if kind == "multipart/form-data":
        try:
            return await _read_form(request, max_bytes)
        # what aiohttp's reader makes of a broken form, or of a body that is not encoded as it says
        except (ValueError, RuntimeError, HttpProcessingError, web.RequestPayloadError) as error:
            raise MissingPhotograph(f"The multipart form is broken ({error}).") from error
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise UnsupportedMedia(
            f"The body is {kind}. Send the photograph itself with a Content-Type such as "
            f"image/jpeg, or a multipart form with it as `{FIELD}`."
        )
    try:
        return await _read_capped(request.content.readany, max_bytes)
    except web.RequestPayloadError as error:
        raise UnreadablePhotograph(
            f"The body is not encoded as its header says ({error})."
        ) from error


async def _read_form(request: web.Request, max_bytes: int) -> bytes:
    found: list[str] = []
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise MissingPhotograph("A form inside the form cannot be read: send one form.")
        data = await _read_capped(part.read_chunk, max_bytes)  # others too: aiohttp has no cap
        if part.name == FIELD:
            return data
        found.append(str(part.name)[:40])
        if len(found) == _MOST_PARTS:
            break
    parts = f"it has {', '.join(found)}" if found else "it has none"
    raise MissingPhotograph(
        f"The form has no part named `{FIELD}` ({parts}): give the photograph that name, as in "
        f"curl -F {FIELD}=@cell.jpg."
    )


async def _read_capped(read: Callable[[], Awaitable[bytes]], max_bytes: int) -> bytes:
    """Read to the end, or just past the cap: a stream of unknown length cannot fill memory."""
    data = bytearray()
    while chunk := await read():
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(data)


def _too_large(max_bytes: int) -> PhotographTooLarge:
    return PhotographTooLarge(
        f"A photograph may have at most {max_bytes:,} bytes. Scale it down or compress it."
    )


def _abstained(report: Report) -> dict[str, str]:
    """An overlay has no place for a doubt but a header."""
    return {"X-Abstain": ", ".join(d.reason for d in report.doubts)} if report.doubts else {}


def _server_timing(report: Report) -> dict[str, str]:
    stages = (f"{stage};dur={ms:.1f}" for stage, ms in report.timing_ms.items())
    return {"Server-Timing": ", ".join(stages)}
