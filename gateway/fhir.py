"""A differential count as HL7 FHIR R4 (4.0.1). Pure: it counts nothing and invents nothing.

No patient, specimen, person or time of sampling is known here, so the bundle names none. What it
says by code is in ``reference/fhir.toml``, each code with its source.
"""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid5

from gateway.differential import Corrected, Differential, Interval, Made, Part, Share
from gateway.figures import percent
from gateway.finding import STATEMENT, counted_in_words, in_words, span
from gateway.ranges import NormalRange

Resource = dict[str, Any]
"""A resource, or a part of one, as JSON."""

_NAMESPACE = UUID("1c7f4bd2-5e2b-4c53-9d0e-6f1c2ad5b7a4")
_NO_DEVICE = "A reading aid, not a medical device."
_PHOTOGRAPHS = "one series of photographs"
_ANSWERS = (
    "what the program answered to photographs in an earlier request, as a client sent it back"
)


@dataclass(frozen=True)
class Attachment:
    """A heat map, to go with the report: ``name`` is the photograph's."""

    name: str
    explained_class: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Code:
    """A code of a code system, with where it comes from and what it is used for."""

    system: str
    code: str
    display: str
    source: str
    remark: str


@cache
def codes() -> Mapping[str, Code]:
    """The table of all codes that a bundle may have, by our names for them."""
    table = _table()
    named = ("system", "systems"), ("source", "sources")
    return {
        name: Code(**{**entry, **{field: table[among][entry[field]] for field, among in named}})
        for name, entry in table["codes"].items()
    }


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("gateway").joinpath("reference/fhir.toml").read_text("utf-8"))


def bundle(
    differential: Differential, made: Made, attachments: Sequence[Attachment] = ()
) -> Resource:
    """Make a collection of the report, its observations, the model and where it all comes from.

    The same answer gives the same bundle, to the last identifier. Shares and limits are in
    percent, to the thousandth.
    """
    observations = _observations(differential, made)
    heatmaps = {f"heatmap-{n}": _heatmap(a, made) for n, a in enumerate(attachments, 1)}
    results = {
        "report": _report(differential, made, observations, heatmaps),
        **observations,
        **heatmaps,
    }
    resources = {
        **results,
        "model": _model(made),
        "provenance": _provenance(differential, made, results),
    }
    return {
        "resourceType": "Bundle",
        "meta": _asserted(),
        "identifier": _identifier("uri", _urn(made, "bundle")),
        "type": "collection",
        "timestamp": _issued(made),
        "entry": [{"fullUrl": _urn(made, name), "resource": r} for name, r in resources.items()],
    }


def _report(
    differential: Differential, made: Made, observations: Iterable[str], heatmaps: Iterable[str]
) -> Resource:
    counted = counted_in_words(differential, made)
    told = [counted, *_findings(differential), *_notes(differential), STATEMENT]
    media = [{"link": _reference(made, name)} for name in heatmaps]
    return {
        "resourceType": "DiagnosticReport",
        "meta": _asserted(),
        "text": _narrative(*told),
        "identifier": [_identifier("request", made.request_id)],
        "status": "preliminary",
        "category": [_concept("hematology")],
        "code": _concept("panel", "Differential count of white blood cells in photographs"),
        "issued": _issued(made),
        "result": [_reference(made, name) for name in observations],
        **({"media": media} if media else {}),
        "conclusion": "\n".join(told),
    }


def _observations(differential: Differential, made: Made) -> dict[str, Resource]:
    parts = {"unclassified": differential.unclassified}
    if differential.other.count:
        parts["other"] = differential.other
    return {
        **{share.name: _of_class(share, differential, made) for share in differential.shares},
        **{name: _observation(name, part, differential, made) for name, part in parts.items()},
    }


def _of_class(share: Share, differential: Differential, made: Made) -> Resource:
    observation = _observation(share.name, share, differential, made)
    corrected = _corrected(share.corrected) if share.corrected else []
    observation["component"] += [*corrected, _component("widest", _limits(share.widest))]
    normal = share.leukocyte.normal_range
    return {
        **observation,
        "interpretation": [_concept(share.finding, in_words(share, differential.cells))],
        **({"referenceRange": [_range(normal, made)]} if normal else {}),
    }


def _observation(name: str, part: Share | Part, differential: Differential, made: Made) -> Resource:
    share = {"valueQuantity": _percent(part.percent)}
    notes = _notes(differential)
    return {
        "resourceType": "Observation",
        "meta": _asserted(),
        "text": _narrative(_finding(name, part, differential.cells), *notes),
        "status": "preliminary",
        "category": [_concept("laboratory")],
        "code": _concept(name),
        "issued": _issued(made),
        **(share if differential.cells else {"dataAbsentReason": _concept("unknown")}),
        **({"note": [{"text": note} for note in notes]} if notes else {}),
        "method": {"text": "Photographs of cells, named by a neural network and counted"},
        "device": _reference(made, "model"),
        "component": [
            _component("count", {"valueInteger": part.count}),
            _component("cells", {"valueInteger": differential.cells}),
            _component("limits", _limits(part.limits)),
        ],
    }


def _corrected(corrected: Corrected) -> list[Resource]:
    return [
        _component("corrected", {"valueQuantity": _percent(corrected.percent)}),
        _component("corrected-limits", _limits(corrected.limits)),
    ]


def _range(normal: NormalRange, made: Made) -> Resource:
    note = f" {normal.note}" if normal.note else ""
    return {
        "low": _percent(normal.low),
        "high": _percent(normal.high),
        "type": _concept("normal"),
        "text": f"{normal.low:g} to {normal.high:g} {normal.unit}. Source: {normal.source}.{note} "
        f"Ranges: {made.ranges}.",
    }


def _heatmap(attachment: Attachment, made: Made) -> Resource:
    name = _printable(attachment.name) or "Photograph"
    title = f"{name}: heat map of {attachment.explained_class}"
    meaning = "Where the model found what speaks for this class; no finding by itself."
    return {
        "resourceType": "Media",
        "meta": _asserted(),
        "text": _narrative(title, meaning),
        "status": "completed",
        "type": _concept("image"),
        "issued": _issued(made),
        "device": _reference(made, "model"),
        "content": {
            "contentType": attachment.media_type,
            "data": base64.b64encode(attachment.data).decode(),
            "size": len(attachment.data),
            "title": title,
            "creation": _issued(made),
        },
        "note": [{"text": meaning}],
    }


def _model(made: Made) -> Resource:
    sha256 = made.weights_sha256
    kind = "Classifier of photographs of stained white blood cells (software)"
    return {
        "resourceType": "Device",
        "text": _narrative(f"{kind}: {_version(made)}.", _NO_DEVICE),
        **({"identifier": [_identifier("weights", sha256)]} if sha256 else {}),
        "deviceName": [{"name": made.model_name, "type": "model-name"}],
        "type": {"text": kind},
        "version": [{"type": {"text": "model"}, "value": str(made.model_version)}],
        "note": [{"text": _NO_DEVICE}],
    }


def _provenance(differential: Differential, made: Made, targets: Iterable[str]) -> Resource:
    by = f"Made by {_version(made)}"
    source = _ANSWERS if made.recounted else _PHOTOGRAPHS
    model = {"type": _concept("performer"), "who": _reference(made, "model")}
    # R4 wants an agent's `who`; a display is a valid reference, and no person was named to us
    reader = {"type": _concept("informant"), "who": {"display": "An unnamed reader"}}
    read = differential.by_reader or differential.excluded
    return {
        "resourceType": "Provenance",
        "text": _narrative(
            f"{by}, and an unnamed reader." if read else f"{by}.", f"From {source}."
        ),
        "target": [_reference(made, name) for name in targets],
        "recorded": _issued(made),
        "agent": [model, reader] if read else [model],
        "entity": [{"role": "source", "what": {"display": source}}],
    }


def _version(made: Made) -> str:
    return f"{made.model_name}, version {made.model_version}"


def _findings(differential: Differential) -> list[str]:
    parts = {"unclassified": differential.unclassified, "other": differential.other}
    return [
        *(_finding(share.name, share, differential.cells) for share in differential.shares),
        *(_finding(name, part, differential.cells) for name, part in parts.items() if part.count),
    ]


def _finding(name: str, part: Share | Part, cells: int) -> str:
    of_all = f"({part.count} of {cells})"
    if isinstance(part, Share):
        return f"{part.leukocyte.name} {of_all}, {in_words(part, cells)}."
    share = f": {percent(part.percent)} ({span(part.limits)})" if cells else ""
    return f"{codes()[name].display} {of_all}{share}."


def _notes(differential: Differential) -> list[str]:
    return [warning.detail for warning in differential.warnings]


def _narrative(*sentences: str) -> Resource:
    paragraphs = "".join(f"<p>{escape(_printable(sentence))}</p>" for sentence in sentences)
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'
    return {"status": "generated", "div": div}


def _printable(words: str) -> str:
    """What XML cannot hold, and a title should not, becomes a space."""
    return "".join(character if character.isprintable() else " " for character in words).strip()


def _asserted() -> Resource:
    return {"security": [_coding("by-device"), _coding("by-ai")]}


def _component(name: str, value: Resource) -> Resource:
    return {"code": _concept(name), **value}


def _concept(name: str, words: str | None = None) -> Resource:
    return {"coding": [_coding(name)], **({"text": words} if words else {})}


def _coding(name: str) -> Resource:
    code = codes()[name]
    return {"system": code.system, "code": code.code, "display": code.display}


def _limits(interval: Interval) -> Resource:
    return {"valueRange": {"low": _percent(interval.low), "high": _percent(interval.high)}}


def _percent(value: float) -> Resource:
    unit = codes()["percent"]
    return {
        "value": round(value, 3),
        "unit": unit.display,
        "system": unit.system,
        "code": unit.code,
    }


def _identifier(system: str, value: str) -> Resource:
    return {"system": _table()["systems"][system], "value": value}


def _issued(made: Made) -> str:
    return made.issued.astimezone(UTC).isoformat(timespec="milliseconds")


def _reference(made: Made, name: str) -> Resource:
    return {"reference": _urn(made, name)}


def _urn(made: Made, name: str) -> str:
    # with the time, since a client may send one request id twice
    return f"urn:uuid:{uuid5(_NAMESPACE, f'{made.request_id} {made.issued.isoformat()} {name}')}"
