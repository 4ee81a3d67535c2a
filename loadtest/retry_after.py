"""When to come back: the header `Retry-After` of a refusal (RFC 9110, 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(value: str, now: datetime) -> float | None:
    """Return how long to wait: the value is a number of seconds, or a date.

    A date that is over is no wait; None is a value that is neither.
    """
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:  # asctime's form names no zone: HTTP's dates are all in UTC (5.6.7)
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
