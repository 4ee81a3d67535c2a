"""Variations are repeatable, of the right size, and never lose the cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from export.augment import Specimen, Strength, augment
from export.smear import draw_smear

PLAIN = Strength(
    stain=0, mixing=0, background=0, grey=0, blur=0, noise=0, jpeg=0
)  # geometry alone varies
STILL = Strength(
    smallest=1, largest=1, stretch=0,
    stain=0, mixing=0, background=0, grey=0, blur=0, noise=0, jpeg=0,
)  # fmt: skip

FIELD = (200, 210, 200)


def variation(
    specimen: Specimen, seed: int, window: int = 224, strength: Strength | None = None
) -> npt.NDArray[np.uint8]:
    return augment(specimen, window, np.random.default_rng(seed), strength or Strength())


@pytest.fixture(scope="module")
def drawn() -> Specimen:
    return Specimen.of(draw_smear("MONOCYTE", 1, 200, 210), None)


def marked(x: float, y: float) -> Specimen:
    """A plain field of 640 x 480 with a red dot in the middle of the cell's box."""
    picture = Image.new("RGB", (640, 480), FIELD)
    left, upper = round(x * 640), round(y * 480)
    box = (left - 12, upper - 12, left + 12, upper + 12)
    ImageDraw.Draw(picture).ellipse(box, fill=(255, 0, 0))
    return Specimen.of(picture, box)


def dot(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return (red > 230) & (green < 60) & (blue < 60)


def shows_the_dot(pixels: npt.NDArray[np.uint8]) -> bool:
    # fillings outside the photograph may be of any one colour, red too: the field has to be there
    return bool(0 < dot(pixels).mean() < 0.5)


@pytest.mark.parametrize("window", [128, 224])
def test_a_variation_is_a_window_of_bytes(drawn: Specimen, window: int) -> None:
    """uint8 [window, window, 3], whatever is drawn."""
    for seed in range(20):
        pixels = variation(drawn, seed, window)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (window, window, 3))


@pytest.mark.parametrize("window", [128, 224])
def test_the_same_seed_draws_the_same_variation(drawn: Specimen, window: int) -> None:
    """Nothing but the generator that is passed in decides."""
    for seed in range(10):
        np.testing.assert_array_equal(
            variation(drawn, seed, window), variation(drawn, seed, window)
        )


def test_other_seeds_draw_other_variations(drawn: Specimen) -> None:
    """No two of twenty are alike."""
    assert len({variation(drawn, seed).tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize("window", [128, 224])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.3, 0.35), (0.85, 0.2), (0.06, 0.08), (0.95, 0.5)])
def test_the_cell_stays_in_the_frame(place: tuple[float, float], window: int) -> None:
    """However it is turned, scaled and shifted, the middle of the cell's box is in the picture."""
    specimen = marked(*place)
    lost = [
        seed for seed in range(100) if not shows_the_dot(variation(specimen, seed, window, PLAIN))
    ]
    assert lost == []


def test_a_whole_frame_shows_the_cell_away_from_the_middle() -> None:
    """A cell at the photograph's side is not always brought to the middle of a whole frame."""
    specimen = marked(0.95, 0.5)
    places = [np.argwhere(dot(variation(specimen, seed, 224, STILL))) for seed in range(40)]
    distances = [np.hypot(*(place.mean(0) - 112)) for place in places if len(place)]
    assert max(distances) > 50  # the shift alone reaches 0.12 x 224 x √2 = 38


def test_a_specimen_without_a_box_is_varied_round_its_middle() -> None:
    """Where nobody drew a box the picture's own middle is the centre."""
    assert Specimen.of(Image.new("RGB", (90, 60)), None).centre == (45, 30)
    assert Specimen.of(Image.new("RGB", (90, 60)), (10, 20, 20, 50)).centre == (15, 35)


def test_the_background_is_the_colour_of_the_bright_pixels() -> None:
    """A dark cell does not darken what fills the frame outside the photograph."""
    assert marked(0.5, 0.5).background == FIELD


def test_colours_stay_where_nothing_may_vary() -> None:
    """With a strength of none the stain, background, noise and camera leave colours alone."""
    specimen = Specimen.of(Image.new("RGB", (224, 224), (180, 120, 60)), None)
    for seed in range(50):
        middle = variation(specimen, seed, 224, STILL)[100:124, 100:124].astype(int)
        assert np.abs(middle - (180, 120, 60)).max() <= 2


def test_colours_vary_by_default() -> None:
    """The same field under the default strength takes clearly other colours."""
    specimen = Specimen.of(Image.new("RGB", (224, 224), (180, 120, 60)), None)
    middles = [variation(specimen, seed)[100:124, 100:124].mean((0, 1)) for seed in range(50)]
    assert (np.std(middles, axis=0) > 5).all()


def test_the_frame_is_the_whole_photograph() -> None:
    """Unscaled, a wide photograph is stretched to the square just as serving stretches it."""
    picture = Image.new("RGB", (448, 224), FIELD)
    ImageDraw.Draw(picture).rectangle((112, 56, 335, 167), fill=(255, 0, 0))  # a quarter of it
    specimen = Specimen.of(picture, None)
    shares = [dot(variation(specimen, seed, 224, STILL)).mean() for seed in range(30)]
    assert np.median(shares) == pytest.approx(0.25, abs=0.02)


def test_a_strength_is_weakened_in_all_it_varies() -> None:
    """Half of it is half of each amount, and of each scale's logarithm; none leaves all alone."""
    strength = Strength(scale_graded=True)
    half = strength.weakened(0.5)
    assert half.blur == strength.blur / 2
    assert half.smallest == pytest.approx(strength.smallest**0.5)
    assert half.largest == pytest.approx(strength.largest**0.5)
    assert half.graded is strength.graded
    nothing = strength.weakened(0)
    assert (nothing.smallest, nothing.largest) == (1, 1)
    assert not any((nothing.stretch, nothing.stain, nothing.mixing, nothing.background))
    assert not any((nothing.grey, nothing.blur, nothing.noise, nothing.jpeg))


def test_scale_alone_is_drawn_in_full() -> None:
    """How large a cell appears is no flaw that some photographs lack."""
    strength = Strength()
    nothing = strength.weakened(0)
    assert (nothing.smallest, nothing.largest) == (strength.smallest, strength.largest)
    assert not any((nothing.stretch, nothing.stain, nothing.mixing, nothing.background))
    assert not any((nothing.grey, nothing.blur, nothing.noise, nothing.jpeg))


def test_graded_photographs_are_varied_less_on_the_whole() -> None:
    """How strongly is drawn for each: the colours scatter less than always at full strength."""
    specimen = Specimen.of(Image.new("RGB", (224, 224), (180, 120, 60)), None)

    def scatter(graded: bool) -> float:
        strength = Strength(graded=graded)
        seeds = range(120)
        colours = [variation(specimen, seed, 64, strength).mean((0, 1)) for seed in seeds]
        return float(np.abs(np.array(colours) - (180, 120, 60)).mean())

    assert scatter(graded=True) < 0.75 * scatter(graded=False)
