"""Ask TensorFlow Serving, over gRPC and without TensorFlow.

One place for the deadline, the retry and the balancing: gRPC's own service config does all
three. A call that no server took (UNAVAILABLE, RESOURCE_EXHAUSTED) is safe to repeat, since a
prediction changes nothing; it is repeated once, a moment later, inside the same deadline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray

from gateway import contract
from gateway.errors import HemaVisionError, ModelMisbehaved, ModelUnavailable, Overloaded
from gateway.protos import serving_pb2 as pb

GRPC_ERRORS: dict[StatusCode, type[HemaVisionError]] = {
    # all of the server's threads are busy
    StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    # no server, no model in it, or no answer in time: later it may work
    StatusCode.UNAVAILABLE: ModelUnavailable,
    StatusCode.DEADLINE_EXCEEDED: ModelUnavailable,
    StatusCode.NOT_FOUND: ModelUnavailable,
    StatusCode.CANCELLED: ModelUnavailable,
    StatusCode.ABORTED: ModelUnavailable,
    # the server has a model that is not ours, or broke on it: it needs a person
    StatusCode.INVALID_ARGUMENT: ModelMisbehaved,
    StatusCode.FAILED_PRECONDITION: ModelMisbehaved,
    StatusCode.OUT_OF_RANGE: ModelMisbehaved,
    StatusCode.UNIMPLEMENTED: ModelMisbehaved,
    StatusCode.INTERNAL: ModelMisbehaved,
    StatusCode.UNKNOWN: ModelMisbehaved,
    StatusCode.DATA_LOSS: ModelMisbehaved,
    StatusCode.ALREADY_EXISTS: ModelMisbehaved,
    StatusCode.PERMISSION_DENIED: ModelMisbehaved,
    StatusCode.UNAUTHENTICATED: ModelMisbehaved,
}
"""What each gRPC status means here; OK raises nothing."""

_ADVICE: dict[type[HemaVisionError], str] = {
    Overloaded: "The model is busy. Try again in a moment.",
    ModelUnavailable: "No model answers at the moment. Try again shortly; if it lasts, tell the "
    "operator of this service.",
    ModelMisbehaved: "The model server refused the request. Tell the operator of this service: its "
    "model is not the one that this gateway was made for.",
}
"""What a client is told. Addresses and gRPC's own words are a note on the error, for the log."""

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.05s",  # gRPC adds the jitter
                "maxBackoff": "0.05s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}
_CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # the client's default is 4 MiB, which sixteen photographs' worth of features exceed
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # a server that was away is found again within a second, not within gRPC's two minutes
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # nor is its new address looked up only after gRPC's half minute
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # the model server is on the inside: a proxy meant for the outside has no way to it
    ("grpc.enable_http_proxy", 0),
)
_ROUNDING = 1e-3  # a model in bfloat16 is off by this much
_IMAGE_SHAPE = (contract.INPUT_SIZE, contract.INPUT_SIZE, 3)
_OUTPUT_SHAPES = {
    contract.PROBABILITIES: (len(contract.CLASSES),),
    contract.UNFAMILIARITY: (),
    contract.CAM: (contract.CAM_SIZE, contract.CAM_SIZE),
    contract.CAM_FINE: (contract.CAM_FINE_SIZE, contract.CAM_FINE_SIZE),
}


@dataclass(frozen=True)
class Prediction:
    """The model's answer for one photograph.

    ``probabilities`` is float32 [4] in the order of ``CLASSES``. ``unfamiliarity`` is float32 [],
    above ``FAMILIAR_UP_TO`` where the photograph is like none that the model knows. ``cam``
    [4, 4] and ``cam_fine`` [18, 18] are float32, >= 0, not normalised; None where no
    explanation was asked.
    """

    version: int
    probabilities: NDArray[np.float32]
    unfamiliarity: NDArray[np.float32]
    cam: NDArray[np.float32] | None = None
    cam_fine: NDArray[np.float32] | None = None


class ModelClient:
    """A channel to the model server; ``close`` it. It connects when it is first used."""

    def __init__(self, address: str, timeout: float, name: str = contract.MODEL_NAME) -> None:
        """``address`` is host:port, ``timeout`` the longest wait of a call in seconds."""
        self._name, self._address, self._timeout = name, address, timeout
        self._channel = grpc.aio.insecure_channel(f"dns:///{address}", _CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request_serializer=pb.ModelStatusRequest.SerializeToString,
            response_deserializer=pb.ModelStatusResponse.FromString,
        )

    async def predict(self, tensor: NDArray[np.uint8]) -> Prediction:
        """Classify one photograph, uint8 [224, 224, 3].

        Raises:
            ModelUnavailable, ModelMisbehaved: see ``GRPC_ERRORS``.
        """
        request = self._request(contract.PREDICT_SIGNATURE, tensor)
        response: pb.PredictResponse = await self._call(self._predict, request)
        return _prediction(response, (contract.PROBABILITIES, contract.UNFAMILIARITY))

    async def explain(self, tensor: NDArray[np.uint8], class_index: int) -> Prediction:
        """Classify one photograph and ask where class ``class_index`` was seen, in one call.

        Raises:
            ModelUnavailable, ModelMisbehaved: see ``GRPC_ERRORS``.
        """
        request = self._request(contract.GRADCAM_SIGNATURE, tensor)
        request.inputs[contract.CLASS_INDEX].CopyFrom(
            _tensor(np.array([class_index], np.int32), pb.DT_INT32)
        )
        request.output_filter.extend(contract.EXPLANATION)
        response: pb.PredictResponse = await self._call(self._predict, request)
        return _prediction(response, contract.EXPLANATION)

    async def available_version(self) -> int:
        """Return the newest version that the server calls AVAILABLE.

        Raises:
            ModelUnavailable: the server does not answer, or has none.
        """
        request = pb.ModelStatusRequest(model_spec=pb.ModelSpec(name=self._name))
        response: pb.ModelStatusResponse = await self._call(self._status, request)
        available = pb.ModelVersionStatus.State.AVAILABLE
        versions = [s.version for s in response.model_version_status if s.state == available]
        if not versions:
            raise ModelUnavailable("The model is being loaded. Try again shortly.")
        return max(versions)

    async def close(self) -> None:
        """Close the channel, once no call is under way."""
        await self._channel.close()

    def _request(self, signature: str, tensor: NDArray[np.uint8]) -> pb.PredictRequest:
        # the server checks no shapes, and a wrong rank has brought a whole server down
        if tensor.shape != _IMAGE_SHAPE or tensor.dtype != np.uint8:
            raise ValueError(f"expected uint8 {_IMAGE_SHAPE}, got {tensor.dtype} {tensor.shape}")
        return pb.PredictRequest(
            model_spec=pb.ModelSpec(name=self._name, signature_name=signature),
            inputs={contract.IMAGES: _tensor(tensor[np.newaxis], pb.DT_UINT8)},
        )

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            response = await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        if response is None:  # what gRPC gives for bytes that are no such message
            raise ModelMisbehaved(_ADVICE[ModelMisbehaved])
        return response

    def _translated(self, error: grpc.aio.AioRpcError) -> HemaVisionError:
        kind = GRPC_ERRORS[error.code()]
        translated = kind(_ADVICE[kind])
        translated.add_note(f"{self._address}: {error.code().name}: {error.details()}")
        return translated


def _tensor(array: NDArray[np.uint8] | NDArray[np.int32], dtype: pb.DataType) -> pb.Tensor:
    dims = [pb.TensorShape.Dim(size=size) for size in array.shape]
    return pb.Tensor(
        dtype=dtype, tensor_shape=pb.TensorShape(dim=dims), tensor_content=array.tobytes()
    )


def _prediction(response: pb.PredictResponse, outputs: tuple[str, ...]) -> Prediction:
    arrays = {name: _array(response, name) for name in outputs}
    probabilities = arrays[contract.PROBABILITIES]
    if probabilities.min() < 0 or abs(probabilities.sum() - 1) > _ROUNDING:
        raise ModelMisbehaved("The model's probabilities are none: they do not add up to 1.")
    return Prediction(response.model_spec.version.value, **arrays)


def _array(response: pb.PredictResponse, name: str) -> NDArray[np.float32]:
    """Read one output's only row, from either way in which the server may have written it."""
    proto, shape = response.outputs[name], (1, *_OUTPUT_SHAPES[name])
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, "<f4")
    else:
        values = np.array(proto.float_val, np.float32)
    sent = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.dtype != pb.DT_FLOAT or sent != shape or values.size != np.prod(shape):
        raise ModelMisbehaved(f"The model's output {name} is not float32 {shape}.")
    if not np.isfinite(values).all():
        raise ModelMisbehaved(f"The model's output {name} holds values that are no numbers.")
    return np.asarray(values.reshape(shape)[0])
