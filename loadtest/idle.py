"""What the idle service says of each photograph: the right answers, and a warm service."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest import sender, target
from loadtest.photographs import Photograph
from loadtest.refusal import refuse
from loadtest.sender import Exchange
from loadtest.target import Target

_PATH = "/v1/classify"


def requests(service: Target, found: Sequence[Photograph]) -> list[bytes]:
    """Build the request for each."""
    return [sender.request(service, _PATH, one.body) for one in found]


def answered(service: Target, found: Sequence[Photograph]) -> list[Exchange]:
    """Ask for each photograph once, one after the other.

    Raises:
        SystemExit: no gateway is there and ready, or one gets no answer; the sentence names it,
            and says why.
    """
    target.check(service)
    exchanges = sender.each_once(service, requests(service, found))
    for one in exchanges:
        if one.status != 200:
            photograph = found[one.photograph]
            refuse(
                f"{photograph.folder}/{photograph.name} got {one.status or 'no answer'} from an "
                f"idle service: {target.detail(one.body) or 'the connection broke'}"
            )
    return exchanges
