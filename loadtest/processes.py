"""The model server and the gateway as processes of their own, as they run in production."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.refusal import refuse

PATIENT = {"CLIENT_SHARE": "1", "MAX_WAITING": "1000", "MAX_WAIT": "60", "DEADLINE": "60"}
"""Settings of a gateway that refuses nobody as too many or too late: a rate that leaves out who was
refused is no rate of the same clients."""


@dataclass(frozen=True)
class Part:
    """A running part, and where it listens: host:port, or a URL."""

    process: subprocess.Popen[str]
    address: str


def newest_version(models: Path) -> Path:
    """Return the newest version's folder under a model's base path.

    Raises:
        SystemExit: there is none.
    """
    found = [path for path in models.glob("*") if path.name.isdecimal() and path.is_dir()]
    if not found:
        refuse(f"no model in {models}: `python -m export saved-model --if-needed` makes one.")
    return max(found, key=lambda path: int(path.name))


@contextmanager
def model_server(address: str = "127.0.0.1:0", *, models: Path) -> Iterator[Part]:
    """Run the local model server.

    Raises:
        SystemExit: there is no model, for which it would wait for ever.
    """
    folder = newest_version(models).parent
    with _running("export", "serve", "--address", address, "--models", str(folder)) as part:
        yield part


@contextmanager
def served(address: str | None, models: Path) -> Iterator[str]:
    """Yield where a model server listens: one that runs already, or else a local one's."""
    if address is not None:
        yield address
        return
    with model_server(models=models) as part:
        yield part.address


@contextmanager
def gateway(model_server: str, **settings: str) -> Iterator[Part]:
    """Run the gateway on a free port; ``settings`` are without prefix: DRAIN="2"."""
    given = {"PORT": "0", "MODEL_SERVER": model_server} | settings
    environment = {f"HEMAVISION_{name}": value for name, value in given.items()}
    with _running("gateway.cli", "serve", **environment) as part:
        yield part


@contextmanager
def baseline(name: str, *arguments: str) -> Iterator[Part]:
    """Run one of ``loadtest.baselines`` on a free port, from when it is warm."""
    with _running(f"loadtest.baselines.{name}", *arguments) as part:
        yield part


@contextmanager
def together(*parts: AbstractContextManager[Part]) -> Iterator[list[Part]]:
    """Start parts that do not need one another at once: each imports for seconds."""
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(parts)) as pool:
            running = list(pool.map(stack.enter_context, parts))
        yield running


@contextmanager
def _running(module: str, *arguments: str, **environment: str) -> Iterator[Part]:
    """Run a module until its first line, whose last word is its address; stop it afterwards."""
    with tempfile.TemporaryFile("w+") as said:  # a pipe that nobody reads would fill
        process = subprocess.Popen(  # noqa: S603  # our own modules
            [sys.executable, "-m", module, *arguments],
            env={k: v for k, v in os.environ.items() if "HEMAVISION" not in k} | environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None  # it is a pipe
                line = process.stdout.readline()
                if not line:
                    said.seek(0)
                    refuse(f"{module} did not start: {_last_line(said.read())}")
                yield Part(process, line.split()[-1])
            finally:
                _stop(process)


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it said nothing; run it by hand to see why."


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
