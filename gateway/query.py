"""The options of a request's query: one table that both reads and describes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gateway import heatmap, pipeline
from gateway.contract import CLASSES
from gateway.errors import InvalidOption
from gateway.pipeline import Options

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)
_SHOWN = 40  # of what a client sent, in an answer to it


@dataclass(frozen=True)
class Choice:
    """An option that is one of some words."""

    name: str
    meaning: str
    words: tuple[str, ...]
    any_case: bool = False

    def read(self, text: str) -> str:
        """Read a value.

        Raises:
            InvalidOption: it is none of the words.
        """
        chosen = text.upper() if self.any_case else text
        if chosen not in self.words:
            raise InvalidOption(
                f"`{self.name}` is one of {', '.join(self.words)}, not {text[:_SHOWN]!r}."
            )
        return chosen

    def schema(self) -> dict[str, Any]:
        """Describe it as JSON Schema."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True)
class Number:
    """An option that is a number from ``least`` to ``most``."""

    name: str
    meaning: str
    least: float
    most: float

    def read(self, text: str) -> float:
        """Read a value.

        Raises:
            InvalidOption: no number, or out of range.
        """
        number = float(text) if _NUMBER.fullmatch(text) else None
        if number is None or not self.least <= number <= self.most:
            raise InvalidOption(
                f"`{self.name}` is a number from {self.least:g} to {self.most:g}, "
                f"not {text[:_SHOWN]!r}."
            )
        return number

    def schema(self) -> dict[str, Any]:
        """Describe it as JSON Schema."""
        return {"type": "number", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Name:
    """An option that names something which the operator has: letters, digits, ``.``, ``_``, ``-``.

    Whether there is such a thing is found out later.
    """

    name: str
    meaning: str

    def read(self, text: str) -> str:
        """Read a value.

        Raises:
            InvalidOption: no name.
        """
        if not _NAME.fullmatch(text):
            raise InvalidOption(f"`{self.name}` is a name, not {text[:_SHOWN]!r}.")
        return text

    def schema(self) -> dict[str, Any]:
        """Describe it as JSON Schema."""
        return {"type": "string", "pattern": f"^{_NAME.pattern}$"}


Option = Choice | Number | Name

OPTIONS: tuple[Option, ...] = (
    Choice(
        "heatmap",
        "The map drawn over the photograph, its bare cells, or nothing, which is faster.",
        get_args(pipeline.Kind),
    ),
    Choice(
        "explain",
        "Where this class was seen, also in lower case; the predicted one where left out.",
        CLASSES,
        any_case=True,
    ),
    Choice(
        "resolution",
        "HiResCAM at 18 x 18 times LayerCAM there and at 9 x 9, or GradCAM at 4 x 4.",
        get_args(pipeline.Resolution),
    ),
    Choice("colormap", "The colours of the overlay.", heatmap.COLORMAPS),
    Number("alpha", "Share of colour over the specimen where the map is hot.", 0, 1),
    Choice("format", "The overlay's picture format.", get_args(heatmap.PictureFormat)),
    Number(
        "timeout",
        "Seconds after which no answer is wanted any more, at most the service's own deadline.",
        0.001,
        3600,
    ),
    Choice(
        "degrade",
        "Whether the heat map may be left out where there is no time left for it.",
        get_args(pipeline.Degrade),
    ),
)
"""Every option; each is a field of ``pipeline.Options``, which holds its default."""

OVERLAY_OPTIONS = tuple(one for one in OPTIONS if one.name not in ("heatmap", "degrade"))
"""Those of an overlay that is a reply by itself."""

Sex = Literal["female", "male", "other", "unknown"]  # FHIR's administrative genders


@dataclass(frozen=True)
class SeriesOptions:
    """What the client says of the blood, and how it wants it counted.

    ``age`` is in years, None where it is not known; ``correction`` names a source of the model's
    confusion.
    """

    age: float | None = None
    sex: Sex = "unknown"
    correction: str = "largest"
    heatmap: Literal["none", "overlay"] = "none"


SERIES_OPTIONS: tuple[Option, ...] = (
    Number("age", "Whose blood it is, in years; picks the normal ranges.", 0, 150),
    Choice("sex", "Whose blood it is; picks the normal ranges.", get_args(Sex)),
    Name(
        "correction",
        "On which photographs the model's own confusion was measured, to correct for it: a source "
        "that its card names, `largest` (that of most photographs), or `none`.",
    ),
    Choice(
        "heatmap",
        "Whether each photograph comes back with the map over it, or without, which is faster.",
        ("none", "overlay"),
    ),
)
"""The options of a series; each is a field of ``SeriesOptions``, which holds its default."""

_IDLE = {
    "grid": {"alpha", "colormap", "format"},
    "none": {"alpha", "colormap", "degrade", "explain", "format", "resolution"},
}


def read_options(query: Iterable[tuple[str, str]], accepted: Sequence[Option]) -> Options:
    """Read the options of one photograph; some routes accept only some of them.

    Raises:
        InvalidOption: an unknown name, a repeated one, or a value that is not accepted.
    """
    given = _given(query, accepted)
    kind = given.get("heatmap", "overlay")
    idle = sorted(_IDLE.get(kind, set()) & set(given))
    if idle:
        raise InvalidOption(f"With `heatmap={kind}`, {', '.join(idle)} would do nothing.")
    return Options(**given)


def read_series_options(query: Iterable[tuple[str, str]]) -> SeriesOptions:
    """Read the options of a series.

    Raises:
        InvalidOption: as above.
    """
    return SeriesOptions(**_given(query, SERIES_OPTIONS))


def _given(query: Iterable[tuple[str, str]], accepted: Sequence[Option]) -> dict[str, Any]:
    by_name = {option.name: option for option in accepted}
    given: dict[str, Any] = {}
    for name, value in query:
        if name in given:
            raise InvalidOption(f"`{name}` is given twice: give it once.")
        if name not in by_name:
            raise InvalidOption(
                f"There is no option {name[:_SHOWN]!r}. Options are {', '.join(by_name)}."
            )
        given[name] = by_name[name].read(value)
    return given
