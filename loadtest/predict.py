"""Predict as TensorFlow Serving's gRPC takes it, written by hand in protobuf's wire format.

The official messages import TensorFlow: 660 MB in each process that makes load. The tests hold
these bytes against them.

Sources:
    https://protobuf.dev/programming-guides/encoding/
    https://github.com/tensorflow/serving/blob/2.19.1/tensorflow_serving/apis/predict.proto
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

METHOD = "/tensorflow.serving.PredictionService/Predict"

_SIZE = 224  # pixels
_CAM_FINE = (18, 18)
_MODEL = b"hemavision"
_OUTPUTS = (b"probabilities", b"unfamiliarity", b"cam", b"cam_fine")
_UINT8, _INT32 = 4, 3  # DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def request(photograph: bytes, explained: bool = True) -> bytes:
    """Serialise the PredictRequest that a gateway sends for one photograph, with its heat map."""
    return of_picture(Image.open(io.BytesIO(photograph)).convert("RGB"), explained)


def of_picture(picture: Image.Image, explained: bool = True) -> bytes:
    """Serialise the PredictRequest for a decoded photograph, RGB."""
    pixels = np.asarray(picture.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))[np.newaxis]
    images = _field(2, _field(1, b"images") + _field(2, _tensor(pixels, _UINT8)))
    if not explained:
        return _spec(b"serving_default") + images
    predicted = _tensor(np.array([-1], np.int32), _INT32)
    explanation = _field(2, _field(1, b"class_index") + _field(2, predicted))
    outputs = b"".join(_field(3, output) for output in _OUTPUTS)
    return _spec(b"gradcam") + images + explanation + outputs


def probabilities(response: bytes) -> NDArray[np.float32]:
    """Read them from a serialised PredictResponse, float32 [4].

    Raises:
        ValueError: it has none.
    """
    return _output(response, b"probabilities")


def cam_fine(response: bytes) -> NDArray[np.float32]:
    """Read the map from a serialised PredictResponse, float32 [18, 18].

    Raises:
        ValueError: it has none.
    """
    return _output(response, b"cam_fine").reshape(_CAM_FINE)


def _output(response: bytes, wanted: bytes) -> NDArray[np.float32]:
    for output in _all(response, 1):
        (name,) = _all(output, 1)
        if name == wanted:
            (tensor,) = _all(output, 2)
            return np.frombuffer(b"".join([*_all(tensor, 4), *_all(tensor, 5)]), "<f4")
    raise ValueError(f"a PredictResponse without {wanted.decode()}")


def _spec(signature: bytes) -> bytes:
    return _field(1, _field(1, _MODEL) + _field(3, signature))


def _tensor(array: NDArray[np.generic], dtype: int) -> bytes:
    sizes = [_field(2, bytes([1 << 3 | _VARINT]) + _varint(size)) for size in array.shape]
    shape = _field(2, b"".join(sizes))
    return bytes([1 << 3 | _VARINT]) + _varint(dtype) + shape + _field(4, array.tobytes())


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _all(message: bytes, wanted: int) -> list[bytes]:
    """Return the payloads of the fields of a number that have a length."""
    return [payload for number, payload in _fields(message) if number == wanted]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            length, at = _read_varint(message, at)
            yield number, message[at : at + length]
            at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at
