"""What TensorFlow Serving is told: read as it reads it, and held against the code beside it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from manifests import kustomize

from gateway import contract
from gateway.settings import PREFIX

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "serving_config"
BATCHING = ["batching.config", "batching-gpu.config"]


@pytest.fixture(scope="module")
def models_message() -> type:
    """The official ModelServerConfig."""
    from tensorflow_serving.config import model_server_config_pb2

    return model_server_config_pb2.ModelServerConfig


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> dict[str, type]:
    """The messages of serving.proto, by name."""
    compiled = tmp_path_factory.mktemp("protos") / "serving"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{Path(__file__).parent}"),
            *(f"--descriptor_set_out={compiled}", "--include_imports", "serving.proto"),
        ],
        check=True,
    )
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)
    descriptors = pool.FindFileByName("serving.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(d) for name, d in descriptors.items()}


@pytest.fixture
def model(models_message):
    """The one model that is configured."""
    text = (FOLDER / "models.config").read_text()
    (config,) = text_format.Parse(text, models_message()).model_config_list.config
    return config


def batching(messages, name: str):
    return text_format.Parse((FOLDER / name).read_text(), messages["BatchingParameters"]())


def test_models_config_serves_the_model_that_the_gateway_asks_for(model):
    """Field by field, and no field besides."""
    assert model.name == contract.MODEL_NAME
    assert model.base_path == "/models/hemavision"
    assert model.model_platform == "tensorflow"
    assert {field.name for field, _ in model.ListFields()} == {
        "name",
        "base_path",
        "model_platform",
        "model_version_policy",
        "version_labels",
    }


def test_versions_are_named_one_by_one(model):
    """With `latest` a third version would push out the one that users are served."""
    assert model.model_version_policy.WhichOneof("policy_choice") == "specific"
    assert list(model.model_version_policy.specific.versions) == [1]  # a first export's number


def test_every_label_names_a_version_that_is_served(model):
    """A label for another stops the server, or is refused when the file is read again."""
    assert dict(model.version_labels).keys() == {"stable", "canary"}
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        ("base_path", "base_pth"),
        ("versions: 1", 'versions: "one"'),
        ("specific", "specfic"),
        ("model_config_list {", "model_config_list {{"),
    ],
)
def test_what_is_mistyped_is_refused(models_message, sound, broken):
    """Unknown fields and values of another type, by the same parser as the server's."""
    text = (FOLDER / "models.config").read_text()
    assert sound in text
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text.replace(sound, broken), models_message())


def test_prometheus_is_served(messages):
    """Without it the server has no metrics; where, the scrape configurations agree with."""
    text = (FOLDER / "monitoring.config").read_text()
    monitoring = text_format.Parse(text, messages["MonitoringConfig"]())
    assert monitoring.prometheus_config.enable


@pytest.mark.parametrize("name", BATCHING)
def test_batch_sizes_are_as_the_server_wants_them(messages, name):
    """Increasing, and the last is the largest batch: else the server does not start."""
    parameters = batching(messages, name)
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1  # a lone photograph is not filled up with copies of itself
    assert sizes[-1] == parameters.max_batch_size.value


@pytest.mark.parametrize("name", BATCHING)
def test_every_field_of_batching_is_meant(messages, name):
    """What is left out is a default that fits another model."""
    assert {field.name for field, _ in batching(messages, name).ListFields()} == {
        "max_batch_size",
        "allowed_batch_sizes",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }


@pytest.mark.parametrize("name", BATCHING)
def test_warm_up_fits_into_a_batch(messages, name):
    """One record larger than a batch fails, and with it the load of the whole version."""
    from export.warmup import BATCH_SIZES

    assert max(BATCH_SIZES) <= batching(messages, name).max_batch_size.value


@pytest.mark.parametrize("name", BATCHING)
def test_the_queue_takes_what_a_gateway_lets_in(messages, name):
    """A full queue is UNAVAILABLE to photographs that the gateway has admitted."""
    parameters = batching(messages, name)
    room = parameters.max_batch_size.value * parameters.max_enqueued_batches.value
    gateway = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gateway"]
    at_once = gateway["environment"][f"{PREFIX}MAX_IN_FLIGHT"]
    assert room >= int(re.search(r":-(\d+)}", at_once)[1])


def test_nobody_waits_for_company_on_a_cpu(messages):
    """A lone photograph would wait for all of the timeout, and a batch gains nothing."""
    assert batching(messages, "batching.config").batch_timeout_micros.value == 0


def test_batching_is_off():
    """Neither image nor compose switches it on."""
    for name in ("serving_config/Dockerfile", "docker-compose.yml"):
        assert "enable_batching" not in (ROOT / name).read_text()


def test_the_config_map_holds_the_files_that_compose_mounts():
    """All of them, under the name that Kubernetes' pods mount, and with a hash of the content."""
    (generator,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
    assert generator["name"] == "serving-config"
    assert set(generator["files"]) == {path.name for path in FOLDER.glob("*.config")}
    rendered = subprocess.run([*kustomize(), FOLDER], capture_output=True, text=True, check=True)
    config_map = yaml.safe_load(rendered.stdout)
    assert re.fullmatch(r"serving-config-[a-z0-9]{10}", config_map["metadata"]["name"])
    for name in generator["files"]:
        assert config_map["data"][name] == (FOLDER / name).read_text()


def test_the_readme_names_every_file_and_setting():
    """An operator finds each of them there."""
    text = (FOLDER / "README.md").read_text()
    for path in [*FOLDER.glob("*.config"), FOLDER / "Dockerfile"]:
        assert f"`{path.name}`" in text, path.name
    for name in ("MODEL_LABEL", "CANARY_LABEL", "CANARY_SHARE"):
        assert f"`{PREFIX}{name}" in text
