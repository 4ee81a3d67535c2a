"""Which decoder, resizer and encoder to take: each alone, on real photographs of several sizes.

Each photograph is brought to 256, 360, 640 and 2048 pixels along its longer side and saved as
JPEG. In each round every contender does its work on each, one after the other, so that a machine
whose speed drifts slows all alike; what is taken is the time of the CPU, so that other work on the
machine does not count. What a resizer makes of the photograph is compared with what
the model was trained on, Pillow's bilinear filter over all pixels. Contenders beside Pillow
(`pip install simplejpeg isal`) are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest import photographs, pictures, tables
from loadtest.arguments import count

_INPUT = (224, 224)
_BILINEAR = Image.Resampling.BILINEAR
_HUFFMAN, _RUNS = 2, 3  # zlib's strategies

Work = Callable[[Any], Any]


def _installed(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_SIMPLEJPEG, _ISAL = _installed("simplejpeg"), _installed("isal.isal_zlib")


@dataclass(frozen=True)
class Time:
    """One contender's time of the CPU for one photograph, in ms.

    ``result`` is the bytes that it wrote, or the largest difference of its pixels, of 255.
    """

    stage: str
    contender: str
    side: int
    round: int
    ms: float
    result: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the tables."""
    given = _parser().parse_args(arguments)
    chosen = [pictures.decoded(one) for one in photographs.named(given.folder, given.most)]
    times = [
        one
        for number in range(-1, given.rounds)
        for side in pictures.SIDES
        for picture in chosen
        for one in _measured(pictures.enlarged(picture, side), side, number)
        if number >= 0  # the first round warms up
    ]
    _write(given.raw, times)
    print(_tables(times))
    print(f"every time: {given.raw}")
    return 0


def _measured(picture: Image.Image, side: int, number: int) -> list[Time]:
    file = _pillow(picture, "JPEG", quality=92)
    decoded = Image.fromarray(_decoded(file))
    trained_on = _resized(decoded)
    times = []
    for stage, given, contenders in (
        ("decode", file, _decoders()),
        ("resize", decoded, _RESIZERS),
        ("encode", decoded, _encoders()),
    ):
        for name, work in contenders.items():
            started = time.thread_time()
            made = work(given)
            ms = (time.thread_time() - started) * 1000
            result = _difference(made, trained_on) if stage != "encode" else len(made)
            times.append(Time(stage, name, side, number, ms, result))
    return times


def _decoders() -> dict[str, Work]:
    decoders: dict[str, Work] = {"Pillow": _decoded, "Pillow, reduced": _reduced}
    if _SIMPLEJPEG:
        decoders["simplejpeg"] = _SIMPLEJPEG.decode_jpeg
    return decoders


def _encoders() -> dict[str, Work]:
    encoders: dict[str, Work] = {
        "JPEG 90": lambda p: _pillow(p, "JPEG", quality=90),
        "JPEG 90, 4:4:4": lambda p: _pillow(p, "JPEG", quality=90, subsampling=0),
        "WebP 90": lambda p: _pillow(p, "WEBP", quality=90, method=0),
        "PNG": lambda p: _pillow(p, "PNG"),
        "PNG, Huffman": lambda p: _pillow(p, "PNG", compress_level=1, compress_type=_HUFFMAN),
        "PNG, runs": lambda p: _pillow(p, "PNG", compress_level=1, compress_type=_RUNS),
        "PNG, one filter, Huffman": lambda p: _one_filter(p, _huffman),
    }
    if _ISAL:
        deflate = _ISAL.compress
        encoders["PNG, one filter, isal"] = lambda p: _one_filter(p, lambda d: deflate(d, 1))
    if _SIMPLEJPEG:
        encode = _SIMPLEJPEG.encode_jpeg
        encoders["JPEG 90, simplejpeg"] = lambda p: encode(np.asarray(p), 90, "RGB", "420")
    return encoders


def _resized(picture: Image.Image, gap: float | None = None) -> NDArray[np.uint8]:
    return np.asarray(picture.resize(_INPUT, _BILINEAR, reducing_gap=gap))


_RESIZERS: dict[str, Work] = {
    "bilinear": _resized,
    "bilinear, gap 2": lambda p: _resized(p, 2.0),
    "box": lambda p: np.asarray(p.resize(_INPUT, Image.Resampling.BOX)),
    "Lanczos": lambda p: np.asarray(p.resize(_INPUT, Image.Resampling.LANCZOS)),
}


def _decoded(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _reduced(file: bytes) -> NDArray[np.uint8]:
    """Decode to no less than twice the model's input, by the decoder's own means."""
    image = Image.open(io.BytesIO(file))
    image.draft("RGB", (2 * _INPUT[0], 2 * _INPUT[1]))
    return np.asarray(image.convert("RGB"))


def _pillow(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _huffman(data: Any) -> bytes:
    coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def _one_filter(picture: Image.Image, deflate: Callable[[Any], bytes]) -> bytes:
    """Write a PNG whose rows are all differences from the row above."""
    width, height = picture.size
    pixels = np.asarray(picture).reshape(height, 3 * width)
    rows = np.full((height, 1 + 3 * width), 2, np.uint8)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", deflate(rows.data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _difference(made: NDArray[np.uint8], trained_on: NDArray[np.uint8]) -> int:
    """How far the model's input is from what it was trained on; what is decoded is resized."""
    seen = made if made.shape == trained_on.shape else _resized(Image.fromarray(made))
    return int(np.abs(seen.astype(int) - trained_on).max())


def _tables(times: list[Time]) -> str:
    stages = list(dict.fromkeys(one.stage for one in times))
    return "\n\n".join(_table([one for one in times if one.stage == stage]) for stage in stages)


def _table(times: list[Time]) -> str:
    stage = times[0].stage
    result = "kB" if stage == "encode" else "largest difference of the model's input, of 255"
    rows = [
        [
            name,
            *(
                _cell([t for t in times if (t.contender, t.side) == (name, s)])
                for s in pictures.SIDES
            ),
        ]
        for name in dict.fromkeys(one.contender for one in times)
    ]
    header = [f"{stage}: median ms; {result}", *(f"{side} px" for side in pictures.SIDES)]
    return tables.markdown(header, rows)


def _cell(times: list[Time]) -> str:
    ms, results = np.median([one.ms for one in times]), [one.result for one in times]
    encoded = times[0].stage == "encode"
    result = f"{np.median(results) / 1000:.0f}" if encoded else f"{max(results)}"
    return f"{ms:.2f}; {result}"


def _write(path: Path, times: list[Time]) -> None:
    header = ["stage", "contender", "side", "round", "ms", "result"]
    rows = ([t.stage, t.contender, t.side, t.round, f"{t.ms:.3f}", t.result] for t in times)
    tables.write_csv(path, header, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.codecs", description="Decoders, resizers and encoders, compared."
    )
    parser.add_argument("folder", type=Path, help="with photographs")
    parser.add_argument("--most", type=count, default=20, help="photographs taken from it")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/codecs.csv"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
