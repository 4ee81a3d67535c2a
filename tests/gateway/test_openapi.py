"""The description is the API's: every route, every reply, every problem, and nothing besides."""

import io
import json

import aiohttp
import jsonschema
import openapi_spec_validator
import pytest
import schemathesis
from aiohttp.test_utils import unused_port
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.config import NotAServerErrorConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway import query, wire
from gateway.app import create_app, describe_api
from gateway.contract import CLASSES
from gateway.keys import make_key
from gateway.middleware import ERROR_STATUS
from gateway.openapi import Schemas
from gateway.pipeline import Options
from gateway.routes import ROUTES
from gateway.settings import Settings

DOCUMENT = describe_api()


def closed(schema):
    """The same schema, where an object may have no field that is not described."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "$ref" not in schema:
        inner |= {"additionalProperties": False}
    return inner


def holds(body: object, path: str, method: str, status: int, media: str) -> None:
    """The body is what the document says of this reply."""
    reply = DOCUMENT["paths"][path][method]["responses"][str(status)]
    schema = closed(reply["content"][media]["schema"] | {"components": DOCUMENT["components"]})
    jsonschema.Draft202012Validator(schema).validate(body)


def form(*photographs: bytes) -> aiohttp.FormData:
    built = aiohttp.FormData()
    for data in photographs:
        built.add_field("file", data, filename="cell.jpg", content_type="image/jpeg")
    return built


@pytest.fixture
async def client(aiohttp_client, model_server, tiny_models):
    return await aiohttp_client(create_app(Settings(model_server=model_server, models=tiny_models)))


def test_the_document_is_openapi():
    """The specification's own validator accepts it."""
    openapi_spec_validator.validate(DOCUMENT)


async def test_the_document_is_served(client):
    """At /openapi.json, as JSON."""
    assert await (await client.get("/openapi.json")).json() == json.loads(json.dumps(DOCUMENT))


def test_every_route_is_described_and_every_description_has_its_route():
    """But HEAD, which goes with GET, and OPTIONS, which each path answers."""
    app = create_app(Settings())
    routes = {(r.method.lower(), r.resource.canonical) for r in app.router.routes()}
    described = {(m, path) for path, methods in DOCUMENT["paths"].items() for m in methods}
    assert {route for route in routes if route[0] not in {"head", "options"}} == described


def test_every_problem_is_described_somewhere():
    """An error that a new stage brings cannot be left out of the routes that it happens on."""
    described = {error for operation, _ in ROUTES for error in operation.errors}
    assert described == set(ERROR_STATUS)


def test_every_option_is_a_field_of_the_pipelines_options():
    """What is described is what is read, and its default is what holds where it is left out."""
    names = [option.name for option in query.OPTIONS]
    assert sorted(names) == sorted(vars(Options()))
    for described in DOCUMENT["paths"]["/v1/classify"]["post"]["parameters"]:
        assert described["schema"].get("default") == getattr(Options(), described["name"])


def test_every_field_of_a_reply_says_what_it_is():
    """By a description of its own, or by that of its type."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, described in schema["properties"].items():
            assert {"description", "$ref", "enum"} & set(described), f"{name}.{field}"


@pytest.mark.parametrize(
    "query",
    ["", "?heatmap=grid", "?heatmap=none", "?explain=monocyte&resolution=coarse&format=webp"],
)
async def test_an_answer_is_as_described(client, jpeg, query):
    """To one photograph, whatever was asked for."""
    body = await (await client.post(f"/v1/classify{query}", data=form(jpeg))).json()
    holds(body, "/v1/classify", "post", 200, "application/json")
    jsonschema.validate(body, closed({"$ref": "#/components/schemas/Classification", **DOCUMENT}))


async def test_answers_to_several_are_as_described(client, jpeg):
    """With the problem among them."""
    body = await (await client.post("/v1/classify", data=form(jpeg, b"x"))).json()
    holds(body, "/v1/classify", "post", 200, "application/json")
    assert "status" in body["results"][1]


async def test_the_original_answer_is_as_described(client, jpeg):
    """For the original application's clients."""
    body = await (await client.post("/predict", data=form(jpeg))).json()
    holds(body, "/predict", "post", 200, "application/json")


@pytest.mark.parametrize("path", ["/v1/model", "/v1/reference", "/livez", "/readyz"])
async def test_other_replies_are_as_described(client, path):
    """All that are JSON and have a shape."""
    body = await (await client.get(path)).json()
    holds(body, path, "get", 200, "application/json")


async def test_a_count_is_as_described(client, jpeg):
    """One JSON, each of its lines, and what an earlier count is sent back as."""
    path, media = "/v1/differential", "application/x-ndjson"
    body = await (await client.post(f"{path}?heatmap=overlay", data=form(jpeg, jpeg, b"x"))).json()
    holds(body, path, "post", 200, "application/json")
    returned = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.validate(body, returned["schema"] | {"components": DOCUMENT["components"]})
    for sent in (form(jpeg, b"x"), form(b"x")):
        response = await client.post(path, data=sent, headers={"Accept": media})
        for line in (await response.text()).splitlines():
            holds(json.loads(line), path, "post", 200, media)


def test_every_option_of_a_series_is_a_field_of_its_options():
    """And its default is what holds where it is left out."""
    names = [option.name for option in query.SERIES_OPTIONS]
    assert sorted(names) == sorted(vars(query.SeriesOptions()))
    for described in DOCUMENT["paths"]["/v1/differential"]["post"]["parameters"]:
        default = getattr(query.SeriesOptions(), described["name"])
        assert described["schema"].get("default") == default


async def test_refusals_are_as_described(client, jpeg):
    """By status, with the names that the description lists for it."""
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    for sent, route, accept in (
        (form(b""), "/v1/classify", "*/*"),
        (form(b"x"), "/v1/classify", "*/*"),
        (form(small.getvalue()), "/v1/heatmap", "*/*"),
        (form(jpeg, jpeg), "/predict", "*/*"),
        (form(jpeg), "/v1/classify", "text/html"),
    ):
        response = await client.post(route, data=sent, headers={"Accept": accept})
        body = await response.json(content_type="application/problem+json")
        holds(body, route, "post", response.status, "application/problem+json")


async def test_headers_are_as_described(client, aiohttp_client, tmp_path, jpeg):
    """Those that are said to be there are, and those of ours that are there are described."""
    key, entry = make_key("lab", per_minute=1)
    (tmp_path / "keys").write_text(entry)
    server = f"127.0.0.1:{unused_port()}"
    alone = await aiohttp_client(create_app(Settings(model_server=server)))
    locked = await aiohttp_client(create_app(Settings(keys_file=tmp_path / "keys")))
    blank = io.BytesIO()
    Image.new("RGB", (300, 300), "white").save(blank, "PNG")
    named = {"X-API-Key": key}
    for status, path, method, asked in (
        (200, "/livez", "get", client.get("/livez")),
        (200, "/v1/classify", "post", client.post("/v1/classify", data=form(jpeg))),
        (200, "/v1/heatmap", "post", client.post("/v1/heatmap", data=form(blank.getvalue()))),
        (400, "/v1/classify", "post", client.post("/v1/classify", data=form(b""))),
        (503, "/v1/classify", "post", alone.post("/v1/classify", data=form(jpeg))),
        (503, "/readyz", "get", alone.get("/readyz")),
        (401, "/metrics", "get", locked.get("/metrics")),
        (200, "/metrics", "get", locked.get("/metrics", headers=named)),
        (429, "/metrics", "get", locked.get("/metrics", headers=named)),
    ):
        response = await asked
        assert response.status == status
        described = DOCUMENT["paths"][path][method]["responses"][str(status)]["headers"]
        headers = DOCUMENT["components"]["headers"]
        assert {name for name in described if headers[name].get("required")} <= set(
            response.headers
        )
        assert {name for name in headers if name in response.headers} <= set(described)
        if path == "/v1/heatmap":
            assert "uniform" in response.headers["X-Abstain"]


def test_a_map_is_one_of_classes_and_any_other_object_says_nothing_of_its_fields():
    """/docs writes `for each class` of every object with `additionalProperties`."""
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        for described in schema["properties"].values():
            if "additionalProperties" in described:
                assert described["propertyNames"] == {"enum": list(CLASSES)}
    assert schemas["ModelDescription"]["properties"]["card"]["anyOf"][0] == {"type": "object"}


def test_a_type_that_has_no_schema_is_an_error():
    """Nothing is described as something else."""
    with pytest.raises((TypeError, KeyError)):
        Schemas().of(tuple[int, ...])
    with pytest.raises((TypeError, KeyError)):
        Schemas().of(bytes)


def test_a_rule_of_the_wire_is_json_schema():
    """Each field's rule is a keyword that means something."""
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert Schemas().of(wire.Share) == {"type": "number", "minimum": 0, "maximum": 1}


@pytest.fixture(scope="session")
def api(served, jpeg):
    """The description that the running gateway serves; half of the photographs are none."""
    photographs = st.one_of(st.just(jpeg), st.binary(max_size=200))
    for media in DOCUMENT["paths"]["/v1/classify"]["post"]["requestBody"]["content"]:
        if media.startswith("image/"):
            schemathesis.openapi.media_type(media, photographs)
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    # who asks for an answer within a millisecond is told so with 503
    statuses = ["2xx", "3xx", "4xx", "503"]
    schema.config.checks.not_a_server_error = NotAServerErrorConfig(expected_statuses=statuses)
    return schema


@schemathesis.pytest.from_fixture("api").parametrize()
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_keeps_to_its_description(case):
    """Schemathesis' checks, with good requests and bad ones."""
    # what is acceptable by its shape may still be no picture, or an idle option
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
