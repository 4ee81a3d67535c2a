"""What the load tests' tests share."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from loadtest import processes

ROOT = Path(__file__).parents[2]
LOCUST = Path(sys.executable).with_name("locust")
FILES = f"{ROOT / 'loadtest/locustfile.py'},{Path(__file__).with_name('until.py')}"


@pytest.fixture
def samples(jpeg, tmp_path) -> Path:
    """A folder with one photograph."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "cell.jpg").write_bytes(jpeg)
    return folder


@pytest.fixture(scope="session")
def gateway(model_server) -> Iterator[str]:
    """URL of a gateway over the tiny model that refuses nobody, however busy this machine is."""
    with processes.gateway(model_server, **processes.PATIENT) as running:
        yield running.address


@pytest.fixture(scope="session")
def nobody() -> str:
    """URL where nothing listens."""
    return f"http://127.0.0.1:{unused_port()}"


@pytest.fixture(scope="session")
def unready(nobody) -> Iterator[str]:
    """URL of a gateway without a model server."""
    with processes.gateway(nobody.removeprefix("http://")) as running:
        yield running.address


@pytest.fixture(scope="session")
def guarded(model_server, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """URL of a gateway that wants a key, and the key."""
    making = [sys.executable, "-m", "gateway.cli", "key", "sre"]
    made = subprocess.run(making, cwd=ROOT, capture_output=True, text=True, check=True)
    (key,) = re.findall(r"hv_\S+", made.stderr)
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(made.stdout)
    with processes.gateway(model_server, KEYS_FILE=str(keys)) as running:
        yield running.address, key


@pytest.fixture
def locust(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Locust without a browser: it patches the whole process, so it has one of its own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(LOCUST, "-f", FILES, "--headless", "--only-summary"),
                *("--raw", tmp_path / "raw.csv", *map(str, arguments)),
            ],
            env=os.environ | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
