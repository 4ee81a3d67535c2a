"""What surrounds every request: its ids, its log line, its metrics, and its errors as HTTP."""

from __future__ import annotations

import logging
import math
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import hdrs, web, web_response
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
MALFORMED = web.RequestKey("malformed", str)
"""Why a request is no HTTP; unset where it is."""

_TRACE = web.RequestKey("trace", Trace)
_PROBLEM = web.RequestKey("problem", str)
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
    errors.MalformedRequest: Problem(400, "malformed-request", "The request is broken"),
    errors.NotFound: Problem(404, "not-found", "Not Found"),
    errors.NotAcceptable: Problem(406, "not-acceptable", "There is no reply in that format"),
    errors.InvalidOption: Problem(400, "invalid-option", "An option cannot be used"),
    errors.MissingPhotograph: Problem(400, "missing-photograph", "There is no photograph"),
    errors.UnsupportedMedia: Problem(415, "unsupported-media", "This is not a picture we read"),
    errors.UnreadablePhotograph: Problem(422, "unreadable-photograph", "Unreadable photograph"),
    errors.PhotographTooLarge: Problem(413, "photograph-too-large", "Photograph too large"),
    errors.TooManyParts: Problem(413, "too-many-parts", "Too many parts in the form"),
    errors.UploadTooSlow: Problem(408, "upload-too-slow", "The body did not arrive in time"),
    errors.TooManyAtOnce: Problem(429, "too-many-at-once", "Too many photographs of one client"),
    errors.KeyRequired: Problem(401, "key-required", "A key is needed"),
    errors.RateExceeded: Problem(429, "rate-exceeded", "Too many requests with this key"),
    errors.Overloaded: Problem(503, "overloaded", "Too many requests at once"),
    errors.Stopping: Problem(503, "stopping", "This process is about to end"),
    errors.ModelUnavailable: Problem(503, "model-unavailable", "The model is not available"),
    errors.ModelMisbehaved: Problem(502, "model-misbehaved", "The model's answer is unusable"),
}
"""Every error that a request can end in; a test holds it against the tree in ``errors``."""

# aiohttp names its version, to attackers above all, and asks no middleware where the request is
# no HTTP
web_response.SERVER_SOFTWARE = "hemavision"  # type: ignore[attr-defined]  # no other way is public
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

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        span = begin(f"{_method(request)} {_route(request)}", _caller(request))
        trace = Trace(_request_id(request), span)
        request[_TRACE], request[REQUEST_ID] = trace, trace.request_id
        status = 499  # unless it is answered: the client has gone
        try:
            with lifecycle.request(), tracing.following(trace):
                response = await _answer(request, handler, metrics)
                for name, value in (_HEADERS | (_TLS_ONLY if request.secure else {})).items():
                    response.headers.setdefault(name, value)
                if lifecycle.stopping:
                    response.force_close()
                status = response.status
                _record(request, status, trace.elapsed_ms, metrics)
        finally:
            span.end(_attributes(request, status), str(status) if status >= 500 else None)
        return response

    return middleware


async def announce(request: web.Request, response: web.StreamResponse) -> None:
    """Add the request's ids and times to a reply that is about to be sent."""
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
        _refuse_malformed(request)
        return await handler(request)
    except errors.HemaVisionError as error:
        problem, detail = ERROR_STATUS[type(error)], str(error)
        for note in getattr(error, "__notes__", ()):
            _LOG.warning("request %s: %s", request[REQUEST_ID], note)
        headers = _retry_after(error) | _challenge(error)
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
    request[_PROBLEM] = problem.name
    metrics.errors.labels(problem.name).inc()
    body = wire.problem_json(
        problem.name, problem.title, problem.status, detail, request[REQUEST_ID]
    )
    return web.json_response(
        body, status=problem.status, headers=headers, content_type="application/problem+json"
    )


def _refuse_malformed(request: web.Request) -> None:
    if MALFORMED in request:
        raise errors.MalformedRequest(f"This is no HTTP request ({request[MALFORMED][:200]}).")


def problem_of(
    error: errors.RequestError | errors.ServiceError, request_id: str, metrics: Metrics
) -> wire.Problem:
    """Count an error that is one of several answers of a request, and describe it."""
    kind = ERROR_STATUS[type(error)]
    metrics.errors.labels(kind.name).inc()
    return wire.problem_json(kind.name, kind.title, kind.status, str(error), request_id)


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
        return f"{request.path[:80]} takes {error.headers.get('Allow', 'other methods')}."
    return error.text or error.reason


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
        "problem": request.get(_PROBLEM),
        "model_version": request.get(MODEL_VERSION),
    }
    known = {name: value for name, value in line.items() if value is not None}
    level = logging.DEBUG if route in _PROBES else logging.INFO
    _LOG.log(level, "%s %s %d", method, route, status, extra={FIELDS: known})
