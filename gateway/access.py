"""The gate before the handlers: which routes need a key, and where a request carries it."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.keys import Keys
from gateway.middleware import CLIENT, Handler

OPEN = frozenset(
    {"/", "/page/{name}", "/docs", "/openapi.json", "/v1/reference", "/livez", "/readyz"}
)
"""Routes that need no key: probes, and what is in the repository for everybody to read.

Any other route needs one, a new one too. So does /metrics: it tells how many cells of each
type a laboratory sees, and Prometheus can send a key.
"""


def gate(keys: Keys) -> Middleware:
    """Build the middleware that lets nobody in without a key, before the body is read."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _needs_key(request):
            key = keys.find(_key(request))
            request[CLIENT] = key.name  # the log tells also whose key is used too often
            keys.spend(key)
        return await handler(request)

    return middleware


def _needs_key(request: web.Request) -> bool:
    if request.method == "OPTIONS":  # a browser asks what it may send, and can send no key yet
        return False
    resource = request.match_info.route.resource  # None: there is no such route or method
    return resource is not None and resource.canonical not in OPEN


def _key(request: web.Request) -> str | None:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return request.headers.get("X-API-Key")
