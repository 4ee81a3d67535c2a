"""Whether the environment asks for recorded traces, by OpenTelemetry's own names.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ lists them; its
SDK reads all but the switch itself. It is an extra, and is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.errors import SettingsError
from gateway.tracing import Begin

_DISABLED = "OTEL_SDK_DISABLED"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


class Recorder(Protocol):
    """What records requests' spans; ``close`` it, so that the last of them are sent."""

    @property
    def begin(self) -> Begin:
        """Begin a request's span."""
        ...

    def close(self) -> None:
        """Send what is not sent yet, within a few seconds."""
        ...


def recorder(environment: Mapping[str, str]) -> Recorder | None:
    """Build the recorder that the environment asks for; None where it asks for none.

    Raises:
        SettingsError: it asks for something else than OTLP over HTTP, or the extra is missing.
    """
    if not _wanted(environment):
        return None
    try:
        from gateway.recorder import Recorder as Collected
    except ImportError as error:
        raise SettingsError(
            f"{_EXPORTER} or {_ENDPOINTS[1]} asks for traces, and what sends them is not "
            "installed: install hemavision[tracing], or leave the variable out."
        ) from error
    return Collected.to_collector()


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get(_DISABLED, "").lower() == "true":
        return False
    exporter = environment.get(_EXPORTER) or (
        "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    )
    _one_of(_EXPORTER, exporter, "otlp", "none")
    for name in _PROTOCOLS:
        _one_of(name, environment.get(name) or _PROTOCOL, _PROTOCOL)
    return exporter == "otlp"


def _one_of(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise SettingsError(f"{name}={value!r}: give {' or '.join(known)}.")
