"""The container image, rehearsed without a container engine: what its Dockerfile says is done."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from dockerfiles import ROOT, instructions, words

from gateway.keys import make_key

HOME = "/opt/hemavision"


def copied() -> list[str]:
    """What the image is built from, in the repository."""
    every = instructions("gateway", "COPY")
    copies = [given.split() for given in every if not given.startswith("--from")]
    return [source for *sources, _ in copies for source in sources]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """What the RUN lines make of what the COPY lines copy, under another name than /opt."""
    folder = tmp_path_factory.mktemp("image")
    build, made = folder / "build", folder / "hemavision"
    build.mkdir()
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, build / source)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    commands = instructions("gateway", "RUN")
    for command in (given for given in commands if HOME in given):  # not: get uv
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace(HOME, str(made))],
            cwd=build,
            env=outside | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return made


def in_a_shell(line: str) -> list[str]:
    """What a command is given to, so that ``line`` is done before it."""
    return ["/bin/sh", "-c", f'{line} && exec "$@"', "sh"]


NO_BYTES = in_a_shell("ulimit -f 0")
READ_ONLY = [
    *("/usr/bin/unshare", "--map-root-user", "--mount"),
    *in_a_shell("/bin/mount -o remount,bind,ro / && ! /bin/touch /written 2> /dev/null"),
]


@contextmanager
def running(
    image: Path, limits: list[str] = NO_BYTES, **settings: str
) -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """ENTRYPOINT and CMD with the image's ENV, no home, and no byte written to any file."""
    variables = instructions("gateway", "ENV")
    declared = dict(line.replace(HOME, str(image)).split("=", 1) for line in variables)
    environment = declared | {"TMPDIR": "/nonexistent"} | settings
    process = subprocess.Popen(
        [*limits, *words("gateway", "ENTRYPOINT"), *words("gateway", "CMD")],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, environment
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_image_refuses_to_listen_without_keys(image):
    """It listens on all addresses, so it does not start before somebody says who may ask."""
    with running(image) as (process, _):
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "HEMAVISION_KEYS_FILE" in said


async def test_the_image_serves_and_writes_nothing(image, jpeg, tmp_path):
    """It is healthy by its own check, reads a photograph sent as a form, and has no TensorFlow."""
    key, entry = make_key("lab")
    (tmp_path / "keys.toml").write_text(entry)
    settings = {
        "KEYS_FILE": str(tmp_path / "keys.toml"),
        "PORT": "0",
        "MODEL_SERVER": "127.0.0.1:1",
    }
    named = {f"HEMAVISION_{name}": value for name, value in settings.items()}
    with running(image, **named) as (process, environment):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        port = line.rsplit(":", 1)[1].strip()
        environment["HEMAVISION_PORT"] = port
        check = await asyncio.create_subprocess_exec(
            *words("gateway", "HEALTHCHECK"), env=environment
        )
        assert await check.wait() == 0
        form = aiohttp.FormData()
        form.add_field("file", jpeg, filename="cell.jpg", content_type="image/jpeg")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            reply = await session.post("/v1/classify", data=form, headers={"X-API-Key": key})
            assert reply.status == 503
            assert (await reply.json(content_type=None))["type"].endswith("model-unavailable")
    installed = {path.name.lower() for path in (image / "lib").glob("python3*/site-packages/*")}
    assert {"gateway", "grpc", "numpy"} <= installed
    strangers = ("tensorflow", "keras", "export", "loadtest", "pytest", "pip")
    assert not [name for name in installed if name.startswith(strangers)]


async def test_the_image_answers_from_a_read_only_root(image, model_server, jpeg):
    """A whole answer with its overlay, where the kernel lets nothing be written."""
    allowed = await asyncio.create_subprocess_exec(*READ_ONLY, "/bin/true", stderr=DEVNULL)
    if await allowed.wait() != 0:
        pytest.skip("needs a mount namespace of its own")
    settings = {"PORT": "0", "INSECURE": "true", "MODEL_SERVER": model_server}
    named = {f"HEMAVISION_{name}": value for name, value in settings.items()}
    with running(image, READ_ONLY, **named) as (process, _):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        port = line.rsplit(":", 1)[1].strip()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            headers = {"Content-Type": "image/jpeg"}
            async with session.post("/v1/classify", data=jpeg, headers=headers) as reply:
                assert reply.status == 200
                assert (await reply.json())["heatmap"]["data"]


def test_the_image_has_the_locked_versions(image):
    """Each package is the one that constraints.txt names."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.split(" ;")[0].split("==") for line in lines)
    code = (
        "import json, importlib.metadata as m\n"
        "print(json.dumps({d.name.replace('_', '-'): d.version for d in m.distributions()}))"
    )
    python = [image / "bin/python", "-I", "-c", code]
    installed = json.loads(subprocess.run(python, capture_output=True, check=True).stdout)
    del installed["hemavision"]
    assert installed == {name: locked[name] for name in installed}


def test_the_image_runs_as_nobody_in_particular():
    """A numeric user that is not root, a port that needs no privilege, and no shell."""
    assert re.fullmatch(r"([1-9]\d{3,}):\1", instructions("gateway", "USER")[-1])
    assert int(instructions("gateway", "EXPOSE")[0]) > 1023
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert words("gateway", name)[0]


def test_the_build_sees_what_it_copies_and_no_more():
    """.dockerignore leaves everything out but that."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied())
