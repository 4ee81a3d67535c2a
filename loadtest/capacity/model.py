"""The queue that the closed loops give, and how right it is about the open ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loadtest.capacity import MOST_OFF, OBJECTIVE
from loadtest.capacity.measure import SHARES, Loop, Measured, summed_up
from loadtest.queueing import Replica


def replica(measured: Measured) -> Replica:
    """Make the queue of the lone requests and the closed loops, of nothing else."""
    first, following = (
        np.array([one.ms / 1000 for one in loop.exchanges if one.status == 200])
        for loop in (measured.lone, measured.closed[0])
    )
    return Replica(first, following, tuple(loop.rate for loop in measured.closed))


def predicted(queue: Replica, loop: Loop) -> tuple[float, ...]:
    """Return an open loop's percentiles in seconds, for requests due when the real ones were."""
    return summed_up([queue.times([one.due for one in sent]).tolist() for sent in loop.rounds])


def held(opened: Sequence[Loop]) -> list[Loop]:
    """Return the loads up to the first at which the objective was missed, the lowest first."""
    share, seconds = OBJECTIVE
    at = SHARES.index(share)
    missed = [number for number, loop in enumerate(opened) if loop.percentiles[at] > seconds]
    return list(opened[: missed[0] if missed else None])


def off(queue: Replica, loop: Loop) -> float:
    """Return by what part an open loop's percentiles are off: root mean square of the logarithms.

    One alone, the 99 % of a few hundred requests, is off by some of that by chance.
    """
    ratios = np.divide(predicted(queue, loop), loop.percentiles)
    return float(np.exp(np.sqrt(np.mean(np.log(ratios) ** 2)))) - 1


def doubts(queue: Replica, opened: Sequence[Loop]) -> list[str]:
    """Say why nothing can be concluded, if so."""
    counting = held(opened)
    if not counting:
        return [f"The objective was missed at {opened[0].load:.1f} photographs a second already."]
    if not queue.most(*OBJECTIVE):
        return ["By the model the objective is missed at any load."]
    return [
        f"At {loop.load:.1f} photographs a second the model is off by {100 * error:.0f} %, where "
        f"{100 * MOST_OFF:.0f} % are allowed."
        for loop in counting
        if (error := off(queue, loop)) > MOST_OFF
    ]


def holds(queue: Replica, opened: Sequence[Loop]) -> float:
    """Return up to how many a second the objective holds: predicted, and seen of no fewer."""
    return min(queue.most(*OBJECTIVE), held(opened)[-1].load)


def pods(wanted: float, each: float) -> int:
    """Return how many hold ``wanted`` a second at ``each``: one more, for the one that is lost."""
    return math.ceil(wanted / each) + 1
