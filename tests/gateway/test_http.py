"""HTTP's own manners: methods, origins, Accept, compression, caches, several at once."""

import asyncio
import gzip
import io
import json

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, unused_port
from PIL import Image

from gateway.accept import preferred, takes_gzip
from gateway.app import create_app
from gateway.errors import ModelUnavailable, SettingsError
from gateway.model_client import ModelClient
from gateway.routes import ROUTES
from gateway.settings import Settings

LAB = "https://lab.example"
JPEG = {"Content-Type": "image/jpeg"}
METHODS = {
    operation.path.replace("{name}", "page.css"): operation.method for operation, _ in ROUTES
}


@pytest.fixture
async def client(aiohttp_client, model_server) -> TestClient:
    """It leaves replies as they come, compressed or not."""
    settings = Settings(model_server=model_server, max_parts=4, cors_origins=frozenset([LAB]))
    return await aiohttp_client(
        create_app(settings), auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
    )


def form(*photographs: bytes, field: str = "file") -> aiohttp.FormData:
    built = aiohttp.FormData()
    for data in photographs:
        built.add_field(field, data, filename="cell.jpg", content_type="image/jpeg")
    return built


async def problem(response) -> tuple[int, str]:
    body = await response.json(content_type="application/problem+json")
    return response.status, body["type"].rsplit(":", 1)[1]


@pytest.mark.parametrize("path", METHODS)
async def test_every_path_tells_what_it_takes(client, path):
    """OPTIONS answers Allow; another method is 405 with the same list."""
    response = await client.options(path)
    assert response.status == 204
    assert METHODS[path] in response.headers["Allow"].split(", ")
    refused = await client.delete(path)
    assert await problem(refused) == (405, "method-not-allowed")
    assert set(refused.headers["Allow"].split(", ")) == set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", METHODS)
async def test_head_is_get_without_its_body(client, path):
    """Same status and headers; a path that is only posted to says so."""
    response = await client.head(path)
    if METHODS[path] == "POST":
        assert response.status == 405
        return
    whole = await client.get(path)
    assert response.status == whole.status == 200
    assert await response.read() == b""
    assert response.headers["Content-Type"] == whole.headers["Content-Type"]
    assert response.headers.get("ETag") == whole.headers.get("ETag")


async def test_a_page_of_an_allowed_origin_may_ask_and_read(client, jpeg):
    """The preflight, the answer and the refusal all name the origin."""
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "traceparent",
    }
    preflight = await client.options("/v1/classify", headers={"Origin": LAB, **asked})
    assert preflight.status == 204
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    for name in ("Authorization", "Content-Type", "X-Request-ID", "traceparent"):
        assert name in preflight.headers["Access-Control-Allow-Headers"]
    answer = await client.post("/v1/classify", data=jpeg, headers={"Origin": LAB, **JPEG})
    refusal = await client.post("/v1/classify", data=b"x", headers={"Origin": LAB, **JPEG})
    lost = await client.get("/nothing", headers={"Origin": LAB})
    assert [answer.status, refusal.status, lost.status] == [200, 415, 404]
    for response in (preflight, answer, refusal, lost):
        assert response.headers["Access-Control-Allow-Origin"] == LAB
        assert "Origin" in ", ".join(response.headers.getall("Vary"))
    for name in ("X-Request-ID", "Server-Timing", "X-Abstain"):
        assert name in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", LAB + ".evil.example", ""])
async def test_a_page_of_another_origin_may_not(client, origin):
    """It is told nothing, and caches keep its reply apart."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (
        await client.options("/v1/classify", headers=asked),
        await client.get("/v1/reference", headers={"Origin": origin}),
    ):
        assert not [name for name in response.headers if name.startswith("Access-Control")]
        assert "Origin" in ", ".join(response.headers.getall("Vary"))


async def test_no_other_origin_may_unless_set(aiohttp_client):
    """The default."""
    client = await aiohttp_client(create_app(Settings()))
    response = await client.get("/livez", headers={"Origin": LAB})
    assert "Access-Control-Allow-Origin" not in response.headers


def test_origins_are_read_from_the_environment():
    """Separated by commas, exact."""
    given = {"HEMAVISION_CORS_ORIGINS": "https://lab.example, http://localhost:3000"}
    origins = Settings.from_environment(given).cors_origins
    assert origins == {"https://lab.example", "http://localhost:3000"}


@pytest.mark.parametrize("text", ["*", "", "lab.example", "https://lab.example/", "https://A.b,"])
def test_what_is_no_origin_stops_the_start(text):
    """A browser would never send it, so that it would never match."""
    with pytest.raises(SettingsError, match="HEMAVISION_CORS_ORIGINS"):
        Settings.from_environment({"HEMAVISION_CORS_ORIGINS": text})


OFFERED = ("application/json", "image/png", "image/webp")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("IMAGE/WEBP", "image/webp"),
        ("image/*;q=0.5, application/json;q=0.4", "image/png"),
        ("image/png;q=0.2,image/webp;q=0.3", "image/webp"),
        ("image/*, image/png;q=0", "image/webp"),
        ("*/*;q=0.1, image/webp;q=0.2", "image/webp"),
        ("text/html", None),
        ("application/json;q=0", None),
        ("image/png;level=1;q=0.0, text/html", None),
        ("image/webp;q=x", "image/webp"),
        (",;,", None),
    ],
)
def test_the_narrowest_range_counts_and_the_highest_weight_wins(accept, chosen):
    """After RFC 9110, 12.5.1; equals go to what is offered first."""
    assert preferred(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    ("accept_encoding", "taken"),
    [("gzip", True), ("br, GZIP;q=0.1", True), ("*", True), ("*, gzip;q=0", False), ("", False)],
)
def test_gzip_is_for_who_takes_it(accept_encoding, taken):
    """After RFC 9110, 12.5.3."""
    assert takes_gzip(accept_encoding) is taken


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/heatmap"])
@pytest.mark.parametrize(
    ("accept", "query", "media"),
    [
        ("image/png", "", "image/png"),
        ("image/webp, image/png;q=0.9", "", "image/webp"),
        ("image/*", "?format=jpeg", "image/jpeg"),
        ("image/*;q=0.1", "?explain=MONOCYTE", "image/png"),
    ],
)
async def test_accept_asks_for_the_overlay_itself(client, jpeg, route, accept, query, media):
    """In the format that it likes best."""
    response = await client.post(route + query, data=jpeg, headers={"Accept": accept, **JPEG})
    assert (response.status, response.content_type) == (200, media)
    assert response.headers["Cache-Control"] == "no-store"
    assert "total;dur=" in response.headers["Server-Timing"]
    overlay = Image.open(io.BytesIO(await response.read()))
    assert (f"image/{overlay.format.lower()}", overlay.size) == (media, (360, 363))


@pytest.mark.parametrize(
    ("route", "accept"),
    [
        ("/v1/classify", "text/html"),
        ("/v1/classify?heatmap=none", "image/png"),
        ("/v1/classify?degrade=allow", "image/png"),
        ("/v1/classify?format=png", "image/webp"),
        ("/v1/heatmap", "application/json"),
    ],
)
async def test_what_nobody_can_answer_is_406(client, jpeg, route, accept):
    """And the refusal says what can be had."""
    response = await client.post(route, data=jpeg, headers={"Accept": accept, **JPEG})
    assert await problem(response) == (406, "not-acceptable")


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/model", "/livez"])
async def test_json_ends_its_line(client, jpeg, path):
    """So that a terminal's prompt begins one of its own."""
    one = client.post(path, data=form(jpeg)) if path == "/v1/classify" else client.get(path)
    assert (await (await one).read()).endswith(b"}\n")


async def test_a_list_ends_its_line(client, jpeg):
    """As one answer does, and nothing comes after."""
    body = await (await client.post("/v1/classify", data=form(jpeg, b"x"))).read()
    assert body.endswith(b"]}\n")
    assert body.count(b"\n") == 1


async def test_a_refusal_ends_its_line(client):
    """As an answer does."""
    assert (await (await client.get("/nowhere")).read()).endswith(b"}\n")


async def test_a_refused_method_names_the_others_as_options_does(client):
    """One space after each comma, in the header and in the sentence."""
    refused = await client.get("/v1/classify")
    allowed = (await client.options("/v1/classify")).headers["Allow"]
    assert refused.headers["Allow"] == allowed == "OPTIONS, POST"
    assert (await refused.json(content_type=None))["detail"] == f"/v1/classify takes {allowed}."


async def test_what_may_be_left_out_is_answered_in_json(client, jpeg):
    """An overlay by itself cannot say that it is missing."""
    accept = {"Accept": "image/png, application/json;q=0.1", **JPEG}
    response = await client.post("/v1/classify?degrade=allow", data=jpeg, headers=accept)
    assert (response.status, response.content_type) == (200, "application/json")


async def test_several_photographs_are_answered_in_order(client, jpeg):
    """Each with its own answer or error, as it would have had alone; and counted alone."""
    other = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 180, 190)).save(other, "PNG")
    response = await client.post(
        "/v1/classify", data=form(other.getvalue(), b"no picture", b"", jpeg)
    )
    results = (await response.json())["results"]
    assert response.status == 200
    assert results[0]["quality"]["width"] == 300
    assert [result.get("status") for result in results] == [None, 415, 400, None]
    assert {result["request_id"] for result in results} == {response.headers["X-Request-ID"]}
    alone = await (await client.post("/v1/classify", data=jpeg, headers=JPEG)).json()
    assert results[3]["probabilities"] == alone["probabilities"]
    metrics = await (await client.get("/metrics")).text()
    assert 'hemavision_errors_total{problem="unsupported-media"} 1.0' in metrics
    assert 'hemavision_stage_duration_seconds_count{stage="predict"} 3.0' in metrics


async def test_answers_to_several_are_compressed_too(client, jpeg):
    """And are the same."""
    takes = {"Accept-Encoding": "gzip"}
    response = await client.post("/v1/classify", data=form(jpeg, b"x"), headers=takes)
    assert response.headers["Content-Encoding"] == "gzip"
    results = json.loads(gzip.decompress(await response.read()))["results"]
    assert ["prediction" in result for result in results] == [True, False]


async def test_several_photographs_have_no_one_overlay(client, jpeg):
    """They are answered in JSON where that is taken, else refused."""
    data = form(jpeg, jpeg)
    refused = await client.post("/v1/classify", data=data, headers={"Accept": "image/png"})
    assert await problem(refused) == (406, "not-acceptable")
    accept = {"Accept": "image/png, application/json;q=0.1"}
    answered = await client.post("/v1/classify", data=form(jpeg, jpeg), headers=accept)
    assert len((await answered.json())["results"]) == 2


@pytest.mark.parametrize("route", ["/v1/heatmap", "/predict"])
async def test_some_routes_take_one_photograph(client, jpeg, route):
    """Nobody gets one answer for two."""
    response = await client.post(route, data=form(jpeg, jpeg))
    assert await problem(response) == (413, "too-many-parts")


async def test_more_photographs_than_a_form_may_have_are_refused(client, jpeg):
    """All of them, at the first too many."""
    response = await client.post("/v1/classify", data=form(*5 * [jpeg]))
    assert await problem(response) == (413, "too-many-parts")


async def test_a_form_may_have_only_so_many_bytes(aiohttp_client, model_server, jpeg):
    """Each photograph is small enough, all of them are not."""
    settings = Settings(model_server=model_server, max_bytes=100_000, max_batch_bytes=100_000)
    client = await aiohttp_client(create_app(settings))
    response = await client.post("/v1/classify", data=form(*6 * [jpeg]))
    assert await problem(response) == (413, "photograph-too-large")


async def test_a_batch_without_a_model_is_503(aiohttp_client, jpeg):
    """No photograph is to blame: the whole is to be sent again."""
    settings = Settings(model_server=f"127.0.0.1:{unused_port()}")
    client = await aiohttp_client(create_app(settings))
    response = await client.post("/v1/classify", data=form(jpeg, jpeg))
    assert await problem(response) == (503, "model-unavailable")
    assert response.headers["Retry-After"] == "1"


async def test_what_one_of_several_failed_of_is_in_the_log(
    aiohttp_client, model_server, jpeg, caplog
):
    """As it would be of one alone: what the model server said, with the request's id."""

    class Flaky(ModelClient):
        async def explain(self, tensor, class_index, deadline):
            if not calls:
                calls.append(1)
                error = ModelUnavailable("No model answers.")
                error.add_note("10.0.0.1:8500: UNAVAILABLE: gone")
                raise error
            return await super().explain(tensor, class_index, deadline)

    calls: list[int] = []
    client = await aiohttp_client(create_app(Settings(model_server=model_server), connect=Flaky))
    response = await client.post("/v1/classify", data=form(jpeg, jpeg))
    results = (await response.json())["results"]
    assert sorted(result.get("status", 200) for result in results) == [200, 503]
    request_id = response.headers["X-Request-ID"]
    assert f"request {request_id}: 10.0.0.1:8500: UNAVAILABLE: gone" in caplog.messages


async def test_a_batch_leaves_places_to_others(aiohttp_client, model_server, jpeg):
    """Many photographs in one form are let in some at a time, so that none is turned away."""
    settings = Settings(model_server=model_server, max_in_flight=2, max_wait=0.01, workers=1)
    client = await aiohttp_client(create_app(settings))
    batch, alone = await asyncio.gather(
        client.post("/v1/classify", data=form(*12 * [jpeg])),
        client.post("/v1/classify", data=form(jpeg)),
    )
    assert alone.status == 200
    assert all("prediction" in result for result in (await batch.json())["results"])


@pytest.mark.parametrize(
    "path", ["/v1/classify", "/v1/classify?heatmap=grid", "/v1/reference", "/openapi.json", "/docs"]
)
async def test_json_and_pages_are_compressed_where_asked(client, jpeg, path):
    """With gzip, told in Vary; the same bytes come out."""
    takes = {"Accept-Encoding": "gzip", **JPEG}
    send = client.post if "classify" in path else client.get
    response = await send(path, data=jpeg if "classify" in path else None, headers=takes)
    assert response.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in ", ".join(response.headers.getall("Vary"))
    packed = await response.read()
    unpacked = gzip.decompress(packed)
    assert len(packed) < 0.8 * len(unpacked)
    if response.content_type == "application/json":
        json.loads(unpacked)


async def test_pictures_and_small_replies_are_not_compressed(client, jpeg):
    """They would not get smaller; nor is anything for who does not ask."""
    takes = {"Accept-Encoding": "gzip", **JPEG}
    assert "Content-Encoding" not in (await client.get("/livez", headers=takes)).headers
    picture = await client.post("/v1/heatmap", data=jpeg, headers=takes)
    assert "Content-Encoding" not in picture.headers
    plain = await client.get("/v1/reference", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/page/page.js", "/v1/reference", "/v1/model", "/openapi.json"]
)
async def test_what_stays_the_same_is_sent_once(client, path):
    """Its ETag brings 304 without a body, compressed or not; another one brings it again."""
    first = await client.get(path, headers={"Accept-Encoding": "gzip"})
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
    assert (await client.get(path, headers={"If-None-Match": 'W/"other"'})).status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_what_is_true_now_is_not_kept(client, path):
    """Nor are the answers to photographs, which are told so as well."""
    assert (await client.get(path)).headers["Cache-Control"] == "no-store"
