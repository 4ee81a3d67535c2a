"""Both images' Dockerfiles: linted, and the model's rehearsed without a container engine.

The gateway's is rehearsed in tests/gateway/test_image.py.
"""

import fnmatch
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfiles import DOCKERFILES, ROOT, instructions, words
from manifests import COMBINATIONS, Combination, container, named, render

from gateway import contract

FILES = {"model files": ROOT / "k8s/components/model-image-volume/Dockerfile"}
"""An image that nothing runs."""
SERVED = ["gateway", "model"]
CONTEXTS = {
    "gateway": ROOT / ".dockerignore",
    "model": ROOT / "serving_config/Dockerfile.dockerignore",
    "loadtest": ROOT / "loadtest/Dockerfile.dockerignore",
}

WAYS = ("image", "compose", *COMBINATIONS)
"""The ways in which the model server is started."""

# flags of tensorflow_model_server that a deployment may want, with what they take;
# tensorflow/serving 2.19, tensorflow_serving/model_servers/main.cc
WHOLE, SWITCH, TEXT = r"\d+", "true|false", ".+"
FLAGS = {
    "port": WHOLE,
    "rest_api_port": WHOLE,
    "rest_api_num_threads": WHOLE,
    "rest_api_timeout_in_ms": WHOLE,
    "grpc_max_threads": WHOLE,
    "grpc_channel_arguments": r"[a-z0-9._]+=\w+(,[a-z0-9._]+=\w+)*",
    "enable_grpc_healthcheck_service": SWITCH,
    "ssl_config_file": TEXT,
    "model_config_file": TEXT,
    "model_config_file_poll_wait_seconds": WHOLE,
    "file_system_poll_wait_seconds": WHOLE,
    "allow_version_labels_for_unavailable_models": SWITCH,
    "monitoring_config_file": TEXT,
    "enable_batching": SWITCH,
    "batching_parameters_file": TEXT,
    "tensorflow_intra_op_parallelism": WHOLE,
    "tensorflow_inter_op_parallelism": WHOLE,
    "num_load_threads": WHOLE,
    "max_num_load_retries": WHOLE,
    "enable_model_warmup": SWITCH,
    "enable_profiler": SWITCH,
    "enable_serialization_as_tensor_content": SWITCH,
    "mixed_precision": "(bfloat16)?",
}


def parsed(given: list[str]) -> dict[str, str]:
    """Flags as the server reads them."""
    return dict(flag.removeprefix("--").split("=", 1) for flag in given)


def flags(way: str | Combination = "image") -> dict[str, str]:
    """What the server is started with: by the image alone, by compose, or on Kubernetes."""
    if isinstance(way, Combination):
        return parsed(container(named(render(way), "Deployment", "tf-serving"))["args"])
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["tf-serving"]
    command = words("model", "CMD") if way == "image" else composed["command"]
    return parsed([*words("model", "ENTRYPOINT")[1:], *command])


def locked(package: str) -> str:
    """The version that constraints.txt names."""
    text = (ROOT / "constraints.txt").read_text()
    return re.search(rf"^{package}==([\w.]+)", text, re.MULTILINE)[1]


@pytest.mark.parametrize("image", [*DOCKERFILES, "model files"])
def test_the_linter_finds_nothing(image):
    """Hadolint, with ShellCheck for what a shell is given: not even a hint."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [hadolint, "--no-color", (DOCKERFILES | FILES)[image]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("image", DOCKERFILES)
def test_the_image_says_what_it_is(image):
    """By the Open Container Initiative's labels, and nobody in particular runs it."""
    (labels,) = instructions(image, "LABEL")
    for name in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert instructions(image, "USER") == ["10001:10001"]


@pytest.mark.parametrize("image", SERVED)
def test_the_image_knows_how_it_is(image):
    """A health check that needs nothing but the image."""
    assert words(image, "HEALTHCHECK")


@pytest.mark.parametrize("image", DOCKERFILES)
def test_the_base_can_be_pinned_by_digest(image):
    """Every stage stands on the one argument, whose default is no moving tag."""
    base = instructions(image, "ARG")[0]
    name, _, tag = base.partition("=")
    assert not tag.endswith(":latest")
    assert ":" in tag
    assert {line.split()[0] for line in instructions(image, "FROM")} == {f"${{{name}}}"}


def test_the_server_is_of_the_minor_that_exports():
    """A server loads what its own or an older minor exported: here they are the same."""
    base = instructions("model", "ARG")[0]
    assert base == f"SERVING=tensorflow/serving:{locked('tensorflow')}"
    assert locked("tensorflow") == locked("tensorflow-serving-api")


def test_the_server_is_process_one():
    """The base image's shell is replaced, and what it did is said by flags."""
    assert words("model", "ENTRYPOINT")[0] == "tensorflow_model_server"
    assert "MODEL_NAME" not in DOCKERFILES["model"].read_text()  # what the shell would read
    assert flags()["port"] == "8500"
    assert instructions("model", "EXPOSE") == ["8500 8501"]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_server_knows_its_flags(way):
    """It would end with a usage text at one that it does not know."""
    for name, written in flags(way).items():
        value = re.sub(r"\$\{\w+:-(\w*)\}", r"\1", written.replace("$(CPUS)", "2"))
        assert name in FLAGS, name
        assert re.fullmatch(FLAGS[name], value), name


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_what_the_image_says_kubernetes_says_too(combination):
    """Its pods name the command themselves: nothing of the image's is lost by that."""
    entry = parsed(words("model", "ENTRYPOINT")[1:])
    assert entry.items() <= flags(combination).items()
    assert parsed(words("model", "CMD")).keys() <= flags(combination).keys()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_server_is_told_what_its_defaults_get_wrong(way):
    """Labels and retries at a first start, metrics, no profiler for strangers, threads as CPUs."""
    given = flags(way)
    assert given["allow_version_labels_for_unavailable_models"] == "true"
    assert given["max_num_load_retries"] == "0"
    assert given["enable_profiler"] == "false"
    assert {"tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"} <= given.keys()
    for name in ("model_config_file", "monitoring_config_file"):
        path = Path(given[name])
        assert path.parent == Path("/etc/serving")
        assert (ROOT / "serving_config" / path.name).is_file()


def test_anybody_may_read_an_image_of_files():
    """It is mounted as it is, and the server runs as another user than who exported."""
    assert "\nCOPY --chmod=555 . /\n" in FILES["model files"].read_text()


def sources(image: str) -> list[str]:
    """What the image is built from, in the repository."""
    lines = [given.split() for given in instructions(image, "COPY")]
    return [s for *given, _ in lines if not given[0].startswith("--from") for s in given]


@pytest.mark.parametrize("image", DOCKERFILES)
def test_the_build_sees_what_it_copies_and_no_more(image):
    """No photograph, no key, and no weights in the gateway's."""
    lines = CONTEXTS[image].read_text().splitlines()
    assert "*" in lines
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(sources(image))


@pytest.fixture
def context(tmp_path, tiny_models) -> Path:
    """A repository after `python -m export saved-model`, and what it ignores besides."""
    shutil.copytree(tiny_models, tmp_path / "repository/models/hemavision")
    shutil.copytree(ROOT / "serving_config", tmp_path / "repository/serving_config")
    return tmp_path / "repository"


def built(context: Path) -> tuple[Path, subprocess.CompletedProcess]:
    """The image's files, and how its check went, below another root than /."""
    root = context.parent / "root"
    for line in instructions("model", "COPY"):
        *given, target = line.split()
        if given[0].startswith("--from"):
            continue
        for source in (path for pattern in given for path in sorted(context.glob(pattern))):
            where = root / target.strip("/")
            if source.is_dir():
                shutil.copytree(source, where)
            else:
                where.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, where)
    (check,) = instructions("model", "RUN")
    check = re.sub(r"(?<=[ \"])/(?=etc/serving|models)", f"{root}/", check)
    shell = words("model", "SHELL")
    return root, subprocess.run([*shell, check], capture_output=True, text=True, check=False)


def test_the_model_is_in_its_image(context):
    """All that the server reads of a version: graph, weights, warm-up; and the card."""
    root, checked = built(context)
    assert checked.returncode == 0, checked.stderr
    version = root / "models/hemavision/1"
    for name in ("saved_model.pb", contract.WARMUP_FILE, contract.MODEL_CARD_FILE):
        assert (version / name).stat().st_size > 0
    assert {path.name for path in (root / "etc/serving").iterdir()} == {
        path.name for path in (ROOT / "serving_config").glob("*.config")
    }


def test_anybody_may_read_the_image_and_nobody_write_it(context):
    """Whatever the modes were where it was exported: the server runs as another user."""
    for path in [context / "models/hemavision/1", context / "models/hemavision"]:
        path.chmod(0o700)
    root, checked = built(context)
    assert checked.returncode == 0, checked.stderr
    for top in ("etc/serving", "models"):
        for path in (root / top).rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize(
    "written", ["versions: 1\n versions: 7", "versions: [1, 7]", "versions:[\n7]"]
)
def test_a_version_that_is_not_there_stops_the_build(context, written):
    """With a sentence that names it and those there are; the server would wait for ever."""
    config = context / "serving_config/models.config"
    config.write_text(config.read_text().replace("versions: 1", written))
    _, checked = built(context)
    assert checked.returncode != 0
    assert "models.config names version 7" in checked.stderr
    assert checked.stderr.rstrip().endswith("name one of: 1")


def test_a_list_of_versions_that_are_there_is_built(context):
    """The text format's short way to repeat a field."""
    config = context / "serving_config/models.config"
    config.write_text(config.read_text().replace("versions: 1", "versions: [1]"))
    _, checked = built(context)
    assert checked.returncode == 0, checked.stderr


def test_versions_that_are_not_named_stop_the_build(context):
    """With a sentence: the policy `latest` serves to everybody what was exported last."""
    config = context / "serving_config/models.config"
    text = re.sub(r"specific \{[^}]*\}", "latest { num_versions: 1 }", config.read_text())
    config.write_text(text)
    assert "latest" in text
    _, checked = built(context)
    assert checked.returncode != 0
    assert checked.stderr.startswith("models.config names no version: name each")


def test_a_comment_names_no_version(context):
    """What is said about versions is not what is served."""
    config = context / "serving_config/models.config"
    config.write_text("# not yet: versions: 7\n" + config.read_text())
    _, checked = built(context)
    assert checked.returncode == 0, checked.stderr


def test_the_health_check_tells_an_open_port_from_a_closed_one():
    """It is a connection to the server's port, which opens when the model is loaded."""
    command = words("model", "HEALTHCHECK")
    assert command[0] == "bash"  # the base image's entry point is a bash script
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = [word.replace("/8500", f"/{port}") for word in command]
        assert there != command
        assert subprocess.run(there, check=False).returncode == 0
    gone = subprocess.run(there, capture_output=True, check=False)
    assert gone.returncode != 0


def test_the_gateway_can_be_built_for_other_processors(tmp_path):
    """Each locked package has a wheel for 64 bit ARM: nothing is compiled in the image."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = tmp_path / "needed.txt"
    needed.write_text("\n".join(project["dependencies"]))
    found = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--only-binary", ":all:"),
            *("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.12"),
            *("--target", tmp_path / "none", "--constraint", ROOT / "constraints.txt"),
            *("--requirement", needed),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert f"grpcio=={locked('grpcio')}" in found.stderr


def test_the_load_tests_image_has_what_locust_needs(tmp_path):
    """What its RUN line installs reads the file, with the options that compose gives."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "made"], check=True)
    python = tmp_path / "made/bin/python"
    (line,) = instructions("loadtest", "RUN")
    install = line.partition("&&")[2].replace("--system --no-cache", f"--python {python}")
    words = shlex.split(install)
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["loadtest"]
    locust, *given = [*composed["entrypoint"], *composed["command"]]
    listed = subprocess.run(
        [tmp_path / "made/bin" / locust, *given, "--list"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr  # 2 for an option that the file does not have
    assert "Interactive" in listed.stdout + listed.stderr


def test_what_git_ignores_is_named_where_it_is_copied():
    """The exported model is not in the repository: the Dockerfile says how to make it."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert any(fnmatch.fnmatch("models", pattern.strip("/")) for pattern in ignored)
    assert "python -m export saved-model" in DOCKERFILES["model"].read_text()
