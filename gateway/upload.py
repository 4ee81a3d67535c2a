"""Reading a series as it is uploaded: one photograph at a time, and never all of it in memory.

A form's parts are read as they come. A zip tells what it holds at its end alone, so it is kept
until all of it has come: in memory while it is small, then in a file without a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.body import FIELD, FORM, broken, check_coding, too_large
from gateway.deadline import Deadline
from gateway.errors import (
    InvalidCells,
    MalformedRequest,
    MissingPhotograph,
    NoRoom,
    RequestError,
    SeriesTooLarge,
    TooManyParts,
    UnsupportedMedia,
    UploadTooSlow,
)
from gateway.smear import shown_name
from gateway.words import CELLS, words_by_number
from gateway.zipped import MAGIC, Zipped

ZIPS = ("application/zip", "application/x-zip-compressed")
"""A zip's media types: the registered one, and what Windows' browsers say."""

_PIECE = 64 * 1024  # bytes of a zip at a time
_IN_MEMORY = 4 * 1024 * 1024  # bytes of a zip, before it goes to a file
_OTHER_PARTS = 16
_WORDS_BYTES = 256  # a line of `cells`, on average
_HEADS = 1024  # bytes of a part's head and border
# what aiohttp's readers make of a broken form, or of a body that is not encoded as it says
_BROKEN = (ValueError, RuntimeError, LookupError, HttpProcessingError, web.RequestPayloadError)

T = TypeVar("T")
Read = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class SeriesLimits:
    """The most of a series: bytes of a photograph, photographs, and bytes of all of them.

    ``drawn`` are bytes of their overlays in base64, which wait in memory until they are sent;
    ``silence`` is the longest in which nothing comes, in seconds.
    """

    photograph: int
    photographs: int
    bytes: int
    drawn: int
    silence: float


@dataclass(frozen=True)
class Sent:
    """A photograph as it was sent, or why it cannot be looked at."""

    number: int
    name: str | None
    data: bytes | RequestError


class Upload:
    """The photographs of a request; once all were taken, ``words`` has what a reader says."""

    def __init__(self, request: web.Request, limits: SeriesLimits, deadline: Deadline) -> None:
        self._request, self._limits, self._deadline = request, limits, deadline
        self._content = _Counted(request.content, limits)
        self._names: list[str | None] = []
        self._inflated = 0  # bytes of the zips so far
        self._held = ExitStack()  # a zip, should the reading end before it
        self.words: Mapping[int, str] = {}

    async def photographs(self) -> AsyncGenerator[Sent]:
        """Take them one by one.

        Raises:
            RequestError: what the client should change; one bad photograph is none.
            NoRoom: a large zip cannot be kept.
        """
        self._check()
        if self._request.content_type == FORM:
            taken = self._of_form()
        else:
            taken = self._of_zip(self._content.readany)
        with self._held:
            async for sent in taken:
                yield sent
        if not self._names:
            raise MissingPhotograph(
                f"There is no photograph in it: send parts named `{FIELD}`, or a zip with some."
            )

    def _check(self) -> None:
        check_coding(self._request)
        if self._request.content_type not in (FORM, *ZIPS):
            raise UnsupportedMedia(
                f"A series is a multipart form with its photographs as `{FIELD}`, a zip "
                f"({ZIPS[0]}), or an earlier report as JSON."
            )
        if (self._request.content_length or 0) > self._content.most:
            raise self._content.too_much()

    async def _of_form(self) -> AsyncIterator[Sent]:
        with _breakage_told():
            form = MultipartReader(self._request.headers, cast("StreamReader", self._content))
        said: bytes | None = None
        parts = 0
        while (part := await self._in_time(form.next)) is not None:
            if not isinstance(part, BodyPartReader):
                raise MalformedRequest("A form inside the form cannot be read: send one form.")
            parts += 1
            if parts > self._limits.photographs + _OTHER_PARTS:
                raise self._too_many_parts()
            if part.name == FIELD:
                async for sent in self._of_part(part):
                    yield sent
            elif part.name == CELLS:
                if said is not None:
                    raise InvalidCells(f"There are two parts `{CELLS}`: send one.")
                said = await self._read_words(part)
        self.words = words_by_number(said or b"", self._names)

    async def _of_part(self, part: BodyPartReader) -> AsyncIterator[Sent]:
        async def read_much() -> bytes:
            return await part.read_chunk(_PIECE)

        # aiohttp reads two pieces ahead: small ones, so that a photograph is there once it has come
        start = await self._in_time(part.read_chunk)
        if start.startswith(MAGIC):
            async for sent in self._of_zip(read_much, start):
                yield sent
        else:
            yield self._next(part.filename, await self._read_photograph(part.read_chunk, start))

    async def _of_zip(self, read: Read, start: bytes = b"") -> AsyncIterator[Sent]:
        file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # ``_held`` closes it
        self._held.enter_context(file)
        piece = start or await self._in_time(read)
        while piece:
            await _keep(file, piece)
            piece = await self._in_time(read)
        limits = self._limits
        left = limits.photographs - len(self._names)
        room = limits.bytes - self._inflated
        zipped = await asyncio.to_thread(Zipped, file, left, room, limits.photograph)
        self._inflated += zipped.inflated
        for entry in zipped.entries:
            yield self._next(entry.filename, await _caught(zipped.read, entry))
        file.close()  # a form may have many

    def _next(self, name: str | None, data: bytes | RequestError) -> Sent:
        if len(self._names) == self._limits.photographs:
            raise SeriesTooLarge(
                f"At most {self._limits.photographs:,} photographs are counted at once: send fewer."
            )
        self._names.append(shown_name(name))
        return Sent(len(self._names), self._names[-1], data)

    async def _read_photograph(self, read: Read, start: bytes) -> bytes | RequestError:
        """Read to the end; of one that is too large, the rest is let go."""
        data, size, piece = bytearray(start), len(start), start
        while piece:
            piece = await self._in_time(read)
            size += len(piece)
            if size > self._limits.photograph:
                data.clear()
            else:
                data += piece
        if size > self._limits.photograph:
            return too_large(self._limits.photograph)
        return bytes(data)

    async def _read_words(self, part: BodyPartReader) -> bytes:
        most, data = _WORDS_BYTES * self._limits.photographs, bytearray()
        while piece := await self._in_time(part.read_chunk):
            data += piece
            if len(data) > most:
                raise InvalidCells(f"The part `{CELLS}` may have at most {most:,} bytes.")
        return bytes(data)

    async def _in_time(self, read: Callable[[], Awaitable[T]]) -> T:
        return await _in_time(read, self._deadline)

    def _too_many_parts(self) -> TooManyParts:
        return TooManyParts(
            f"A series may have at most {self._limits.photographs:,} photographs and "
            f"{_OTHER_PARTS} other parts: send fewer at once."
        )


class _Counted:
    """A stream that ends in a refusal past the most bytes, whatever they are, or in a silence."""

    def __init__(self, content: StreamReader, limits: SeriesLimits) -> None:
        self._content, self._bytes, self._silence = content, limits.bytes, limits.silence
        self.most = limits.bytes + _HEADS * (limits.photographs + _OTHER_PARTS)
        self.at_eof, self.unread_data = content.at_eof, content.unread_data

    async def read(self, size: int = -1) -> bytes:
        return await self._heard(self._content.read(size))

    async def readany(self) -> bytes:
        return await self._heard(self._content.readany())

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        return await self._heard(self._content.readline(max_line_length=max_line_length))

    async def _heard(self, read: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._silence):
                data = await read
        except TimeoutError as error:
            raise UploadTooSlow(
                f"Nothing more of the series came for {self._silence:g} s. Send it again."
            ) from error
        if self._content.total_bytes > self.most:
            raise self.too_much()
        return data

    def too_much(self) -> SeriesTooLarge:
        return SeriesTooLarge(
            f"A series may have at most {self._bytes:,} bytes: send less at once."
        )


async def read_report(request: web.Request, most: int, deadline: Deadline) -> bytes:
    """Read a report that comes back, of ``most`` bytes.

    Raises:
        RequestError: what the client should change.
    """
    check_coding(request)
    body = bytearray()
    while piece := await _in_time(request.content.readany, deadline):
        body += piece
        if len(body) > most:
            raise SeriesTooLarge(
                f"A report that comes back may have at most {most:,} bytes: leave the overlays "
                "(`heatmap`) out of it."
            )
    return bytes(body)


async def _in_time(read: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
    """Read from the network.

    Raises:
        UploadTooSlow: nothing came while there was time.
        MalformedRequest: what came is broken.
    """
    try:
        with _breakage_told():
            async with asyncio.timeout(deadline.remaining()):
                return await read()
    except TimeoutError as error:
        raise UploadTooSlow(
            "The series had not arrived when its time was over. Send fewer at once."
        ) from error


@contextmanager
def _breakage_told() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise broken(error) from error


async def _keep(file: IO[bytes], piece: bytes) -> None:
    try:
        await asyncio.to_thread(file.write, piece)
    except OSError as error:
        raise NoRoom(
            "There is no disk here to keep so large a zip on while it is read. Send a form with "
            "the photographs as its parts, or smaller zips."
        ) from error


async def _caught(read: Callable[[Any], bytes], entry: Any) -> bytes | RequestError:
    try:
        return await asyncio.to_thread(read, entry)
    except RequestError as error:
        return error
