"""The same function in fewer operations: what need not be worked out each time is folded away.

Batch normalisation multiplies each channel and shifts it, and so does the input's normalisation.
Both can wait for the next convolution, which takes the factor into its kernel and the shift into
its bias, once and in float64. What an explanation reads stays as it was: a convolution's output
after its ReLU, and so the gradients with respect to it.

Where folding would not be exact, it is not done:

* A convolution with 'same' padding reads zeros beyond the border, where there was no shift. The
  shift stays an operation of its own, divided by the factor, which the kernel takes.
* Taking the largest of a few commutes with no negative factor: before such a pooling the factor
  and the shift stay where they were.
* The last layer is left alone: what it reads tells what is familiar.

A separable convolution of one pixel becomes a convolution of one pixel. Rows and columns that a
pooling drops are not worked out: convolutions of one pixel hand that on to the one before them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from export.gradcam import Network

Floats = NDArray[np.float64]


class NotAChain(ValueError):
    """A layer has several inputs: only layers one after the other can be folded."""


def optimised(network: Network) -> Network:
    """Return a network that computes the same of the same pictures, and has the same three cuts.

    Raises:
        NotAChain: some layer has several inputs.
    """
    pieces = (network.to_fine, network.to_middle, network.to_last, network.to_hidden)
    chain = [layer for piece in pieces for layer in piece.layers[1:]]  # less the piece's input
    cuts = [piece.layers[-1].name for piece in pieces[:3]]
    unread = _unread(chain, cuts)
    images = keras.Input(network.to_fine.input_shape[1:])
    folded = _Folded.of(images)
    for layer in chain:
        if isinstance(layer.input, list):
            raise NotAChain(f"layer {layer.name} has several inputs: it cannot be folded")
        folded = _with(layer, folded, unread.get(layer.name, 0))
    model = keras.Model(images, _twin(network.classifier, folded.settled()))
    return Network.of(model, network.familiarity, *cuts)


class _Folded(NamedTuple):
    """The network as far as it is built, and the factor and shift [C] that still have to follow."""

    output: keras.KerasTensor
    scale: Floats
    shift: Floats

    @classmethod
    def of(cls, output: keras.KerasTensor) -> _Folded:
        """Nothing has to follow."""
        channels = output.shape[-1]
        return cls(output, np.ones(channels), np.zeros(channels))

    def then(self, scale: Floats, shift: Floats) -> _Folded:
        return _Folded(self.output, self.scale * scale, self.shift * scale + shift)

    def settled(self) -> keras.KerasTensor:
        """The output with factor and shift as operations of their own."""
        plain = (self.scale == 1).all()
        scaled = self.output if plain else _Scaled(self.scale)(self.output)
        return _Shifted(self.shift)(scaled) if self.shift.any() else scaled

    def without_shift(self) -> _Folded:
        """With the shift as an operation of its own, and only a factor to follow."""
        if not self.shift.any():
            return self
        if not self.scale.all():  # a shift cannot be divided by nothing
            return _Folded.of(self.settled())
        shifted = _Shifted(self.shift / self.scale)(self.output)
        return _Folded(shifted, self.scale, np.zeros_like(self.shift))


def _with(layer: keras.Layer, before: _Folded, unread: int) -> _Folded:  # noqa: PLR0911  # a table: one line a kind of layer
    match layer:
        case layers.Dropout():
            return before
        case layers.Rescaling() | layers.BatchNormalization():
            return before.then(*_factor_and_shift(layer))
        case layers.GlobalAveragePooling2D():
            return before._replace(output=_twin(layer, before.output))
        case layers.MaxPooling2D() if (before.scale >= 0).all():
            return before._replace(output=_twin(layer, before.output))
        case layers.Dense():
            return _dense(layer, before)
        case layers.Conv2D(groups=1):
            return _convolution(layer, before)
        case layers.SeparableConv2D():
            return _separable(layer, before, unread)
        case _:
            return _Folded.of(_twin(layer, before.settled()))


def _factor_and_shift(layer: keras.Layer) -> tuple[Floats, Floats]:
    if isinstance(layer, layers.Rescaling):
        return np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    scale = 1 / np.sqrt(_float64(layer.moving_variance) + layer.epsilon)
    scale = scale * _float64(layer.gamma) if layer.scale else scale
    shift = -_float64(layer.moving_mean) * scale
    return scale, shift + _float64(layer.beta) if layer.center else shift


def _dense(layer: layers.Dense, before: _Folded) -> _Folded:
    kernel = _float64(layer.kernel)
    bias = _bias(layer) + before.shift @ kernel
    kernel = before.scale[:, np.newaxis] * kernel
    return _Folded.of(_twin(layer, before.output, [kernel, bias], use_bias=True))


def _convolution(layer: layers.Conv2D, before: _Folded) -> _Folded:
    before = before.without_shift() if _reads_beyond_the_border(layer) else before
    kernel = _float64(layer.kernel)
    bias = _bias(layer) + before.shift @ kernel.sum((0, 1))
    kernel = before.scale[:, np.newaxis] * kernel
    return _Folded.of(_twin(layer, before.output, [kernel, bias], use_bias=True))


def _separable(layer: layers.SeparableConv2D, before: _Folded, unread: int) -> _Folded:
    before = before.without_shift() if _reads_beyond_the_border(layer) else before
    depthwise, pointwise = _float64(layer.depthwise_kernel), _float64(layer.pointwise_kernel)
    constant = before.shift[:, np.newaxis] * depthwise.sum((0, 1))
    bias = _bias(layer) + constant.ravel() @ pointwise[0, 0]
    depthwise = before.scale[:, np.newaxis] * depthwise
    if _is_pointwise(layer):
        weights = [depthwise.reshape(-1, 1) * pointwise, bias]
        return _Folded.of(_pointwise(layer, before.output, weights, layer.strides))
    if unread:
        rest = _Depthwise(depthwise, _padding_less(unread, layer.kernel_size))(before.output)
        return _Folded.of(_pointwise(layer, rest, [pointwise, bias]))
    weights = [depthwise, pointwise, bias]
    return _Folded.of(_twin(layer, before.output, weights, use_bias=True))


def _pointwise(
    layer: layers.SeparableConv2D,
    read: keras.KerasTensor,
    weights: Sequence[Floats],
    strides: tuple[int, int] = (1, 1),
) -> keras.KerasTensor:
    twin = layers.Conv2D(
        layer.filters, 1, strides=strides, activation=layer.activation, name=layer.name
    )
    return _weighted(twin, read, weights)


def _twin(
    layer: keras.Layer,
    read: keras.KerasTensor,
    weights: Sequence[Floats] | None = None,
    **changes: Any,
) -> keras.KerasTensor:
    """Another layer like this one, with weights of its own."""
    twin = type(layer).from_config(layer.get_config() | changes)
    return _weighted(twin, read, layer.get_weights() if weights is None else weights)


def _weighted(
    layer: keras.Layer, read: keras.KerasTensor, weights: Sequence[NDArray[Any]]
) -> keras.KerasTensor:
    output = layer(read)
    layer.set_weights([np.asarray(array, np.float32) for array in weights])
    return output


def _unread(chain: Sequence[keras.Layer], cuts: Collection[str]) -> dict[str, int]:
    """How many of the last rows and columns of a separable convolution's output nobody reads."""
    found, unread = {}, 0
    for layer in reversed(chain):
        if layer.name in cuts:  # an explanation reads all of it
            unread = 0
        match layer:
            case layers.MaxPooling2D():
                unread = _dropped(layer)
            case layers.BatchNormalization() | layers.Dropout():
                pass
            case layers.SeparableConv2D() if _is_pointwise(layer) and layer.strides == (1, 1):
                pass
            case layers.SeparableConv2D() if _can_leave_out(layer, unread):
                found[layer.name], unread = unread, 0
            case _:
                unread = 0
    return found


def _dropped(layer: layers.MaxPooling2D) -> int:
    """Rows, and as many columns, at the end of its input that no window of a pooling reaches."""
    if layer.padding != "valid" or None in layer.input.shape[1:3]:
        return 0
    sides = zip(layer.input.shape[1:3], layer.pool_size, layer.strides, strict=True)
    left = {(size - pool) % stride for size, pool, stride in sides}
    return left.pop() if len(left) == 1 else 0


def _can_leave_out(layer: layers.SeparableConv2D, unread: int) -> bool:
    return bool(
        layer.padding == "same"
        and layer.strides == (1, 1)
        and layer.dilation_rate == (1, 1)
        and unread <= min(layer.kernel_size) // 2  # what 'same' pads there
    )


def _padding_less(unread: int, kernel_size: tuple[int, int]) -> list[int]:
    """'same' padding without the last rows and columns, as TensorFlow lists it for NHWC."""
    sides = [side for size in kernel_size for side in ((size - 1) // 2, size // 2 - unread)]
    return [0, 0, *sides, 0, 0]


def _is_pointwise(layer: layers.SeparableConv2D) -> bool:
    return tuple(layer.kernel_size) == (1, 1)


def _reads_beyond_the_border(layer: layers.Conv2D | layers.SeparableConv2D) -> bool:
    return layer.padding == "same" and tuple(layer.kernel_size) != (1, 1)


def _bias(layer: keras.Layer) -> Floats:
    return _float64(layer.bias) if layer.use_bias else np.zeros(1)


def _float64(variable: keras.Variable) -> Floats:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


class _Constant(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer with one constant."""

    def __init__(self, constant: Floats) -> None:
        super().__init__()
        self.constant = np.asarray(constant, np.float32)


class _Scaled(_Constant):
    """Multiplies each channel."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.constant


class _Shifted(_Constant):
    """Adds to each channel, by the operation that measured faster than addition."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(inputs, self.constant)


class _Depthwise(_Constant):
    """The depthwise half of a separable convolution, with a padding that Keras has no word for."""

    def __init__(self, kernel: Floats, padding: list[int]) -> None:
        super().__init__(kernel)
        self.padding = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=self.constant,
            strides=[1, 1, 1, 1],
            padding="EXPLICIT",
            explicit_paddings=self.padding,
        )
