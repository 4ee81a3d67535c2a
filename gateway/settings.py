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


def _text(text: str) -> str:
    """A text that is not empty."""
    if not text:
        raise ValueError(text)
    return text


def _port(text: str) -> int:
    """A whole number from 0 to 65535."""
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _address(text: str) -> str:
    """A host and a port, as in models.example:8500."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or _port(port) == 0:
        raise ValueError(text)
    return text


def _count(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _amount(text: str) -> float:
    """A number above 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def _folder(text: str) -> Path:
    """The path of a folder that exists."""
    if not Path(text).is_dir():
        raise ValueError(text)
    return Path(text)


def _usable_cores() -> int:
    """The cores that this process may use, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _setting(default: Any, parse: Callable[[str], Any]) -> Any:
    """Declare a setting; the parser's docstring completes 'give ...' where a value is refused."""
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class Settings:
    """What can be set, with its default. Field ``port`` is ``HEMAVISION_PORT``, and so on."""

    # Where it listens

    host: str = _setting("127.0.0.1", _text)
    """Address to listen on; 0.0.0.0 for all."""

    port: int = _setting(8080, _port)
    """Port to listen on; 0 takes any free one."""

    # The model server

    model_server: str = _setting("127.0.0.1:8500", _address)
    """host:port of TensorFlow Serving's gRPC; a name with several addresses is balanced over."""

    models: Path | None = _setting(None, _folder)
    """The folder with the model server's versions, for the served one's card at /v1/model; unset:
    no card is shown."""

    model_timeout: float = _setting(2.0, _amount)
    """Longest wait for one answer of the model server, retry included, in seconds."""

    # What is accepted

    max_bytes: int = _setting(16 * 1024 * 1024, _count)
    """Largest photograph, in bytes."""

    max_pixels: int = _setting(25_000_000, _count)
    """Largest photograph, in pixels (width x height)."""

    # How much at once

    max_in_flight: int = _setting(8, _count)
    """Photographs worked on at once. A TensorFlow Serving refuses more calls than 4 x its CPUs,
    of all gateways together."""

    max_wait: float = _setting(0.15, _amount)
    """Longest wait of a photograph to be let in, in seconds; then it is refused with 503."""

    workers: int = _setting(_usable_cores(), _count)
    """Threads that decode photographs and draw overlays."""

    # What is promised

    target_ms: float = _setting(200.0, _amount)
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
    parse: Callable[[str], Any] = setting.metadata["parse"]
    try:
        return parse(text)
    except ValueError as error:
        expected = (parse.__doc__ or "").rstrip(".")
        raise SettingsError(
            f"{name}={text!r}: give {expected[:1].lower()}{expected[1:]}."
        ) from error
