"""How well a differential is counted: slides of known composition, drawn from photographs.

A slide is so many cells, each of a class drawn by the composition and shown on a test photograph
drawn from that class's, with replacement; the model's answers to the photographs are counted and
corrected as the gateway does it (``gateway/differential.py``), by a confusion that was measured on
validation photographs. Pure but for the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from export.evaluate import Answers
from gateway.annotation import load_reference
from gateway.confusion import Confusion
from gateway.contract import CLASSES, FAMILIAR_UP_TO
from gateway.differential import Cell, Finding, Interval, Share, compare, count

COMPOSITIONS: dict[str, tuple[float, ...]] = {
    "normal": (3, 30, 6, 61),
    "eosinophilia": (12, 24, 5, 59),
    "lymphocytosis": (2, 60, 5, 33),
    "neutrophilia": (1.5, 12, 4.5, 82),
    "monocytosis": (2, 25, 15, 58),
}
"""True shares of the classes, in percent and in the classes' order. None is near an end of its
adults' range: what is told of it can be right or wrong."""

CELLS = (50, 100, 200, 500)
"""Cells a slide."""

_TERMINAL = Console(stderr=True)

Pool = Mapping[str, Sequence[str | None]]
"""What the model answered to the photographs of each class; None: it abstained."""


def study(
    answers: Answers, confusions: Mapping[str, Confusion], slides: int = 1000
) -> dict[str, Any]:
    """Count slides of each composition and size from each source's photographs.

    Each is counted without a correction (`none`), and corrected by its source's own confusion: it
    is not meant to hold for another laboratory's photographs.

    Returns:
        What JSON can hold: for each source its photographs and its ``results``, one for each
        correction, composition and number of cells.

    Raises:
        ValueError: a source lacks photographs of a class.
    """
    report: dict[str, Any] = {
        "slides": slides,
        "compositions": {name: list(shares) for name, shares in COMPOSITIONS.items()},
        "sources": {},
    }
    for source in sorted({p.source for p in answers.photographs}):
        pool = pool_of(answers.where(lambda p, s=source: p.source == s))  # type: ignore[misc]  # bound
        corrections: dict[str, Confusion | None] = {"none": None}
        if source in confusions:
            corrections[source] = confusions[source]
        report["sources"][source] = {
            "photographs": {name: len(pool[name]) for name in CLASSES},
            "results": _results(pool, corrections, slides, source),
        }
    return report


def pool_of(answers: Answers) -> Pool:
    """Sort the answers by the true class of their photographs.

    Raises:
        ValueError: a class has none.
    """
    named = answers.logits.argmax(1)
    pool: dict[str, list[str | None]] = {name: [] for name in CLASSES}
    for label, said, strange in zip(answers.labels, named, answers.unfamiliarity, strict=True):
        pool[CLASSES[label]].append(CLASSES[said] if strange <= FAMILIAR_UP_TO else None)
    missing = [name for name in CLASSES if not pool[name]]
    if missing:
        raise ValueError(f"there is no photograph of {', '.join(missing)} to make slides of")
    return pool


def _results(
    pool: Pool, corrections: Mapping[str, Confusion | None], slides: int, title: str
) -> list[dict[str, Any]]:
    cases = [(c, name, n) for c in corrections for name in COMPOSITIONS for n in CELLS]
    return [
        {
            "correction": correction,
            "composition": name,
            "cells": cells,
            "classes": simulate(pool, COMPOSITIONS[name], cells, corrections[correction], slides),
        }
        for correction, name, cells in track(cases, title, transient=True, console=_TERMINAL)
    ]


def simulate(
    pool: Pool, composition: Sequence[float], cells: int, confusion: Confusion | None, slides: int
) -> dict[str, dict[str, Any]]:
    """Count slides of one composition and size; the same slides whatever the ``confusion``."""
    leukocytes = load_reference().classes
    generator = np.random.default_rng(cells)
    counted = [
        count(draw_slide(generator, pool, composition, cells), leukocytes, confusion).shares
        for _ in range(slides)
    ]
    by_class = zip(*counted, strict=True)
    return {
        name: judged(shares, true)
        for name, shares, true in zip(CLASSES, by_class, composition, strict=True)
    }


def draw_slide(
    generator: np.random.Generator, pool: Pool, composition: Sequence[float], cells: int
) -> list[Cell]:
    """Draw cells: their classes by the composition, in percent, then a photograph each."""
    numbers = generator.multinomial(cells, np.array(composition) / 100)
    return [
        Cell(pool[name][photograph])
        for name, number in zip(CLASSES, numbers, strict=True)
        for photograph in generator.integers(len(pool[name]), size=number)
    ]


def judged(shares: Sequence[Share], true: float) -> dict[str, Any]:
    """What was said of one class on many slides, against its true share in percent.

    ``raw``, ``corrected`` and ``widest`` tell how often those limits hold it, and ``width`` how
    wide the widest are on average; ``told`` how often it is found on its side of the range, or
    within, and ``flagged_wrongly`` how often it is called low or high and is not.
    """
    truth = compare(Interval(true, true), shares[0].leukocyte.normal_range)
    findings = Counter(share.finding for share in shares)
    flags: tuple[Finding, ...] = ("low", "high")
    wrong = sum(findings[flag] for flag in flags if flag != truth)
    corrected = [share.corrected.limits for share in shares if share.corrected]
    widest = [share.widest for share in shares]
    return {
        "true": true,
        "truth": truth,
        "raw": _held([share.limits for share in shares], true),
        "corrected": _held(corrected, true) if corrected else None,
        "widest": _held(widest, true),
        "width": round(float(np.mean([limits.high - limits.low for limits in widest])), 2),
        "told": round(findings[truth] / len(shares), 4),
        "flagged_wrongly": round(wrong / len(shares), 4),
    }


def _held(limits: Sequence[Interval], true: float) -> float:
    return round(sum(i.low <= true <= i.high for i in limits) / len(limits), 4)
