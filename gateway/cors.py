"""Which web pages of other origins may read the replies (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

_EXPOSED = "X-Request-ID, Server-Timing, X-Abstain, Retry-After, traceresponse"
_ALLOWED = "Authorization, X-API-Key, Content-Type, X-Request-ID, traceparent, tracestate"
_REMEMBERED = "600"  # seconds in which a browser need not ask again

Signal = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def allow(origins: frozenset[str]) -> Signal:
    """Build the ``on_response_prepare`` signal that tells browsers; errors are told as well."""

    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin not in origins:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
            response.headers["Access-Control-Allow-Headers"] = _ALLOWED
            response.headers["Access-Control-Max-Age"] = _REMEMBERED

    return tell
