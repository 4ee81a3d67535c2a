"""The log: one line of JSON a record, with the request it belongs to."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime

import aiohttp
import pytest

from gateway import tracing
from gateway.app import create_app
from gateway.logs import JsonLines
from gateway.settings import Settings

BINARY = {"Content-Type": "application/octet-stream"}
LOG = logging.getLogger("gateway.test")


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict]]]:
    """Reads what the gateway has logged so far, as `serve` writes it."""
    written, gateway = io.StringIO(), logging.getLogger("gateway")
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    gateway.addHandler(handler)
    gateway.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    gateway.removeHandler(handler)
    gateway.setLevel(logging.NOTSET)


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return LOG.makeRecord("gateway.test", logging.WARNING, __file__, 1, message, args, info)


def test_a_record_is_one_line_whatever_it_says():
    """Newlines and quotes cannot forge a second record; the time is RFC 3339 in UTC."""
    line = JsonLines().format(record('two\nlines "%s"', "{}"))
    assert "\n" not in line
    read = json.loads(line)
    assert read["message"] == 'two\nlines "{}"'
    assert (read["level"], read["logger"]) == ("warning", "gateway.test")
    assert read["time"].endswith("Z")
    assert datetime.fromisoformat(read["time"]).utcoffset().total_seconds() == 0
    assert "request_id" not in read


def test_an_exception_is_in_its_record():
    """With its traceback, in the same line."""
    try:
        json.loads("why")
    except ValueError as error:
        line = JsonLines().format(record("it broke", error=error))
    assert "\n" not in line
    assert json.loads(line)["exception"].startswith("Traceback")
    assert "JSONDecodeError" in json.loads(line)["exception"]


def test_a_record_within_a_request_names_it():
    """Whatever module it comes from."""
    with tracing.following(tracing.Trace("abc", tracing.unrecorded("", None))) as trace:
        line = json.loads(JsonLines().format(record("something")))
    assert (line["request_id"], line["trace_id"]) == ("abc", trace.trace_id)


async def test_one_line_a_request_says_what_became_of_it(aiohttp_client, model_server, jpeg, log):
    """Ids, route, status, time, bytes and version: nothing of the cell, the picture or its name."""
    client = await aiohttp_client(create_app(Settings(model_server=model_server)))
    form = aiohttp.FormData()
    form.add_field("file", jpeg, filename="patient-7.jpg", content_type="image/jpeg")
    response = await client.post("/v1/classify", data=form, headers={"X-Request-ID": "abc-123"})
    (line,) = log()
    assert set(line) == {
        *("time", "level", "logger", "message", "request_id", "trace_id", "method", "route"),
        *("status", "duration_ms", "bytes_in", "model_version"),
    }
    assert line["request_id"] == "abc-123"
    assert line["trace_id"] == response.headers["traceresponse"].split("-")[1]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/classify", 200)
    assert line["model_version"] == 1
    assert len(jpeg) < line["bytes_in"] < len(jpeg) + 1000  # and the form round it
    assert line["duration_ms"] > (await response.json())["timing_ms"]["total"]
    assert "patient-7" not in str(line)
    assert (await response.json())["prediction"] not in str(line)


async def test_a_refused_request_says_why(aiohttp_client, log):
    """By the problem's name; a route that does not exist has no path in the log."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    await client.post("/v1/classify", data=b"no picture", headers=BINARY)
    await client.get("/patient/7")
    one, other = log()
    assert (one["status"], one["problem"], one["bytes_in"]) == (415, "unsupported-media", 10)
    assert (other["status"], other["route"], other["bytes_in"]) == (404, "unknown", 0)
    assert "patient" not in str(other)
    assert "model_version" not in one


async def test_what_the_operator_should_know_is_in_the_same_request(aiohttp_client, jpeg, log):
    """A failed call's address and status, with the ids of the request that it failed."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    await client.post("/v1/classify", data=jpeg, headers=BINARY)
    note, access = log()
    assert note["level"] == "warning"
    assert "127.0.0.1:1: UNAVAILABLE" in note["message"]
    assert (note["request_id"], note["trace_id"]) == (access["request_id"], access["trace_id"])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_are_for_the_level_debug(aiohttp_client, model_server, log, path):
    """They come every few seconds and say nothing new."""
    client = await aiohttp_client(create_app(Settings(model_server=model_server)))
    assert (await client.get(path)).status == 200
    assert log() == []
    logging.getLogger("gateway").setLevel(logging.DEBUG)
    await client.get(path)
    (line,) = log()
    assert (line["level"], line["route"]) == ("debug", path)
