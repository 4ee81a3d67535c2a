"""What the service tells Prometheus of itself."""

import asyncio
from importlib.metadata import version

import pytest
from aiohttp.test_utils import TestClient, unused_port
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from gateway.app import create_app
from gateway.contract import CLASSES
from gateway.middleware import ERROR_STATUS
from gateway.model_client import ModelClient
from gateway.settings import Settings

BINARY = {"Content-Type": "application/octet-stream"}
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.4"}


@pytest.fixture
async def client(aiohttp_client, model_server) -> TestClient:
    return await aiohttp_client(create_app(Settings(model_server=model_server)))


async def scrape(client: TestClient) -> dict[tuple[str, ...], float]:
    """Every sample that is not 0, by its name and its labels' values, in order of their names."""
    text = await (await client.get("/metrics")).text()
    samples = (sample for family in plain_families(text) for sample in family.samples)
    return {(s.name, *s.labels.values()): s.value for s in samples if s.value}


async def test_metrics_count_what_happened(client, jpeg):
    """Requests by route and status, stages, calls, predictions and problems."""
    answered = await (await client.post("/v1/classify", data=jpeg, headers=BINARY)).json()
    await client.post("/v1/classify", data=b"x", headers=BINARY)
    found = await scrape(client)
    prediction = answered["prediction"]
    assert found["hemavision_requests_total", "POST", "/v1/classify", "200"] == 1
    assert found["hemavision_requests_total", "POST", "/v1/classify", "415"] == 1
    assert found["hemavision_request_duration_seconds_count", "/v1/classify"] == 2
    for stage in ("wait", "prepare", "predict", "explain"):
        assert found["hemavision_stage_duration_seconds_count", stage] == 1
        assert found["hemavision_stage_duration_seconds_sum", stage] == pytest.approx(
            answered["timing_ms"][stage] / 1000, abs=1e-5
        )
    assert found["hemavision_rpc_duration_seconds_count", "OK", "gradcam", "1"] == 1
    assert found["hemavision_predictions_total", prediction, "1"] == 1
    ratio = "hemavision_prediction_confidence_ratio_sum"
    assert found[ratio, prediction, "1"] == answered["confidence"]
    outcome = "within_target" if answered["within_target"] else "late"
    assert found["hemavision_photographs_total", outcome] == 1
    assert found["hemavision_errors_total", "unsupported-media"] == 1
    assert found["hemavision_model_info", "1"] == 1
    assert found["hemavision_build_info", version("hemavision")] == 1
    assert ("hemavision_photographs_in_flight",) not in found  # it is 0 again
    assert found["process_resident_memory_bytes",] > 1e6


async def test_the_model_is_known_before_the_first_photograph(aiohttp_client, client):
    """By the probe that finds it; one that was not found has no series."""
    lost = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    for asked in (client, lost):
        await asked.get("/readyz")
    assert (await scrape(client))["hemavision_model_info", "1"] == 1
    assert not any("hemavision_model_info" in key for key in await scrape(lost))


async def test_each_scrape_tells_whether_there_is_a_model(aiohttp_client, tiny_models):
    """Though no probe and no photograph asks: while it is away, and once it is back."""
    from export.local_server import LocalServer

    port = unused_port()
    client = await aiohttp_client(create_app(Settings(model_server=f"127.0.0.1:{port}")))
    assert ("hemavision_model_available",) not in await scrape(client)  # it is 0
    with LocalServer("hemavision", tiny_models, f"127.0.0.1:{port}"):
        async with asyncio.timeout(20):
            while ("hemavision_model_available",) not in await scrape(client):
                pass
        found = await scrape(client)
    assert found["hemavision_model_available",] == found["hemavision_model_info", "1"] == 1
    async with asyncio.timeout(20):
        while ("hemavision_model_available",) in await scrape(client):
            pass


async def test_durations_have_a_bucket_at_the_target(client, jpeg):
    """Exactly 0.2 s, for requests, stages and calls of the model server."""
    await client.post("/v1/classify", data=jpeg, headers=BINARY)
    text = await (await client.get("/metrics")).text()
    for name in ("request", "stage", "rpc"):
        assert f"hemavision_{name}_duration_seconds_bucket{{" in text
    durations = [
        sample.labels["le"]
        for family in plain_families(text)
        if family.name.startswith("hemavision") and family.name.endswith("_duration_seconds")
        for sample in family.samples
        if sample.name.endswith("_bucket")
    ]
    assert durations.count("0.2") == durations.count("+Inf") > 3


@pytest.mark.parametrize(("target_ms", "outcome"), [(60_000, "within_target"), (0.001, "late")])
async def test_a_photograph_is_within_the_target_or_late(
    aiohttp_client, model_server, jpeg, target_ms, outcome
):
    """As its own answer says."""
    settings = Settings(model_server=model_server, target_ms=target_ms)
    client = await aiohttp_client(create_app(settings))
    body = await (await client.post("/v1/classify", data=jpeg, headers=BINARY)).json()
    assert body["within_target"] is (outcome == "within_target")
    found = await scrape(client)
    outcomes = {key[1]: n for key, n in found.items() if key[0] == "hemavision_photographs_total"}
    assert outcomes == {outcome: 1}


async def test_what_the_service_fails_is_counted_and_what_the_client_did_is_not(
    aiohttp_client, jpeg
):
    """Only the first costs the service's objective."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    await client.post("/v1/classify", data=jpeg, headers=BINARY)
    await client.post("/v1/classify", data=b"no picture", headers=BINARY)
    found = await scrape(client)
    outcomes = {key[1]: n for key, n in found.items() if key[0] == "hemavision_photographs_total"}
    assert outcomes == {"failed": 1}
    assert found["hemavision_rpc_duration_seconds_count", "UNAVAILABLE", "gradcam", ""] == 1


class Silent(ModelClient):
    """A model client whose server does not answer in time."""

    async def _call(self, method, request, deadline):
        await asyncio.sleep(deadline.remaining())
        return await super()._call(method, request, deadline)


@pytest.mark.parametrize(
    ("deadline", "asked", "outcomes"),
    [(0.2, "3600", {"failed": 1}), (0.2, None, {"failed": 1}), (30.0, "0.2", {})],
)
async def test_a_client_in_haste_costs_the_service_nothing(
    aiohttp_client, model_server, jpeg, deadline, asked, outcomes
):
    """What came to nothing within the client's own time is not the service's failure."""
    app = create_app(Settings(model_server=model_server, deadline=deadline), connect=Silent)
    client = await aiohttp_client(app)
    query = {"timeout": asked} if asked else {}
    response = await client.post("/v1/classify", data=jpeg, headers=BINARY, params=query)
    assert response.status == 503
    found = await scrape(client)
    counted = {key[1]: n for key, n in found.items() if key[0] == "hemavision_photographs_total"}
    assert counted == outcomes
    assert found["hemavision_errors_total", "model-unavailable"] == 1


async def test_haste_excuses_no_other_failure(aiohttp_client, jpeg):
    """A model server that is not there is the service's, however soon an answer is wanted."""
    client = await aiohttp_client(create_app(Settings(model_server="127.0.0.1:1")))
    await client.post("/v1/classify?timeout=5", data=jpeg, headers=BINARY)
    assert (await scrape(client))["hemavision_photographs_total", "failed"] == 1


async def test_what_can_happen_is_there_before_it_does(client):
    """A rate over a series that does not exist is no zero, and one that begins at 1 shows none."""
    text = await (await client.get("/metrics")).text()
    for outcome in ("within_target", "late", "failed"):
        assert f'hemavision_photographs_total{{outcome="{outcome}"}} 0.0' in text
    for reason in ("client", "queue", "wait", "deadline", "memory"):
        assert f'hemavision_refused_total{{reason="{reason}"}} 0.0' in text
    for problem in (*(kind.name for kind in ERROR_STATUS.values()), "internal-error"):
        assert f'hemavision_errors_total{{problem="{problem}"}} 0.0' in text


async def test_those_turned_away_are_counted(aiohttp_client, model_server, jpeg):
    """By reason; all have left the queue in the end, and each is answered or failed."""
    settings = Settings(
        model_server=model_server, max_in_flight=1, max_wait=0.001, client_share=1.0
    )
    client = await aiohttp_client(create_app(settings))
    responses = await asyncio.gather(
        *(client.post("/v1/classify", data=jpeg, headers=BINARY) for _ in range(12))
    )
    refused = sum(response.status == 503 for response in responses)
    found = await scrape(client)
    assert refused > 0
    assert sum(n for key, n in found.items() if key[0] == "hemavision_refused_total") == refused
    assert found["hemavision_photographs_total", "failed"] == refused
    assert ("hemavision_photographs_waiting",) not in found


async def test_exemplars_lead_to_the_request(client, jpeg):
    """OpenMetrics, for who asks for it, names the trace in the bucket that it fell into."""
    response = await client.post("/v1/classify", data=jpeg, headers=BINARY)
    trace_id = response.headers["traceresponse"].split("-")[1]
    scraped = await client.get("/metrics", headers=OPENMETRICS)
    assert scraped.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(text_string_to_metric_families(await scraped.text()))
    exemplars = {
        family.name: sample.exemplar.labels
        for family in families
        for sample in family.samples
        if sample.exemplar and sample.labels.get("signature") != ""  # the scrape's own question
    }
    assert set(exemplars) == {
        "hemavision_request_duration_seconds",
        "hemavision_stage_duration_seconds",
        "hemavision_rpc_duration_seconds",
        "hemavision_prediction_confidence_ratio",
    }
    assert all(labels == {"trace_id": trace_id} for labels in exemplars.values())


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "text/plain;version=1.0.0",
        "application/json",
        "application/openmetrics-texts",
        "",
        ",;,",
        "text/plain;version=x",
    ],
)
async def test_whoever_does_not_ask_for_openmetrics_gets_plain_text(client, accept):
    """Whatever else the header says."""
    headers = {} if accept is None else {"Accept": accept}
    response = await client.get("/metrics", headers=headers)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "trace_id" not in await response.text()


async def test_nothing_that_a_client_chooses_becomes_a_label(client, jpeg):
    """Paths, methods, file names, request ids and options leave no series behind."""
    for path in ("/made/up", "/page/made-up", "/v1/classify?explain=made-up"):
        await client.request("PROPFIND", path)
        await client.post(path, data=jpeg, headers=BINARY | {"X-Request-ID": "made-up"})
        await client.get(path)
    text = (await (await client.get("/metrics", headers=OPENMETRICS)).text()).lower()
    assert "made" not in text
    assert "propfind" not in text
    assert 'method="other",route="unknown"' in text


async def test_each_class_and_version_is_a_series_of_its_own(client, jpeg):
    """Four classes times the versions that answered: no more can come of it."""
    await client.post("/v1/classify", data=jpeg, headers=BINARY)
    found = await scrape(client)
    (key,) = (key for key in found if key[0] == "hemavision_predictions_total")
    assert key[1] in CLASSES
    assert key[2] == "1"
