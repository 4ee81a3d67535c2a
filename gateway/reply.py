"""Making replies: compressed, kept by caches, or written piece by piece, as a client asks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Mapping

from aiohttp import ETag, web

from gateway.accept import takes_gzip

JSON = "application/json"
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


def listed_reply(request: web.Request, results: list[bytes]) -> web.Response:
    """Answer with a ``wire.Batch``, written one by one: with overlays, each may have megabytes."""
    headers = {"Vary": "Accept-Encoding", **NO_STORE}
    pieces = _pieces(results)
    if takes_gzip(header(request, "Accept-Encoding")):
        headers["Content-Encoding"] = "gzip"
        pieces = _gzipped(pieces)
    return web.Response(body=pieces, content_type=JSON, charset="utf-8", headers=headers)


async def _pieces(results: list[bytes]) -> AsyncIterator[bytes]:
    before = b'{"results": ['
    for index, result in enumerate(results):
        results[index] = b""  # once written, it is let go
        yield before + result
        before = b", "
    yield b"]}\n"


async def _gzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = _compressor(pictures=True)
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
