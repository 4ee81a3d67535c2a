"""Start things and stop them again: the gateway alone, or everything on one machine.

On one machine the model server is a process of its own, `python -m export serve`, as it would
be a container in production; this process never imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from aiohttp import web

from gateway.app import create_app
from gateway.contract import MODEL_NAME
from gateway.errors import HemaVisionError, ModelUnavailable, SettingsError
from gateway.model_client import ModelClient
from gateway.settings import Settings

_STOP_SECONDS = 10.0


class StepFailed(HemaVisionError):
    """A step failed, or the model server ended; the message ends with what it printed."""


async def serve(settings: Settings) -> int:
    """Run the gateway until SIGINT, SIGTERM or SIGHUP."""
    with closing(_listen(settings)) as listening:
        stop = _stop_event()
        async with _gateway(settings, listening):
            print(f"listening on {_url(listening)}", flush=True)
            await stop.wait()
    return 0


async def up(settings: Settings, own_server: bool, models: Path, samples: Path) -> int:
    """Draw samples, export the model where needed, start model server and gateway, wait.

    With ``own_server`` false, ``settings.model_server`` names one that runs already.

    Raises:
        StepFailed, SettingsError: a step failed; what was started is stopped again.
    """
    with closing(_listen(settings)) as listening:
        stop = _stop_event()
        running = asyncio.create_task(_run(settings, own_server, models, samples, listening))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        running.cancel()  # ready or not: what was started is stopped in reverse order
        try:
            await running
        except asyncio.CancelledError:
            print(f"{_LINE_START}stopped", flush=True)
    return 0


async def _run(
    settings: Settings,
    own_server: bool,
    models: Path,
    samples: Path,
    listening: socket.socket,
) -> None:
    await _step("drawing sample pictures", "draw", str(samples))
    async with _model_server(own_server, models) as server:
        if server is not None:
            settings = dataclasses.replace(settings, model_server=server.address, models=models)
        await _wait_for_model(settings)
        async with _gateway(settings, listening):
            url = _url(listening)
            print(
                f"Ready: open {url} or send a picture: "
                f"curl -F file=@{samples}/neutrophil.png {url}/v1/classify",
                flush=True,
            )
            await (server.end() if server is not None else asyncio.Event().wait())


@dataclasses.dataclass(frozen=True)
class _ModelServer:
    """The local model server's process and its host:port."""

    process: Process
    address: str
    log: IO[bytes]

    async def end(self) -> None:
        status = await self.process.wait()
        message = f"the model server ended with status {status}:\n{_tail(self.log)}"
        raise StepFailed(message)


@asynccontextmanager
async def _model_server(own_server: bool, models: Path) -> AsyncIterator[_ModelServer | None]:
    """Export where needed, start the local model server, and stop it in the end."""
    if not own_server:
        yield None
        return
    await _step("exporting the model", "saved-model", "--if-needed", "--models", str(models))
    with TemporaryFile() as log:
        process = await _start(
            *("serve", "--address", "127.0.0.1:0", "--models", str(models), "--until-eof"), log=log
        )
        try:
            async with _progress("starting the model server"):
                server = _ModelServer(process, await _first_line(process), log)
                if not server.address:
                    await server.end()
            yield server
        finally:
            await _stop(process)


async def _wait_for_model(settings: Settings) -> None:
    model = ModelClient(settings.model_server, timeout=2.0)
    try:
        async with _progress(f"waiting for the model at {settings.model_server}"):
            deadline = time.monotonic() + 60
            while True:
                try:
                    await model.available_version()
                except ModelUnavailable as error:
                    if time.monotonic() > deadline:
                        raise StepFailed(
                            f"no model answers at {settings.model_server}: is TensorFlow Serving "
                            f"running there, with a model named {MODEL_NAME}?"
                        ) from error
                    await asyncio.sleep(0.2)
                else:
                    return
    finally:
        await model.close()


@asynccontextmanager
async def _gateway(settings: Settings, listening: socket.socket) -> AsyncIterator[None]:
    runner = web.AppRunner(create_app(settings), access_log=None, shutdown_timeout=_STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()


def _listen(settings: Settings) -> socket.socket:
    """Take the port before the slow steps, so that a taken one is told at once.

    It is bound and not listening: until the service is ready, clients are refused and not kept.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        reason = os.strerror(error.errno) if error.errno else error
        raise SettingsError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}. "
            "Choose another with HEMAVISION_HOST and HEMAVISION_PORT."
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:  # started with nohup
            continue
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _step(title: str, *arguments: str) -> None:
    with TemporaryFile() as log:
        process = await _start(*arguments, log=log)
        try:
            async with _progress(title):
                if await process.wait() != 0:
                    raise StepFailed(f"{title} failed:\n{_tail(log)}")
        finally:
            await _stop(process)


async def _start(*arguments: str, log: IO[bytes]) -> Process:
    # a session of its own: Ctrl-C in the terminal reaches this process alone, which then stops
    # its children in the right order; and a pipe that ends should this process be killed
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "export", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=log, start_new_session=True,
    )  # fmt: skip


async def _first_line(process: Process) -> str:
    assert process.stdout is not None  # it is a pipe
    return (await process.stdout.readline()).decode().strip()


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: IO[bytes], lines: int = 12) -> str:
    log.seek(0)
    return b"\n".join(log.read().splitlines()[-lines:]).decode(errors="replace")


@asynccontextmanager
async def _progress(title: str) -> AsyncIterator[None]:
    """Show that something is going on, and how long it took."""
    started = time.monotonic()
    ticking = asyncio.create_task(_tick(title, started))
    try:
        yield
    except BaseException:
        print(flush=True)  # what comes next begins a line of its own
        raise
    finally:
        ticking.cancel()
    print(f"{_LINE_START}{title}: {time.monotonic() - started:.1f} s", flush=True)


async def _tick(title: str, started: float) -> None:
    while sys.stdout.isatty():
        print(f"{_LINE_START}{title} … {time.monotonic() - started:.0f} s", end="", flush=True)
        await asyncio.sleep(0.5)


_LINE_START = "\r\x1b[K" if sys.stdout.isatty() else ""
