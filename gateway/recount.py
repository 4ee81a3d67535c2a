"""Reading a report that a client sends back to have it counted anew.

The answers are the client's own word for what it was told; so everything is checked that a count
stands on. A field that no report has is refused, since it may be a slip of the pen; what a report
has besides is worked out anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, get_args

from gateway.contract import CLASSES, MODEL_NAME
from gateway.errors import InvalidCells
from gateway.quality import Doubt
from gateway.smear import WORDS, Answer, Photograph, Row, Smear, Status, shown_name
from gateway.wire import Model, Problem
from gateway.wire_series import PhotographLine, ReaderWord, Recount, ReportLine

_BYTES_EACH = 4096  # of a photograph in a report, without an overlay
_LONGEST_TEXT = 1000  # of a sentence in a report, in characters
_MOST_DOUBTS = 10
_FINGERPRINT = re.compile("[0-9a-f]{32}")
_HALVES = re.compile("[\ud800-\udfff]")


def most_bytes(photographs: int) -> int:
    """How long a report of so many photographs may be, without overlays."""
    return _BYTES_EACH * (photographs + 4)


def read_recount(body: bytes, most: int) -> tuple[Smear, int | None]:
    """Read a report of at most ``most`` photographs; return them, and the model's version.

    The version is None where the client left the model out.

    Raises:
        InvalidCells: what cannot be used, and where.
    """
    report = _object(_parsed(body), "The body", {*_fields(ReportLine), *_fields(Recount)})
    entries = _list(report.get("photographs"), "`photographs`", most)
    if not entries:
        _refuse("`photographs` is empty: send those of an earlier report.")
    row = Row()
    photographs = [
        row.settle(_photograph(entry, f"Entry {n}")) for n, entry in enumerate(entries, start=1)
    ]
    _check_numbers(photographs)
    words = _words(_list(report.get("readers", []), "`readers`", 10 * most), photographs)
    version = _version(report["model"]) if "model" in report else None
    versions = () if version is None else (version,)
    return Smear(tuple(photographs), versions).read_by(words), version


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidCells("The body is no JSON: send an earlier report back.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and the like are no JSON


def _photograph(entry: Any, where: str) -> Photograph:
    fields = _object(entry, where, _fields(PhotographLine))
    number, name, word = fields.get("number"), fields.get("name"), fields.get("reader")
    problem, first = fields.get("problem"), fields.get("duplicate_of")
    answered = fields.get("prediction") is not None
    _check(_is_number(number), where, "number", "a whole number from 1")
    _check(name is None or isinstance(name, str), where, "name", "a text or null")
    _check(word is None or word in WORDS, where, "reader", f"{', '.join(WORDS)} or null")
    _check(first is None or _is_number(first), where, "duplicate_of", "a number or null")
    overlay, status = fields.get("heatmap"), fields.get("status", "counted")
    _check(overlay is None or isinstance(overlay, dict), where, "heatmap", "as answered, or null")
    _check(status in get_args(Status), where, "status", ", ".join(get_args(Status)))
    if [problem is not None, first is not None, answered].count(True) != 1:
        _refuse(f"{where} needs one of `prediction`, `duplicate_of` and `problem`.")
    return Photograph(
        fields["number"],
        shown_name(name),
        answer=_answer(fields, where) if answered else None,
        duplicate_of=first,
        problem=_problem(problem, where) if problem is not None else None,
        reader=word,
    )


def _answer(fields: Mapping[str, Any], where: str) -> Answer:
    prediction, confidence = fields["prediction"], fields.get("confidence")
    fingerprint = fields.get("fingerprint")
    known = fingerprint is None or _is_fingerprint(fingerprint)
    _check(known, where, "fingerprint", "as it was answered, or null")
    probabilities, doubts = fields.get("probabilities"), fields.get("abstain_reasons", [])
    _check(prediction in CLASSES, where, "prediction", ", ".join(CLASSES))
    _check(_is_share(confidence), where, "confidence", "a number from 0 to 1")
    shares = probabilities if isinstance(probabilities, dict) else {}
    right = set(shares) == set(CLASSES) and all(map(_is_share, shares.values()))
    _check(right, where, "probabilities", "a number from 0 to 1 for each class")
    reasons = [
        _object(doubt, where, {"reason", "detail"})
        for doubt in _list(doubts, f"`abstain_reasons` of {where}", _MOST_DOUBTS)
    ]
    texts = all(_is_text(r.get("reason")) and _is_text(r.get("detail")) for r in reasons)
    _check(texts, where, "abstain_reasons", "a list of `reason` and `detail`")
    return Answer(
        prediction,
        float(confidence),  # type: ignore[arg-type]  # checked above
        {name: float(shares[name]) for name in CLASSES},
        tuple(Doubt(r["reason"], r["detail"]) for r in reasons),
        fingerprint,
    )


def _problem(problem: Any, where: str) -> Mapping[str, Any]:
    fields = _object(problem, where, _fields(Problem))
    texts = all(_is_text(fields.get(name)) for name in _fields(Problem) - {"status"})
    _check(texts and _is_number(fields.get("status")), where, "problem", "as it was answered")
    return fields


def _check_numbers(photographs: Iterable[Photograph]) -> None:
    """Each number is there once, and duplicates are of what is counted."""
    seen: dict[int, Photograph] = {}
    for photograph in photographs:
        if photograph.number in seen:
            _refuse(f"Photograph {photograph.number} is there twice.")
        seen[photograph.number] = photograph
    counted = {number for number, photograph in seen.items() if photograph.answer}
    for photograph in seen.values():
        if photograph.duplicate_of not in (None, *counted):
            _refuse(f"Photograph {photograph.number} repeats one that is not counted.")


def _words(entries: list[Any], photographs: Iterable[Photograph]) -> dict[int, str | None]:
    numbers = {photograph.number for photograph in photographs}
    words: dict[int, str | None] = {}
    for entry in entries:
        said = _object(entry, "An entry of `readers`", _fields(ReaderWord))
        number, word = said.get("number"), said.get("reader", "")
        if not _is_number(number) or number not in numbers:
            _refuse(f"`readers` speaks of photograph {_shown(number)}, which is not there.")
        if word is not None and word not in WORDS:
            _refuse(f"A reader says {', '.join(WORDS)} or null, not {_shown(word)}.")
        if number in words:
            _refuse(f"`readers` speaks of photograph {number} twice.")
        words[number] = word
    return words


def _version(model: Any) -> int:
    fields = _object(model, "`model`", _fields(Model))
    name, version = fields.get("name", MODEL_NAME), fields.get("version")
    if name != MODEL_NAME:
        _refuse(f"`model` is {_shown(name)}: reports of {MODEL_NAME!r} alone are counted here.")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version < 2**63:
        _refuse("`model` has no `version`: send it as it was answered, or leave it out.")
    return version


def _fields(kind: type) -> set[str]:
    return set(kind.__annotations__)


def _object(value: Any, where: str, fields: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{where} is no JSON object.")
    if unknown := set(value) - fields:
        _refuse(f"{where} has a field {_shown(min(unknown))} that no report has.")
    return value


def _list(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        _refuse(f"{where} is missing, or no list.")
    if len(value) > most:
        _refuse(f"{where} has {len(value):,} entries; at most {most:,} are read.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and bool(_FINGERPRINT.fullmatch(value))


def _is_text(value: Any) -> bool:
    """Tell whether it is a sentence, without half characters that JSON can hold and no file."""
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and not _HALVES.search(value)


def _check(right: bool, where: str, field: str, wanted: str) -> None:
    if not right:
        _refuse(f"`{field}` of {where} is wrong: it is {wanted}.")


def _refuse(message: str) -> NoReturn:
    raise InvalidCells(message)


def _shown(value: Any) -> str:
    return repr(value)[:40].encode(errors="replace").decode()
