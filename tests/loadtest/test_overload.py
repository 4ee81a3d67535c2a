"""More than the service can do: what is counted, and when it is missed."""

import asyncio
import csv
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest import overload
from loadtest.overload import CLOSED, Demands, Outcome
from loadtest.samples import RIGHT, WRONG


def outcome(load=4.0, ms=20.0, outcome=RIGHT, retry_after=None, late_ms=1.0):
    return Outcome(0, load, 0.5, late_ms, ms, outcome, retry_after)


def refusal(ms=5.0, retry_after=1.0):
    return outcome(ms=ms, outcome="503", retry_after=retry_after)


def judged(*outcomes):
    """The status for a second of each load; ten in time at the closed loop."""
    seen = [*[outcome(CLOSED)] * 10, *outcomes]
    loads = overload.figures(seen, 200.0, seconds=1.0)
    return overload._judge(Demands(), seen, loads, overload._unusable(seen, loads))


def test_a_service_that_keeps_its_goodput_misses_nothing():
    """Nine of ten in time, and quick refusals that say when to come back."""
    assert judged(*[outcome()] * 9, *[refusal()] * 30) == 0


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        ([outcome()] * 8, "8.0 photographs a second were answered in time, 0.80 of the best"),
        ([*[outcome()] * 9, outcome(ms=300)], "1 % of the answers took 300 ms"),
        ([*[outcome()] * 9, refusal(ms=150)], "1 % of the refusals took 150 ms"),
        ([*[outcome()] * 9, refusal(retry_after=None)], "1 refusals have no Retry-After"),
        ([*[outcome()] * 9, outcome(outcome=WRONG)], "1 answers differ"),
        ([*[outcome()] * 9, outcome(outcome="500")], "neither an answer nor a refusal: 500"),
        ([*[outcome()] * 9, outcome(outcome="0")], "neither an answer nor a refusal: no answer"),
    ],
)
def test_each_miss_has_its_sentence(outcomes, sentence, capsys):
    """What is late is no goodput; nothing but an answer and a refusal is right under any load."""
    assert judged(*outcomes) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("Objective missed: ")
    assert sentence in told


@pytest.mark.parametrize(("in_time", "status"), [(11, 0), (12, 2)])
def test_a_capacity_that_was_measured_too_low_proves_nothing(in_time, status, capsys):
    """More than a tenth over it was answered: the loads are no multiples of it, status 2."""
    assert judged(*[outcome()] * in_time) == status
    told = capsys.readouterr().err
    assert ("measured too low: 10.0 photographs a second" in told) is (status == 2)


def test_a_late_sender_proves_nothing_and_tells_what_was_missed(capsys):
    """Status 2: it may have been the load generator's fault."""
    assert judged(*[outcome(late_ms=50.0)] * 9, refusal(ms=150)) == 2
    late, missed = capsys.readouterr().err.splitlines()
    assert "could not keep up" in late
    assert missed.startswith("Missed too, though these figures prove nothing: ")
    assert "1 % of the refusals took 150 ms" in missed


def test_only_what_proves_something_is_recorded():
    """Figures that prove nothing are kept as the latest alone, whatever the status."""
    given = overload._arguments(["--record"])
    kept, raw, plot = overload._files(given, proven=True)
    assert (kept, raw.name, plot.name) == (True, "overload.csv", "overload.png")
    assert overload._files(given, proven=False) == (False, given.raw, None)
    assert overload._files(overload._arguments([]), proven=True) == (False, given.raw, None)
    seen = [*[outcome(CLOSED)] * 10, *[outcome(outcome=WRONG, late_ms=50.0)] * 10]
    assert overload._unusable(seen, overload.figures(seen, 200.0, seconds=1.0))


def test_late_answers_are_answers_to_a_capacity_too(capsys):
    """What came too late for goodput shows all the same that the capacity was too low."""
    assert judged(*[outcome()] * 10, *[outcome(ms=500.0)] * 2) == 2
    assert "and 12.0 were answered in an open one" in capsys.readouterr().err


@pytest.mark.parametrize("what", [WRONG, "500", "0"])
def test_a_late_sender_hides_nothing_that_no_load_excuses(what, capsys):
    """Status 1, and both sentences."""
    assert judged(*[outcome(late_ms=50.0)] * 9, outcome(late_ms=50.0, outcome=what)) == 1
    late, missed = capsys.readouterr().err.splitlines()
    assert "could not keep up" in late
    assert missed.startswith("Objective missed: ")


async def test_a_service_that_answers_nothing_under_load_is_no_service_to_overload(
    samples, tmp_path, capsys
):
    """There is no capacity to offer a multiple of."""
    asked = 0

    async def classify(request):
        nonlocal asked
        asked += 1
        if asked > 1:
            raise web.HTTPServiceUnavailable
        said = {"prediction": "EOSINOPHIL", "confidence": 0.9, "probabilities": {"EOSINOPHIL": 0.9}}
        return web.Response(text=json.dumps(said))

    async def well(request):
        return web.Response(text="{}")

    app = web.Application()
    app.add_routes(
        [web.get("/readyz", well), web.get("/v1/model", well), web.post("/v1/classify", classify)]
    )
    async with TestServer(app) as server:
        given = ["--photographs", str(samples), "--host", str(server.make_url(""))]
        times = ["--rounds", "1", "--seconds", "0.1", "--raw", str(tmp_path / "raw.csv")]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(overload.main, [*given, *times])
    assert ended.value.code == 2
    assert "only by: 503" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["MAX_IN_FLIGHT", "=8", ""])
def test_a_setting_without_name_or_value_is_told(setting, capsys):
    """Before anything is started."""
    with pytest.raises(SystemExit) as ended:
        overload.main(["--set", setting])
    assert ended.value.code == 2
    assert f"argument --set: {setting!r} is no NAME=VALUE" in capsys.readouterr().err


def test_a_real_gateway_is_overloaded(gateway, samples, tmp_path, capsys):
    """Closed loop, then four open ones; every request is written, and it is drawn."""
    plenty = ["--goodput", "0.01", "--accepted-ms", "60000", "--refused-ms", "60000"]
    given = ["--rounds", "1", "--seconds", "0.5", *plenty]
    files = ["--raw", str(tmp_path / "raw.csv"), "--plot", str(tmp_path / "plot.png")]
    status = overload.main(["--photographs", str(samples), "--host", gateway, *given, *files])
    told = capsys.readouterr()
    assert status in {0, 2}, told.err  # a busy machine may make the sender late
    rows = list(csv.DictReader((tmp_path / "raw.csv").read_text().splitlines()))
    assert {float(row["load"]) for row in rows} == {CLOSED, *overload.FACTORS}
    assert {row["outcome"] for row in rows} <= {RIGHT, "503"}
    assert (tmp_path / "plot.png").stat().st_size > 0
    header, _, *table = told.out.splitlines()
    assert f"plot: {tmp_path / 'plot.png'}" in table
    names = [name.strip() for name in header.strip("|").split("|")]
    assert len(set(names)) == len(names)
    assert any(row.startswith("| 4 x") for row in table)


def test_nothing_to_overload_ends_with_2(nobody, samples, capsys):
    """One sentence."""
    with pytest.raises(SystemExit) as ended:
        overload.main(["--photographs", str(samples), "--host", nobody])
    assert ended.value.code == 2
    assert "No gateway can be reached" in capsys.readouterr().err
