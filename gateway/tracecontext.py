"""W3C Trace Context: which trace a request belongs to, as HTTP headers and gRPC metadata say it.

Source: https://www.w3.org/TR/trace-context-1/ (Recommendation, 23 November 2021).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

_VERSION = "00"
_SAMPLED = 0x01
# later versions may only append, after a dash; ff is no version
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MOST_MEMBERS = 32
_LONGEST_STATE = 512  # what the standard asks to be passed on, at least


@dataclass(frozen=True)
class TraceContext:
    """One span's place in a trace.

    ``trace_id`` is 32 and ``span_id`` 16 hexadecimal digits in lower case, neither all zero;
    ``sampled`` tells that whoever called records the trace; ``state`` is other systems' own,
    passed on as it came.
    """

    trace_id: str
    span_id: str
    sampled: bool = False
    state: str = ""

    @classmethod
    def begin(cls) -> TraceContext:
        """Begin a trace."""
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    def child(self) -> TraceContext:
        """Return the context of a new span, whose parent is this one."""
        return replace(self, span_id=secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        """This span as the header ``traceparent``, or ``traceresponse``, carries it."""
        return f"{_VERSION}-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def parse(traceparent: Sequence[str], tracestate: Sequence[str] = ()) -> TraceContext | None:
    """Read the caller's span from all the headers of these names; None where there is none.

    A ``traceparent`` that breaks the standard, or comes twice, counts as none, and so does the
    ``tracestate`` with it; a ``tracestate`` that cannot be passed on is left out.
    """
    match = _TRACEPARENT.fullmatch(traceparent[0]) if len(traceparent) == 1 else None
    if match is None or (match["version"] == _VERSION and match["rest"]):
        return None
    return TraceContext(
        trace_id=match["trace"],
        span_id=match["span"],
        sampled=bool(int(match["flags"], 16) & _SAMPLED),
        state=_state(tracestate),
    )


def _state(headers: Sequence[str]) -> str:
    members = [member.strip(" \t") for header in headers for member in header.split(",")]
    members = [member for member in members if member]  # empty ones are allowed, and say nothing
    keys = {member.partition("=")[0] for member in members}
    state = ",".join(members)
    usable = (
        len(keys) == len(members) <= _MOST_MEMBERS
        and len(state) <= _LONGEST_STATE
        and all(_MEMBER.fullmatch(member) for member in members)
    )
    return state if usable else ""
