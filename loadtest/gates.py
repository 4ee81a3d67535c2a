"""Was the objective met? One sentence for each way in which it was not."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.refusal import STATUS
from loadtest.samples import RIGHT, WRONG, Sample

_FEWEST = 100
"""Requests: 1 % of fewer is less than one of them."""


@dataclass(frozen=True)
class Verdict:
    """The exit status, and the sentences that say why."""

    status: int
    sentences: Sequence[str]

    def tell(self) -> None:
        """Print them: a success to the standard output, all else to the standard error."""
        for sentence in self.sentences:
            print(sentence, file=sys.stderr if self.status else sys.stdout)


@dataclass(frozen=True)
class Objective:
    """``p99_ms`` is how long 99 of 100 requests may take, for each photograph in one of them.

    ``late_ms`` is how late 99 of 100 may be sent: where the load generator is later, its figures
    say nothing of the service.
    """

    p99_ms: float = 200.0
    late_ms: float = 20.0

    def missed(self, samples: Sequence[Sample]) -> list[str]:
        """Say what was missed; nothing where all was met.

        A load generator that was late excuses no more than its own lateness: the time of each
        request counts from when it was sent then, not from when it was due.
        """
        return [*_not_answered(samples), *self._too_slow(samples, self._late(samples) != "")]

    def unusable(self, samples: Sequence[Sample]) -> list[str]:
        """Say why these samples do not prove that the objective was met, if they do not."""
        if not samples:
            return ["Not one request was answered in the time of this test: let it run for longer."]
        return [said for said in (_too_few(samples), self._late(samples)) if said]

    def _late(self, samples: Sequence[Sample]) -> str:
        late = [sample.late_ms for sample in samples if sample.late_ms > self.late_ms]
        if len(late) <= _allowed(len(samples)):
            return ""
        return (
            f"The load generator could not keep up: it sent {len(late)} of {len(samples)} requests "
            f"more than {self.late_ms:g} ms late, up to {max(late):.1f} ms; 1 in 100 may be. Load "
            "less, or use more workers."
        )

    def _too_slow(self, samples: Iterable[Sample], late: bool) -> list[str]:
        told = []
        for name, group in _groups([s for s in samples if s.outcome == RIGHT]).items():
            slow = [ms for ms, allowed in self._times(group, late) if ms > allowed]
            if len(slow) > _allowed(len(group)):
                told.append(
                    f"{len(slow)} of {len(group)} requests of {name} took longer than "
                    f"{self.p99_ms:g} ms for each photograph, the slowest {max(slow):.1f} ms; "
                    "1 in 100 may."
                )
        return told

    def _times(self, samples: Iterable[Sample], late: bool) -> list[tuple[float, float]]:
        """Each request's time, and how much it may take, in milliseconds."""
        return [
            (one.ms - one.late_ms if late else one.ms, self.p99_ms * one.photographs)
            for one in samples
        ]


def judge(objective: Objective, samples: Sequence[Sample]) -> Verdict:
    """Say whether the objective was met.

    What was missed was missed, however little else a run proves.
    """
    missed = [f"Objective missed: {sentence}" for sentence in objective.missed(samples)]
    unusable = objective.unusable(samples)
    if missed or unusable:
        return Verdict(1 if missed else STATUS, [*unusable, *missed])
    met = f"Objective met: {len(samples)} requests; 99 % of {_within(samples)} a photograph, where "
    return Verdict(0, [f"{met}{objective.p99_ms:g} ms are allowed.", *_judged_together(samples)])


def _within(samples: Sequence[Sample]) -> str:
    """Say within how many milliseconds, for each photograph in it, 99 % of each kind were."""
    return ", of ".join(
        f"{name} within {percentile([one.ms / one.photographs for one in group], 99):.1f} ms"
        for name, group in sorted(_groups(samples).items())
    )


def _too_few(samples: Sequence[Sample]) -> str:
    if len(samples) >= _FEWEST:
        return ""
    requests = "1 request is" if len(samples) == 1 else f"{len(samples)} requests are"
    return (
        f"{requests} too few to tell how long 99 of 100 take: {_FEWEST} are needed. Let it run for "
        "longer, or load more."
    )


def _judged_together(samples: Iterable[Sample]) -> list[str]:
    rare = _rare(samples)
    if len(rare) < 2:
        return []
    asked = ", ".join(f"{name} ({count})" for name, count in sorted(rare.items()))
    return [f"Judged together, being fewer than {_FEWEST} each: {asked}."]


def _groups(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Sort by kind; those of fewer than 100 requests are one group."""
    rare = _rare(samples)
    together = " and ".join(sorted(rare))
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[together if sample.name in rare else sample.name].append(sample)
    return groups


def _rare(samples: Iterable[Sample]) -> Mapping[str, int]:
    asked = Counter(sample.name for sample in samples)
    return {name: count for name, count in asked.items() if count < _FEWEST}


def _allowed(count: int) -> int:
    """How many of ``count`` may be beyond a limit; a single one is no share of 100."""
    return max(1, count // 100)


def _not_answered(samples: Sequence[Sample]) -> list[str]:
    outcomes = Counter((sample.name, sample.outcome) for sample in samples)
    asked = Counter(sample.name for sample in samples)
    return [
        _sentence(name, outcome, count, asked[name])
        for (name, outcome), count in sorted(outcomes.items())
        if outcome != RIGHT
    ]


def _sentence(name: str, outcome: str, count: int, asked: int) -> str:
    share = f"{count} of {asked} requests of {name}"
    if outcome == WRONG:
        return f"{share} were answered otherwise than by the idle service."
    if outcome == "429":
        return (
            f"{share} got 429: one client may have no more at once (a gateway started with "
            "HEMAVISION_CLIENT_SHARE=1 allows it), or ask no more often (`per_minute` of its key)."
        )
    if outcome.isdigit():
        return f"{share} were answered with {outcome}."
    return f"{share} got no answer: {outcome}."


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` % of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
