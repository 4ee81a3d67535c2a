"""Every metric of the service, declared once, on a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# prometheus_client's default buckets have none at the 200 ms target
_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5,
)  # fmt: skip


class Metrics:
    """The service's metrics. One object an application, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "hemavision_stage_duration_seconds",
            "Time of one stage of an answered photograph: wait, prepare, predict or explain.",
            ["stage"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "hemavision_photographs_in_flight",
            "Photographs that were let in and are not answered yet.",
            registry=self.registry,
        )
        self.predictions = Counter(
            "hemavision_predictions_total",
            "Photographs answered, by predicted class.",
            ["prediction"],
            registry=self.registry,
        )
        self.abstentions = Counter(
            "hemavision_abstentions_total",
            "Photographs whose answer is not to be taken, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.errors = Counter(
            "hemavision_errors_total",
            "Requests that were refused or failed, by type of problem.",
            ["problem"],
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """Render in Prometheus' text format."""
        return generate_latest(self.registry)
