"""Vary a photograph as microscopes, stains and cameras do.

Pure functions of a picture and a random generator. Geometry: turned by any angle, mirrored,
scaled, stretched, shifted, with what lies outside the photograph filled in different ways.
Colour: a random affine map in optical density (Beer-Lambert), which is where stains mix: its
matrix changes the strength and hue of the stains, its offset the colour of the background.
Then the camera: focus, noise and JPEG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from gateway.contract import INPUT_SIZE

_OPTICAL_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)

# Rows: the colours of haematoxylin, eosin and the rest in optical density (Ruifrok & Johnston,
# Anal Quant Cytol Histol 23, 2001). Romanowsky stains (azure B and eosin Y) lie close by.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float32)
_UNMIX = np.linalg.inv(_STAINS)


@dataclass(frozen=True)
class Strength:
    """How far each thing varies at most.

    With ``graded``, how strongly a picture varies is drawn as well, from not at all to fully:
    the network then sees photographs as users send them, and ones that no laboratory makes.
    Scale is drawn in full all the same, unless ``scale_graded``: how large a cell appears is no
    flaw of a photograph, and who knows lymphocytes at one scale takes a closer one for a monocyte.
    """

    smallest: float = 0.4
    largest: float = 2.4
    stretch: float = 0.2
    stain: float = 0.5
    mixing: float = 0.12
    background: float = 0.4
    grey: float = 0.04
    blur: float = 2.5
    noise: float = 8.0
    jpeg: float = 0.5
    graded: bool = True
    scale_graded: bool = False

    def weakened(self, amount: float) -> Strength:
        """Return this strength at ``amount`` of it (0 to 1), the scale only if it is graded."""
        weakened = {
            field.name: amount * getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("smallest", "largest", "graded", "scale_graded")
        }
        if self.scale_graded:
            weakened |= {"smallest": self.smallest**amount, "largest": self.largest**amount}
        return replace(self, **weakened)


@dataclass(frozen=True)
class Specimen:
    """A decoded photograph and the point round which it is varied.

    ``centre`` is x, y in pixels: the white cell's, where it is known, else the picture's.
    """

    picture: Image.Image
    centre: tuple[float, float]
    background: tuple[int, int, int]

    @classmethod
    def of(cls, picture: Image.Image, box: tuple[int, int, int, int] | None) -> Specimen:
        """Take the centre from the cell's box and the background from the bright pixels."""
        width, height = picture.size
        centre = (width / 2, height / 2)
        if box is not None:
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        pixels = np.asarray(picture.resize((48, 48))).reshape(-1, 3)
        brightness = pixels.sum(1)
        bright = pixels[brightness >= np.percentile(brightness, 60)]
        red, green, blue = (int(channel) for channel in np.median(bright, axis=0))
        return cls(picture, centre, (red, green, blue))


def augment(
    specimen: Specimen, window: int, rng: np.random.Generator, strength: Strength
) -> NDArray[np.uint8]:
    """Draw one variation: uint8 [window, window, 3].

    A ``window`` of INPUT_SIZE shows the whole frame; a smaller one shows that many pixels of
    the frame round the cell, at the same magnification.
    """
    if strength.graded:
        strength = strength.weakened(rng.random())
    picture = _geometry(specimen, window, rng, strength)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, strength.blur)))
    pixels = _colour(np.asarray(picture), rng, strength)
    if rng.random() < strength.jpeg:
        pixels = _recompress(pixels, int(rng.integers(30, 95)))
    return pixels


def _geometry(
    specimen: Specimen, window: int, rng: np.random.Generator, strength: Strength
) -> Image.Image:
    width, height = specimen.picture.size
    zoom = np.exp(rng.uniform(np.log(strength.smallest), np.log(strength.largest)))
    aspect = np.exp(rng.uniform(-strength.stretch, strength.stretch))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    # the frame is the whole photograph stretched to a square, so one frame pixel is this many
    # photograph pixels; the specimen turns before the stretch, as under a microscope
    scale = np.diag([width / INPUT_SIZE * aspect, height / INPUT_SIZE / aspect]) / zoom
    matrix = turn @ mirror @ scale
    # a window stays on the cell; a whole frame shows it anywhere between its own place and the
    # middle, so that neither the turn nor the zoom takes it out of view
    towards_cell = 1.0 if window < INPUT_SIZE else rng.uniform(0.4, 1.0)
    middle = np.array([width / 2, height / 2])
    centre = middle + towards_cell * (np.array(specimen.centre) - middle)
    centre = centre - matrix @ rng.uniform(-0.12 * window, 0.12 * window, 2)
    # the cell's place in the frame, from its middle; one at the photograph's edge may be outside
    place = np.linalg.solve(matrix, np.array(specimen.centre) - centre)
    centre = np.array(specimen.centre) - matrix @ place.clip(-0.46 * window, 0.46 * window)
    return _warp(specimen, matrix, centre, window, rng)


def _warp(
    specimen: Specimen,
    matrix: NDArray[np.float64],
    centre: NDArray[np.float64],
    window: int,
    rng: np.random.Generator,
) -> Image.Image:
    picture = specimen.picture
    while np.sqrt(abs(np.linalg.det(matrix))) > 1.6:  # bilinear sampling alone would alias
        picture, matrix, centre = picture.reduce(2), matrix / 2, centre / 2
    fill = specimen.background
    outside = rng.random()
    if outside < 0.35:
        picture, centre = _mirrored(picture, centre)
    elif outside < 0.5:
        fill = (0, 0, 0)
    elif outside < 0.6:
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))  # type: ignore[assignment]  # mypy loses the length
    offset = centre - matrix @ np.array([window / 2, window / 2])
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    return picture.transform(
        (window, window),
        Image.Transform.AFFINE,
        tuple(float(c) for c in coefficients),
        Image.Resampling.BILINEAR,
        fillcolor=fill,
    )


def _mirrored(
    picture: Image.Image, centre: NDArray[np.float64]
) -> tuple[Image.Image, NDArray[np.float64]]:
    pad_x, pad_y = picture.width // 2, picture.height // 2
    padded = np.pad(np.asarray(picture), ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), "reflect")
    return Image.fromarray(padded), centre + np.array([pad_x, pad_y])


def _colour(
    pixels: NDArray[np.uint8], rng: np.random.Generator, strength: Strength
) -> NDArray[np.uint8]:
    stains = np.exp(rng.normal(0, strength.stain, 3).clip(-0.8, 0.8))
    matrix = _UNMIX @ np.diag(stains) @ _STAINS + rng.normal(0, strength.mixing, (3, 3))
    if rng.random() < strength.grey:
        matrix = matrix @ np.full((3, 3), 1 / 3)
    offset = strength.background * (rng.uniform(-0.32, 1) + rng.normal(0, 0.24, 3))
    density = _OPTICAL_DENSITY[pixels].reshape(-1, 3) @ matrix.astype(np.float32)
    light = 256 * np.exp(-(density + offset.astype(np.float32))) - 1
    if rng.random() < 0.3:
        light += rng.standard_normal(light.shape, np.float32) * rng.uniform(0, strength.noise)
    varied: NDArray[np.uint8] = light.clip(0, 255).astype(np.uint8).reshape(pixels.shape)
    return varied


def _recompress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
