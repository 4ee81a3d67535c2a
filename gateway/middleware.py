"""What surrounds every request: its id, its log line, its metrics, and its errors as HTTP."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway import errors, wire
from gateway.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG = logging.getLogger("gateway.access")


class Problem(NamedTuple):
    """How one kind of error meets HTTP: status, stable name, title."""

    status: int
    name: str
    title: str


ERROR_STATUS: dict[type[errors.HemaVisionError], Problem] = {
    errors.InvalidOption: Problem(400, "invalid-option", "An option cannot be used"),
    errors.MissingPhotograph: Problem(400, "missing-photograph", "There is no photograph"),
    errors.UnsupportedMedia: Problem(415, "unsupported-media", "This is not a picture we read"),
    errors.UnreadablePhotograph: Problem(422, "unreadable-photograph", "Unreadable photograph"),
    errors.PhotographTooLarge: Problem(413, "photograph-too-large", "Photograph too large"),
    errors.Overloaded: Problem(503, "overloaded", "Too many requests at once"),
    errors.ModelUnavailable: Problem(503, "model-unavailable", "The model is not available"),
    errors.ModelMisbehaved: Problem(502, "model-misbehaved", "The model's answer is unusable"),
}
"""Every error that a request can end in; a test holds it against the tree in ``errors``."""

_RETRY_AFTER = {503: {"Retry-After": "1"}}


def surround(metrics: Metrics) -> Middleware:
    """Build the middleware that every request passes."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request[REQUEST_ID] = _request_id(request)
        response = await _answer(request, handler, metrics)
        response.headers["X-Request-ID"] = request[REQUEST_ID]
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        _record(request, response, time.perf_counter() - started, metrics)
        return response

    return middleware


async def _answer(request: web.Request, handler: Handler, metrics: Metrics) -> web.StreamResponse:
    try:
        return await handler(request)
    except errors.HemaVisionError as error:
        problem, detail = ERROR_STATUS[type(error)], str(error)
        for note in getattr(error, "__notes__", ()):
            _LOG.warning("request %s: %s", request[REQUEST_ID], note)
        headers = _RETRY_AFTER.get(problem.status, {})
    except web.HTTPException as error:  # aiohttp's own: no such route, wrong method, bad request
        problem = Problem(error.status, _slug(error.reason), error.reason)
        detail = _detail(request, error)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    except ConnectionResetError:  # the client went away; nobody reads this
        problem = Problem(499, "client-gone", "The client closed the connection")
        detail, headers = "The connection was closed before the photograph had arrived.", {}
    except Exception:  # noqa: BLE001  # logged, and told to the client as ours
        _LOG.exception("request %s failed", request[REQUEST_ID])
        problem = Problem(500, "internal-error", "Internal error")
        detail = "This is a fault of the service. Please report it with the request id."
        headers = {}
    metrics.errors.labels(problem.name).inc()
    body = wire.problem_json(
        problem.name, problem.title, problem.status, detail, request[REQUEST_ID]
    )
    return web.json_response(
        body, status=problem.status, headers=headers, content_type="application/problem+json"
    )


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-ID", "")
    return given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex


def _slug(reason: str) -> str:
    return reason.lower().replace(" ", "-")


def _detail(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return f"There is nothing at {request.path}. See GET / and the README for the routes."
    if error.status == 405:
        return f"{request.path} takes {error.headers.get('Allow', 'other methods')}."
    return error.text or error.reason


def _record(
    request: web.Request, response: web.StreamResponse, seconds: float, metrics: Metrics
) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "unknown"  # never the path: anyone can invent paths
    metrics.requests.labels(route, request.method, response.status).inc()
    metrics.request_seconds.labels(route).observe(seconds)
    line = {
        "request_id": request[REQUEST_ID],
        "method": request.method,
        "route": route,
        "status": response.status,
        "duration_ms": round(seconds * 1000, 2),
    }
    _LOG.info(json.dumps(line))
