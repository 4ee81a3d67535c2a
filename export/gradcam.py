"""Explain inside the graph: where the network looked, for the price of the small head.

The network is cut at three convolutions. One forward pass computes them all, and one backward
pass, from the class's logit, goes no further than the first cut: its gradients give the coarse map
of the last convolution and the fine map of the 18x18 stage together.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from export.architecture import FINE_CONVOLUTION, LAST_CONVOLUTION, MIDDLE_CONVOLUTION
from export.familiarity import Familiarity, unfamiliarity
from gateway import contract


class Network(NamedTuple):
    """The trained network in four pieces that share its weights, and its last layer."""

    to_fine: keras.Model
    to_middle: keras.Model
    to_last: keras.Model
    to_hidden: keras.Model
    classifier: keras.layers.Dense
    familiarity: Familiarity | None

    @classmethod
    def of(
        cls,
        model: keras.Model,
        familiarity: Familiarity | None = None,
        fine: str = FINE_CONVOLUTION,
        middle: str = MIDDLE_CONVOLUTION,
        last: str = LAST_CONVOLUTION,
    ) -> Network:
        """Cut ``model`` after the convolutions named ``fine``, ``middle`` and ``last``."""
        fine_output = model.get_layer(fine).output
        middle_output = model.get_layer(middle).output
        last_output = model.get_layer(last).output
        classifier = model.layers[-1]
        return cls(
            keras.Model(model.inputs, fine_output),
            keras.Model(fine_output, middle_output),
            keras.Model(middle_output, last_output),
            keras.Model(last_output, classifier.input),
            classifier,
            familiarity,
        )

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Apply the last layer without its softmax: float32 [N, C]."""
        return tf.cast(hidden, tf.float32) @ self.classifier.kernel + self.classifier.bias

    def answer(self, hidden: tf.Tensor) -> dict[str, tf.Tensor]:
        """Everything that the hidden features alone tell."""
        logits = self.logits(hidden)
        answer = {contract.PROBABILITIES: softmax(logits), contract.LOGITS: logits}
        if self.familiarity is None:  # weights that were never released
            return answer
        return answer | {contract.UNFAMILIARITY: unfamiliarity(hidden, self.familiarity)}


def softmax(logits: tf.Tensor) -> tf.Tensor:
    """Turn logits into probabilities, float32 [N, C], step by step.

    TensorFlow's rewriter to bfloat16 leaves `Exp` and `Sum` in float32; of `Softmax` it makes
    what misses 1 by up to a quarter of a percent.
    """
    odds = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
    return odds / tf.reduce_sum(odds, axis=-1, keepdims=True)


def classify(network: Network, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return ``probabilities`` and ``logits``, float32 [N, C], for uint8 [N, H, W, 3].

    And ``unfamiliarity``, float32 [N], where the network has been told what is familiar.
    """
    fine = network.to_fine(tf.cast(images, tf.float32), training=False)
    features = network.to_last(network.to_middle(fine))
    return network.answer(network.to_hidden(features))


class Slopes(NamedTuple):
    """What three convolutions saw, and how each value of it moves one class's logit.

    ``fine`` and ``fine_gradients`` are float32 [N, h", w", K"], those of the ``middle``
    [N, h', w', K'], ``features`` and ``gradients`` [N, h, w, K], of the last convolution;
    ``hidden`` [N, D] is what the last layer sees, ``logits`` [N, C] what it makes of it.
    """

    fine: tf.Tensor
    fine_gradients: tf.Tensor
    middle: tf.Tensor
    middle_gradients: tf.Tensor
    features: tf.Tensor
    gradients: tf.Tensor
    hidden: tf.Tensor
    logits: tf.Tensor


def slopes(network: Network, images: tf.Tensor, class_index: tf.Tensor) -> Slopes:
    """Run the network over uint8 [N, H, W, 3], and back from the logit of ``class_index``.

    Raises:
        tf.errors.InvalidArgumentError: an index that is neither a class nor -1.
    """
    fine = network.to_fine(tf.cast(images, tf.float32), training=False)
    with tf.GradientTape() as tape:
        tape.watch(fine)
        middle = network.to_middle(fine, training=False)
        features = network.to_last(middle, training=False)
        hidden = network.to_hidden(features, training=False)
        logits = network.logits(hidden)
        chosen = tf.gather(logits, _explained(logits, class_index), batch_dims=1)
    # each photograph's logit depends on its own row alone, so one sum serves the whole batch
    seen = (fine, middle, features)
    of_fine, of_middle, of_features = tape.gradient(chosen, seen)
    return Slopes(fine, of_fine, middle, of_middle, features, of_features, hidden, logits)


def explain(network: Network, images: tf.Tensor, class_index: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return what ``classify`` does, and where class ``class_index`` (int32 [N]) was seen.

    ``conv_features`` and ``gradients`` are float32 [N, h, w, K], of the last convolution;
    ``cam`` [N, h, w] and ``cam_fine`` [N, h', w'] are not normalised.

    Raises:
        tf.errors.InvalidArgumentError: an index that is neither a class nor -1.
    """
    found = slopes(network, images, class_index)
    return network.answer(found.hidden) | {
        contract.CONV_FEATURES: found.features,
        contract.GRADIENTS: found.gradients,
        contract.CAM: gradcam(found.features, found.gradients),
        contract.CAM_FINE: fine_map(found),
    }


def fine_map(found: Slopes) -> tf.Tensor:
    """The fine map that is served, [N, h", w"]: HiResCAM where LayerCAM of both stages sees most.

    Compared with six others by `python -m export trust`, after a choice among some 60 by the same
    photographs: it is on the cell, and it changes when what the network learnt is taken away.
    HiResCAM of single places leaves gaps between them, so LayerCAM of its own stage is averaged
    over each place's neighbours; it counts from 0 to 1.
    """
    near = smoothed(layercam(found.fine, found.fine_gradients))
    near = tf.math.divide_no_nan(near, tf.reduce_max(near, axis=[1, 2], keepdims=True))
    fine = hirescam(found.fine, found.fine_gradients) * near
    return focused(fine, layercam(found.middle, found.middle_gradients))


def smoothed(cam: tf.Tensor) -> tf.Tensor:
    """Average a map [N, h, w] over 3 x 3 places, as many of them as there are at its edges."""
    return tf.nn.avg_pool2d(cam[..., None], ksize=3, strides=1, padding="SAME")[..., 0]


def gradcam(features: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """GradCAM: channels weighed by their mean gradient (Selvaraju et al., ICCV 2017, eq. 1-2).

    Both arguments are [N, h, w, K]; the map is [N, h, w], >= 0.
    """
    weights = tf.reduce_mean(gradients, axis=[1, 2])
    return tf.nn.relu(tf.einsum("nhwk,nk->nhw", features, weights))


def layercam(features: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """LayerCAM: each place weighed by its own gradient (Jiang et al., IEEE TIP 30, 2021, eq. 5-7).

    Where GradCAM averages gradients over the map and so smears early stages, this keeps the
    place. Both arguments are [N, h, w, K]; the map is [N, h, w], >= 0.
    """
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradients) * features, axis=-1))


def focused(fine: tf.Tensor, middle: tf.Tensor) -> tf.Tensor:
    """Multiply a fine map [N, h, w] by one of a later stage, laid over it: [N, h, w].

    Where the fine map also picks up what later stages discard, such as the rim of a red cell, the
    product keeps what both find. As in Poly-CAM (Englebert et al., arXiv:2204.13359, 2022), which
    so refines a coarse map.
    """
    over = tf.image.resize(middle[..., None], tf.shape(fine)[1:])[..., 0]
    return fine * over


def hirescam(features: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """HiResCAM: each value times its own gradient (Draelos & Carin, arXiv:2011.08891, 2020).

    As LayerCAM, but what speaks against the class is subtracted. Both arguments are
    [N, h, w, K]; the map is [N, h, w], >= 0.
    """
    return tf.nn.relu(tf.reduce_sum(gradients * features, axis=-1))


def _explained(logits: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
    classes = tf.shape(logits)[1]
    known = tf.debugging.Assert(
        tf.reduce_all((class_index >= contract.PREDICTED_CLASS) & (class_index < classes)),
        ["class_index must be -1 (the predicted class) or a class", class_index],
    )
    with tf.control_dependencies([known]):
        predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
        return tf.where(class_index == contract.PREDICTED_CLASS, predicted, class_index)
