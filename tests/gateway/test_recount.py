"""A report sent back is counted anew, as a reader says, and no photograph is touched."""

import asyncio
import copy
import io
import json
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, unused_port

from gateway.app import HANDLERS, create_app
from gateway.settings import Settings

ROUTE = "/v1/differential"


def picture(smear, number: int) -> bytes:
    small, buffer = smear.resize((64, 64)), io.BytesIO()
    small.putpixel((0, 0), (number, 0, 0))
    small.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
async def client(aiohttp_client, model_server) -> TestClient:
    return await aiohttp_client(create_app(Settings(model_server=model_server, max_series=50)))


@pytest.fixture
async def earlier(client, smear) -> dict:
    """Three that are counted, one of them twice, and one that could not be read."""
    form = aiohttp.FormData()
    for number, data in enumerate([*(picture(smear, n) for n in (1, 2, 3, 1)), b"x"]):
        form.add_field("file", data, filename=f"{number}.png")
    return await (await client.post(ROUTE, data=form)).json()


async def is_refused(response: aiohttp.ClientResponse, status: int, name: str) -> str:
    body = await response.json(content_type="application/problem+json")
    assert (response.status, body["type"].rsplit(":", 1)[1]) == (status, name), body
    return body["detail"]


async def test_a_report_sent_back_gives_the_same_count(client, earlier):
    """Whole or its photographs alone; it says that no photograph was looked at."""
    for body in (earlier, {"photographs": earlier["photographs"]}):
        again = await (await client.post(ROUTE, json=body)).json()
        assert (earlier["basis"], again["basis"]) == ("photographs", "recount")
        for field in ("photographs", "totals", "shares", "model", "ranges"):
            assert again[field] == earlier[field], field


async def test_the_last_line_of_a_stream_can_be_sent_back(client, earlier):
    """With its `kind`; and lines are what a recount can be answered in too."""
    line = {"kind": "report", **earlier}
    headers = {"Accept": "application/x-ndjson"}
    response = await client.post(ROUTE, json=line, headers=headers)
    (again,) = [json.loads(one) for one in (await response.text()).splitlines()]
    assert (again["kind"], again["shares"]) == ("report", earlier["shares"])


async def test_a_readers_words_are_counted_and_can_be_taken_back(client, earlier):
    """They stand in the report that is answered, and null takes them back."""
    said = [
        {"number": 1, "reader": "MONOCYTE"},
        {"number": 2, "reader": "NOT_COUNTED"},
        {"number": 3, "reader": "OTHER"},
    ]
    body = await (await client.post(ROUTE, json=earlier | {"readers": said})).json()
    assert [p["status"] for p in body["photographs"]] == [
        *("counted", "excluded", "counted", "duplicate", "failed"),
    ]
    totals = body["totals"]
    assert (totals["cells"], totals["other"], totals["excluded"]) == (2, 1, 1)
    assert totals["by_reader"] == 2
    back = [{"number": number, "reader": None} for number in (1, 2, 3)]
    again = await (await client.post(ROUTE, json=body | {"readers": back})).json()
    assert (again["totals"], again["shares"]) == (earlier["totals"], earlier["shares"])


async def test_no_model_is_asked_where_its_version_is_told(aiohttp_client, earlier):
    """A correction costs milliseconds, and the report's own model stays the report's."""
    app = create_app(Settings(model_server=f"127.0.0.1:{unused_port()}", deadline=5.0))
    alone = await aiohttp_client(app)
    earlier["model"]["version"] = 7
    body = await (await alone.post(ROUTE, json=earlier)).json()
    assert body["model"] == {"name": "hemavision", "version": 7}
    response = await alone.post(ROUTE, json={"photographs": earlier["photographs"]})
    await is_refused(response, 503, "model-unavailable")


async def test_nothing_that_could_be_read_is_no_count(client, earlier):
    """Here as there."""
    failed = [earlier["photographs"][4]]
    response = await client.post(ROUTE, json={"photographs": failed})
    assert "not a picture" in await is_refused(response, 422, "no-cells")


def change(*path: object, to: object) -> Callable[[dict], object]:
    """A change of one field of a report; of no value at all where it is ``...``."""

    def apply(report: dict) -> object:
        inner = report
        for key in path[:-1]:
            inner = inner[key]
        if to is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        return report

    return apply


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda _: [], "no JSON object"),
        (lambda _: 7, "no JSON object"),
        (change("photographs", to=...), "`photographs` is missing"),
        (change("photographs", to={}), "`photographs` is missing"),
        (change("photographs", to=[]), "empty"),
        (change("photographs", to=51 * [{}]), "at most 50"),
        (change("photographs", 1, to="x"), "Entry 2 is no JSON object"),
        (change("reader", to=[]), "'reader'"),
        (change("photographs", 0, "redaer", to=None), "'redaer'"),
        (change("photographs", 0, "number", to=...), "`number` of Entry 1"),
        (change("photographs", 0, "number", to=True), "`number` of Entry 1"),
        (change("photographs", 0, "number", to=0), "`number` of Entry 1"),
        (change("photographs", 0, "number", to=1.5), "`number` of Entry 1"),
        (change("photographs", 0, "number", to=10**400), "`number` of Entry 1"),
        (change("photographs", 1, "number", to=1), "Photograph 1 is there twice"),
        (change("photographs", 0, "name", to=7), "`name` of Entry 1"),
        (change("photographs", 0, "status", to="lost"), "`status` of Entry 1"),
        (change("photographs", 0, "heatmap", to="lost"), "`heatmap` of Entry 1"),
        (change("photographs", 0, "reader", to="BASOPHIL"), "`reader` of Entry 1"),
        (change("photographs", 0, "reader", to=["OTHER"]), "`reader` of Entry 1"),
        (change("photographs", 0, "prediction", to="BASOPHIL"), "`prediction` of Entry 1"),
        (change("photographs", 0, "prediction", to=["MONOCYTE"]), "`prediction` of Entry 1"),
        (change("photographs", 0, "prediction", to=None), "needs one of"),
        (change("photographs", 0, "duplicate_of", to=2), "needs one of"),
        (change("photographs", 0, "fingerprint", to="x"), "`fingerprint` of Entry 1"),
        (change("photographs", 0, "fingerprint", to=int(32 * "1")), "`fingerprint` of Entry 1"),
        (change("photographs", 0, "confidence", to=1.1), "`confidence` of Entry 1"),
        (change("photographs", 0, "confidence", to="1"), "`confidence` of Entry 1"),
        (change("photographs", 0, "probabilities", "MONOCYTE", to=-1), "`probabilities` of"),
        (change("photographs", 0, "probabilities", "MONOCYTE", to=...), "`probabilities` of"),
        (change("photographs", 0, "probabilities", to=[]), "`probabilities` of"),
        (change("photographs", 0, "abstain_reasons", to="x"), "`abstain_reasons` of Entry 1"),
        (change("photographs", 0, "abstain_reasons", to=[{"reason": 1}]), "`abstain_reasons` of"),
        (change("photographs", 0, "abstain_reasons", to=11 * [{}]), "at most 10"),
        (
            change("photographs", 0, "abstain_reasons", to=[{"reason": "\ud800", "detail": ""}]),
            "`abstain_reasons` of",
        ),
        (change("photographs", 3, "duplicate_of", to=5), "repeats one that is not counted"),
        (change("photographs", 3, "duplicate_of", to=4), "repeats one that is not counted"),
        (change("photographs", 3, "duplicate_of", to=99), "repeats one that is not counted"),
        (change("photographs", 3, "duplicate_of", to="1"), "`duplicate_of` of Entry 4"),
        (change("photographs", 4, "problem", to="x"), "Entry 5 is no JSON object"),
        (change("photographs", 4, "problem", "status", to="x"), "`problem` of Entry 5"),
        (change("photographs", 4, "problem", "detail", to=...), "`problem` of Entry 5"),
        (change("photographs", 4, "problem", "detail", to=2000 * "x"), "`problem` of Entry 5"),
        (change("model", to=1), "`model` is no JSON object"),
        (change("model", "name", to="other"), "`model` is 'other'"),
        (change("model", "name", to=["hemavision"]), "`model` is ['hemavision']"),
        (change("model", "version", to=-1), "no `version`"),
        (change("model", "version", to=...), "no `version`"),
        (change("readers", to={}), "`readers` is missing, or no list"),
        (change("readers", to=[{"number": 9, "reader": "OTHER"}]), "photograph 9"),
        (change("readers", to=[{"number": [], "reader": "OTHER"}]), "photograph []"),
        (change("readers", to=[{"number": 1}]), "A reader says"),
        (change("readers", to=[{"number": 1, "reader": "other"}]), "'other'"),
        (change("readers", to=2 * [{"number": 1, "reader": None}]), "twice"),
        (change("readers", to=[{"file": "1.png", "reader": None}]), "'file'"),
    ],
)
async def test_what_no_report_can_be_is_refused(client, earlier, changed, word):
    """With the place where it is wrong; a slip of the pen is not passed over."""
    body = changed(copy.deepcopy(earlier))
    assert word in await is_refused(await client.post(ROUTE, json=body), 400, "invalid-cells")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", 100_000 * b"[", b'{"a": NaN}', b'{"photographs": Infinity}']
)
async def test_what_is_no_json_is_refused(client, body):
    """Nothing, half of it, a bomb of brackets, numbers that are none."""
    response = await client.post(ROUTE, data=body, headers={"Content-Type": "application/json"})
    await is_refused(response, 400, "invalid-cells")


async def test_a_report_with_overlays_is_too_long(client, earlier):
    """They need not come back: nothing is drawn anew."""
    earlier["photographs"][0]["heatmap"] = {"data": 300_000 * "x"}
    response = await client.post(ROUTE, json=earlier)
    assert "`heatmap`" in await is_refused(response, 413, "series-too-large")


async def test_names_come_back_as_they_are_shown(client, earlier):
    """What a client makes of a name in between is cleaned again."""
    earlier["photographs"][0]["name"] = "../<b>\u202ex\ud800"
    body = await (await client.post(ROUTE, json=earlier)).json()
    assert body["photographs"][0]["name"] == "<b>x"


async def test_a_report_has_the_time_of_an_ordinary_request(aiohttp_client, model_server):
    """Nobody holds its memory as long as a series may take."""
    client = await aiohttp_client(create_app(Settings(model_server=model_server, deadline=0.3)))
    over = asyncio.Event()

    async def slow():
        yield b"{"
        await over.wait()

    headers = {"Content-Type": "application/json"}
    response = await client.post(ROUTE, data=slow(), headers=headers)
    over.set()
    await is_refused(response, 408, "upload-too-slow")


async def test_few_reports_are_worked_out_at_once(aiohttp_client, model_server, earlier):
    """One more waits for its turn, and not past its time."""
    app = create_app(Settings(model_server=model_server, deadline=0.3))
    client = await aiohttp_client(app)
    turns = app[HANDLERS].counter.recounts
    async with turns, turns:
        assert turns.locked()
        await is_refused(await client.post(ROUTE, json=earlier), 503, "overloaded")
    assert (await client.post(ROUTE, json=earlier)).status == 200


async def test_what_the_model_abstained_from_stays_unclassified(client, earlier):
    """Until a reader says what it is, which counts as a change."""
    earlier["photographs"][0]["abstain_reasons"] = [{"reason": "unfamiliar", "detail": "It is."}]
    body = await (await client.post(ROUTE, json=earlier)).json()
    assert body["photographs"][0]["status"] == "unclassified"
    assert body["totals"]["unclassified"] == 1
    said = earlier | {"readers": [{"number": 1, "reader": "MONOCYTE"}]}
    body = await (await client.post(ROUTE, json=said)).json()
    assert body["photographs"][0]["status"] == "counted"
    assert (body["totals"]["unclassified"], body["totals"]["changed"]) == (0, 1)
