"""The service under test: where it is, the key it takes, and whether it can be tested at all."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.refusal import refuse

_PATIENCE = 10.0  # seconds for one answer


@dataclass(frozen=True)
class Target:
    """A gateway: its URL without path, the API key it takes, and the authority that it trusts."""

    url: str
    key: str | None = None
    cacert: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request; an encoded reply would have to be decoded in its time."""
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Accept-Encoding": "identity", **key}

    @property
    def host(self) -> str:
        """The host's name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, the scheme's own where the URL has none."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return urlsplit(self.url).scheme == "https"

    def tls_context(self) -> ssl.SSLContext:
        """Return what trusts ``cacert``, or else the system's authorities."""
        return ssl.create_default_context(cafile=self.cacert)


def check(target: Target) -> None:
    """Make sure that a gateway is there, is ready, and takes the key.

    Raises:
        SystemExit: it is not so; the sentence says what was met.
    """
    if not target.url.startswith(("http://", "https://")):
        refuse(f"{target.url} is no URL: begin it with http:// or https://")
    status, said = _get(target, "/readyz")
    if status == 503:
        refuse(f"The gateway at {target.url} is not ready: /readyz answered 503: {said}")
    if status != 200:
        refuse(f"What listens at {target.url} is no gateway: /readyz answered {status}.")
    status, said = _get(target, "/v1/model")
    if status == 401:
        given = "the key that was given" if target.key else "requests without a key"
        refuse(
            f"The gateway at {target.url} rejects {given}: give one with --key or HEMAVISION_KEY."
        )
    if status != 200:
        refuse(f"The gateway at {target.url} does not name its model: {status}: {said}")


def check_model_server(address: str) -> None:
    """Make sure that something listens at ``host:port``, where a model server should.

    Raises:
        SystemExit: nothing does; the sentence says how to have it there.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE):
            return
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        refuse(
            f"No model server can be reached at {address} ({reason}): that of `make run` is at a "
            "port that it tells nobody. Start one with `python -m export serve --address "
            "127.0.0.1:8500`, and the gateway with HEMAVISION_MODEL_SERVER=127.0.0.1:8500."
        )


def _get(target: Target, path: str) -> tuple[int, str]:
    """Return the status, and the detail where the answer is a problem."""
    try:
        request = urllib.request.Request(target.url.rstrip("/") + path, headers=target.headers)  # noqa: S310  # the user's own
        context = target.tls_context() if target.tls else None
        with urllib.request.urlopen(request, timeout=_PATIENCE, context=context) as reply:  # noqa: S310
            return reply.status, ""
    except urllib.error.HTTPError as error:
        return error.code, detail(error.read())
    except http.client.HTTPException:
        return refuse(f"What listens at {target.url} is no gateway: it does not speak HTTP.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return refuse(
            f"No gateway can be reached at {target.url} ({reason}): start one with `make run`, "
            "or give another address."
        )


def detail(body: bytes) -> str:
    """Return what a problem says in words, or else the beginning of the body."""
    try:
        return told(json.loads(body))
    except ValueError:
        return body[:200].decode(errors="replace")


def told(problem: object) -> str:
    """Return what a problem says in words, or else all of it."""
    return str(problem["detail"] if isinstance(problem, dict) and "detail" in problem else problem)
