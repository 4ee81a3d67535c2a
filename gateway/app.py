"""The application: the only place where its parts are put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc
from aiohttp import web

from gateway import admission, body, cors
from gateway.access import gate
from gateway.admission import Admission
from gateway.allowance import Allowance, Shares
from gateway.annotation import Reference, load_reference
from gateway.canary import Canary
from gateway.counter import Counter
from gateway.deadline import Clock, Deadline
from gateway.errors import ServiceError, SettingsError
from gateway.handlers import Handlers
from gateway.keys import Keys
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.middleware import ERROR_STATUS, announce, surround
from gateway.model_client import ModelClient, Observe
from gateway.openapi import describe
from gateway.pipeline import Options, Pipeline
from gateway.ranges import load_ranges
from gateway.readiness import Readiness
from gateway.routes import ROUTES
from gateway.series import Patience
from gateway.settings import PREFIX, Settings
from gateway.telemetry import Recorder
from gateway.tls import certificate_ends, channel_credentials
from gateway.tracing import unrecorded
from gateway.upload import SeriesLimits
from gateway.warming import warm

Connect = Callable[[str, Observe, grpc.ChannelCredentials | None, str | None], ModelClient]
Lifespan = Callable[[web.Application], AsyncIterator[None]]

LIFECYCLE = web.AppKey("lifecycle", Lifecycle)

HANDLERS = web.AppKey("handlers", Handlers)
_LABEL_PATIENCE = 1.0  # seconds: a model server that is away keeps no gateway from starting
_RECOUNTS = 2  # reports of megabytes that are parsed at once
_INFORMATION = {
    "title": "HemaVision",
    "version": version("hemavision"),
    "summary": "White blood cells, classified and explained.",
    "description": "A photograph of a stained white blood cell goes in; which of four cell types "
    "it is, how sure the model is, where it looked and what that means in the clinic come out. A "
    "reading aid, not a medical device.\n\nEvery refusal and failure is a `Problem` (RFC 9457), "
    "with a sentence that says what to do. Every reply carries `X-Request-ID`. Where the operator "
    "asks for a key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
}


def create_app(
    settings: Settings,
    connect: Connect = ModelClient,
    recorder: Recorder | None = None,
    clock: Clock = time.monotonic,
) -> web.Application:
    """Build the service.

    Args:
        settings: what to listen to, accept and promise.
        connect: makes a model client from the model servers' address, what observes its calls,
            credentials, and the label of the version to ask.
        recorder: records the requests' spans, and is closed with the application.
        clock: what deadlines and waits are told from, monotonic, in seconds.

    Raises:
        SettingsError: a file that a setting names cannot be used.
    """
    metrics, lifecycle = Metrics(), Lifecycle()
    begin = recorder.begin if recorder else unrecorded
    gates = [gate(Keys(settings.keys_file))] if settings.keys_file else []
    app = web.Application(middlewares=[surround(metrics, begin, lifecycle), *gates])
    app[LIFECYCLE] = lifecycle
    app.on_response_prepare.append(announce)
    if settings.cors_origins:
        app.on_response_prepare.append(cors.allow(settings.cors_origins))
    if recorder:
        app.cleanup_ctx.append(_until_closed(recorder))
    models = partial(_connected, settings, connect, _credentials(settings), metrics)
    for peer, end in certificate_ends(settings.tls_certificate, settings.model_tls_certificate):
        metrics.certificate_end.labels(peer).set(end)
    reference = load_reference(load_ranges(settings.ranges))
    app.cleanup_ctx.append(_lifespan(settings, models, reference, metrics, lifecycle, clock=clock))
    _add_routes(app)
    return app


def _until_closed(recorder: Recorder) -> Lifespan:
    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(recorder.close)

    return lifespan


@dataclass(frozen=True)
class _Models:
    """Whom to ask: the stable version, and the one on trial where there is one."""

    stable: ModelClient
    canary: ModelClient | None

    async def close(self) -> None:
        await self.stable.close()
        if self.canary:
            await self.canary.close()


async def _connected(
    settings: Settings,
    connect: Connect,
    credentials: grpc.ChannelCredentials | None,
    metrics: Metrics,
) -> _Models:
    """Connect to the model servers.

    Raises:
        SettingsError: they answer, and know no version by a label that is set.
    """
    server, canary = settings.model_server, None
    stable = connect(server, metrics.observe_rpc, credentials, settings.model_label)
    if settings.canary_label:
        canary = connect(server, metrics.observe_canary, credentials, settings.canary_label)
    models = _Models(stable, canary)
    try:
        await _check_labels(settings, models)
    except BaseException:
        await models.close()
        raise
    return models


async def _check_labels(settings: Settings, models: _Models) -> None:
    asked = await asyncio.gather(
        _unknown(models.stable, "MODEL_LABEL", settings.model_label),
        _unknown(models.canary, "CANARY_LABEL", settings.canary_label),
    )
    for sentence in filter(None, asked):
        raise SettingsError(sentence)


async def _unknown(model: ModelClient | None, setting: str, label: str | None) -> str | None:
    """Say what is wrong where the model server says that it knows no such label."""
    if model is None or label is None:
        return None
    try:
        await model.available_version(Deadline.after(_LABEL_PATIENCE))
    except ServiceError as error:
        cause = error.__cause__
        if isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.INVALID_ARGUMENT:
            return (
                f"{PREFIX}{setting}={label!r}: the model server has no version by this label "
                f"({', '.join(error.__notes__)}). Give one of the version_labels in its "
                "models.config, such as stable."
            )
    return None  # it is there, or not yet: /readyz will tell


def _lifespan(
    settings: Settings,
    connect: Callable[[], Awaitable[_Models]],
    reference: Reference,
    metrics: Metrics,
    lifecycle: Lifecycle,
    *,
    clock: Clock,
) -> Lifespan:
    async def lifespan(app: web.Application) -> AsyncIterator[None]:
        models = await connect()
        metrics.breaker_open.set_function(lambda: float(models.stable.given_up))
        with ThreadPoolExecutor(settings.workers, "pixels") as workers:
            app[HANDLERS] = _handlers(
                settings, models, workers, reference, metrics, lifecycle=lifecycle, clock=clock
            )
            await warm(workers, settings.workers)
            yield
            await models.close()

    return lifespan


def _handlers(
    settings: Settings,
    models: _Models,
    workers: Executor,
    reference: Reference,
    metrics: Metrics,
    *,
    lifecycle: Lifecycle,
    clock: Clock,
) -> Handlers:
    places = _place_limits(settings)
    decoding = Allowance(settings.max_decoding, settings.max_wait, metrics)
    uploads = Allowance(
        settings.max_upload_memory, settings.max_wait, metrics, settings.client_share
    )
    model, asked = models.stable, _asked(settings, models, metrics)
    return Handlers(
        pipeline=Pipeline(asked, workers, reference, settings.max_pixels, decoding, clock=clock),
        model=model,
        admission=Admission(places, metrics, clock),
        metrics=metrics,
        reference=reference,
        models=settings.models,
        target_ms=settings.target_ms,
        deadline=settings.deadline,
        clock=clock,
        lifecycle=lifecycle,
        readiness=Readiness(model, clock),
        limits=_body_limits(settings),
        uploads=uploads,
        batch_at_once=min(settings.workers, places.in_flight, places.of_one_client),
        openapi=describe_api(),
        counter=_counter(settings, model, uploads, reference, metrics, lifecycle=lifecycle),
    )


def _asked(settings: Settings, models: _Models, metrics: Metrics) -> ModelClient | Canary:
    if models.canary is None:
        return models.stable
    return Canary(
        models.stable,
        models.canary,
        settings.canary_share,
        settings.target_ms / 1000,
        lambda outcome: metrics.canary.labels(outcome).inc(),
    )


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    return channel_credentials(
        settings.model_tls_ca, settings.model_tls_certificate, settings.model_tls_key
    )


def _add_routes(app: web.Application) -> None:
    for operation, handler in ROUTES:
        resource = app.router.add_resource(operation.path)
        resource.add_route(operation.method, _route(handler))
        if operation.method == "GET":
            resource.add_route("HEAD", _route(handler))
        resource.add_route("OPTIONS", _route(Handlers.methods))


def describe_api() -> dict[str, Any]:
    """Describe every route, as OpenAPI 3.1."""
    operations = [operation for operation, _ in ROUTES]
    return describe(operations, ERROR_STATUS, Options(), _INFORMATION)


def _place_limits(settings: Settings) -> admission.Limits:
    return admission.Limits(
        in_flight=settings.max_in_flight,
        waiting=settings.max_waiting,
        wait=settings.max_wait,
        client_share=settings.client_share,
    )


def _body_limits(settings: Settings) -> body.Limits:
    return body.Limits(
        photograph=min(settings.max_bytes, settings.max_upload_memory),
        form=min(max(settings.max_bytes, settings.max_batch_bytes), settings.max_upload_memory),
        parts=settings.max_parts,
    )


def _counter(
    settings: Settings,
    model: ModelClient,
    uploads: Allowance,
    reference: Reference,
    metrics: Metrics,
    *,
    lifecycle: Lifecycle,
) -> Counter:
    places = (settings.max_in_flight + 1) // 2  # the others are for who asks about one cell
    share = settings.client_share * places if settings.client_share < 1 else float("inf")
    return Counter(
        limits=SeriesLimits(
            photograph=settings.max_bytes,
            photographs=settings.max_series,
            bytes=settings.max_series_bytes,
            drawn=settings.max_batch_bytes,
            silence=settings.deadline,
        ),
        patience=Patience(places, min(settings.workers, places), settings.deadline),
        deadline=settings.series_deadline,
        at_once=asyncio.Semaphore(places),
        shares=Shares(share),
        recount_deadline=settings.deadline,
        uploads=uploads,
        recounts=asyncio.Semaphore(_RECOUNTS),
        model=model,
        reference=reference,
        models=settings.models,
        metrics=metrics,
        lifecycle=lifecycle,
    )


def _route(method: Callable[..., Any]) -> Callable[[web.Request], Any]:
    """Bind a handler late: the handlers exist only once the lifespan has begun."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await method(request.app[HANDLERS], request)
        return response

    return handle
