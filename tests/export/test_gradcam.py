"""The maps are the papers' formulas, and each row explains its own photograph alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from export.gradcam import (
    Network,
    classify,
    explain,
    focused,
    gradcam,
    hirescam,
    layercam,
    slopes,
    smoothed,
)
from gateway import contract


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (3, 224, 224, 3), np.uint8)


def explained(
    network: Network, images: npt.NDArray[np.uint8], indices: list[int]
) -> dict[str, npt.NDArray[np.float32]]:
    outputs = explain(network, tf.constant(images), tf.constant(indices, tf.int32))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def test_gradcam_weighs_channels_by_their_mean_gradient() -> None:
    """Two channels of 2x2: weights 0.5 and -1, so relu(0.5 a - b)."""
    features = np.zeros((1, 2, 2, 2), np.float32)
    features[0, :, :, 0] = [[2, 4], [6, 8]]
    features[0, :, :, 1] = [[0, 1], [4, 5]]
    gradients = np.zeros((1, 2, 2, 2), np.float32)
    gradients[0, :, :, 0] = [[2, 0], [0, 0]]
    gradients[0, :, :, 1] = [[-1, -1], [-1, -1]]
    assert gradcam(features, gradients).numpy().tolist() == [[[1, 1], [0, 0]]]


def test_layercam_weighs_each_place_by_its_own_gradient() -> None:
    """The same features: only positive gradients count, each where it is."""
    features = np.zeros((1, 2, 2, 2), np.float32)
    features[0, :, :, 0] = [[2, 4], [6, 8]]
    features[0, :, :, 1] = [[0, 1], [4, -5]]
    gradients = np.zeros((1, 2, 2, 2), np.float32)
    gradients[0, :, :, 0] = [[2, -1], [0, 0]]
    gradients[0, :, :, 1] = [[3, 3], [0.5, 1]]
    assert layercam(features, gradients).numpy().tolist() == [[[4, 3], [2, 0]]]


def test_hirescam_subtracts_what_speaks_against_the_class() -> None:
    """The same again: negative gradients count too, and what is negative in sum is 0."""
    features = np.zeros((1, 2, 2, 2), np.float32)
    features[0, :, :, 0] = [[2, 4], [6, 8]]
    features[0, :, :, 1] = [[0, 1], [4, -5]]
    gradients = np.zeros((1, 2, 2, 2), np.float32)
    gradients[0, :, :, 0] = [[2, -1], [0, 1]]
    gradients[0, :, :, 1] = [[3, 3], [0.5, 1]]
    assert hirescam(features, gradients).numpy().tolist() == [[[4, 0], [2, 3]]]


def test_focusing_keeps_what_both_maps_find() -> None:
    """Each later cell lies over two by two finer ones, with a slope between: 1 to 0 is 1, 3/4,
    1/4, 0.
    """
    fine = np.full((1, 4, 4), 8.0, np.float32)
    fine[0, 0] = 0
    found = focused(fine, np.array([[[1, 0], [1, 0]]], np.float32)).numpy()
    assert found.tolist() == [[[0, 0, 0, 0], [8, 6, 2, 0], [8, 6, 2, 0], [8, 6, 2, 0]]]


@pytest.mark.parametrize("method", [gradcam, layercam, hirescam])
def test_maps_agree_with_numpy(method) -> None:
    """On random arrays all are what the equations say, worked out with NumPy."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    gradients = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    expected = {
        gradcam: (features * gradients.mean((1, 2), keepdims=True)).sum(-1).clip(0),
        layercam: (features * gradients.clip(0)).sum(-1).clip(0),
        hirescam: (features * gradients).sum(-1).clip(0),
    }[method]
    np.testing.assert_allclose(method(features, gradients), expected, atol=1e-5)
    assert 0 < (expected > 0).mean() < 1


def test_classifying_is_what_the_model_does(tiny_model, tiny_network, images) -> None:
    """Cutting the network changes no answer, and the logits' softmax is the probabilities."""
    found = classify(tiny_network, tf.constant(images))
    np.testing.assert_allclose(
        found[contract.PROBABILITIES], tiny_model.predict(images, verbose=0), atol=1e-6
    )
    np.testing.assert_allclose(
        found[contract.PROBABILITIES], tf.nn.softmax(found[contract.LOGITS]), atol=1e-6
    )


def test_explaining_changes_no_answer(tiny_network, images) -> None:
    """Both signatures' functions give the same probabilities and logits."""
    answered = classify(tiny_network, tf.constant(images))
    found = explained(tiny_network, images, [0, 1, 2])
    for name, array in answered.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6)


def test_gradients_are_those_worked_out_by_hand(tiny_network, images) -> None:
    """Behind the tiny model's last convolution lie a mean over 16 cells and one dense layer."""
    kernel = tiny_network.classifier.kernel.numpy()
    found = explained(tiny_network, images, [2, 0, 3])
    for row, label in enumerate([2, 0, 3]):
        expected = np.broadcast_to(kernel[:, label] / 16, (4, 4, 8))
        np.testing.assert_allclose(found[contract.GRADIENTS][row], expected, atol=1e-7)
    cam = (found[contract.CONV_FEATURES] * found[contract.GRADIENTS]).sum(-1).clip(0)
    np.testing.assert_allclose(found[contract.CAM], cam, atol=1e-6)


def test_smoothing_averages_over_the_neighbours_that_there_are() -> None:
    """Nine within, six at a side, four in a corner."""
    cam = np.zeros((1, 5, 5), np.float32)
    cam[0, 1, 1] = 36
    expected = np.zeros((5, 5))
    expected[:3, :3] = [[9, 6, 6], [6, 4, 4], [6, 4, 4]]
    np.testing.assert_allclose(smoothed(cam).numpy()[0], expected, rtol=1e-6)


def test_the_fine_map_is_focused_by_the_others(tiny_network, images) -> None:
    """HiResCAM of the first cut times LayerCAM of it and of the second."""
    found = explained(tiny_network, images, [2, 0, 3])
    seen = slopes(tiny_network, tf.constant(images), tf.constant([2, 0, 3]))
    fine, middle = (seen.fine, seen.fine_gradients), (seen.middle, seen.middle_gradients)
    near = smoothed(layercam(*fine)).numpy()
    first = hirescam(*fine) * near / near.max(axis=(1, 2), keepdims=True)
    assert (first.shape, layercam(*middle).shape) == ((3, 18, 18), (3, 9, 9))
    np.testing.assert_allclose(found[contract.CAM_FINE], focused(first, layercam(*middle)), 1e-5)


def test_rows_are_independent(tiny_network, images) -> None:
    """A photograph's explanation is the same alone and among others."""
    together = explained(tiny_network, images, [3, 1, -1])
    for row, label in enumerate([3, 1, -1]):
        alone = explained(tiny_network, images[row : row + 1], [label])
        for name, array in alone.items():
            np.testing.assert_allclose(together[name][row], array[0], atol=1e-5, err_msg=name)


def test_minus_one_explains_the_predicted_class(tiny_network, images) -> None:
    """-1 gives the map of the likeliest class, which other classes' maps are not."""
    found = explained(tiny_network, images, [-1, -1, -1])
    predicted = found[contract.PROBABILITIES].argmax(1)
    named = explained(tiny_network, images, predicted.tolist())
    other = explained(tiny_network, images, ((predicted + 1) % 4).tolist())
    np.testing.assert_array_equal(found[contract.CAM_FINE], named[contract.CAM_FINE])
    assert not np.allclose(found[contract.CAM_FINE], other[contract.CAM_FINE])


@pytest.mark.parametrize("index", [4, -2, 1000])
def test_a_class_that_does_not_exist_is_refused(tiny_network, images, index: int) -> None:
    """One bad index refuses the batch and says what is allowed."""
    message = r"class_index must be -1 \(the predicted class\) or a class"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        explained(tiny_network, images, [0, index, 1])
