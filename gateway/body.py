"""Reading what clients send: one photograph or several, capped in bytes, parts and seconds."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
    StreamReader,
    web,
)
from aiohttp.http_exceptions import HttpProcessingError

from gateway.deadline import Deadline
from gateway.errors import (
    MalformedRequest,
    MissingPhotograph,
    PhotographTooLarge,
    TooManyParts,
    UnsupportedMedia,
    UploadTooSlow,
)

FIELD = "file"
"""Name of the multipart part that holds a photograph."""

FORM = "multipart/form-data"

# aiohttp warns of a bad name and keeps each warning for good; the client is told by its answer
for _category in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.filterwarnings("ignore", category=_category)

_CODINGS = ("identity", "gzip", "deflate")
_HEADS = 64 * 1024  # a form's heads and borders; and what the stream holds that nobody read yet
# what aiohttp's readers make of a broken form, or of a body that is not encoded as it says
_BROKEN = (ValueError, HttpProcessingError, web.RequestPayloadError)


@dataclass(frozen=True)
class Limits:
    """The most that is read: bytes of one photograph and of a form, and its parts."""

    photograph: int
    form: int
    parts: int


def most_bytes(request: web.Request, limits: Limits) -> int:
    """How many bytes the photographs of a request can have: as many as it says, where it says."""
    return told_bytes(request, limits.form if request.content_type == FORM else limits.photograph)


def told_bytes(request: web.Request, most: int) -> int:
    """How many bytes a body can have, of ``most``: as many as it says, where it says."""
    packed = request.headers.get("Content-Encoding", "identity").lower() != "identity"
    if packed or request.content_length is None:
        return most if request.body_exists else 0
    return min(most, request.content_length)


async def read_photographs(
    request: web.Request, limits: Limits, deadline: Deadline, *, only_one: bool = False
) -> list[bytes]:
    """Read the photographs from a raw body or a form's parts named ``file``, in their order.

    Raises:
        RequestError: what the client should change.
    """
    try:
        async with asyncio.timeout(deadline.remaining()):
            return await _read(request, limits, only_one)
    except TimeoutError as error:
        raise UploadTooSlow(
            "The body had not arrived when the request's time was over. Send less at once, or give "
            "it more time."
        ) from error
    except _BROKEN as error:
        raise broken(error) from error


async def _read(request: web.Request, limits: Limits, only_one: bool) -> list[bytes]:
    check_coding(request)
    kind = request.content_type
    if kind == FORM:
        return await _read_form(request, limits, only_one)
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise UnsupportedMedia(
            f"The body is {_clean(kind)}. Send the photograph itself with a Content-Type such as "
            f"image/jpeg, or a multipart form with it as `{FIELD}`."
        )
    if (request.content_length or 0) > limits.photograph:
        raise too_large(limits.photograph)
    return [await _read_capped(request.content.readany, limits)]


async def _read_form(request: web.Request, limits: Limits, only_one: bool) -> list[bytes]:
    content = _Counted(request.content, limits)
    if (request.content_length or 0) > content.most:
        raise content.too_much()
    photographs: list[bytes] = []
    others: list[str] = []
    async for part in _parts(MultipartReader(request.headers, cast("StreamReader", content))):
        if not isinstance(part, BodyPartReader):
            raise MalformedRequest("A form inside the form cannot be read: send one form.")
        if len(photographs) + len(others) == limits.parts:
            raise TooManyParts(f"A form may have at most {limits.parts} parts: send fewer at once.")
        if part.name == FIELD and photographs and only_one:
            raise TooManyParts(f"This route takes one photograph: send one part named `{FIELD}`.")
        data = await _read_capped(part.read_chunk, limits)
        if part.name == FIELD:
            photographs.append(data)
        else:
            others.append(_clean(str(part.name)))
    if not photographs:
        raise _none_among(others)
    return photographs


async def _parts(form: MultipartReader) -> AsyncIterator[MultipartReader | BodyPartReader]:
    while part := await _next(form):
        yield part


async def _next(form: MultipartReader) -> MultipartReader | BodyPartReader | None:
    try:
        return await form.next()
    except RuntimeError as error:  # aiohttp's, where a part `_charset_` names none
        raise broken(error) from error


class _Counted:
    """A stream that ends in a refusal past a form's most bytes, whatever they are.

    aiohttp reads what is before, between and after the parts by itself, without a limit.
    """

    def __init__(self, content: StreamReader, limits: Limits) -> None:
        self._content, self._limits = content, limits
        self.most = limits.form + _HEADS
        self.at_eof, self.unread_data = content.at_eof, content.unread_data

    async def read(self, size: int = -1) -> bytes:
        return self._within(await self._content.read(size))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        return self._within(await self._content.readline(max_line_length=max_line_length))

    def _within(self, data: bytes) -> bytes:
        if self._content.total_bytes > self.most:
            raise self.too_much()
        return data

    def too_much(self) -> PhotographTooLarge:
        return PhotographTooLarge(
            f"A form may have at most {self._limits.form:,} bytes: send fewer photographs at once."
        )


async def _read_capped(read: Callable[[], Awaitable[bytes]], limits: Limits) -> bytes:
    """Read to the end, or just past the cap: a stream of unknown length cannot fill memory."""
    data = bytearray()
    while chunk := await read():
        data += chunk
        if len(data) > limits.photograph:
            raise too_large(limits.photograph)
    return bytes(data)


def check_coding(request: web.Request) -> None:
    """Refuse a body that is encoded in a way that is not read.

    Raises:
        UnsupportedMedia: it is.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in _CODINGS:
        raise UnsupportedMedia(
            f"A Content-Encoding of {coding[:40]!r} is not read here. Send the body as it is, or "
            "with gzip or deflate."
        )


def too_large(most: int) -> PhotographTooLarge:
    """Say that a photograph has more than ``most`` bytes."""
    return PhotographTooLarge(
        f"A photograph may have at most {most:,} bytes. Scale it down or compress it."
    )


def broken(error: Exception) -> MalformedRequest:
    """Say what aiohttp's readers made of a body that is broken."""
    return MalformedRequest(f"The body is broken ({_clean(str(error))}).")


def _none_among(others: list[str]) -> MissingPhotograph:
    parts = f"it has {', '.join(others)}" if others else "it has none"
    return MissingPhotograph(
        f"The form has no part named `{FIELD}` ({parts}): give the photograph that name, as in "
        f"curl -F {FIELD}=@cell.jpg."
    )


def _clean(text: str) -> str:
    """The start of what a client sent, without bytes that are no text."""
    return text[:80].encode(errors="replace").decode()
