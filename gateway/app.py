"""The application: the only place where its parts are put together, and its route table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from gateway.admission import Admission
from gateway.annotation import load_reference
from gateway.handlers import Handlers
from gateway.metrics import Metrics
from gateway.middleware import surround
from gateway.model_client import ModelClient
from gateway.pipeline import Pipeline
from gateway.settings import Settings

HANDLERS = web.AppKey("handlers", Handlers)


def create_app(
    settings: Settings, connect: Callable[[str, float], ModelClient] = ModelClient
) -> web.Application:
    """Build the service.

    Args:
        settings: what to listen to, accept and promise.
        connect: makes the model client from host:port and a timeout in seconds.
    """
    metrics = Metrics()
    app = web.Application(middlewares=[surround(metrics)])

    async def lifespan(app: web.Application) -> AsyncIterator[None]:
        model = connect(settings.model_server, settings.model_timeout)
        reference = load_reference()
        with ThreadPoolExecutor(settings.workers, "pixels") as workers:
            app[HANDLERS] = Handlers(
                pipeline=Pipeline(model, workers, reference, settings.max_pixels),
                model=model,
                admission=Admission(settings.max_in_flight, settings.max_wait, metrics.in_flight),
                metrics=metrics,
                reference=reference,
                models=settings.models,
                target_ms=settings.target_ms,
                max_bytes=settings.max_bytes,
            )
            yield
            await model.close()

    app.cleanup_ctx.append(lifespan)
    app.add_routes(
        [
            web.post("/v1/classify", _route(Handlers.classify)),
            web.post("/v1/heatmap", _route(Handlers.heatmap)),
            web.post("/predict", _route(Handlers.predict)),
            web.get("/v1/model", _route(Handlers.model_information)),
            web.get("/v1/reference", _route(Handlers.clinical_reference)),
            web.get("/livez", _route(Handlers.livez)),
            web.get("/readyz", _route(Handlers.readyz)),
            web.get("/metrics", _route(Handlers.exposition)),
            web.get("/", _route(Handlers.page)),
            web.get("/page/{name}", _route(Handlers.page)),
        ]
    )
    return app


def _route(method: Callable[..., Any]) -> Callable[[web.Request], Any]:
    """Bind a handler late: the handlers exist only once the lifespan has begun."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await method(request.app[HANDLERS], request)
        return response

    return handle
