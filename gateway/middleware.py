"""What surrounds every request: its ids, its log line, its metrics, and its errors as HTTP."""

from __future__ import annotations

import json
import logging
import math
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from gateway import errors, tracecontext, tracing, wire
from gateway.lifecycle import Lifecycle
from gateway.logs import FIELDS
from gateway.metrics import Metrics
from gateway.tracecontext import TraceContext
from gateway.tracing import Begin, Trace

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)
CLIENT = web.RequestKey("client", str)
"""The name of the key that a request came with; unset where none was asked for."""
MODEL_VERSION = web.RequestKey("model_version", int)
"""The version that answered; unset where none was asked or none answered."""
HELD = web.RequestKey("held", AsyncExitStack)
"""What a request holds until its reply is made, whatever becomes of it."""
PROBLEM = web.RequestKey("problem", str)
"""The name of the problem that a request ended in; unset where it did not."""
MALFORMED = web.RequestKey("malformed", str)
"""Why a request is no HTTP; unset where it is."""

_TRACE = web.RequestKey("trace", Trace)
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG = logging.getLogger("gateway.access")
HTTP_LOG = logging.getLogger("gateway.http")
"""For aiohttp's own words on what reached no handler."""


class Problem(NamedTuple):
    """How one kind of error meets HTTP: status, stable name, title."""

    status: int
    name: str
    title: str


ERROR_STATUS: dict[type[errors.HemaVisionError], Problem] = {
    errors.MalformedRequest: Problem(400, "malformed-request", "Broken request"),
    errors.NotFound: Problem(404, "not-found", "Not Found"),
    errors.NotAcceptable: Problem(406, "not-acceptable", "There is no reply in that format"),
    errors.InvalidOption: Problem(400, "invalid-option", "An option cannot be used"),
    errors.MissingPhotograph: Problem(400, "missing-photograph", "No photograph"),
    errors.UnsupportedMedia: Problem(415, "unsupported-media", "Unsupported format"),
    errors.UnreadablePhotograph: Problem(422, "unreadable-photograph", "Unreadable photograph"),
    errors.PhotographTooLarge: Problem(413, "photograph-too-large", "Photograph too large"),
    errors.TooManyParts: Problem(413, "too-many-parts", "Too many parts in the form"),
    errors.SeriesTooLarge: Problem(413, "series-too-large", "Too much in one series"),
    errors.UnreadableZip: Problem(422, "unreadable-zip", "Unreadable zip"),
    errors.InvalidCells: Problem(400, "invalid-cells", "What is said of the cells is unusable"),
    errors.NoCells: Problem(422, "no-cells", "No photograph could be read"),
    errors.UploadTooSlow: Problem(408, "upload-too-slow", "Upload too slow"),
    errors.TooManyAtOnce: Problem(429, "too-many-at-once", "Too many photographs at once"),
    errors.KeyRequired: Problem(401, "key-required", "API key required"),
    errors.RateExceeded: Problem(429, "rate-exceeded", "Too many requests with this key"),
    errors.Overloaded: Problem(503, "overloaded", "Too many requests at once"),
    errors.NoRoom: Problem(507, "no-room", "There is no room for the zip"),
    errors.Stopping: Problem(503, "stopping", "Stopping"),
    errors.ModelUnavailable: Problem(503, "model-unavailable", "Model unavailable"),
    errors.ModelMisbehaved: Problem(502, "model-misbehaved", "The model's answer is unusable"),
}
"""Every error that a request can end in; a test holds it against the tree in ``errors``."""

_Told = tuple[Problem, str, dict[str, str]]
"""What a client is told of an error: its kind, a sentence, and headers."""

_GONE: _Told = (  # nobody reads this
    Problem(499, "client-gone", "The client closed the connection"),
    "The connection was closed before the photograph had arrived.",
    {},
)
_FAULT: _Told = (
    Problem(500, "internal-error", "Internal error"),
    "This is a fault of the service. Please report it with the request id.",
    {},
)

# where a handler says nothing else
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TLS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}


def _without_bytes(record: logging.LogRecord) -> bool:
    """Of a request that is no HTTP aiohttp quotes what it met: a key or a name would be logged."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        record.msg, record.args = "refused what is no HTTP: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
    return True


HTTP_LOG.addFilter(_without_bytes)


def surround(metrics: Metrics, begin: Begin, lifecycle: Lifecycle) -> Middleware:
    """Build the middleware that every request passes.

    ``begin`` begins the requests' spans. Once the service is stopping, no connection is kept
    for a next request.
    """
    for problem in (*ERROR_STATUS.values(), _FAULT[0]):  # so that an alert sees the first of each
        metrics.errors.labels(problem.name)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        span = begin(f"{_method(request)} {_route(request)}", _caller(request))
        trace = Trace(_request_id(request), span)
        request[_TRACE], request[REQUEST_ID] = trace, trace.request_id
        status = 499  # unless it is answered: the client has gone
        try:
            with lifecycle.request(), tracing.following(trace):
                response = await _answer(request, handler, metrics)
                if lifecycle.stopping and not response.prepared:
                    response.force_close()
                status = response.status
                _record(request, status, trace.elapsed_ms, metrics)
        finally:
            span.end(_attributes(request, status), str(status) if status >= 500 else None)
        return response

    return middleware


def client_of(request: web.Request) -> str:
    """Whose request it is: the name of its key, or else its address."""
    return request.get(CLIENT) or request.remote or ""


async def announce(request: web.Request, response: web.StreamResponse) -> None:
    """Add the usual headers, ids and times to a reply that is about to be sent, and no version."""
    for name, value in (_HEADERS | (_TLS_ONLY if request.secure else {})).items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "hemavision"  # aiohttp would name its own, to attackers above all
    trace = request.get(_TRACE)
    if trace is None:  # what came was no HTTP, and passed no middleware
        return
    response.headers["X-Request-ID"] = trace.request_id
    # an editor's draft, and what OpenTelemetry sends: https://w3c.github.io/trace-context/
    response.headers["traceresponse"] = trace.span.context.traceparent
    times = trace.stages_ms | {"total": trace.elapsed_ms}
    response.headers["Server-Timing"] = ", ".join(f"{n};dur={ms:.1f}" for n, ms in times.items())


async def _answer(request: web.Request, handler: Handler, metrics: Metrics) -> web.StreamResponse:
    try:
        async with AsyncExitStack() as held:
            request[HELD] = held
            _refuse_malformed(request)
            return await handler(request)
    except Exception as error:  # noqa: BLE001  # each is told to the client
        kind, detail, headers = _told(request, error)
    request[PROBLEM] = kind.name
    body = _counted(kind, detail, request[REQUEST_ID], metrics)
    return web.json_response(
        text=json.dumps(body) + "\n",
        status=kind.status,
        headers=headers,
        content_type="application/problem+json",
    )


def problem_of(error: errors.HemaVisionError, request_id: str, metrics: Metrics) -> wire.Problem:
    """Log, count and describe an error that is one of several answers of a request."""
    return _counted(_kind(error, request_id), str(error), request_id, metrics)


def _counted(kind: Problem, detail: str, request_id: str, metrics: Metrics) -> wire.Problem:
    metrics.errors.labels(kind.name).inc()
    return wire.problem_json(kind.name, kind.title, kind.status, detail, request_id)


def _kind(error: errors.HemaVisionError, request_id: str) -> Problem:
    for note in getattr(error, "__notes__", ()):  # for the operator alone
        _LOG.warning("request %s: %s", request_id, note)
    return ERROR_STATUS[type(error)]


def _told(request: web.Request, error: Exception) -> _Told:
    if isinstance(error, errors.HemaVisionError):
        headers = _retry_after(error) | _challenge(error)
        return _kind(error, request[REQUEST_ID]), str(error), headers
    if isinstance(error, web.HTTPException):
        return _told_by_aiohttp(request, error)
    if isinstance(error, ConnectionResetError):
        return _GONE
    _LOG.error("request %s failed", request[REQUEST_ID], exc_info=error)
    return _FAULT


def _told_by_aiohttp(request: web.Request, error: web.HTTPException) -> _Told:
    """No such route, wrong method, bad request."""
    headers = {"Allow": _allowed(error)} if "Allow" in error.headers else {}
    kind = Problem(error.status, _slug(error.reason), error.reason)
    return kind, _detail(request, error), headers


def _refuse_malformed(request: web.Request) -> None:
    if MALFORMED in request:
        raise errors.MalformedRequest(f"This is no HTTP request ({request[MALFORMED][:200]}).")


def _retry_after(error: errors.HemaVisionError) -> dict[str, str]:
    if error.retry_after is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}  # whole seconds: RFC 9110


def _challenge(error: errors.HemaVisionError) -> dict[str, str]:
    if not isinstance(error, errors.KeyRequired):
        return {}
    return {"WWW-Authenticate": 'Bearer realm="hemavision"'}


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-ID", "")
    return given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex


def _slug(reason: str) -> str:
    return reason.lower().replace(" ", "-")


def _detail(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return f"There is nothing at {request.path[:80]}. See /docs for the routes."
    if error.status == 405:
        return f"{request.path[:80]} takes {_allowed(error) or 'other methods'}."
    return error.text or error.reason


def _allowed(error: web.HTTPException) -> str:
    return ", ".join(error.headers.get("Allow", "").split(","))


def _caller(request: web.Request) -> TraceContext | None:
    headers = request.headers
    return tracecontext.parse(headers.getall("traceparent", ()), headers.getall("tracestate", ()))


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "unknown"  # never the path: anyone can invent paths


def _method(request: web.Request) -> str:
    return request.method if request.method in hdrs.METH_ALL else "other"  # invented as easily


def _attributes(request: web.Request, status: int) -> dict[str, str | int]:
    """Name what is known of the request as OpenTelemetry's semantic conventions do."""
    return {
        "http.request.method": _method(request),
        "http.route": _route(request),
        "http.response.status_code": status,
        "hemavision.request_id": request[REQUEST_ID],
    }


def _record(request: web.Request, status: int, milliseconds: float, metrics: Metrics) -> None:
    route, method = _route(request), _method(request)
    metrics.requests.labels(route, method, status).inc()
    metrics.request_seconds.labels(route).observe(milliseconds / 1000)
    line = {
        "client": request.get(CLIENT),
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(milliseconds, 2),
        "bytes_in": request.content.total_raw_bytes if request.body_exists else 0,
        "problem": request.get(PROBLEM),
        "model_version": request.get(MODEL_VERSION),
    }
    known = {name: value for name, value in line.items() if value is not None}
    level = logging.DEBUG if route in _PROBES else logging.INFO
    _LOG.log(level, "%s %s %d", method, route, status, extra={FIELDS: known})
