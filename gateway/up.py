"""Start things and stop them again: the gateway alone, or everything on one machine.

On one machine the model server is a process of its own, `python -m export serve`, as it would
be a container in production; this process never imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import shlex
import signal
import socket
import ssl
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from aiohttp import web

from gateway.app import LIFECYCLE, create_app
from gateway.breaker import Breaker
from gateway.contract import MODEL_NAME
from gateway.deadline import Deadline
from gateway.errors import HemaVisionError, ModelUnavailable, SettingsError
from gateway.lifecycle import Lifecycle
from gateway.middleware import HTTP_LOG
from gateway.model_client import ModelClient
from gateway.server import Runner
from gateway.settings import PREFIX, Settings
from gateway.telemetry import Recorder
from gateway.tls import channel_credentials, server_context

_STOP_SECONDS = 10.0
_LINGER_SECONDS = 0.5
_STEPS_TO_ACCEPT = 5
"""More turns of the loop than asyncio needs to make a connection of a socket that it accepted; it
drops those whose server is closed meanwhile."""
_PATIENCE = 60.0
"""Seconds for a model to be there."""
_OF_A_RUNNING_SERVER = (
    *("models", "model_label", "canary_label"),
    *("model_tls_ca", "model_tls_certificate", "model_tls_key"),
)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StepFailed(HemaVisionError):
    """A step failed, or the model server ended; the message ends with what it printed."""


async def serve(settings: Settings, *, recorder: Recorder | None = None) -> int:
    """Run the gateway until SIGINT, SIGTERM or SIGHUP, then finish what is under way.

    ``recorder`` is of the requests' spans.
    """
    with closing(_listen(settings)) as listening:
        _refuse_strangers(settings, listening)
        stop = _stop_event()
        async with _gateway(settings, listening, recorder):
            print(f"listening on {_url(settings, listening)}", flush=True)
            await stop.wait()
    return 0


async def up(
    settings: Settings,
    own_server: bool,
    models: Path,
    samples: Path,
    *,
    recorder: Recorder | None = None,
) -> int:
    """Draw samples, export the model where needed, start model server and gateway, wait.

    With ``own_server`` false, ``settings.model_server`` names one that runs already, and
    ``models`` plays no part.

    Raises:
        StepFailed, SettingsError: a step failed; what was started is stopped again.
    """
    _refuse_idle(settings, own_server)
    with closing(_listen(settings)) as listening:
        _refuse_strangers(settings, listening)
        _read_files(settings)
        stop = _stop_event()
        running = asyncio.create_task(
            _run(settings, own_server, models, samples, listening, recorder=recorder)
        )
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
    *,
    recorder: Recorder | None,
) -> None:
    await _step(f"drawing sample pictures into {samples}", "draw", str(samples))
    async with _model_server(own_server, models, settings.mixed_precision) as server:
        if server is not None:
            settings = dataclasses.replace(settings, model_server=server.address, models=models)
        await _wait_for_model(settings)
        async with _gateway(settings, listening, recorder):
            print(_ready(settings, listening, samples), flush=True)
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
async def _model_server(
    own_server: bool, models: Path, mixed_precision: str
) -> AsyncIterator[_ModelServer | None]:
    """Export where needed, start the local model server, and stop it in the end."""
    if not own_server:
        yield None
        return
    await _step("exporting the model", "saved-model", "--if-needed", "--models", str(models))
    with TemporaryFile() as log:
        precision = ("--mixed-precision", mixed_precision) if mixed_precision else ()
        process = await _start(
            *("serve", "--address", "127.0.0.1:0", "--models", str(models), "--until-eof"),
            *precision,
            log=log,
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
    credentials = channel_credentials(
        settings.model_tls_ca, settings.model_tls_certificate, settings.model_tls_key
    )
    server, never = settings.model_server, Breaker(sys.maxsize)  # there is nobody else to ask
    model = ModelClient(server, credentials=credentials, breaker=never)
    missing = (
        f"no model answers at {server}: is TensorFlow Serving running there, with a model named "
        f"{MODEL_NAME}?"
    )
    try:
        async with _progress(f"waiting for the model at {server}"):
            told, patience = False, Deadline.after(_PATIENCE)
            while not await _answers(model):
                if not patience.remaining():
                    raise StepFailed(missing)
                if not told:
                    print(f"{_LINE_START}{missing} Waiting up to {_PATIENCE:g} s.", flush=True)
                    told = True
                await asyncio.sleep(0.2)
            if told:
                print(f"{_LINE_START}a model answers at {server} now", flush=True)
    finally:
        await model.close()


async def _answers(model: ModelClient) -> bool:
    try:
        await model.available_version(Deadline.after(2.0))
    except ModelUnavailable:
        return False
    return True


@asynccontextmanager
async def _gateway(
    settings: Settings, listening: socket.socket, recorder: Recorder | None
) -> AsyncIterator[None]:
    tls = server_context(settings.tls_certificate, settings.tls_key)
    app = create_app(settings, recorder=recorder)
    runner = Runner(app, access_log=None, logger=HTTP_LOG, shutdown_timeout=_STOP_SECONDS)
    await runner.setup()
    gc.freeze()  # what stays for good need not be looked through again: 37 ms of CPU each time
    try:
        site = web.SockSite(runner, listening, ssl_context=tls)
        await site.start()
        try:
            yield
        finally:
            app[LIFECYCLE].stopping = True
            await asyncio.sleep(settings.drain)  # served on, while balancers hear of it
            last = await _accept_the_last(listening)
            await site.stop()
            await _make(last, runner, tls)
            await _quiet(runner, app[LIFECYCLE], Deadline.after(settings.deadline))
    finally:
        await runner.cleanup()  # once what is in flight is answered


async def _accept_the_last(listening: socket.socket) -> list[socket.socket]:
    """Take the connections that the system has made and nobody here has seen.

    Closing the socket would reset them, with the requests that are on them.
    """
    asyncio.get_running_loop().remove_reader(listening)
    for _ in range(_STEPS_TO_ACCEPT):
        await asyncio.sleep(0)
    accepted = []
    with suppress(OSError):  # there are no more, or no more can be had
        while True:
            accepted.append(listening.accept()[0])
    return accepted


async def _make(
    sockets: list[socket.socket], runner: web.AppRunner, tls: ssl.SSLContext | None
) -> None:
    """Serve accepted sockets; of those that do not speak TLS as they should, nobody hears."""
    assert runner.server is not None  # it was set up
    loop, timeout = asyncio.get_running_loop(), _LINGER_SECONDS if tls else None
    for connection in sockets:
        connection.setblocking(False)  # accept() gives blocking ones
    made = (
        loop.connect_accepted_socket(
            runner.server, connection, ssl=tls, ssl_handshake_timeout=timeout
        )
        for connection in sockets
    )
    await asyncio.gather(*made, return_exceptions=True)


async def _quiet(runner: web.AppRunner, lifecycle: Lifecycle, deadline: Deadline) -> None:
    """Wait for uploads that are under way, and a moment for requests that are on the line.

    From the runner's cleanup on, aiohttp drops whatever still arrives. Each answer closes its
    connection by now; those on which nothing comes are not waited for.
    """
    assert runner.server is not None  # it was set up
    moment = Deadline.after(_LINGER_SECONDS)
    # aiohttp tells nobody of its last connection's end
    while runner.server.connections and deadline.remaining():
        if not (lifecycle.under_way or moment.remaining()):
            break
        await asyncio.sleep(0.01)


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


def _refuse_strangers(settings: Settings, listening: socket.socket) -> None:
    """Refuse an address that others reach, where nothing says who may ask.

    The bound address counts, not its spelling: a name may lead anywhere.

    Raises:
        SettingsError: with both ways out.
    """
    address = listening.getsockname()[0]
    if settings.keys_file or settings.insecure or ip_address(address).is_loopback:
        return
    raise SettingsError(
        f"{address} can be reached from other machines and there are no API keys: anybody could "
        "use the model. Make a key with `hemavision key NAME` and set HEMAVISION_KEYS_FILE; or, "
        "where something in front keeps strangers out, say --insecure or HEMAVISION_INSECURE=true."
    )


def _refuse_idle(settings: Settings, own_server: bool) -> None:
    """Refuse what is said of a model server that is not the one in use.

    Raises:
        SettingsError: with the settings' names.
    """
    if not own_server:
        if settings.mixed_precision:
            raise SettingsError(
                "HEMAVISION_MIXED_PRECISION would do nothing: HEMAVISION_MODEL_SERVER names a "
                "server that runs already. Start that one with --mixed_precision=bfloat16."
            )
        return
    idle = [name for name in _OF_A_RUNNING_SERVER if getattr(settings, name) is not None]
    if idle:
        raise SettingsError(
            f"{', '.join(PREFIX + name.upper() for name in idle)} would do nothing: "
            "`hemavision up` starts a model server of its own, on loopback, with the models of "
            "--models. Leave that out, or name the server that it is for with "
            "HEMAVISION_MODEL_SERVER."
        )


def _read_files(settings: Settings) -> None:
    """Tell of a key or certificate that cannot be used now, not after the slow steps.

    Raises:
        SettingsError: with its file.
    """
    server_context(settings.tls_certificate, settings.tls_key)
    create_app(settings)


def _ready(settings: Settings, listening: socket.socket, samples: Path) -> str:
    """Tell what to do now: an address to open, and a command that can be pasted."""
    url = _url(settings, listening)
    for all_addresses, loopback in (("//0.0.0.0:", "//127.0.0.1:"), ("//[::]:", "//[::1]:")):
        url = url.replace(all_addresses, loopback)
    key = ["-H", "Authorization: Bearer KEY"] if settings.keys_file else []
    photograph = f"file=@{samples / 'neutrophil.jpg'}"
    # without a heat map: its base64 would flood the terminal
    command = ["curl", *key, "-F", photograph, f"{url}/v1/classify?heatmap=none"]
    return f"Ready: open {url} or send a picture: {shlex.join(command)}"


def _url(settings: Settings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _stop_event() -> asyncio.Event:
    """Set by the first signal. A second one ends the process at once, as if nobody handled it."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    # SIG_IGN: started with nohup
    handled = [n for n in _STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]

    def first() -> None:
        stop.set()
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in handled:
        loop.add_signal_handler(number, first)
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
