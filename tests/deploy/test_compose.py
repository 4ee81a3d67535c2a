"""docker-compose.yml, without a container engine: by its schema, and against what it names."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from gateway.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
MADE = {"models/hemavision", "samples", "load"}  # who runs it makes them; git ignores them
PUBLISHED = {"gateway": 8080, "prometheus": 9090, "grafana": 3000}


@cache
def composed(**given: str) -> dict:
    """The file as compose reads it, where these variables are set and no others."""

    def value(match: re.Match) -> str:
        return given.get(match["name"], match["default"])

    text = re.sub(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", value, FILE.read_text())
    assert "$" not in text  # every variable has a default
    return yaml.safe_load(text)


SERVICES = sorted(composed()["services"])


def service(name: str, **given: str) -> dict:
    """One service."""
    return composed(**given)["services"][name]


def flag(name: str, **given: str) -> str:
    """What the model server's command says."""
    (found,) = (c for c in service("tf-serving", **given)["command"] if c.startswith(f"--{name}="))
    return found.partition("=")[2]


def seconds(duration: str) -> int:
    """A duration as compose writes it, here in seconds alone."""
    return int(duration.removesuffix("s"))


def let_in() -> int:
    """Photographs that the gateway lets in at once."""
    return int(service("gateway")["environment"][f"{PREFIX}MAX_IN_FLIGHT"])


def dockerfile(name: str) -> str:
    """The Dockerfile that a service is built from."""
    build = service(name)["build"]
    assert (ROOT / build["context"]).samefile(ROOT)
    return (ROOT / build["dockerfile"]).read_text()


def bound(name: str) -> list[str]:
    """The files and folders of the repository that a service is given."""
    volumes = service(name).get("volumes", [])
    short = [v.split(":")[0] for v in volumes if isinstance(v, str)]
    long = [v["source"] for v in volumes if not isinstance(v, str)]
    return [source.removeprefix("./") for source in [*short, *long] if source.startswith("./")]


def test_it_is_a_compose_file():
    """By the compose specification's own schema."""
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_finds_what_is_mistyped(tmp_path):
    """So that the test above can fail."""
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text().replace("mem_limit", "memory_limit"))
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", broken]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "memory_limit" in done.stdout


def test_the_gateways_environment_is_of_its_settings(tmp_path):
    """Each name exists, each value is one that it takes, and both labels are those of the file."""
    given = service("gateway")["environment"]
    ours = {name: str(value) for name, value in given.items() if name.startswith(PREFIX)}
    (tmp_path / "1").mkdir()
    folders = {name: str(tmp_path) for name in ours if name == f"{PREFIX}MODELS"}
    settings = Settings.from_environment(ours | folders)
    assert settings.model_server == "tf-serving:8500"
    assert {settings.model_label, settings.canary_label} == {"stable", "canary"}
    assert settings.canary_share == 0
    assert settings.workers == service("gateway")["cpus"]  # they decode, which is all processor


def test_the_canarys_share_is_set_by_a_variable():
    """The one that the README names."""
    given = service("gateway", CANARY_SHARE="0.05")["environment"]
    assert given[f"{PREFIX}CANARY_SHARE"] == 0.05


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name):
    """It writes nowhere but where it is told, and can neither get nor use privileges."""
    given = service(name)
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert not given.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"}
    assert not any("docker.sock" in source for source in bound(name))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_its_limits(name):
    """Of processors, memory, processes and log."""
    given = service(name)
    assert float(given["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", given["mem_limit"])
    assert given["pids_limit"] > 0
    assert {"max-size", "max-file"} <= given["logging"]["options"].keys()


@pytest.mark.parametrize("cpus", [None, "6"])
def test_the_server_has_as_many_threads_as_cpus(cpus):
    """Its defaults count the machine's, and more threads than CPUs are throttled."""
    given = {"MODEL_CPUS": cpus} if cpus else {}
    limit = service("tf-serving", **given)["cpus"]
    assert flag("tensorflow_intra_op_parallelism", **given) == str(limit)
    assert flag("tensorflow_inter_op_parallelism", **given) == str(limit)


def test_the_gateway_keeps_the_servers_cpus_busy_and_no_more():
    """One photograph for each, and one that is on its way; a further one makes all wait."""
    assert let_in() == service("tf-serving")["cpus"] + 1


def test_the_server_has_a_thread_for_every_call():
    """Of all that the gateway lets in, and for its probes: else calls are refused."""
    assert int(flag("grpc_max_threads")) > let_in()


def test_the_command_adds_to_the_images():
    """What the image's entry point says is not said twice; what its CMD says is not lost."""
    text = dockerfile("tf-serving")
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.+\])$", text, re.MULTILINE)[1])
    command = json.loads(re.search(r"^CMD (\[.+\])$", text, re.MULTILINE)[1])
    given = {word.partition("=")[0] for word in service("tf-serving")["command"]}
    assert not given & {word.partition("=")[0] for word in entry}
    assert {word.partition("=")[0] for word in command} <= given


@pytest.mark.parametrize("name", [n for n in SERVICES if "build" not in composed()["services"][n]])
def test_images_of_others_are_of_one_version(name):
    """A full version, not a tag that moves."""
    assert re.search(r":v?\d+\.\d+\.\d+$", service(name)["image"])


def test_what_is_built_here_is_lasting():
    """Its image has a tag that can be set: the last one is there to go back to."""
    for name in ("tf-serving", "gateway"):
        tagged = service(name, MODEL_TAG="7", GATEWAY_TAG="7")["image"]
        assert tagged.endswith(":7")


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name):
    """In the repository, or made as the README says; only the load test writes, its results."""
    for source in bound(name):
        assert source in MADE or (ROOT / source).exists(), source
    for volume in service(name).get("volumes", []):
        if isinstance(volume, str):
            assert not volume.startswith("./") or volume.endswith(":ro")
        else:
            assert volume.get("read_only") is (None if volume["source"] == "./load" else True)
            assert volume["bind"]["create_host_path"] is False


def test_only_gateway_and_prometheus_reach_the_model_server():
    """It takes what anyone sends it. Its networks have no way out, and no port is published."""
    networks = composed()["networks"]
    beside = {
        name
        for name in SERVICES
        if set(service(name)["networks"]) & set(service("tf-serving")["networks"])
    }
    assert beside == {"tf-serving", "gateway", "prometheus"}
    assert all(networks[name]["internal"] for name in service("tf-serving")["networks"])
    assert "ports" not in service("tf-serving")
    assert "predict" not in service("prometheus")["networks"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_this_hosts_own(name):
    """Nothing is published beyond loopback, for nothing asks for a key."""
    ports = service(name).get("ports", [])
    assert [port.split(":")[0] for port in ports] == ["127.0.0.1"] * len(ports)
    assert [int(port.split(":")[2]) for port in ports] == [
        port for published, port in PUBLISHED.items() if published == name
    ]


def test_the_gateways_port_is_the_one_it_listens_to():
    """Nothing in the environment says another."""
    assert Settings().port == PUBLISHED["gateway"]
    assert f"EXPOSE {Settings().port}" in dockerfile("gateway")


@pytest.mark.parametrize("name", SERVICES)
def test_who_is_waited_for_has_a_health_check(name):
    """In the file or in the image, else the start waits for ever."""
    for other, how in service(name).get("depends_on", {}).items():
        assert how["condition"] == "service_healthy"
        assert "healthcheck" in service(other) or "\nHEALTHCHECK " in dockerfile(other)


def test_the_start_takes_its_order():
    """The model first, then the gateway, then who asks it."""
    assert "tf-serving" in service("gateway")["depends_on"]
    assert "gateway" in service("loadtest")["depends_on"]
    assert "prometheus" in service("grafana")["depends_on"]


def test_the_gateways_health_check_is_its_own_command():
    """One that the console has, which waits longer than the console itself."""
    check = service("gateway")["healthcheck"]
    how, command, *arguments = check["test"]
    assert (how, command) == ("CMD", "hemavision")
    given = [Path(sys.executable).with_name("hemavision"), *arguments, "--url=http://127.0.0.1:1"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert seconds(check["timeout"]) > 5  # `check` waits as long for a reply


def test_the_gateway_has_time_to_stop():
    """Longer than what it serves on for, and its longest request."""
    settings = Settings()
    assert seconds(service("gateway")["stop_grace_period"]) > settings.drain + settings.deadline


def test_the_load_test_is_started_by_name_alone():
    """It is in a profile, and ends."""
    given = service("loadtest")
    assert given["profiles"] == ["loadtest"]
    assert given["restart"] == "no"
    assert all("profiles" not in service(name) for name in SERVICES if name != "loadtest")


def test_what_a_load_test_needs_is_said_whatever_else_is():
    """Options behind the name take the command's place: what it asks and where it writes stay."""
    given = service("loadtest")
    assert {"--headless", "--host=http://gateway:8080"} < set(given["entrypoint"])
    (raw,) = (Path(w.partition("=")[2]) for w in given["entrypoint"] if w.startswith("--raw="))
    written = {v["target"] for v in given["volumes"] if not v.get("read_only")}
    assert written == {str(raw.parent)}
    text = dockerfile("loadtest")
    started = json.loads(re.search(r"^ENTRYPOINT (\[.+\])$", text, re.MULTILINE)[1])
    assert given["entrypoint"][: len(started)] == started


def test_prometheus_scrapes_what_there_is():
    """Each target of its configuration is a service beside it, in a network that both are in."""
    text = (ROOT / "serving_config/monitoring/prometheus.yml").read_text()
    jobs = yaml.safe_load(text)["scrape_configs"]
    found = [one for job in jobs for one in job.get("dns_sd_configs", ())]
    names = [name for one in found for name in one["names"]]
    assert sorted(names) == ["gateway", "tf-serving"]
    for name in [*names, "prometheus"]:
        assert "scrape" in service(name)["networks"]
    (config,) = (c for c in service("prometheus")["command"] if c.startswith("--config.file="))
    folder = config.partition("=")[2].rpartition("/")[0]
    targets = {v.split(":")[1] for v in service("prometheus")["volumes"]}
    assert {f"{folder}/prometheus.yml", f"{folder}/rules"} <= targets


def test_every_variable_is_documented():
    """In the table of serving_config/README.md, and compose has no other."""
    variables = set(re.findall(r"\$\{(\w+):-", FILE.read_text()))
    table = (ROOT / "serving_config/README.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert variables == {name for name in named if name.isupper()}
