"""Ask a model about labelled photographs: the Keras model itself, or a server over gRPC.

Both ways give the same answers, within float32's rounding; that is what makes an evaluation
through a running server a test of everything between the weights and the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export.dataset import Photograph, load_input
from export.evaluate import Answers
from export.gradcam import Network, classify
from gateway import contract

_BATCH = 32
_TERMINAL = Console(stderr=True)  # standard output is for figures
_TIMEOUT = 60.0  # seconds; a whole batch on a busy laptop
_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)

Outputs = Mapping[str, NDArray[np.float32]]


class ServerError(ValueError):
    """The model server gave no answer; the message says what it said."""


def from_network(network: Network, photographs: Sequence[Photograph]) -> Answers:
    """Run the network over photographs, in float32."""

    def ask(images: NDArray[np.uint8]) -> Outputs:
        return {name: output.numpy() for name, output in classify(network, images).items()}

    return _answers(ask, photographs)


def from_server(address: str, photographs: Sequence[Photograph]) -> Answers:
    """Send photographs to the model server at ``address`` (host:port).

    Raises:
        ServerError: it cannot be reached, or refuses.
    """
    with grpc.insecure_channel(address, _CHANNEL_OPTIONS) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

        def ask(images: NDArray[np.uint8]) -> Outputs:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = contract.MODEL_NAME
            request.model_spec.signature_name = contract.PREDICT_SIGNATURE
            request.inputs[contract.IMAGES].CopyFrom(tf.make_tensor_proto(images))
            try:
                response = predict(request, timeout=_TIMEOUT)
            except grpc.RpcError as error:
                raise ServerError(
                    f"the model server at {address} does not answer: "
                    f"{error.code().name}: {error.details()}"
                ) from error
            if contract.LOGITS not in response.outputs:
                raise ServerError(f"the model at {address} is another: it gives no logits")
            return {name: tf.make_ndarray(output) for name, output in response.outputs.items()}

        return _answers(ask, photographs)


def hidden_features(network: Network, photographs: Sequence[Photograph]) -> NDArray[np.float64]:
    """What the last layer sees of each photograph: float64 [N, D]."""

    def hidden(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        fine = network.to_fine(tf.cast(images, tf.float32), training=False)
        features: tf.Tensor = network.to_hidden(network.to_last(network.to_middle(fine)))
        return np.asarray(features)

    return np.concatenate([hidden(images) for images in _batches(photographs, "features")]).astype(
        np.float64
    )


def _answers(
    ask: Callable[[NDArray[np.uint8]], Outputs], photographs: Sequence[Photograph]
) -> Answers:
    replies = [ask(images) for images in _batches(photographs, "answering")]
    nothing = np.empty((0, len(contract.CLASSES)))
    logits = np.concatenate([nothing, *(reply[contract.LOGITS] for reply in replies)])
    scores = [reply[contract.UNFAMILIARITY] for reply in replies if contract.UNFAMILIARITY in reply]
    return Answers(
        photographs,
        logits.astype(np.float64),
        np.concatenate(scores).astype(np.float64) if scores else np.empty(0),
    )


def _batches(photographs: Sequence[Photograph], title: str) -> Iterator[NDArray[np.uint8]]:
    for start in track(
        range(0, len(photographs), _BATCH), title, transient=True, console=_TERMINAL
    ):
        yield np.stack([load_input(p.path) for p in photographs[start : start + _BATCH]])
