"""Ask TensorFlow Serving, over gRPC and without TensorFlow.

One place for the deadline, the retry, the balancing and the breaker. What is left of a request's
deadline is its call's. gRPC's own service config repeats and balances: a call that no server
took (UNAVAILABLE, RESOURCE_EXHAUSTED) or that one dropped as it ended (CANCELLED) is safe to
repeat, since a prediction changes nothing; it is repeated once, a moment later, by the next server
where there are several, inside the same deadline, and not at all while many fail. The breaker
leaves servers alone that do not answer.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray

from gateway import contract, tracing
from gateway.breaker import Breaker
from gateway.deadline import Deadline
from gateway.errors import ModelMisbehaved, ModelUnavailable, Overloaded, ServiceError
from gateway.protos import serving_pb2 as pb

_LOG = logging.getLogger(__name__)

Observe = Callable[[str, str, str, float], None]
"""Told of each call: its signature, the model's version (each empty where there is none), the
gRPC status and the seconds that it took, gRPC's own retry included."""

GRPC_ERRORS: dict[StatusCode, type[ServiceError]] = {
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

_ADVICE: dict[type[ServiceError], str] = {
    Overloaded: "The model is busy. Try again in a moment.",
    ModelUnavailable: "No model answers at the moment. Try again shortly; if it lasts, tell the "
    "operator of this service.",
    ModelMisbehaved: "The model server refused the request. Tell the operator of this service: its "
    "model is not the one that this gateway was made for.",
}
_LATE = (
    "The model did not answer within the time that this request had left. Try again in a moment; "
    "if it lasts, tell the operator of this service."
)
"""What a client is told. Addresses and gRPC's own words are a note on the error, for the log."""

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # a failure takes a token and a success gives a tenth back: below half there is no retry, so
    # that servers in trouble do not get twice the calls. A lost server's calls all fail at once:
    # fifty of them are repeated.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.05s",  # gRPC adds the jitter
                "maxBackoff": "0.05s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
}
_CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # the client's default is 4 MiB, which sixteen photographs' worth of features exceed
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # a server that was away is found again within half a second, not within gRPC's two minutes
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # so long may one attempt to connect take, and not gRPC's 20 s: a black hole swallows attempts
    ("grpc.min_reconnect_backoff_ms", 1000),
    # a machine that vanished without a word is given up after two seconds of silence while a
    # call is under way; otherwise it is asked every 330 s: below 300 s servers call it an abuse
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # nor is its new address looked up only after gRPC's half minute
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # the model server is on the inside: a proxy meant for the outside has no way to it
    ("grpc.enable_http_proxy", 0),
)
_FAIR_TRIAL = 0.5
"""Seconds. A server that did not answer within less may be no more than slow."""
_ROUNDING = 5e-3
"""How far from 1 probabilities may add up. A softmax in bfloat16 is off by half of this; ours is in
float32 always, but older versions of the model are not."""
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


_SILENT = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)
"""What gRPC says by itself, where no server has answered."""


class ModelClient:
    """A channel to the model servers, which it begins to connect to; ``close`` it."""

    def __init__(
        self,
        address: str,
        observe: Observe = lambda *_: None,
        credentials: grpc.ChannelCredentials | None = None,
        label: str | None = None,
        *,
        name: str = contract.MODEL_NAME,
        breaker: Breaker | None = None,
    ) -> None:
        """``address`` is host:port, or several IP addresses with ports and commas between.

        Without ``credentials`` the channel is in the clear. ``label`` is of the version to ask
        for; None: the newest.
        """
        self._name, self._label = name, label
        self._address = f"{address} ({label})" if label else address
        self._breaker = breaker or Breaker()
        self._observe = observe
        self._channel = _channel(_target(address), credentials)
        self._channel.get_state(try_to_connect=True)  # no request has to wait for it
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

        self._metadata = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/GetModelMetadata",
            request_serializer=pb.ModelMetadataRequest.SerializeToString,
            response_deserializer=pb.ModelMetadataResponse.FromString,
        )

    @property
    def given_up(self) -> bool:
        """Whether the servers are left alone, since they failed several times in a row."""
        return self._breaker.open

    def refuse_if_given_up(self) -> None:
        """Spare a request the work on its photograph where the model would not be asked.

        Raises:
            ModelUnavailable: the breaker lets no call through at this moment.
        """
        if self._breaker.pause() > 0:
            raise self._left_alone()

    async def predict(self, tensor: NDArray[np.uint8], deadline: Deadline) -> Prediction:
        """Classify one photograph, uint8 [224, 224, 3].

        Raises:
            ModelUnavailable, ModelMisbehaved: see ``GRPC_ERRORS``.
        """
        request = self._request(contract.PREDICT_SIGNATURE, tensor)
        response: pb.PredictResponse = await self._call(self._predict, request, deadline)
        return _prediction(response, (contract.PROBABILITIES, contract.UNFAMILIARITY))

    async def explain(
        self, tensor: NDArray[np.uint8], class_index: int, deadline: Deadline
    ) -> Prediction:
        """Classify one photograph and ask where class ``class_index`` was seen, in one call.

        Raises:
            ModelUnavailable, ModelMisbehaved: see ``GRPC_ERRORS``.
        """
        request = self._request(contract.GRADCAM_SIGNATURE, tensor)
        request.inputs[contract.CLASS_INDEX].CopyFrom(
            _tensor(np.array([class_index], np.int32), pb.DT_INT32)
        )
        request.output_filter.extend(contract.EXPLANATION)
        response: pb.PredictResponse = await self._call(self._predict, request, deadline)
        return _prediction(response, contract.EXPLANATION)

    async def available_version(self, deadline: Deadline) -> int:
        """Return the version that is asked for: the newest AVAILABLE one, or the label's.

        Raises:
            ModelUnavailable: the server does not answer, or has none.
            ModelMisbehaved: the server knows no such label.
        """
        if self._label is not None:
            return await self._labelled_version(deadline)
        request = pb.ModelStatusRequest(model_spec=pb.ModelSpec(name=self._name))
        response: pb.ModelStatusResponse = await self._call(self._status, request, deadline)
        available = pb.ModelVersionStatus.State.AVAILABLE
        versions = [s.version for s in response.model_version_status if s.state == available]
        if not versions:
            raise ModelUnavailable("The model is being loaded. Try again shortly.")
        return max(versions)

    async def _labelled_version(self, deadline: Deadline) -> int:
        """Ask for the metadata: a status names the versions, but not their labels."""
        request = pb.ModelMetadataRequest(
            model_spec=self._spec(""), metadata_field=["signature_def"]
        )
        response: pb.ModelMetadataResponse = await self._call(self._metadata, request, deadline)
        return response.model_spec.version.value

    async def close(self) -> None:
        """Close the channel, once no call is under way."""
        await self._channel.close()

    def _request(self, signature: str, tensor: NDArray[np.uint8]) -> pb.PredictRequest:
        # the server checks no shapes, and a wrong rank has brought a whole server down
        if tensor.shape != _IMAGE_SHAPE or tensor.dtype != np.uint8:
            raise ValueError(f"expected uint8 {_IMAGE_SHAPE}, got {tensor.dtype} {tensor.shape}")
        return pb.PredictRequest(
            model_spec=self._spec(signature),
            inputs={contract.IMAGES: _tensor(tensor[np.newaxis], pb.DT_UINT8)},
        )

    def _spec(self, signature: str) -> pb.ModelSpec:
        return pb.ModelSpec(name=self._name, signature_name=signature, version_label=self._label)

    async def _call(self, method: Any, request: Any, deadline: Deadline) -> Any:
        seconds = deadline.remaining()
        if not seconds:  # which gRPC would take for no deadline at all
            raise ModelUnavailable(_LATE, short_of_time=True)
        if not self._breaker.admit():
            raise self._left_alone()
        try:
            response = await self._observed(method, request, seconds)
        except grpc.aio.AioRpcError as error:
            self._blame(error.code(), seconds)
            raise self._translated(error) from error
        self._praise()
        if response is None:  # what gRPC gives for bytes that are no such message
            raise ModelMisbehaved(_ADVICE[ModelMisbehaved])
        return response

    async def _observed(self, method: Any, request: Any, seconds: float) -> Any:
        """Make one call, with the request's ids, and tell the observer what became of it."""
        started = time.perf_counter()
        code, version = StatusCode.CANCELLED, ""  # unless it ends otherwise
        trace = tracing.current()
        try:
            response = await method(
                request, timeout=seconds, metadata=trace.headers if trace else None
            )
            code = StatusCode.INTERNAL if response is None else StatusCode.OK
            version = _version(response)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        finally:
            signature = request.model_spec.signature_name
            self._observe(signature, version, code.name, time.perf_counter() - started)
        return response

    def _blame(self, code: StatusCode, seconds: float) -> None:
        """Count what says that nobody is there. Who refuses is; too little time says nothing."""
        if code not in _SILENT:
            self._praise()
        elif code is StatusCode.UNAVAILABLE or (
            code is StatusCode.DEADLINE_EXCEEDED and seconds >= _FAIR_TRIAL
        ):
            was_open = self._breaker.open
            self._breaker.failed()
            if self._breaker.open and not was_open:
                _LOG.warning(
                    "no model server answers at %s (HEMAVISION_MODEL_SERVER): it is asked only now "
                    "and then",
                    self._address,
                )

    def _praise(self) -> None:
        if self._breaker.open:
            _LOG.warning("a model server answers at %s again", self._address)
        self._breaker.succeeded()

    def _left_alone(self) -> ModelUnavailable:
        return ModelUnavailable(_ADVICE[ModelUnavailable], retry_after=self._breaker.pause())

    def _translated(self, error: grpc.aio.AioRpcError) -> ServiceError:
        kind = GRPC_ERRORS[error.code()]
        late = error.code() is StatusCode.DEADLINE_EXCEEDED
        translated = kind(_LATE if late else _ADVICE[kind], short_of_time=late)
        translated.add_note(f"{self._address}: {error.code().name}: {error.details()}")
        return translated


def _version(response: Any) -> str:
    answered = isinstance(response, pb.PredictResponse)  # the status of all versions has none
    return str(response.model_spec.version.value) if answered else ""


def _channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, _CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, _CHANNEL_OPTIONS)


def _target(address: str) -> str:
    """Name the servers as gRPC does: one name that DNS knows, or a list of IP addresses."""
    if "," not in address:
        return f"dns:///{address}"
    return f"{'ipv6' if '[' in address else 'ipv4'}:{address}"


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
    if proto.dtype != pb.DT_FLOAT or sent != shape or values.size != math.prod(shape):
        raise ModelMisbehaved(f"The model's output {name} is not float32 {shape}.")
    if not np.isfinite(values).all():
        raise ModelMisbehaved(f"The model's output {name} holds values that are no numbers.")
    return np.asarray(values.reshape(shape)[0])
