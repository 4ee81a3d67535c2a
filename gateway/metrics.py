"""Every metric of the service, declared once, on a registry of its own.

Names and units follow https://prometheus.io/docs/practices/naming/. No label takes what a client
can choose: routes, methods, stages, classes and reasons are ours, versions the model server's.
"""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as PlainHistogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway import tracing

# prometheus_client's default buckets have none at the 200 ms target
_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5,
)  # fmt: skip
# the largest of four shares is at least a quarter
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)

WITHIN, LATE, FAILED = "within_target", "late", "failed"
"""What can become of a photograph that was fit to be answered."""

_CELLS = (1, 10, 50, 100, 200, 400, 1000, 2000)
"""Photographs of a series; laboratories count 100, 200 or 400 cells."""

_OPENMETRICS = "application/openmetrics-text"


class Histogram(PlainHistogram):
    """A histogram whose buckets name the trace of the request that fell into them last."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe ``amount``, with the current request as its exemplar."""
        trace = tracing.current()
        super().observe(amount, exemplar or (trace.exemplar if trace else None))


class Metrics:
    """The service's metrics. One object an application, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._model_version: str | None = None
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.build = Gauge(
            "hemavision_build_info",
            "1, with the version of this gateway.",
            ["version"],
            registry=self.registry,
        )
        self.build.labels(version("hemavision")).set(1)
        self.model = Gauge(
            "hemavision_model_info",
            "1, with the version of the model that was seen last.",
            ["version"],
            registry=self.registry,
        )
        self.model_available = Gauge(
            "hemavision_model_available",
            "1 while the model server has a model to answer with, 0 while it has none.",
            registry=self.registry,
        )
        self.requests = Counter(
            "hemavision_requests_total",
            "HTTP requests answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "hemavision_request_duration_seconds",
            "From the request's head to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "hemavision_stage_duration_seconds",
            "Time of one stage of an answered photograph: wait, prepare, predict or explain.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rpc_seconds = Histogram(
            "hemavision_rpc_duration_seconds",
            "Time of one call of the model server, gRPC's own retry included.",
            ["signature", "version", "code"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.photographs = Counter(
            "hemavision_photographs_total",
            "Photographs fit to be answered: within the target, late, or failed by the service.",
            ["outcome"],
            registry=self.registry,
        )
        # a rate over what is not there yet is no zero, and misses the first
        for outcome in (WITHIN, LATE, FAILED):
            self.photographs.labels(outcome)
        self.in_flight = Gauge(
            "hemavision_photographs_in_flight",
            "Photographs that were let in and are not answered yet.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "hemavision_photographs_waiting",
            "Photographs that wait to be let in.",
            registry=self.registry,
        )
        self.refusals = Counter(
            "hemavision_refused_total",
            "Photographs not let in, by reason: client, queue, wait, deadline or memory.",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("client", "queue", "wait", "deadline", "memory"):
            self.refusals.labels(reason)
        self.degraded = Counter(
            "hemavision_degraded_total",
            "Photographs answered without the heat map that was asked for.",
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            "hemavision_breaker_open",
            "1 while the model server is left alone since it failed several times in a row.",
            registry=self.registry,
        )
        self.canary = Counter(
            "hemavision_canary_photographs_total",
            "Photographs for which the version on trial was asked: it answered, the stable version "
            "replaced it, or both failed.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("answered", "replaced", "failed"):
            self.canary.labels(outcome)
        self.predictions = Counter(
            "hemavision_predictions_total",
            "Photographs answered, by predicted class and version of the model.",
            ["prediction", "version"],
            registry=self.registry,
        )
        self.confidence = Histogram(
            "hemavision_prediction_confidence_ratio",
            "Confidence of the predictions, by predicted class and version of the model.",
            ["prediction", "version"],
            buckets=_SHARES,
            registry=self.registry,
        )
        self.abstentions = Counter(
            "hemavision_abstentions_total",
            "Photographs whose answer is not to be taken, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.series = Histogram(
            "hemavision_series_photographs",
            "Photographs of a series that was counted.",
            buckets=_CELLS,
            registry=self.registry,
        )
        self.errors = Counter(
            "hemavision_errors_total",
            "Requests that were refused or failed, by type of problem.",
            ["problem"],
            registry=self.registry,
        )
        self.certificate_end = Gauge(
            "hemavision_certificate_expiry_timestamp_seconds",
            "When the certificate ends that is shown to clients (http) or to the model server.",
            ["peer"],
            registry=self.registry,
        )

    def observe_rpc(self, signature: str, model_version: str, code: str, seconds: float) -> None:
        """Observe one call of the model server; ``model_version`` is empty where it told none."""
        self.observe_canary(signature, model_version, code, seconds)
        if model_version:
            self.see_model(model_version)

    def observe_canary(self, signature: str, model_version: str, code: str, seconds: float) -> None:
        """Observe one call to the version on trial, which is not the one that is served."""
        self.rpc_seconds.labels(signature, model_version, code).observe(seconds)

    def see_model(self, model_version: str) -> None:
        """Show this version as the one that is served."""
        if model_version != self._model_version:  # clearing costs more than all else of a call
            self._model_version = model_version
            self.model.clear()
            self.model.labels(model_version).set(1)
            self.model_available.set(1)

    def miss_model(self) -> None:
        """Show that there is none to answer."""
        self._model_version = None
        self.model_available.set(0)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Render for Prometheus, with its media type.

        OpenMetrics, with exemplars, for a scraper whose ``Accept`` names it; else the plain text.
        """
        kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
        if _OPENMETRICS in kinds:
            rendered: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return rendered, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4
