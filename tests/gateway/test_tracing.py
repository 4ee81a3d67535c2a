"""Following a request: its ids on the way to the model server, its spans, its times."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway import contract, tracing
from gateway.app import create_app
from gateway.deadline import Deadline
from gateway.errors import ModelMisbehaved, SettingsError
from gateway.model_client import ModelClient
from gateway.protos import serving_pb2 as pb
from gateway.recorder import Recorder
from gateway.settings import Settings
from gateway.telemetry import recorder
from gateway.tracing import Trace

IMAGE = {"Content-Type": "image/jpeg"}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {
    "traceparent": f"00-{TRACE}-{SPAN}-01",
    "tracestate": "vendor=1",
    "X-Request-ID": "abc-123",
}
TENSOR = np.zeros((224, 224, 3), np.uint8)


def answer() -> bytes:
    """A reply of version 7 with every output of the contract."""
    response = pb.PredictResponse()
    response.model_spec.version.value = 7
    for name, array in {
        contract.PROBABILITIES: np.full((1, 4), 0.25),
        contract.UNFAMILIARITY: np.array([0.5]),
        contract.CAM: np.ones((1, 4, 4)),
        contract.CAM_FINE: np.ones((1, 18, 18)),
    }.items():
        shape = pb.TensorShape(dim=[pb.TensorShape.Dim(size=size) for size in array.shape])
        response.outputs[name].CopyFrom(
            pb.Tensor(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=array.ravel())
        )
    return response.SerializeToString()


@asynccontextmanager
async def model_server(handle: Callable[[grpc.aio.ServicerContext], object]) -> AsyncIterator[str]:
    """host:port of a real gRPC server that answers Predict with the bytes from ``handle``."""

    async def predict(_, context):
        result = handle(context)
        return await result if asyncio.iscoroutine(result) else result

    methods = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def recording_server() -> AsyncIterator[tuple[str, list[dict]]]:
    """The same, with the list of every call's metadata."""
    seen: list[dict] = []

    def handle(context):
        seen.append(dict(context.invocation_metadata()))
        return answer()

    async with model_server(handle) as address:
        yield address, seen


async def test_the_callers_trace_goes_on_to_the_model_server(aiohttp_client, jpeg):
    """Trace, flag, state and request id; the parent there is our span, which the reply names."""
    async with recording_server() as (address, seen):
        client = await aiohttp_client(create_app(Settings(model_server=address)))
        response = await client.post("/v1/classify", data=jpeg, headers=IMAGE | CALLER)
        assert response.status == 200
    (metadata,) = seen
    assert metadata["x-request-id"] == "abc-123"
    assert metadata["tracestate"] == "vendor=1"
    assert metadata["traceparent"] == response.headers["traceresponse"]
    assert re.fullmatch(f"00-{TRACE}-(?!{SPAN})[0-9a-f]{{16}}-01", metadata["traceparent"])


@pytest.mark.parametrize("given", [None, f"00-{TRACE}-{'0' * 16}-01"])
async def test_without_a_usable_caller_a_trace_begins_here(aiohttp_client, jpeg, given):
    """Each request is another trace; a caller's state without its trace is dropped."""
    headers = IMAGE | ({"traceparent": given, "tracestate": "vendor=1"} if given else {})
    async with recording_server() as (address, seen):
        client = await aiohttp_client(create_app(Settings(model_server=address)))
        for _ in range(2):
            await client.post("/v1/classify", data=jpeg, headers=headers)
    one, other = (metadata["traceparent"].split("-") for metadata in seen)
    assert len({TRACE, one[1], other[1]}) == 3
    assert all("tracestate" not in metadata for metadata in seen)


async def test_spans_lie_in_the_request_and_the_request_in_its_caller(aiohttp_client, jpeg):
    """One span a stage; the model server's parent is the span `predict`."""
    exported = InMemorySpanExporter()
    async with recording_server() as (address, seen):
        app = create_app(Settings(model_server=address), recorder=Recorder(exported))
        client = await aiohttp_client(app)
        response = await client.post("/v1/classify", data=jpeg, headers=IMAGE | CALLER)
        await client.close()  # which sends what was recorded
    *stages, request = exported.get_finished_spans()
    assert [span.name for span in stages] == ["read", "wait", "prepare", "predict", "explain"]
    assert request.name == "POST /v1/classify"
    assert request.kind is SpanKind.SERVER
    assert f"{request.parent.span_id:016x}" == SPAN
    assert {span.parent.span_id for span in stages} == {request.context.span_id}
    assert {f"{span.context.trace_id:032x}" for span in (*stages, request)} == {TRACE}
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "hemavision.request_id": "abc-123",
    }
    assert request.resource.attributes["service.name"] == "hemavision"
    predict = next(span for span in stages if span.name == "predict")
    sent = f"00-{TRACE}-{predict.context.span_id:016x}-01"
    assert (seen[0]["traceparent"], seen[0]["tracestate"]) == (sent, "vendor=1")
    assert response.headers["traceresponse"].split("-")[2] == f"{request.context.span_id:016x}"


async def test_a_failure_is_in_its_stages_span(aiohttp_client, jpeg):
    """The stage names the error, the request its status; a refusal of ours is no failed request."""
    exported = InMemorySpanExporter()
    app = create_app(Settings(model_server="127.0.0.1:1"), recorder=Recorder(exported))
    client = await aiohttp_client(app)
    await client.post("/v1/classify", data=jpeg, headers=IMAGE)
    await client.post("/v1/classify", data=b"no picture", headers=IMAGE)
    await client.close()
    failed = [s for s in exported.get_finished_spans() if s.status.status_code is StatusCode.ERROR]
    assert [(span.name, span.attributes["error.type"]) for span in failed] == [
        ("predict", "ModelUnavailable"),
        ("POST /v1/classify", "503"),
        ("prepare", "UnsupportedMedia"),
    ]


async def test_what_is_not_sampled_is_neither_recorded_nor_an_exemplar(
    aiohttp_client, monkeypatch, jpeg
):
    """The sampler is the environment's; ids are passed on all the same."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    exported = InMemorySpanExporter()
    async with recording_server() as (address, seen):
        app = create_app(Settings(model_server=address), recorder=Recorder(exported))
        client = await aiohttp_client(app)
        await client.post("/v1/classify", data=jpeg, headers=IMAGE)
        accept = {"Accept": "application/openmetrics-text"}
        metrics = await (await client.get("/metrics", headers=accept)).text()
        await client.close()
    assert exported.get_finished_spans() == ()
    assert seen[0]["traceparent"].endswith("-00")
    assert "trace_id" not in metrics


async def test_stages_that_come_again_add_up():
    """A request of many photographs has one time a stage; outside of a request it is timed too."""
    with tracing.stage("prepare") as alone:
        pass
    assert alone.ms > 0
    assert tracing.current() is None
    with tracing.following(tracing.Trace("id", tracing.unrecorded("", None))) as trace:
        with tracing.stage("prepare") as first:
            pass
        with tracing.stage("prepare") as second:
            pass
    assert trace.stages_ms == {"prepare": pytest.approx(first.ms + second.ms)}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 503),
        ("GET", "/nothing", 404),
        ("GET", "/v1/classify", 405),
        ("POST", "/v1/classify", 400),
    ],
)
async def test_every_reply_tells_its_time_and_its_ids(aiohttp_client, method, path, status):
    """Errors too."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    response = await client.request(method, path, headers=CALLER | IMAGE)
    assert response.status == status
    assert re.search(r"(^|, )total;dur=\d+\.\d$", response.headers["Server-Timing"])
    assert response.headers["X-Request-ID"] == "abc-123"
    assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")


async def test_a_failed_photograph_tells_how_far_it_came(aiohttp_client, jpeg):
    """The stages up to the one that failed are timed."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    response = await client.post("/v1/classify", data=jpeg, headers=IMAGE)
    stages = re.findall(r"(\w+);dur", response.headers["Server-Timing"])
    assert stages == ["read", "wait", "prepare", "predict", "total"]


async def observed(handle, act) -> list[tuple[str, str, str]]:
    """Signature, version and code of each call that ``act`` makes with a client."""
    calls = []
    async with model_server(handle) as address:
        client = ModelClient(address, lambda *call: calls.append(call))
        await act(client)
        await client.close()
    assert all(seconds > 0 for *_, seconds in calls)
    return [tuple(call) for *call, _ in calls]


async def test_a_calls_signature_version_and_code_are_observed():
    """Of each Predict; the question which version is there names no signature."""

    async def act(client):
        await client.predict(TENSOR, Deadline.after(60))
        await client.explain(TENSOR, -1, Deadline.after(60))
        with pytest.raises(ModelMisbehaved):
            await client.available_version(Deadline.after(60))  # this server does not know it

    assert await observed(lambda _: answer(), act) == [
        (contract.PREDICT_SIGNATURE, "7", "OK"),
        (contract.GRADCAM_SIGNATURE, "7", "OK"),
        ("", "", "UNIMPLEMENTED"),
    ]


async def test_a_call_that_fails_is_observed_with_its_code():
    """A refusal, a reply that is no such message, and a call that its request gave up."""
    called = asyncio.Event()

    async def refuse(context):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    async def never(_):
        called.set()
        await asyncio.Event().wait()

    async def fail(client):
        with pytest.raises(ModelMisbehaved):
            await client.predict(TENSOR, Deadline.after(60))

    async def give_up(client):
        task = asyncio.create_task(client.predict(TENSOR, Deadline.after(60)))
        await called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    signature = contract.PREDICT_SIGNATURE
    assert await observed(refuse, fail) == [(signature, "", "INVALID_ARGUMENT")]
    assert await observed(lambda _: b"\xff\xff", fail) == [(signature, "", "INTERNAL")]
    assert await observed(never, give_up) == [(signature, "", "CANCELLED")]


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_the_environment_switches_the_recorder(environment, wanted):
    """By OpenTelemetry's own names."""
    built = recorder(environment)
    assert (built is not None) is wanted
    if built:
        built.close()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin': give otlp or none"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc': give http/protobuf"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "give http/protobuf"),
    ],
)
def test_another_exporter_is_refused_by_name(environment, words):
    """Better than to send nothing, and to say nothing of it."""
    with pytest.raises(SettingsError, match=words):
        recorder(environment)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ({"OTEL_SERVICE_NAME": "ward-3"}, "ward-3"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ward-4"}, "ward-4"),
    ],
)
def test_the_service_has_the_name_that_it_is_given(monkeypatch, named, name):
    """In either of the standard's ways."""
    for variable, value in named.items():
        monkeypatch.setenv(variable, value)
    exported = InMemorySpanExporter()
    built = Recorder(exported)
    built.begin("GET /", None).end({}, None)
    built.close()
    (span,) = exported.get_finished_spans()
    assert span.resource.attributes["service.name"] == name


def test_without_the_extra_its_switch_is_refused_and_nothing_else():
    """The gateway starts without the package; who asks for traces is told what to install."""
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"  # as if it were not installed
        "import gateway.cli, gateway.up\n"
        "from gateway.telemetry import recorder\n"
        "assert recorder({}) is None\n"
        "try: recorder({'OTEL_TRACES_EXPORTER': 'otlp'})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("SettingsError ")
    assert "install hemavision[tracing]" in run.stdout


def test_a_stage_within_a_stage_counts_for_itself():
    """The times of all stages add up to no more than the whole."""
    trace = Trace("x", tracing.unrecorded("x", None))
    with tracing.following(trace):
        with tracing.stage("read") as read, tracing.stage("wait") as wait:
            sum(range(200_000))
        with tracing.stage("wait") as again:
            pass
    assert read.ms < wait.ms
    assert trace.stages_ms == {"wait": wait.ms + again.ms, "read": read.ms}
    assert sum(trace.stages_ms.values()) <= trace.elapsed_ms
