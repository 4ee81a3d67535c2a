"""The network: nine separable convolutions and a small dense head, 2,713,668 parameters.

It is the owner's network, unchanged: weights trained elsewhere for it load here. It is fully
convolutional up to the global average pooling, so the same weights run on windows of any size.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from gateway.contract import CLASSES, INPUT_SIZE

PARAMETERS = 2_713_668
"""Parameters of the whole network, moving averages included."""

WEIGHT_TENSORS = 69
"""Weight tensors: 9 x (3 separable convolution + 4 batch normalisation) + 3 x 2 dense."""


class Convolution(NamedTuple):
    """One separable convolution: ReLU, then batch normalisation, then perhaps pooling."""

    filters: int
    kernel: int
    stride: int = 1
    padding: str = "same"
    pooled: bool = False


CONVOLUTIONS = (
    Convolution(128, 8, stride=3, padding="valid"),
    Convolution(128, 5),
    Convolution(256, 3),
    Convolution(256, 1),
    Convolution(256, 1, pooled=True),
    Convolution(512, 3, pooled=True),
    Convolution(512, 3, pooled=True),  # runs at 18x18: the fine heat map reads this one
    Convolution(512, 3, pooled=True),  # runs at 9x9
    Convolution(512, 3),  # runs at 4x4: GradCAM reads this one
)

LAST_CONVOLUTION = f"conv{len(CONVOLUTIONS)}"
"""Name of the layer whose activations GradCAM weighs, [N, 4, 4, 512]."""

MIDDLE_CONVOLUTION = "conv8"
"""Name of the layer between the two, [N, 9, 9, 512]."""

FINE_CONVOLUTION = "conv7"
"""Name of the layer whose activations the fine map weighs, [N, 18, 18, 512]."""


def build_model(input_size: int = INPUT_SIZE, momentum: float = 0.99) -> keras.Model:
    """Build the untrained network.

    Args:
        input_size: height and width of the input in pixels. Every size has the same weights;
            the served model uses ``INPUT_SIZE``.
        momentum: of batch normalisation's moving averages.

    Returns:
        A model from uint8 (or float) [N, input_size, input_size, 3] RGB in 0-255 to
        probabilities float32 [N, 4]. The normalisation x / 127.5 - 1 is its first layer.
    """
    images = keras.Input((input_size, input_size, 3), name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="normalisation")(images)
    for number, convolution in enumerate(CONVOLUTIONS, start=1):
        x = layers.SeparableConv2D(
            convolution.filters,
            convolution.kernel,
            strides=convolution.stride,
            padding=convolution.padding,
            activation="relu",
            name=f"conv{number}",
        )(x)
        x = layers.BatchNormalization(momentum=momentum, name=f"bn{number}")(x)
        if convolution.pooled:
            x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    for number in (1, 2):
        x = layers.Dense(1024, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(0.5, name=f"dropout{number}")(x)
    # float32 even under mixed precision: probabilities in bfloat16 have two digits
    probabilities = layers.Dense(
        len(CLASSES), activation="softmax", dtype="float32", name="probabilities"
    )(x)
    return keras.Model(images, probabilities, name="hemavision")
