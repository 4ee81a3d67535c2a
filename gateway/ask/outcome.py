"""What became of one photograph, and of many."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from gateway.ask.photographs import Photograph

Json = dict[str, Any]


class Outcome(NamedTuple):
    """A reply or a problem; both where the answer stands and its overlay was not written.

    ``overlay`` is the path of the overlay that was written. The reply's heat map is without the
    picture's bytes.
    """

    photograph: Photograph
    reply: Json | None
    overlay: str | None
    problem: Json | None

    @property
    def answer(self) -> str:
        """The class's name; `not sure` and `refused` where none is to be taken."""
        if self.reply is None:
            return "refused"
        return "not sure" if self.reply["abstain"] else str(self.reply["annotation"]["name"])

    def as_json(self) -> Json:
        """One line's worth: always the same four names."""
        return {
            "file": self.photograph.name,
            "reply": self.reply,
            "overlay": self.overlay,
            "problem": self.problem,
        }


class Tally:
    """Counts of outcomes."""

    def __init__(self) -> None:
        self.total = self.not_sure = self.refused = self.problems = 0
        self.answers: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.total += 1
        self.problems += outcome.problem is not None
        if outcome.reply is None:
            self.refused += 1
        elif outcome.reply["abstain"]:
            self.not_sure += 1
        else:
            self.answers[outcome.answer] += 1


def remarks(reply: dict[str, Any]) -> list[str]:
    """What is to be said against a photograph, but for what was given as a reason already."""
    given = {doubt["reason"] for doubt in reply["abstain_reasons"]}
    return [flag["detail"] for flag in reply["quality"]["flags"] if flag["flag"] not in given]
