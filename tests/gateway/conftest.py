"""What the tests of the gateway as a process share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

HEMAVISION = Path(sys.executable).with_name("hemavision")

LIMITS = {
    "MAX_BYTES": "300000",
    "MAX_PIXELS": "500000",
    "MAX_BATCH_BYTES": "600000",
    "MAX_PARTS": "5",
    "DEADLINE": "1.5",
}


class Running(NamedTuple):
    """A gateway that listens: its address, and its process."""

    url: str
    process: subprocess.Popen

    def printed(self) -> str:
        """Stop it, and return all that it printed."""
        self.process.terminate()
        return "".join(self.process.communicate(timeout=20))


class Served(NamedTuple):
    """Where it listens, and the file with what it wrote on standard error."""

    host: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """`hemavision serve` on a free port with these settings, stopped in the end."""
    started = []

    def start(*arguments: str, **settings: object) -> Running:
        variables = {f"HEMAVISION_{name}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [HEMAVISION, "serve", *arguments],
            env=os.environ | {"HEMAVISION_PORT": "0", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return Running(line.split()[-1], process)

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=20)


@pytest.fixture
def refused() -> Callable[..., str]:
    """What `hemavision serve` says that cannot start with these settings."""

    def run(*arguments: str, **settings: object) -> str:
        variables = {f"HEMAVISION_{name}": str(value) for name, value in settings.items()}
        done = subprocess.run(
            [HEMAVISION, *(arguments or ["serve"])],
            env=os.environ | {"HEMAVISION_PORT": "0", **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="session")
def served(model_server, tmp_path_factory) -> Iterator[Served]:
    """`hemavision serve` with ``LIMITS``, one for the whole run."""
    log = tmp_path_factory.mktemp("served") / "log"
    settings = LIMITS | {"PORT": "0", "MODEL_SERVER": model_server}
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [HEMAVISION, "serve"],
            env=os.environ | {f"HEMAVISION_{name}": value for name, value in settings.items()},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        line = process.stdout.readline()
        assert line, log.read_text()
        host, port = line.rsplit("/", 1)[1].split(":")
        yield Served(host, int(port), log)
        process.terminate()
