"""Talking to TensorFlow Serving: the wire, the errors, the retry."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from gateway import contract, errors
from gateway.breaker import Breaker
from gateway.deadline import Deadline
from gateway.model_client import GRPC_ERRORS, ModelClient
from gateway.protos import serving_pb2 as pb

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
TENSOR = np.arange(224 * 224 * 3, dtype=np.uint32).astype(np.uint8).reshape(224, 224, 3)


def soon() -> Deadline:
    return Deadline.after(5.0)


def answer(
    probabilities: list[float] | None = None, *, content: bool = False, shape: tuple[int, ...] = ()
) -> predict_pb2.PredictResponse:
    """An official reply with all outputs, in typed fields or in tensor_content."""
    response = predict_pb2.PredictResponse()
    response.model_spec.version.value = 7
    for name, array in {
        contract.PROBABILITIES: np.array([probabilities or [0.1, 0.2, 0.3, 0.4]]),
        contract.UNFAMILIARITY: np.array([0.5]),
        contract.CAM: np.arange(16.0).reshape(1, 4, 4),
        contract.CAM_FINE: np.arange(324.0).reshape(1, 18, 18),
    }.items():
        proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
        for size in shape or array.shape:
            proto.tensor_shape.dim.add(size=size)
        if content:
            proto.tensor_content = array.astype("<f4").tobytes()
        else:
            proto.float_val.extend(array.ravel())
        response.outputs[name].CopyFrom(proto)
    return response


@asynccontextmanager
async def serving(
    handle: Callable[[predict_pb2.PredictRequest, grpc.aio.ServicerContext], object],
    breaker: Breaker | None = None,
) -> AsyncIterator[ModelClient]:
    """A client of a real gRPC server that speaks the official messages."""

    async def predict(request, context):
        result = handle(request, context)
        return await result if asyncio.iscoroutine(result) else result

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "Predict": grpc.unary_unary_rpc_method_handler(
                        predict,
                        predict_pb2.PredictRequest.FromString,
                        predict_pb2.PredictResponse.SerializeToString,
                    )
                },
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = ModelClient(f"127.0.0.1:{port}", breaker=breaker)
    try:
        yield client
    finally:
        await client.close()
        await server.stop(0)


def test_requests_are_wire_compatible_with_the_official_ones():
    """What our messages write, the official ones read, field by field, and the other way round."""
    tensor = pb.Tensor(
        dtype=pb.DT_UINT8,
        tensor_shape=pb.TensorShape(dim=[pb.TensorShape.Dim(size=n) for n in (1, 2, 3)]),
        tensor_content=bytes(range(6)),
    )
    ours = pb.PredictRequest(
        model_spec=pb.ModelSpec(name="m", version={"value": 3}, signature_name="s"),
        inputs={"images": tensor},
        output_filter=["a", "b"],
    )
    official = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert official.model_spec.name == "m"
    assert official.model_spec.version.value == 3
    assert official.model_spec.signature_name == "s"
    assert list(official.output_filter) == ["a", "b"]
    assert official.inputs["images"].dtype == types_pb2.DT_UINT8
    assert [d.size for d in official.inputs["images"].tensor_shape.dim] == [1, 2, 3]
    assert official.inputs["images"].tensor_content == bytes(range(6))
    assert pb.PredictRequest.FromString(official.SerializeToString()) == ours


def test_version_labels_are_wire_compatible():
    """The other arm of the version choice has its own number."""
    ours = pb.ModelSpec(name="m", version_label="canary")
    official = predict_pb2.PredictRequest.FromString(
        pb.PredictRequest(model_spec=ours).SerializeToString()
    )
    assert official.model_spec.version_label == "canary"


def test_metadata_are_wire_compatible_with_the_official_ones():
    """What we ask, the official messages read, and we read the version in their answer."""
    ours = pb.ModelMetadataRequest(
        model_spec=pb.ModelSpec(name="m", version_label="stable"), metadata_field=["signature_def"]
    )
    official = get_model_metadata_pb2.GetModelMetadataRequest.FromString(ours.SerializeToString())
    assert official.model_spec.version_label == "stable"
    assert list(official.metadata_field) == ["signature_def"]
    answered = get_model_metadata_pb2.GetModelMetadataResponse()
    answered.model_spec.version.value = 3
    answered.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap())
    read = pb.ModelMetadataResponse.FromString(answered.SerializeToString())
    assert read.model_spec.version.value == 3


def test_replies_are_wire_compatible_with_the_official_ones():
    """What the official messages write, ours read, and the other way round."""
    official = answer()
    ours = pb.PredictResponse.FromString(official.SerializeToString())
    assert ours.model_spec.version.value == 7
    assert ours.outputs[contract.PROBABILITIES].dtype == pb.DT_FLOAT
    assert list(ours.outputs[contract.CAM].float_val) == list(range(16))
    assert predict_pb2.PredictResponse.FromString(ours.SerializeToString()) == official


def test_model_states_are_wire_compatible():
    """The states have the official numbers, by name."""
    official = get_model_status_pb2.ModelVersionStatus.State
    assert dict(pb.ModelVersionStatus.State.items()) == dict(official.items())
    status = get_model_status_pb2.GetModelStatusResponse()
    status.model_version_status.add(version=5, state=official.AVAILABLE)
    ours = pb.ModelStatusResponse.FromString(status.SerializeToString())
    assert ours.model_version_status[0].version == 5
    assert ours.model_version_status[0].state == pb.ModelVersionStatus.State.AVAILABLE


def test_every_grpc_status_means_something_here():
    """No server can answer with a status that nobody thought of."""
    assert set(GRPC_ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("content", [False, True])
async def test_replies_are_read_from_either_encoding(content):
    """Typed fields or tensor_content: the arrays are the same."""
    async with serving(lambda *_: answer(content=content)) as client:
        prediction = await client.explain(TENSOR, 2, soon())
    assert prediction.version == 7
    assert prediction.probabilities.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert prediction.cam.tolist() == np.arange(16.0).reshape(4, 4).tolist()
    assert prediction.cam_fine.shape == (18, 18)


async def test_the_request_carries_the_photograph_and_asks_only_for_what_is_used():
    """One uint8 photograph, the class to explain, and an output filter."""
    seen = []
    async with serving(lambda request, _: seen.append(request) or answer()) as client:
        await client.explain(TENSOR, 2, soon())
        await client.predict(TENSOR, soon())
    explain, predict = seen
    assert explain.model_spec.signature_name == "gradcam"
    assert explain.inputs["images"].tensor_content == TENSOR.tobytes()
    assert [d.size for d in explain.inputs["images"].tensor_shape.dim] == [1, 224, 224, 3]
    assert np.frombuffer(explain.inputs["class_index"].tensor_content, "<i4").tolist() == [2]
    assert list(explain.output_filter) == list(contract.EXPLANATION)
    assert predict.model_spec.signature_name == "serving_default"
    assert set(predict.inputs) == {"images"}


async def test_probabilities_in_bfloat16_are_some():
    """A softmax in it misses 1 by up to a quarter of a percent: that is no reason to refuse."""
    async with serving(lambda *_: answer([0.1, 0.2, 0.3, 0.4025])) as client:
        prediction = await client.predict(TENSOR, soon())
    assert prediction.probabilities.sum() == pytest.approx(1.0025)


@pytest.mark.parametrize(
    "tensor", [TENSOR[:-1], TENSOR.astype(np.float32), TENSOR[np.newaxis], TENSOR[..., 0]]
)
async def test_a_tensor_of_another_shape_is_never_sent(tensor):
    """A wrong rank has brought whole servers down: it does not leave the process."""
    client = ModelClient("127.0.0.1:1")
    with pytest.raises(ValueError, match="expected uint8"):
        await client.predict(tensor, soon())
    await client.close()


@pytest.mark.parametrize("code", list(GRPC_ERRORS))
async def test_each_status_becomes_the_error_it_means(code):
    """A real server answers with each status; the client raises the error of the table."""

    async def refuse(_, context):
        await context.abort(code, "for this reason")

    async with serving(refuse) as client:
        with pytest.raises(GRPC_ERRORS[code]) as caught:
            await client.predict(TENSOR, soon())
    assert type(caught.value) is GRPC_ERRORS[code]
    assert "127.0.0.1" not in str(caught.value)  # a client is told what to do, not where we look
    assert code.name in caught.value.__notes__[0]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"])
async def test_a_refused_call_is_repeated_once(code):
    """A server that is busy or about to end for a moment costs nobody an answer."""
    calls = []

    async def busy_at_first(request, context):
        calls.append(request)
        if len(calls) == 1:
            await context.abort(grpc.StatusCode[code], "for a moment")
        return answer()

    async with serving(busy_at_first) as client:
        assert (await client.predict(TENSOR, soon())).version == 7
    assert len(calls) == 2


async def test_other_failures_are_not_repeated():
    """What is wrong with the request stays wrong."""
    calls = []

    async def refuse(request, context):
        calls.append(request)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    async with serving(refuse) as client:
        with pytest.raises(errors.ModelMisbehaved):
            await client.predict(TENSOR, soon())
    assert len(calls) == 1


async def test_no_answer_in_time_is_unavailable():
    """The deadline ends the wait."""

    async def never(*_):
        await asyncio.Event().wait()

    async with serving(never) as client:
        with pytest.raises(errors.ModelUnavailable, match="this request had left") as caught:
            await client.predict(TENSOR, Deadline.after(0.1))
        assert caught.value.short_of_time
        with pytest.raises(errors.ModelUnavailable, match="this request had left") as caught:
            await client.predict(TENSOR, Deadline.after(0.0))
        assert caught.value.short_of_time


async def test_no_server_is_unavailable():
    """Nothing listens: an error at once, with the address in its note, and no hanging."""
    client = ModelClient("127.0.0.1:1")
    with pytest.raises(errors.ModelUnavailable) as caught:
        async with asyncio.timeout(10):
            await client.available_version(soon())
    assert caught.value.__notes__[0].startswith("127.0.0.1:1: UNAVAILABLE")
    assert not caught.value.short_of_time
    await client.close()


@pytest.mark.parametrize(
    "broken",
    [
        answer(shape=(1, 3)),
        answer([0.1, 0.2, float("nan"), 0.4]),
        answer([0.1, 0.2, 0.7]),
        answer([0.1, 0.2, 0.3, 2.4]),
        answer([0.1, 0.2, 0.3, 0.406]),
        answer([-0.5, 0.5, 0.5, 0.5]),
        predict_pb2.PredictResponse(),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_refused(broken):
    """Wrong shapes, too few values, NaN, no outputs: nothing is made up from them."""
    async with serving(lambda *_: broken) as client:
        with pytest.raises(errors.ModelMisbehaved):
            await client.explain(TENSOR, -1, soon())


async def test_the_real_model_server_answers(model_server):
    """The whole way over the SavedModel: probabilities that sum to one, maps of both sizes."""
    client = ModelClient(model_server)
    try:
        assert await client.available_version(soon()) == 1
        plain, explained = (
            await client.predict(TENSOR, soon()),
            await client.explain(TENSOR, -1, soon()),
        )
    finally:
        await client.close()
    assert plain.probabilities.sum() == pytest.approx(1)
    assert plain.cam is None
    assert explained.probabilities == pytest.approx(plain.probabilities, abs=1e-6)
    assert explained.cam.shape == (4, 4)
    assert explained.cam_fine.shape == (18, 18)
    assert explained.version == 1


async def test_another_model_is_unavailable(model_server):
    """A server that holds no model of this name is as good as none."""
    client = ModelClient(model_server, name="other")
    with pytest.raises(errors.ModelUnavailable):
        await client.predict(TENSOR, soon())
    await client.close()


async def test_what_is_left_of_the_deadline_travels_with_the_call():
    """The model server knows for how long anybody waits, and need not work on."""
    left = []

    def handle(_, context):
        left.append(context.time_remaining())
        return answer()

    async with serving(handle) as client:
        await client.predict(TENSOR, Deadline.after(30.0))
        await client.predict(TENSOR, Deadline.after(3.0))
    assert 20 < left[0] < 40
    assert 0 < left[1] < 20


async def test_a_deadline_that_has_passed_is_an_error_at_once():
    """Nobody waits for it any more."""
    async with serving(lambda *_: answer()) as client:
        with pytest.raises(errors.ModelUnavailable):
            await client.predict(TENSOR, Deadline.after(-1.0))


async def test_a_server_that_fails_is_left_alone_and_found_again(clock, caplog):
    """Five failures in a row, and no call is made; after the pause one is, and closes it."""
    calls, dead = [], True

    async def handle(request, context):
        calls.append(request)
        if dead:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "dead")
        return answer()

    async with serving(handle, Breaker(5, clock)) as client:
        for _ in range(5):
            assert not client.given_up
            client.refuse_if_given_up()
            with pytest.raises(errors.ModelUnavailable):
                await client.predict(TENSOR, soon())
        made = len(calls)
        for _ in range(20):
            with pytest.raises(errors.ModelUnavailable, match="No model answers") as caught:
                await client.predict(TENSOR, soon())
            assert caught.value.retry_after > 0
        with pytest.raises(errors.ModelUnavailable):
            client.refuse_if_given_up()
        assert client.given_up
        assert len(calls) == made
        (told,) = caplog.messages
        assert "(HEMAVISION_MODEL_SERVER)" in told  # which address to look at
        dead = False
        clock.now += 2.0
        assert (await client.predict(TENSOR, soon())).version == 7
        assert not client.given_up
        assert (await client.predict(TENSOR, soon())).version == 7


@pytest.mark.parametrize(
    "code", [c for c, kind in GRPC_ERRORS.items() if kind is not errors.ModelUnavailable]
)
async def test_a_server_that_refuses_is_not_dead(code, clock):
    """Whoever answers is there: refusals open no breaker."""

    async def refuse(_, context):
        await context.abort(code, "no")

    async with serving(refuse, Breaker(1, clock)) as client:
        with pytest.raises(GRPC_ERRORS[code]):
            await client.predict(TENSOR, soon())
        assert not client.given_up


@pytest.mark.parametrize(("seconds", "given_up"), [(0.05, False), (0.7, True)])
async def test_only_a_fair_trial_counts(seconds, given_up):
    """A client in a hurry cannot have the server left alone; one that hangs is."""

    async def never(*_):
        await asyncio.Event().wait()

    async with serving(never) as client:
        calls = [client.predict(TENSOR, Deadline.after(seconds)) for _ in range(5)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert client.given_up is given_up


@contextmanager
def version(tiny_models: Path, folder: Path, number: int, port: int = 0) -> Iterator[int]:
    """A real model server whose version tells it from the others; yield its port."""
    from export.local_server import LocalServer

    shutil.copytree(tiny_models / "1", folder / f"base{number}" / str(number))
    server = LocalServer("hemavision", folder / f"base{number}", f"127.0.0.1:{port}")
    server.start()
    try:
        yield server.port
    finally:
        server.stop(grace=0)


async def test_servers_are_replaced_one_by_one_and_no_request_is_lost(tiny_models, tmp_path):
    """Both serve; each dies with calls under way and is replaced; every call is answered."""
    seen, failed, news = [], [], asyncio.Event()

    async def ask(client):
        while True:
            try:
                seen.append((await client.predict(TENSOR, soon())).version)
                news.set()
            except errors.HemaVisionError as error:
                failed.append(error)

    async def answered_by(number):
        seen.clear()
        while number not in seen:
            news.clear()
            await news.wait()

    first, second = version(tiny_models, tmp_path, 1), version(tiny_models, tmp_path, 2)
    ports = first.__enter__(), second.__enter__()
    client = ModelClient(",".join(f"127.0.0.1:{port}" for port in ports))
    asking = [asyncio.create_task(ask(client)) for _ in range(4)]
    async with asyncio.timeout(60):
        await answered_by(1)
        await answered_by(2)
        await asyncio.to_thread(first.__exit__, None, None, None)
        await answered_by(2)
        third = version(tiny_models, tmp_path, 3, ports[0])
        await asyncio.to_thread(third.__enter__)
        await answered_by(3)
        await asyncio.to_thread(second.__exit__, None, None, None)
        await answered_by(3)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await client.close()
    third.__exit__(None, None, None)
    assert [error.__notes__ for error in failed] == []


def connections_to(port: int) -> list[socket.socket]:
    """This process's TCP connections to a port of this machine."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        try:
            if connection.getpeername()[1] == port:
                found.append(connection)
                continue
        except (OSError, IndexError):
            pass
        connection.close()
    return found


async def test_it_connects_before_the_first_request():
    """And it gives up a machine that vanished: two seconds without an answer end a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        client = ModelClient(f"127.0.0.1:{port}")
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        async with asyncio.timeout(10):
            accepted, _ = await loop.sock_accept(listening)
        with accepted:
            (connection,) = connections_to(port)
            with connection:
                user_timeout = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        await client.close()
    assert user_timeout == 2000
