"""From a class activation map to a picture over the photograph. Pure, but for its colour tables.

A map is placed where its cells really looked (``contract.CAM_ORIGIN``), scaled so that its
highest value is 1, coloured, and mixed into the photograph in proportion to ``alpha``. Where
the map is cold the specimen keeps its own colours and brightness.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway import contract

Colormap = Literal["jet", "turbo", "viridis"]
PictureFormat = Literal["png", "jpeg", "webp"]

COLORMAPS: tuple[Colormap, ...] = ("jet", "turbo", "viridis")
"""The rows of ``COLOR_TABLES``, from the top."""

COLOR_TABLES = PurePath("reference/colormaps.png")
"""256 colours for each of the maps; the page draws with them too."""

_UP = 2  # PNG's filter that leaves the difference from the pixel above

FADE = 0.5
"""Below this share of the map's highest value the colour fades out, down to none at zero."""


def normalise(cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map >= 0 so that its highest value is 1; a flat zero map stays zero."""
    highest = float(cam.max())
    return cam / highest if highest > 0 else np.zeros_like(cam)


def place(cam: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """Interpolate a map [h, h] over a picture of ``size`` (width, height): mode L, 0 to 255.

    Beyond the grid's edge its outermost cells go on.
    """
    pitch = contract.CAM_PITCH if len(cam) == contract.CAM_SIZE else contract.CAM_FINE_PITCH
    cells = (normalise(cam) * 255).round().astype(np.uint8)
    padded = cells.take(_padded(len(cells)), 0).take(_padded(len(cells)), 1)
    start = 1 - contract.CAM_ORIGIN / pitch
    end = start + contract.INPUT_SIZE / pitch
    box = (start, start, end, end)
    return Image.fromarray(padded).resize(size, Image.Resampling.BICUBIC, box)


def overlay(
    picture: Image.Image, cam: NDArray[np.float32], colormap: Colormap, alpha: float
) -> Image.Image:
    """Lay a map over an RGB picture: ``alpha`` of colour over 1 - ``alpha`` of the specimen."""
    heat = place(cam, picture.size)
    heat.putpalette(_veil(colormap, alpha), "RGBA")
    veil = heat.convert("RGBA")
    laid = picture.copy()
    laid.paste(veil, mask=veil)
    return laid


def encode(picture: Image.Image, picture_format: PictureFormat) -> bytes:
    """Encode an RGB picture."""
    if picture_format == "png":
        return _png(picture)
    options = {"jpeg": {"quality": 90}, "webp": {"quality": 90, "method": 0}}
    buffer = io.BytesIO()
    picture.save(buffer, picture_format.upper(), **options[picture_format])
    return buffer.getvalue()


def _png(picture: Image.Image) -> bytes:
    """Write a PNG, in under half of Pillow's quickest time and a fifth larger.

    Pillow weighs five filters for each row; one does. And a photograph's noise repeats nothing
    that zlib could find: Huffman coding alone saves its search. See https://www.w3.org/TR/png-3/.
    """
    width, height = picture.size
    pixels = np.frombuffer(picture.tobytes(), np.uint8).reshape(height, 3 * width)
    rows = np.full((height, 1 + 3 * width), _UP, np.uint8)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])  # modulo 256
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    data = coder.compress(rows.data) + coder.flush()
    chunks = _chunk(b"IHDR", head), _chunk(b"IDAT", data), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return len(data).to_bytes(4, "big") + kind + data + check.to_bytes(4, "big")


@cache
def _padded(cells: int) -> NDArray[np.intp]:
    """Index a row of cells with its outermost ones repeated."""
    return np.arange(-1, cells + 1).clip(0, cells - 1)


@lru_cache(maxsize=64)  # clients choose alpha
def _veil(colormap: Colormap, alpha: float) -> bytes:
    """256 RGBA quadruples: the colours, and how much of each is laid over the specimen."""
    table = np.frombuffer(_palette(colormap), np.uint8).reshape(256, 3)
    shares = [round(min(level / 255 / FADE, 1) * alpha * 255) for level in range(256)]
    return np.column_stack([table, np.array(shares, np.uint8)]).tobytes()


@cache
def _palette(colormap: Colormap) -> bytes:
    """256 RGB triples. The tables are Matplotlib's; a test compares them."""
    with files("gateway").joinpath(*COLOR_TABLES.parts).open("rb") as file:
        rows = np.asarray(Image.open(file).convert("RGB"))
    return bytes(rows[COLORMAPS.index(colormap)].tobytes())
