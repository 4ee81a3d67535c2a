"""One photograph's answer, for a person to read."""

from __future__ import annotations

import sys
from typing import Any

from gateway.ask.client import sentence
from gateway.ask.outcome import Outcome, remarks
from gateway.ask.terminal import drawing, printable, tell, wrapped
from gateway.figures import percent

_BAR = 24
_TITLE = 14


def show_block(outcome: Outcome) -> None:
    """Print what there is to say about one photograph; a problem on standard error."""
    name = printable(outcome.photograph.name)
    if outcome.reply is not None:
        tell("\n".join(_lines(name, outcome.reply)))
    if outcome.overlay is not None:
        tell(f"  {'Heat map':<{_TITLE}}{printable(outcome.overlay)}")
    if outcome.problem is not None:
        print(f"{name}: {printable(sentence(outcome.problem))}", file=sys.stderr)


def _lines(name: str, reply: dict[str, Any]) -> list[str]:
    timing = reply["timing_ms"]
    within = "within" if reply["within_target"] else "over"
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in timing.items() if stage != "total")
    return [
        f"{name}: {_verdict(reply)}",
        *(_bar(name, value) for name, value in reply["probabilities"].items()),
        *(_paragraph("Not sure", doubt["detail"]) for doubt in reply["abstain_reasons"]),
        *([] if reply["abstain"] else _context(reply["annotation"])),
        *(_paragraph("Note", warning) for warning in remarks(reply)),
        _paragraph(
            "Time",
            f"{timing['total']:.0f} ms, {within} {reply['target_ms']:g} ms ({stages})",
        ),
    ]


def _context(about: dict[str, Any]) -> list[str]:
    """What the class means in the clinic."""
    share = about["normal_range"]
    note = f" {share['note']}" if share["note"] else ""
    normal = f"{share['low']:g} to {share['high']:g} {share['unit']}. {about['statement']}{note}"
    return [
        _paragraph("Function", about["function"]),
        _paragraph("Significance", about["significance"]),
        _paragraph("Normal range", normal),
        _paragraph("Sources", f"{about['source']}; {share['source']}."),
    ]


def _verdict(reply: dict[str, Any]) -> str:
    answer = f"{reply['annotation']['name']}, {percent(100 * reply['confidence'])}"
    return f"not sure (nearest: {answer})" if reply["abstain"] else answer


def _paragraph(title: str, text: str) -> str:
    return wrapped(text, f"  {title:<{_TITLE}}", " " * (_TITLE + 2))


def _bar(name: str, probability: float) -> str:
    filled, chars = round(probability * _BAR), drawing(sys.stdout)
    bar = chars.full * filled + chars.empty * (_BAR - filled)
    return f"  {name:<{_TITLE}}{bar} {percent(100 * probability):>8}"
