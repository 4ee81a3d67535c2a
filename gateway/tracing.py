"""One request as it is followed: its ids, and how long each of its stages took.

The request's task carries the current span, so that nothing has to be handed through the
modules between: a stage times itself, the log and the model client read the ids. Who records
the spans is decided by ``app``; without a recorder they are ids alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol

from gateway.tracecontext import TraceContext

Attributes = Mapping[str, str | int]


class Span(Protocol):
    """One timed part of a request."""

    @property
    def context(self) -> TraceContext:
        """Its place in the trace."""
        ...

    @property
    def findable(self) -> bool:
        """Whether its trace's id leads anywhere: to what was recorded, or else to the log."""
        ...

    def child(self, name: str) -> Span:
        """Begin a part of this part."""
        ...

    def end(self, attributes: Attributes, error: str | None) -> None:
        """End it, with what was learnt, and with the kind of error that it ended in."""
        ...


Begin = Callable[[str, TraceContext | None], Span]
"""Begins a request's span from its name and the caller's span."""


@dataclass(frozen=True)
class Unrecorded:
    """A span that is its ids alone."""

    context: TraceContext
    findable: bool = True

    def child(self, _: str) -> Unrecorded:
        """Return this span: nobody would see another."""
        return self

    def end(self, attributes: Attributes, error: str | None) -> None:
        """Forget it."""


def unrecorded(_: str, caller: TraceContext | None) -> Unrecorded:
    """Begin a request's span that nobody records."""
    return Unrecorded(caller.child() if caller else TraceContext.begin())


@dataclass(frozen=True)
class Trace:
    """The request in hand, at its current span; ``stages_ms`` is what its stages took so far."""

    request_id: str
    span: Span
    stages_ms: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request's head."""
        return (time.perf_counter() - self.started) * 1000

    @property
    def trace_id(self) -> str:
        """The id of the whole trace."""
        return self.span.context.trace_id

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What a call to another service carries, in lower case as gRPC wants its metadata."""
        context = self.span.context
        state = (("tracestate", context.state),) if context.state else ()
        return (("traceparent", context.traceparent), *state, ("x-request-id", self.request_id))

    @property
    def exemplar(self) -> dict[str, str] | None:
        """The labels of an exemplar; None where they would lead nowhere."""
        return {"trace_id": self.trace_id} if self.span.findable else None


_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current() -> Trace | None:
    """Return the trace of the request that this task answers; None outside of one."""
    return _CURRENT.get()


@contextmanager
def following(trace: Trace) -> Iterator[Trace]:
    """Make a trace the current one."""
    token = _CURRENT.set(trace)
    try:
        yield trace
    finally:
        _CURRENT.reset(token)


@dataclass
class Stage:
    """What a stage took, in milliseconds, once it has ended; ``inner_ms`` is of those within it."""

    ms: float = 0.0
    inner_ms: float = 0.0


_ENCLOSING: ContextVar[Stage | None] = ContextVar("stage", default=None)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Time one stage, as a span of the current request where there is one.

    A stage that a request goes through several times adds up; what a stage within it took is not
    its own.
    """
    timed, started = Stage(), time.perf_counter()
    enclosing = _ENCLOSING.get()
    token = _ENCLOSING.set(timed)
    try:
        with _span(name):
            yield timed
    finally:
        _ENCLOSING.reset(token)
        whole = (time.perf_counter() - started) * 1000
        timed.ms = whole - timed.inner_ms
        if enclosing:
            enclosing.inner_ms += whole
        if trace := current():
            trace.stages_ms[name] = trace.stages_ms.get(name, 0.0) + timed.ms


@contextmanager
def _span(name: str) -> Iterator[None]:
    trace = current()
    if trace is None:
        yield
        return
    span, error = trace.span.child(name), None
    try:
        with following(replace(trace, span=span)):
            yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        span.end({}, error)
