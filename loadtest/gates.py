"""Was the objective met? One sentence for each way in which it was not."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass

from loadtest.refusal import STATUS
from loadtest.samples import RIGHT, WRONG, Sample

_REFUSED = ("429", "503")


@dataclass(frozen=True)
class Objective:
    """``p99_ms`` is how long 99 of 100 requests may take, for each photograph in one of them.

    ``late_ms`` is how late 99 of 100 may be sent: where the load generator is later, its figures
    say nothing of the service.
    """

    p99_ms: float = 200.0
    late_ms: float = 20.0

    def missed(self, samples: Sequence[Sample]) -> list[str]:
        """Say what was missed; nothing where all was met."""
        return [*_not_answered(samples), *self._too_slow(samples)]

    def unusable(self, samples: Sequence[Sample]) -> str | None:
        """Say why these samples prove nothing, if they do not."""
        if not samples:
            return "Not one request was answered in the time of this test: let it run for longer."
        late = percentile([sample.late_ms for sample in samples], 99)
        if late > self.late_ms:
            return (
                f"The load generator could not keep up: it sent 1 % of the requests {late:.0f} ms "
                f"late or more, where {self.late_ms:g} are allowed. Load less, or use more workers."
            )
        return None

    def _too_slow(self, samples: Sequence[Sample]) -> list[str]:
        kinds: dict[tuple[str, int], list[float]] = defaultdict(list)
        for sample in samples:
            if sample.outcome == RIGHT:
                kinds[sample.name, sample.photographs].append(sample.ms)
        return [
            f"1 % of {name} took {p99:.0f} ms or more, of {len(times)} requests; "
            f"{self.p99_ms * photographs:g} ms are allowed."
            for (name, photographs), times in kinds.items()
            if (p99 := percentile(times, 99)) > self.p99_ms * photographs
        ]


def judge(objective: Objective, samples: Sequence[Sample]) -> int:
    """Say whether the objective was met, and return the exit status.

    A load generator that was late excuses slowness and refusals, and nothing else.
    """
    unusable = objective.unusable(samples)
    if unusable:
        print(unusable, file=sys.stderr)
    missed = _not_answered(samples, _REFUSED) if unusable else objective.missed(samples)
    for sentence in missed:
        print(f"Objective missed: {sentence}", file=sys.stderr)
    if missed:
        return 1
    if unusable:
        return STATUS
    slowest = percentile([sample.ms for sample in samples], 99)
    print(f"Objective met: {len(samples)} requests, 99 % of them within {slowest:.0f} ms.")
    return 0


def _not_answered(samples: Sequence[Sample], excused: Container[str] = ()) -> list[str]:
    outcomes = Counter((sample.name, sample.outcome) for sample in samples)
    asked = Counter(sample.name for sample in samples)
    return [
        _sentence(name, outcome, count, asked[name])
        for (name, outcome), count in sorted(outcomes.items())
        if outcome != RIGHT and outcome not in excused
    ]


def _sentence(name: str, outcome: str, count: int, asked: int) -> str:
    share = f"{count} of {asked} requests of {name}"
    if outcome == WRONG:
        return f"{share} were answered otherwise than by the idle service."
    if outcome == "429":
        return f"{share} got 429: one client may have no more at once, or ask no more often."
    if outcome.isdigit():
        return f"{share} were answered with {outcome}."
    return f"{share} got no answer: {outcome}."


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` % of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
