"""Hundreds of hostile and odd pictures, sent to a real gateway over HTTP."""

import json
import os
import re
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from crafted import LONG, RATIONAL, SHORT, chunk, directory, encoded, png, tiff, with_segments
from PIL import Image

from gateway import errors
from gateway.imaging import FORMATS, read_photograph

HEMAVISION = Path(sys.executable).with_name("hemavision")
MOST_MEMORY = 300 * 1024  # kB
LIMIT = 25_000_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Hostile(NamedTuple):
    """One input; ``odd`` ones may be answered as well as refused."""

    name: str
    data: bytes
    odd: bool = False


def specimen(size: tuple[int, int] = (96, 80)) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 0 * x + 90], -1).astype(np.uint8))


def good(picture_format: str, **options: object) -> bytes:
    return encoded(specimen(), picture_format, **options)


def corpus() -> list[Hostile]:
    """Build all of them, the same ones each time."""
    made = [
        *truncated(),
        *damaged(),
        *not_pictures(),
        *sizes(),
        *jpegs(),
        *pngs(),
        *tiffs(),
        *webps_and_bmps(),
    ]
    assert len({case.name for case in made}) == len(made)
    return made


def truncated() -> Iterator[Hostile]:
    """Cut off at every boundary of the format's own parts, and inside of them."""
    for picture_format in FORMATS:
        data = good(picture_format)
        edges = {int(len(data) * share) for share in np.linspace(0, 0.97, 12)}
        edges |= {n for n in (1, 2, 3, 4, 7, 8, 9, 12, 16, 20, 25, 26, 29, 30, 33) if n < len(data)}
        edges |= set(boundaries(picture_format, data))
        for end in sorted(edges):
            only_the_end = picture_format == "PNG" and end > len(data) - 16  # all pixels are there
            yield Hostile(f"{picture_format} cut at {end} of {len(data)}", data[:end], only_the_end)


def boundaries(picture_format: str, data: bytes) -> list[int]:
    if picture_format == "PNG":
        names = (b"IHDR", b"IDAT", b"IEND")
        return [data.index(name) + step for name in names[:2] for step in (-4, 0, 4)]
    if picture_format == "JPEG":
        markers = [m.start() for m in re.finditer(rb"\xff[\xc0-\xdb\xe0-\xef]", data)]
        return [m + step for m in markers[:8] for step in (0, 1, 2, 4)]
    if picture_format == "TIFF":
        start = struct.unpack_from("<I", data, 4)[0]
        return [start, start + 1, start + 2, start + 14, start + 40] if start < 100 else [8, start]
    return []


def damaged() -> Iterator[Hostile]:
    """Bytes changed, runs of zeros and of ones, halves exchanged; some can still be read."""
    random = Random(7)
    for picture_format in FORMATS:
        data = good(picture_format)
        for number in range(12):
            changed = bytearray(data)
            for _ in range(2 ** (number % 6)):
                changed[random.randrange(len(changed))] = random.randrange(256)
            yield Hostile(f"{picture_format} changed {number}", bytes(changed), odd=True)
        for number in range(4):
            start = random.randrange(8, len(data) - 32)
            for filler in (b"\0", b"\xff"):
                run = data[:start] + filler * 24 + data[start + 24 :]
                yield Hostile(f"{picture_format} run {number} {filler!r}", run, odd=True)
        half = len(data) // 2
        yield Hostile(f"{picture_format} halves", data[half:] + data[:half])
        yield Hostile(f"{picture_format} twice", data + data, odd=True)
        yield Hostile(f"{picture_format} and more behind", data + random.randbytes(999), odd=True)


def not_pictures() -> Iterator[Hostile]:
    random = Random(3)
    yield Hostile("nothing", b"")
    for size in (1, 2, 10, 100, 1000, 50_000):
        yield Hostile(f"{size} random bytes", random.randbytes(size))
        yield Hostile(f"{size} zeros", bytes(size))
    for name, magic in {
        "GIF": b"GIF89a",
        "PDF": b"%PDF-1.7\n",
        "zip": b"PK\3\4",
        "gzip": b"\x1f\x8b\x08",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "HEIC": b"\0\0\0\x18ftypheic",
        "AVIF": b"\0\0\0\x18ftypavif",
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "PSD": b"8BPS\0\1",
        "ICO": b"\0\0\1\0\1\0",
        "DICOM": bytes(128) + b"DICM",
        "HTML": b"<!doctype html><title>x</title>",
        "ELF": b"\x7fELF",
        "JPEG XL": b"\xff\x0a",
        "QOI": b"qoif",
    }.items():
        yield Hostile(name, magic + random.randbytes(300))
    for picture_format, magic in {
        "JPEG": b"\xff\xd8\xff\xe0",
        "PNG": SIGNATURE,
        "WEBP": b"RIFF\xff\xff\0\0WEBPVP8 ",
        "TIFF": b"II*\0",
        "BigTIFF": b"II+\0\x08\0\0\0",
        "BMP": b"BM",
    }.items():
        yield Hostile(f"{picture_format}'s magic alone", magic)
        yield Hostile(f"{picture_format}'s magic and noise", magic + random.randbytes(400))
    for own, other in zip(FORMATS, (*FORMATS[1:], FORMATS[0]), strict=True):
        mixed = good(own)[:12] + good(other)[12:]
        yield Hostile(f"{own}'s head on {other}", mixed)


def sizes() -> Iterator[Hostile]:
    for size in ((1, 1), (1, 20_000), (20_000, 1), (31, 400), (400, 31), (2, 2)):
        for picture_format in ("JPEG", "PNG", "BMP", "TIFF"):
            data = encoded(Image.new("RGB", size), picture_format)
            yield Hostile(f"{picture_format} of {size}", data)
    for size in ((32, 20_000), (20_000, 32), (32, 32)):
        for picture_format in ("JPEG", "PNG", "BMP", "TIFF"):
            data = encoded(Image.new("RGB", size), picture_format)
            yield Hostile(f"{picture_format} of {size}", data, odd=True)
    for picture_format in ("JPEG", "PNG", "BMP", "TIFF"):  # a bomb of pixels, and of compression
        data = encoded(
            Image.new("1" if picture_format != "JPEG" else "L", (5200, 5200)), picture_format
        )
        yield Hostile(f"{picture_format} of 27 megapixels", data)
    black = Image.new("L", (5000, 5000))
    yield Hostile("25 megapixels of black in a small PNG", encoded(black, "PNG"), odd=True)
    yield Hostile("the same in a progressive JPEG", encoded(black, "JPEG", progressive=True), True)
    yield Hostile(
        "the same in a TIFF", encoded(black, "TIFF", compression="tiff_deflate"), odd=True
    )
    claimed = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    yield Hostile("a PNG that claims 2^62 pixels", SIGNATURE + chunk(b"IHDR", claimed))


def jpegs() -> Iterator[Hostile]:
    jpeg = good("JPEG")
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    progressive = encoded(noise, "JPEG", progressive=True)
    for name, filler in (("fill bytes", b"\xff"), ("bytes of no segment", b"\x00\xff")):
        yield Hostile(f"16 MB of {name}", b"\xff\xd8\xff" + filler * (2**24 // len(filler) - 8))
    yield Hostile("a segment and zeros", b"\xff\xd8\xff\xe0\x00\x02" + bytes(2**24 - 64))
    start, end = progressive.rindex(b"\xff\xda"), progressive.rindex(b"\xff\xd9")
    scans = progressive[:end] + progressive[start:end] * 3000 + b"\xff\xd9"
    yield Hostile("a JPEG drawn over itself 3000 times", scans)
    yield Hostile("a JPEG of a million comments", with_segments(jpeg, *[(0xFE, b"")] * 1_000_000))
    exif = b"Exif\0\0" + tag_bomb(b"II*\0", 0x011A, RATIONAL, 7_000, 60_000)
    yield Hostile("resolution of 7000 fractions", with_segments(jpeg, (0xE1, exif)), odd=True)
    parts = [(0xE1, b"Exif\0\0" + bytes(65_000))] * 200
    yield Hostile("13 MB of EXIF", with_segments(jpeg, (0xE1, exif), *parts))
    many = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000)
    many += b"".join(struct.pack("<HHII", tag, 7, 60_000, 0) for tag in range(5000))
    yield Hostile("5000 tags that each claim all", with_segments(jpeg, (0xE1, many)), odd=True)
    for orientation in (0, 9, 65_535):
        picture = Image.Exif()
        picture[0x0112] = orientation
        yield Hostile(f"orientation {orientation}", good("JPEG", exif=picture), odd=True)
    profile = b"ICC_PROFILE\0\1\1" + bytes(60_000)
    yield Hostile("a profile of zeros", with_segments(jpeg, (0xE2, profile)), odd=True)
    mpf = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 0xB001, 4, 1, 2**31)
    yield Hostile("an MPO of 2^31 pictures", with_segments(jpeg, (0xE2, mpf + bytes(4))), odd=True)
    frame = jpeg.index(b"\xff\xc0")
    for name, offset, value in (
        ("no height", 5, b"\0\0"),
        ("no width", 7, b"\0\0"),
        ("65535 x 65535", 5, b"\xff\xff\xff\xff"),
        ("9 components", 9, b"\x09"),
        ("12 bits", 4, b"\x0c"),
        ("sampling of 0", 11, b"\0"),
    ):
        changed = jpeg[: frame + offset] + value + jpeg[frame + offset + len(value) :]
        yield Hostile(f"a JPEG of {name}", changed)


def tag_bomb(magic: bytes, tag: int, kind: int, count: int, size: int) -> bytes:
    head = magic + struct.pack("<I", 8) + directory([(tag, kind, count, 40)], 8, "<")
    return head.ljust(size, b"\1")


def pngs() -> Iterator[Hostile]:
    samples = np.asarray(specimen())
    bomb = zlib.compress(bytes(50_000_000), 9)
    for name, content in {
        "zTXt": b"a\0\0" + bomb,
        "iTXt": b"a\0\1\0\0\0" + bomb,
        "iCCP": b"a\0\0" + bomb,
    }.items():
        data = png(samples, 2, 8, before=chunk(name.encode(), content))
        yield Hostile(f"50 MB of zeros in {name}", data, odd=True)
    texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 200
    yield Hostile("200 texts of 1 MB", png(samples, 2, 8, before=texts), odd=True)
    yield Hostile("a million chunks", png(samples, 2, 8, before=chunk(b"teSt", b"") * 1_000_000))
    yield Hostile("half a million behind", png(samples, 2, 8, after=chunk(b"teSt", b"") * 500_000))
    exif = tag_bomb(b"II*\0", 0x0112, SHORT, 5_000_000, 11_000_000)
    yield Hostile("5 million orientations", png(samples, 2, 8, before=chunk(b"eXIf", exif)))
    frames = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield Hostile("an APNG of 2^31 frames", png(samples, 2, 8, before=frames), odd=True)
    data = good("PNG")
    for name, offset, value in (
        ("bit depth 3", 24, 3),
        ("colour type 5", 25, 5),
        ("compression 1", 26, 1),
        ("filter method 9", 27, 9),
        ("interlace 7", 28, 7),
    ):
        head = bytearray(data[12:29])
        head[offset - 12] = value
        changed = data[:12] + bytes(head) + struct.pack(">I", zlib.crc32(head)) + data[33:]
        yield Hostile(f"a PNG of {name}", changed, odd=True)
    yield Hostile("a PNG without pixels", SIGNATURE + data[8:33] + chunk(b"IEND", b""))
    yield Hostile("a chunk of 4 GB", SIGNATURE + data[8:33] + b"\xff\xff\xff\xffIDAT" + bytes(50))
    short = SIGNATURE + data[8:33] + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    yield Hostile("a PNG of too few pixels", short)
    wrong = data[:29] + b"\0\0\0\0" + data[33:]
    yield Hostile("a PNG with a wrong checksum", wrong)
    palette = png(samples[..., 0], 3, 8)
    yield Hostile("a palette that is not there", palette, odd=True)


def tiffs() -> Iterator[Hostile]:
    samples = np.asarray(specimen())
    plain = {"bits": 8, "photometric": 2}
    yield Hostile("a TIFF whose next page is itself", tiff(samples, following=8, **plain), odd=True)
    yield Hostile("a next page beyond the end", tiff(samples, following=2**31, **plain), odd=True)
    yield Hostile("a chain of 100,000 pages", chained(100_000), odd=True)
    for name, tag, kind, count in (
        ("4 million strips", 273, LONG, 3_900_000),
        ("8 million bits a sample", 258, SHORT, 7_900_000),
        ("2 million resolutions", 282, RATIONAL, 1_900_000),
        ("8 million orientations", 274, SHORT, 7_900_000),
        ("8 million extra samples", 338, SHORT, 7_900_000),
        ("8 million sample formats", 339, SHORT, 7_900_000),
        ("8 million colours", 320, SHORT, 7_900_000),
    ):
        yield Hostile(
            name, tiff(samples, extra=[(tag, kind, count, 64)], **plain) + bytes(16_000_000)
        )
    sub = tiff(samples, extra=[(0x8769, LONG, 1, 100_000)], **plain).ljust(100_000, b"\0")
    fractions = directory([(33_434, 10, 1_900_000, 64)], 100_000, "<")
    yield Hostile("2 million exposures in EXIF", (sub + fractions).ljust(16_000_000, b"\1"))
    itself = [(0x8769, LONG, 1, 8)]
    yield Hostile("EXIF that is the page itself", tiff(samples, extra=itself, **plain), odd=True)
    tags = [(40_000 + i, 7, 15_000_000, 64) for i in range(3000)]
    base = b"II*\0" + struct.pack("<I", 8) + directory(tags, 8, "<")
    yield Hostile("3000 tags that each claim all", base.ljust(15_500_000, b"\0"))
    yield Hostile("65535 tags", b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(65_535 * 12))
    big = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 2**63)
    yield Hostile("a BigTIFF of 2^63 tags", big.ljust(15_000_000, b"\1"))
    for name, tag, kind, count, value in (
        ("no width", 256, LONG, 1, 0),
        ("a width of 2^31", 256, LONG, 1, 2**31),
        ("65535 samples a pixel", 277, SHORT, 1, 65_535),
        ("strips beyond the end", 273, LONG, 1, 2**31),
        ("strips of 4 GB", 279, LONG, 1, 2**32 - 1),
        ("no rows in a strip", 278, LONG, 1, 0),
        ("unknown compression", 259, SHORT, 1, 12_345),
        ("unknown colours", 262, SHORT, 1, 999),
        ("JPEG that is none", 259, SHORT, 1, 7),
        ("LZW that is none", 259, SHORT, 1, 5),
        ("fax that is none", 259, SHORT, 1, 4),
        ("deflate that is none", 259, SHORT, 1, 8),
        ("a text for a width", 256, 2, 4, 0x30303030),
        ("a text for its rows in a strip", 278, 2, 4, 0x30303030),
        ("two counts of rows in a strip", 278, SHORT, 2, 0x00050005),
        ("a fraction of rows in a strip", 278, RATIONAL, 1, 64),
        ("a text for its bits", 258, 2, 4, 0x38383838),
        ("a text for its orientation", 274, 2, 4, 0x36363636),
        ("unknown planes", 284, SHORT, 1, 9),
    ):
        data = tiff(samples, extra=[(tag, kind, count, value)], **plain)
        yield Hostile(f"a TIFF of {name}", data, odd=True)


def chained(pages: int) -> bytes:
    """A first page that can be read, and then one directory after another."""
    first = tiff(np.asarray(specimen()), bits=8, following=100_000).ljust(100_000, b"\0")
    size = 2 + 12 + 4
    entry = struct.pack("<HHHII", 1, 256, LONG, 1, 64)
    links = (struct.pack("<I", 100_000 + size * (i + 1)) for i in range(pages))
    return first + b"".join(entry + link for link in links)


def webps_and_bmps() -> Iterator[Hostile]:
    lossy, lossless = good("WEBP"), good("WEBP", lossless=True)
    yield Hostile("a WebP that claims 16383 x 16383", lossy[:26] + b"\xff\x3f\xff\x3f" + lossy[30:])
    huge = b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6
    yield Hostile("a WebP canvas of 2^48 pixels", huge + bytes(200))
    yield Hostile(
        "a lossless WebP that claims most", lossless[:21] + b"\xff\xff\xff\x0f" + lossless[25:]
    )
    flat = Image.new("RGB", (4900, 4900), "pink")
    yield Hostile("24 megapixels in a small WebP", encoded(flat, "WEBP", method=0))
    frames = [specimen().rotate(i) for i in range(60)]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0)
    yield Hostile("a WebP of 60 frames", animated, odd=True)
    yield Hostile("half a WebP of 60 frames", animated[: len(animated) // 2])
    bmp = good("BMP")
    for name, offset, value in (
        ("a negative width", 18, b"\xff\xff\xff\xff"),
        ("a width of 2^31 - 1", 18, b"\xff\xff\xff\x7f"),
        ("upside down", 22, struct.pack("<i", -80)),
        ("7 bits", 28, b"\7\0"),
        ("unknown compression", 30, b"\x63\0\0\0"),
        ("run lengths that are none", 30, b"\1\0\0\0"),
        ("pixels beyond the end", 10, b"\xff\xff\xff\x7f"),
        ("a header of 3 bytes", 14, b"\3\0\0\0"),
        ("2^31 colours", 46, b"\xff\xff\xff\x7f"),
    ):
        changed = bmp[:offset] + value + bmp[offset + len(value) :]
        yield Hostile(f"a BMP of {name}", changed, odd=True)


@pytest.fixture(scope="module")
def cases() -> list[Hostile]:
    return corpus()


@contextmanager
def gateway(model_server: str) -> Iterator[tuple[subprocess.Popen, str]]:
    process = subprocess.Popen(
        [HEMAVISION, "serve"],
        env=os.environ
        | {
            "HEMAVISION_PORT": "0",
            "HEMAVISION_MODEL_SERVER": model_server,
            "HEMAVISION_DEADLINE": "60",
            "HEMAVISION_MAX_WAIT": "60",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def highest_memory(process: subprocess.Popen) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def send(url: str, data: bytes) -> tuple[int, str, dict]:
    """Post one body; status, media type and JSON of the reply."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{url}/v1/classify?heatmap=none", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers.get_content_type(), json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), json.load(error)


def test_the_corpus_is_large(cases):
    """At least 300 inputs, of which most must be refused."""
    assert len(cases) >= 300
    assert sum(not case.odd for case in cases) >= 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_gateway_outlives_the_whole_corpus(model_server, jpeg, cases):
    """Every input gets a 4xx problem, or an answer if it may have one; never a 5xx.

    The process stays under 300 MB, and a good photograph is answered afterwards as before.
    """
    wrong = []
    with gateway(model_server) as (process, url):
        before = send(url, jpeg)[2]["probabilities"]
        for case in cases:
            status, kind, body = send(url, case.data)
            refused = 400 <= status < 500 and kind == "application/problem+json"
            told = refused and len(body["detail"]) > 30 and len(body["detail"]) < 500
            if not (told or (case.odd and status == 200)):
                wrong.append((case.name, status, body))
        after = send(url, jpeg)
        assert highest_memory(process) < MOST_MEMORY
    assert wrong == []
    assert (after[0], after[2]["probabilities"]) == (200, before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_eight_of_24_megapixels_at_once_stay_under_300_mb(model_server, smear):
    """With default limits, as JPEG and as PNG: the large ones wait for each other."""
    large = smear.resize((6000, 4000))
    bodies = [encoded(large, "JPEG", quality=80), encoded(large.quantize(64), "PNG")]
    statuses = []
    with gateway(model_server) as (process, url):
        for body in bodies:
            threads = [
                threading.Thread(target=lambda b=body: statuses.append(send(url, b)[0]))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert statuses == [200] * 16
        assert highest_memory(process) < MOST_MEMORY


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a JPEG drawn over itself 3000 times", "scans"),
        ("a JPEG of a million comments", "segments"),
        ("13 MB of EXIF", "EXIF"),
        ("a million chunks", "chunks"),
        ("5 million orientations", "EXIF"),
        ("4 million strips", "values"),
        ("2 million resolutions", "values"),
        ("2 million exposures in EXIF", "values"),
        ("65535 tags", "tags"),
        ("a WebP canvas of 2^48 pixels", "16777216 x 16777216"),
        ("TIFF of 27 megapixels", "5200 x 5200"),
    ],
)
def test_absurd_structures_are_refused_from_the_header(cases, name, word):
    """Before any decoder believes them, with a sentence that names what there is too much of."""
    (case,) = (case for case in cases if case.name == name)
    with pytest.raises((errors.UnreadablePhotograph, errors.PhotographTooLarge), match=word):
        read_photograph(case.data, LIMIT)


def test_the_largest_ordinary_files_have_few_enough_parts():
    """What cameras and programs write stays far below the limits on parts."""
    picture = specimen((2000, 1500))
    for picture_format, options in {
        "JPEG": {"progressive": True},
        "PNG": {"compress_level": 0},
        "TIFF": {"compression": "tiff_lzw", "strip_size": 2000 * 3},
    }.items():
        data = encoded(picture, picture_format, **options)
        assert read_photograph(data, LIMIT).format == picture_format
