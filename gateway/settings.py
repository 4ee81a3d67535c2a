"""The service's settings, from the environment: every name begins with ``HEMAVISION_``.

Read once, by ``cli`` and ``app``; everything else is given plain values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError

PREFIX = "HEMAVISION_"


def _positive(default: float) -> Any:
    return field(default=default, metadata={"positive": True})


@dataclass(frozen=True)
class Settings:
    """What can be set, with its default. Field ``port`` is ``HEMAVISION_PORT``, and so on."""

    # Where it listens

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""

    port: int = 8080
    """Port to listen on; 0 takes any free one."""

    # The model server

    model_server: str = "127.0.0.1:8500"
    """host:port of TensorFlow Serving's gRPC; a name with several addresses is balanced over."""

    model_card: Path | None = None
    """The served version's model_card.json, shown at /v1/model; unset: no card is shown."""

    model_timeout: float = _positive(2.0)
    """Longest wait for one answer of the model server, retry included, in seconds."""

    # What is accepted

    max_bytes: int = _positive(16 * 1024 * 1024)
    """Largest photograph, in bytes."""

    max_pixels: int = _positive(25_000_000)
    """Largest photograph, in pixels (width x height)."""

    # How much at once

    max_in_flight: int = _positive(8)
    """Photographs worked on at once. TensorFlow Serving refuses more calls than 4 x its CPUs."""

    max_wait: float = _positive(0.5)
    """Longest wait of a photograph to be let in, in seconds; then it is refused with 503."""

    workers: int = _positive(os.cpu_count() or 1)
    """Threads that decode photographs and draw overlays."""

    # What is promised

    target_ms: float = _positive(200.0)
    """The latency target that replies are measured against, in milliseconds."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises:
            SettingsError: an unknown ``HEMAVISION_`` name, or a value that makes no sense; the
                message names the setting and what it takes.
        """
        known = {PREFIX + setting.name.upper(): setting for setting in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SettingsError(
                f"{', '.join(unknown)}: no such setting. Settings are {', '.join(known)}."
            )
        return cls(**{known[name].name: _parsed(name, known[name], v) for name, v in given.items()})


def _parsed(name: str, setting: Field[Any], text: str) -> Any:
    parse, expected = _PARSERS[str(setting.type)]
    positive = setting.metadata.get("positive", False)
    refusal = SettingsError(f"{name}={text!r}: give {expected}{' above 0' if positive else ''}.")
    try:
        value = parse(text)
    except ValueError as error:
        raise refusal from error
    if text == "" or (positive and not 0 < value < float("inf")):
        raise refusal
    return value


def _existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError(text)
    return path


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "Path | None": (_existing_file, "the path of a file that exists"),
}
