"""What a client takes, after its ``Accept`` headers (RFC 9110, 12.5). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WEIGHT = re.compile(r"\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """Choose the media type that the client likes best; the first of equals.

    Args:
        accept: the header's value; an empty one takes everything.
        offered: full media types, the service's favourite first.

    Returns:
        One of ``offered``; None where the client takes none of them.
    """
    weights = _weights(accept or "*/*")

    def weight(media: str) -> float:
        ranges = (media, media.partition("/")[0] + "/*", "*/*")  # the narrowest one counts
        return next((weights[r] for r in ranges if r in weights), 0.0)

    best = max(offered, key=weight)
    return best if weight(best) > 0 else None


def takes_gzip(accept_encoding: str) -> bool:
    """Tell whether a reply may be compressed with gzip; without the header it may not."""
    weights = _weights(accept_encoding)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weights(header: str) -> dict[str, float]:
    """Read ``a, b;q=0.5`` as {a: 1, b: 0.5}; parameters other than q play no part."""
    weights: dict[str, float] = {}
    for element in header.lower().split(","):
        name, *parameters = element.split(";")
        found = (_WEIGHT.fullmatch(parameter) for parameter in parameters)
        weights[name.strip()] = next((float(match[1]) for match in found if match), 1.0)
    return weights
