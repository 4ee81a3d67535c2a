"""POST /v1/differential over the real gateway, a real gRPC server and a real SavedModel."""

import asyncio
import base64
import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, unused_port
from PIL import Image

from gateway.app import HANDLERS, LIFECYCLE, create_app
from gateway.contract import CLASSES
from gateway.errors import Overloaded
from gateway.model_client import ModelClient
from gateway.server import Runner
from gateway.settings import Settings

README = (Path(__file__).parents[2] / "gateway/README.md").read_text()

ROUTE = "/v1/differential"
LINES = {"Accept": "application/x-ndjson"}
ZIP = {"Content-Type": "application/zip"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def cell(smear) -> Callable[..., bytes]:
    """Draws photographs that differ from each other in one pixel."""
    small = smear.resize((64, 64))

    def draw(number: int, picture_format: str = "PNG", **options: object) -> bytes:
        picture, buffer = small.copy(), io.BytesIO()
        picture.putpixel((0, 0), (number % 256, number // 256, 7))
        picture.save(buffer, picture_format, **options)
        return buffer.getvalue()

    return draw


@pytest.fixture
def gateway(aiohttp_client, model_server, tiny_models):
    """Starts a gateway with some settings, over a model client of some kind."""

    async def start(connect: type[ModelClient] = ModelClient, **settings: object) -> TestClient:
        given = {"model_server": model_server, "models": tiny_models, "workers": 2} | settings
        return await aiohttp_client(create_app(Settings(**given), connect=connect))

    return start


@pytest.fixture
async def client(gateway) -> TestClient:
    return await gateway()


def form(photographs: Iterable[bytes], cells: str | None = None) -> aiohttp.FormData:
    built = aiohttp.FormData()
    for number, data in enumerate(photographs, start=1):
        built.add_field("file", data, filename=f"cell-{number}.png", content_type="image/png")
    if cells is not None:
        built.add_field("cells", cells)
    return built


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def part(data: bytes, name: str = "file") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="x.png"'
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


async def report(client: TestClient, **sent: object) -> dict:
    response = await client.post(ROUTE, **sent)
    assert response.status == 200, await response.text()
    return await response.json()


async def lines(response: aiohttp.ClientResponse) -> list[dict]:
    assert response.content_type == "application/x-ndjson"
    return [json.loads(line) for line in (await response.text()).splitlines()]


async def is_refused(response: aiohttp.ClientResponse, status: int, name: str) -> str:
    """The reply is this problem; return what it says."""
    body = await response.json(content_type="application/problem+json")
    assert (response.status, body["type"].rsplit(":", 1)[1]) == (status, name), body
    return body["detail"]


def statuses(body: dict) -> list[str]:
    return [photograph["status"] for photograph in body["photographs"]]


def words(**said: str) -> str:
    return "\n".join(json.dumps({"file": f"{n}.png", "reader": w}) for n, w in said.items())


class Noting(ModelClient):
    """A model client that counts its calls, and how many there are at once at most."""

    calls = at_once = most = 0

    async def _call(self, method, request, deadline):
        kind = type(self)
        kind.calls, kind.at_once = kind.calls + 1, kind.at_once + 1
        kind.most = max(kind.most, kind.at_once)
        try:
            return await super()._call(method, request, deadline)
        finally:
            kind.at_once -= 1


@pytest.fixture
def noting() -> type[Noting]:
    """A kind of its own, so that its counts are of one test."""
    return type("Noted", (Noting,), {})


async def test_a_form_of_photographs_is_counted(client, cell):
    """Each photograph in the order sent, counts and percentages of them all, and what they mean."""
    body = await report(client, data=form(cell(n) for n in range(7)))
    assert [p["number"] for p in body["photographs"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [p["name"] for p in body["photographs"]] == [f"cell-{n}.png" for n in range(1, 8)]
    assert statuses(body) == 7 * ["counted"]
    for photograph in body["photographs"]:
        assert photograph["confidence"] == max(photograph["probabilities"].values())
        assert photograph["prediction"] in CLASSES
    assert body["totals"]["photographs"] == body["totals"]["cells"] == 7
    assert [share["class"] for share in body["shares"]] == list(CLASSES)
    assert sum(share["count"] for share in body["shares"]) == 7
    assert sum(share["percent"] for share in body["shares"]) == pytest.approx(100)
    for share in body["shares"]:
        said = [p["prediction"] for p in body["photographs"]].count(share["class"])
        assert share["count"] == said
        assert share["limits"]["low"] <= share["percent"] <= share["limits"]["high"]
    assert (body["basis"], body["model"]) == ("photographs", {"name": "hemavision", "version": 1})
    assert body["ranges"]["version"]
    assert "preliminary" in body["statement"]


async def test_a_zip_gives_what_a_form_gives(client, cell):
    """Raw, under either of its names, and as a part; folders come to nothing, names stay."""
    files = {f"slide/cell-{n}.png": cell(n) for n in range(1, 5)}
    plain = await report(client, data=form(files.values()))
    archive = zipped({"slide/": b"", **files})
    windows = {"Content-Type": "application/x-zip-compressed"}
    for sent in (
        {"data": archive, "headers": ZIP},
        {"data": archive, "headers": windows},
        {"data": form([archive])},
    ):
        body = await report(client, **sent)
        assert body["photographs"] == plain["photographs"]
        assert body["shares"] == plain["shares"]


async def test_a_form_may_hold_zips_and_photographs(client, cell):
    """Their numbers run on."""
    archive = zipped({"a.png": cell(2), "b.png": cell(3)})
    body = await report(client, data=form([cell(1), archive, cell(4)]))
    names = [photograph["name"] for photograph in body["photographs"]]
    assert names == ["cell-1.png", "a.png", "b.png", "cell-3.png"]


async def test_lines_come_one_for_each_photograph_and_then_the_report(client, cell):
    """In the order sent, the same as in the report."""
    response = await client.post(ROUTE, data=form(cell(n) for n in range(5)), headers=LINES)
    *photographs, last = await lines(response)
    assert [line.pop("kind") for line in photographs] == 5 * ["photograph"]
    assert last.pop("kind") == "report"
    assert photographs == last["photographs"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Request-ID"] == last["request_id"]


async def test_lines_come_while_the_photographs_are_still_being_sent(client, cell):
    """Who sends one after another hears of the first before the last is there."""
    heard = asyncio.Event()

    async def body():
        yield part(cell(1)) + part(cell(2))
        await heard.wait()
        yield part(cell(3)) + b"--b--\r\n"

    async with asyncio.timeout(20):
        async with client.post(ROUTE, data=body(), headers=LINES | FORM) as response:
            assert json.loads(await response.content.readline())["number"] == 1
            heard.set()
            rest = [json.loads(line) async for line in response.content]
    assert [line["kind"] for line in rest] == ["photograph", "photograph", "report"]


async def test_a_client_may_send_everything_before_it_reads(model_server, smear):
    """Megabytes of lines wait for it in the gateway, longer than a reply waits for a reader."""
    settings = Settings(model_server=model_server, workers=2)
    runner = Runner(create_app(settings), unread_seconds=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    large, body = smear.resize((900, 900)), b""
    for number in range(80):
        large.paste((3 * number, 0, 0), (0, 0, 40, 40))
        buffer = io.BytesIO()
        large.save(buffer, "JPEG", quality=95, subsampling=0)
        body += part(buffer.getvalue())
    body += b"--b--\r\n"
    fields = LINES | FORM | {"Host": "x", "Connection": "close", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await loop.sock_connect(end, runner.addresses[0])
        raw = f"POST {ROUTE}?heatmap=overlay HTTP/1.1\r\n{head}\r\n".encode() + body
        await loop.sock_sendall(end, raw)
        read = bytearray()
        while piece := await loop.sock_recv(end, 65536):
            read += piece
    end.close()
    await runner.cleanup()
    assert read.count(b'"kind": "photograph"') == 80
    assert read.count(b'"kind": "report"') == 1
    assert len(read) > 6_000_000  # more than the sockets between them hold


async def test_the_same_pixels_are_counted_once(client, cell):
    """Written as another file too; of another JPEG's pixels there are none the same."""
    jpeg = cell(1, "JPEG", quality=90)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(buffer, "PNG")
    other = cell(1, "JPEG", quality=60)
    body = await report(client, data=form([cell(9), jpeg, buffer.getvalue(), other, jpeg]))
    assert statuses(body) == ["counted", "counted", "duplicate", "counted", "duplicate"]
    assert [p["duplicate_of"] for p in body["photographs"]] == [None, None, 2, None, 2]
    assert body["photographs"][2]["prediction"] is None
    assert (body["totals"]["cells"], body["totals"]["duplicates"]) == (3, 2)


async def test_the_earlier_of_two_wins_though_it_is_answered_later(gateway, cell):
    """Which of the same pixels is the duplicate does not hang on who was quicker."""
    second = asyncio.Event()

    class Reversed(Noting):
        async def predict(self, tensor, deadline):
            first = type(self).calls == 0
            prediction = await super().predict(tensor, deadline)
            if first:
                await second.wait()
            second.set()
            return prediction

    client = await gateway(type("Own", (Reversed,), {}))
    async with asyncio.timeout(20):
        body = await report(client, data=form([cell(1), cell(1)]))
    assert [p["duplicate_of"] for p in body["photographs"]] == [None, 1]


async def test_photographs_that_cannot_be_read_leave_the_count(client, cell):
    """Each is listed with what it would have been told alone, and the others are counted."""
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    sent = [cell(1), b"no picture", b"", small.getvalue(), cell(2)[:300], cell(3)]
    body = await report(client, data=form(sent))
    assert statuses(body) == ["counted", *4 * ["failed"], "counted"]
    names = [p["problem"]["type"].rsplit(":")[-1] for p in body["photographs"] if p["problem"]]
    assert names == [
        "unsupported-media",
        "missing-photograph",
        "unreadable-photograph",
        "unreadable-photograph",
    ]
    assert (body["totals"]["failed"], body["totals"]["cells"]) == (4, 2)


async def test_a_photograph_that_is_too_large_is_one_that_failed(gateway, cell):
    """As a part and in a zip; what follows it is read."""
    client = await gateway(max_bytes=20_000)
    sent = [bytes(50_000), cell(1)]
    archive = zipped({"large.png": sent[0], "cell.png": sent[1]})
    for given in ({"data": form(sent)}, {"data": archive, "headers": ZIP}):
        body = await report(client, **given)
        assert statuses(body) == ["failed", "counted"]
        assert "20,000 bytes" in body["photographs"][0]["problem"]["detail"]


async def test_nothing_readable_is_no_count(client, caplog):
    """422 with the first reasons; where lines were asked for, the last one says it.

    No version answered, and no card is looked for.
    """
    sent = [b"x", b"", b"y"]
    detail = await is_refused(await client.post(ROUTE, data=form(sent)), 422, "no-cells")
    assert "3 photographs" in detail
    assert "not a picture" in detail
    assert "empty" in detail
    *photographs, last = await lines(await client.post(ROUTE, data=form(sent), headers=LINES))
    assert [line["status"] for line in photographs] == 3 * ["failed"]
    assert (last["kind"], last["status"], last["type"].rsplit(":")[-1]) == (
        *("problem", 422, "no-cells"),
    )
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_errors_total{problem="no-cells"} 2.0' in metrics
    assert "model card" not in caplog.text


async def test_one_photograph_is_a_count_with_wide_limits(client, cell):
    """2.5 to 100 %: that is the truth."""
    body = await report(client, data=form([cell(1)]))
    share = next(share for share in body["shares"] if share["count"])
    assert (share["percent"], share["limits"]) == (100, {"low": 2.5, "high": 100})


async def test_what_the_model_abstains_from_is_unclassified(gateway, cell):
    """Counted in no class, with the reasons and the nearest class beside it."""

    class Doubtful(ModelClient):
        async def predict(self, tensor, deadline):
            prediction = await super().predict(tensor, deadline)
            return replace(prediction, unfamiliarity=np.float32(1.7))

    body = await report(await gateway(Doubtful), data=form([cell(1), cell(2)]))
    assert statuses(body) == ["unclassified", "unclassified"]
    assert body["photographs"][0]["abstain_reasons"][0]["reason"] == "unfamiliar"
    assert body["photographs"][0]["prediction"] in CLASSES
    assert (body["totals"]["cells"], body["totals"]["unclassified"]) == (2, 2)
    assert body["unclassified"]["percent"] == 100
    assert sum(share["count"] for share in body["shares"]) == 0


async def test_ten_thousand_parts_are_refused_at_the_first_too_many(gateway, noting):
    """Of photographs, and of parts that nobody asked for."""
    client = await gateway(noting, max_series=50)
    for name, problem in (("file", "series-too-large"), ("other", "too-many-parts")):
        body = 10_000 * part(b"x", name) + b"--b--\r\n"
        response = await client.post(ROUTE, data=body, headers=FORM)
        assert "50 photographs" in await is_refused(response, 413, problem)
    assert noting.calls == 0


async def test_ten_thousand_files_in_a_zip_are_refused_before_the_first_is_read(gateway, noting):
    """The zip's directory tells."""
    client = await gateway(noting)
    archive = zipped({f"{n}.png": b"x" for n in range(10_000)})
    response = await client.post(ROUTE, data=archive, headers=ZIP)
    assert "10,000 files" in await is_refused(response, 413, "series-too-large")


@pytest.mark.parametrize("says_its_length", [True, False])
@pytest.mark.parametrize("headers", [ZIP, FORM])
async def test_a_series_of_too_many_bytes_is_refused(gateway, headers, says_its_length):
    """By its length, or once there are too many."""
    client = await gateway(max_series=2, max_series_bytes=100_000)
    body = part(bytes(200_000)) + b"--b--\r\n"

    async def pieces():
        yield body

    sent = body if says_its_length else pieces()
    response = await client.post(ROUTE, data=sent, headers=headers)
    assert "100,000 bytes" in await is_refused(response, 413, "series-too-large")


@pytest.mark.parametrize(
    ("headers", "body", "status", "name"),
    [
        ({"Content-Type": "image/png"}, b"x", 415, "unsupported-media"),
        ({"Content-Type": "text/csv"}, b"x", 415, "unsupported-media"),
        (ZIP | {"Content-Encoding": "lzw"}, b"x", 415, "unsupported-media"),
        (ZIP | {"Content-Encoding": "gzip"}, 99 * b"x", 400, "malformed-request"),
        (FORM, b"--b--\r\n", 400, "missing-photograph"),
        ({"Content-Type": "multipart/form-data"}, b"x", 400, "malformed-request"),
        (FORM, b"no form", 400, "malformed-request"),
        (FORM, part(b"x")[:60], 400, "malformed-request"),
        (
            FORM,
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--\r\n",
            *(400, "malformed-request"),
        ),
        (FORM, part(b"x", "other") + b"--b--\r\n", 400, "missing-photograph"),
        (ZIP, b"", 422, "unreadable-zip"),
        (ZIP, b"x", 422, "unreadable-zip"),
        (ZIP, zipped({}), 400, "missing-photograph"),
        (ZIP, zipped({"folder/": b"", ".hidden": b"x"}), 400, "missing-photograph"),
    ],
)
async def test_what_is_no_series_is_refused(client, headers, body, status, name):
    """With a status, and not with a line, though lines were asked for."""
    response = await client.post(ROUTE, data=body, headers=headers | LINES)
    assert len(await is_refused(response, status, name)) > 15


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("age=-1", "from 0 to 150"),
        ("age=old", "from 0 to 150"),
        ("sex=f", "female, male, other, unknown"),
        ("heatmap=grid", "none, overlay"),
        ("correction=a%20b", "a name"),
        ("correction=mars", "none"),
        ("format=png", "age, sex, correction, heatmap"),
        ("age=1&age=2", "twice"),
    ],
)
async def test_a_bad_option_is_refused_before_anything_is_read(client, cell, query, word):
    """With what is accepted."""
    response = await client.post(f"{ROUTE}?{query}", data=form([cell(1)]), headers=LINES)
    assert word in await is_refused(response, 400, "invalid-option")


async def test_what_nobody_can_answer_is_406(client, cell):
    """With what can be had."""
    response = await client.post(ROUTE, data=form([cell(1)]), headers={"Accept": "image/png"})
    assert "application/x-ndjson" in await is_refused(response, 406, "not-acceptable")


async def test_overlays_come_where_they_are_asked_for(client, cell):
    """In each line, not again in the report after them; in JSON, in each entry."""
    drawn = f"{ROUTE}?heatmap=overlay"
    sent = [cell(1), cell(1), b"x"]
    body = await (await client.post(drawn, data=form(sent))).json()
    first, duplicate, failed = body["photographs"]
    overlay = Image.open(io.BytesIO(base64.b64decode(first["heatmap"]["data"])))
    assert (overlay.format, overlay.size) == ("JPEG", (64, 64))
    assert first["heatmap"]["explained_class"] == first["prediction"]
    assert duplicate["heatmap"] is failed["heatmap"] is None
    *photographs, last = await lines(await client.post(drawn, data=form(sent), headers=LINES))
    assert photographs[0]["heatmap"] == first["heatmap"]
    assert last["photographs"][0]["heatmap"] is None
    assert (await report(client, data=form([cell(1)])))["photographs"][0]["heatmap"] is None


async def test_too_many_overlays_are_refused(gateway, cell):
    """They wait in memory until they are sent."""
    client = await gateway(max_batch_bytes=10_000)
    sent = form(cell(n) for n in range(20))
    response = await client.post(f"{ROUTE}?heatmap=overlay", data=sent)
    assert "10,000 bytes" in await is_refused(response, 413, "series-too-large")


async def test_a_busy_service_is_waited_for(gateway, cell):
    """No photograph of a series is lost to a moment's load; no failure is counted."""
    refused = []

    class Busy(ModelClient):
        async def predict(self, tensor, deadline):
            if len(refused) < 4:
                refused.append(deadline)
                raise Overloaded("The model is busy.", retry_after=0.01)
            return await super().predict(tensor, deadline)

    client = await gateway(Busy)
    body = await report(client, data=form(cell(n) for n in range(4)))
    assert statuses(body) == 4 * ["counted"]
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_photographs_total{outcome="failed"} 0.0' in metrics


async def test_a_series_waits_for_those_who_ask_about_one_cell(gateway, cell):
    """With every place and seat taken and no patience for a queue, it is answered all the same."""
    client = await gateway(max_in_flight=2, max_waiting=1, max_wait=0.001, client_share=1.0)
    single = aiohttp.FormData({"file": io.BytesIO(cell(1))})
    series = asyncio.create_task(report(client, data=form(cell(n) for n in range(12))))
    while not series.done():
        single = form([cell(1)])
        response = await client.post("/v1/classify?heatmap=none", data=single)
        assert response.status in (200, 503)
    assert statuses(await series) == 12 * ["counted"]


async def test_a_series_never_takes_more_than_half_of_the_places(gateway, cell, noting):
    """Nor do several of them."""
    client = await gateway(noting, max_in_flight=4, workers=4, client_share=1.0)
    await asyncio.gather(
        *(report(client, data=form(cell(n) for n in range(k, k + 15))) for k in (0, 100))
    )
    assert noting.calls == 30
    assert noting.most == 2


async def test_a_model_that_stays_away_ends_the_series(gateway, cell, model_server):
    """503 once the series' time is over; a line says it where some are out already."""
    client = await gateway(model_server=f"127.0.0.1:{unused_port()}", series_deadline=0.6)
    response = await client.post(ROUTE, data=form([cell(1)]), headers=LINES)
    assert len(await is_refused(response, 503, "model-unavailable")) > 15
    assert int(response.headers["Retry-After"]) >= 1
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_photographs_total{outcome="failed"} 1.0' in metrics

    class Leaving(Noting):
        async def _call(self, method, request, deadline):
            if type(self).calls:
                raise Overloaded("The model is busy.")
            return await super()._call(method, request, deadline)

    client = await gateway(type("Own", (Leaving,), {}), series_deadline=2.0, max_in_flight=2)
    response = await client.post(ROUTE, data=form(map(cell, range(3))), headers=LINES)
    first, last = await lines(response)
    assert (response.status, first["status"]) == (200, "counted")
    assert (last["kind"], last["status"], last["type"][-10:]) == ("problem", 503, "overloaded")


async def test_a_fault_of_ours_breaks_the_lines_off(gateway, cell, caplog):
    """Nobody takes what came for all there is; the log has the reason."""

    class Faulty(Noting):
        async def _call(self, method, request, deadline):
            if type(self).calls:
                raise RuntimeError("a fault")
            return await super()._call(method, request, deadline)

    client = await gateway(type("Own", (Faulty,), {}), max_in_flight=2)

    async def whole() -> bytes:
        response = await client.post(ROUTE, data=form(map(cell, range(3))), headers=LINES)
        return await response.read()

    with pytest.raises(aiohttp.ClientError):
        await whole()
    assert "a fault" in caplog.text


async def test_a_series_that_does_not_arrive_is_408(gateway, cell):
    """Its time is a setting of its own."""
    client = await gateway(series_deadline=0.3)
    over = asyncio.Event()

    async def slow():
        yield part(cell(1))
        await over.wait()

    response = await client.post(ROUTE, data=slow(), headers=FORM)
    over.set()
    await is_refused(response, 408, "upload-too-slow")


async def test_a_silent_upload_is_408(gateway, cell):
    """Long before the series' time is over: its place is for others."""
    client = await gateway(deadline=0.3, max_in_flight=2)
    for start in (part(cell(1)), part(cell(1))[:-100]):
        over = asyncio.Event()

        async def silent(start: bytes = start, over: asyncio.Event = over):
            yield start
            await over.wait()

        response = await client.post(ROUTE, data=silent(), headers=FORM)
        over.set()
        assert "Nothing more" in await is_refused(response, 408, "upload-too-slow")


async def test_who_is_about_to_stop_counts_no_more(gateway, cell):
    """A series is longer than anybody waits for a stop: the client is told to go elsewhere.

    No photograph is counted as failed.
    """
    client = await gateway()
    client.app[LIFECYCLE].stopping = True
    response = await client.post(ROUTE, data=form([cell(1)]))
    assert "another" in await is_refused(response, 503, "stopping")
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_photographs_total{outcome="failed"} 0.0' in metrics


class Gated(Noting):
    """A model client whose calls wait until the gate is open."""

    gate: asyncio.Event
    asked: asyncio.Event

    async def _call(self, method, request, deadline):
        self.asked.set()
        await self.gate.wait()
        return await super()._call(method, request, deadline)


@pytest.fixture
def gated() -> type[Gated]:
    return type("Own", (Gated,), {"gate": asyncio.Event(), "asked": asyncio.Event()})


async def test_only_so_many_series_are_counted_at_once(gateway, cell, gated):
    """One more is told to come back; it finds its turn once the first has ended."""
    client = await gateway(gated, max_in_flight=2, client_share=1.0)
    first = asyncio.create_task(client.post(ROUTE, data=form([cell(1)])))
    await gated.asked.wait()
    second = await client.post(ROUTE, data=form([cell(1)]))
    assert int(second.headers["Retry-After"]) >= 1
    await is_refused(second, 503, "overloaded")
    gated.gate.set()
    assert (await first).status == 200
    assert (await client.post(ROUTE, data=form([cell(1)]))).status == 200


async def test_one_client_has_its_share_of_the_series(gateway, cell, gated):
    """Half of four; one more of its own is 429, and another's is let in."""
    client = await gateway(gated, max_in_flight=8)
    mine = [asyncio.create_task(client.post(ROUTE, data=form([cell(1)]))) for _ in range(2)]
    held = client.app[HANDLERS].counter.shares.held
    await eventually(lambda: held.total() == 2)
    third = await client.post(ROUTE, data=form([cell(1)]))
    assert int(third.headers["Retry-After"]) >= 1
    await is_refused(third, 429, "too-many-at-once")
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=elsewhere) as other:
        others = asyncio.create_task(other.post(client.make_url(ROUTE), data=form([cell(1)])))
        await eventually(lambda: held.total() == 3)
        gated.gate.set()
        assert [(await one).status for one in (*mine, others)] == [200, 200, 200]
    assert (await client.post(ROUTE, data=form([cell(1)]))).status == 200
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_refused_total{reason="client"} 1.0' in metrics


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="of Linux")
async def test_a_connection_is_waited_for_only_as_long_as_it_gives_lines(model_server, cell):
    """The next reply on it has the usual time to be read."""
    runner = Runner(create_app(Settings(model_server=model_server)), unread_seconds=7.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    def patience() -> int:
        (connection,) = runner.server.connections
        end = connection.transport.get_extra_info("socket")
        return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    host, port = runner.addresses[0]
    waited = asyncio.Event()

    async def body():
        yield part(cell(1)) + part(cell(2))
        await waited.wait()
        yield b"--b--\r\n"

    async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
        async with client.post(ROUTE, data=body(), headers=LINES | FORM) as response:
            assert patience() == 600_000
            waited.set()
            assert len(await lines(response)) == 3
        await eventually(lambda: patience() == 7_000)
    await runner.cleanup()


@pytest.fixture
async def left_alone(model_server, cell, gated):
    """Sends a request to a gateway as `serve` runs it, and goes away when the model is asked."""
    app = create_app(Settings(model_server=model_server, workers=2), connect=gated)
    runner = Runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def leave(headers: dict[str, str], body: bytes, more_to_come: int = 0) -> None:
        fields = {"Host": "x", "Content-Length": str(len(body) + more_to_come)} | headers
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        _reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(f"POST {ROUTE} HTTP/1.1\r\n{head}\r\n".encode() + body)
        await gated.asked.wait()
        writer.transport.abort()
        await eventually(lambda: all(c.transport is None for c in runner.server.connections))
        gated.gate.set()
        await eventually(lambda: not app[LIFECYCLE].under_way)

    yield leave
    await runner.cleanup()


@pytest.mark.parametrize("headers", [{}, LINES], ids=["JSON", "lines"])
@pytest.mark.parametrize("more_to_come", [0, 100_000])
async def test_a_client_that_goes_away_ends_the_work(
    left_alone, cell, gated, headers, more_to_come
):
    """Those under way are the last: the model is not asked again."""
    body = b"".join(part(cell(n, "JPEG")) for n in range(40)) + b"--b--\r\n"
    await left_alone(FORM | headers, body, more_to_come)
    assert gated.calls <= 2


async def test_a_client_that_goes_away_after_its_zip_ends_the_work(left_alone, cell, gated):
    """All of it has come, and nothing more is read: it is noticed all the same."""
    await left_alone(ZIP, zipped({f"{n}.jpg": cell(n, "JPEG") for n in range(20)}))
    assert gated.calls <= 2


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # nothing tells when a connection is forgotten
            await asyncio.sleep(0.005)


async def test_a_reader_who_knows_better_is_heard(client, cell):
    """A word stands in place of the model's, wherever in the form it is said."""
    said = words(**{"cell-1": "MONOCYTE", "cell-2": "OTHER", "cell-3": "NOT_COUNTED"})
    body = await report(client, data=form((cell(n) for n in range(4)), said + "\n\n"))
    assert statuses(body) == ["counted", "counted", "excluded", "counted"]
    readers = [photograph["reader"] for photograph in body["photographs"]]
    assert readers == ["MONOCYTE", "OTHER", "NOT_COUNTED", None]
    totals = body["totals"]
    assert (totals["cells"], totals["other"], totals["excluded"]) == (3, 1, 1)
    assert (totals["by_reader"], body["other"]["count"]) == (2, 1)
    (monocytes,) = (share for share in body["shares"] if share["class"] == "MONOCYTE")
    assert monocytes["count"] >= 1


async def test_a_word_on_what_is_not_counted_changes_nothing_and_is_told(client, cell):
    """On a duplicate, on what could not be read."""
    said = words(**{"cell-2": "MONOCYTE", "cell-3": "MONOCYTE"})
    plain = await report(client, data=form([cell(1), cell(1), b"x"]))
    body = await report(client, data=form([cell(1), cell(1), b"x"], said))
    assert statuses(body) == ["counted", "duplicate", "failed"]
    assert (body["shares"], body["totals"]) == (plain["shares"], plain["totals"])
    assert [p["reader"] for p in body["photographs"]] == [None, "MONOCYTE", "MONOCYTE"]
    (warning,) = (w for w in body["warnings"] if w["warning"] == "idle-word")
    assert "photograph 2 and 3" in warning["detail"]


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (words(**{"cell-9": "MONOCYTE"}), "no photographs"),
        (words(**{"cell-1": "BASOPHIL"}), "NOT_COUNTED"),
        (words(**{"cell-1": "monocyte"}), "MONOCYTE"),
        ("MONOCYTE", "FILE"),
        ("[1, 2]", "reader"),
        ('{"file": "cell-1.png"}', "reader"),
        ('{"file": 1, "reader": "OTHER"}', "reader"),
        ('{"file": "cell-1.png", "reader": ["OTHER"]}', "reader"),
        ('{"file": "cell-1.png", "reader": "OTHER", "why": "x"}', "reader"),
        (20_000 * "[", "reader"),
        (300 * 1024 * " ", "256,000 bytes"),
    ],
)
async def test_words_that_cannot_be_used_are_refused(client, cell, said, word):
    """With what they look like, or whom they speak of."""
    response = await client.post(ROUTE, data=form([cell(1)], said))
    assert word.lower() in (await is_refused(response, 400, "invalid-cells")).lower()


async def test_a_second_part_of_words_is_refused(client, cell):
    """One is bounded in bytes; many would not be."""
    sent = form([cell(1)], words(**{"cell-1": "MONOCYTE"}))
    sent.add_field("cells", "")
    response = await client.post(ROUTE, data=sent)
    assert "send one" in await is_refused(response, 400, "invalid-cells")


async def test_a_word_for_a_name_that_is_there_twice_is_refused(client, cell):
    """Nobody guesses which was meant."""
    archive = zipped({"a/x.png": cell(1), "b/x.png": cell(2)})
    response = await client.post(ROUTE, data=form([archive], words(x="MONOCYTE")))
    assert "2 photographs" in await is_refused(response, 400, "invalid-cells")


async def test_names_are_shown_without_folders_and_what_cannot_be_printed(client, cell):
    """They are for people: no path, no control character, no half of a character."""
    given = [
        "../../etc/passwd",
        "C:\\cells\\7.png",
        "/abs/8.png",
        "a\tb\u202ec.png",
        "é.png",
        "x" * 300,
    ]
    built = aiohttp.FormData(quote_fields=False)
    for number, name in enumerate(given):
        built.add_field("file", cell(number), filename=name)
    body = await report(client, data=built)
    names = [photograph["name"] for photograph in body["photographs"]]
    assert names[:3] == ["passwd", "7.png", "8.png"]
    assert names[3:] == ["abc.png", "é.png", 100 * "x"]


async def test_bad_names_hurt_nobody(client, cell):
    """Bytes that are no text, and no name at all."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"'
    body = head + b'; filename="\xff\xfe.png"\r\n\r\n' + cell(1) + b"\r\n"
    body += head + b"\r\n\r\n" + cell(2) + b"\r\n--b--\r\n"
    counted = await report(client, data=body, headers=FORM)
    first, second = counted["photographs"]
    assert first["name"] in (".png", "??.png", "\ufffd\ufffd.png")
    assert second["name"] is None


async def test_age_and_sex_pick_the_ranges(client, cell):
    """Where the laboratory's file has none for an age, nothing is low or high."""
    adult = await report(client, data=form([cell(1)]))
    child = await (await client.post(f"{ROUTE}?age=3&sex=female", data=form([cell(1)]))).json()
    assert "18 years" in adult["ranges"]["band"]
    assert child["ranges"]["band"] is None
    assert {share["finding"] for share in child["shares"]} == {"untold"}
    assert {share["normal_range"] is None for share in child["shares"]} == {True}


async def test_that_adults_are_assumed_is_told(client, cell):
    """Where no age was given, in words and in the README's table; at any age it is not."""
    for query, told in (("", True), ("?sex=male", True), ("?age=40", False), ("?age=0", False)):
        response = await client.post(ROUTE + query, data=form([cell(1)]))
        names = {warning["warning"] for warning in (await response.json())["warnings"]}
        assert ("adults-assumed" in names) == told, query
        assert all(f"| `{name}` |" in README for name in names)


async def test_the_models_confusion_is_corrected_for_where_its_card_knows_it(
    gateway, cell, tmp_path
):
    """By the largest source unless another is named; not where nobody wants it."""
    few, many = ([[n if i == j else 2 for j in range(4)] + [4] for i in range(4)] for n in (30, 90))
    card = {"confusion": {"bccd": few, "pbc": many}, "weights": {"sha256": "ab"}}
    (tmp_path / "1/assets.extra").mkdir(parents=True)
    (tmp_path / "1/assets.extra/model_card.json").write_text(json.dumps(card))
    client = await gateway(models=tmp_path)
    for query, source in (("", "pbc"), ("?correction=bccd", "bccd"), ("?correction=none", None)):
        response = await client.post(ROUTE + query, data=form(map(cell, range(5))))
        body = await response.json()
        assert body["correction"] == (source and {"source": source})
        assert {share["corrected"] is None for share in body["shares"]} == {source is None}
    response = await client.post(f"{ROUTE}?correction=mars", data=form([cell(1)]))
    assert "bccd, pbc, largest, none" in await is_refused(response, 400, "invalid-option")


async def test_a_replaced_model_is_told(gateway, cell):
    """Two versions answered in one series."""

    class Replaced(Noting):
        async def predict(self, tensor, deadline):
            prediction = await super().predict(tensor, deadline)
            return replace(prediction, version=type(self).calls)

    client = await gateway(type("Own", (Replaced,), {}), max_in_flight=2)
    body = await report(client, data=form([cell(1), cell(2)]))
    (warning,) = (w for w in body["warnings"] if w["warning"] == "several-versions")
    assert "Versions 1 and 2" in warning["detail"]
    assert body["model"]["version"] == 2


async def test_a_counted_series_is_in_the_metrics(client, cell):
    """Its size, and each of its photographs."""
    await report(client, data=form([cell(1), cell(2), b"x"]))
    metrics = await (await client.get("/metrics")).text()
    assert "hemavision_series_photographs_sum 3.0" in metrics
    assert "hemavision_series_photographs_count 1.0" in metrics
    assert 'hemavision_errors_total{problem="unsupported-media"} 1.0' in metrics


async def test_no_file_name_is_in_the_log(client, cell, caplog):
    """Nor is anything of what was found."""
    with caplog.at_level("DEBUG"):
        archive = zipped({"patient-7.png": cell(1), "patient-8.png": b"x"})
        body = await report(client, data=archive, headers=ZIP)
    assert body["photographs"][0]["name"] == "patient-7.png"
    assert "patient" not in caplog.text
    assert not set(CLASSES) & set(caplog.text.split())


async def test_a_count_can_be_had_as_fhir(client, cell):
    """A bundle of the same shares; the overlays are in it, where they were asked for."""
    fhir = {"Accept": "application/fhir+json"}
    response = await client.post(f"{ROUTE}?heatmap=overlay", data=form([cell(1)]), headers=fhir)
    assert response.content_type == "application/fhir+json"
    bundle = await response.json()
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert bundle["resourceType"] == "Bundle"
    assert kinds.count("DiagnosticReport") == 1
    assert kinds.count("Media") == 1


async def test_a_count_can_be_had_as_a_page(client, cell):
    """From photographs and from an earlier report; its one style is let through by its hash."""
    earlier = await report(client, data=form([cell(1), cell(2)]))
    for sent in ({"data": form([cell(1), cell(2)])}, {"json": earlier}):
        response = await client.post(ROUTE, headers={"Accept": "text/html"}, **sent)
        assert response.content_type == "text/html"
        assert "style-src 'sha256-" in response.headers["Content-Security-Policy"]
        assert "2 cells counted" in (await response.text()).replace("\u00a0", " ")


@pytest.mark.parametrize("media", ["text/html", "application/fhir+json"])
async def test_photographs_that_are_not_counted_stand_on_paper_too(client, cell, media):
    """From photographs and from an earlier report; with what a reader excluded."""
    sent = form([cell(1), cell(1), cell(2), b"x"], words(**{"cell-3": "NOT_COUNTED"}))
    earlier = await report(client, data=sent)
    again = form([cell(1), cell(1), cell(2), b"x"], words(**{"cell-3": "NOT_COUNTED"}))
    told = "1 excluded by a reader, 1 that could not be read, 1 there already."
    for given in ({"data": again}, {"json": earlier}):
        response = await client.post(ROUTE, headers={"Accept": media}, **given)
        assert told in (await response.text()).replace("\u00a0", " ")


async def test_a_finding_is_in_words_too(client, cell):
    """As on the page and in FHIR."""
    body = await report(client, data=form([cell(1)]))
    assert all("cannot be told at n = 1" in share["in_words"] for share in body["shares"])
