"""What the bare model server is asked, and what it answered: the official messages.

They import TensorFlow, which costs seconds and is in no measured time.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

METHOD = "/tensorflow.serving.PredictionService/Predict"
CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")  # the model card's "classes"
_OUTPUTS = ("probabilities", "cam", "cam_fine")
_SIZE = 224  # pixels


def predict_request(photograph: bytes, signature: str) -> bytes:
    """Serialise the Predict of one photograph, as serving_default or gradcam."""
    with _native_log_hidden():
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hemavision"
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(_proto(_tensor(photograph), types_pb2.DT_UINT8))
    if signature == "gradcam":
        index = _proto(np.array([-1], np.int32), types_pb2.DT_INT32)  # the predicted class
        request.inputs["class_index"].CopyFrom(index)
        request.output_filter.extend(_OUTPUTS)
    return bytes(request.SerializeToString())


def predicted_class(reply: bytes) -> str:
    """Read the class from a serialised PredictResponse."""
    from tensorflow import make_ndarray
    from tensorflow_serving.apis import predict_pb2

    response = predict_pb2.PredictResponse.FromString(reply)
    return CLASSES[int(make_ndarray(response.outputs["probabilities"]).argmax())]


def _proto(array: NDArray[Any], dtype: int) -> Any:
    from tensorflow.core.framework import tensor_pb2

    built = tensor_pb2.TensorProto(dtype=dtype, tensor_content=array.tobytes())
    for size in array.shape:
        built.tensor_shape.dim.add(size=size)
    return built


def _tensor(photograph: bytes) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(photograph)).convert("RGB")
    return np.asarray(picture.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))[np.newaxis]


@contextmanager
def _native_log_hidden() -> Iterator[None]:
    """Hide the page of remarks on GPUs that importing TensorFlow writes to the terminal."""
    terminal = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
