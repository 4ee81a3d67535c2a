"""From a class activation map to a picture over the photograph."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from gateway import contract, heatmap

CAMS = st.sampled_from([contract.CAM_SIZE, contract.CAM_FINE_SIZE]).flatmap(
    lambda n: arrays.arrays(np.float32, (n, n), elements=st.floats(0, 2.0**60, width=32))
)
SIZES = st.tuples(st.integers(32, 300), st.integers(32, 300))


def one_hot(size: int, row: int, column: int) -> np.ndarray:
    cam = np.zeros((size, size), np.float32)
    cam[row, column] = 3.5
    return cam


@pytest.mark.parametrize("name", heatmap.COLORMAPS)
def test_colour_tables_are_matplotlibs(name):
    """Each table equals the one that the field means by that name."""
    expected = (mpl.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    table = np.frombuffer(heatmap._palette(name), np.uint8).reshape(256, 3)
    assert np.array_equal(table, expected)


def test_normalise_scales_the_highest_to_one():
    """The highest value becomes 1; nothing else moves relative to it."""
    assert heatmap.normalise(np.array([[0, 2], [4, 1]], np.float32)).tolist() == [
        [0, 0.5],
        [1, 0.25],
    ]


def test_a_flat_map_stays_cold():
    """A map of zeros is no evidence, and is not blown up into any."""
    assert not heatmap.normalise(np.zeros((4, 4), np.float32)).any()
    picture = Image.new("RGB", (60, 40), (120, 90, 200))
    laid = heatmap.overlay(picture, np.zeros((4, 4), np.float32), "jet", 0.4)
    assert np.array_equal(np.asarray(laid), np.asarray(picture))


@pytest.mark.parametrize(
    ("size", "pitch"),
    [
        (contract.CAM_SIZE, contract.CAM_PITCH),
        (contract.CAM_FINE_SIZE, contract.CAM_FINE_PITCH),
    ],
)
def test_a_cell_is_drawn_where_it_looked(size, pitch):
    """The heat of cell i peaks at the centre of the pixels it looked at, not i / n of the way."""
    for row, column in [(0, 1), (1, size - 1), (size - 2, 2)]:
        heat = np.asarray(heatmap.place(one_hot(size, row, column), (224, 224)))
        y, x = np.argwhere(heat == heat.max()).mean(0)
        centre = [contract.CAM_ORIGIN + (i + 0.5) * pitch for i in (row, column)]
        if 0 < row < size - 1:
            assert abs(y + 0.5 - centre[0]) <= 1
        if 0 < column < size - 1:
            assert abs(x + 0.5 - centre[1]) <= 1


def test_placement_is_the_networks_own():
    """The contract's grid is where the real network's cells look, by the layers' arithmetic."""
    from export.architecture import CONVOLUTIONS

    first = CONVOLUTIONS[0]
    pitch = float(first.stride)
    centre = first.kernel / 2
    for convolution in CONVOLUTIONS[:-1]:
        if convolution is CONVOLUTIONS[6]:
            assert (pitch, centre - pitch / 2) == (contract.CAM_FINE_PITCH, contract.CAM_ORIGIN)
        if convolution.pooled:
            centre += pitch / 2
            pitch *= 2
    assert (pitch, centre - pitch / 2) == (contract.CAM_PITCH, contract.CAM_ORIGIN)


def test_the_overlay_keeps_the_photographs_own_aspect():
    """A wide photograph gets a wide overlay, pixel for pixel."""
    laid = heatmap.overlay(Image.new("RGB", (640, 480)), one_hot(18, 9, 9), "turbo", 0.4)
    assert laid.size == (640, 480)


def test_the_hottest_place_is_forty_percent_colour():
    """At its peak the overlay is alpha of the colour map's top over 1 - alpha of the specimen."""
    picture = Image.new("RGB", (224, 224), (100, 150, 200))
    laid = np.asarray(heatmap.overlay(picture, np.ones((4, 4), np.float32), "jet", 0.4))
    top = np.frombuffer(heatmap._palette("jet"), np.uint8).reshape(256, 3)[-1]
    expected = 0.4 * top + 0.6 * np.array([100, 150, 200])
    assert np.abs(laid[112, 112] - expected).max() <= 1


def test_cold_places_keep_the_specimens_brightness():
    """Far from the heat the photograph is untouched."""
    picture = Image.new("RGB", (224, 224), (230, 215, 190))
    laid = np.asarray(heatmap.overlay(picture, one_hot(18, 3, 3), "jet", 0.4))
    assert (laid[120:, 120:] == (230, 215, 190)).all()


def test_alpha_zero_is_the_photograph_itself():
    """No colour at all, whatever the map."""
    picture = Image.effect_noise((50, 70), 60).convert("RGB")
    laid = heatmap.overlay(picture, np.ones((18, 18), np.float32), "viridis", 0.0)
    assert np.array_equal(np.asarray(laid), np.asarray(picture))


@pytest.mark.parametrize("picture_format", ["png", "jpeg", "webp"])
def test_overlays_are_encoded_as_asked(picture_format):
    """The bytes are of the format that the reply says they are."""
    data = heatmap.encode(Image.new("RGB", (64, 48), "teal"), picture_format)
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.format == picture_format.upper()
        assert decoded.size == (64, 48)


@given(CAMS)
def test_a_normalised_map_is_a_share_and_keeps_its_order(cam):
    """Within 0 to 1, the hottest cell still the hottest, and once more changes nothing."""
    scaled = heatmap.normalise(cam)
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert scaled.flat[cam.argmax()] == scaled.max()
    assert np.allclose(heatmap.normalise(scaled), scaled)


@given(CAMS, st.floats(0.125, 1024, width=32))
def test_the_overlay_does_not_depend_on_the_maps_unit(cam, factor):
    """A gradient's size is no evidence: only where it is largest is shown."""
    cam = np.where(cam < 2.0**-40, 0, cam).astype(np.float32)  # not into denormal numbers
    first = np.asarray(heatmap.place(cam, (97, 61)))
    second = np.asarray(heatmap.place(cam * np.float32(factor), (97, 61)))
    assert np.abs(first.astype(int) - second).max() <= 2


@given(CAMS, SIZES, st.sampled_from(heatmap.COLORMAPS), st.floats(0, 1))
def test_an_overlay_stays_between_the_specimen_and_the_colour(cam, size, colormap, alpha):
    """Pixel for pixel at most ``alpha`` of the way to a colour of the table, and never beyond."""
    picture = Image.new("RGB", size, (120, 90, 200))
    laid = np.asarray(heatmap.overlay(picture, cam, colormap, alpha)).astype(int)
    assert laid.shape == (size[1], size[0], 3)
    # the share is one of 256 levels, and the mixture is rounded
    assert np.abs(laid - (120, 90, 200)).max() <= alpha * 200 + 2
