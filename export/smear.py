"""Draw sample pictures that look like stained blood smears.

These are drawings: there is no specimen, no patient and no photograph behind them. They are for
trying the software, never for training it and never for judging it: a classifier that is right
about a drawing has shown nothing about blood.

The look is that of a Wright or May-Gruenwald-Giemsa stain. Lengths are in *units*, of which the
shorter side of a picture has 360, and shapes are signed distances, negative inside. The pixels
are made of seeded random numbers, sums, products, quotients and square roots alone, which IEEE
754 rounds alike everywhere, and of Pillow's integer resampling: the same arguments give the
same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, Generator
from PIL import Image, ImageFilter

from gateway.contract import CLASSES

SMALLEST = 48
"""The least width and height of a drawing, in pixels."""

_UNITS = 360
_SUPERSAMPLING = 2

Array = npt.NDArray[np.float64]
"""[height, width], or [height, width, 3] where it is light or a colour."""

Colour = tuple[int, int, int]

_BACKGROUND: Colour = (253, 232, 205)
_RED_CELL: Colour = (212, 172, 160)  # pinkish tan: eosin on haemoglobin
_PLATELET: Colour = (190, 158, 190)
_PLATELET_GRANULES: Colour = (124, 72, 148)
_VACUOLE: Colour = (246, 230, 222)


class Disc(NamedTuple):
    """Where something round is and how large: a cell in units, a lobe in radii of its cell."""

    x: float
    y: float
    radius: float


class Granules(NamedTuple):
    """Granules of a cytoplasm: distance and radius in units, ``share`` of the places taken."""

    dark: Colour
    bright: Colour
    spacing: float
    radius: float
    share: float


@dataclass(frozen=True)
class Cell:
    """What a white cell of a class looks like.

    The nucleus is a chain of ``beads``, the last ``spare`` of which may be missing, each joined to
    the next by a bridge of half width ``bridge`` radii. Its ``chromatin`` is light and dense in
    clumps, or, as far as ``lace`` goes from 0 to 1, in strands.
    """

    radius: float
    cytoplasm: Colour
    chromatin: tuple[Colour, Colour]
    beads: tuple[Disc, ...]
    bridge: float = 0.0
    spare: int = 0
    lace: float = 0.0
    granules: Granules | None = None
    vacuoles: int = 0


_CELLS = {
    "EOSINOPHIL": Cell(
        radius=70,
        cytoplasm=(196, 140, 150),
        chromatin=((136, 100, 160), (58, 36, 100)),
        beads=(Disc(-0.46, -0.22, 0.39), Disc(0.44, -0.28, 0.41)),
        bridge=0.07,
        granules=Granules((152, 66, 70), (232, 142, 116), spacing=7.0, radius=3.0, share=0.95),
    ),
    "LYMPHOCYTE": Cell(
        radius=53,
        cytoplasm=(160, 180, 218),
        chromatin=((112, 76, 146), (54, 32, 96)),
        beads=(Disc(-0.07, -0.04, 0.84),),
    ),
    "MONOCYTE": Cell(
        radius=76,
        cytoplasm=(166, 166, 190),
        chromatin=((156, 122, 172), (78, 48, 116)),
        beads=(
            Disc(-0.40, 0.34, 0.30),
            Disc(-0.42, -0.12, 0.33),
            Disc(-0.02, -0.36, 0.34),
            Disc(0.40, -0.12, 0.33),
            Disc(0.42, 0.22, 0.27),
        ),
        bridge=0.29,
        lace=1.0,
        granules=Granules((148, 132, 170), (160, 146, 180), spacing=5.0, radius=1.0, share=0.5),
        vacuoles=12,
    ),
    "NEUTROPHIL": Cell(
        radius=70,
        cytoplasm=(236, 206, 206),
        chromatin=((136, 100, 162), (56, 34, 100)),
        beads=(
            Disc(-0.46, 0.30, 0.27),
            Disc(-0.36, -0.26, 0.28),
            Disc(0.20, -0.44, 0.27),
            Disc(0.50, 0.06, 0.26),
        ),
        spare=1,
        bridge=0.055,
        granules=Granules((186, 134, 174), (208, 160, 190), spacing=4.6, radius=1.0, share=0.55),
    ),
}


class Patch(NamedTuple):
    """A window of the canvas round an object: where, and each pixel's place in units from it."""

    window: tuple[slice, slice]
    x: Array
    y: Array
    scale: float

    def noise(self, rng: Generator, period: float) -> Array:
        """Return smooth noise in -1 to 1 whose bumps are about ``period`` units apart."""
        return _noise(rng, self.x.shape, period * self.scale)

    def warped(self, rng: Generator, period: float, amount: float) -> tuple[Array, Array]:
        """Return x and y shifted a little, so that what is drawn there is not geometry."""
        shift_x, shift_y = self.noise(rng, period), self.noise(rng, period)
        return self.x + amount * shift_x, self.y + amount * shift_y


@dataclass(frozen=True)
class Canvas:
    """Light that comes through the smear, [height, width, 3] in 0-1, and its pixels per unit."""

    light: Array
    scale: float

    def patch(self, place: Disc, reach: float) -> Patch:
        """Return the window that ``reach`` radii round the middle of a place cover."""
        height, width, _ = self.light.shape
        columns = _pixels(place.x, place.radius * reach, self.scale, width)
        rows = _pixels(place.y, place.radius * reach, self.scale, height)
        across = (np.arange(columns.start, columns.stop) + 0.5) / self.scale - place.x
        down = (np.arange(rows.start, rows.stop) + 0.5) / self.scale - place.y
        grid_x, grid_y = np.meshgrid(across, down)
        return Patch((rows, columns), grid_x, grid_y, self.scale)


def draw_smear(cell: str, seed: int, width: int = 360, height: int = 363) -> Image.Image:
    """Draw a smear with one white cell of a class near the middle: RGB, the same every time.

    Raises:
        ValueError: ``cell`` is not one of ``CLASSES``, or a side is below ``SMALLEST`` pixels.
    """
    if cell not in CLASSES:
        raise ValueError(f"no class {cell!r}: it is one of {', '.join(CLASSES)}")
    if min(width, height) < SMALLEST:
        raise ValueError(f"{width} x {height}: a side has at least {SMALLEST} pixels")
    rng = Generator(PCG64([seed, CLASSES.index(cell)]))
    canvas = _empty_field(rng, width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    white = _white_cell_place(rng, canvas, _CELLS[cell].radius)
    red = _red_cell_places(rng, canvas, white)
    for place in red:
        _add_red_cell(rng, canvas, place)
    for place in _platelet_places(rng, canvas, [white, *red]):
        _add_platelet(rng, canvas, place)
    _add_white_cell(rng, canvas, _CELLS[cell], white)
    return _photograph(rng, canvas, width, height)


def draw_samples(folder: Path, seed: int) -> list[Path]:
    """Write one drawing of each class into ``folder``, each whole or not at all.

    They are JPEGs, as microscopes' cameras write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(draw_smear(cell, seed), folder / f"{cell.lower()}.jpg") for cell in CLASSES]


def _write(picture: Image.Image, path: Path) -> Path:
    aside = path.with_name(f".{path.name}.part")
    picture.save(aside, format="JPEG", quality=90)
    return aside.replace(path)


def _pixels(centre: float, reach: float, scale: float, size: int) -> slice:
    """Return the pixels of a canvas side within reach, at least one of them."""
    first, last = int((centre - reach) * scale), int((centre + reach) * scale)
    return slice(max(0, first), min(size, last + 1))


def _light(colour: Colour) -> Array:
    return np.array(colour, dtype=np.float64) / 255


def _mix(below: Array, above: Array, share: Array) -> Array:
    return below + (above - below) * share[..., None]


def _inside(distance: Array, softness: float = 1.2) -> Array:
    """Turn a signed distance into coverage in 0-1 whose edge is ``softness`` units soft."""
    share: Array = np.clip(0.5 - distance / (2 * softness), 0, 1)
    return share * share * (3 - 2 * share)


def _noise(rng: Generator, shape: tuple[int, ...], period: float) -> Array:
    """Return smooth noise in -1 to 1 whose bumps are about ``period`` pixels apart."""
    height, width = shape[:2]
    coarse = (max(2, int(height / period) + 1), max(2, int(width / period) + 1))
    bumps = Image.fromarray(rng.integers(0, 256, coarse, dtype=np.uint8))
    smooth = bumps.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64) / 127.5 - 1


def _length(x: Array, y: Array) -> Array:
    return np.asarray(np.sqrt(x * x + y * y), dtype=np.float64)


def _direction(rng: Generator) -> Array:
    """Return a random unit vector [2], without a sine."""
    while True:
        vector = rng.uniform(-1, 1, 2)
        length = _length(*vector)
        if length <= 1:  # else the corners of the square would be favoured
            return vector / length


def _oval(rng: Generator, x: Array, y: Array, radius: float, flattest: float) -> Array:
    """Return the distance to an oval that is turned at random, at most ``flattest`` flat."""
    (cos, sin), flat = _direction(rng), float(rng.uniform(flattest, 1))
    along, across = x * cos + y * sin, (y * cos - x * sin) / flat
    return _length(along, across) - radius


def _empty_field(rng: Generator, width: int, height: int) -> Canvas:
    """Background whose light falls off from a point near the middle."""
    scale = min(width, height) / _UNITS
    x = (np.arange(width) / width - rng.uniform(0.35, 0.65))[None, :]
    y = (np.arange(height) / height - rng.uniform(0.35, 0.65))[:, None]
    shade = 1 - 0.13 * (x * x + y * y) + 0.008 * _noise(rng, (height, width), 90 * scale)
    return Canvas(shade[..., None] * _light(_BACKGROUND), scale)


def _somewhere(rng: Generator, canvas: Canvas, radius: float) -> Disc:
    """Return a place on the canvas, or a little over its border."""
    height, width, _ = canvas.light.shape
    x = float(rng.uniform(-12, width / canvas.scale + 12))
    return Disc(x, float(rng.uniform(-12, height / canvas.scale + 12)), radius)


def _apart(a: Disc, b: Disc, share: float) -> bool:
    """Whether two middles are further apart than this share of the sum of their radii."""
    return bool(_length(np.array(a.x - b.x), np.array(a.y - b.y)) > share * (a.radius + b.radius))


def _white_cell_place(rng: Generator, canvas: Canvas, radius: float) -> Disc:
    height, width, _ = canvas.light.shape
    off_x, off_y = rng.uniform(-10, 10, 2)
    return Disc(width / canvas.scale / 2 + off_x, height / canvas.scale / 2 + off_y, radius)


def _red_cell_places(rng: Generator, canvas: Canvas, white: Disc) -> list[Disc]:
    """Place 15 to 25 red cells outside the white one: the fuller the field, the more overlap."""
    places: list[Disc] = []
    wanted, tries, typical = int(rng.integers(15, 26)), 0, float(rng.uniform(34, 39))
    while len(places) < wanted:
        tries += 1
        place = _somewhere(rng, canvas, typical * float(rng.uniform(0.9, 1.1)))
        near = max(0.45, 1.04 - tries / 1200)
        if _apart(place, white, 1) and all(_apart(place, other, near) for other in places):
            places.append(place)
    return places


def _platelet_places(rng: Generator, canvas: Canvas, taken: Sequence[Disc]) -> list[Disc]:
    """Place up to five platelets beside the cells: on a red cell one looks like a parasite."""
    tried = [_somewhere(rng, canvas, float(rng.uniform(7.5, 11))) for _ in range(160)]
    free = [place for place in tried if all(_apart(place, other, 1) for other in taken)]
    return free[: int(rng.integers(3, 6))]


def _add_red_cell(rng: Generator, canvas: Canvas, place: Disc) -> None:
    at, radius = canvas.patch(place, 1.3), place.radius
    warped_x, warped_y = at.warped(rng, radius * 1.1, radius * 0.07)
    edge = _oval(rng, warped_x, warped_y, radius, flattest=0.84)
    edge = edge + 0.5 * at.noise(rng, 6)
    off_x, off_y = rng.uniform(-0.09, 0.09, 2) * radius
    hollow = _oval(rng, warped_x - off_x, warped_y - off_y, radius * rng.uniform(0.34, 0.56), 0.8)
    pallor = rng.uniform(0.35, 0.95) * _inside(hollow, softness=radius * 0.24)
    rim = 0.3 * _inside(np.abs(edge + 2.4) - 1.2, softness=2.2)
    thickness = rng.uniform(0.85, 1.12) * (1 + rim - pallor)
    thickness = thickness + 0.05 * at.noise(rng, 9)
    absorbed = (1 - _light(_RED_CELL) / _light(_BACKGROUND)) * thickness[..., None]
    canvas.light[at.window] *= 1 - _inside(edge)[..., None] * absorbed


def _add_platelet(rng: Generator, canvas: Canvas, place: Disc) -> None:
    at, radius = canvas.patch(place, 2), place.radius
    body = _oval(rng, *at.warped(rng, 9, 2.2), radius, flattest=0.7)
    clumps = np.clip(0.5 + 0.9 * at.noise(rng, 3.2), 0, 1)
    core = clumps * _inside(body + 0.45 * radius, softness=2.5)
    colour = _mix(_light(_PLATELET), _light(_PLATELET_GRANULES), core)
    canvas.light[at.window] = _mix(canvas.light[at.window], colour, 0.9 * _inside(body, 1.6))


def _add_white_cell(rng: Generator, canvas: Canvas, kind: Cell, place: Disc) -> None:
    at = canvas.patch(place, 1.25)
    edge = _oval(rng, *at.warped(rng, 45, kind.radius * 0.06), kind.radius, flattest=0.9)
    edge = edge + 0.9 * at.noise(rng, 7)
    nucleus = np.maximum(_nucleus(rng, at, kind), edge + 1.5)
    colour = _cytoplasm(rng, at, kind, edge, nucleus)
    colour = _mix(colour, _chromatin(rng, at, kind, nucleus), _inside(nucleus))
    canvas.light[at.window] = _mix(canvas.light[at.window], colour, _inside(edge))


def _nucleus(rng: Generator, at: Patch, kind: Cell) -> Array:
    """Return the distance to the nucleus: the beads and bridges of the class, turned at random."""
    (cos, sin), mirror = _direction(rng), int(rng.integers(2)) * 2 - 1
    warped_x, warped_y = at.warped(rng, 26, kind.radius * 0.055)
    x = (warped_x * cos + warped_y * sin) / kind.radius
    y = (warped_y * cos - warped_x * sin) * mirror / kind.radius
    chosen = kind.beads[: len(kind.beads) - int(rng.integers(kind.spare + 1))]
    larger = np.sqrt((1, 1, len(kind.beads) / len(chosen)))  # fewer lobes, as much nucleus
    beads = [Disc(*(larger * bead + rng.uniform(-0.035, 0.035, 3))) for bead in chosen]
    middle = np.mean(beads, axis=0) * 0.7  # keeps a nucleus that lacks a bead in its cell
    x, y = x + middle[0], y + middle[1]
    rounds = [_oval(rng, x - b.x, y - b.y, b.radius, flattest=0.86) for b in beads]
    bridges = [_bridge(x, y, a, b) - kind.bridge for a, b in pairwise(beads)]
    distance = rounds[0]
    for part in [*rounds[1:], *bridges]:
        distance = _joined(distance, part, 0.06)
    return distance * kind.radius + 0.5 * at.noise(rng, 5)


def _bridge(x: Array, y: Array, a: Disc, b: Disc) -> Array:
    """Return the distance to the segment between the middles of two beads."""
    span_x, span_y = b.x - a.x, b.y - a.y
    along = ((x - a.x) * span_x + (y - a.y) * span_y) / (span_x * span_x + span_y * span_y)
    along = np.clip(along, 0, 1)
    return _length(x - a.x - along * span_x, y - a.y - along * span_y)


def _joined(a: Array, b: Array, smooth: float) -> Array:
    """Unite two shapes with a fillet (Quilez's polynomial smooth minimum)."""
    share: Array = np.clip(0.5 + 0.5 * (b - a) / smooth, 0, 1)
    return b + (a - b) * share - smooth * share * (1 - share)


def _chromatin(rng: Generator, at: Patch, kind: Cell, nucleus: Array) -> Array:
    """Colour a nucleus: dark clumps or strands, darker at its membrane."""
    coarse = at.noise(rng, 8)
    fine = at.noise(rng, 3.6)
    clumps = 0.92 - 1.3 * np.clip(0.5 * coarse + 0.7 * fine, -0.1, 0.6)
    strands = 1.0 - 1.5 * np.minimum(np.abs(0.7 * coarse + 0.7 * fine), np.abs(fine))
    membrane = 0.6 * _inside(np.abs(nucleus + 1.8) - 1.2, softness=2)
    dark = np.clip(clumps + (strands - clumps) * kind.lace + membrane, 0, 1)
    light, dense = kind.chromatin
    return _mix(_light(light), _light(dense), dark)


def _cytoplasm(rng: Generator, at: Patch, kind: Cell, edge: Array, nucleus: Array) -> Array:
    """Colour a cytoplasm: cloudy, denser at its border, with its granules and vacuoles."""
    cloud = 0.05 * at.noise(rng, 12)
    cloud = cloud + 0.04 * at.noise(rng, 4)
    border = 0.13 * _inside(np.abs(edge + 1.8) - 1, softness=2)
    colour: Array = _light(kind.cytoplasm) * (1 + cloud - border)[..., None]
    if kind.granules is not None:
        colour = _with_granules(rng, at, kind.granules, colour, _inside(edge + 2))
    for _ in range(kind.vacuoles):
        (cos, sin), far = _direction(rng), kind.radius * float(rng.uniform(0.5, 0.9))
        size = float(rng.uniform(1.8, 5.0))
        bubble = _length(at.x - far * cos, at.y - far * sin) - size
        colour = _mix(colour, _light(_VACUOLE), 0.85 * _inside(np.maximum(bubble, 2 - nucleus)))
    return colour


def _with_granules(
    rng: Generator, at: Patch, granules: Granules, colour: Array, where: Array
) -> Array:
    """Scatter two layers of granules over a colour, each on a jittered and bent lattice."""
    bent_x, bent_y = at.warped(rng, 16, granules.spacing * 0.7)
    slack = max(0.0, 1 - 2 * granules.radius / granules.spacing)
    for shift in (0.0, 0.5):
        across, down = bent_x / granules.spacing + shift, bent_y / granules.spacing + shift
        column, row = np.floor(across), np.floor(down)
        place = (row - row.min()).astype(np.intp), (column - column.min()).astype(np.intp)
        lots = rng.random((int(place[0].max()) + 1, int(place[1].max()) + 1, 4))
        aside_x, aside_y, tint, lot = np.moveaxis(lots[place], -1, 0)
        gap_x = across - column - 0.5 - slack * (aside_x - 0.5)
        gap_y = down - row - 0.5 - slack * (aside_y - 0.5)
        from_middle = _length(gap_x, gap_y) * granules.spacing
        sheen = np.clip(0.25 + 0.75 * tint - 0.3 * from_middle / granules.radius, 0, 1)
        grain = _mix(_light(granules.dark), _light(granules.bright), sheen)
        share = _inside(from_middle - granules.radius * (0.8 + 0.2 * tint), softness=0.9)
        colour = _mix(colour, grain, 0.92 * share * where * (lot < granules.share))
    return colour


def _photograph(rng: Generator, canvas: Canvas, width: int, height: int) -> Image.Image:
    """Take the picture: a little out of focus, at the size asked for, with a camera's noise."""
    sharp = Image.fromarray((canvas.light.clip(0, 1) * 255).astype(np.uint8))
    focus = ImageFilter.BoxBlur(0.7 * canvas.scale)  # twice: integers, close to a Gaussian
    small = sharp.filter(focus).filter(focus).resize((width, height), Image.Resampling.BOX)
    grain = rng.integers(-4, 5, (height, width, 1)) + rng.integers(-2, 3, (height, width, 3))
    noisy = np.asarray(small, dtype=np.int64) + grain
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
