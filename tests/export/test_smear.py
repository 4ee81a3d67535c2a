"""The drawn samples: the same every time, of every class, and written whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from export.smear import SMALLEST, draw_samples, draw_smear
from gateway.contract import CLASSES

KNOWN = {
    "EOSINOPHIL": "3199d81ac4139949",
    "LYMPHOCYTE": "a648e3cea9bdb8f4",
    "MONOCYTE": "e49900ff45c29759",
    "NEUTROPHIL": "653f80cd0528ab00",
}
"""Digests of drawings with seed 1 at 120 x 121. They change only with the drawing itself."""


def _pixels(picture: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(picture, dtype=np.float64)


def _middle(picture: Image.Image) -> npt.NDArray[np.float64]:
    """The pixels [N, 3] of the middle sixth, which a white cell always covers."""
    width, height = picture.size
    reach = min(width, height) // 12
    x, y = width // 2, height // 2
    return _pixels(picture)[y - reach : y + reach, x - reach : x + reach].reshape(-1, 3)


@pytest.mark.parametrize("cell", CLASSES)
def test_the_same_arguments_draw_the_same_pixels(cell: str) -> None:
    """Drawing twice changes nothing: no clock and no global random state takes part."""
    assert draw_smear(cell, 5, 120, 121).tobytes() == draw_smear(cell, 5, 120, 121).tobytes()


@pytest.mark.parametrize("cell", CLASSES)
def test_the_pixels_are_the_same_on_every_machine(cell: str) -> None:
    """The pixels have a known digest, whatever the processor and the library versions."""
    drawn = draw_smear(cell, 1, 120, 121)
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == KNOWN[cell]


def test_another_seed_draws_another_smear() -> None:
    """Seeds differ by far more than the camera's noise."""
    first, second = (_pixels(draw_smear("NEUTROPHIL", seed, 120, 120)) for seed in (1, 2))
    assert np.abs(first - second).mean() > 8


def test_classes_do_not_share_a_field() -> None:
    """With one seed each class has its own red cells: a class is not told by its field alone."""
    corners = {draw_smear(cell, 3, 96, 96).crop((0, 0, 24, 24)).tobytes() for cell in CLASSES}
    assert len(corners) == len(CLASSES)


@pytest.mark.parametrize("size", [(360, 363), (SMALLEST, SMALLEST), (200, 96), (96, 200)])
def test_a_drawing_has_the_size_asked_for(size: tuple[int, int]) -> None:
    """Any size from the smallest on is drawn, also one that is far from square."""
    picture = draw_smear("MONOCYTE", 1, *size)
    assert (picture.size, picture.mode) == (size, "RGB")


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_drawing_works_for_many_fields(seed: int) -> None:
    """Red cells and platelets over the border, less than a pixel of them inside, do no harm."""
    assert draw_smear("LYMPHOCYTE", seed, SMALLEST, SMALLEST).width == SMALLEST


def test_the_size_is_that_of_the_photographs_unless_told() -> None:
    """A sample is as large as a photograph from an analyser, 360 x 363."""
    assert draw_smear("EOSINOPHIL", 1).size == (360, 363)


@pytest.mark.parametrize("cell", CLASSES)
def test_a_class_has_a_dark_nucleus_in_a_bright_field(cell: str) -> None:
    """A purple nucleus lies near the middle, and a bright warm background round the cells."""
    picture = draw_smear(cell, 4, 180, 180)
    red, green, blue = _middle(picture)[_middle(picture).sum(axis=1).argsort()[:20]].mean(axis=0)
    assert green < red < blue < 150
    red, green, blue = np.percentile(_pixels(picture).reshape(-1, 3), 95, axis=0)
    assert red > green > blue > 170


def test_the_eosinophil_alone_is_orange() -> None:
    """Orange-red granules are what tells an eosinophil: nothing else in a smear has them."""
    for cell in CLASSES:
        red, _, blue = np.moveaxis(_pixels(draw_smear(cell, 6, 180, 180)), -1, 0)
        assert ((red - blue > 55) & (red < 230)).mean() > 0.03 or cell != "EOSINOPHIL"
        assert ((red - blue > 55) & (red < 230)).mean() < 0.01 or cell == "EOSINOPHIL"


@pytest.mark.parametrize("cell", ["BASOPHIL", "neutrophil", ""])
def test_an_unknown_class_is_refused(cell: str) -> None:
    """The refusal names the classes that there are."""
    with pytest.raises(ValueError, match=", ".join(CLASSES)):
        draw_smear(cell, 1)


def test_a_drawing_too_small_to_see_is_refused() -> None:
    """Below the smallest side there is no cell to draw."""
    with pytest.raises(ValueError, match=f"at least {SMALLEST} pixels"):
        draw_smear("NEUTROPHIL", 1, SMALLEST, SMALLEST - 1)


def test_samples_are_one_jpeg_per_class(tmp_path: Path) -> None:
    """The folder is made, holds a file per class, and nothing that was set aside."""
    folder = tmp_path / "new" / "samples"
    paths = draw_samples(folder, 7)
    assert [path.name for path in paths] == [f"{cell.lower()}.jpg" for cell in CLASSES]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path, cell in zip(paths, CLASSES, strict=True):
        with Image.open(path, formats=("JPEG",)) as picture:
            written = np.asarray(picture, dtype=np.float64)
        assert np.abs(written - np.asarray(draw_smear(cell, 7))).mean() < 4
