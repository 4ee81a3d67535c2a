"""Spans that OpenTelemetry records and sends to a collector. Imported only where it is wanted."""

from __future__ import annotations

import threading
from functools import cached_property
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from gateway.tracecontext import TraceContext
from gateway.tracing import Attributes

_LAST_SECONDS = 2.0


class RecordedSpan:
    """A span of OpenTelemetry's, as ``tracing`` sees it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span

    @cached_property
    def context(self) -> TraceContext:
        """Its place in the trace."""
        given = self._span.get_span_context()
        return TraceContext(
            trace_id=f"{given.trace_id:032x}",
            span_id=f"{given.span_id:016x}",
            sampled=given.trace_flags.sampled,
            state=given.trace_state.to_header(),
        )

    @property
    def findable(self) -> bool:
        """Whether it is recorded."""
        return self.context.sampled

    def child(self, name: str) -> RecordedSpan:
        """Begin a span whose parent is this one."""
        parent = set_span_in_context(self._span, Context())
        return RecordedSpan(self._tracer, self._tracer.start_span(name, parent))

    def end(self, attributes: Attributes, error: str | None) -> None:
        """End it; ``error`` becomes the attribute ``error.type`` and the status ERROR."""
        if attributes:
            self._span.set_attributes(dict(attributes))
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Recorder:
    """Begins requests' spans; ``close`` it, so that the last of them are sent."""

    def __init__(self, exporter: SpanExporter) -> None:
        """The SDK reads the sampler, the limits and the resource from the environment itself."""
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # it has no name
            resource = resource.merge(Resource({SERVICE_NAME: "hemavision"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hemavision", version("hemavision"))

    @classmethod
    def to_collector(cls) -> Recorder:
        """Send by OTLP over HTTP to where the environment says."""
        return cls(OTLPSpanExporter())

    def begin(self, name: str, caller: TraceContext | None) -> RecordedSpan:
        """Begin a request's span, as a child of the caller's where it sent one."""
        # never the ambient context: a request's parent is its caller and nothing else
        parent = set_span_in_context(_remote(caller), Context()) if caller else Context()
        span = self._tracer.start_span(name, parent, kind=SpanKind.SERVER)
        return RecordedSpan(self._tracer, span)

    def close(self) -> None:
        """Send what is not sent yet, for two seconds at most: nobody waits for a collector."""
        # the SDK's own shutdown would wait for all of the exporter's retries
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SECONDS)


def _remote(caller: TraceContext) -> Span:
    return NonRecordingSpan(
        SpanContext(
            trace_id=int(caller.trace_id, 16),
            span_id=int(caller.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if caller.sampled else TraceFlags.DEFAULT),
            trace_state=TraceState.from_header([caller.state]),
        )
    )
