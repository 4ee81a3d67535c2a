"""The stand-in answers TensorFlow Serving's own client as the real server does."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from export.local_server import LocalServer, Servable
from export.processor import NoBFloat16, multiplies_bfloat16
from gateway import contract

State = get_model_status_pb2.ModelVersionStatus.State
SECONDS = 60
"""How long anything that happens in its own time may take before a test gives up."""


class Client:
    """The official stubs on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.predict = prediction.Predict
        self.metadata = prediction.GetModelMetadata
        self.status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        self.health = health_pb2_grpc.HealthStub(channel).Check

    def versions(self) -> dict[int, int]:
        """Each version's state."""
        found = self.status(status_request(), timeout=SECONDS).model_version_status
        return {version.version: version.state for version in found}


@pytest.fixture(scope="module")
def client(model_server: str) -> Iterator[Client]:
    with grpc.insecure_channel(model_server) as channel:
        yield Client(channel)


@pytest.fixture
def base(tiny_models: Path, tmp_path: Path) -> Path:
    """A base path of its own, with version 1."""
    publish(tiny_models / "1", tmp_path / "hemavision", 1)
    return tmp_path / "hemavision"


@pytest.fixture
def serving(base: Path) -> Iterator[Client]:
    """A server of its own over that base path."""
    with (
        LocalServer("hemavision", base, "127.0.0.1:0") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Client(channel)


def publish(version: Path, base: Path, number: int) -> None:
    """Put a copy of a version there as an exporter does, by one rename."""
    aside = shutil.copytree(version, base / f".{number}.new")
    aside.rename(base / str(number))


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in its own time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.02)


def pictures(count: int = 1) -> npt.NDArray[np.uint8]:
    shape = (count, 224, 224, 3)
    return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


def predict_request(
    signature: str = "", *outputs: str, images: npt.NDArray[np.generic] | None = None
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = "hemavision"
    request.model_spec.signature_name = signature
    images = pictures() if images is None else images
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    if signature == "gradcam":
        indices = np.full(len(images), contract.PREDICTED_CLASS, np.int32)
        request.inputs["class_index"].CopyFrom(tf.make_tensor_proto(indices))
    return request


def status_request(name: str = "hemavision") -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    return request


def metadata_request(*fields: str) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "hemavision"
    return request


def refusal(call: Callable[..., object], request: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=SECONDS)
    return caught.value.code(), caught.value.details()


# ---- answers


def test_predict_answers_what_the_model_does(client: Client, tiny_model) -> None:
    """The default signature's probabilities are the Keras model's, one row a photograph."""
    images = pictures(3)
    reply = client.predict(predict_request(images=images), timeout=SECONDS)
    assert set(reply.outputs) == {"probabilities", "logits", "unfamiliarity"}
    np.testing.assert_allclose(
        tf.make_ndarray(reply.outputs["probabilities"]),
        tiny_model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_bfloat16_is_served_or_refused(client: Client, base: Path) -> None:
    """Where the processor multiplies in it, answers differ a little, and are float32 as before;
    elsewhere the server is not even made.
    """
    if not multiplies_bfloat16():
        with pytest.raises(NoBFloat16, match="serves in float32"):
            LocalServer("hemavision", base, "127.0.0.1:0", bfloat16=True)
        return
    request = predict_request(images=pictures(3))
    exact = tf.make_ndarray(client.predict(request, timeout=SECONDS).outputs["logits"])
    with (
        LocalServer("hemavision", base, "127.0.0.1:0", bfloat16=True) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        logits = tf.make_ndarray(
            Client(channel).predict(request, timeout=SECONDS).outputs["logits"]
        )
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_predict_explains(client: Client) -> None:
    """The other signature has all of the contract's outputs."""
    reply = client.predict(predict_request("gradcam", images=pictures(2)), timeout=SECONDS)
    shapes = {
        name: tuple(d.size for d in tensor.tensor_shape.dim)
        for name, tensor in reply.outputs.items()
    }
    assert shapes == {
        "probabilities": (2, 4),
        "logits": (2, 4),
        "unfamiliarity": (2,),
        "conv_features": (2, 4, 4, 8),
        "gradients": (2, 4, 4, 8),
        "cam": (2, 4, 4),
        "cam_fine": (2, 18, 18),
    }


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("", "serving_default"), ("serving_default", "serving_default"), ("gradcam", "gradcam")],
)
def test_the_reply_says_what_answered(client: Client, asked: str, answered: str) -> None:
    """Model, signature and version, also where the request left them open."""
    spec = client.predict(predict_request(asked), timeout=SECONDS).model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("hemavision", answered, 1)


def test_the_served_version_can_be_asked_by_number(client: Client) -> None:
    """A request may insist on its version."""
    request = predict_request()
    request.model_spec.version.value = 1
    assert client.predict(request, timeout=SECONDS).model_spec.version.value == 1


def test_the_output_filter_selects(client: Client) -> None:
    """What is not asked for is not sent."""
    request = predict_request("gradcam", *contract.EXPLANATION)
    assert set(client.predict(request, timeout=SECONDS).outputs) == set(contract.EXPLANATION)


def test_replies_use_typed_fields(client: Client) -> None:
    """As the real server does unless told otherwise: float_val, and no tensor_content."""
    outputs = client.predict(predict_request("gradcam"), timeout=SECONDS).outputs
    for tensor in outputs.values():
        assert tensor.dtype == tf.float32.as_datatype_enum
        assert tensor.tensor_content == b""
        assert len(tensor.float_val) == np.prod([d.size for d in tensor.tensor_shape.dim])


def test_a_request_may_use_typed_fields(client: Client) -> None:
    """Both encodings of a tensor are read."""
    images = pictures()
    typed = predict_request(images=images)
    typed.inputs["images"].ClearField("tensor_content")
    typed.inputs["images"].int_val.extend(images.ravel().tolist())
    assert client.predict(typed, timeout=SECONDS) == client.predict(
        predict_request(images=images), timeout=SECONDS
    )


def test_the_metadata_describes_the_signatures(client: Client) -> None:
    """Packed as the official client unpacks it, with the served version."""
    reply = client.metadata(metadata_request("signature_def"), timeout=SECONDS)
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("hemavision", 1)
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(unpacked)
    assert set(unpacked.signature_def["gradcam"].inputs) == {"images", "class_index"}
    outputs = set(unpacked.signature_def["serving_default"].outputs)
    assert outputs == {"probabilities", "logits", "unfamiliarity"}


def test_the_status_names_the_version(client: Client) -> None:
    """One version, available, without an error."""
    (version,) = client.status(status_request(), timeout=SECONDS).model_version_status
    assert (version.version, version.state) == (1, State.AVAILABLE)
    assert version.status.error_code == 0


@pytest.mark.parametrize("service", ["", "PredictionService"])
def test_health_knows_the_real_servers_services(client: Client, service: str) -> None:
    """Both names are SERVING."""
    reply = client.health(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


# ---- refusals


def test_another_service_has_no_health(client: Client) -> None:
    """NOT_FOUND for a name that the real server does not know."""
    request = health_pb2.HealthCheckRequest(service="tensorflow.serving.PredictionService")
    assert refusal(client.health, request)[0] is grpc.StatusCode.NOT_FOUND


def test_another_model_is_not_found(client: Client) -> None:
    """NOT_FOUND, in all three calls."""
    predict, metadata = predict_request(), metadata_request("signature_def")
    predict.model_spec.name = metadata.model_spec.name = "other"
    assert refusal(client.predict, predict) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(other)",
    )
    assert refusal(client.metadata, metadata)[0] is grpc.StatusCode.NOT_FOUND
    assert refusal(client.status, status_request("other"))[0] is grpc.StatusCode.NOT_FOUND


def test_another_version_is_not_found(client: Client) -> None:
    """NOT_FOUND, for an answer and for the status."""
    predict, status = predict_request(), status_request()
    predict.model_spec.version.value = status.model_spec.version.value = 9
    assert refusal(client.predict, predict) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(hemavision, 9)",
    )
    assert refusal(client.status, status)[0] is grpc.StatusCode.NOT_FOUND


def test_a_label_is_invalid(client: Client) -> None:
    """No labels are configured: INVALID_ARGUMENT."""
    request = predict_request()
    request.model_spec.version_label = "stable"
    code, details = refusal(client.predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Unrecognized servable version label: stable" in details


def test_an_unknown_signature_fails_a_precondition(client: Client) -> None:
    """FAILED_PRECONDITION, as it depends on what was exported."""
    code, details = refusal(client.predict, predict_request("lime"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert 'signature name: "lime" not found' in details


def test_an_unknown_output_is_invalid(client: Client) -> None:
    """INVALID_ARGUMENT names the output and those there are."""
    code, details = refusal(client.predict, predict_request("", "probabilities", "cam"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "cam" in details
    assert "logits" in details


def test_another_input_name_is_invalid(client: Client) -> None:
    """INVALID_ARGUMENT names what was sent and what is missing."""
    request = predict_request()
    request.inputs["image"].CopyFrom(request.inputs["images"])
    del request.inputs["images"]
    code, details = refusal(client.predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Sent extra: ['image']. Missing but required: ['images']" in details


def test_a_missing_input_is_invalid(client: Client) -> None:
    """Of the two inputs of gradcam, none may be left out."""
    request = predict_request()
    request.model_spec.signature_name = "gradcam"
    code, details = refusal(client.predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "class_index" in details


def test_another_dtype_is_invalid(client: Client) -> None:
    """Pixels as float32 are refused: the contract's are uint8."""
    request = predict_request(images=pictures().astype(np.float32))
    code, details = refusal(client.predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "images: expected dtype DT_UINT8, got DT_FLOAT" in details
    request.inputs["images"].dtype = 999
    assert refusal(client.predict, request)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_without_a_deadline_is_served(client: Client) -> None:
    """TensorFlow Serving does so too; gRPC tells a call without one that it has 292 years."""
    assert client.predict(predict_request(), timeout=None).model_spec.version.value == 1


@pytest.mark.parametrize("shape", [(1, 200, 224, 3), (224, 224, 3), (1, 224, 224, 4)])
def test_another_shape_is_invalid(client: Client, shape: tuple[int, ...]) -> None:
    """INVALID_ARGUMENT, where the real server may abort."""
    request = predict_request(images=np.zeros(shape, np.uint8))
    assert refusal(client.predict, request)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_fewer_bytes_than_the_shape_says_are_invalid(client: Client) -> None:
    """A tensor cut short is the client's fault, not the server's."""
    request = predict_request()
    request.inputs["images"].tensor_content = b"\0" * 100
    assert refusal(client.predict, request)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_class_that_does_not_exist_is_invalid(client: Client) -> None:
    """The graph's own refusal reaches the client with its words."""
    request = predict_request("gradcam")
    request.inputs["class_index"].CopyFrom(tf.make_tensor_proto(np.array([4], np.int32)))
    code, details = refusal(client.predict, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "class_index must be -1" in details


@pytest.mark.parametrize("fields", [(), ("model_spec",), ("signature_def", "other")])
def test_other_metadata_is_invalid(client: Client, fields: tuple[str, ...]) -> None:
    """Only signature_def can be asked for."""
    code, details = refusal(client.metadata, metadata_request(*fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "signature_def" in details


def test_a_deadline_ends_the_call(client: Client) -> None:
    """DEADLINE_EXCEEDED for a batch that takes longer; the server then answers others."""
    request = predict_request(images=pictures(64))
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(request, timeout=0.005)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.predict(predict_request(), timeout=SECONDS).outputs


def test_a_deadline_ends_the_work(tiny_models: Path) -> None:
    """The call's remaining time bounds TensorFlow's session as well: nothing runs on for nobody."""
    servable = Servable(tiny_models / "1")
    with pytest.raises(tf.errors.DeadlineExceededError):
        servable.predict(predict_request("gradcam", images=pictures(128)), timeout=0.001)


# ---- life cycle


def test_a_new_version_takes_over_while_the_old_one_serves(
    serving: Client, base: Path, tiny_models: Path
) -> None:
    """No call fails; answers come from 1 and then from 2; 1 becomes END and is not found."""
    publish(tiny_models / "1", base, 2)
    answered: list[int] = []

    def taken_over() -> bool:
        reply = serving.predict(predict_request(), timeout=SECONDS)
        answered.append(reply.model_spec.version.value)
        return answered[-1] == 2

    until(taken_over)
    assert answered[0] == 1
    assert answered == sorted(answered)
    assert serving.versions() == {2: State.AVAILABLE, 1: State.END}
    old = predict_request()
    old.model_spec.version.value = 1
    assert refusal(serving.predict, old)[0] is grpc.StatusCode.NOT_FOUND


def test_a_broken_version_leaves_the_old_one_serving(
    serving: Client, base: Path, tiny_models: Path
) -> None:
    """It ends with its error, the old one answers on, and a later sound version is taken."""
    broken = shutil.copytree(base / "1", base / ".2.new")
    (broken / "saved_model.pb").write_bytes(b"no graph at all")
    broken.rename(base / "2")
    until(lambda: serving.versions().get(2) == State.END)
    new, old = serving.status(status_request(), timeout=SECONDS).model_version_status
    assert (new.version, old.version, old.state) == (2, 1, State.AVAILABLE)
    assert new.status.error_code == grpc.StatusCode.UNKNOWN.value[0]
    assert new.status.error_message
    reply = serving.predict(predict_request(), timeout=SECONDS)
    assert reply.model_spec.version.value == 1
    publish(tiny_models / "1", base, 3)
    until(lambda: serving.versions().get(3) == State.AVAILABLE)
    assert serving.versions() == {3: State.AVAILABLE, 2: State.END, 1: State.END}


def test_a_version_that_cannot_be_warmed_is_not_served(serving: Client, base: Path) -> None:
    """One damaged record fails the whole load, as in the real server."""
    bad = shutil.copytree(base / "1", base / ".2.new")
    (bad / contract.WARMUP_FILE).write_bytes(b"\0" * 64)
    bad.rename(base / "2")
    until(lambda: serving.versions().get(2) == State.END)
    assert serving.versions() == {2: State.END, 1: State.AVAILABLE}


def test_a_version_without_a_warm_up_is_served(base: Path) -> None:
    """The file is optional, as in the real server."""
    (base / "1" / contract.WARMUP_FILE).unlink()
    with LocalServer("hemavision", base, "127.0.0.1:0") as server:
        assert server.port > 0


def test_the_newest_version_is_the_first_to_be_served(base: Path, tiny_models: Path) -> None:
    """Versions are numbers, not words: 10 is newer than 9."""
    for number in (9, 10):
        publish(tiny_models / "1", base, number)
    with (
        LocalServer("hemavision", base, "127.0.0.1:0") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert Client(channel).versions() == {10: State.AVAILABLE}


def test_a_first_version_that_is_broken_ends_the_server(base: Path) -> None:
    """There is nothing to serve, and whoever started it is told."""
    (base / "1" / "saved_model.pb").write_bytes(b"no graph at all")
    server = LocalServer("hemavision", base, "127.0.0.1:0")
    with pytest.raises(OSError, match=r"Cannot parse file .*saved_model\.pb"):
        server.start()
    assert server.port == 0


def open_port(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_port_stays_closed_until_a_version_is_there(
    tmp_path: Path, tiny_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty base path is waited for, and answered by nobody in the meantime."""
    port = free_port()
    server = LocalServer("hemavision", tmp_path, f"127.0.0.1:{port}")
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()
    try:
        until(lambda: "no version of hemavision in" in caplog.text)
        assert not open_port(port)
        publish(tiny_models / "1", tmp_path, 1)
        until(lambda: open_port(port))
        starting.join(SECONDS)
        assert server.port == port
    finally:
        server.stop()
        starting.join(SECONDS)


def test_the_wait_for_a_version_can_be_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Setting what was passed in ends it with the port closed."""
    cancelled = threading.Event()
    server = LocalServer("hemavision", tmp_path / "nowhere", "127.0.0.1:0")
    starting = threading.Thread(target=server.start, args=(cancelled,), daemon=True)
    starting.start()
    until(lambda: "no version of hemavision in" in caplog.text)
    cancelled.set()
    starting.join(SECONDS)
    assert not starting.is_alive()
    assert server.port == 0
    server.stop()


def test_a_taken_address_is_told(model_server: str, tiny_models: Path) -> None:
    """Two servers do not share a port unnoticed."""
    server = LocalServer("hemavision", tiny_models, model_server)
    with pytest.raises(OSError, match=f"cannot listen on {model_server}"):
        server.start()


def test_a_stopped_server_closes_its_port(base: Path) -> None:
    """After it is left, nobody listens there."""
    with LocalServer("hemavision", base, "127.0.0.1:0") as server:
        assert open_port(server.port)
    assert not open_port(server.port)
