"""From a picture as it is stored to the pixels that a person, and the model, would see. Pure.

The one truth for training and serving: EXIF orientation applied, transparency laid on white (the
colour of an empty slide), palettes, greyscale, 12 and 16 bits brought to 8 bit RGB, and colours
that an embedded profile describes brought to sRGB, which is what pictures without one are in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from gateway.contract import INPUT_SIZE, RESIZE_FILTER

# Pillow's own reader mixes up the planes of uncompressed 16 bit TIFFs, and takes a list of
# millions of strips at its word; libtiff does neither
TiffImagePlugin.READ_LIBTIFF = True

_SRGB = ImageCms.createProfile("sRGB")
_PROFILES = {"RGB": "RGB ", "CMYK": "CMYK"}
"""Pillow's mode -> the colour space in the header of a profile that can describe it."""

_BAND = 256  # rows converted at once: a large picture is never in memory in all its forms
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def upright_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """Decode an opened picture to upright 8 bit sRGB.

    Args:
        image: what ``Image.open`` gave, in any mode.
        factor: how many times smaller the result shall be: 1, 2, 4 or 8; each pixel is then the
            mean of ``factor`` x ``factor``.

    Raises:
        Exception: whatever Pillow's decoders make of damaged bytes.
        ValueError: pixels that cannot be brought to 8 bits or to RGB.
    """
    image.load()
    turn = _turn(image)
    opaque = _opaque(image, factor)
    if turn is not None:
        opaque = opaque.transpose(turn)
    return _to_srgb(opaque, image.info.get("icc_profile"))


def lies_on_its_side(image: Image.Image) -> bool:
    """Tell whether a decoded picture was stored with width and height exchanged."""
    return _turn(image) in _ON_ITS_SIDE


def to_tensor(picture: Image.Image) -> NDArray[np.uint8]:
    """Stretch an RGB picture to the model's input: uint8 [224, 224, 3]."""
    resample = Image.Resampling[RESIZE_FILTER.upper()]
    return np.asarray(picture.resize((INPUT_SIZE, INPUT_SIZE), resample))


def _turn(image: Image.Image) -> Image.Transpose | None:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return None  # Pillow turns these itself
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


@dataclass(frozen=True)
class _Greys:
    """How 9 to 16 bits of grey are stored; Pillow's own conversion would clip them."""

    surplus: int  # bits over 8
    inverted: bool  # TIFF's WhiteIsZero
    transparent: int | None

    @classmethod
    def of(cls, image: Image.Image) -> _Greys:
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        return cls(bits - 8, inverted, image.info.get("transparency"))

    def read(self, band: Image.Image) -> Image.Image:
        """Bring a band to RGB."""
        deep = np.asarray(band)
        grey: NDArray[np.uint8] = (deep >> self.surplus).astype(np.uint8)
        if self.inverted:
            grey = ~grey
        if self.transparent is not None:
            grey[deep == self.transparent] = 255
        return Image.fromarray(grey).convert("RGB")


def _opaque(image: Image.Image, factor: int) -> Image.Image:
    """Bring a decoded picture to RGB, or CMYK, without transparency; band by band."""
    if image.mode in _PROFILES and factor == 1 and not image.has_transparency_data:
        return image
    greys = _Greys.of(image) if image.mode.startswith("I;16") else None
    width, height = image.size
    mode = "CMYK" if image.mode == "CMYK" else "RGB"
    small = Image.new(mode, (-(-width // factor), -(-height // factor)))
    for top in range(0, height, _BAND):
        band = image.crop((0, top, width, min(top + _BAND, height)))
        flat = greys.read(band) if greys else _flat(band)
        small.paste(flat.reduce(factor) if factor > 1 else flat, (0, top // factor))
    return small


def _flat(band: Image.Image) -> Image.Image:
    if band.mode in ("I", "F"):
        raise ValueError("signed and 32 bit pixels have no agreed range; save 8 or 16 bits")
    if band.mode == "LAB":
        raise ValueError("Lab colours are not read here; save it as RGB")
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return band if band.mode in _PROFILES else band.convert("RGB")


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring colours to sRGB by their profile; one that is damaged or of others is passed over."""
    if profile:
        try:
            described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if described.profile.xcolor_space == _PROFILES[picture.mode]:
                converted = ImageCms.profileToProfile(picture, described, _SRGB, outputMode="RGB")
                assert converted is not None  # only a conversion in place gives none
                return converted
        except (OSError, ImageCms.PyCMSError):
            pass  # as browsers do
    return picture if picture.mode == "RGB" else picture.convert("RGB")
