"""What a file says of itself, checked before a decoder believes it. Pure.

A decoder reads a file's structure before it knows the picture's size, and some structures cost
far more to read than to write: millions of empty chunks, a table of a million fractions, a canvas
of gigabytes, a JPEG drawn over itself a thousand times. No camera or program writes those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gateway.errors import UnreadablePhotograph

MOST_PARTS = 20_000
"""Segments, chunks or tags of one file. The longest ordinary PNG of 16 MiB has about 2,000."""

MOST_FILL = 4096
"""Bytes between a JPEG's segments, which Pillow reads one by one. Encoders write none."""

MOST_SCANS = 100
"""Passes of a progressive JPEG over the picture. Encoders write about 10."""

MOST_VALUES = 500_000
"""Numbers in a TIFF's tags; a 25 megapixel photograph in tiles of 16 x 16 has 200,000."""

MOST_EXIF = 512 * 1024
"""Bytes of EXIF in a file that is no TIFF."""

_RATIONAL_COST = 16  # a fraction takes that many times the memory of a number
_NUMBERS = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SUB_DIRECTORIES = {0x8769, 0x8825, 0xA005}  # EXIF, GPS, interoperability
_MOST_DIRECTORIES = 8


def kind(data: bytes) -> str | None:
    """Name the format by its first bytes, in Pillow's names; None where it is none of ours."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
    return next((name for magic, name in starts.items() if data.startswith(magic)), None)


def check_parts(data: bytes) -> None:
    """Refuse a file of more parts than a photograph has.

    Raises:
        UnreadablePhotograph: with a sentence that says of what it has too many.
    """
    checks = {"JPEG": _check_jpeg, "PNG": _check_png, "TIFF": _check_tiff, "BMP": _check_bmp}
    if check := checks.get(kind(data) or ""):
        check(data)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Read a WebP's canvas, which its decoder takes before anybody can look at it.

    See https://developers.google.com/speed/webp/docs/riff_container.
    """
    if len(data) < 30 or kind(data) != "WEBP":
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def jpeg_scans(data: bytes) -> int:
    """Count a JPEG's passes over the picture; more than one keeps all of it in memory."""
    start = max((end for _, _, end in _segments(data)), default=0)
    return data.count(b"\xff\xda", start, _end_of_jpeg(data, start))


def _end_of_jpeg(data: bytes, start: int) -> int:
    end = data.find(b"\xff\xd9", start)  # inside a scan 0xFF is stuffed: this is the real end
    return end if end >= 0 else len(data)


def _check_jpeg(data: bytes) -> None:
    exif = 0
    for number, (marker, start, end) in enumerate(_segments(data)):
        _limit(number, MOST_PARTS, "segments")
        if marker == 0xE1 and data.startswith(b"Exif", start):
            exif += end - start
    _limit(exif, MOST_EXIF, "bytes of EXIF")
    _limit(jpeg_scans(data), MOST_SCANS, "scans")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment in front of the first scan."""
    position, fill = 2, 0
    while (found := data.find(b"\xff", position)) >= 0 and found + 4 <= len(data):
        fill += found - position
        _limit(fill, MOST_FILL, "bytes between its segments")
        position, marker = found, data[found + 1]
        if marker in (0xDA, 0xD9):
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill bytes, no length
            position, fill = position + 1, fill + 1
            continue
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        yield marker, position + 4, end
        position = end
    _limit(fill + max(0, len(data) - position), MOST_FILL, "bytes behind its segments")


def _check_png(data: bytes) -> None:
    position, number = 8, 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            _limit(length, MOST_EXIF, "bytes of EXIF")
        position, number = position + 12 + length, number + 1
        _limit(number, MOST_PARTS, "chunks")


def _check_bmp(data: bytes) -> None:
    # Pillow decodes runs byte by byte in Python: a small file of them takes seconds
    if data[14:15] != b"\x0c" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise UnreadablePhotograph(
            "A run-length coded BMP is not read here. Save it as PNG, or without compression."
        )


def _check_tiff(data: bytes) -> None:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pending = [_number(data, 8 if big else 4, order, 8 if big else 4)]
    tags = values = 0
    for _ in range(_MOST_DIRECTORIES):
        if not pending:
            return
        for tag, kind_, count, value in _directory(data, pending.pop(), order, big=big):
            tags += 1
            values += _cost(kind_, count, len(data))
            _limit(tags, MOST_PARTS, "tags")
            _limit(values, MOST_VALUES, "values in its tags")
            if tag in _SUB_DIRECTORIES:
                pending.append(value)


def _cost(kind_: int, count: int, size: int) -> int:
    """Weigh a tag's values; texts and bytes stay as they are, and what is not there is skipped."""
    if kind_ not in _NUMBERS or count * _NUMBERS[kind_] > size:
        return 0
    return count * (_RATIONAL_COST if kind_ in (5, 10) else 1)


def _directory(
    data: bytes, offset: int, order: str, *, big: bool
) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, count and value of each entry of a TIFF directory."""
    head, entry, width = (8, 20, 8) if big else (2, 12, 4)
    entries = _number(data, offset, order, head)
    for start in range(offset + head, offset + head + entries * entry, entry):
        if start + entry > len(data):
            return
        tag, kind_ = struct.unpack_from(order + "HH", data, start)
        count = _number(data, start + 4, order, width)
        yield tag, kind_, count, _number(data, start + 4 + width, order, width)


def _number(data: bytes, offset: int, order: str, width: int) -> int:
    return int.from_bytes(data[offset : offset + width], "little" if order == "<" else "big")


def _limit(found: int, most: int, what: str) -> None:
    if found > most:
        raise UnreadablePhotograph(
            f"The file has more than {most:,} {what}, as no photograph has. Open it in an image "
            "program and save it anew."
        )
