"""From bytes to an upright RGB picture and the model's input tensor, within limits. Pure.

The format is told by the content, never by a name. A file is opened first, which reads its
header alone; only then is it known what decoding it would take.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from gateway import header
from gateway.contract import INPUT_SIZE
from gateway.errors import (
    MissingPhotograph,
    PhotographTooLarge,
    UnreadablePhotograph,
    UnsupportedMedia,
)
from gateway.pixels import lies_on_its_side, to_tensor, upright_rgb

# Imported here, so that the first request does not wait for Pillow to import all its decoders.
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""What is read, in Pillow's names."""

SMALLEST_SIDE = 32
"""A cell needs some pixels; less than this in either direction (px) shows nobody anything."""

LARGEST_SIDE = 1024
"""Overlays are drawn on at most this many pixels in either direction: what a screen shows
beside the photograph. Eight of 1600 and their replies took 200 MB more."""

# Pillow's own guard against pictures of too many pixels warns, per process; ours refuses, per
# request, from the header alone.
Image.MAX_IMAGE_PIXELS = None
# Compressed texts beside the picture, which nobody reads here.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024
# Each of Pillow's remarks on a damaged file is kept for ever, and their texts never repeat.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Opened:
    """A file whose header was read: the picture to be decoded, and what that takes.

    ``width`` and ``height`` are as stored, in pixels; ``factor`` is how many times
    smaller it is decoded, and ``weight`` how much memory that takes at its highest, in bytes.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    factor: int
    weight: int


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    ``width`` and ``height`` are the upright photograph's, in pixels; ``picture`` is that, RGB,
    at most ``LARGEST_SIDE`` in either direction; ``tensor`` is uint8 [224, 224, 3], the whole
    photograph stretched; ``format`` is one of ``FORMATS``; ``first_of_several`` says that the file
    holds more pictures, which were not read.
    """

    width: int
    height: int
    picture: Image.Image
    tensor: NDArray[np.uint8]
    format: str
    first_of_several: bool = False


def open_photograph(data: bytes, max_pixels: int) -> Opened:
    """Read a file's header.

    Raises:
        MissingPhotograph: no bytes.
        UnsupportedMedia: not a picture in one of ``FORMATS``.
        PhotographTooLarge: more than ``max_pixels``, by its header.
        UnreadablePhotograph: damaged, of absurd structure, or smaller than ``SMALLEST_SIDE``.
    """
    if not data:
        raise MissingPhotograph("The photograph is empty: send the file's bytes.")
    header.check_parts(data)
    if canvas := header.webp_size(data):
        _check_size(*canvas, max_pixels)
    image = _open(data)
    _check_size(*image.size, max_pixels)
    if len(image.info.get("exif", b"")) > header.MOST_EXIF:
        raise UnreadablePhotograph("The file's EXIF is too long: save it without.")
    # a phone's JPEG with a second picture inside is an MPO to Pillow
    name = "JPEG" if image.format == "MPO" else str(image.format)
    factor = reduction(*image.size)
    return Opened(image, *image.size, name, factor, _weigh(image, data, factor))


def decode(opened: Opened) -> Photograph:
    """Decode what was opened; once, since it is closed then.

    Raises:
        UnreadablePhotograph: damaged, truncated, or pixels of a kind that cannot be shown.
    """
    with opened.image as image:
        several = bool(getattr(image, "is_animated", False))
        picture, size = _decode(image, opened.factor)
        tensor = to_tensor(picture)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Photograph(*size, picture, tensor, opened.format, several)


def read_photograph(data: bytes, max_pixels: int) -> Photograph:
    """Open and decode one photograph.

    Raises:
        MissingPhotograph, UnsupportedMedia, PhotographTooLarge, UnreadablePhotograph: as above.
    """
    return decode(open_photograph(data, max_pixels))


def fingerprint(tensor: NDArray[np.uint8]) -> str:
    """Identify what the model sees, however its file was written: 32 hexadecimal digits."""
    return hashlib.blake2b(tensor.tobytes(), digest_size=16).hexdigest()


def reduction(width: int, height: int) -> int:
    """How many times smaller a picture may be decoded: 1, 2, 4 or 8.

    What is left is at least what overlays are drawn on, and twice what the model reads.
    """
    longer, shorter = max(width, height), min(width, height)
    fits = (f for f in (8, 4, 2) if longer >= f * LARGEST_SIDE and shorter >= f * 2 * INPUT_SIZE)
    return next(fits, 1)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if known := header.kind(data):
            message = (
                f"This {known} is damaged, or of a kind that is not read. Save it as 8 bit RGB."
            )
            raise UnreadablePhotograph(message) from error
        accepted = ", ".join(FORMATS)
        message = f"This is not a picture that can be read here. Send one of: {accepted}."
        raise UnsupportedMedia(message) from error
    except Exception as error:  # hostile bytes make decoders raise anything
        raise _damaged_header(error) from error


def _weigh(image: Image.Image, data: bytes, factor: int) -> int:
    try:
        return _weight(image, data, factor)
    except Exception as error:  # a TIFF's tags may hold anything, a text for a number too
        raise _damaged_header(error) from error


def _damaged_header(error: Exception) -> UnreadablePhotograph:
    return UnreadablePhotograph(
        f"The picture's header is damaged ({error}). Send the whole file again."
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PhotographTooLarge(
            f"The picture has {width} x {height} pixels; at most {max_pixels:,} are accepted. "
            "Crop it to the field with the cell, or scale it down."
        )
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadablePhotograph(
            f"The picture has {width} x {height} pixels; a cell cannot be read on fewer than "
            f"{SMALLEST_SIDE} in either direction."
        )


def _decode(image: Image.Image, factor: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode; return the picture and the whole photograph's size, both upright."""
    width, height = image.size
    try:
        if image.format in ("JPEG", "MPO"):
            # the decoder itself makes it smaller, for less time and memory
            image.draft(None, (width // factor, height // factor))
            factor = 1
        picture = upright_rgb(image, factor)
        return picture, (height, width) if lies_on_its_side(image) else (width, height)
    except Exception as error:  # hostile bytes make decoders raise anything
        message = f"The picture is damaged or incomplete ({error}). Send the whole file again."
        raise UnreadablePhotograph(message) from error


def _weight(image: Image.Image, data: bytes, factor: int) -> int:
    """Estimate the bytes that decoding takes; the figures a pixel are measured."""
    pixels = image.width * image.height
    reduced = 4 * pixels // factor**2
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return reduced + (_coefficients(image) if header.jpeg_scans(data) > 1 else 0)
    own = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    if image.format == "WEBP":  # two canvases and a copy
        own = 16
    copied = 0 if factor == 1 and image.mode == "RGB" else reduced
    beside = _beside(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
    return pixels * own + copied + beside


def _coefficients(image: JpegImagePlugin.JpegImageFile) -> int:
    """Bytes of all coefficients, which a JPEG of several scans keeps: 2 a sample."""
    across, down = max(h for _, h, _, _ in image.layer), max(v for _, _, v, _ in image.layer)
    return sum(
        2 * image.width * image.height * h * v // (across * down) for _, h, v, _ in image.layer
    )


def _beside(image: TiffImagePlugin.TiffImageFile) -> int:
    """Bytes that a TIFF takes beside its picture: a strip, which may be all of it, and a turn."""
    tags, pixels = image.tag_v2, image.width * image.height
    bits = sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    rows = tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height)  # tiles are small
    share = min(1.0, rows / image.height)
    turned = tags.get(ExifTags.Base.Orientation, 1) != 1
    return int(pixels * bits * share / 8) + (4 * pixels if turned else 0)
