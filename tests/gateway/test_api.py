"""The HTTP API, over the real gateway, a real gRPC server and a real SavedModel."""

import asyncio
import base64
import io
import re
from dataclasses import replace

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, unused_port
from PIL import Image

from gateway.app import LIFECYCLE, create_app
from gateway.contract import CLASSES
from gateway.model_client import ModelClient
from gateway.settings import Settings

BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture
async def client(aiohttp_client, model_server) -> TestClient:
    settings = Settings(model_server=model_server, max_bytes=300_000, max_pixels=500_000)
    return await aiohttp_client(create_app(settings))


@pytest.fixture
async def orphan(aiohttp_client) -> TestClient:
    """A gateway whose model server is not there."""
    return await aiohttp_client(create_app(Settings(model_server=f"127.0.0.1:{unused_port()}")))


def form(data: bytes, field: str = "file") -> aiohttp.FormData:
    built = aiohttp.FormData()
    built.add_field(field, data, filename="cell.jpg", content_type="image/jpeg")
    return built


def picture(size: tuple[int, int], picture_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 180, 190)).save(buffer, picture_format)
    return buffer.getvalue()


async def problem(response: aiohttp.ClientResponse) -> dict:
    """The problem that an error reply must be."""
    assert response.content_type == "application/problem+json"
    body = await response.json(content_type=None)
    assert body["status"] == response.status
    assert body["type"].startswith("urn:hemavision:problem:")
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert len(body["detail"]) > 15
    return body


async def test_classify_answers_everything(client, jpeg):
    """A multipart photograph gets class, confidence, probabilities, context, overlay, times."""
    response = await client.post("/v1/classify", data=form(jpeg))
    body = await response.json()
    assert response.status == 200
    assert list(body["probabilities"]) == list(CLASSES)
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert body["confidence"] == max(body["probabilities"].values())
    assert body["probabilities"][body["prediction"]] == body["confidence"]
    assert body["annotation"]["class"] == body["prediction"]
    assert body["annotation"]["normal_range"]["source"]
    assert "One cell is no percentage" in body["annotation"]["statement"]
    assert body["model"] == {"name": "hemavision", "version": 1}
    measures = body["quality"].pop("measures")
    assert body["quality"] == {"width": 360, "height": 363, "format": "JPEG", "flags": []}
    assert set(measures) == {"sharpness", "brightness", "clipped", "nucleus"}
    assert body["target_ms"] == 200
    assert body["within_target"] is (body["timing_ms"]["total"] <= 200)
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Cache-Control"] == "no-store"
    stages = re.findall(r"(\w+);dur=[\d.]+", response.headers["Server-Timing"])
    assert stages == ["read", "wait", "prepare", "predict", "explain", "total"]
    overlay = Image.open(io.BytesIO(base64.b64decode(body["heatmap"]["data"])))
    assert overlay.size == (360, 363)
    assert body["heatmap"]["explained_class"] == body["prediction"]


async def test_a_raw_body_is_the_same_as_a_form(client, jpeg):
    """Both ways of sending give the same answer."""
    raw = await client.post("/v1/classify", data=jpeg, headers={"Content-Type": "image/jpeg"})
    multipart = await client.post("/v1/classify", data=form(jpeg))
    assert (await raw.json())["probabilities"] == (await multipart.json())["probabilities"]


async def test_the_answer_is_the_models_own(client, smear, tiny_model):
    """What comes out is what Keras says of the same pixels: nothing is embellished on the way."""
    buffer = io.BytesIO()
    smear.save(buffer, "PNG")
    response = await client.post("/v1/classify", data=buffer.getvalue(), headers=BINARY)
    tensor = np.asarray(smear.resize((224, 224), Image.Resampling.BILINEAR))
    expected = tiny_model.predict(tensor[np.newaxis], verbose=0)[0]
    answered = list((await response.json())["probabilities"].values())
    assert answered == pytest.approx(expected.tolist(), abs=1e-5)


async def test_one_rpc_a_photograph(aiohttp_client, model_server, jpeg):
    """Probabilities and heat map come from one call of the model server."""
    calls = []

    class Counting(ModelClient):
        async def _call(self, method, request, deadline):
            calls.append(request)
            return await super()._call(method, request, deadline)

    app = create_app(Settings(model_server=model_server), connect=Counting)
    client = await aiohttp_client(app)
    assert (await client.post("/v1/classify", data=form(jpeg))).status == 200
    assert len(calls) == 1


@pytest.fixture
async def doubtful(aiohttp_client, model_server) -> TestClient:
    """A gateway whose model has seen nothing like any photograph."""

    class Doubtful(ModelClient):
        async def explain(self, tensor, class_index, deadline):
            prediction = await super().explain(tensor, class_index, deadline)
            return replace(prediction, unfamiliarity=np.float32(1.7))

    return await aiohttp_client(create_app(Settings(model_server=model_server), connect=Doubtful))


async def test_an_unfamiliar_photograph_gets_no_answer_but_a_reason(doubtful, jpeg):
    """The nearest class is still told, for who asks; so are the score and the sentence."""
    body = await (await doubtful.post("/v1/classify", data=form(jpeg))).json()
    assert body["abstain"] is True
    assert [reason["reason"] for reason in body["abstain_reasons"]] == ["unfamiliar"]
    assert body["abstain_reasons"][0]["detail"].endswith("Let a person read it.")
    assert body["unfamiliarity"] == 1.7
    assert body["prediction"] in CLASSES
    assert (await (await doubtful.post("/predict", data=form(jpeg))).json())["abstain"] is True
    metrics = await (await doubtful.get("/metrics")).text()
    assert 'hemavision_abstentions_total{reason="unfamiliar"} 2.0' in metrics


async def test_a_familiar_photograph_is_answered(client, jpeg):
    """Nothing to doubt, with a heat map and without."""
    for query in ({}, {"heatmap": "none"}):
        response = await client.post("/v1/classify", data=form(jpeg), params=query)
        body = await response.json()
        assert body["abstain"] is False
        assert body["abstain_reasons"] == []
        assert 0 <= body["unfamiliarity"] <= 1


async def test_a_grid_is_the_map_itself(client, jpeg):
    """heatmap=grid answers with the cells, their method and where they lie."""
    for resolution, size, method in (("fine", 18, "HiResCAM x LayerCAM"), ("coarse", 4, "GradCAM")):
        query = {"heatmap": "grid", "resolution": resolution}
        body = await (await client.post("/v1/classify", data=form(jpeg), params=query)).json()
        cells = np.array(body["heatmap"]["cells"])
        assert cells.shape == (size, size)
        assert cells.min() >= 0
        assert cells.max() in (0, 1)
        assert body["heatmap"]["flat"] is bool(cells.max() == 0)
        assert body["heatmap"]["method"] == method
        assert body["heatmap"]["placement"]["pitch"] * size == pytest.approx(216, abs=30)
        assert "data" not in body["heatmap"]


async def test_no_heat_map_on_request(client, jpeg):
    """heatmap=none answers the class alone."""
    response = await client.post("/v1/classify?heatmap=none", data=form(jpeg))
    assert (await response.json())["heatmap"] is None


async def test_any_class_can_be_explained(client, jpeg):
    """explain=CLASS shows where that class was seen; lower case will do."""
    maps = {}
    for name in CLASSES:
        query = {"explain": name.lower(), "heatmap": "grid", "resolution": "coarse"}
        body = await (await client.post("/v1/classify", data=form(jpeg), params=query)).json()
        assert body["heatmap"]["explained_class"] == name
        maps[name] = str(body["heatmap"]["cells"])
    assert len(set(maps.values())) > 1


@pytest.mark.parametrize("picture_format", ["png", "jpeg", "webp"])
async def test_heatmap_answers_with_the_overlay_itself(client, jpeg, picture_format):
    """/v1/heatmap is the picture, in the asked format, at the photograph's size."""
    response = await client.post(f"/v1/heatmap?format={picture_format}", data=form(jpeg))
    assert response.content_type == f"image/{picture_format}"
    overlay = Image.open(io.BytesIO(await response.read()))
    assert overlay.size == (360, 363)
    assert overlay.format == picture_format.upper()


async def test_the_overlay_keeps_a_wide_photographs_aspect(client, smear):
    """A field of 4:3 gets an overlay of 4:3."""
    buffer = io.BytesIO()
    smear.resize((640, 480)).save(buffer, "JPEG")
    response = await client.post("/v1/heatmap", data=form(buffer.getvalue()))
    assert Image.open(io.BytesIO(await response.read())).size == (640, 480)


async def test_predict_keeps_the_original_applications_shape(client, jpeg):
    """Its clients find every field where it was, in percent, no demo mode, and whether to trust."""
    response = await client.post("/predict", data=form(jpeg))
    body = await response.json()
    assert set(body) == {
        "prediction",
        "confidence",
        "probabilities",
        "heatmap",
        "original",
        "info",
        "demo_mode",
        "abstain",
    }
    assert sum(body["probabilities"].values()) == pytest.approx(100, abs=0.05)
    assert body["confidence"] == max(body["probabilities"].values())
    assert set(body["info"]) == {"description", "normal_range", "color", "icon"}
    assert body["demo_mode"] is False
    for name in ("heatmap", "original"):
        decoded = Image.open(io.BytesIO(base64.b64decode(body[name])))
        assert (decoded.format, decoded.size) == ("PNG", (224, 224))


async def test_predict_takes_a_form_only(client, jpeg):
    """As in the original application."""
    response = await client.post("/predict", data=jpeg, headers=BINARY)
    assert response.status == 415
    assert "file" in (await problem(response))["detail"]


async def test_the_reference_data_has_its_sources(client):
    """/v1/reference lists the four classes."""
    body = await (await client.get("/v1/reference")).json()
    assert [entry["class"] for entry in body["classes"]] == list(CLASSES)


async def test_the_model_describes_itself(aiohttp_client, model_server, tiny_models):
    """/v1/model gives the version that is served, the preprocessing and that version's card."""
    app = create_app(Settings(model_server=model_server, models=tiny_models))
    body = await (await (await aiohttp_client(app)).get("/v1/model")).json()
    assert body["version"] == 1
    assert body["classes"] == list(CLASSES)
    assert body["input"]["resize_policy"] == "stretch"
    assert (body["card"]["name"], body["card"]["version"]) == ("tiny", 1)


@pytest.mark.parametrize("card", [None, "{"])
async def test_a_card_that_cannot_be_read_is_none(aiohttp_client, model_server, tmp_path, card):
    """A version without a card, or with a broken one, is served all the same."""
    if card is not None:
        (tmp_path / "1/assets.extra").mkdir(parents=True)
        (tmp_path / "1/assets.extra/model_card.json").write_text(card)
    app = create_app(Settings(model_server=model_server, models=tmp_path))
    body = await (await (await aiohttp_client(app)).get("/v1/model")).json()
    assert (body["version"], body["card"]) == (1, None)


async def test_probes(client, orphan):
    """Alive without a model; ready only with one."""
    assert (await client.get("/livez")).status == 200
    ready = await client.get("/readyz")
    assert (ready.status, (await ready.json())["model_version"]) == (200, 1)
    assert (await orphan.get("/livez")).status == 200
    assert (await orphan.get("/readyz")).status == 503


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/heatmap", "/predict"])
async def test_no_model_is_503_at_once(orphan, jpeg, route):
    """Nothing is invented where there is no model; the client is told when to come back."""
    async with asyncio.timeout(5):
        response = await orphan.post(route, data=form(jpeg))
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert (await problem(response))["type"].endswith("model-unavailable")


async def test_the_page_and_its_files(client):
    """The page brings everything with it and may talk to nobody else."""
    page = await client.get("/")
    assert page.content_type == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    text = await page.text()
    assert "http://" not in text
    assert "https://" not in text
    for address in re.findall(r'(?:src|href)="(/page/[^"]+)"', text):
        assert (await client.get(address)).status == 200, address
    assert (await client.get("/page/../app.py")).status == 404
    assert (await client.get("/page/nothing.js")).status == 404


@pytest.mark.parametrize(
    ("data", "status", "name", "word"),
    [
        (b"", 400, "missing-photograph", "empty"),
        (b"not a picture at all", 415, "unsupported-media", "JPEG"),
        (b"GIF89a" + bytes(60), 415, "unsupported-media", "PNG"),
        (picture((300, 300), "JPEG")[:1000], 422, "unreadable-photograph", "again"),
        (bytes(300_001), 413, "photograph-too-large", "300,000"),
        (picture((1000, 501)), 413, "photograph-too-large", "1000 x 501"),
        (picture((8, 8)), 422, "unreadable-photograph", "32"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda data: {"data": data, "headers": BINARY}, None])
async def test_a_bad_photograph_is_refused_with_a_reason(client, data, status, name, word, wrap):
    """Each refusal, raw and in a form: a 4xx that says what to do."""
    sent = wrap(data) if wrap else {"data": form(data)}
    response = await client.post("/v1/classify", **sent)
    body = await problem(response)
    assert (response.status, body["type"].rsplit(":", 1)[1]) == (status, name)
    assert word in body["detail"]


async def test_a_stream_without_length_cannot_pass_the_cap(client):
    """An endless body is cut off just past the limit."""

    async def endless():
        while True:
            yield bytes(65536)

    try:
        response = await client.post("/v1/classify", data=endless(), headers=BINARY)
    except aiohttp.ClientError:  # the server closed the connection while we were still writing
        return
    assert response.status == 413


async def test_a_form_of_other_parts_cannot_pass_the_cap(client):
    """Parts that nobody asked for are capped as well; aiohttp itself would swallow them all."""

    async def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\n'
        while True:
            yield bytes(65536)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with asyncio.timeout(20):
        try:
            response = await client.post("/v1/classify", data=endless(), headers=headers)
        except aiohttp.ClientError:  # the server closed the connection while we were still writing
            return
    assert response.status == 413


@pytest.mark.parametrize("content_type", ["image/jpeg", "multipart/form-data; boundary=b"])
async def test_a_body_that_is_not_encoded_as_it_says_is_refused(client, jpeg, content_type):
    """Content-Encoding: gzip over bytes that are none is the client's fault."""
    headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
    response = await client.post("/v1/classify", data=jpeg, headers=headers)
    assert response.status in (400, 422)
    await problem(response)


async def test_a_wrong_field_name_is_told(client, jpeg):
    """The message says which part was expected and which came."""
    response = await client.post("/v1/classify", data=form(jpeg, field="image"))
    assert response.status == 400
    detail = (await problem(response))["detail"]
    assert "`file`" in detail
    assert "image" in detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--wrong\r\n",
        b"--b\r\nContent-Disposition: form-data",
        b"--b\r\nno header at all\r\n\r\nx",
        b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n'
        + 40 * b"x"
        + b"\r\n--b--",
    ],
)
async def test_a_broken_form_is_the_clients_fault(client, body):
    """Whatever is wrong with the form, the answer is 400."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = await client.post("/v1/classify", data=body, headers=headers)
    assert response.status == 400
    await problem(response)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "text/plain", "application/x-www-form-urlencoded"]
)
async def test_other_bodies_are_refused(client, jpeg, content_type):
    """A form without boundary, text, and curl's --data-binary without a type: told what to send."""
    headers = {"Content-Type": content_type}
    response = await client.post("/v1/classify", data=jpeg, headers=headers)
    assert response.status in (400, 415)
    await problem(response)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("explain=BASOPHIL", "NEUTROPHIL"),
        ("explain=", "NEUTROPHIL"),
        ("heatmap=yes", "overlay"),
        ("resolution=4k", "coarse"),
        ("colormap=hot", "viridis"),
        ("format=gif", "webp"),
        ("alpha=2", "from 0 to 1"),
        ("alpha=nan", "from 0 to 1"),
        ("alpha=x", "from 0 to 1"),
        ("timeout=0", "`timeout` is a number"),
        ("timeout=soon", "`timeout` is a number"),
        ("timeout=nan", "`timeout` is a number"),
        ("degrade=maybe", "allow"),
        ("heatmap=none&degrade=allow", "nothing"),
        ("colourmap=jet", "colormap"),
        ("alpha=0.1&alpha=0.2", "twice"),
        ("heatmap=none&explain=MONOCYTE", "nothing"),
        ("heatmap=grid&colormap=jet", "nothing"),
    ],
)
async def test_a_bad_option_is_refused_with_what_is_accepted(client, jpeg, query, word):
    """Unknown names and values never pass silently."""
    response = await client.post(f"/v1/classify?{query}", data=form(jpeg))
    body = await problem(response)
    assert (response.status, body["type"].rsplit(":", 1)[1]) == (400, "invalid-option")
    assert word in body["detail"]


async def test_routes_that_do_not_exist_are_problems_too(client):
    """404 and 405 speak the same language, and 405 says what is allowed."""
    assert (await problem(await client.get("/v2/classify")))["status"] == 404
    refused = await client.get("/v1/classify")
    assert (await problem(refused))["status"] == 405
    assert refused.headers["Allow"] == "OPTIONS, POST"


async def test_a_request_id_is_kept_or_made(client):
    """A client's own id comes back; a bad one is replaced."""
    given = await client.get("/livez", headers={"X-Request-ID": "abc-123"})
    assert given.headers["X-Request-ID"] == "abc-123"
    bad = await client.get("/livez", headers={"X-Request-ID": "a b;c"})
    assert re.fullmatch(r"[0-9a-f]{32}", bad.headers["X-Request-ID"])


async def test_waiting_counts(aiohttp_client, model_server, jpeg):
    """A photograph that had to wait says so, and its total holds the wait."""
    settings = Settings(
        model_server=model_server, max_in_flight=1, max_wait=30.0, deadline=60.0, client_share=1.0
    )
    client = await aiohttp_client(create_app(settings))
    responses = await asyncio.gather(
        *(client.post("/v1/classify", data=form(jpeg)) for _ in range(4))
    )
    timings = [(await response.json())["timing_ms"] for response in responses]
    for timing in timings:
        parts = sum(ms for stage, ms in timing.items() if stage != "total")
        assert timing["total"] == pytest.approx(parts, abs=0.1)
    last = max(timings, key=lambda timing: timing["wait"])
    assert last["wait"] > last["predict"]


async def test_many_at_once_are_answered_or_turned_away(aiohttp_client, model_server, jpeg):
    """Over the limit and past the wait a request gets 503; the others are answered."""
    settings = Settings(
        model_server=model_server, max_in_flight=1, max_wait=0.001, client_share=1.0
    )
    client = await aiohttp_client(create_app(settings))
    responses = await asyncio.gather(
        *(client.post("/v1/classify", data=form(jpeg)) for _ in range(12))
    )
    statuses = sorted(response.status for response in responses)
    assert statuses[0] == 200
    assert set(statuses) == {200, 503}
    refused = next(response for response in responses if response.status == 503)
    assert (await problem(refused))["type"].endswith("overloaded")
    assert (await client.post("/v1/classify", data=form(jpeg))).status == 200


async def test_an_overlay_cannot_be_left_out_of_the_overlay(client, jpeg):
    """/v1/heatmap has nothing else to answer with; see test_http for `Accept`."""
    response = await client.post("/v1/heatmap?degrade=allow", data=form(jpeg))
    assert response.status == 400
    assert "degrade" in (await problem(response))["detail"]


class Gated(ModelClient):
    """A model client whose calls wait until the gate is open, and tell when they are made."""

    def __init__(self, *given):
        super().__init__(*given)
        self.gate, self.asked = asyncio.Event(), asyncio.Event()

    async def _call(self, method, request, deadline):
        self.asked.set()
        await self.gate.wait()
        return await super()._call(method, request, deadline)


async def started(aiohttp_client, settings: Settings) -> tuple[TestClient, Gated]:
    """A gateway whose model is gated."""
    made = []
    app = create_app(settings, connect=lambda *given: made.append(Gated(*given)) or made[0])
    return await aiohttp_client(app), made[0]


async def test_an_eager_client_gets_429_and_is_answered_again_later(
    aiohttp_client, model_server, jpeg
):
    """Half of one place and one seat is one photograph: the second is refused until then."""
    settings = Settings(model_server=model_server, max_in_flight=1, max_waiting=1)
    client, model = await started(aiohttp_client, settings)
    first = asyncio.create_task(client.post("/v1/classify", data=form(jpeg)))
    await model.asked.wait()
    second = await client.post("/v1/classify", data=form(jpeg))
    assert second.status == 429
    assert int(second.headers["Retry-After"]) >= 1
    assert (await problem(second))["type"].endswith("too-many-at-once")
    model.gate.set()
    assert (await first).status == 200
    assert (await client.post("/v1/classify", data=form(jpeg))).status == 200
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_refused_total{reason="client"} 1.0' in metrics


async def test_a_full_queue_is_503_with_a_time_to_come_back(aiohttp_client, model_server, jpeg):
    """One is worked on, one waits, the third is refused at once; the two are answered."""
    settings = Settings(
        model_server=model_server, max_in_flight=1, max_waiting=1, max_wait=30.0, client_share=1.0,
        deadline=60.0,
    )  # fmt: skip
    client, model = await started(aiohttp_client, settings)
    posts = [asyncio.create_task(client.post("/v1/classify", data=form(jpeg))) for _ in range(3)]
    (refused,), _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    assert refused.result().status == 503
    assert int(refused.result().headers["Retry-After"]) >= 1
    assert (await problem(refused.result()))["type"].endswith("overloaded")
    model.gate.set()
    assert sorted([(await post).status for post in posts]) == [200, 200, 503]


async def test_a_client_can_ask_for_an_answer_sooner(aiohttp_client, model_server, jpeg):
    """Its `timeout` is the deadline that travels to the model server, up to the service's own."""
    left = []

    class Noting(ModelClient):
        async def _call(self, method, request, deadline):
            left.append(deadline.remaining())
            return await super()._call(method, request, deadline)

    settings = Settings(model_server=model_server, deadline=60.0)
    client = await aiohttp_client(create_app(settings, connect=Noting))
    for timeout in ("20", "3600"):
        response = await client.post(f"/v1/classify?timeout={timeout}", data=form(jpeg))
        assert response.status == 200
    assert left[0] <= 20 < left[1] <= 60


async def test_a_timeout_that_cannot_be_kept_is_refused(client, jpeg):
    """A thousandth of a second is enough for nobody: an answer with a reason, and no wait."""
    response = await client.post("/v1/classify?timeout=0.001", data=form(jpeg))
    assert response.status in (408, 503)
    await problem(response)


async def test_an_upload_that_does_not_end_is_408(aiohttp_client, model_server):
    """The deadline runs from the request's head on."""
    settings = Settings(model_server=model_server, deadline=0.2)
    client = await aiohttp_client(create_app(settings))
    over = asyncio.Event()

    async def slow():
        yield b"\x89PNG"
        await over.wait()

    response = await client.post("/v1/classify", data=slow(), headers=BINARY)
    over.set()
    assert response.status == 408
    assert (await problem(response))["type"].endswith("upload-too-slow")


async def test_the_heat_map_is_left_out_where_there_is_no_time_and_the_client_agrees(
    aiohttp_client, model_server, jpeg, clock
):
    """Class and all else as ever, no map, and why."""

    class Dear(ModelClient):
        async def explain(self, tensor, class_index, deadline):
            prediction = await super().explain(tensor, class_index, deadline)
            clock.now += 1.0  # it took a second
            return prediction

    app = create_app(Settings(model_server=model_server), connect=Dear, clock=clock)
    client = await aiohttp_client(app)
    usual = await (await client.post("/v1/classify", data=form(jpeg))).json()
    assert usual["degraded"] is None
    query = {"timeout": "0.9", "degrade": "allow"}
    response = await client.post("/v1/classify", data=form(jpeg), params=query)
    body = await response.json()
    assert (response.status, body["heatmap"]) == (200, None)
    assert body["degraded"]["reason"] == "deadline"
    assert "no time left" in body["degraded"]["detail"]
    assert body["prediction"] == usual["prediction"]
    assert "hemavision_degraded_total 1.0" in await (await client.get("/metrics")).text()


async def test_probes_ask_the_model_server_once_a_second(aiohttp_client, model_server, clock):
    """However many they are, Prometheus among them."""
    client = await aiohttp_client(create_app(Settings(model_server=model_server), clock=clock))
    for _ in range(2):
        responses = await asyncio.gather(*(client.get("/readyz") for _ in range(5)))
        assert {response.status for response in responses} == {200}
        metrics = await (await client.get("/metrics")).text()
        clock.now += 1.0
    calls = re.findall(r'hemavision_rpc_duration_seconds_count\{.*signature="".*\} (\S+)', metrics)
    assert calls == ["2.0"]


async def test_a_dead_model_server_is_told_and_found_again(aiohttp_client, tiny_models, jpeg):
    """The breaker opens and shows; readiness is its way back, even where nobody sends more."""
    from export.local_server import LocalServer

    port = unused_port()
    client = await aiohttp_client(create_app(Settings(model_server=f"127.0.0.1:{port}")))
    for _ in range(6):
        response = await client.post("/v1/classify", data=form(jpeg))
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
    assert "hemavision_breaker_open 1.0" in await (await client.get("/metrics")).text()
    assert (await client.get("/readyz")).status == 503
    server = LocalServer("hemavision", tiny_models, f"127.0.0.1:{port}")
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(20):
        while (await client.get("/readyz")).status != 200:
            pass
    assert (await client.post("/v1/classify", data=form(jpeg))).status == 200
    assert "hemavision_breaker_open 0.0" in await (await client.get("/metrics")).text()
    await asyncio.to_thread(server.stop)


async def test_who_is_about_to_stop_says_so_and_goes_on(aiohttp_client, model_server, jpeg):
    """Not ready, alive, answering, and keeping no connection for a next request."""
    app = create_app(Settings(model_server=model_server))
    client = await aiohttp_client(app)
    assert (await client.get("/readyz")).headers.get("Connection") != "close"
    app[LIFECYCLE].stopping = True
    ready = await client.get("/readyz")
    assert ready.status == 503
    assert (await problem(ready))["type"].endswith("stopping")
    assert (await client.get("/livez")).status == 200
    answered = await client.post("/v1/classify", data=form(jpeg))
    assert answered.status == 200
    assert answered.headers["Connection"] == "close"
