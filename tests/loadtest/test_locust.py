"""Locust against a real gateway: each kind of user, and every status that it can end with."""

import json
import re
import subprocess

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest import processes
from loadtest import samples as raw
from loadtest.samples import RIGHT

PATIENT = ["--p99-ms", "10000", "--late-ms", "10000"]  # how fast it is here is no matter


@pytest.mark.parametrize("user", ["Interactive", "Explain", "Batch", "ModelServer"])
def test_each_user_is_answered_rightly(user, locust, gateway, model_server, samples, tmp_path):
    """A second of each; every request is in the raw data."""
    load = ["--photographs", samples, "--users", 2, "--run-time", "1s", "--think", 0.05]
    done = locust(user, "--host", gateway, "--model-server", model_server, *load, *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = raw.read(tmp_path / "raw.csv")
    assert f"Objective met: {len(kept)} requests" in done.stdout
    assert {sample.outcome for sample in kept} == {RIGHT}
    if user != "ModelServer":
        assert all("predict" in sample.stages() for sample in kept)


def test_an_open_loop_sends_by_its_own_clock(locust, gateway, samples, tmp_path):
    """Mixed work in steps, with a report and plots: no user waits for another's answer."""
    load = ["--photographs", samples, "--users", 30, "--run-time", "2s", "--loop", "open"]
    report = ["--html", tmp_path / "load.html", "--plots", tmp_path]
    done = locust("--host", gateway, *load, "--shape", "step", *PATIENT, *report)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = raw.read(tmp_path / "raw.csv")
    assert {sample.level for sample in kept} <= {6, 12, 18, 24, 30}
    assert all(sample.ms >= sample.late_ms >= 0 for sample in kept)
    assert "<html" in (tmp_path / "load.html").read_text()
    assert (tmp_path / "raw-latency.png").stat().st_size > 0


def test_workers_share_a_load(gateway, samples, locust, tmp_path):
    """What both sent reaches the master, which judges it."""
    load = ["--photographs", samples, "--users", 4, "--run-time", "2s", "--think", 0.05]
    done = locust("--host", gateway, "--processes", 2, *load, *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers connected" in done.stderr
    (counted,) = re.findall(r"Objective met: (\d+) requests", done.stdout)
    assert int(counted) == len(raw.read(tmp_path / "raw.csv")) > 0


def test_a_missed_objective_ends_with_1(locust, gateway, samples):
    """No gateway answers within a hundredth of a millisecond."""
    load = ["--photographs", samples, "--run-time", "1s", "--think", 0.05]
    done = locust("Interactive", "--host", gateway, *load, "--p99-ms", 0.01)
    assert done.returncode == 1
    assert "Objective missed: 1 % of interactive took" in done.stderr


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nobody", "No gateway can be reached at http"),
        ("unready", "is not ready: /readyz answered 503: "),
        ("no address", "No gateway can be reached at no address"),
    ],
)
def test_nothing_to_load_ends_with_2(url, sentence, request, locust, samples):
    """Nobody there, or without a model: one sentence that says what was met."""
    host = url if " " in url else request.getfixturevalue(url)
    done = locust("--host", host, "--photographs", samples)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "locust" not in line]
    assert sentence in told


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [(".", "no photograph in "), ("nowhere", " is no folder"), ("torn", "cannot be read: ")],
)
def test_no_photographs_end_with_2(folder, sentence, locust, gateway, tmp_path):
    """An empty folder, none, or one with a file that leads nowhere."""
    (tmp_path / "torn").mkdir()
    if folder == "torn":
        (tmp_path / "torn" / "cell.jpg").symlink_to("nowhere")
    done = locust("--host", gateway, "--photographs", tmp_path / folder)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "locust" not in line]
    assert sentence in told


def test_a_gateway_with_keys_wants_one(locust, model_server, samples, tmp_path):
    """None and a wrong one end with 2; the right one is taken from the environment."""
    key = subprocess.run(
        [processes.sys.executable, "-m", "gateway.cli", "key", "sre"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (given,) = re.findall(r"hv_\S+", key.stderr + key.stdout)
    (tmp_path / "keys.toml").write_text(key.stdout)
    load = ["--photographs", samples, "--run-time", "1s", *PATIENT]
    with processes.gateway(model_server, KEYS_FILE=str(tmp_path / "keys.toml")) as guarded:
        host = ["Interactive", "--host", guarded.address]
        without, wrong = locust(*host, *load), locust(*host, *load, "--key", "hv_wrong")
        right = locust(*host, *load, HEMAVISION_KEY=given)
    assert [without.returncode, wrong.returncode, right.returncode] == [2, 2, 0], right.stderr
    assert "rejects requests without a key" in without.stderr
    assert "rejects the key that was given" in wrong.stderr


async def test_a_wrong_answer_and_a_5xx_end_with_1(locust, samples):
    """A service that says something else under load than before, or fails."""
    import asyncio

    asked = 0

    async def classify(request):
        nonlocal asked
        asked += 1
        if asked == 3:
            raise web.HTTPInternalServerError
        shares = {"EOSINOPHIL": 0.9 if asked == 1 else 0.1}
        body = {"prediction": "EOSINOPHIL", "confidence": 0.9, "probabilities": shares}
        return web.Response(text=json.dumps(body))

    async def well(request):
        return web.Response(text="{}")

    app = web.Application()
    app.add_routes(
        [web.get("/readyz", well), web.get("/v1/model", well), web.post("/v1/classify", classify)]
    )
    async with TestServer(app) as server:
        given = ["Interactive", "--host", str(server.make_url("")), "--think", 0.05]
        done = await asyncio.to_thread(
            locust, *given, "--photographs", samples, "--run-time", "1s", *PATIENT
        )
    assert done.returncode == 1
    assert "1 of " in done.stderr
    assert "requests of interactive were answered with 500." in done.stderr
    assert "answered otherwise than by the idle service" in done.stderr
