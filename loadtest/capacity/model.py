"""Fit the queue to what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from loadtest.capacity.measure import SHARES, Measured, Point
from loadtest.queueing import Replica


def fitted(measured: Measured) -> Replica:
    """Fit servers and capacity to every second load, by least squares of the logarithms."""
    points = fitted_points(measured.points)
    scv = float(measured.alone.var() / measured.alone.mean() ** 2)
    candidates = [
        Replica(servers, measured.capacity * share, measured.alone, scv)
        for servers, share in itertools.product(range(1, 17), np.arange(0.9, 1.21, 0.02))
    ]
    return min(candidates, key=lambda replica: _errors(replica, points))


def fitted_points(points: Sequence[Point]) -> Sequence[Point]:
    """The loads that the queue is fitted to."""
    return points[::2]


def predicted_points(points: Sequence[Point]) -> Sequence[Point]:
    """The loads between, which it is compared with."""
    return points[1::2]


def typical_error(replica: Replica, points: Sequence[Point]) -> float:
    """Return by what part the percentiles are off: root mean square of the logarithms."""
    return math.exp((_errors(replica, points) / (len(points) * len(SHARES))) ** 0.5) - 1


def _errors(replica: Replica, points: Sequence[Point]) -> float:
    return sum(
        math.log(replica.percentile(share, point.rate) / seen) ** 2
        for point in points
        for share, seen in zip(SHARES, point.percentiles, strict=True)
    )
