"""The dependency audit of `make lint`, against a vulnerability database of the test's own."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiohttp.test_utils import unused_port

ROOT = Path(__file__).parents[1]
ADVISORY = {
    "id": "OSV-2000-1",
    "summary": "everything is wrong",
    "affected": [
        {
            "package": {"name": "aiohttp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
    ],
}


@contextmanager
def database(vulnerable: str, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A database that knows one vulnerable package; yield its address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer as OSV does."""
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(question["package"]["name"])
            known = {"vulns": [ADVISORY]} if asked[-1] == vulnerable else {}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(known).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        server.shutdown()
        thread.join()


def audit(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / ".ci/audit.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_vulnerable_version_fails():
    """With the package and the advisory in what is printed."""
    with database("aiohttp") as (address, _):
        done = audit(address)
    assert done.returncode == 1
    assert "aiohttp" in done.stdout
    assert "OSV-2000-1" in done.stdout


def test_every_locked_version_is_asked_about():
    """Those of this platform; nothing found, nothing wrong."""
    with database("nothing") as (address, asked):
        done = audit(address)
    assert done.returncode == 0, done.stderr
    locked = (ROOT / "constraints.txt").read_text().splitlines()
    everywhere = {line.split("==")[0] for line in locked if ";" not in line}
    assert everywhere <= set(asked)
    assert "NOT AUDITED" not in done.stderr


def test_a_database_that_is_away_is_told_and_stops_nobody():
    """Neither reachable nor well: the reader learns that nothing is known."""
    with database("aiohttp", status=503) as (address, _):
        ill = audit(address)
    away = audit(f"http://127.0.0.1:{unused_port()}/")
    for done in (ill, away):
        assert done.returncode == 0
        assert "NOT AUDITED" in done.stderr


def test_lint_audits():
    """So CI does."""
    assert ".ci/audit.py" in (ROOT / "Makefile").read_text()
