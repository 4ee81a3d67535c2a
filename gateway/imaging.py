"""From bytes to an upright RGB picture and the model's input tensor. Pure.

The format is told by the content, never by a name. The picture is brought to what a person
would see: EXIF orientation applied, transparency laid on white (the colour of an empty slide),
CMYK, palettes, greyscale and 16 bits reduced to 8 bit RGB.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from gateway.contract import INPUT_SIZE, RESIZE_FILTER
from gateway.errors import (
    MissingPhotograph,
    PhotographTooLarge,
    UnreadablePhotograph,
    UnsupportedMedia,
)

# Imported here, so that the first request does not wait for Pillow to import all its decoders.
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""What is read, in Pillow's names."""

SMALLEST_SIDE = 32
"""A cell needs some pixels; less than this in either direction (px) shows nobody anything."""

# Pillow's own guard against pictures of too many pixels warns, per process; ours refuses, per
# request, from the header alone.
Image.MAX_IMAGE_PIXELS = None


LARGEST_SIDE = 1600
"""Overlays are drawn on at most this many pixels in either direction: what a screen shows. The
model's input comes from the photograph itself, which is let go as soon as both are made."""


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    ``width`` and ``height`` are the upright photograph's, in pixels; ``picture`` is that, RGB,
    at most ``LARGEST_SIDE`` in either direction; ``tensor`` is uint8 [224, 224, 3], the whole
    photograph stretched; ``format`` is one of ``FORMATS``; ``first_of_several`` says that the
    file holds more pictures, which were not read.
    """

    width: int
    height: int
    picture: Image.Image
    tensor: NDArray[np.uint8]
    format: str
    first_of_several: bool = False


def read_photograph(data: bytes, max_pixels: int) -> Photograph:
    """Decode one photograph.

    Raises:
        MissingPhotograph: no bytes.
        UnsupportedMedia: not a picture in one of ``FORMATS``.
        PhotographTooLarge: more than ``max_pixels``, by its header; nothing was decoded.
        UnreadablePhotograph: damaged, truncated, or smaller than ``SMALLEST_SIDE``.
    """
    if not data:
        raise MissingPhotograph("The photograph is empty: send the file's bytes.")
    with _open(data) as image:
        _check_size(image, max_pixels)
        # a phone's JPEG with a second picture inside is an MPO to Pillow
        picture_format = "JPEG" if image.format == "MPO" else str(image.format)
        several = _has_second_frame(image)
        picture = _decode(image)
        width, height = picture.size
        tensor = to_tensor(picture)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Photograph(width, height, picture, tensor, picture_format, several)


def to_tensor(picture: Image.Image) -> NDArray[np.uint8]:
    """Stretch an RGB picture to the model's input: uint8 [224, 224, 3]."""
    resample = Image.Resampling[RESIZE_FILTER.upper()]
    return np.asarray(picture.resize((INPUT_SIZE, INPUT_SIZE), resample))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        accepted = ", ".join(FORMATS)
        message = f"This is not a picture that can be read here. Send one of: {accepted}."
        raise UnsupportedMedia(message) from error
    except Exception as error:  # hostile bytes make decoders raise anything
        message = f"The picture's header is damaged ({error}). Send the whole file again."
        raise UnreadablePhotograph(message) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
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


def _has_second_frame(image: Image.Image) -> bool:
    """Look for one more picture; counting all of them takes a hostile TIFF minutes."""
    try:
        image.seek(1)
    except Exception:  # noqa: BLE001  # EOFError for one picture; damaged ones raise anything
        several = False
    else:
        several = True
    image.seek(0)
    return several


def _decode(image: Image.Image) -> Image.Image:
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except Exception as error:  # hostile bytes make decoders raise anything
        message = f"The picture is damaged or incomplete ({error}). Send the whole file again."
        raise UnreadablePhotograph(message) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # grey; Pillow's own conversion clips
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bit pixels have no agreed range; save 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # Pillow would copy it
