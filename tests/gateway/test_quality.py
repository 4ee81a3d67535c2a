"""Which photographs are flagged, and which flags say that no answer can be taken."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from export.smear import draw_smear
from gateway import quality
from gateway.contract import CLASSES
from gateway.imaging import Photograph
from gateway.pixels import to_tensor

TENSORS = arrays.arrays(np.uint8, (56, 56, 3)).map(lambda a: a.repeat(4, 0).repeat(4, 1))


def photograph(picture: Image.Image, *, several: bool = False) -> Photograph:
    return Photograph(*picture.size, picture, to_tensor(picture), "PNG", several)


def flags(picture: Image.Image, **options: bool) -> list[str]:
    return [flag.flag for flag in quality.assess(photograph(picture, **options)).flags]


def doubts(picture: Image.Image, unfamiliarity: float = 0.0) -> list[str]:
    found = quality.doubts(unfamiliarity, quality.assess(photograph(picture)))
    return [doubt.reason for doubt in found]


def lit(picture: Image.Image, factor: float) -> Image.Image:
    return picture.point([min(255, round(level * factor)) for level in range(256)] * 3)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("size", [(224, 224), (360, 363), (640, 480), (2000, 1500)])
def test_ordinary_photographs_have_no_flag(name, size):
    """Flags are for the exception: the sizes that laboratories send have none."""
    assert flags(draw_smear(name, 3).resize(size)) == []


def test_what_is_wrong_with_the_shape_is_said(smear):
    """Small, narrow, animated: each brings its own flag, and none of them withholds the answer."""
    for odd, several, expected in (
        (smear.resize((100, 120)), False, "enlarged"),
        (smear.resize((900, 300)), False, "distorted"),
        (smear, True, "first-of-several"),
    ):
        assert expected in flags(odd, several=several)
        assert doubts(odd) == []


def test_the_sentence_names_the_size_that_was_enlarged(smear):
    """A person can see which photograph it was."""
    (flag,) = quality.assess(photograph(smear.resize((200, 222)))).flags
    assert "200 x 222" in flag.detail


@pytest.mark.parametrize(
    ("degraded", "expected"),
    [
        (lambda p: p.filter(ImageFilter.GaussianBlur(2.5 * p.width / 224)), "blurred"),
        (lambda p: lit(p, 0.3), "underexposed"),
        (lambda p: lit(p, 1.5), "overexposed"),
    ],
)
def test_what_is_wrong_with_the_light_or_focus_is_said(smear, degraded, expected):
    """A warning alone: measured, the model still names most of these right."""
    assert flags(degraded(smear)) == [expected]
    assert doubts(degraded(smear)) == []


def red_cells() -> Image.Image:
    """Pale discs of haemoglobin's colour on a bright slide, and nothing else."""
    y, x = np.mgrid[0:224, 0:224]
    pixels = np.full((224, 224, 3), (235, 225, 215), np.uint8)
    for row in range(30, 224, 55):
        for column in range(30, 224, 55):
            pixels[(y - row) ** 2 + (x - column) ** 2 < 22**2] = (215, 160, 150)
    return Image.fromarray(pixels)


def test_a_field_of_red_cells_alone_gets_no_answer():
    """There is no nucleus in view: whatever class came out would be invented."""
    assert "no-nucleus" in flags(red_cells())
    assert doubts(red_cells()) == ["no-nucleus"]


def test_one_nucleus_among_the_red_cells_is_enough():
    """A purple disc of a tenth of the field's width."""
    pixels = np.array(red_cells())
    y, x = np.mgrid[0:224, 0:224]
    pixels[(y - 110) ** 2 + (x - 110) ** 2 < 14**2] = (110, 70, 150)
    assert "no-nucleus" not in flags(Image.fromarray(pixels))


@pytest.mark.parametrize("grey", [0, 11, 128, 255])
def test_a_uniform_picture_gets_no_answer(grey):
    """Of whatever grey, and without a word on the focus of nothing."""
    picture = Image.new("RGB", (300, 300), (grey, grey, grey))
    assert "uniform" in flags(picture)
    assert not {"blurred", "no-nucleus"} & set(flags(picture))
    assert doubts(picture) == ["uniform"]


@pytest.mark.parametrize(
    ("unfamiliarity", "reasons"),
    [(0.0, []), (1.0, []), (1.001, ["unfamiliar"]), (9e9, ["unfamiliar"])],
)
def test_what_lies_beyond_the_familiar_is_doubted(smear, unfamiliarity, reasons):
    """Up to the limit the answer stands; above it there is a reason not to take it."""
    assert doubts(smear, unfamiliarity) == reasons


def test_reasons_add_up():
    """The model's own doubt and the photograph's are both told, the model's first."""
    assert doubts(red_cells(), 1.7) == ["unfamiliar", "no-nucleus"]


@given(TENSORS)
def test_measures_are_numbers_in_their_range(tensor):
    """Whatever the pixels: no division by nothing, no logarithm of it."""
    measures = quality.measure(tensor)
    assert 0 <= measures.sharpness < 64  # (4 + 4)^2: each pixel the opposite of its neighbours
    assert 0 <= measures.brightness <= 255
    assert 0 <= measures.clipped <= 1
    assert np.isfinite(measures.nucleus)


@given(TENSORS)
def test_measures_do_not_depend_on_which_way_the_slide_lay(tensor):
    """Turned or mirrored, a photograph is as sharp, as bright and as stained as before."""
    plain = quality.measure(tensor)
    for turned in (np.rot90(tensor), tensor[:, ::-1], tensor[::-1]):
        measures = quality.measure(np.ascontiguousarray(turned))
        for name in ("sharpness", "brightness", "clipped", "nucleus"):
            assert getattr(measures, name) == pytest.approx(
                getattr(plain, name), abs=1e-3, rel=1e-3
            )


@given(TENSORS, st.integers(1, 3))
def test_blurring_never_sharpens(tensor, sigma):
    """More blur, less sharpness; but for pictures that are uniform already."""
    blurred = Image.fromarray(tensor).filter(ImageFilter.GaussianBlur(sigma))
    before, after = quality.measure(tensor), quality.measure(np.asarray(blurred))
    assert after.sharpness <= before.sharpness + 0.01


@pytest.fixture(scope="module")
def lymphocyte() -> np.ndarray:
    """A drawn one, as the model gets it."""
    return to_tensor(draw_smear("LYMPHOCYTE", 5))


@given(factor=st.floats(0.3, 1.0))
def test_dimming_changes_brightness_and_not_the_stain(lymphocyte, factor):
    """The nucleus is measured against the slide, so the lamp does not count."""
    dimmed = (lymphocyte * factor).round().astype(np.uint8)
    before, after = quality.measure(lymphocyte), quality.measure(dimmed)
    assert after.brightness == pytest.approx(factor * before.brightness, abs=1.5)
    assert after.nucleus == pytest.approx(before.nucleus, abs=0.04)


@given(arrays.arrays(np.uint8, st.integers(2, 400)), st.integers(0, 99))
def test_percentiles_are_numpys(values, percent):
    """They are found in another way, and are the same."""
    assert quality._percentile(values, percent) == pytest.approx(np.percentile(values, percent))
