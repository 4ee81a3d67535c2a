"""Talking to TensorFlow Serving: the wire, the errors, the retry."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from gateway import contract, errors
from gateway.model_client import GRPC_ERRORS, ModelClient
from gateway.protos import serving_pb2 as pb

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
TENSOR = np.arange(224 * 224 * 3, dtype=np.uint32).astype(np.uint8).reshape(224, 224, 3)


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
    seconds: float = 5.0,
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
    client = ModelClient(f"127.0.0.1:{port}", seconds)
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
        prediction = await client.explain(TENSOR, 2)
    assert prediction.version == 7
    assert prediction.probabilities.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert prediction.cam.tolist() == np.arange(16.0).reshape(4, 4).tolist()
    assert prediction.cam_fine.shape == (18, 18)


async def test_the_request_carries_the_photograph_and_asks_only_for_what_is_used():
    """One uint8 photograph, the class to explain, and an output filter."""
    seen = []
    async with serving(lambda request, _: seen.append(request) or answer()) as client:
        await client.explain(TENSOR, 2)
        await client.predict(TENSOR)
    explain, predict = seen
    assert explain.model_spec.signature_name == "gradcam"
    assert explain.inputs["images"].tensor_content == TENSOR.tobytes()
    assert [d.size for d in explain.inputs["images"].tensor_shape.dim] == [1, 224, 224, 3]
    assert np.frombuffer(explain.inputs["class_index"].tensor_content, "<i4").tolist() == [2]
    assert list(explain.output_filter) == list(contract.EXPLANATION)
    assert predict.model_spec.signature_name == "serving_default"
    assert set(predict.inputs) == {"images"}


@pytest.mark.parametrize(
    "tensor", [TENSOR[:-1], TENSOR.astype(np.float32), TENSOR[np.newaxis], TENSOR[..., 0]]
)
async def test_a_tensor_of_another_shape_is_never_sent(tensor):
    """A wrong rank has brought whole servers down: it does not leave the process."""
    client = ModelClient("127.0.0.1:1", 1.0)
    with pytest.raises(ValueError, match="expected uint8"):
        await client.predict(tensor)
    await client.close()


@pytest.mark.parametrize("code", list(GRPC_ERRORS))
async def test_each_status_becomes_the_error_it_means(code):
    """A real server answers with each status; the client raises the error of the table."""

    async def refuse(_, context):
        await context.abort(code, "for this reason")

    async with serving(refuse) as client:
        with pytest.raises(GRPC_ERRORS[code]) as caught:
            await client.predict(TENSOR)
    assert type(caught.value) is GRPC_ERRORS[code]
    assert "127.0.0.1" not in str(caught.value)  # a client is told what to do, not where we look
    assert code.name in caught.value.__notes__[0]


async def test_a_refused_call_is_repeated_once():
    """A server that is busy for a moment costs nobody an answer; one that stays busy does."""
    calls = []

    async def busy_at_first(request, context):
        calls.append(request)
        if len(calls) == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        return answer()

    async with serving(busy_at_first) as client:
        assert (await client.predict(TENSOR)).version == 7
    assert len(calls) == 2


async def test_other_failures_are_not_repeated():
    """What is wrong with the request stays wrong."""
    calls = []

    async def refuse(request, context):
        calls.append(request)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    async with serving(refuse) as client:
        with pytest.raises(errors.ModelMisbehaved):
            await client.predict(TENSOR)
    assert len(calls) == 1


async def test_no_answer_in_time_is_unavailable():
    """The deadline ends the wait."""

    async def never(*_):
        await asyncio.Event().wait()

    async with serving(never, seconds=0.1) as client:
        with pytest.raises(errors.ModelUnavailable, match="Try again"):
            await client.predict(TENSOR)


async def test_no_server_is_unavailable():
    """Nothing listens: an error at once, with the address in its note, and no hanging."""
    client = ModelClient("127.0.0.1:1", 30.0)
    with pytest.raises(errors.ModelUnavailable) as caught:
        async with asyncio.timeout(10):
            await client.available_version()
    assert caught.value.__notes__[0].startswith("127.0.0.1:1: UNAVAILABLE")
    await client.close()


@pytest.mark.parametrize(
    "broken",
    [
        answer(shape=(1, 3)),
        answer([0.1, 0.2, float("nan"), 0.4]),
        answer([0.1, 0.2, 0.7]),
        answer([0.1, 0.2, 0.3, 2.4]),
        answer([-0.5, 0.5, 0.5, 0.5]),
        predict_pb2.PredictResponse(),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_refused(broken):
    """Wrong shapes, too few values, NaN, no outputs: nothing is made up from them."""
    async with serving(lambda *_: broken) as client:
        with pytest.raises(errors.ModelMisbehaved):
            await client.explain(TENSOR, -1)


async def test_the_real_model_server_answers(model_server):
    """The whole way over the SavedModel: probabilities that sum to one, maps of both sizes."""
    client = ModelClient(model_server, 10.0)
    try:
        assert await client.available_version() == 1
        plain, explained = await client.predict(TENSOR), await client.explain(TENSOR, -1)
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
    client = ModelClient(model_server, 10.0, name="other")
    with pytest.raises(errors.ModelUnavailable):
        await client.predict(TENSOR)
    await client.close()
