"""How much memory requests may take, all of them together."""

import asyncio
import io
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from PIL import Image

from gateway.allowance import Allowance
from gateway.annotation import load_reference
from gateway.app import create_app
from gateway.deadline import Deadline
from gateway.errors import Overloaded
from gateway.metrics import Metrics
from gateway.model_client import ModelClient
from gateway.pipeline import Options, Pipeline
from gateway.settings import Settings
from gateway.tracecontext import TraceContext
from gateway.tracing import Trace, following

BINARY = {"Content-Type": "application/octet-stream"}


class Upload:
    """A request whose body is being sent; once ``begun``, the service has made room for it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def begun(
        cls, client: TestClient, route: str = "/v1/classify", **headers: str
    ) -> "Upload":
        """Send the head alone."""
        reader, writer = await asyncio.open_connection(client.host, client.port)
        fields = {"Host": "x", "Expect": "100-continue", **BINARY, **headers}
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        writer.write(f"POST {route} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        return cls(reader, writer)

    async def answered(self, body: bytes) -> int:
        """Send the body, and return the status."""
        self.writer.write(body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.writer.close()
        return int(head.split()[1])


@pytest.fixture
def serving(aiohttp_client, model_server):
    """A gateway with these settings."""

    async def serve(**settings: float) -> TestClient:
        given = {"client_share": 1.0} | settings
        return await aiohttp_client(create_app(Settings(model_server=model_server, **given)))

    return serve


async def refused_for_memory(client: TestClient) -> float:
    text = await (await client.get("/metrics")).text()
    found = re.search(r'hemavision_refused_total\{reason="memory"\} (\S+)', text)
    return float(found[1]) if found else 0


async def test_an_upload_for_which_there_is_no_room_is_503(serving, jpeg):
    """At once or soon, with a time to come back; the one before it is answered, and the next."""
    client = await serving(max_upload_memory=len(jpeg) + 10, max_wait=0.01)
    first = await Upload.begun(client, Content_Length=str(len(jpeg)))
    refused = await client.post("/v1/classify", data=jpeg, headers=BINARY)
    assert refused.status == 503
    assert refused.headers["Retry-After"] == "1"
    assert (await refused.json(content_type=None))["type"].endswith("overloaded")
    assert await refused_for_memory(client) == 1
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_photographs_total{outcome="failed"} 1.0' in metrics
    assert (await client.post("/v1/classify", data=b"tiny", headers=BINARY)).status == 415
    assert await first.answered(jpeg) == 200
    assert (await client.post("/v1/classify", data=jpeg, headers=BINARY)).status == 200


async def test_a_report_that_comes_back_takes_its_room_too(serving):
    """As long as it is on its way; and what could never have any is refused for its length."""
    client = await serving(max_upload_memory=10_000, max_wait=0.01)
    json = {"Content-Type": "application/json"}
    report = await Upload.begun(client, "/v1/differential", Content_Length="9000", **json)
    refused = await client.post("/v1/classify", data=bytes(5000), headers=BINARY)
    assert refused.status == 503
    assert await refused_for_memory(client) == 1
    assert await report.answered(bytes(9000)) == 400
    assert (await client.post("/v1/classify", data=bytes(5000), headers=BINARY)).status == 415
    long = await Upload.begun(client, "/v1/differential", Content_Length="20000", **json)
    assert await long.answered(bytes(20_000)) == 413


async def test_an_upload_waits_for_room(serving, jpeg):
    """Nobody waits for more while holding some: each that has begun can be finished."""
    client = await serving(max_upload_memory=len(jpeg) + 10, max_wait=30.0)
    first = await Upload.begun(client, Content_Length=str(len(jpeg)))
    others = [
        asyncio.create_task(client.post("/v1/classify", data=jpeg, headers=BINARY))
        for _ in range(3)
    ]
    assert await first.answered(jpeg) == 200
    assert [(await other).status for other in others] == [200, 200, 200]


async def test_one_client_cannot_have_all_the_memory(serving, jpeg):
    """Who only announces a large body keeps nobody else from sending; it is 429 for itself."""
    client = await serving(max_upload_memory=3 * len(jpeg), client_share=0.5)
    first = await Upload.begun(client, Content_Length=str(len(jpeg)))
    refused = await client.post("/v1/classify", data=jpeg, headers=BINARY)
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "1"
    assert (await refused.json(content_type=None))["type"].endswith("too-many-at-once")
    assert await first.answered(jpeg) == 200
    assert (await client.post("/v1/classify", data=jpeg, headers=BINARY)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer_Encoding": "chunked"},
        {"Content_Encoding": "gzip", "Content_Length": "10"},
        {"Content_Length": "900000000"},
    ],
)
async def test_a_body_that_may_be_large_counts_as_the_largest(serving, jpeg, headers):
    """Where its length is not known, or not the one that counts, or past all limits."""
    client = await serving(max_bytes=500_000, max_upload_memory=500_000, max_wait=0.01)
    upload = await Upload.begun(client, **headers)
    if headers == {"Content_Length": "900000000"}:
        assert await upload.answered(b"") == 413
        return
    assert (await client.post("/v1/classify", data=jpeg, headers=BINARY)).status == 503
    upload.writer.close()
    async with asyncio.timeout(20):
        while (await client.post("/v1/classify", data=jpeg, headers=BINARY)).status != 200:
            pass  # until the service has heard that the other one is gone


async def test_what_never_fits_is_too_large(serving, jpeg):
    """The memory for all is a limit of each as well: of a photograph and of a form."""
    client = await serving(max_upload_memory=len(jpeg) - 1)
    assert (await client.post("/v1/classify", data=jpeg, headers=BINARY)).status == 413
    form = aiohttp.FormData()
    form.add_field("file", jpeg, filename="cell.jpg")
    assert (await client.post("/v1/classify", data=form)).status == 413


async def test_a_picture_that_takes_too_much_to_decode_is_too_large(serving, jpeg):
    """With both figures, and what to do."""
    client = await serving(max_decoding=100_000)
    response = await client.post("/v1/classify", data=jpeg, headers=BINARY)
    assert response.status == 413
    assert "Scale it down" in (await response.json(content_type=None))["detail"]


def test_many_large_uploads_take_no_more_than_they_may(serve, model_server):
    """Twenty of 8 MB, all but their last byte: the process stays where one or two leave it."""
    settings = {"MAX_UPLOAD_MEMORY": 24_000_000, "DEADLINE": 3, "CLIENT_SHARE": 1}
    running = serve(MODEL_SERVER=model_server, **settings)
    host, port = running.url.removeprefix("http://").split(":")
    body = bytes(8_000_000)
    head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: "

    def upload(_: int) -> bytes:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body[:-1])
            return connection.recv(12)

    with ThreadPoolExecutor(20) as crowd:
        answers = list(crowd.map(upload, range(20)))
    assert set(answers) == {b"HTTP/1.1 503", b"HTTP/1.1 408"}
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 150_000


@pytest.fixture
async def pipeline(model_server):
    """The way from photograph to answer, with its own memory, where one waits for half a minute."""
    model, decoding = ModelClient(model_server), Allowance(10_000_000, 30.0, Metrics())
    with ThreadPoolExecutor(2) as workers:
        yield Pipeline(model, workers, load_reference(), 1_000_000, decoding), decoding
    await model.close()


class Noting:
    """A span that notes its parts, and tells when there is a wait."""

    context, findable = TraceContext.begin(), False

    def __init__(self):
        self.names, self.waits = [], asyncio.Event()

    def child(self, name: str) -> "Noting":
        """Note it."""
        self.names.append(name)
        if name == "wait":
            self.waits.set()
        return self

    def end(self, *_: object) -> None:
        """Nothing is recorded."""


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1000), (200, 180, 190)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_the_wait_for_memory_is_a_wait(pipeline):
    """Not work: nobody who comes next is to be told that a photograph takes so long."""
    way, decoding = pipeline
    span = Noting()
    with following(Trace("x", span)):
        async with decoding.of(10_000_000, Deadline.after(30.0)):
            asked = asyncio.create_task(way.classify(png(), Options(), Deadline.after(30.0), 2.0))
            await span.waits.wait()
    report = await asked
    timing = report.timing_ms
    assert timing["wait"] > 2.0
    assert report.service_seconds == pytest.approx(
        (timing["prepare"] + timing["predict"] + timing["explain"]) / 1000
    )
    assert timing["total"] == pytest.approx(sum(timing.values()) - timing["total"])
    assert span.names == ["prepare", "wait", "predict", "explain"]


async def test_there_is_no_wait_for_memory_past_the_deadline(pipeline):
    """The refusal says that it was the time that was short."""
    way, decoding = pipeline
    async with decoding.of(10_000_000, Deadline.after(30.0)):
        with pytest.raises(Overloaded) as caught:
            await way.classify(png(), Options(), Deadline.after(0.3))
    assert caught.value.short_of_time
