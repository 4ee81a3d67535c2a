"""Quality, clinical reference data and settings."""

import re
from pathlib import Path

import pytest
from PIL import Image

from gateway import annotation, quality
from gateway.contract import CLASSES
from gateway.errors import SettingsError
from gateway.imaging import Photograph, to_tensor
from gateway.settings import Settings


def photograph(width: int, height: int, *, several: bool = False, grey: bool = False):
    picture = Image.linear_gradient("L").convert("RGB").resize((width, height))
    if grey:
        picture = Image.new("RGB", (width, height), (11, 11, 11))
    return Photograph(width, height, picture, to_tensor(picture), "PNG", several)


@pytest.mark.parametrize(("width", "height"), [(224, 224), (360, 363), (640, 480), (4000, 3000)])
def test_ordinary_photographs_bring_no_warning(width, height):
    """Warnings are for the exception: the sizes that laboratories send have none."""
    assert quality.assess(photograph(width, height)).warnings == ()


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        (photograph(100, 120), "enlarged"),
        (photograph(1200, 300), "distorted"),
        (photograph(300, 300, several=True), "first"),
        (photograph(300, 300, grey=True), "uniform"),
    ],
)
def test_what_weakens_the_answer_is_said(odd, word):
    """Small, narrow, animated, empty: each photograph brings a sentence that says why."""
    (warning,) = quality.assess(odd).warnings
    assert word in warning


@pytest.mark.parametrize(
    ("unfamiliarity", "reasons"),
    [(0.0, []), (1.0, []), (1.001, ["unfamiliar"]), (9e9, ["unfamiliar"])],
)
def test_what_lies_beyond_the_familiar_is_doubted(unfamiliarity, reasons):
    """Up to the limit the answer stands; above it there is a reason not to take it."""
    assert [doubt.reason for doubt in quality.doubts(unfamiliarity)] == reasons


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


def test_one_cell_is_no_percentage():
    """The reference data says so itself."""
    assert "One cell is no percentage" in annotation.load_reference().statement


def test_settings_have_defaults_and_read_the_environment(tmp_path):
    """Each type of setting is read; what is not of this service is left alone."""
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
        ("HEMAVISION_MODELS", "/nowhere"),
        ("HEMAVISION_MODEL_SERVER", "no-port"),
        ("HEMAVISION_MODEL_SERVER", "host:http"),
        ("HEMAVISION_MODEL_SERVER", "http://host:8500"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, value):
    """The message names the setting, the value and what is expected."""
    with pytest.raises(SettingsError, match=f"{name}=.*give "):
        Settings.from_environment({name: value})


def test_an_unknown_setting_is_reported():
    """A mistyped name is told, with the names there are."""
    with pytest.raises(SettingsError, match=r"HEMAVISION_PROT.*HEMAVISION_PORT"):
        Settings.from_environment({"HEMAVISION_PROT": "8080"})
