"""How fast each way of running the weights is, beside the machine's own matrix multiplication.

Everything is timed once in each round, so that whatever else the machine does falls on all alike,
in an order that is drawn anew: nothing always follows the same. What is compared are ratios within
a round.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from export.variants import Variant

BATCHES = (1, 2, 4, 8)
MATMUL = "matmul"
"""The name of the floor: the same number of operations in one product of well-shaped matrices."""

_SIDE = 1024
"""Columns of both matrices: enough that a product runs at the machine's full rate."""
_TERMINAL = Console(stderr=True)


class Timing(NamedTuple):
    """One run: ``seconds`` for ``batch`` photographs, ``what`` is an answer or an explanation."""

    round: int
    name: str
    what: str
    batch: int
    seconds: float


def operations(model: keras.Model) -> int:
    """Multiplications and additions for one photograph, of convolutions and dense layers."""
    return 2 * sum(map(_products, model.layers))


def measure(
    variants: Sequence[Variant], images: NDArray[np.uint8], operations: int, rounds: int
) -> list[Timing]:
    """Time each variant and the floor at each batch size; ``images`` are 8 or more.

    The order within a round is drawn, from a fixed seed.
    """
    runs: list[tuple[str, str, int, Callable[[], Any]]] = []
    for batch in BATCHES:
        some = images[:batch]
        runs.append((MATMUL, "answer", batch, _floor(batch * operations)))
        for variant in variants:
            runs.append((variant.name, "answer", batch, _bound(variant.answer, some)))
            runs.append((variant.name, "explanation", batch, _bound(variant.explain, some)))
    for *_, run in runs:
        run()
        run()
    dice = random.Random(7)  # noqa: S311  # no secret
    return [
        Timing(number, name, what, batch, _seconds(run))
        for number in track(range(rounds), "timing", transient=True, console=_TERMINAL)
        for name, what, batch, run in dice.sample(runs, len(runs))
    ]


class Figures(NamedTuple):
    """A variant's medians: milliseconds a photograph, and ratios to the floor of the same round."""

    milliseconds: dict[int, float]
    """By batch size."""
    explained: dict[int, float]
    """The same with both maps."""
    ratio: dict[int, float]
    """By batch size."""
    spread: tuple[float, float]
    """The quartiles of the ratio for one photograph."""


def figures(timings: Iterable[Timing], name: str) -> Figures:
    """Sum up what was timed of one variant, or of the floor."""
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for timing in timings:
        of = found.setdefault((timing.name, timing.what, timing.batch), {})
        of[timing.round] = timing.seconds
    what: dict[str, dict[int, float]] = {"answer": {}, "explanation": {}}
    ratios: dict[int, NDArray[np.float64]] = {}
    for (variant, kind, batch), seconds in found.items():
        if variant != name:
            continue
        what[kind][batch] = 1000 * float(np.median(list(seconds.values()))) / batch
        if kind == "answer":
            floor = found[MATMUL, "answer", batch]
            ratios[batch] = np.array([seconds[n] / floor[n] for n in seconds])
    low, high = np.quantile(ratios[1], (0.25, 0.75))
    medians = {batch: float(np.median(of)) for batch, of in ratios.items()}
    return Figures(what["answer"], what["explanation"], medians, (float(low), float(high)))


def write(timings: Iterable[Timing], path: Path) -> None:
    """Write what was timed as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Timing._fields)
        rows.writerows(timing._replace(seconds=round(timing.seconds, 6)) for timing in timings)


def _products(layer: keras.Layer) -> int:
    match layer:
        case layers.SeparableConv2D():
            places = int(np.prod(layer.output.shape[1:3]))
            return places * (
                int(np.prod(layer.depthwise_kernel.shape))
                + int(np.prod(layer.pointwise_kernel.shape))
            )
        case layers.Conv2D():
            return int(np.prod(layer.output.shape[1:3]) * np.prod(layer.kernel.shape))
        case layers.Dense():
            return int(np.prod(layer.kernel.shape))
        case _:
            return 0


def _floor(operations: int) -> Callable[[], Any]:
    session, product = _product(operations)
    return lambda: session.run(product)


def _product(operations: int) -> tuple[tf.compat.v1.Session, tf.Operation]:
    """A product of float32 matrices with as many operations, in a session like the variants'.

    The left one is a variable, or the product would be worked out once and kept; it is not fed,
    because to feed is to copy. It is the operation, not its value: nothing is copied out either.
    """
    rows = max(1, round(operations / (2 * _SIDE * _SIDE)))
    numbers = np.random.default_rng(5)
    graph = tf.Graph()
    with graph.as_default():
        left = tf.compat.v1.get_variable(
            "left", initializer=numbers.random((rows, _SIDE), np.float32), use_resource=True
        )
        right = tf.constant(numbers.random((_SIDE, _SIDE), np.float32))
        product = tf.matmul(left, right).op
    session = tf.compat.v1.Session(graph=graph)
    session.run(left.initializer)
    return session, product


def _bound(function: Callable[[Any], Any], images: NDArray[np.uint8]) -> Callable[[], Any]:
    return lambda: function(images)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
