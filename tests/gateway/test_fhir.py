"""A differential count as HL7 FHIR R4."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from gateway import fhir
from gateway.annotation import load_reference
from gateway.confusion import Confusion
from gateway.contract import CLASSES
from gateway.differential import (
    NOT_COUNTED,
    OTHER,
    Cell,
    Corrected,
    Differential,
    Interval,
    Made,
    Part,
    Remark,
    Share,
    count,
)
from gateway.finding import STATEMENT, in_words

HERE = Path(__file__).parent
SCHEMA = jsonschema.Draft6Validator(json.loads((HERE / "fhir-r4.schema.json").read_text()))
README = (HERE.parents[1] / "gateway/README.md").read_text()
REFERENCE = load_reference()
LEUKOCYTES = REFERENCE.classes
XHTML = "{http://www.w3.org/1999/xhtml}"

MADE = Made(
    model_name="hemavision",
    model_version=3,
    weights_sha256="92aa" * 16,
    request_id="req-1",
    issued=datetime(2026, 11, 23, 14, 30, 0, 123456, UTC),
    ranges="default ranges, version 1, adults",
    duplicates=0,
    failed=0,
    recounted=False,
)
CONFUSION = Confusion(
    "PBC & BCCD", ((95, 0, 1, 4, 2), (0, 97, 3, 0, 1), (1, 5, 93, 1, 3), (2, 0, 1, 97, 1))
)


def cells(*numbers: int) -> list[Cell]:
    """So many cells of each class, and last, so many that the model would not name."""
    names = (*CLASSES, None)
    return [Cell(name) for name, n in zip(names, numbers, strict=True) for _ in range(n)]


HUNDRED = cells(12, 30, 1, 53, 4)
NORMAL = count(HUNDRED, LEUKOCYTES, CONFUSION)
EMPTY = count([], LEUKOCYTES, CONFUSION)
ALL_UNCLASSIFIED = count(cells(0, 0, 0, 0, 7), LEUKOCYTES, CONFUSION)
UNCORRECTED = count(HUNDRED, LEUKOCYTES, None)
READ = count(
    [
        *HUNDRED,
        Cell("NEUTROPHIL", "NEUTROPHIL"),
        Cell("NEUTROPHIL", "EOSINOPHIL"),
        Cell(None, OTHER),
        Cell("MONOCYTE", NOT_COUNTED),
    ],
    LEUKOCYTES,
    CONFUSION,
)
OVERLAYS = (
    fhir.Attachment("<script>alert('1')</script>\x00\n&.jpg", "NEUTROPHIL", "image/png", b"\x89P"),
    fhir.Attachment("", "EOSINOPHIL", "image/webp", bytes(range(256))),
)
CASES = {
    "normal": (NORMAL, MADE),
    "untold": (count(cells(1, 1, 1, 1, 1), LEUKOCYTES, CONFUSION), MADE),
    "empty": (EMPTY, MADE),
    "without ranges": (count(HUNDRED, REFERENCE.within(None), None), MADE),
    "all unclassified": (ALL_UNCLASSIFIED, MADE),
    "without correction": (UNCORRECTED, MADE),
    "as a reader said": (READ, MADE),
    "recounted": (READ, replace(MADE, recounted=True)),
    "without the weights' hash": (NORMAL, replace(MADE, weights_sha256=None)),
    "from another time zone": (
        NORMAL,
        replace(MADE, issued=datetime(2026, 11, 23, 20, 0, tzinfo=timezone(timedelta(hours=5.5)))),
    ),
    "with heat maps": (NORMAL, MADE, OVERLAYS),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def check(bundle: dict[str, Any]) -> None:
    """It is R4 by HL7's own schema and by the models of ``fhir.resources``, and hangs together."""
    SCHEMA.validate(json.loads(json.dumps(bundle, allow_nan=False)))
    Bundle.model_validate(bundle)
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls)
    assert {part["reference"] for part in parts(bundle) if "reference" in part} <= set(urls)
    for part in parts(bundle):  # R4 knows no empty string, array or object, and no null in these
        assert [key for key, value in part.items() if value in ("", [], {}, None)] == []


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in some JSON."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from parts(inner)


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The bundle's resources of a kind, in order."""
    found = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in found if resource["resourceType"] == kind]


def observations(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The observations, by our name for their code."""
    names = {(code.system, code.code): name for name, code in fhir.codes().items()}
    return {names[coded(o["code"])]: o for o in resources(bundle, "Observation")}


def coded(concept: dict[str, Any]) -> tuple[str, str]:
    """System and code of a concept that has one coding."""
    (coding,) = concept["coding"]
    return coding["system"], coding["code"]


def component(observation: dict[str, Any], name: str) -> Any:
    """The value of a component; a range as low and high."""
    code = fhir.codes()[name]
    (found,) = [c for c in observation["component"] if coded(c["code"]) == (code.system, code.code)]
    if "valueRange" in found:
        return [found["valueRange"][end]["value"] for end in ("low", "high")]
    return found["valueInteger"] if "valueInteger" in found else found["valueQuantity"]["value"]


def ends(interval: Interval) -> Any:
    """Limits as they are to stand in a bundle."""
    return pytest.approx([interval.low, interval.high], abs=0.0005)


@every_case
def test_every_bundle_is_valid_r4(case):
    """By HL7's schema for 4.0.1 and by the models of ``fhir.resources``; no reference dangles."""
    check(fhir.bundle(*case))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("type",), "pile"),
        (("entry", 0, "resource", "status"), "guessed"),
        (("entry", 1, "resource", "valuequantity"), 4),
        (("entry", 1, "resource", "component", 0, "valueInteger"), "four"),
        (("entry", 0, "resource", "issued"), "yesterday"),
    ],
)
def test_the_schema_would_notice(path, value):
    """A wrong code, name, type or date does not pass it."""
    bundle = fhir.bundle(NORMAL, MADE)
    *way, last = path
    inner = bundle
    for step in way:
        inner = inner[step]
    inner[last] = value
    assert not SCHEMA.is_valid(bundle)


texts = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, categories=["L", "N", "P"]))
words = texts.filter(bool)
shares = st.floats(0, 100)
intervals = st.tuples(shares, shares).map(lambda ends: Interval(*sorted(ends)))
corrections = st.none() | st.builds(Corrected, shares, intervals)
counts = st.integers(0, 10**6)
differentials = st.builds(
    Differential,
    cells=counts,
    shares=st.tuples(
        *(
            st.builds(
                Share,
                st.just(name),
                counts,
                shares,
                intervals,
                corrections,
                intervals,
                st.sampled_from([LEUKOCYTES[name], REFERENCE.within(None)[name]]),
                st.sampled_from(["low", "within", "high", "untold"]),
                st.none() | st.integers(1, 10**6),
            )
            for name in CLASSES
        )
    ),
    unclassified=st.builds(Part, counts, shares, intervals),
    other=st.builds(Part, counts, shares, intervals),
    by_reader=counts,
    changed=counts,
    excluded=counts,
    confusion=st.none() | words,
    warnings=st.lists(st.builds(Remark, words, words), max_size=3).map(tuple),
)
attachments = st.lists(
    st.builds(
        fhir.Attachment,
        st.text(st.characters()),
        st.sampled_from(CLASSES),
        st.just("image/png"),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=3,
)


@given(differentials, attachments, st.booleans())
def test_whatever_was_counted_the_bundle_is_valid(differential, overlays, recounted):
    """Any counts, shares, limits and findings, and any bytes as a photograph's name."""
    bundle = fhir.bundle(differential, replace(MADE, recounted=recounted), overlays)
    check(bundle)
    for resource in (entry["resource"] for entry in bundle["entry"]):
        ET.fromstring(resource["text"]["div"])


@given(differentials)
def test_its_numbers_are_those_of_the_count(differential):
    """Shares and limits to the thousandth of a percent, counts exactly."""
    found = observations(fhir.bundle(differential, MADE))
    kinds = {s.name: s for s in differential.shares} | {"unclassified": differential.unclassified}
    if differential.other.count:
        kinds["other"] = differential.other
    assert list(found) == list(kinds)
    for name, part in kinds.items():
        observation = found[name]
        if differential.cells:
            value = observation["valueQuantity"]
            assert value["value"] == pytest.approx(part.percent, abs=0.0005)
            assert (value["system"], value["code"]) == ("http://unitsofmeasure.org", "%")
        assert component(observation, "count") == part.count
        assert component(observation, "cells") == differential.cells
        assert component(observation, "limits") == ends(part.limits)


@given(differentials)
def test_what_was_found_stands_with_what_it_was_found_from(differential):
    """The finding's code and words, the normal range, the widest limits and the correction."""
    found = observations(fhir.bundle(differential, MADE))
    letters = {"low": "L", "within": "N", "high": "H", "untold": "IND"}
    for share in differential.shares:
        observation = found[share.name]
        (interpretation,) = observation["interpretation"]
        assert coded(interpretation)[1] == letters[share.finding]
        assert interpretation["text"] == in_words(share, differential.cells)
        ours = share.leukocyte.normal_range
        assert ("referenceRange" in observation) == bool(ours)
        for theirs in observation.get("referenceRange", ()):
            assert (theirs["low"]["value"], theirs["high"]["value"]) == (ours.low, ours.high)
            assert ours.source in theirs["text"]
            assert MADE.ranges in theirs["text"]
        assert component(observation, "widest") == ends(share.widest)
        if share.corrected:
            percent = pytest.approx(share.corrected.percent, abs=0.0005)
            assert component(observation, "corrected") == percent
            assert component(observation, "corrected-limits") == ends(share.corrected.limits)


def test_without_a_correction_none_is_told():
    """No component stands empty, and the report says that nothing was corrected."""
    corrected = fhir.codes()["corrected"].display
    assert corrected not in json.dumps(fhir.bundle(UNCORRECTED, MADE))
    assert corrected in json.dumps(fhir.bundle(NORMAL, MADE))


def test_where_no_cell_was_counted_there_is_no_share():
    """Not even one of 0 %: the value is absent, with the reason, and nothing can be told."""
    bundle = fhir.bundle(EMPTY, MADE)
    for observation in observations(bundle).values():
        assert "valueQuantity" not in observation
        assert coded(observation["dataAbsentReason"])[1] == "unknown"
    for name in CLASSES:
        assert coded(observations(bundle)[name]["interpretation"][0])[1] == "IND"
    (report,) = resources(bundle, "DiagnosticReport")
    assert "no cell was counted" in report["conclusion"]


def test_unclassified_cells_are_reported_as_such():
    """As a share of their own, with no range to compare it with."""
    unclassified = observations(fhir.bundle(ALL_UNCLASSIFIED, MADE))["unclassified"]
    assert unclassified["valueQuantity"]["value"] == 100
    assert "referenceRange" not in unclassified
    assert "interpretation" not in unclassified


def test_other_white_cells_are_there_only_where_there_are_some():
    """An observation of none of them says nothing."""
    assert "other" in observations(fhir.bundle(READ, MADE))
    assert "other" not in observations(fhir.bundle(NORMAL, MADE))


def test_the_report_leads_to_all_and_says_it_in_words():
    """Preliminary, with every observation and heat map, every finding, warning and the caution."""
    bundle = fhir.bundle(READ, MADE, OVERLAYS)
    (report,) = resources(bundle, "DiagnosticReport")
    by_url = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    assert [by_url[r["reference"]] for r in report["result"]] == resources(bundle, "Observation")
    assert [by_url[m["link"]["reference"]] for m in report["media"]] == resources(bundle, "Media")
    assert report["identifier"][0]["value"] == MADE.request_id
    assert report["status"] == "preliminary"
    for sentence in (
        *(in_words(share, READ.cells) for share in READ.shares),
        "Eosinophil (13 of 103), ",
        "Unclassified cells (4 of 103): 3.9 % (1.1 to 9.6).",
        "Other white cells (1 of 103): 1.0 % (0.0 to 5.3).",
        *(warning.detail for warning in READ.warnings),
        STATEMENT,
    ):
        assert sentence in report["conclusion"]
        assert sentence in text(report)


def test_what_a_reader_excluded_stands_in_the_report():
    """A finding that was taken away leaves a trace."""
    (report,) = resources(fhir.bundle(EXCLUDED, MADE), "DiagnosticReport")
    assert "Photographs not counted: 10 excluded by a reader." in report["conclusion"]
    assert "excluded from the count: 10." in report["conclusion"]


def test_photographs_that_are_not_counted_stand_in_the_report():
    """Those that could not be read, and those that were there already."""
    (report,) = resources(
        fhir.bundle(NORMAL, replace(MADE, duplicates=1, failed=2)), "DiagnosticReport"
    )
    told = "Photographs not counted: 2 that could not be read, 1 there already."
    assert told in report["conclusion"]
    assert told in text(report)
    (report,) = resources(fhir.bundle(NORMAL, MADE), "DiagnosticReport")
    assert "Photographs not counted" not in report["conclusion"]


def text(resource: dict[str, Any]) -> str:
    """What a person reads of a resource."""
    return " ".join(ET.fromstring(resource["text"]["div"]).itertext())


@every_case
def test_what_the_model_made_is_marked(case):
    """Report, observations and heat maps bear both labels, and so does what holds them."""
    bundle = fhir.bundle(*case)
    kinds = ("DiagnosticReport", "Observation", "Media")
    made = [bundle, *(resource for kind in kinds for resource in resources(bundle, kind))]
    for resource in made:
        labels = {label["code"] for label in resource["meta"]["security"]}
        assert labels == {"DEVAST", "AIAST"}


@every_case
def test_nothing_is_invented(case):
    """No patient, person, specimen, encounter, or time of sampling: none of them is known."""
    unknown = r"subject|encounter|performer|specimen|effective|patient|practitioner|created"
    keys = {key for part in parts(fhir.bundle(*case)) for key in part}
    assert [key for key in keys if re.match(unknown, key, re.IGNORECASE)] == []


def test_the_model_is_named_with_its_weights():
    """By name, version and SHA-256; without the last where it is not known."""
    (model,) = resources(fhir.bundle(NORMAL, MADE), "Device")
    assert model["deviceName"][0]["name"] == "hemavision"
    assert model["version"][0]["value"] == "3"
    assert model["identifier"][0]["value"] == MADE.weights_sha256
    (model,) = resources(fhir.bundle(NORMAL, replace(MADE, weights_sha256=None)), "Device")
    assert "identifier" not in model


EXCLUDED = count([*HUNDRED, *[Cell("EOSINOPHIL", NOT_COUNTED)] * 10], LEUKOCYTES, CONFUSION)


@pytest.mark.parametrize(
    ("differential", "agents"),
    [(NORMAL, ["model"]), (READ, ["model", None]), (EXCLUDED, ["model", None])],
)
def test_the_provenance_tells_the_models_work_from_a_readers(differential, agents):
    """The model performed it; a reader without a name is there only where one had a say."""
    bundle = fhir.bundle(differential, MADE, OVERLAYS)
    (provenance,) = resources(bundle, "Provenance")
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert [target["reference"] for target in provenance["target"]] == urls[:-2]
    who = [agent["who"] for agent in provenance["agent"]]
    assert who[0]["reference"] == urls[-2]
    assert len(who) == len(agents)
    assert ("reader" in text(provenance)) == (len(agents) == 2)
    assert all(agent == {"display": "An unnamed reader"} for agent in who[1:])


def test_a_recount_says_that_nothing_was_looked_at():
    """Its source are the answers that came back."""
    for recounted in (False, True):
        (provenance,) = resources(
            fhir.bundle(READ, replace(MADE, recounted=recounted)), "Provenance"
        )
        (entity,) = provenance["entity"]
        assert ("as a client sent it back" in entity["what"]["display"]) == recounted
        assert entity["what"]["display"] in text(provenance)


def test_heat_maps_come_byte_for_byte_with_the_photographs_name():
    """A name is text, never markup; one that cannot be shown has its place taken."""
    media = resources(fhir.bundle(NORMAL, MADE, OVERLAYS), "Media")
    for overlay, resource in zip(OVERLAYS, media, strict=True):
        content = resource["content"]
        assert base64.b64decode(content["data"]) == overlay.data
        assert content["size"] == len(overlay.data)
        assert content["contentType"] == overlay.media_type
        assert "<script" not in resource["text"]["div"]
        assert content["title"] in text(resource)
    titles = [resource["content"]["title"] for resource in media]
    assert titles[0] == "<script>alert('1')</script>  &.jpg: heat map of NEUTROPHIL"
    assert titles[1] == "Photograph: heat map of EOSINOPHIL"


def test_what_cannot_be_shown_leaves_a_space():
    """XML knows no control characters, not even escaped."""
    caution = Remark("odd", "One\x00\x1btwo \ud800 <b>&")
    bundle = fhir.bundle(replace(NORMAL, warnings=(caution,)), MADE)
    (report,) = resources(bundle, "DiagnosticReport")
    assert "One  two   <b>&" in text(report)


@every_case
def test_every_observation_bears_what_to_keep_in_mind(case):
    """It may travel alone: each has every warning of the count as a note."""
    for observation in resources(fhir.bundle(*case), "Observation"):
        notes = [note["text"] for note in observation["note"]]
        assert notes == [warning.detail for warning in case[0].warnings]


@every_case
def test_the_narrative_is_what_fhir_allows(case):
    """XHTML of plain paragraphs, without attributes, in every resource."""
    for entry in fhir.bundle(*case)["entry"]:
        root = ET.fromstring(entry["resource"]["text"]["div"])
        tags = {element.tag.removeprefix(XHTML) for element in root.iter()}
        assert tags == {"div", "p"}
        assert all(element.attrib == {} for element in root.iter())
        assert "".join(root.itertext()).strip()


def test_the_same_answer_gives_the_same_bundle():
    """To the last identifier; another answer shares none, not even under the same request id."""
    bundle = fhir.bundle(NORMAL, MADE, OVERLAYS)
    assert bundle == fhir.bundle(NORMAL, MADE, OVERLAYS)
    urls = {entry["fullUrl"] for entry in bundle["entry"]} | {bundle["identifier"]["value"]}
    for other in (
        replace(MADE, request_id="req-2"),
        replace(MADE, issued=MADE.issued + timedelta(milliseconds=1)),
    ):
        others = {entry["fullUrl"] for entry in fhir.bundle(NORMAL, other, OVERLAYS)["entry"]}
        assert not urls & others


@every_case
def test_every_code_is_in_the_table(case):
    """With its system and display: nothing is coded in passing."""
    known = {(code.system, code.code, code.display) for code in fhir.codes().values()}
    for part in parts(fhir.bundle(*case)):
        for coding in part.get("coding", part.get("security", [])):
            assert (coding["system"], coding["code"], coding["display"]) in known


@pytest.mark.parametrize("code", fhir.codes().values(), ids=fhir.codes())
def test_every_code_is_documented_with_its_source(code):
    """In the README's table, with what it is used for."""
    assert f"| `{code.code}` | {code.display} | {code.source} | {code.remark} |" in README
    assert f"`{code.system}`" in README


@pytest.mark.parametrize(
    "code", [code.code for code in fhir.codes().values() if code.system == "http://loinc.org"]
)
def test_loinc_codes_have_their_check_digit(code):
    """Mod 10 after Luhn, as LOINC has it: a slip of a digit would show."""
    number, check_digit = code.split("-")
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in number[::-2]]
    assert (sum(doubled) + sum(map(int, number[-2::-2])) + int(check_digit)) % 10 == 0
