"""Requests that TensorFlow Serving runs on a new version before it serves anybody.

Without them the first callers wait for the graph to be optimised. One record that fails makes
the whole version fail to load, so ``verify`` runs each of them first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from gateway import contract

BATCH_SIZES = (1, 2, 4)


def warmup_requests() -> Iterator[predict_pb2.PredictRequest]:
    """Yield one request for each signature, set of outputs and batch size."""
    for batch in BATCH_SIZES:
        yield _request(contract.PREDICT_SIGNATURE, batch)
        yield _request(contract.GRADCAM_SIGNATURE, batch)
        yield _request(contract.GRADCAM_SIGNATURE, batch, contract.EXPLANATION)


def write_warmup(version: Path) -> None:
    """Write the records into the version directory, as a TFRecord file of PredictionLog."""
    path = version / contract.WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in warmup_requests():
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def read_warmup(version: Path) -> list[predict_pb2.PredictRequest]:
    """Read the requests back.

    Raises:
        tf.errors.NotFoundError, tf.errors.DataLossError: no such file, or a damaged one.
    """
    records = tf.data.TFRecordDataset(str(version / contract.WARMUP_FILE))
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        for record in records
    ]


def _request(
    signature: str, batch: int, outputs: tuple[str, ...] = ()
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = contract.MODEL_NAME
    request.model_spec.signature_name = signature
    request.output_filter.extend(outputs)
    shape = (batch, contract.INPUT_SIZE, contract.INPUT_SIZE, 3)
    images = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
    request.inputs[contract.IMAGES].CopyFrom(tf.make_tensor_proto(images))
    if signature == contract.GRADCAM_SIGNATURE:
        indices = np.full(batch, contract.PREDICTED_CLASS, np.int32)
        request.inputs[contract.CLASS_INDEX].CopyFrom(tf.make_tensor_proto(indices))
    return request
