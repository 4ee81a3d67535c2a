"""Folding changes no figure: not at the border, not behind a negative factor, not in a gradient."""

from __future__ import annotations

from collections.abc import Collection

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from export.familiarity import Familiarity
from export.gradcam import Network, explain
from export.optimise import NotAChain, optimised

SIZE = 67
"""Odd, so that the first pooling drops a row and a column."""


def normalised(x: keras.KerasTensor, rng: np.random.Generator, lowest: float, **options: bool):
    """Batch normalisation with factors from ``lowest`` to 1.5, and shifts that tell."""
    layer = layers.BatchNormalization(**options)
    y = layer(x)
    for variable, (low, high) in {
        "gamma": (lowest, 1.5),
        "beta": (-0.5, 0.5),
        "moving_mean": (0.0, 0.3),
        "moving_variance": (0.05, 0.5),
    }.items():
        if getattr(layer, variable, None) is not None:
            getattr(layer, variable).assign(rng.uniform(low, high, x.shape[-1]))
    return y


def separable_network(lowest: float = 0.5, **options: bool) -> keras.Model:
    """The owner's kinds of layer in the owner's order, and next to nothing to compute."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)

    def separable(filters: int, kernel: int, name: str, **more: object) -> layers.Layer:
        return layers.SeparableConv2D(
            filters,
            kernel,
            activation="relu",
            name=name,
            bias_initializer=keras.initializers.RandomUniform(-0.2, 0.2, seed=4),
            **({"padding": "same"} | more),
        )

    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = separable(8, 8, "conv1", strides=3, padding="valid")(x)  # 20x20
    x = normalised(x, rng, lowest, **options)
    x = separable(8, 5, "conv2")(x)
    x = normalised(x, rng, lowest, **options)
    x = layers.ZeroPadding2D(((1, 0), (1, 0)))(x)  # 21x21; a kind that is not folded
    x = separable(8, 3, "conv3")(x)
    x = normalised(x, rng, lowest, **options)
    x = separable(8, 1, "conv4")(x)
    x = normalised(x, rng, lowest, **options)
    x = layers.MaxPooling2D(2)(x)
    for name in ("conv7", "conv8", "conv9"):
        x = separable(8, 3, name)(x)
        x = normalised(x, rng, lowest, **options)
        x = layers.MaxPooling2D(2)(x) if name == "conv7" else x
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(x))
    return keras.Model(images, layers.Dense(4, activation="softmax", name="end")(x))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise, for what happens inside, black and white for what happens at the border."""
    noise = np.random.default_rng(5).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    return np.concatenate([noise, np.zeros_like(noise[:1]), np.full_like(noise[:1], 255)])


def explained(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    indices = tf.constant(np.arange(len(images)) % 4, tf.int32)
    outputs = explain(network, tf.constant(images), indices)
    return {name: output.numpy() for name, output in outputs.items()}


def assert_equal(
    before: Network, after: Network, images: np.ndarray, leaving_out: Collection[str] = ()
) -> None:
    """Every output of `explain`: answers, features, gradients and both maps."""
    expected, found = explained(before, images), explained(after, images)
    assert set(found) == set(expected)
    for name, array in expected.items():
        if name in leaving_out:
            continue
        assert np.ptp(array) > 0, name  # an output that is the same everywhere would prove nothing
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name], array, atol=3e-6 * scale, err_msg=name)


def kinds(network: Network) -> list[str]:
    """What the pieces are made of, in order."""
    pieces = (network.to_fine, network.to_middle, network.to_last, network.to_hidden)
    return [type(layer).__name__.strip("_") for piece in pieces for layer in piece.layers[1:]]


def test_nothing_is_left_of_the_owners_normalisation_but_shifts(network) -> None:
    """Six, each before a 'same' convolution; and what the first pooling drops is not worked out."""
    after = optimised(Network.of(network))
    left = kinds(after)
    assert {"Rescaling", "BatchNormalization", "Dropout", "Scaled"} & set(left) == set()
    assert left.count("Shifted") == 6
    assert left.count("Conv2D") == 3  # two of one pixel, and the half of the one before them
    assert after.to_fine.get_layer("conv3").output.shape[1:3] == (72, 72)


def test_the_owners_network_answers_the_same(network) -> None:
    """All but the fine map: this one's random weights make a plain of near ties of any picture,
    and which of two equals a pooling takes is rounding's affair. `verify` compares it.
    """
    pictures = np.random.default_rng(6).integers(0, 256, (2, 224, 224, 3), np.uint8)
    before = Network.of(network)
    assert_equal(before, optimised(before), pictures, leaving_out={"cam_fine"})


@pytest.mark.parametrize("lowest", [0.5, -1.5])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_any_factor_and_shift_is_exact(images, lowest: float, options: dict[str, bool]) -> None:
    """Also negative factors, of which a pooling takes the smallest instead of the largest."""
    before = Network.of(separable_network(lowest, **options))
    assert_equal(before, optimised(before), images)


@pytest.mark.parametrize(
    ("lowest", "before"), [(0.5, ["Conv2D", "SeparableConv2D"]), (-1.5, ["Shifted", "Shifted"])]
)
def test_only_a_negative_factor_stays_before_a_pooling(lowest: float, before: list[str]) -> None:
    """A positive one is taken through it."""
    left = kinds(optimised(Network.of(separable_network(lowest))))
    found = [left[at - 1] for at, kind in enumerate(left) if kind == "MaxPooling2D"]
    assert found == before


def test_a_factor_of_nothing_leaves_the_shift(images) -> None:
    """A channel with gamma 0 is its beta everywhere but beyond the border."""
    model = separable_network()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma = layer.gamma.numpy()
            gamma[0] = 0
            layer.gamma.assign(gamma)
    before = Network.of(model)
    assert_equal(before, optimised(before), images)


def test_what_tells_the_unfamiliar_stays_the_same(images) -> None:
    """Batch normalisation right before the last layer is not folded into it."""
    keras.utils.set_random_seed(8)
    rng = np.random.default_rng(8)
    pictures = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 5, strides=3, activation="relu", name="conv7")(pictures)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv8")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv9")(x)
    x = normalised(layers.GlobalAveragePooling2D()(x), rng, 0.5)
    model = keras.Model(pictures, layers.Dense(4, activation="softmax")(x))
    known = Familiarity.fit(rng.random((40, 6)), ["cells"] * 40, [0] * 40, axes=2)
    before = Network.of(model, known)
    assert_equal(before, optimised(before), images)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_whole_convolutions_take_factor_and_shift_too(images, padding: str, use_bias: bool) -> None:
    """With and without a bias of their own, and reading beyond the border or not."""
    keras.utils.set_random_seed(9)
    rng = np.random.default_rng(9)
    x = pictures = keras.Input((SIZE, SIZE, 3))
    for name in ("conv7", "conv8", "conv9"):
        x = layers.Conv2D(
            6, 3, strides=2, padding=padding, activation="relu", use_bias=use_bias, name=name
        )(x)
        x = normalised(x, rng, -1.5)
    x = layers.Dense(9, use_bias=use_bias)(layers.GlobalAveragePooling2D()(x))
    before = Network.of(keras.Model(pictures, layers.Dense(4, activation="softmax")(x)))
    assert_equal(before, optimised(before), images)


def test_a_network_that_branches_is_refused() -> None:
    """By the layer that has several inputs."""
    pictures = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 5, strides=3, name="conv7")(pictures)
    x = layers.Conv2D(4, 3, padding="same", name="conv8")(x)
    x = layers.Conv2D(4, 3, padding="same", name="conv9")(x)
    x = layers.Add(name="sum")([layers.ReLU()(x), x])
    x = layers.GlobalAveragePooling2D()(x)
    branched = Network.of(keras.Model(pictures, layers.Dense(4)(x)))
    with pytest.raises(NotAChain, match="layer sum has several inputs"):
        optimised(branched)
