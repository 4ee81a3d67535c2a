"""What becomes of requests when parts of the service stop under load."""

import asyncio
import csv
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from loadtest import drain, hostile, outage, photographs
from loadtest.steady import REFUSED, Reply, counts, steady_load


def table(printed: str) -> dict[str, list[int]]:
    """The counts of each phase."""
    rows = re.findall(r"^(before|down|back|before SIGTERM|after it) +(\d+) +(\d+) +(\d+)(.*)$",
                      printed, re.MULTILINE)  # fmt: skip
    return {name: [int(count) for count in counted] for name, *counted, _ in rows}


def test_a_dead_model_server_costs_503_and_nothing_else(samples, tiny_models, capsys):
    """Answered before, refused while it is away, answered again once it is back."""
    given = ["--photographs", str(samples), "--models", str(tiny_models), "--seconds", "1"]
    assert outage.main(given) == 0
    phases = table(capsys.readouterr().out)
    assert [phase[2] for phase in phases.values()] == [0, 0, 0]
    assert phases["before"][0] > 0
    assert phases["down"][1] > 0
    assert phases["back"][0] > 0


def test_a_gateway_that_is_told_to_stop_loses_no_request(samples, model_server, capsys):
    """What was sent is answered; refusals come after the drain; it ends with status 0."""
    given = ["--photographs", str(samples), "--model-server", model_server, "--seconds", "1"]
    assert drain.main(given) == 0
    phases = table(capsys.readouterr().out)
    assert phases["before SIGTERM"][0] > 0
    assert phases["after it"][2] > 0


def test_hostile_requests_leave_the_others_answered(samples, tiny_models, capsys, tmp_path):
    """All good ones before and after are answered, and what is hostile is no fault of ours."""
    given = ["--photographs", str(samples), "--models", str(tiny_models), "--rounds", "1"]
    assert hostile.main([*given, "--raw", str(tmp_path / "times.csv")]) == 0
    printed = capsys.readouterr().out
    for phase in ("before", "after"):
        assert re.search(rf"^\| {phase} +\| +1 \| +1 \|", printed, re.MULTILINE)
    with (tmp_path / "times.csv").open() as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if row["what"] == "a good photograph"]
    assert [row["phase"] for row in good] == ["before", "while", "after"]
    others = [row for row in rows if row not in good]
    assert "400" in {row["status"] for row in others}
    assert {row["phase"] for row in others} == {"while"}


@pytest.mark.parametrize(
    ("reply", "sentences"),
    [
        (hostile.Reply(0, "before", "a good photograph", "500", 1.0), 1),
        (hostile.Reply(0, "while", "a good photograph", "503", 1.0), 0),
        (hostile.Reply(0, "while", "noise", "500", 1.0), 1),
        (hostile.Reply(0, "while", "noise", "422", 1.0), 0),
    ],
)
def test_what_hostile_requests_may_not_do_is_told(reply, sentences):
    """Cost a good photograph its answer, or get another 5xx than 503."""
    assert len(hostile.missed([reply])) == sentences


def test_a_folder_without_photographs_is_told(tmp_path, capsys):
    """With the command that draws some, and status 2."""
    with pytest.raises(SystemExit) as ended:
        photographs.named(tmp_path, most=1)
    assert ended.value.code == 2
    assert "export draw" in capsys.readouterr().err


def test_outcomes_are_counted_by_name():
    """Those named, then all others."""
    replies = [Reply(outcome, 0, 0) for outcome in ("200", "200", "503", "415", "lost")]
    assert counts(replies, "200", "503", REFUSED) == (2, 1, 0, 2)


async def test_the_load_tells_lost_from_refused():
    """A connection that breaks off is no refusal, and neither ends the load."""

    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hang_up)
    async with TestServer(app) as server, asyncio.timeout(20):
        for url, outcome in (
            (str(server.make_url("/")), "ServerDisconnectedError"),
            (f"http://127.0.0.1:{unused_port()}", REFUSED),
        ):
            async with steady_load(url, [b"x"], rate=100) as replies:
                while len(replies) < 3:  # noqa: ASYNC110  # a plain list
                    await asyncio.sleep(0.01)
            assert {reply.outcome for reply in replies} <= {outcome, "ClientOSError"}
            assert replies[0].outcome == outcome
