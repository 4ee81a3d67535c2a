"""A version on trial: who asks it, what becomes of its failures, and what stops the start."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import grpc
import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from gateway import contract
from gateway.app import create_app
from gateway.breaker import Breaker
from gateway.canary import Canary, drawn
from gateway.deadline import Deadline
from gateway.errors import ModelUnavailable, SettingsError
from gateway.model_client import ModelClient
from gateway.settings import Settings
from gateway.tracing import Trace, following, unrecorded

VERSIONS = {"stable": 1, "canary": 2}
TENSOR = np.zeros((224, 224, 3), np.uint8)
LABELS = {"model_label": "stable", "canary_label": "canary"}
NO_MODEL = grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(hemavision, 2)"
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"


class TwoVersions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TensorFlow Serving with two labelled versions, whose answers are made up.

    ``canary`` is what version 2 does first of all: fail with a status, or whatever it calls.
    ``told`` is awaited before a label's version is told.
    """

    def __init__(self) -> None:
        self.labels = dict(VERSIONS)
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.asked: list[str] = []
        self.canary: Callable | None = None
        self.told: Callable | None = None

    async def Predict(self, request, context):  # noqa: N802  # the service's own name
        """Answer by label."""
        label = request.model_spec.version_label
        self.asked.append(label)
        version = await self._version(label, context)
        if label == "canary" and self.canary:
            await self.canary(context)
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = version
        for name, array in {
            contract.PROBABILITIES: np.array([[0.1, 0.2, 0.3, 0.4]]),
            contract.UNFAMILIARITY: np.array([0.5]),
            contract.CAM: np.ones((1, 4, 4)),
            contract.CAM_FINE: np.ones((1, 18, 18)),
        }.items():
            proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
            for size in array.shape:
                proto.tensor_shape.dim.add(size=size)
            proto.float_val.extend(array.ravel())
            response.outputs[name].CopyFrom(proto)
        return response

    async def GetModelMetadata(self, request, context):  # noqa: N802  # the service's own name
        """Tell which version a label leads to."""
        assert list(request.metadata_field) == ["signature_def"]  # the real server wants it
        if self.told:
            await self.told()
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        label = request.model_spec.version_label
        response.model_spec.version.value = await self._version(label, context)
        return response

    async def _version(self, label, context):
        if label not in self.labels:
            message = f"Unrecognized servable version label: {label}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        if self.refusal:
            await context.abort(*self.refusal)
        return self.labels[label]


@asynccontextmanager
async def listening(versions: TwoVersions) -> AsyncIterator[str]:
    """host:port of these versions on a real gRPC server."""
    server = grpc.aio.server()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(versions, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def versions() -> TwoVersions:
    """Two versions, both well."""
    return TwoVersions()


@pytest.fixture
async def server(versions) -> AsyncIterator[str]:
    """Where they are served."""
    async with listening(versions) as address:
        yield address


@pytest.fixture
def gateway(aiohttp_client, server):
    """A gateway before them."""

    async def start(**settings: object):
        settings = {"target_ms": 4000.0} | settings  # a busy machine fails no canary
        return await aiohttp_client(create_app(Settings(model_server=server, **settings)))

    return start


def failing(code: grpc.StatusCode, message: str) -> Callable:
    """What a version does that answers with this status."""

    async def fail(context):
        await context.abort(code, message)

    return fail


async def hang(_):
    """What a version does that never answers."""
    await asyncio.Event().wait()


async def classified(client, photograph: bytes, request_id: str = "", query: str = ""):
    headers = {"Content-Type": "image/jpeg"} | ({"X-Request-ID": request_id} if request_id else {})
    return await client.post(f"/v1/classify?heatmap=none{query}", data=photograph, headers=headers)


async def trials(client) -> dict[str, float]:
    """What became of the photographs for the version on trial."""
    text = await (await client.get("/metrics")).text()
    lines = [line for line in text.splitlines() if line.startswith("hemavision_canary")]
    return {line.split('"')[1]: float(line.split()[1]) for line in lines if "_created" not in line}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_draw_gives_the_share(share):
    """Of ten thousand requests, to within five standard deviations; nobody at 0, all at 1."""
    n = 10_000
    found = sum(drawn(f"request-{number}", share) for number in range(n))
    assert abs(found - n * share) <= 5 * (n * share * (1 - share)) ** 0.5


def test_a_larger_share_keeps_those_drawn():
    """Who asked the version on trial at 5 % still does at 50 %."""
    ids = [str(number) for number in range(2000)]
    few = {name for name in ids if drawn(name, 0.05)}
    assert few < {name for name in ids if drawn(name, 0.5)}


async def test_without_labels_nobody_asks_for_one(gateway, jpeg, versions):
    """The newest version is asked for, as a model server without labels needs it."""
    versions.labels[""] = 7
    reply = await classified(await gateway(), jpeg)
    assert (await reply.json())["model"]["version"] == 7
    assert versions.asked == [""]


async def test_all_requests_ask_the_labelled_version(gateway, jpeg, versions):
    """And the reply names it, while version 2 is there unasked; so do /readyz and /v1/model."""
    client = await gateway(**LABELS)
    for _ in range(5):
        reply = await classified(client, jpeg)
        assert (await reply.json())["model"]["version"] == 1
    assert set(versions.asked) == {"stable"}
    assert (await (await client.get("/readyz")).json())["model_version"] == 1
    assert (await (await client.get("/v1/model")).json())["version"] == 1


async def test_a_share_of_the_requests_asks_the_version_on_trial(gateway, jpeg):
    """Those that the draw names, each time the same; reply and metrics name the version."""
    client = await gateway(**LABELS, canary_share=0.5)
    ids = [f"request-{number}" for number in range(12)]
    for request_id in ids * 2:
        reply = await classified(client, jpeg, request_id)
        version = (await reply.json())["model"]["version"]
        assert version == (2 if drawn(request_id, 0.5) else 1)
    tried = 2 * sum(drawn(request_id, 0.5) for request_id in ids)
    assert 0 < tried < 24
    assert await trials(client) == {"answered": tried, "replaced": 0, "failed": 0}
    text = await (await client.get("/metrics")).text()
    for version in ("1", "2"):
        assert (
            f'hemavision_rpc_duration_seconds_count{{code="OK",signature="serving_default",version="{version}"}}'
            in text
        )
    assert 'hemavision_model_info{version="1"} 1.0' in text
    assert 'hemavision_model_info{version="2"}' not in text


async def test_all_photographs_of_a_request_are_read_by_one_version(gateway, jpeg, versions):
    """A form with several asks the version that its request was drawn for."""
    client = await gateway(**LABELS, canary_share=0.5)
    for number in range(6):
        versions.asked.clear()
        form = aiohttp.FormData()
        for part in range(3):
            form.add_field("file", jpeg, filename=f"{part}.jpg", content_type="image/jpeg")
        await client.post(
            "/v1/classify?heatmap=none", data=form, headers={"X-Request-ID": f"form-{number}"}
        )
        assert len(versions.asked) == 3
        assert len(set(versions.asked)) == 1


@pytest.mark.parametrize(
    "failure",
    [
        NO_MODEL,
        (grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: canary"),
        (grpc.StatusCode.INTERNAL, "broken"),
    ],
)
async def test_the_stable_version_answers_where_the_canary_fails(
    gateway, jpeg, versions, failure, caplog
):
    """Nobody suffers, and nothing is hidden: the metrics count it, and the log says why."""
    client = await gateway(**LABELS, canary_share=1.0)
    versions.canary = failing(*failure)
    reply = await classified(client, jpeg)
    assert reply.status == 200
    assert (await reply.json())["model"]["version"] == 1
    assert versions.asked == ["canary", "stable"]
    assert await trials(client) == {"answered": 0, "replaced": 1, "failed": 0}
    text = await (await client.get("/metrics")).text()
    assert f'code="{failure[0].name}"' in text
    assert failure[1] in caplog.text


async def test_a_canary_that_hangs_leaves_time_for_the_stable_version(gateway, jpeg, versions):
    """It may use up half of the request's time, however long the target is."""
    client = await gateway(**LABELS, canary_share=1.0, target_ms=2000.0)
    versions.canary = hang
    reply = await classified(client, jpeg, query="&timeout=3")
    assert reply.status == 200
    assert (await reply.json())["model"]["version"] == 1
    assert await trials(client) == {"answered": 0, "replaced": 1, "failed": 0}


async def test_nobody_waits_longer_than_the_target_for_the_canary(gateway, jpeg, versions):
    """Whoever has ten seconds too: a slow canary must not use up the error budget."""
    given = []

    async def note(context):
        given.append(context.time_remaining())
        await hang(context)

    versions.canary = note
    client = await gateway(**LABELS, canary_share=1.0, target_ms=300.0)
    reply = await classified(client, jpeg)
    assert (await reply.json())["model"]["version"] == 1
    assert given
    assert max(given) < 0.5  # of ten seconds; on the wire gRPC rounds up


@pytest.fixture
async def pair(server, clock):
    """What makes both versions one, with what is told of the one on trial."""
    stable, canary = ModelClient(server, label="stable"), ModelClient(server, label="canary")
    told: list[str] = []

    def paired(patience: float) -> tuple[Canary, list[str]]:
        return Canary(
            stable, canary, 1.0, patience, told.append, breaker=Breaker(clock=clock)
        ), told

    with following(Trace("a-request", unrecorded("", None))):
        yield paired
    await stable.close()
    await canary.close()


async def test_a_canary_that_never_answers_is_left_alone(pair, versions):
    """After five requests nobody waits for it any more; and the stable version is asked as ever."""
    versions.canary = hang
    both, told = pair(patience=0.2)
    for _ in range(6):
        assert (await both.predict(TENSOR, Deadline.after(10))).version == 1
    assert versions.asked.count("canary") == 5
    assert versions.asked.count("stable") == 6
    assert told == ["replaced"] * 6


async def test_a_request_short_of_time_says_nothing_of_the_canary(pair, versions):
    """With less time than the canary is given, or none, the stable version alone is asked."""
    both, told = pair(patience=60)
    assert (await both.predict(TENSOR, Deadline.after(30))).version == 1
    with pytest.raises(ModelUnavailable):
        await both.predict(TENSOR, Deadline.after(0))
    assert versions.asked == ["stable"]
    assert told == []


async def test_a_busy_server_is_not_asked_twice(gateway, jpeg, versions):
    """Beyond gRPC's own retry: no load upon load, and nothing that the canary is blamed for."""
    client = await gateway(**LABELS, canary_share=1.0)
    versions.canary = failing(*BUSY)
    reply = await classified(client, jpeg)
    assert reply.status == 503
    assert (await reply.json(content_type=None))["type"].endswith("overloaded")
    assert set(versions.asked) == {"canary"}
    assert await trials(client) == {"answered": 0, "replaced": 0, "failed": 0}


async def test_what_fails_with_both_is_told_apart(gateway, jpeg, versions):
    """Where neither version is there, the canary is not to blame alone."""
    client = await gateway(**LABELS, canary_share=1.0)
    versions.labels.clear()
    assert (await classified(client, jpeg)).status == 502
    assert await trials(client) == {"answered": 0, "replaced": 0, "failed": 1}


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"model_label": "stabel"}, "HEMAVISION_MODEL_LABEL='stabel'"),
        ({"model_label": "stable", "canary_label": "cnary"}, "HEMAVISION_CANARY_LABEL='cnary'"),
    ],
)
async def test_an_unknown_label_stops_the_start(server, settings, setting):
    """One sentence names the setting, what the model server said, and where labels are given."""
    app = create_app(Settings(model_server=server, **settings))
    app.freeze()
    with pytest.raises(SettingsError, match=f"{setting}.*Unrecognized.*models.config"):
        await app.startup()


async def test_both_labels_are_asked_for_at_once(server, versions):
    """A model server that is away delays the start by one wait: neither is answered alone here."""
    versions.told = asyncio.Barrier(2).wait
    labels = {"model_label": "stabel", "canary_label": "cnary"}
    app = create_app(Settings(model_server=server, **labels))
    app.freeze()
    with pytest.raises(SettingsError, match="HEMAVISION_MODEL_LABEL='stabel'"):
        await app.startup()


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (NO_MODEL, 503),
        ((grpc.StatusCode.INTERNAL, "out of sorts"), 502),
        ((grpc.StatusCode.UNIMPLEMENTED, "a proxy without the model server"), 502),
    ],
)
async def test_what_says_nothing_of_the_label_stops_no_start(gateway, versions, refusal, status):
    """Its version is still loaded, or the server is not well: /readyz says so until it is."""
    versions.refusal = refusal
    client = await gateway(**LABELS)
    assert (await client.get("/readyz")).status == status


async def test_a_label_that_goes_away_is_told(gateway, versions):
    """The gateway runs on, and is not ready."""
    client = await gateway(**LABELS)
    del versions.labels["stable"]
    reply = await client.get("/readyz")
    assert reply.status == 502
    assert (await reply.json(content_type=None))["type"].endswith("model-misbehaved")


def test_serve_refuses_an_unknown_label_in_one_sentence(refused, model_server):
    """The local model server gives no labels, and says so as the real one does."""
    said = refused(MODEL_SERVER=model_server, MODEL_LABEL="stabel")
    assert said.count("\n") == 1
    assert "HEMAVISION_MODEL_LABEL='stabel'" in said


def test_serve_starts_before_its_model_server(serve):
    """With labels too: that one may take a minute."""
    assert serve(MODEL_SERVER="127.0.0.1:1", MODEL_LABEL="stable").url


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"CANARY_SHARE": "5"}, "HEMAVISION_CANARY_SHARE='5': give a number from 0 to 1"),
        ({"CANARY_SHARE": "5%"}, "HEMAVISION_CANARY_SHARE='5%': give a number from 0 to 1"),
        ({"CANARY_SHARE": "nan"}, "HEMAVISION_CANARY_SHARE='nan': give a number from 0 to 1"),
        ({"CANARY_SHARE": "0.05"}, "HEMAVISION_CANARY_SHARE=0.05: .* HEMAVISION_CANARY_LABEL"),
        ({"MODEL_LABEL": ""}, "HEMAVISION_MODEL_LABEL='': give a version label"),
        ({"MODEL_LABEL": "the stable"}, "HEMAVISION_MODEL_LABEL='the stable': give a version"),
        ({"CANARY_LABEL": "canary"}, "HEMAVISION_CANARY_LABEL='canary': .* HEMAVISION_MODEL_LABEL"),
        ({"CANARY_LABEL": "one", "MODEL_LABEL": "one"}, "HEMAVISION_CANARY_LABEL='one': name"),
    ],
)
def test_labels_and_shares_that_make_no_sense_are_refused(environment, told):
    """By name, with what is accepted: also what makes no sense beside another setting."""
    with pytest.raises(SettingsError, match=told):
        Settings.from_environment({f"HEMAVISION_{n}": value for n, value in environment.items()})


def test_a_canary_can_be_switched_off_by_its_share():
    """The label may stay where the share is 0."""
    settings = Settings(**LABELS, canary_share=0.0)
    assert settings.canary_label == "canary"
