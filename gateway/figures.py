"""How the figures of a count are written, wherever people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_DIGITS = (1, 2, 3)


def percent(value: float) -> str:
    """Write a share; neither all nor nothing comes from rounding."""
    if 0 < value < 0.05:
        return "< 0.1 %"
    if 99.95 <= value < 100:
        return "> 99.9 %"
    return f"{value:.1f} %"


def span(low: float, high: float, ends: Sequence[float] = ()) -> str:
    """Write limits in percent, so finely that rounding moves neither over one of ``ends``."""
    digits = next((d for d in _DIGITS if _apart((low, high), ends, d)), _DIGITS[0])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _apart(limits: Sequence[float], ends: Sequence[float], digits: int) -> bool:
    """Is each limit on the same side of each end when it is rounded?"""
    return all(
        (limit > end, limit < end) == (round(limit, digits) > end, round(limit, digits) < end)
        for limit in limits
        for end in ends
    )
