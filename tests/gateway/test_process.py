"""The gateway as a process of its own: what it loads, weighs and prints."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import ask, cli

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
        "('tensorflow', 'keras', 'tensorflow_serving', 'export', 'h5py', 'matplotlib')])"
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
    assert "internal-error" not in counted
    assert "Traceback" not in printed


def test_up_uses_a_model_server_that_runs_already(model_server, tmp_path):
    """It draws the samples, starts no server of its own, and ends with the address."""
    process = subprocess.Popen(
        [HEMAVISION, "up"],
        cwd=tmp_path,
        env=os.environ | {"HEMAVISION_PORT": "0", "HEMAVISION_MODEL_SERVER": model_server},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    ready = next(line for line in lines if line.startswith("Ready"))
    url = re.search(r"http://[\d.:]+", ready)[0]
    assert ask.check(url, "/readyz") == 0
    assert (tmp_path / "samples/neutrophil.png").is_file()
    assert not (tmp_path / "models").exists()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "stopped\n"
    assert process.returncode == 0


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


def test_classify_prints_for_a_person_and_writes_the_overlay(model_server, smear, tmp_path, capsys):
    """The result can be read, the overlay opened, and a bad file does not stop the others."""
    from PIL import Image

    good, bad = tmp_path / "cell.png", tmp_path / "bad.png"
    smear.save(good)
    bad.write_text("no picture")
    with gateway(MODEL_SERVER=model_server) as (_, url):
        status = cli.main(["classify", str(bad), str(good), "--url", url])
        assert cli.main(["check", "--url", url]) == 0
    printed = capsys.readouterr()
    assert status == 1
    assert "bad.png" in printed.err
    assert "JPEG" in printed.err
    for word in ("EOSINOPHIL", "NEUTROPHIL", "Normal range", "One cell is no percentage", "ms"):
        assert word in printed.out
    with Image.open(tmp_path / "cell.overlay.png") as overlay:
        assert overlay.size == smear.size


def test_a_reader_that_has_seen_enough_is_no_error(model_server, smear, tmp_path):
    """`classify ... | head` ends without a traceback."""
    for name in "abcd":
        smear.save(tmp_path / f"{name}.png")
    with gateway(MODEL_SERVER=model_server) as (_, url):
        process = subprocess.Popen(
            [HEMAVISION, "classify", *sorted(tmp_path.glob("*.png")), "--url", url],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0
        process.stderr.close()


def test_overlays_are_not_classified(tmp_path, smear, capsys):
    """`classify *.png` twice does not read what it wrote the first time."""
    smear.save(tmp_path / "cell.overlay.png")
    assert cli.main(["classify", str(tmp_path / "cell.overlay.png")]) == 0
    assert "left out" in capsys.readouterr().err


def test_classify_without_a_gateway_says_how_to_start_one(tmp_path, smear, capsys):
    """Status 2 and what to do."""
    smear.save(tmp_path / "cell.png")
    assert cli.main(["classify", str(tmp_path / "cell.png"), "--url", "http://127.0.0.1:1"]) == 2
    assert "make run" in capsys.readouterr().err
    assert cli.main(["check", "--url", "http://127.0.0.1:1"]) == 1


def test_a_share_never_rounds_to_certainty():
    """99.97 % is not shown as 100, and 0.02 % not as 0."""
    assert ask.percent(0.99971) == "> 99.9 %"
    assert ask.percent(0.0002) == "< 0.1 %"
    assert ask.percent(0.5) == "50.0 %"
