"""When requests come, in an open loop: by their own clock, whatever became of those before."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Return instants of independent people: ``rate`` a second on average, in seconds."""
    return list(itertools.takewhile(lambda instant: instant < seconds, _stream(rate, seed)))


def _stream(rate: float, seed: int) -> Iterator[float]:
    gaps = random.Random(seed)  # noqa: S311  # no secret
    return itertools.accumulate(gaps.expovariate(rate) for _ in itertools.count())
