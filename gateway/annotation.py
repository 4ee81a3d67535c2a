"""What each class means in the clinic, with the source of every statement.

The reference data is ``reference/leukocytes.toml``; nothing here adds to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from gateway.contract import CLASSES


@dataclass(frozen=True)
class NormalRange:
    """A share of all white blood cells in adults, with where it comes from."""

    low: float
    high: float
    unit: str
    source: str
    note: str | None = None


@dataclass(frozen=True)
class Leukocyte:
    """The reference data of one class."""

    name: str
    appearance: str
    function: str
    significance: str
    source: str
    normal_range: NormalRange
    color: str
    icon: str


@dataclass(frozen=True)
class Reference:
    """The reference data of all classes, and what to keep in mind with each."""

    statement: str
    classes: Mapping[str, Leukocyte]


def load_reference() -> Reference:
    """Read the reference data that ships with the gateway."""
    data = tomllib.loads(files("gateway").joinpath("reference/leukocytes.toml").read_text("utf-8"))
    sources = data["sources"]

    def leukocyte(entry: dict[str, object]) -> Leukocyte:
        normal_range = dict(entry["normal_range"])  # type: ignore[call-overload]  # TOML is untyped
        normal_range["source"] = sources[normal_range["source"]]
        named = {**entry, "source": sources[entry["source"]]}
        return Leukocyte(**{**named, "normal_range": NormalRange(**normal_range)})

    return Reference(data["statement"], {name: leukocyte(data[name]) for name in CLASSES})
