"""What the tests of the page share: a real Chromium, and a real gateway over the tiny model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEMAVISION = Path(sys.executable).with_name("hemavision")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


class Gateway:
    """`hemavision serve` on one port, which can be stopped and started again."""

    def __init__(self, model_server: str, **settings: object) -> None:
        variables = {f"HEMAVISION_{name}": str(value) for name, value in settings.items()}
        self._environment = os.environ | {"HEMAVISION_MODEL_SERVER": model_server} | variables
        self._process: subprocess.Popen | None = None
        self.url = ""
        self.start(0)

    def start(self, port: int | None = None) -> None:
        """Listen, where it listened before if no port is given."""
        chosen = self.url.rsplit(":", 1)[-1] if port is None else port
        self._process = subprocess.Popen(
            [HEMAVISION, "serve"],
            env=self._environment | {"HEMAVISION_PORT": str(chosen)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a pipe that nobody reads would fill up
            text=True,
        )
        line = self._process.stdout.readline()
        assert line, "it did not start"
        self.url = line.split()[-1].rstrip("/")

    def stop(self) -> None:
        """End it, as a failing machine would."""
        self._process.kill()
        self._process.communicate(timeout=20)


@pytest.fixture(scope="session")
def gateway(model_server) -> Iterator[Gateway]:
    """A gateway for all tests that do not trouble it."""
    gateway = Gateway(model_server)
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway_of() -> Iterator[Callable[..., Gateway]]:
    """Gateways of a test's own, by model server and settings."""
    made = []

    def start(model_server: str, **settings: object) -> Gateway:
        made.append(Gateway(model_server, **settings))
        return made[-1]

    yield start
    for gateway in made:
        gateway.stop()


@pytest.fixture(scope="module")  # Playwright keeps a loop running, which asynchronous tests mind
def browser():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open the page of a gateway as a person of that browser would; nothing may go wrong unseen."""
    contexts, troubles = [], []

    def open_page(url, theme="dark", width=1280, height=860, expected="", **context):
        made = browser.new_context(viewport={"width": width, "height": height}, **context)
        contexts.append(made)
        page = made.new_page()
        page.set_default_timeout(20_000)
        page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))

        def said(message):
            if message.type in ("error", "warning") and not (expected and expected in message.text):
                troubles.append(f"console: {message.text}")

        def asked(request):
            if not request.url.startswith((url, "data:", "blob:")):
                troubles.append(f"another host: {request.url}")

        page.on("console", said)
        page.on("request", asked)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []
