"""A laboratory's reference ranges: which share of each class is normal, by age and sex.

The file is TOML; ``reference/ranges.toml`` ships with the gateway. What is wrong in it is said
when it is read, and nothing is guessed: a laboratory's own file has to be whole.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from gateway.contract import CLASSES
from gateway.errors import SettingsError

UNIT = "% of white blood cells"

SEXES = ("female", "male")
"""The sexes that a band can be for. Whoever is of neither, or of unknown sex, has those for any."""

ADULT = 18.0
"""The age, in years, that counts where none is given."""

_SHIPPED = "reference/ranges.toml"


@dataclass(frozen=True)
class NormalRange:
    """A share of all white blood cells, with where it comes from."""

    low: float
    high: float
    unit: str
    source: str
    note: str | None = None


@dataclass(frozen=True)
class Band:
    """The ranges of each class for people from ``start`` to below ``end`` years; inf: no end.

    ``sex`` is one of ``SEXES``, or None for any.
    """

    start: float
    end: float
    sex: str | None
    classes: Mapping[str, NormalRange]

    @property
    def title(self) -> str:
        """Whom it is for, in words."""
        years = f"{self.start:g} years and older"
        if self.end < inf:
            years = f"{self.start:g} to below {self.end:g} years"
        return f"{years}, {self.sex or 'any sex'}"


@dataclass(frozen=True)
class Ranges:
    """A laboratory's reference ranges, their version, and where they come from."""

    version: str
    source: str
    bands: tuple[Band, ...]

    def band(self, age: float | None = None, sex: str | None = None) -> Band | None:
        """Return the ranges for an age in years, ``ADULT`` where it is not known, and a sex.

        Those for a sex come before those for any. None: there are no ranges for this age.
        """
        years = ADULT if age is None else age
        fitting = {band.sex: band for band in self.bands if band.start <= years < band.end}
        return fitting.get(sex) or fitting.get(None)


def load_ranges(path: Path | None = None) -> Ranges:
    """Read a file of ranges; without ``path``, those that ship with the gateway.

    Raises:
        SettingsError: it cannot be read, or is not whole; the message names what and where.
    """
    where = f"The ranges file {path or _SHIPPED}"
    try:
        text = (path or files("gateway").joinpath(_SHIPPED)).read_text("utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{where} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # tomllib names line and column
        raise SettingsError(f"{where} is no TOML: {error}.") from error
    _refuse_unknown(where, data, ("version", "source", "bands"))
    version, source = (_text(where, data, name) for name in ("version", "source"))
    bands = tuple(
        _band(f"{where}: band {number}", entry, source)
        for number, entry in enumerate(_tables(where, data.get("bands")), 1)
    )
    _refuse_patchwork(where, bands)
    return Ranges(version, source, bands)


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise SettingsError(f"{where} takes {_listed(known)}, but not {_listed(unknown)}.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(where: str, data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f'{where} needs {name} = "…", a text.')
    return value


def _tables(where: str, bands: object) -> list[dict[str, Any]]:
    if not isinstance(bands, list) or not bands or not all(isinstance(b, dict) for b in bands):
        raise SettingsError(f"{where} needs a table [[bands]] for each age and sex.")
    return bands


def _band(where: str, entry: Mapping[str, Any], source: str) -> Band:
    _refuse_unknown(where, entry, ("from", "to", "sex", *CLASSES))
    start = _number(f"{where}: from", entry.get("from", 0.0))
    end = _number(f"{where}: to", entry["to"]) if "to" in entry else inf
    if not 0 <= start < end:
        raise SettingsError(f"{where}: from {start:g} to {end:g} is no age, in years.")
    sex = entry.get("sex")
    if sex is not None and sex not in SEXES:
        raise SettingsError(f"{where}: sex is {_listed(SEXES)} or left out for any, not {sex!r}.")
    missing = [name for name in CLASSES if name not in entry]
    if missing:
        raise SettingsError(f"{where} has no range for {', '.join(missing)}.")
    classes = {name: _range(f"{where}: {name}", entry[name], source) for name in CLASSES}
    return Band(start, end, sex, classes)


def _range(where: str, entry: object, source: str) -> NormalRange:
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry):
        raise SettingsError(f"{where} needs {{ low = …, high = … }}, in percent.")
    _refuse_unknown(where, entry, ("low", "high", "note"))
    low, high = (_number(f"{where}: {end}", entry[end]) for end in ("low", "high"))
    if not 0 <= low < high <= 100:
        raise SettingsError(
            f"{where}: {low:g} to {high:g} is no range: low has to be below high, and both "
            "between 0 and 100 percent."
        )
    note = _text(where, entry, "note") if "note" in entry else None
    return NormalRange(low, high, UNIT, source, note)


def _number(where: str, value: object) -> float:
    if type(value) not in (int, float) or not -inf < value < inf:  # type: ignore[operator]  # TOML
        raise SettingsError(f"{where} has to be a number, not {value!r}.")
    return float(value)  # type: ignore[arg-type]  # it is one of the two


def _refuse_patchwork(where: str, bands: Sequence[Band]) -> None:
    """Each age has one band of a sex at most, ages between two bands have one, and adults do."""
    for sex in (*SEXES, None):
        own = sorted((b for b in bands if b.sex == sex), key=lambda band: band.start)
        for younger, older in pairwise(own):
            if older.start < younger.end:
                raise SettingsError(f"{where}: `{younger.title}` and `{older.title}` overlap.")
            if older.start > younger.end:
                raise SettingsError(
                    f"{where} has no band between `{younger.title}` and `{older.title}`."
                )
    if not any(b.sex is None and b.start <= ADULT < b.end for b in bands):
        raise SettingsError(
            f"{where} needs a band for any sex at {ADULT:g} years: it is taken where age and sex "
            "are not known."
        )
