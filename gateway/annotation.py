"""What each class means in the clinic, with the source of every statement.

The reference data is ``reference/leukocytes.toml``, and a laboratory's ranges; nothing here adds
to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

from gateway.contract import CLASSES
from gateway.ranges import Band, NormalRange, Ranges, load_ranges


@dataclass(frozen=True)
class Leukocyte:
    """The reference data of one class; no ``normal_range`` where there is none for an age."""

    name: str
    appearance: str
    function: str
    significance: str
    source: str
    color: str
    icon: str
    normal_range: NormalRange | None = None


@dataclass(frozen=True)
class Reference:
    """The reference data of all classes, and what to keep in mind with each.

    ``classes`` are with the ranges of adults.
    """

    statement: str
    classes: Mapping[str, Leukocyte]
    ranges: Ranges

    def within(self, band: Band | None) -> Mapping[str, Leukocyte]:
        """The classes with the ranges of ``band``; with none, without."""
        return {
            name: replace(leukocyte, normal_range=band.classes[name] if band else None)
            for name, leukocyte in self.classes.items()
        }


def load_reference(ranges: Ranges | None = None) -> Reference:
    """Read the reference data that ships with the gateway, and join a laboratory's ranges.

    Raises:
        SettingsError: see ``load_ranges``.
    """
    ranges = ranges or load_ranges()
    data = tomllib.loads(files("gateway").joinpath("reference/leukocytes.toml").read_text("utf-8"))
    sources = data["sources"]
    classes = {n: Leukocyte(**{**data[n], "source": sources[data[n]["source"]]}) for n in CLASSES}
    reference = Reference(data["statement"], classes, ranges)
    return replace(reference, classes=reference.within(ranges.band()))
