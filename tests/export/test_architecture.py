"""The network is the owner's: its tensors, parameters and shapes are fixed by his weights."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest

from export.architecture import (
    FINE_CONVOLUTION,
    LAST_CONVOLUTION,
    MIDDLE_CONVOLUTION,
    PARAMETERS,
    WEIGHT_TENSORS,
    build_model,
)
from gateway.contract import CAM_FINE_SIZE, CAM_SIZE, CLASSES

# by hand: a convolution is kernel² x channels + channels x filters + filters + 4 x filters
CONVOLUTIONS = (
    (8, 3, 128), (5, 128, 128), (3, 128, 256), (1, 256, 256), (1, 256, 256),
    (3, 256, 512), (3, 512, 512), (3, 512, 512), (3, 512, 512),
)  # fmt: skip
DENSE = ((512, 1024), (1024, 1024), (1024, 4))


@pytest.fixture(scope="module")
def model() -> Iterator[keras.Model]:
    return build_model()


def test_it_has_69_weight_tensors(model: keras.Model) -> None:
    """Nine convolutions of seven tensors and three dense layers of two."""
    assert len(model.weights) == WEIGHT_TENSORS == 69


def test_it_has_the_parameters_counted_by_hand(model: keras.Model) -> None:
    """2,713,668 parameters, as the layers' sizes say."""
    by_hand = sum(k * k * c + c * f + 5 * f for k, c, f in CONVOLUTIONS)
    by_hand += sum(a * b + b for a, b in DENSE)
    assert model.count_params() == PARAMETERS == by_hand == 2_713_668


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("conv1", (73, 73, 128)),
        ("pool5", (36, 36, 256)),
        (FINE_CONVOLUTION, (CAM_FINE_SIZE, CAM_FINE_SIZE, 512)),
        (MIDDLE_CONVOLUTION, (CAM_FINE_SIZE // 2, CAM_FINE_SIZE // 2, 512)),
        (LAST_CONVOLUTION, (CAM_SIZE, CAM_SIZE, 512)),
        ("global_pool", (512,)),
        ("dense2", (1024,)),
        ("probabilities", (len(CLASSES),)),
    ],
)
def test_layers_have_the_shapes_of_the_contract(
    model: keras.Model, layer: str, shape: tuple[int, ...]
) -> None:
    """The stages that the heat maps read are 18x18 and 4x4."""
    assert model.get_layer(layer).output.shape == (None, *shape)


def test_every_convolution_is_rectified_before_its_normalisation(model: keras.Model) -> None:
    """ReLU belongs to the convolution; the batch normalisation of its number follows."""
    for number in range(1, 10):
        convolution = model.get_layer(f"conv{number}")
        assert convolution.activation is keras.activations.relu
        assert convolution.use_bias
        assert model.get_layer(f"bn{number}").input is convolution.output


def test_the_normalisation_is_in_the_graph(model: keras.Model) -> None:
    """Pixels 0 and 255 become -1 and 1."""
    layer = model.get_layer("normalisation")
    assert np.asarray(layer(np.array([[0.0, 127.5, 255.0]]))).tolist() == [[-1, 0, 1]]


def test_the_same_weights_fit_every_window(model: keras.Model) -> None:
    """A network for windows of 128 pixels takes the weights of the one for whole frames."""
    small = build_model(128)
    small.set_weights(model.get_weights())
    images = np.full((1, 128, 128, 3), 200, np.uint8)
    answer = np.asarray(small(images, training=False))
    assert answer.shape == (1, len(CLASSES))
    assert answer.sum() == pytest.approx(1, abs=1e-5)


def test_the_moving_averages_move_as_told() -> None:
    """The momentum asked for is every batch normalisation's."""
    norms = [
        layer
        for layer in build_model(64, momentum=0.9).layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert [norm.momentum for norm in norms] == [0.9] * 9
