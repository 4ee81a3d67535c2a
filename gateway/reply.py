"""Making replies: compressed, kept by caches, or written piece by piece, as a client asks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from aiohttp import ETag, web

from gateway.accept import preferred, takes_gzip
from gateway.errors import NotAcceptable

JSON = "application/json"
NDJSON = "application/x-ndjson"
FHIR = "application/fhir+json"
HTML = "text/html"
NO_STORE = {"Cache-Control": "no-store"}
KEPT = {"Cache-Control": "no-cache"}  # to be kept, and asked about before each use
_WORTH_COMPRESSING = 1024  # bytes; less than this fits one packet anyway


async def json_reply(
    request: web.Request, body: object, headers: Mapping[str, str], *, pictures: bool = False
) -> web.Response:
    """Answer in JSON, on a line of its own for those who read it in a terminal; see ``reply``."""
    encoded = json.dumps(body).encode() + b"\n"
    return await reply(request, encoded, JSON, headers, pictures=pictures)


async def reply(
    request: web.Request,
    body: bytes,
    media: str,
    headers: Mapping[str, str],
    *,
    pictures: bool = False,
) -> web.Response:
    """Answer; with 304 where the client has it, compressed where it takes that.

    ``headers`` holds Cache-Control: under ``no-cache`` the reply gets an ETag. ``pictures`` says
    that most of the body is base64 of compressed pictures.
    """
    response = web.Response(headers={"Vary": "Accept-Encoding", **headers})
    if headers["Cache-Control"] == "no-cache":
        # weak: the same for each encoding
        response.etag = ETag(hashlib.blake2b(body, digest_size=12).hexdigest(), is_weak=True)
        if response.etag.value in {tag.value for tag in request.if_none_match or ()}:
            response.set_status(304)
            return response
    response.content_type, response.charset = media, "utf-8"
    if len(body) > _WORTH_COMPRESSING and takes_gzip(header(request, "Accept-Encoding")):
        response.headers["Content-Encoding"] = "gzip"
        body = await asyncio.to_thread(_gzip, body, pictures=pictures)
    response.body = body
    return response


def listed_reply(
    request: web.Request,
    results: list[bytes],
    before: bytes = b'{"results": [',
    after: bytes = b"]}",
    *,
    pictures: bool = True,
) -> web.Response:
    """Answer in JSON with a list, written one by one: with overlays, each may have megabytes.

    Unless told otherwise the reply is a ``wire.Batch``.
    """
    headers = {"Vary": "Accept-Encoding", **NO_STORE}
    pieces = _pieces(results, before, after)
    if takes_gzip(header(request, "Accept-Encoding")):
        headers["Content-Encoding"] = "gzip"
        pieces = _gzipped(pieces, pictures=pictures)
    return web.Response(body=pieces, content_type=JSON, charset="utf-8", headers=headers)


async def lines_reply(
    request: web.Request, work: Callable[[Callable[[bytes], None]], Awaitable[None]]
) -> web.StreamResponse:
    """Answer with lines of JSON, as ``work`` tells of them; it ends when nobody reads any more.

    They wait in memory: a client may send all it has before it reads the first. What ``work``
    raises before that is raised.
    """
    response = web.StreamResponse(headers=NO_STORE)
    response.content_type = NDJSON
    try:
        await _write_lines(request, response, work)
    except Exception:
        if response.prepared and request.transport is not None:
            request.transport.abort()  # no second reply can follow the beginning of this one
        raise
    return response


async def _write_lines(
    request: web.Request,
    response: web.StreamResponse,
    work: Callable[[Callable[[bytes], None]], Awaitable[None]],
) -> None:
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    working = asyncio.ensure_future(work(lines.put_nowait))
    working.add_done_callback(lambda _: lines.put_nowait(b""))
    try:
        while line := await lines.get():
            if not response.prepared:
                await response.prepare(request)
            await response.write(line + b"\n")
        await working
        await response.write_eof()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def chosen_media(request: web.Request, offered: Sequence[str]) -> str:
    """Choose what the client's Accept likes best.

    Raises:
        NotAcceptable: it takes none of them.
    """
    chosen = preferred(header(request, "Accept"), offered)
    if chosen is None:
        raise NotAcceptable(
            f"What you asked for is answered as {' or '.join(offered)}: name one in `Accept`, or "
            "leave the header out."
        )
    return chosen


async def _pieces(results: list[bytes], before: bytes, after: bytes) -> AsyncIterator[bytes]:
    for index, result in enumerate(results):
        results[index] = b""  # once written, it is let go
        yield before + result
        before = b", "
    yield after + b"\n"


async def _gzipped(pieces: AsyncIterator[bytes], *, pictures: bool) -> AsyncIterator[bytes]:
    compressor = _compressor(pictures=pictures)
    async for piece in pieces:
        if packed := await asyncio.to_thread(compressor.compress, piece):
            yield packed
    yield compressor.flush()


def _gzip(body: bytes, *, pictures: bool) -> bytes:
    compressor = _compressor(pictures=pictures)
    return compressor.compress(body) + compressor.flush()


def _compressor(*, pictures: bool) -> zlib._Compress:
    """Compress; what is mostly base64 of compressed pictures with Huffman's coding alone.

    It repeats nothing that zlib could find: the search costs 17 times as long and saves nothing.
    """
    strategy = zlib.Z_HUFFMAN_ONLY if pictures else zlib.Z_DEFAULT_STRATEGY
    return zlib.compressobj(wbits=31, strategy=strategy)


def header(request: web.Request, name: str) -> str:
    """Join a header's values, as if they had been sent in one line."""
    return ",".join(request.headers.getall(name, []))
