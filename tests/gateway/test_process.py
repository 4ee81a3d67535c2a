"""The gateway as a process of its own: what it loads, weighs and prints."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from export.local_server import LocalServer
from gateway import cli
from gateway.keys import make_key

HEMAVISION = Path(sys.executable).with_name("hemavision")
MEGABYTE = 1024


@contextmanager
def gateway(**environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run `hemavision serve` on a free port; yield the process and its address."""
    variables = {f"HEMAVISION_{name}": value for name, value in environment.items()}
    process = subprocess.Popen(
        [HEMAVISION, "serve"],
        env=os.environ | {"HEMAVISION_PORT": "0", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_importing_the_gateway_loads_no_tensorflow():
    """Nor Keras, nor the exporter: the gateway runs where they are not installed."""
    code = (
        "import sys, gateway.cli, gateway.up\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('tensorflow', 'keras', 'tensorflow_serving', 'export', 'h5py', 'matplotlib', "
        "'opentelemetry')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_process_stays_under_150_mb(model_server, jpeg):
    """After a hundred photographs with overlays, at its highest."""
    with gateway(MODEL_SERVER=model_server) as (process, url):
        for _ in range(100):
            request = urllib.request.Request(
                f"{url}/v1/classify", jpeg, {"Content-Type": "image/jpeg"}
            )
            with urllib.request.urlopen(request, timeout=20) as response:
                assert response.status == 200
        status = Path(f"/proc/{process.pid}/status").read_text()
    highest = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert highest < 150 * MEGABYTE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(model_server, number):
    """Status 0 and no traceback."""
    with gateway(MODEL_SERVER=model_server) as (process, _):
        process.send_signal(number)
        _, printed = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in printed


def answer_status(url: str) -> int:
    """The status with which a GET is answered."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def unreachable(address: tuple[str, int]) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it ceases in this very moment: the next one will be refused
        pass
    return False


def wait_until(happens: Callable[[], bool]) -> None:
    """Ask again and again, half a minute at most."""
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline


def test_it_serves_on_while_it_drains_and_a_second_signal_ends_it(model_server, jpeg):
    """Not ready, yet answering, and closing each connection; then it is gone at once."""
    with gateway(MODEL_SERVER=model_server, DRAIN="600") as (process, url):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: answer_status(f"{url}/readyz") == 503)
        request = urllib.request.Request(f"{url}/v1/classify", jpeg, {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
            assert response.headers["Connection"] == "close"
        assert answer_status(f"{url}/livez") == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM


def test_what_is_in_flight_is_finished(model_server, jpeg):
    """A photograph that is half here when nobody new is let in gets its answer."""
    with gateway(MODEL_SERVER=model_server, DRAIN="0", DEADLINE="60") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(jpeg)}\r\n\r\n".encode())
            connection.sendall(jpeg[:100])
            assert answer_status(f"{url}/livez") == 200  # by now the server reads the upload
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: unreachable((host, int(port))))
            later = time.monotonic() + 1.0  # longer than idle connections are given
            wait_until(lambda: time.monotonic() > later)
            connection.sendall(jpeg[100:])
            with connection.makefile("rb") as reply:
                answered = reply.read()
        assert answered.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in answered
        assert process.wait(timeout=20) == 0


def test_a_client_that_goes_away_is_no_fault_of_ours(model_server):
    """An upload that breaks off is counted as such: no traceback, no internal error."""
    with gateway(MODEL_SERVER=model_server) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            connection.sendall(f"{head}Content-Length: 5000\r\n\r\nabc".encode())
            urllib.request.urlopen(f"{url}/livez").close()  # by now the server reads the upload
        deadline = time.monotonic() + 10
        counted = ""
        while 'status="499"' not in counted and time.monotonic() < deadline:
            with urllib.request.urlopen(f"{url}/metrics") as response:
                counted = response.read().decode()
        process.terminate()
        _, printed = process.communicate(timeout=20)
    assert 'status="499"' in counted
    assert 'hemavision_errors_total{problem="internal-error"} 0.0' in counted
    assert "Traceback" not in printed


def test_the_log_of_serve_is_json_lines(model_server, jpeg):
    """Each line on standard error, whatever wrote it; the level is a setting."""
    with gateway(MODEL_SERVER=model_server, LOG_LEVEL="debug") as (process, url):
        headers = {"Content-Type": "image/jpeg"}
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/classify", jpeg, headers)).close()
        urllib.request.urlopen(f"{url}/livez").close()
        process.terminate()
        _, printed = process.communicate(timeout=20)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    routes = [line["route"] for line in lines if line["logger"] == "gateway.access"]
    assert routes == ["/v1/classify", "/livez"]
    assert any(line["logger"] == "asyncio" for line in lines)


def test_spans_reach_a_collector(model_server, jpeg, monkeypatch):
    """OTLP over HTTP, where the standard's variable says, all of them before the process ends."""
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with gateway(MODEL_SERVER=model_server) as (_, url):
            headers = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"{url}/v1/classify", jpeg, headers)
            urllib.request.urlopen(request).close()
        collector.shutdown()
    assert {path for path, _ in received} == {"/v1/traces"}
    resources = [resource for _, sent in received for resource in sent.resource_spans]
    names = [s.name for r in resources for scope in r.scope_spans for s in scope.spans]
    assert sorted(names) == sorted(
        ["POST /v1/classify", "read", "wait", "prepare", "predict", "explain"]
    )
    attributes = {a.key: a.value.string_value for r in resources for a in r.resource.attributes}
    assert attributes["service.name"] == "hemavision"


@pytest.mark.parametrize("listens", [True, False])
def test_a_collector_that_is_away_holds_up_nothing(monkeypatch, listens):
    """Whether it refuses or is silent: requests are answered, and the process ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if listens else 1
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")  # so that waiting would be seen
        with gateway() as (process, url):
            with urllib.request.urlopen(f"{url}/livez") as response:
                assert response.status == 200
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0


@contextmanager
def up(folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Run `hemavision up` in a folder, on a free port, and stop it."""
    variables = {f"HEMAVISION_{name}": value for name, value in environment.items()}
    process = subprocess.Popen(
        [HEMAVISION, "up"],
        cwd=folder,
        env=os.environ | {"HEMAVISION_PORT": "0", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def line_with(beginning: str, process: subprocess.Popen) -> str:
    """The next line that begins so."""
    lines = iter(process.stdout.readline, "")
    return next(line for line in lines if line.startswith(beginning))


def test_up_uses_a_model_server_that_runs_already(model_server, tmp_path):
    """It draws the samples, starts no server of its own, and ends with the address."""
    with up(tmp_path, MODEL_SERVER=model_server) as process:
        url = re.search(r"http://[\d.:]+", line_with("Ready", process))[0]
        assert cli.main(["check", "--url", url]) == 0
        assert (tmp_path / "samples/neutrophil.jpg").is_file()
        assert not (tmp_path / "models").exists()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "stopped\n"
        assert process.returncode == 0


@pytest.mark.parametrize("locked", [False, True])
def test_up_ends_with_a_command_that_works(model_server, tmp_path, locked):
    """At an address that can be asked, with a key where one is needed, and without base64."""
    settings = {"HOST": "0.0.0.0", "INSECURE": "true"}
    if locked:
        (tmp_path / "keys").write_text(make_key("a")[1])
        settings |= {"INSECURE": "false", "KEYS_FILE": "keys"}
    with up(tmp_path, MODEL_SERVER=model_server, **settings) as process:
        words = shlex.split(line_with("Ready", process).partition("picture: ")[2])
    url = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/v1/classify\?heatmap=none", words.pop())
    key = ["-H", "Authorization: Bearer KEY"] if locked else []
    assert url
    assert words == ["curl", *key, "-F", "file=@samples/neutrophil.jpg"]


def test_up_tells_what_it_waits_for(tiny_models, tmp_path):
    """Once, with what to do; and again when it is there; and no log line besides."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with up(tmp_path, MODEL_SERVER=address) as process:
        told = line_with("no model answers", process)
        assert address in told
        assert "a model named hemavision?" in told
        with LocalServer("hemavision", tiny_models, address):
            assert process.stdout.readline() == f"a model answers at {address} now\n"
            line_with("Ready", process)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == ("stopped\n", "")


@pytest.mark.parametrize(
    "setting", ["MODELS", "MODEL_LABEL", "MODEL_TLS_CA", "MODEL_TLS_CERTIFICATE"]
)
def test_up_refuses_what_its_own_model_server_has_no_use_for(refused, tmp_path, setting):
    """Before anything is started, with both ways out."""
    (tmp_path / "file").touch()
    (tmp_path / "1").mkdir()  # a version
    value = {"MODELS": tmp_path, "MODEL_LABEL": "stable"}.get(setting, tmp_path / "file")
    said = refused("up", **{setting: value})
    assert f"HEMAVISION_{setting} would do nothing" in said
    assert "HEMAVISION_MODEL_SERVER" in said


def test_up_refuses_a_precision_for_a_server_that_is_not_its_own(refused):
    """That one was started with its own, and the refusal says how."""
    said = refused("up", MODEL_SERVER="127.0.0.1:1", MIXED_PRECISION="bfloat16")
    assert "HEMAVISION_MIXED_PRECISION would do nothing" in said
    assert "--mixed_precision=bfloat16" in said


def test_up_refuses_models_for_a_server_that_is_not_its_own(monkeypatch, capsys):
    """That one has its own folder."""
    monkeypatch.setenv("HEMAVISION_MODEL_SERVER", "127.0.0.1:1")
    with pytest.raises(SystemExit):
        cli.main(["up", "--models", "models"])
    assert "HEMAVISION_MODEL_SERVER names one" in capsys.readouterr().err


def test_up_says_what_its_options_are_for(capsys):
    """Each has a help text, and those that stand for a folder their default."""
    with pytest.raises(SystemExit):
        cli.main(["up", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("default: models/hemavision", "default: samples", "without API keys"):
        assert words in said


def test_a_taken_port_is_told(model_server):
    """One sentence that names the settings, status 2."""
    with gateway(MODEL_SERVER=model_server) as (_, url):
        run = subprocess.run(
            [HEMAVISION, "serve"],
            env=os.environ | {"HEMAVISION_PORT": url.rsplit(":", 1)[1]},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert run.returncode == 2
    assert "HEMAVISION_PORT" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_bad_setting_is_told(monkeypatch, capsys):
    """The console ends with status 2 and the sentence, not with a traceback."""
    monkeypatch.setenv("HEMAVISION_PORT", "eighty")
    assert cli.main(["serve"]) == 2
    assert "HEMAVISION_PORT='eighty': give a whole number from 0 to 65535." in (
        capsys.readouterr().err
    )
