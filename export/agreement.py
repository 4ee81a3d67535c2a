"""How far each way of running the weights agrees with Keras about labelled photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from export.dataset import Photograph, load_input
from export.evaluate import expected_calibration_error
from export.variants import Outputs, Variant
from gateway import contract

_BATCH = 16
_TERMINAL = Console(stderr=True)


class Agreement(NamedTuple):
    """Of one variant about one source's photographs; differences are from the first variant."""

    name: str
    source: str
    photographs: int
    accuracy: float
    calibration_error: float
    changed: int
    """Photographs that are answered otherwise."""
    probability: float
    """Largest difference of a probability."""
    unfamiliar: int
    """Photographs that are turned away, or no longer, otherwise than before."""
    cam: float
    """Of both maps, each scaled to its largest value: a cell's difference that 99 % of the
    photographs nowhere exceed."""
    cam_fine: float
    moved: int
    """Photographs whose hottest cell of the fine map is another."""


def agreements(
    variants: Sequence[Variant], photographs: Sequence[Photograph]
) -> Iterator[Agreement]:
    """Ask every variant about every photograph; the first is what the others are compared with."""
    answers = _answers(variants, photographs)
    labels = np.array([photograph.label for photograph in photographs])
    sources = np.array([photograph.source for photograph in photographs])
    for variant in variants:
        for source in sorted(set(sources)):
            rows = sources == source
            expected, found = (
                {name: array[rows] for name, array in answers[of].items()}
                for of in (variants[0].name, variant.name)
            )
            yield _agreement(variant.name, source, labels[rows], expected, found)


def _answers(variants: Sequence[Variant], photographs: Sequence[Photograph]) -> dict[str, Outputs]:
    replies: dict[str, list[Outputs]] = {variant.name: [] for variant in variants}
    starts = range(0, len(photographs), _BATCH)
    for start in track(starts, "comparing", transient=True, console=_TERMINAL):
        images = np.stack([load_input(p.path) for p in photographs[start : start + _BATCH]])
        for variant in variants:
            replies[variant.name].append(variant.explain(images))
    return {
        name: {output: np.concatenate([reply[output] for reply in of]) for output in of[0]}
        for name, of in replies.items()
    }


def _agreement(
    name: str, source: str, labels: NDArray[np.int64], expected: Outputs, found: Outputs
) -> Agreement:
    logits = found[contract.LOGITS].astype(np.float64)
    before, after = (of[contract.PROBABILITIES].argmax(1) for of in (expected, found))
    return Agreement(
        name,
        source,
        len(labels),
        float((after == labels).mean()),
        expected_calibration_error(logits, labels),
        int((before != after).sum()),
        float(np.abs(expected[contract.PROBABILITIES] - found[contract.PROBABILITIES]).max()),
        _turned_away_otherwise(expected, found),
        _map_difference(expected[contract.CAM], found[contract.CAM]),
        _map_difference(expected[contract.CAM_FINE], found[contract.CAM_FINE]),
        int((_hottest(expected[contract.CAM_FINE]) != _hottest(found[contract.CAM_FINE])).sum()),
    )


def _turned_away_otherwise(expected: Outputs, found: Outputs) -> int:
    if contract.UNFAMILIARITY not in expected:  # weights that were never released
        return 0
    before, after = (
        of[contract.UNFAMILIARITY] > contract.FAMILIAR_UP_TO for of in (expected, found)
    )
    return int((before != after).sum())


def _map_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    away = np.abs(_scaled(expected) - _scaled(found)).max(axis=(1, 2))
    return float(np.quantile(away, 0.99))


def _scaled(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each map [N, h, w] divided by its largest value, as it is shown."""
    largest = maps.max(axis=(1, 2), keepdims=True).astype(np.float64)
    return np.asarray(maps / np.maximum(largest, 1e-12))


def _hottest(maps: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(maps.reshape(len(maps), -1).argmax(1))
