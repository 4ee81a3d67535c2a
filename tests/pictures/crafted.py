"""Pictures written byte by byte: what no encoder at hand writes, or would write this way."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
_SIZES = {1: 1, 2: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}
_CODES = {SHORT: "H", LONG: "I"}

Entry = tuple[int, int, int, bytes | int]
"""Tag, type, count, and either the value's bytes or an offset that is written as it is."""


def encoded(picture: Image.Image, picture_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, picture_format, **options)
    return buffer.getvalue()


def numbers(order: str, kind: int, *values: int) -> tuple[int, int, bytes]:
    return kind, len(values), struct.pack(order + _CODES[kind] * len(values), *values)


def directory(entries: Sequence[Entry], offset: int, order: str, following: int = 0) -> bytes:
    """A TIFF directory that lies at ``offset``, its longer values right behind it."""
    values = b""
    behind = offset + 2 + 12 * len(entries) + 4
    head = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        head += struct.pack(order + "HHI", tag, kind, count)
        if isinstance(value, int):
            head += struct.pack(order + "I", value)
        elif len(value) <= 4:
            head += value.ljust(4, b"\0")
        else:
            head += struct.pack(order + "I", behind + len(values))
            values += value
    return head + struct.pack(order + "I", following) + values


def tiff(
    samples: np.ndarray,
    *,
    bits: int = 16,
    photometric: int = 2,
    order: str = "<",
    deflate: bool = False,
    planar: bool = False,
    extra: Sequence[Entry] = (),
    packed: bytes | None = None,
    following: int = 0,
) -> bytes:
    """One TIFF of whole samples [h, w] or [h, w, n], uint8 or uint16, in one strip a plane."""
    height, width = samples.shape[:2]
    deep = samples.reshape(height, width, -1).astype(f"{order}u{max(1, bits // 8)}")
    planes = np.moveaxis(deep, -1, 0) if planar else [deep]
    strips = [packed or np.ascontiguousarray(plane).tobytes() for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    count = deep.shape[-1]
    start = 8 + 2 + 12 * 40 + 4 + 4096  # room for the directory and its values
    offsets = [start + sum(map(len, strips[:i])) for i in range(len(strips))]

    def entry(tag: int, kind: int, *values: int) -> Entry:
        return tag, *numbers(order, kind, *values)

    entries = [
        entry(256, LONG, width),
        entry(257, LONG, height),
        entry(258, SHORT, *[bits] * count),
        entry(259, SHORT, 8 if deflate else 1),
        entry(262, SHORT, photometric),
        entry(273, LONG, *offsets),
        entry(277, SHORT, count),
        entry(278, LONG, height),
        entry(279, LONG, *map(len, strips)),
        entry(284, SHORT, 2 if planar else 1),
    ]
    given = {e[0] for e in extra}
    entries = sorted([e for e in entries if e[0] not in given] + list(extra), key=lambda e: e[0])
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8) + directory(entries, 8, order, following)
    return head.ljust(start, b"\0") + b"".join(strips)


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(
    samples: np.ndarray,
    colour: int,
    depth: int = 16,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """One PNG of samples [h, w] or [h, w, n]; ``colour`` is PNG's colour type."""
    height, width = samples.shape[:2]
    deep = samples.astype(">u2" if depth == 16 else "u1")
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in deep[y::dy, x::dx] if row.size
    )
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + (chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)))
        + (after + chunk(b"IEND", b""))
    )


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments right at its start: marker and content."""
    added = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        for marker, data in segments
    )
    return jpeg[:2] + added + jpeg[2:]
