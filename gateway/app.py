"""The application: the only place where its parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import grpc
from aiohttp import web

from gateway import admission, body, cors
from gateway.access import gate
from gateway.admission import Admission
from gateway.allowance import Allowance
from gateway.annotation import load_reference
from gateway.handlers import Handlers
from gateway.keys import Keys
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics
from gateway.middleware import ERROR_STATUS, announce, surround
from gateway.model_client import ModelClient, Observe
from gateway.openapi import describe
from gateway.pipeline import Options, Pipeline
from gateway.routes import ROUTES
from gateway.settings import Settings
from gateway.telemetry import Recorder
from gateway.tls import channel_credentials
from gateway.tracing import unrecorded
from gateway.warming import warm

Connect = Callable[[str, Observe, grpc.ChannelCredentials | None], ModelClient]

LIFECYCLE = web.AppKey("lifecycle", Lifecycle)

HANDLERS = web.AppKey("handlers", Handlers)
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
    settings: Settings, connect: Connect = ModelClient, recorder: Recorder | None = None
) -> web.Application:
    """Build the service.

    Args:
        settings: what to listen to, accept and promise.
        connect: makes the model client from the model servers' address, what observes its calls,
            and credentials.
        recorder: records the requests' spans, and is closed with the application.

    Raises:
        SettingsError: a file that a setting names cannot be used.
    """
    metrics, lifecycle = Metrics(), Lifecycle()
    places, openapi = _place_limits(settings), describe_api()
    begin = recorder.begin if recorder else unrecorded
    gates = [gate(Keys(settings.keys_file))] if settings.keys_file else []
    app = web.Application(middlewares=[surround(metrics, begin, lifecycle), *gates])
    app.on_response_prepare.append(announce)
    app[LIFECYCLE] = lifecycle
    if settings.cors_origins:
        app.on_response_prepare.append(cors.allow(settings.cors_origins))
    credentials = channel_credentials(
        settings.model_tls_ca, settings.model_tls_certificate, settings.model_tls_key
    )

    async def lifespan(app: web.Application) -> AsyncIterator[None]:
        model = connect(settings.model_server, metrics.observe_rpc, credentials)
        metrics.breaker_open.set_function(lambda: float(model.given_up))
        reference = load_reference()
        with ThreadPoolExecutor(settings.workers, "pixels") as workers:
            app[HANDLERS] = Handlers(
                pipeline=Pipeline(
                    model, workers, reference, settings.max_pixels, Allowance(settings.max_decoding)
                ),
                model=model,
                admission=Admission(places, metrics),
                metrics=metrics,
                reference=reference,
                models=settings.models,
                target_ms=settings.target_ms,
                deadline=settings.deadline,
                lifecycle=lifecycle,
                limits=_body_limits(settings),
                batch_at_once=min(settings.workers, places.in_flight, places.of_one_client),
                openapi=openapi,
            )
            await warm(workers, settings.workers)
            yield
            await model.close()
        if recorder:
            await asyncio.to_thread(recorder.close)

    app.cleanup_ctx.append(lifespan)
    for operation, handler in ROUTES:
        resource = app.router.add_resource(operation.path)
        resource.add_route(operation.method, _route(handler))
        if operation.method == "GET":
            resource.add_route("HEAD", _route(handler))
        resource.add_route("OPTIONS", _route(Handlers.methods))
    return app


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
        photograph=settings.max_bytes,
        form=max(settings.max_bytes, settings.max_batch_bytes),
        parts=settings.max_parts,
    )


def _route(method: Callable[..., Any]) -> Callable[[web.Request], Any]:
    """Bind a handler late: the handlers exist only once the lifespan has begun."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await method(request.app[HANDLERS], request)
        return response

    return handle
