"""HTTP in and out, and nothing else: each handler reads a request, asks, and replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from gateway import wire
from gateway.admission import Admission
from gateway.allowance import Allowance
from gateway.annotation import Reference
from gateway.body import FIELD, FORM, Limits, most_bytes, read_photographs
from gateway.card import read_card
from gateway.counter import Counter
from gateway.deadline import Clock, Deadline
from gateway.errors import (
    NotFound,
    RequestError,
    ServiceError,
    Stopping,
    TooManyAtOnce,
    UnsupportedMedia,
)
from gateway.heatmap import COLOR_TABLES, PictureFormat
from gateway.lifecycle import Lifecycle
from gateway.metrics import FAILED, LATE, WITHIN, Metrics
from gateway.middleware import HELD, MODEL_VERSION, REQUEST_ID, client_of, problem_of
from gateway.model_client import ModelClient
from gateway.pipeline import STAGES, Options, Pipeline, Report
from gateway.query import OPTIONS, OVERLAY_OPTIONS, read_options
from gateway.readiness import Readiness
from gateway.reply import (
    JSON,
    KEPT,
    NO_STORE,
    chosen_media,
    header,
    json_reply,
    listed_reply,
    reply,
)
from gateway.tracing import stage

# the original application's reply has its own pictures: the overlay's encoding is not used
_ORIGINAL = Options(format="jpeg")
# The page brings everything with it and talks to nobody else.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}
_MEDIA = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".png": "image/png",
}
PAGE_FILES = {
    file.name: _MEDIA[Path(file.name).suffix]
    for file in sorted(files("gateway").joinpath("page").iterdir(), key=lambda file: file.name)
    if Path(file.name).suffix in _MEDIA
} | {COLOR_TABLES.name: "image/png"}
"""The files of the web pages, with their media types."""


@dataclass(frozen=True)
class Handlers:
    """The service behind the routes; ``app`` makes one, ``routes`` names its methods."""

    pipeline: Pipeline
    model: ModelClient
    admission: Admission
    metrics: Metrics
    reference: Reference
    models: Path | None
    target_ms: float
    deadline: float
    clock: Clock
    lifecycle: Lifecycle
    readiness: Readiness
    limits: Limits
    uploads: Allowance
    batch_at_once: int
    openapi: Mapping[str, Any]
    counter: Counter

    async def classify(self, request: web.Request) -> web.Response:
        """POST /v1/classify: one photograph -> JSON or its overlay; several -> JSON."""
        options = read_options(request.query.items(), OPTIONS)
        deadline = self._deadline(options)
        photographs = await self._read(request, options, deadline)
        media = chosen_media(request, _offered(request, options, len(photographs)))
        if media != JSON:
            return await self._overlay(request, photographs[0], options, deadline, media)
        if len(photographs) > 1:
            results = await self._batch(request, photographs, options, deadline)
            return listed_reply(request, results)
        async with self._answered(request, photographs[0], options, deadline) as report:
            body = wire.report_json(report, options, request[REQUEST_ID], self.target_ms)
        drawn = report.heatmap is not None and report.heatmap.encoded is not None
        return await json_reply(request, body, NO_STORE, pictures=drawn)

    async def heatmap(self, request: web.Request) -> web.Response:
        """POST /v1/heatmap: one photograph -> the overlay itself."""
        options = read_options(request.query.items(), OVERLAY_OPTIONS)
        media = chosen_media(request, _pictures(request, options))
        deadline = self._deadline(options)
        (photograph,) = await self._read(request, options, deadline, only_one=True)
        return await self._overlay(request, photograph, options, deadline, media)

    async def predict(self, request: web.Request) -> web.Response:
        """POST /predict: the original application's request and reply."""
        if request.content_type != FORM:
            raise UnsupportedMedia(f"Send a multipart form with the photograph as `{FIELD}`.")
        deadline = self._deadline(_ORIGINAL)
        (photograph,) = await self._read(request, _ORIGINAL, deadline, only_one=True)
        async with self._answered(request, photograph, _ORIGINAL, deadline) as report:
            body = await asyncio.to_thread(wire.predict_json, report)
        return await json_reply(request, body, NO_STORE, pictures=True)

    async def differential(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/differential: a series of photographs, or an earlier report -> its count."""
        return await self.counter.answer(request, self._one_of_a_series)

    async def model_information(self, request: web.Request) -> web.Response:
        """GET /v1/model: which model is served, and its card."""
        version = await self.model.available_version(Deadline.after(self.deadline))
        card = await asyncio.to_thread(read_card, self.models, version)
        return await json_reply(request, wire.model_json(version, card), KEPT)

    async def clinical_reference(self, request: web.Request) -> web.Response:
        """GET /v1/reference: the clinical reference data with its sources."""
        return await json_reply(request, wire.reference_json(self.reference), KEPT)

    async def livez(self, request: web.Request) -> web.Response:
        """GET /livez: the process answers."""
        alive: wire.Alive = {"status": "alive"}
        return await json_reply(request, alive, NO_STORE)

    async def readyz(self, request: web.Request) -> web.Response:
        """GET /readyz: the model server has a version AVAILABLE and we go on; else 503."""
        if self.lifecycle.stopping:
            raise Stopping("This gateway is about to end: send new requests to another.")
        version = await self._served_version()
        ready: wire.Ready = {"status": "ready", "model_version": version}
        return await json_reply(request, ready, NO_STORE)

    async def exposition(self, request: web.Request) -> web.Response:
        """GET /metrics: for Prometheus, with whether there is a model at this moment."""
        with suppress(ServiceError):  # which the metrics tell
            await self._served_version()
        body, kind = self.metrics.exposition(header(request, "Accept"))
        return web.Response(body=body, headers={"Content-Type": kind, **NO_STORE})

    async def description(self, request: web.Request) -> web.Response:
        """GET /openapi.json: the API's description."""
        return await json_reply(request, self.openapi, KEPT)

    async def docs(self, request: web.Request) -> web.Response:
        """GET /docs: the description for people."""
        return await _file(request, "docs.html")

    async def page(self, request: web.Request) -> web.Response:
        """GET /: the web page."""
        return await _file(request, "index.html")

    async def page_file(self, request: web.Request) -> web.Response:
        """GET /page/{name}: a file of the web pages."""
        return await _file(request, request.match_info["name"])

    async def methods(self, request: web.Request) -> web.Response:
        """OPTIONS on any path: what else it takes."""
        resource = request.match_info.route.resource
        assert resource is not None  # this handler stands behind a path
        allowed = ", ".join(sorted(route.method for route in resource))
        return web.Response(status=204, headers={"Allow": allowed})

    async def _served_version(self) -> int:
        try:
            version = await self.readiness.version()
        except ServiceError:
            self.metrics.miss_model()
            raise
        self.metrics.see_model(str(version))
        return version

    async def _overlay(
        self,
        request: web.Request,
        photograph: bytes,
        options: Options,
        deadline: Deadline,
        media: str,
    ) -> web.Response:
        chosen = cast("PictureFormat", media.removeprefix("image/"))
        wanted = replace(options, format=chosen)
        async with self._answered(request, photograph, wanted, deadline) as report:
            assert report.heatmap is not None  # an overlay was asked for
        return web.Response(
            body=report.heatmap.encoded,
            content_type=media,
            headers=NO_STORE | _abstained(report),
        )

    async def _batch(
        self,
        request: web.Request,
        photographs: Sequence[bytes],
        options: Options,
        deadline: Deadline,
    ) -> list[bytes]:
        """Answer each photograph, some at a time, in JSON.

        Raises:
            ServiceError, TooManyAtOnce: none could be answered, and none for its own sake.
        """
        turns, request_id = asyncio.Semaphore(self.batch_at_once), request[REQUEST_ID]

        async def result(photograph: bytes) -> bytes | RequestError | ServiceError:
            try:
                async with turns, self._answered(request, photograph, options, deadline) as report:
                    body = wire.report_json(report, options, request_id, self.target_ms)
                    return json.dumps(body).encode()
            except (RequestError, ServiceError) as error:
                return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(result(photograph)) for photograph in photographs]
        results = [task.result() for task in tasks]
        failures = [one for one in results if isinstance(one, ServiceError | TooManyAtOnce)]
        if len(failures) == len(results):
            raise failures[0]
        return [self._in_place(one, request_id) for one in results]

    def _in_place(self, result: bytes | RequestError | ServiceError, request_id: str) -> bytes:
        if isinstance(result, bytes):
            return result
        return json.dumps(problem_of(result, request_id, self.metrics)).encode()

    async def _read(
        self,
        request: web.Request,
        options: Options,
        deadline: Deadline,
        *,
        only_one: bool = False,
    ) -> list[bytes]:
        with stage("read"):
            most = most_bytes(request, self.limits)
            room = self.uploads.of(most, deadline, client_of(request))
            with self._failures_counted(options):  # one, however many the form has
                await request[HELD].enter_async_context(room)
            return await read_photographs(request, self.limits, deadline, only_one=only_one)

    @asynccontextmanager
    async def _answered(
        self, request: web.Request, photograph: bytes, options: Options, deadline: Deadline
    ) -> AsyncIterator[Report]:
        """Answer a photograph, and hold its place until the reply is made."""
        async with AsyncExitStack() as held:
            with self._failures_counted(options):
                tried = self._tried(request, photograph, options, deadline)
                report = await held.enter_async_context(tried)
            yield report

    @asynccontextmanager
    async def _tried(
        self, request: web.Request, photograph: bytes, options: Options, deadline: Deadline
    ) -> AsyncIterator[Report]:
        """Do the same for a photograph that may be tried again: a failure is none yet."""
        client, flexible = client_of(request), options.degrade == "allow"
        async with AsyncExitStack() as held:
            with stage("wait") as wait:
                place = self.admission.place(client, deadline, flexible)
                await held.enter_async_context(place)
            report = await self.pipeline.classify(photograph, options, deadline, wait.ms)
            request[MODEL_VERSION] = report.model_version
            self.admission.answered(report.service_seconds)
            self._count(report)
            yield report

    async def _one_of_a_series(
        self, request: web.Request, photograph: bytes, options: Options, deadline: Deadline
    ) -> Report:
        async with self._tried(request, photograph, options, deadline) as report:
            return report

    def _deadline(self, options: Options) -> Deadline:
        return Deadline.after(min(options.timeout or self.deadline, self.deadline), self.clock)

    @contextmanager
    def _failures_counted(self, options: Options) -> Iterator[None]:
        """Count a photograph that fails by our fault, not by its own or its sender's haste."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, RequestError) or self._hasty(options, error)):
                self.metrics.photographs.labels(FAILED).inc()
            raise

    def _hasty(self, options: Options, error: Exception) -> bool:
        """Tell whether it failed for want of the time that the client did not leave."""
        short = isinstance(error, ServiceError) and error.short_of_time
        return short and (options.timeout or self.deadline) < self.deadline

    def _count(self, report: Report) -> None:
        metrics, version = self.metrics, str(report.model_version)
        metrics.photographs.labels(WITHIN if report.within(self.target_ms) else LATE).inc()
        for name in STAGES:
            metrics.stage_seconds.labels(name).observe(report.timing_ms[name] / 1000)
        if not report.doubts:
            metrics.predictions.labels(report.prediction, version).inc()
            metrics.confidence.labels(report.prediction, version).observe(report.confidence)
        for doubt in report.doubts:
            metrics.abstentions.labels(doubt.reason).inc()
        if report.degraded:
            metrics.degraded.inc()


def _offered(request: web.Request, options: Options, photographs: int) -> tuple[str, ...]:
    """In which media types /v1/classify can answer; only one photograph has one overlay.

    An overlay that may be left out is no reply by itself.
    """
    sure = options.heatmap == "overlay" and options.degrade == "never"
    overlay = photographs == 1 and sure
    return (JSON, *(_pictures(request, options) if overlay else ()))


def _pictures(request: web.Request, options: Options) -> tuple[str, ...]:
    return (f"image/{options.format}",) if "format" in request.query else wire.PICTURES


async def _file(request: web.Request, name: str) -> web.Response:
    if name not in PAGE_FILES:
        raise NotFound("There is no such file. The pages are at / and /docs.")
    folder = COLOR_TABLES.parent.name if name == COLOR_TABLES.name else "page"
    body = files("gateway").joinpath(folder, name).read_bytes()
    return await reply(request, body, PAGE_FILES[name], _PAGE_HEADERS)


def _abstained(report: Report) -> dict[str, str]:
    """An overlay has no place for a doubt but a header."""
    return {"X-Abstain": ", ".join(d.reason for d in report.doubts)} if report.doubts else {}
