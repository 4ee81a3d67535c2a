"""A stand-in for TensorFlow Serving on machines without Docker: `python -m export serve`.

It speaks the same gRPC services (PredictionService, ModelService, health), runs the same
SavedModel in the same TensorFlow session, and answers errors with the real server's codes and
words, so that the gateway meets on a laptop what it meets in production. It is not for
production: no batching, no REST, no metrics, one model.

As with the real server the port stays closed until a first version is loaded and warm; later
versions are warmed while the old one serves; and a version that cannot be loaded leaves the
old one alone. Unlike it, such a version is given up at once, not after five tries in as many
minutes; one that is removed is served on; and a wrong shape is refused, which can bring the real
one down.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, rewriter_config_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    status_pb2,
)

from export.processor import refuse_without_bfloat16
from export.warmup import read_warmup

_LOG = logging.getLogger("export.local_server")
_State = get_model_status_pb2.ModelVersionStatus.State
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NO_DEADLINE = 1e6  # seconds
_HEALTH_SERVICES = ("", "PredictionService")  # the names that the real server's service knows


class ServingError(Exception):
    """A request that the server refuses, with the gRPC code the real server gives it."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Servable:
    """One loaded version: a session and its signatures.

    With ``bfloat16`` the session multiplies in it, as the real server's does under
    ``--mixed_precision=bfloat16``: inputs and outputs stay what they were.
    """

    def __init__(self, path: Path, bfloat16: bool = False) -> None:
        self.version = int(path.name)
        self.path = path
        self.session = tf.compat.v1.Session(graph=tf.Graph(), config=_session_config(bfloat16))
        with self.session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(
                self.session, [tf.saved_model.SERVING], str(path)
            )
        self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = meta_graph.signature_def

    def warm_up(self) -> None:
        """Run the version's warm-up requests, where it has any."""
        with contextlib.suppress(tf.errors.NotFoundError):
            for request in read_warmup(self.path):
                self.predict(request, timeout=None)

    def predict(
        self, request: predict_pb2.PredictRequest, timeout: float | None
    ) -> predict_pb2.PredictResponse:
        """Run one request; ``timeout`` is in seconds.

        Raises:
            ServingError: names or dtypes that the signature does not have.
            tf.errors.OpError: what TensorFlow itself refused.
        """
        name = request.model_spec.signature_name or "serving_default"
        signature = self._signature(name)
        feeds = _feeds(request, signature)
        fetches = _fetches(request, signature)
        options = tf.compat.v1.RunOptions()
        if timeout is not None:
            options.timeout_in_ms = max(1, int(timeout * 1000))
        try:
            arrays = self.session.run(fetches, feeds, options=options)
        except ValueError as error:  # Python's session checks shapes, which the real one does not
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(
            _model_spec(request.model_spec.name, self.version, signature_name=name)
        )
        for output, array in arrays.items():
            response.outputs[output].CopyFrom(_typed_proto(array))
        return response

    def _signature(self, name: str) -> meta_graph_pb2.SignatureDef:
        if name not in self.signatures:
            message = f'Serving signature name: "{name}" not found in signature def'
            raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
        return self.signatures[name]


@dataclass
class _Status:
    state: int
    error: str = ""


class Library:
    """The versions under one base path: which is served, and what became of each."""

    def __init__(self, name: str, base: Path, bfloat16: bool = False) -> None:
        self.name, self.base, self.bfloat16 = name, base, bfloat16
        self.current: Servable | None = None
        self.statuses: dict[int, _Status] = {}

    def poll(self) -> bool:
        """Load the newest version that was not tried yet; return whether one was loaded.

        Raises:
            Exception: the first version of all cannot be loaded: there is nothing to serve.
        """
        newest = max(self._on_disk(), default=0)
        if newest == 0 or newest in self.statuses:
            return False
        status = self.statuses[newest] = _Status(_State.LOADING)
        _LOG.info("loading %s version %d", self.name, newest)
        try:
            servable = Servable(self.base / str(newest), self.bfloat16)
            servable.warm_up()
        except Exception as error:
            status.state, status.error = _State.END, str(error)
            if self.current is None:
                raise
            _LOG.exception("version %d cannot be served; still %d", newest, self.current.version)
            return False
        previous, self.current = self.current, servable
        status.state = _State.AVAILABLE
        if previous is not None:
            self.statuses[previous.version].state = _State.END
        _LOG.info("serving %s version %d", self.name, newest)
        return True

    def servable(self, spec: model_pb2.ModelSpec) -> Servable:
        """Find what a request asks for.

        Raises:
            ServingError: another model, a version that is not served, a label.
        """
        if spec.WhichOneof("version_choice") == "version_label":
            message = f"Unrecognized servable version label: {spec.version_label}"
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
        wanted = spec.version.value if spec.HasField("version") else None
        current = self.current
        if spec.name != self.name or current is None or wanted not in (None, current.version):
            which = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            message = f"Servable not found for request: {which}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, message)
        return current

    def _on_disk(self) -> list[int]:
        if not self.base.is_dir():
            return []
        return [int(path.name) for path in self.base.iterdir() if path.name.isdecimal()]


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, library: Library) -> None:
        self.library = library

    def Predict(  # noqa: N802  # the service's own name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        with _refusals(context):
            servable = self.library.servable(request.model_spec)
            return servable.predict(request, _time_left(context))

    def GetModelMetadata(  # noqa: N802  # the service's own name
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        with _refusals(context):
            if list(request.metadata_field) != ["signature_def"]:
                message = "Metadata field must be signature_def"
                raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
            servable = self.library.servable(request.model_spec)
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
            response = get_model_metadata_pb2.GetModelMetadataResponse(
                model_spec=_model_spec(self.library.name, servable.version)
            )
            response.metadata["signature_def"].Pack(signatures)
            return response


class _Model(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, library: Library) -> None:
        self.library = library

    def GetModelStatus(  # noqa: N802  # the service's own name
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        with _refusals(context):
            spec = request.model_spec
            wanted = spec.version.value if spec.HasField("version") else None
            statuses = dict(self.library.statuses)
            found = [v for v in sorted(statuses, reverse=True) if wanted in (None, v)]
            if spec.name != self.library.name or not found:
                message = f"Could not find any versions of model {spec.name}"
                raise ServingError(grpc.StatusCode.NOT_FOUND, message)
            return get_model_status_pb2.GetModelStatusResponse(
                model_version_status=[_version_status(v, statuses[v]) for v in found]
            )


class LocalServer:
    """A running model server; a context manager that stops it."""

    def __init__(
        self, name: str, base: Path, address: str = "127.0.0.1:8500", bfloat16: bool = False
    ) -> None:
        """Listen on ``address`` (port 0: any free one) for model ``name`` under ``base``.

        Raises:
            NoBFloat16: it is asked for, and the processor does not multiply in it.
        """
        if bfloat16:
            refuse_without_bfloat16()
        self.library = Library(name, base, bfloat16)
        self.address = address
        self.port = 0
        self._stopping = threading.Event()
        self._poll_seconds = 1.0  # the real server's default
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        threads = 4 * (os.cpu_count() or 1)  # the real server's default
        self._server = grpc.server(
            ThreadPoolExecutor(threads),
            maximum_concurrent_rpcs=threads,
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )

    def start(self, cancelled: threading.Event | None = None) -> None:
        """Wait for a first version, load it, open the port, then watch for newer versions.

        Setting ``cancelled`` ends the wait for a first version; the port then stays closed.

        Raises:
            Exception: the first version cannot be loaded.
            OSError: the address is taken.
        """
        cancelled = cancelled or self._stopping
        told = False
        while not self.library.poll():
            if not told:
                _LOG.warning(
                    "no version of %s in %s: waiting for one", self.library.name, self.library.base
                )
                told = True
            if cancelled.wait(self._poll_seconds):
                return
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Prediction(self.library), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _Model(self.library), self._server
        )
        checks = health.HealthServicer()
        for service in _HEALTH_SERVICES:
            checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        try:
            self.port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: is it host:port, and free?") from error
        self._server.start()
        self._watcher.start()

    def stop(self, grace: float = 1.0) -> None:
        """Refuse new calls, let running ones end within ``grace`` seconds, close."""
        self._stopping.set()
        self._server.stop(grace).wait()

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.library.poll()
            except OSError:  # the folder is away for a moment: what is loaded is served on
                _LOG.exception("cannot look for new versions in %s", self.library.base)


@contextlib.contextmanager
def _refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what was refused into the reply's status; ``abort`` raises out of the handler."""
    try:
        yield
    except ServingError as error:
        context.abort(error.code, str(error))
    except tf.errors.OpError as error:  # TensorFlow's error codes are gRPC's
        context.abort(_CODES[error.error_code], error.message)


def _session_config(bfloat16: bool) -> tf.compat.v1.ConfigProto:
    config = tf.compat.v1.ConfigProto()
    if bfloat16:
        rewriting = config.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    return config


def _time_left(context: grpc.ServicerContext) -> float | None:
    """Seconds until the caller's deadline; None where it set none, which gRPC calls 292 years."""
    seconds: float | None = context.time_remaining()
    return None if seconds is None or seconds > _NO_DEADLINE else seconds


def _feeds(
    request: predict_pb2.PredictRequest, signature: meta_graph_pb2.SignatureDef
) -> dict[str, NDArray[Any]]:
    sent, expected = set(request.inputs), set(signature.inputs)
    if sent != expected:
        message = (
            f"input size does not match signature: {len(sent)}!={len(expected)}. "
            f"Sent extra: {sorted(sent - expected)}. Missing but required: "
            f"{sorted(expected - sent)}."
        )
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
    feeds = {}
    for name, proto in request.inputs.items():
        wanted = signature.inputs[name].dtype
        if proto.dtype != wanted:
            known = types_pb2.DataType.values()
            given, needed = (
                types_pb2.DataType.Name(d) if d in known else d for d in (proto.dtype, wanted)
            )
            message = f"input {name}: expected dtype {needed}, got {given}"
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
        try:
            feeds[signature.inputs[name].name] = tf.make_ndarray(proto)
        except ValueError as error:  # fewer or more bytes than the shape says
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
    return feeds


def _fetches(
    request: predict_pb2.PredictRequest, signature: meta_graph_pb2.SignatureDef
) -> dict[str, str]:
    wanted = list(request.output_filter) or list(signature.outputs)
    for name in wanted:
        if name not in signature.outputs:
            message = (
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {sorted(signature.outputs)}."
            )
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
    return {name: signature.outputs[name].name for name in wanted}


def _typed_proto(array: NDArray[Any]) -> tensor_pb2.TensorProto:
    """Encode as the real server does by default: in the typed field, not in tensor_content."""
    proto = tf.make_tensor_proto(np.empty(0, array.dtype), shape=[0])
    proto.ClearField("tensor_content")
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    field: Any = {np.dtype(np.float32): proto.float_val, np.dtype(np.int32): proto.int_val}[
        array.dtype
    ]
    field.extend(array.ravel().tolist())
    return proto


def _model_spec(name: str, version: int, signature_name: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=name, signature_name=signature_name)
    spec.version.value = version
    return spec


def _version_status(version: int, status: _Status) -> get_model_status_pb2.ModelVersionStatus:
    code = grpc.StatusCode.UNKNOWN.value[0] if status.error else 0
    return get_model_status_pb2.ModelVersionStatus(
        version=version,
        state=status.state,
        status=status_pb2.StatusProto(error_code=code, error_message=status.error),
    )
