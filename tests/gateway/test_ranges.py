"""A laboratory's reference ranges: the right band for a person, and no broken file at the start."""

import re
from pathlib import Path

import pytest

from gateway.annotation import load_reference
from gateway.app import create_app
from gateway.contract import CLASSES
from gateway.errors import SettingsError
from gateway.ranges import load_ranges
from gateway.settings import Settings

CLASSES_TABLE = "\n".join(f"{name} = {{ low = 10, high = 30 }}" for name in CLASSES)
HEAD = 'version = "2026-1"\nsource = "Laboratory A, 240 healthy adults"\n'


def band(*keys: str, classes: str = CLASSES_TABLE) -> str:
    return "\n".join(["[[bands]]", *keys, classes, ""])


@pytest.fixture
def written(tmp_path):
    """Write a file of ranges and return its path."""

    def write(text: str):
        path = tmp_path / "ranges.toml"
        path.write_text(text)
        return path

    return write


def test_the_shipped_ranges_are_for_adults():
    """From 18 on, for any sex; nothing is said of children."""
    ranges = load_ranges()
    assert ranges.band().title == "18 years and older, any sex"
    assert ranges.band(17.9) is None
    assert ranges.band(90, "female") is ranges.band(18) is ranges.band(None, "unknown")
    assert ranges.version
    assert len(ranges.source) > 30


def test_a_band_is_chosen_by_age_and_sex(written):
    """The start belongs to a band, the end to the next; those of a sex come before those of any."""
    own = band('sex = "female"', "from = 18", "to = 50", classes=CLASSES_TABLE.replace("10", "12"))
    path = written(HEAD + band("to = 2") + band("from = 2", "to = 18") + band("from = 18") + own)
    ranges = load_ranges(path)
    titles = {
        (1.99, "male"): "0 to below 2 years, any sex",
        (2, "female"): "2 to below 18 years, any sex",
        (30, "female"): "18 to below 50 years, female",
        (30, "male"): "18 years and older, any sex",
        (30, "other"): "18 years and older, any sex",
        (50, "female"): "18 years and older, any sex",
    }
    assert {person: ranges.band(*person).title for person in titles} == titles
    assert ranges.band(30, "female").classes["MONOCYTE"].low == 12
    assert ranges.band(30).classes["MONOCYTE"].source == "Laboratory A, 240 healthy adults"


def test_the_laboratorys_ranges_stand_in_the_reference_data(written):
    """What is told of one cell names the same range as a count."""
    reference = load_reference(load_ranges(written(HEAD + band("from = 18"))))
    assert reference.classes["MONOCYTE"].normal_range.high == 30
    assert reference.ranges.version == "2026-1"


async def test_a_gateway_answers_with_the_laboratorys_ranges(written, aiohttp_client):
    """The reference data that it serves are the laboratory's."""
    path = written(HEAD + band("from = 18"))
    client = await aiohttp_client(create_app(Settings(ranges=path)))
    classes = (await (await client.get("/v1/reference")).json())["classes"]
    assert {entry["normal_range"]["low"] for entry in classes} == {10}


def test_the_readmes_example_is_taken(written):
    """Whoever copies it starts with a whole file."""
    text = (Path(__file__).parents[2] / "gateway/README.md").read_text()
    example = re.search(r"## Reference ranges.*?```toml\n(.*?)```", text, re.DOTALL)[1]
    bands = load_ranges(written(example)).bands
    assert [band.title for band in bands] == [
        "0 to below 2 years, any sex",
        "2 years and older, any sex",
    ]


def without(name: str) -> str:
    return "\n".join(line for line in CLASSES_TABLE.splitlines() if not line.startswith(name))


def monocyte(value: str) -> str:
    return HEAD + band(classes=f"{without('MONOCYTE')}\nMONOCYTE = {value}")


BROKEN = {
    "not TOML": ("version = x\n", "is no TOML: .*line 1,"),
    "no version": (HEAD.replace("version", "# ") + band(), "needs version"),
    "an empty source": ('version = "1"\nsource = " "\n' + band(), "needs source"),
    "a number as version": ('version = 1\nsource = "a"\n' + band(), "needs version"),
    "no band": (HEAD, r"\[\[bands\]\] for each age"),
    "bands that are none": (HEAD + "bands = [1]", r"\[\[bands\]\] for each age"),
    "a key at the top": ("colour = 1\n" + HEAD + band(), "not `colour`"),
    "an unknown class": (HEAD + band("BASOPHIL = { low = 0, high = 1 }"), "band 1.*not `BASOPHIL`"),
    "a class missing": (HEAD + band(classes=without("MONOCYTE")), "band 1 has no range for MONO"),
    "a range that is none": (monocyte("3"), "band 1: MONOCYTE needs { low"),
    "an end missing": (monocyte("{ low = 3 }"), "band 1: MONOCYTE needs { low"),
    "an end too many": (monocyte("{ low = 3, high = 4, top = 5 }"), "MONOCYTE .*not `top`"),
    "low above high": (monocyte("{ low = 8, high = 2 }"), "MONOCYTE: 8 to 2 is no range"),
    "low as high": (monocyte("{ low = 2, high = 2 }"), "MONOCYTE: 2 to 2 is no range"),
    "above 100": (monocyte("{ low = 8, high = 101 }"), "MONOCYTE: 8 to 101 is no range"),
    "below 0": (monocyte("{ low = -1, high = 9 }"), "MONOCYTE: -1 to 9 is no range"),
    "no number": (monocyte('{ low = "2", high = 9 }'), "MONOCYTE: low has to be a number"),
    "nan": (monocyte("{ low = nan, high = 9 }"), "MONOCYTE: low has to be a number"),
    "true": (monocyte("{ low = true, high = 9 }"), "MONOCYTE: low has to be a number"),
    "an empty note": (monocyte('{ low = 1, high = 9, note = "" }'), "MONOCYTE needs note"),
    "an unknown sex": (HEAD + band('sex = "f"'), "band 1: sex is `female`, `male`"),
    "an age that is text": (HEAD + band('from = "18"'), "band 1: from has to be a number"),
    "an age below 0": (HEAD + band("from = -1"), "band 1: from -1 to inf is no age"),
    "an end before the start": (HEAD + band("from = 18", "to = 18"), "band 1: from 18 to 18"),
    "overlapping bands": (
        HEAD + band("to = 20") + band("from = 18"),
        "`0 to below 20 years, any sex` and `18 years and older, any sex` overlap",
    ),
    "a gap": (
        HEAD + band("to = 2") + band("from = 3"),
        "no band between `0 to below 2 years, any sex` and `3 years and older, any sex`",
    ),
    "no adults": (HEAD + band("to = 18"), "needs a band for any sex at 18 years"),
    "adults of one sex": (HEAD + band('sex = "male"'), "needs a band for any sex at 18 years"),
}


@pytest.mark.parametrize(("text", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_stops_the_start(text, sentence, written):
    """With a sentence that names the file, and the band and class where it can."""
    path = written(text)
    with pytest.raises(SettingsError, match=f"ranges.toml.*{sentence}"):
        create_app(Settings(ranges=path))


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path):
    """Gone, or no text at all."""
    with pytest.raises(SettingsError, match="cannot be read"):
        load_ranges(tmp_path / "gone.toml")
    (tmp_path / "picture.toml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SettingsError, match="is no TOML"):
        load_ranges(tmp_path / "picture.toml")
