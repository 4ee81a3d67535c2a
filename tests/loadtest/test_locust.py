"""Locust against a real gateway: each kind of user, and every status that it can end with."""

import asyncio
import json
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from loadtest import processes
from loadtest import samples as raw
from loadtest.samples import RIGHT

PATIENT = ["--p99-ms", "100000", "--late-ms", "100000"]  # how fast it is here is no matter
SECONDS = "10s"  # from the start of the test, on a machine that may have other work
MINUTE = ["--run-time", "60s", "--think", 0.01]  # at most: until.py ends it before


def test_each_user_is_answered_rightly(locust, gateway, model_server, samples, tmp_path):
    """Three of each or more, of 100; all are in the raw data, with the server's account of them."""
    users = ["Interactive", "Explain", "Batch", "ModelServer"]
    load = ["--photographs", samples, "--users", 4, "--model-server", model_server, *MINUTE]
    until = ["--until", "interactive,explain,of 4,model server"]
    done = locust(*users, "--host", gateway, *load, *until, *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = raw.read(tmp_path / "raw.csv")
    assert f"Objective met: {len(kept)} requests" in done.stdout
    assert {sample.outcome for sample in kept} == {RIGHT}
    named = {sample.name for sample in kept}
    assert named >= {"interactive", "explain", "model server"}
    assert named & {"batch of 4", "differential of 4"}
    of_gateway = [sample for sample in kept if sample.name != "model server"]
    assert all("predict" in sample.stages() for sample in of_gateway)


def test_an_open_loop_sends_by_its_own_clock(locust, gateway, samples, tmp_path):
    """Mixed work in steps, with a report and plots: no user waits for another's answer."""
    load = ["--photographs", samples, "--users", 30, "--run-time", SECONDS, "--loop", "open"]
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
    load = ["--photographs", samples, "--users", 4, *MINUTE, "--until", "interactive"]
    port = unused_port()  # Locust's own may be another test's, whose workers would come here
    workers = ["--processes", 2, "--master-bind-port", port, "--master-port", port]
    done = locust("--host", gateway, *workers, *load, *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers connected" in done.stderr
    (counted,) = re.findall(r"Objective met: (\d+) requests", done.stdout)
    assert int(counted) == len(raw.read(tmp_path / "raw.csv")) > 0


def test_a_missed_objective_ends_with_1(locust, gateway, samples):
    """No gateway answers within a hundredth of a millisecond."""
    load = ["--photographs", samples, *MINUTE, "--until", "interactive"]
    done = locust("Interactive", "--host", gateway, *load, "--p99-ms", 0.01)
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]  # below Locust's tables
    assert told.startswith("Objective missed: ")
    assert "requests of interactive took longer than 0.01 ms for each photograph" in told


def test_series_do_not_collide(locust, model_server, samples):
    """Six programs at one address, where a gateway counts one series of a client at a time."""
    patient = {**processes.PATIENT, "CLIENT_SHARE": "0.5", "MAX_IN_FLIGHT": "2"}
    with processes.gateway(model_server, **patient) as running:
        load = ["--photographs", samples, "--users", 6, *MINUTE, "--until", "differential of 4"]
        done = locust("Batch", "--host", running.address, *load, *PATIENT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_to_load_ends_with_2(locust, nobody, samples):
    """Nobody there: one sentence."""
    done = locust("--host", nobody, "--photographs", samples)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "locust" not in line]
    assert told.startswith(f"No gateway can be reached at {nobody} ")


def test_no_photographs_end_with_2(locust, gateway, tmp_path):
    """An empty folder: one sentence."""
    done = locust("--host", gateway, "--photographs", tmp_path)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "locust" not in line]
    assert told.startswith(f"no photograph in {tmp_path}")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--most", 0], "argument --most: '0' is no whole number from 1 on"),
        (["--users", 0], "argument -u/--users: '0' is no whole number from 1 on"),
        (["--think", -1], "argument --think: '-1' is no number from 0 on"),
        (["--late-ms", -1], "argument --late-ms: '-1' is no number from 0 on"),
        (["--p99-ms", 0], "argument --p99-ms: '0' is no number above 0"),
        (["Interactiv"], "'Interactiv' is no user; those are Interactive, Explain, Batch, Mixed,"),
    ],
)
def test_what_makes_no_sense_ends_with_2(given, told, locust, nobody):
    """One sentence, before anybody is asked."""
    done = locust("--host", nobody, *given)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line]
    assert told in said


def test_no_model_server_ends_with_2(locust, nobody, samples):
    """One sentence, with how to have one at a known port."""
    there = nobody.removeprefix("http://")
    done = locust("ModelServer", "--model-server", there, "--photographs", samples)
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "locust" not in line]
    assert told.startswith(f"No model server can be reached at {there} (Connection refused): ")
    assert "HEMAVISION_MODEL_SERVER=" in told


@pytest.mark.parametrize("option", ["--raw", "--html", "--plots"])
def test_what_cannot_be_written_is_told_before_anything_is_sent(option, locust, gateway, samples):
    """No test of eight hours for nothing: a sentence and status 2."""
    load = ["--photographs", samples, *MINUTE, "--until", "interactive", *PATIENT]
    done = locust("Interactive", "--host", gateway, *load, option, samples / "cell.jpg/there")
    assert done.returncode == 2
    assert "cell.jpg" in done.stderr
    assert "cannot be made, to write into" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_key_is_taken_from_the_environment(locust, guarded, samples):
    """As `hemavision classify` takes it."""
    url, key = guarded
    load = ["--photographs", samples, *MINUTE, "--until", "interactive", *PATIENT]
    done = locust("Interactive", "--host", url, *load, HEMAVISION_KEY=key)
    assert done.returncode == 0, done.stdout + done.stderr


ANSWER = {"prediction": "EOSINOPHIL", "confidence": 0.9}


def service(classify):
    """A service that is ready, and classifies by ``classify``."""

    async def well(request):
        return web.Response(text="{}")

    app = web.Application()
    app.add_routes(
        [web.get("/readyz", well), web.get("/v1/model", well), web.post("/v1/classify", classify)]
    )
    return TestServer(app)


async def loaded(locust, server, samples):
    """One person's work."""
    given = ["Interactive", "--host", str(server.make_url("")), "--photographs", samples]
    load = [*MINUTE, "--until", "interactive", *PATIENT]
    return await asyncio.to_thread(locust, *given, *load)


async def test_a_wrong_answer_and_a_5xx_end_with_1(locust, samples):
    """A service that says something else under load than before, or fails."""
    asked = 0

    async def classify(request):
        nonlocal asked
        asked += 1
        if asked == 3:
            raise web.HTTPInternalServerError
        shares = {"EOSINOPHIL": 0.9 if asked == 1 else 0.1}
        return web.Response(text=json.dumps(ANSWER | {"probabilities": shares}))

    async with service(classify) as server:
        done = await loaded(locust, server, samples)
    assert done.returncode == 1
    assert "1 of " in done.stderr
    assert "requests of interactive were answered with 500." in done.stderr
    assert "answered otherwise than by the idle service" in done.stderr


async def test_a_reply_that_breaks_off_ends_with_1(locust, samples, tmp_path):
    """Closed before a reply, within it, or no HTTP at all: each is counted, and asking goes on."""
    broken = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"?"]
    asked = 0

    async def classify(request):
        nonlocal asked
        asked += 1
        if asked != 1:
            request.transport.write(broken[asked % 3])
            request.transport.close()
        return web.Response(text=json.dumps(ANSWER | {"probabilities": {"EOSINOPHIL": 0.9}}))

    async with service(classify) as server:
        done = await loaded(locust, server, samples)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "requests of interactive got no answer: HTTP" in done.stderr
    assert "Traceback" not in done.stderr
    kept = raw.read(tmp_path / "raw.csv")
    assert len(kept) == asked - 1
    assert all(sample.outcome.startswith("HTTP") for sample in kept)
