"""``POST /v1/differential`` over HTTP: a series or an earlier report in, its count out."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway import contract, wire, wire_series
from gateway.allowance import Allowance, Shares
from gateway.annotation import Reference
from gateway.body import told_bytes
from gateway.card import read_card
from gateway.confusion import LARGEST, NONE, confusion_of
from gateway.deadline import Deadline
from gateway.differential import ADULTS_ASSUMED, Made, count
from gateway.documents import DOCUMENTS, Count
from gateway.errors import (
    HemaVisionError,
    Overloaded,
    SeriesTooLarge,
    ServiceError,
    Stopping,
    TooManyAtOnce,
)
from gateway.lifecycle import Lifecycle
from gateway.metrics import FAILED, Metrics
from gateway.middleware import HELD, PROBLEM, REQUEST_ID, client_of, problem_of
from gateway.model_client import ModelClient
from gateway.pipeline import Options, Report
from gateway.query import SeriesOptions, read_series_options
from gateway.ranges import Band
from gateway.recount import most_bytes, read_recount
from gateway.reply import (
    JSON,
    NDJSON,
    NO_STORE,
    chosen_media,
    lines_reply,
    listed_reply,
    reply,
)
from gateway.series import Answered, Patience, Series
from gateway.smear import Answer, Photograph, Smear
from gateway.tracing import stage
from gateway.upload import SeriesLimits, Upload, read_report

_BUSY = 5.0  # seconds, after which another series may have ended

Classify = Callable[[web.Request, bytes, Options, Deadline], Awaitable[Report]]
"""Has a photograph of a request classified."""


@dataclass(frozen=True)
class Counter:
    """Counts series; ``app`` makes one, and the handlers lend it their way to classify.

    A series has ``deadline`` seconds and one of the places ``at_once``, of which a client has its
    ``shares``. A report that comes back has ``recount_deadline``, memory of ``uploads``, and a
    turn of ``recounts``.
    """

    limits: SeriesLimits
    patience: Patience
    deadline: float
    at_once: asyncio.Semaphore
    shares: Shares
    recount_deadline: float
    uploads: Allowance
    recounts: asyncio.Semaphore
    model: ModelClient
    reference: Reference
    models: Path | None
    metrics: Metrics
    lifecycle: Lifecycle

    async def answer(self, request: web.Request, classify: Classify) -> web.StreamResponse:
        """Answer one request."""
        options = read_series_options(request.query.items())
        media = chosen_media(request, (JSON, NDJSON, *DOCUMENTS))
        if request.content_type == JSON:
            return await self._recounted(request, options, media)
        deadline = Deadline.after(self.deadline)
        await self._check_correction(options, deadline)
        async with self._turn(client_of(request)):
            order = _Order(self, request, options, deadline, classify)
            if media == NDJSON:
                with _reader_awaited(request, self.deadline):
                    return await lines_reply(request, order.lines)
            return await self._reply(request, await order.count(_unheard), media)

    async def _recounted(
        self, request: web.Request, options: SeriesOptions, media: str
    ) -> web.Response:
        deadline = Deadline.after(self.recount_deadline)
        body = await self._read_report(request, deadline)
        async with self._recounting(deadline):
            smear, version = await asyncio.to_thread(read_recount, body, self.limits.photographs)
        if version is None:
            version = await self.model.available_version(deadline)
        async with self._recounting(deadline):
            counted = await self.count(smear, version, request[REQUEST_ID], options, recounted=True)
        return await self._reply(request, counted, media)

    async def _read_report(self, request: web.Request, deadline: Deadline) -> bytes:
        most = min(most_bytes(self.limits.photographs), self.uploads.total)
        with stage("read"):
            room = self.uploads.of(told_bytes(request, most), deadline, client_of(request))
            await request[HELD].enter_async_context(room)
            return await read_report(request, most, deadline)

    async def count(
        self,
        smear: Smear,
        version: int,
        request_id: str,
        options: SeriesOptions,
        *,
        recounted: bool,
    ) -> Count:
        """Count what was found, or what came back.

        Raises:
            NoCells: not one photograph could be read.
        """
        cells = smear.cells()  # before the card: where nothing was read, no model answered
        card = await asyncio.to_thread(read_card, self.models, version)
        confusion = confusion_of(card, options.correction)
        band = self.reference.ranges.band(options.age, options.sex)
        leukocytes = self.reference.within(band)
        counted = await asyncio.to_thread(count, cells, leukocytes, confusion)
        assumed = (ADULTS_ASSUMED,) if options.age is None else ()
        warnings = (*counted.warnings, *assumed, *smear.warnings())
        return Count(
            smear,
            replace(counted, warnings=warnings),
            self._made(smear, version, _weights(card), band, request_id, recounted=recounted),
            band,
        )

    def _made(
        self,
        smear: Smear,
        version: int,
        weights: str | None,
        band: Band | None,
        request_id: str,
        *,
        recounted: bool,
    ) -> Made:
        ranges = self.reference.ranges
        whose = band.title if band else "none for this age"
        return Made(
            model_name=contract.MODEL_NAME,
            model_version=version,
            weights_sha256=weights,
            request_id=request_id,
            issued=datetime.now(UTC),
            ranges=f"{ranges.source}, version {ranges.version}, {whose}",
            duplicates=smear.of("duplicate"),
            failed=smear.of("failed"),
            recounted=recounted,
        )

    async def _check_correction(self, options: SeriesOptions, deadline: Deadline) -> None:
        """Refuse a correction that there is not before the work, and not after it."""
        if options.correction not in (LARGEST, NONE):
            version = await self.model.available_version(deadline)
            card = await asyncio.to_thread(read_card, self.models, version)
            confusion_of(card, options.correction)

    async def _reply(self, request: web.Request, counted: Count, media: str) -> web.Response:
        if media == JSON:
            before, photographs, after = await asyncio.to_thread(self._pieces, counted)
            drawn = any(p.answer and p.answer.overlay for p in counted.smear.photographs)
            return listed_reply(request, photographs, before, after, pictures=drawn)
        if media == NDJSON:
            return await reply(request, self.report_line(counted) + b"\n", media, NO_STORE)
        document = DOCUMENTS[media]
        body = await asyncio.to_thread(document.render, counted)
        return await reply(request, body, media, {**NO_STORE, **document.headers})

    def _pieces(self, counted: Count) -> tuple[bytes, list[bytes], bytes]:
        """Write a report in pieces: with overlays it may have megabytes."""
        photographs = counted.smear.photographs
        entries = [json.dumps(wire_series.photograph_json(p)).encode() for p in photographs]
        report = {**self._report(counted), "photographs": None}
        before, after = json.dumps(report).encode().split(b'"photographs": null', 1)
        return before + b'"photographs": [', entries, b"]" + after

    def report_line(self, counted: Count) -> bytes:
        """Write the last line; the overlays were in those before."""
        line: wire_series.ReportLine = {"kind": "report", **self._report(counted)}
        return json.dumps(line).encode()

    def _report(self, counted: Count) -> wire_series.DifferentialReport:
        return wire_series.report_json(
            counted.smear,
            counted.differential,
            counted.made,
            wire_series.ranges_json(self.reference.ranges, counted.band),
        )

    @asynccontextmanager
    async def _turn(self, client: str) -> AsyncIterator[None]:
        """Let in a few series at a time; each has photographs in memory, and a zip on the disk.

        Raises:
            TooManyAtOnce: the client holds its share already.
            Overloaded: there are as many as may be.
        """
        if not self.shares.allow(client, 1):
            self.metrics.refusals.labels("client").inc()
            raise TooManyAtOnce(
                "As many series of yours are counted here as one client may have at once. Wait "
                "for an answer before you send another.",
                _BUSY,
            )
        if self.at_once.locked():
            raise Overloaded(
                "As many series are counted as may be at once. Try again in a moment.", _BUSY
            )
        with self.shares.holding(client, 1):
            async with self.at_once:
                yield

    @asynccontextmanager
    async def _recounting(self, deadline: Deadline) -> AsyncIterator[None]:
        """Work out a few reports at a time: parsed, one takes many times its bytes.

        Raises:
            Overloaded: no turn came in time.
        """
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self.recounts.acquire()
        except TimeoutError as error:
            raise Overloaded("Too many reports came back at once. Try again soon.") from error
        try:
            yield
        finally:
            self.recounts.release()


@dataclass(frozen=True)
class _Order:
    """One request for a series to be counted."""

    counter: Counter
    request: web.Request
    options: SeriesOptions
    deadline: Deadline
    classify: Classify

    async def lines(self, tell: Callable[[bytes], None]) -> None:
        """Tell of each photograph as it comes, and then of the count, or why there is none."""
        begun = False

        def told(photograph: Photograph) -> None:
            nonlocal begun
            begun = True
            line: wire_series.PhotographLine = {
                "kind": "photograph",
                **wire_series.photograph_json(photograph),
            }
            tell(json.dumps(line).encode())

        try:
            counted = await self.count(told)
            tell(await asyncio.to_thread(self.counter.report_line, counted))
        except HemaVisionError as error:
            if not begun:
                raise
            tell(json.dumps(self._problem_line(error)).encode())

    async def count(self, told: Callable[[Photograph], None]) -> Count:
        """Classify what is sent, and count it.

        Raises:
            HemaVisionError: there is no count.
        """
        upload = Upload(self.request, self.counter.limits, self.deadline)
        drawn = _Drawn(told, self.counter.limits.drawn)
        series = Series(
            self.counter.patience, self._ask, self._describe, self._go_on, self.deadline
        )
        try:
            smear = await series.classify(upload.photographs(), drawn.told)
        except Stopping:
            raise  # no photograph failed: another gateway will answer
        except ServiceError:
            self.counter.metrics.photographs.labels(FAILED).inc()
            raise
        self.counter.metrics.series.observe(len(smear.photographs))
        return await self.counter.count(
            smear.read_by(upload.words),
            max(smear.model_versions, default=0),
            self.request[REQUEST_ID],
            self.options,
            recounted=False,
        )

    async def _ask(self, photograph: bytes, deadline: Deadline) -> Answered:
        wanted = Options(heatmap=self.options.heatmap, format="jpeg")
        report = await self.classify(self.request, photograph, wanted, deadline)
        overlay = None
        if report.heatmap is not None:
            overlay = await asyncio.to_thread(wire.heatmap_json, report.heatmap, wanted)
        answer = Answer(
            report.prediction,
            report.confidence,
            report.probabilities,
            report.doubts,
            report.fingerprint,
            overlay,
        )
        return Answered(answer, report.model_version)

    def _describe(self, error: HemaVisionError) -> wire.Problem:
        return problem_of(error, self.request[REQUEST_ID], self.counter.metrics)

    def _problem_line(self, error: HemaVisionError) -> wire_series.ProblemLine:
        problem = self._describe(error)
        self.request[PROBLEM] = problem["type"].rpartition(":")[2]
        return {"kind": "problem", **problem}

    def _go_on(self) -> None:
        """Raise where there is no use in going on."""
        if self.request.transport is None or self.request.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if self.counter.lifecycle.stopping:
            raise Stopping("This gateway is about to end. Send the series again, to another.")


class _Drawn:
    """Adds up the overlays of a series."""

    def __init__(self, told: Callable[[Photograph], None], most: int) -> None:
        self._told, self._most, self._bytes = told, most, 0

    def told(self, photograph: Photograph) -> None:
        """Tell of a photograph.

        Raises:
            SeriesTooLarge: the overlays so far take too much memory.
        """
        overlay = photograph.answer and photograph.answer.overlay
        self._bytes += len(overlay["data"]) if overlay else 0
        if self._bytes > self._most:
            raise SeriesTooLarge(
                f"The overlays of this series have more than {self._most:,} bytes. Send fewer "
                "photographs at once, or ask without `heatmap=overlay`."
            )
        self._told(photograph)


def _weights(card: Mapping[str, Any] | None) -> str | None:
    weights = (card or {}).get("weights")
    found = weights.get("sha256") if isinstance(weights, dict) else None
    return found if isinstance(found, str) else None


@contextmanager
def _reader_awaited(request: web.Request, seconds: float) -> Iterator[None]:
    """Keep the connection while a client sends all it has before it reads the first line."""
    if request.transport is None or not hasattr(socket, "TCP_USER_TIMEOUT"):  # not on Linux
        yield
        return
    connection = request.transport.get_extra_info("socket")
    option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
    usual = connection.getsockopt(*option)
    connection.setsockopt(*option, int(1000 * seconds))
    try:
        yield
    finally:  # another request may follow
        with suppress(OSError):  # the client has gone
            connection.setsockopt(*option, usual)


def _unheard(_: Photograph) -> None:
    """Nobody listens before the end."""
