"""The copies that a study of the quality flags sends."""

import numpy as np
import pytest
from PIL import Image

from loadtest import quality


@pytest.mark.parametrize(
    ("boxes", "seen"),
    [
        ([(20, 20, 40, 40)], (5, 10, 55, 50)),
        ([(90, 0, 100, 10), (0, 70, 10, 80)], (50, 0, 100, 40)),
        ([], (25, 20, 75, 60)),
    ],
    ids=["round the cell", "at the edge", "no box"],
)
def test_a_closer_look_keeps_the_cell_and_the_shape(boxes, seen):
    """Half of each side, within the picture."""
    columns, rows = np.meshgrid(np.arange(100), np.arange(80))
    picture = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))
    near = np.asarray(quality.closer(picture, boxes, 2))
    assert (*near[0, 0, :2], *(near[-1, -1, :2] + 1)) == seen
