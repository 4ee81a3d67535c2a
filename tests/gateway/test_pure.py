"""Clinical reference data and settings."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import annotation
from gateway.contract import CLASSES
from gateway.errors import SettingsError
from gateway.settings import Settings, usable_cores


def test_normal_ranges_are_the_owners():
    """The four ranges, in percent of white blood cells."""
    reference = annotation.load_reference()
    ranges = {n: (c.normal_range.low, c.normal_range.high) for n, c in reference.classes.items()}
    assert ranges == {
        "EOSINOPHIL": (1, 4),
        "LYMPHOCYTE": (20, 40),
        "MONOCYTE": (2, 8),
        "NEUTROPHIL": (55, 70),
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_clinical_statement_names_its_source(name):
    """Function, significance and range each come with a citation, never a bare key."""
    leukocyte = annotation.load_reference().classes[name]
    for source in (leukocyte.source, leukocyte.normal_range.source):
        assert len(source) > 30
    assert "white blood cells" in leukocyte.normal_range.unit
    assert re.fullmatch(r"#[0-9a-f]{6}", leukocyte.color)


@given(st.sampled_from(CLASSES))
def test_every_range_is_a_share(name):
    """From 0 to 100 percent, low before high; and no class's function is another's."""
    reference = annotation.load_reference()
    share = reference.classes[name].normal_range
    assert 0 <= share.low < share.high <= 100
    others = [c for n, c in reference.classes.items() if n != name]
    assert all(reference.classes[name].function != other.function for other in others)


def test_one_cell_is_no_percentage():
    """The reference data says so itself."""
    assert "One cell is no percentage" in annotation.load_reference().statement


def test_settings_have_defaults_and_read_the_environment(tmp_path):
    """Each type of setting is read; what is not of this service is left alone."""
    (tmp_path / "1").mkdir()
    settings = Settings.from_environment(
        {
            "HEMAVISION_PORT": "9000",
            "HEMAVISION_MODEL_SERVER": "models:8500",
            "HEMAVISION_TARGET_MS": "150",
            "HEMAVISION_MODELS": str(tmp_path),
            "PATH": "/bin",
        }
    )
    assert settings.port == 9000
    assert settings.model_server == "models:8500"
    assert settings.target_ms == 150.0
    assert settings.models == Path(tmp_path)
    assert settings.host == Settings().host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEMAVISION_PORT", "eighty"),
        ("HEMAVISION_PORT", "70000"),
        ("HEMAVISION_PORT", "-1"),
        ("HEMAVISION_HOST", ""),
        ("HEMAVISION_MAX_BYTES", "0"),
        ("HEMAVISION_MAX_WAIT", "nan"),
        ("HEMAVISION_TARGET_MS", "inf"),
        ("HEMAVISION_LOG_LEVEL", "loud"),
        ("HEMAVISION_MODELS", "/nowhere"),
        ("HEMAVISION_MODELS", "/"),  # no versions in it
        ("HEMAVISION_MIXED_PRECISION", "float16"),
        ("HEMAVISION_MODEL_SERVER", "no-port"),
        ("HEMAVISION_MODEL_SERVER", "host:http"),
        ("HEMAVISION_MODEL_SERVER", "http://host:8500"),
        ("HEMAVISION_MODEL_SERVER", "one:8500,two:8500"),
        ("HEMAVISION_MODEL_SERVER", "10.0.0.1:8500,10.0.0.2"),
        ("HEMAVISION_MODEL_SERVER", "10.0.0.1:8500,[::1]:8500"),
        ("HEMAVISION_CLIENT_SHARE", "0"),
        ("HEMAVISION_CLIENT_SHARE", "1.1"),
        ("HEMAVISION_DRAIN", "-1"),
        ("HEMAVISION_DRAIN", "inf"),
        ("HEMAVISION_DEADLINE", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, value):
    """The message names the setting, the value and what is expected."""
    with pytest.raises(SettingsError, match=f"{name}=.*give "):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)],
)
def test_a_containers_limit_counts_as_its_cores(tmp_path, limit, cores):
    """Whole ones, and one at least; where there is no limit, those that the process may use."""
    given = tmp_path / "cpu.max"
    given.write_text(limit)
    assert usable_cores(given) == (cores or usable_cores(tmp_path / "none"))


def test_an_unknown_setting_is_reported():
    """A mistyped name is told, with the names there are."""
    with pytest.raises(SettingsError, match=r"HEMAVISION_PROT.*HEMAVISION_PORT"):
        Settings.from_environment({"HEMAVISION_PROT": "8080"})


@pytest.mark.parametrize(
    "addresses", ["models:8500", "10.0.0.1:8500,10.0.0.2:8501", "[::1]:8500,[::2]:8500"]
)
def test_one_model_server_or_several_can_be_named(addresses):
    """A name with a port, or IP addresses of one kind."""
    environment = {"HEMAVISION_MODEL_SERVER": addresses}
    assert Settings.from_environment(environment).model_server == addresses


def test_what_kubernetes_sets_for_services_is_left_alone():
    """A pod beside Services named hemavision and hemavision-gateway starts as any other."""
    links = {}
    for service in ("HEMAVISION", "HEMAVISION_GATEWAY"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "8080",
            f"{service}_SERVICE_PORT_HTTP": "8080",
            f"{service}_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            f"{service}_PORT_8080_TCP_PROTO": "tcp",
            f"{service}_PORT_8080_TCP_PORT": "8080",
            f"{service}_PORT_8080_TCP_ADDR": "10.0.0.1",
        }
    links["HEMAVISION_GATEWAY_PORT"] = "tcp://10.0.0.1:8080"
    assert Settings.from_environment(links) == Settings()


def test_a_service_link_in_place_of_the_port_is_told():
    """Kubernetes' HEMAVISION_PORT is no port: the sentence says how to be rid of it."""
    with pytest.raises(SettingsError, match="enableServiceLinks: false"):
        Settings.from_environment({"HEMAVISION_PORT": "tcp://10.0.0.1:8080"})


@pytest.mark.parametrize("name", ["HEMAVISION_SERVICE", "HEMAVISION_PORT_TCP", "HEMAVISION_PORTS"])
def test_what_only_resembles_a_service_link_is_reported(name):
    """A mistyped setting does not hide behind Kubernetes."""
    with pytest.raises(SettingsError, match="no such setting"):
        Settings.from_environment({name: "8080"})
