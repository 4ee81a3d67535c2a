"""The service's settings, from the environment: every name begins with ``HEMAVISION_``.

Read once, by ``cli`` and ``app``; everything else is given plain values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError

_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # a container's, microseconds of each period
PREFIX = "HEMAVISION_"
CLIENT_ONLY = frozenset({PREFIX + "KEY", PREFIX + "CACERT"})
"""What the commands that ask a gateway read; the service itself does not."""

# what Kubernetes sets in a pod for each Service, here for those named hemavision or hemavision-...
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(
    r"HEMAVISION_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")  # as browsers send it


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


def _addresses(text: str) -> str:
    """A host and a port (models.example:8500), or IP addresses (10.0.0.1:8500,10.0.0.2:8500)."""
    hosts = [_host(address) for address in text.split(",")]
    if len(hosts) > 1 and len({ip_address(host.strip("[]")).version for host in hosts}) > 1:
        raise ValueError(text)
    return text


def _host(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or _port(port) == 0:
        raise ValueError(address)
    return host


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


def _duration(text: str) -> float:
    """A number of seconds, 0 or more."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def _share(text: str) -> float:
    """A number above 0, at most 1."""
    if not 0 < float(text) <= 1:
        raise ValueError(text)
    return float(text)


def _portion(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise ValueError(text)
    return float(text)


def _label(text: str) -> str:
    """A version label of the model server's: letters, digits, dots, dashes and underscores."""
    if not _LABEL.fullmatch(text):
        raise ValueError(text)
    return text


def _origins(text: str) -> frozenset[str]:
    """Origins such as https://lab.example, without a path, separated by commas."""
    origins = frozenset(origin.strip() for origin in text.split(","))
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError(text)
    return origins


def _models(text: str) -> Path:
    """The path of a folder with versions of a model: folders whose names are numbers."""
    if not any(path.name.isdecimal() for path in Path(text).glob("*/")):
        raise ValueError(text)
    return Path(text)


def _log_level(text: str) -> str:
    """One of debug, info, warning or error."""
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError(text)
    return text


def _mixed_precision(text: str) -> str:
    """The word bfloat16, or nothing for float32."""
    if text not in ("", "bfloat16"):
        raise ValueError(text)
    return text


def _file(text: str) -> Path:
    """The path of a file that exists."""
    if not Path(text).is_file():
        raise ValueError(text)
    return Path(text)


def _yes_or_no(text: str) -> bool:
    """Either true or false."""
    return ("false", "true").index(text.lower()) == 1


def usable_cores(limit: Path = _CPU_LIMIT) -> int:
    """The cores that this process may use, where the system tells: a container's limit, too."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups of version 2 here, or no limit: "max"
        return cores


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

    tls_certificate: Path | None = _setting(None, _file)
    """Certificate for HTTPS, PEM with its chain; unset: HTTP."""

    tls_key: Path | None = _setting(None, _file)
    """Its private key, PEM without a password; unset: it is in the certificate's file."""

    cors_origins: frozenset[str] = _setting(frozenset(), _origins)
    """Origins whose web pages may call the API, as https://lab.example, separated by commas;
    unset: no other than the service's own."""

    # Who may ask

    keys_file: Path | None = _setting(None, _file)
    """The API keys' names and hashes, read again when it changes; unset: nobody needs a key."""

    insecure: bool = _setting(False, _yes_or_no)
    """Listen on more than loopback without keys: something in front of it keeps strangers out."""

    # The model server

    model_server: str = _setting("127.0.0.1:8500", _addresses)
    """host:port of TensorFlow Serving's gRPC. Balanced over: a name with several addresses, or
    several IP addresses with ports and commas between."""

    models: Path | None = _setting(None, _models)
    """The folder with the model server's versions, for the served one's card at /v1/model; unset:
    no card is shown."""

    model_label: str | None = _setting(None, _label)
    """The label of the version to ask for, one of the model server's `version_labels`; unset: the
    newest version that it serves."""

    canary_label: str | None = _setting(None, _label)
    """The label of a version on trial, to which a share of the requests goes; unset: none."""

    canary_share: float = _setting(0.0, _portion)
    """Share of the requests that ask the version on trial, from 0 to 1."""

    model_tls_ca: Path | None = _setting(None, _file)
    """The authority that signed the model server's certificate, PEM; unset: no TLS."""

    model_tls_certificate: Path | None = _setting(None, _file)
    """This gateway's own certificate, PEM, for a model server that asks for one."""

    model_tls_key: Path | None = _setting(None, _file)
    """Its private key, PEM without a password; unset: it is in the certificate's file."""

    mixed_precision: str = _setting("", _mixed_precision)
    """bfloat16: the model server that is started beside this gateway multiplies in it, faster and
    a little less exact, on a processor that does; empty: float32."""

    # What is accepted

    max_bytes: int = _setting(16 * 1024 * 1024, _count)
    """Largest photograph, in bytes."""

    max_batch_bytes: int = _setting(64 * 1024 * 1024, _count)
    """Largest form, all its photographs together, in bytes."""

    max_parts: int = _setting(20, _count)
    """Most parts of one form, and so most photographs of one request."""

    max_series: int = _setting(1000, _count)
    """Most photographs of one series."""

    max_series_bytes: int = _setting(1024 * 1024 * 1024, _count)
    """Largest series, all its photographs together, in bytes."""

    max_pixels: int = _setting(25_000_000, _count)
    """Largest photograph, in pixels (width x height)."""

    # How much at once

    max_decoding: int = _setting(128 * 1024 * 1024, _count)
    """Memory for pictures while they are decoded, all together, in bytes. One that would take more
    is refused; one that finds too little free waits a moment, and is refused with 503."""

    max_upload_memory: int = _setting(128 * 1024 * 1024, _count)
    """Memory for what is uploaded, of all requests but series together, in bytes. A request that
    finds too little free waits a moment, and is refused with 503; none can have more than this."""

    max_in_flight: int = _setting(usable_cores() + 1, _count)
    """Photographs worked on at once: one more than the model server has cores keeps them busy, and
    each further one makes all of them wait. A TensorFlow Serving refuses more calls than 4 x its
    CPUs, of all gateways together."""

    max_waiting: int = _setting(16, _count)
    """Photographs that wait to be let in; one more is refused at once with 503."""

    max_wait: float = _setting(0.08, _amount)
    """Longest wait of a photograph to be let in, or for memory, in seconds; then it is refused
    with 503."""

    client_share: float = _setting(0.5, _share)
    """Share of all that are worked on or wait, of the series, and of the memory for uploads, which
    one client (its key, or else its address) may hold; beyond it, 429. Set 1 behind a proxy where
    there are no keys: it is one address."""

    workers: int = _setting(usable_cores(), _count)
    """Threads that decode photographs and draw overlays."""

    # What it tells

    log_level: str = _setting("info", _log_level)
    """What `hemavision serve` logs: debug (probes too), info, warning or error."""

    # How long

    deadline: float = _setting(10.0, _amount)
    """Time of one request in seconds, from its head on; a client can ask for less."""

    series_deadline: float = _setting(600.0, _amount)
    """Time of one series in seconds, its upload included."""

    drain: float = _setting(0.5, _duration)
    """How long it still serves once it was told to stop and says so at /readyz, in seconds."""

    # What it compares with

    ranges: Path | None = _setting(None, _file)
    """The laboratory's reference ranges, by age and sex; unset: those that ship with the gateway,
    for adults."""

    # What is promised

    target_ms: float = _setting(200.0, _amount)
    """The latency target that replies are measured against, in milliseconds; nobody waits longer
    for a version on trial."""

    def __post_init__(self) -> None:
        """Refuse settings that make no sense together.

        Raises:
            SettingsError: a canary without a label, or without another version beside it.
        """
        canary, stable = PREFIX + "CANARY_LABEL", PREFIX + "MODEL_LABEL"
        if self.canary_share and not self.canary_label:
            raise SettingsError(
                f"{PREFIX}CANARY_SHARE={self.canary_share:g}: name the version that gets this "
                f"share of the requests in {canary}, or set the share to 0."
            )
        if self.canary_label and self.canary_label == (self.model_label or self.canary_label):
            raise SettingsError(
                f"{canary}={self.canary_label!r}: name another version in {stable}, such as "
                "stable, for all other requests."
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises:
            SettingsError: an unknown ``HEMAVISION_`` name, or a value that makes no sense; the
                message names the setting and what it takes.
        """
        known = {PREFIX + setting.name.upper(): setting for setting in fields(cls)}
        given = {
            name: value
            for name, value in environment.items()
            if name.startswith(PREFIX)
            and name not in CLIENT_ONLY
            and (name in known or not _is_service_link(name, value))
        }
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SettingsError(
                f"{', '.join(unknown)}: no such setting. Settings are {', '.join(known)}."
            )
        return cls(**{known[name].name: _parsed(name, known[name], v) for name, v in given.items()})


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or _LINKED_ADDRESS.match(value))


def _parsed(name: str, setting: Field[Any], text: str) -> Any:
    parse: Callable[[str], Any] = setting.metadata["parse"]
    if _LINKED_ADDRESS.match(text):
        raise SettingsError(
            f"{name}={text!r}: this is Kubernetes' link to a Service of the same name. Set "
            f"enableServiceLinks: false in the pod's spec, or {name} in the container's env."
        )
    try:
        return parse(text)
    except ValueError as error:
        expected = (parse.__doc__ or "").rstrip(".")
        raise SettingsError(
            f"{name}={text!r}: give {expected[:1].lower()}{expected[1:]}."
        ) from error
