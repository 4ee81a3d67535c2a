"""From a class activation map to a picture over the photograph. Pure, but for its colour tables.

A map is placed where its cells really looked (``contract.CAM_ORIGIN``), scaled so that its
highest value is 1, coloured, and mixed into the photograph in proportion to ``alpha``. Where
the map is cold the specimen keeps its own colours and brightness.
"""

from __future__ import annotations

import io
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

_HUFFMAN_ONLY = 2  # zlib's Z_HUFFMAN_ONLY

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
    buffer = io.BytesIO()
    options: dict[PictureFormat, dict[str, int]] = {
        # Huffman coding alone: a photograph's noise repeats nothing that zlib could find, so its
        # search costs several times as long and saves next to nothing
        "png": {"compress_level": 1, "compress_type": _HUFFMAN_ONLY},
        "jpeg": {"quality": 90},
        "webp": {"quality": 90, "method": 0},
    }
    picture.save(buffer, picture_format.upper(), **options[picture_format])
    return buffer.getvalue()


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
