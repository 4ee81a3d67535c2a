"""The one place that sends: a gateway at its address, and what its refusals mean."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from gateway.ask.duplex import Duplex
from gateway.errors import HemaVisionError

if TYPE_CHECKING:
    from gateway.ask.series import Series  # zipfile and secrets: not for `check`

Json = dict[str, Any]

_SCHEMES = ("http", "https")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BUSY = (429, 503)
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between the tries, where the gateway names none
_LONGEST_WAIT = 60.0
# what else is refused has nothing to do with the photograph: the next would be refused as well
_ABOUT_THE_PHOTOGRAPH = (400, 413, 415, 422, 500)
_PROBLEM = "urn:hemavision:problem:"
_BYTES = "application/octet-stream"
_DIFFERENTIAL = "/v1/differential"


class Refused(HemaVisionError):
    """One photograph was not answered; ``problem`` says why, after RFC 9457."""

    def __init__(self, problem: Json) -> None:
        super().__init__(sentence(problem))
        self.problem = problem


class GatewayUnusable(HemaVisionError):
    """Nothing that is sent to this address will be answered now."""


class GatewayUnreachable(GatewayUnusable):
    """Nothing answers at the gateway's address."""


def with_advice(error: GatewayUnusable) -> GatewayUnusable:
    """Say how to have a gateway, where there is none."""
    if isinstance(error, GatewayUnreachable):
        return GatewayUnreachable(
            f"{error}. Start one with `make run`, or name another with --url or HEMAVISION_PORT."
        )
    return error


def problem(name: str, title: str, detail: str) -> Json:
    """Something that went wrong on this side, in the shape of the gateway's own problems."""
    kind = _PROBLEM + name
    return {"type": kind, "title": title, "status": None, "detail": detail, "request_id": None}


def sentence(problem: Json) -> str:
    """A problem for a person: our own details say all, a stranger's may need their title."""
    if problem["type"].startswith(_PROBLEM):
        return str(problem["detail"])
    return f"{problem['title']}. {problem['detail']}".strip()


def gateway_url(text: str) -> str:
    """Check an address as it was typed, and return it without a slash at its end.

    Raises:
        ValueError: it is none.
    """
    address = urlsplit(text)
    if address.scheme not in _SCHEMES or not address.hostname or address.port == 0:
        raise ValueError(text)
    if address.query or address.fragment or not text.isascii() or not text.isprintable():
        raise ValueError(text)
    return text.rstrip("/")


class _Request(NamedTuple):
    """What is asked: ``pieces`` begins to read the body anew for each try, None: there is none.

    ``heard`` gets each line of a good reply as it comes.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    pieces: Callable[[], Iterator[bytes]] | None = None
    heard: Callable[[Json], None] | None = None


class _Answer(NamedTuple):
    """One HTTP response; of lines, the last."""

    status: int
    reason: str
    retry_after: str
    location: str
    body: bytes


class Gateway:
    """A gateway at ``url``, which may be silent for ``timeout`` seconds. Threads may share it."""

    def __init__(self, url: str, timeout: float, key: str = "", cacert: Path | None = None) -> None:
        """``cacert`` holds the certificates to believe, PEM; None: those of the system.

        Raises:
            GatewayUnusable: ``cacert`` holds none.
        """
        self.url, self._timeout, self._key = url, timeout, key
        self._address = urlsplit(url)
        secure = self._address.scheme == "https"
        self._trust = _trust(cacert, self._address.hostname) if secure else None
        self._met = False  # one that never answered is not waited for

    def classify(self, photograph: bytes, options: Mapping[str, str]) -> Json:
        """Send one photograph and return the reply; a busy gateway is asked a few times.

        Raises:
            Refused: this photograph is not answered.
            GatewayUnusable: no photograph is.
        """
        target = f"/v1/classify?{urlencode(options)}"
        answer = self._insist(_whole(target, photograph, {"Content-Type": _BYTES}))
        return self._json(answer.body, "prediction")

    def count(
        self, series: Series, options: Mapping[str, str], heard: Callable[[Json], None]
    ) -> Json:
        """Send a series and return its report; what becomes of each photograph is ``heard`` first.

        Raises:
            Refused: it is not counted.
            GatewayUnusable: no series is.
            Unreadable: a file cannot be read.
        """
        headers = {
            "Accept": "application/x-ndjson",
            "Content-Type": f"multipart/form-data; boundary={series.boundary}",
            "Transfer-Encoding": "chunked",
        }
        target = f"{_DIFFERENTIAL}?{urlencode(options)}"
        pieces = partial(_chunked, series)
        answer = self._insist(_Request("POST", target, headers, pieces, heard))
        report = self._json(answer.body, "kind")
        match report.pop("kind"):
            case "report":
                return report
            case "problem":
                raise Refused(report)
        raise GatewayUnreachable(f"{self.url} broke off its reply")

    def render(self, report: Json, options: Mapping[str, str], media: str) -> bytes:
        """Have a report in another form, worked out anew from its answers.

        Raises:
            Refused, GatewayUnusable: it is not to be had.
        """
        headers = {"Accept": media, "Content-Type": "application/json"}
        target = f"{_DIFFERENTIAL}?{urlencode(options)}"
        return self._insist(_whole(target, json.dumps(report).encode(), headers)).body

    def probe(self, path: str) -> str:
        """Return the status that a probe tells.

        Raises:
            Refused: it is not what one hopes for.
            GatewayUnusable: there is no gateway.
        """
        answer = self._exchange(_Request("GET", path, {}))
        if answer.status != 200:
            raise Refused(_told(answer))
        return str(self._json(answer.body, "status")["status"])

    def _insist(self, request: _Request) -> _Answer:
        """Ask until there is a good answer, or patience ends.

        Raises:
            Refused: what was sent is not answered.
            GatewayUnusable: nothing is.
        """
        for wait in _WAITS:
            try:
                answer = self._exchange(request)
            except GatewayUnreachable:
                if not self._met:
                    raise
                time.sleep(wait)
                continue
            self._met = True
            asked = _seconds(answer.retry_after, wait)
            if answer.status not in _BUSY or asked > _LONGEST_WAIT:
                return self._good(answer)
            time.sleep(asked)
        return self._good(self._exchange(request))

    def _good(self, answer: _Answer) -> _Answer:
        if answer.status == 200:
            return answer
        told = _told(answer)
        if told["type"] == f"{_PROBLEM}key-required":
            known = "does not know the key it was given" if self._key else "asks for a key"
            raise GatewayUnusable(f"{self.url} {known}: give it as --key or HEMAVISION_KEY")
        if answer.status in _ABOUT_THE_PHOTOGRAPH and told["type"] != f"{_PROBLEM}invalid-option":
            raise Refused(told)
        refuses = 400 <= answer.status < 500
        verb = "refuses that" if refuses else "does not answer"
        raise GatewayUnusable(f"{self.url} {verb}: {sentence(told)}")

    def _exchange(self, request: _Request) -> _Answer:
        connection = self._connection()
        try:
            return self._spoken(connection, request)
        except TimeoutError as error:
            raise GatewayUnusable(
                f"{self.url} does not answer within {self._timeout:g} s"
            ) from error
        except (OSError, IncompleteRead) as error:
            raise GatewayUnreachable(f"nothing answers at {self.url} ({_reason(error)})") from error
        except (HTTPException, ValueError) as error:
            raise self._stranger() from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._trust is None:
            return HTTPConnection(host, port, timeout=self._timeout)
        return HTTPSConnection(host, port, timeout=self._timeout, context=self._trust)

    def _spoken(self, connection: HTTPConnection, request: _Request) -> _Answer:
        connection.putrequest(request.method, self._address.path + request.target)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if self._key:
            connection.putheader("Authorization", f"Bearer {self._key}")
        connection.endheaders()
        with closing(connection.sock) as connected:
            pieces = request.pieces() if request.pieces else iter(())
            connection.sock = Duplex(connected, pieces, self._timeout)
            with connection.getresponse() as response:
                return _received(response, request.heard)

    def _json(self, body: bytes, expected: str) -> Json:
        try:
            reply: Json = json.loads(body)
            reply[expected]
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger() from error
        return reply

    def _stranger(self) -> GatewayUnusable:
        return GatewayUnusable(f"what answers at {self.url} is no HemaVision gateway")


def _trust(cacert: Path | None, host: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:
        raise GatewayUnusable(f"{cacert} holds no certificates") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the gateway's own will do as well
    if cacert and host in _LOOPBACK:  # no certificate names these
        context.check_hostname = False
    return context


def _whole(target: str, body: bytes, headers: Mapping[str, str]) -> _Request:
    sized = {**headers, "Content-Length": str(len(body))}
    return _Request("POST", target, sized, lambda: iter((body,)))


def _chunked(series: Series) -> Iterator[bytes]:
    for piece in series.form():
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _received(response: HTTPResponse, heard: Callable[[Json], None] | None) -> _Answer:
    body = b""
    if heard is None or response.status != 200:
        body = response.read()
    else:
        for body in response:
            heard(json.loads(body))
    return _Answer(
        response.status,
        response.reason,
        response.getheader("Retry-After", ""),
        response.getheader("Location", ""),
        body,
    )


def _told(answer: _Answer) -> Json:
    """The server's own words, or what the status says where it has none for us."""
    try:
        told: Json = json.loads(answer.body)
        return told | {"type": str(told["type"]), "title": told["title"], "detail": told["detail"]}
    except (ValueError, KeyError, TypeError):
        return {
            "type": "about:blank",  # RFC 9457: no more than the HTTP status
            "title": f"HTTP {answer.status} {answer.reason}".strip(),
            "status": answer.status,
            "detail": f"It points to {answer.location}" if answer.location else "",
            "request_id": None,
        }


def _seconds(retry_after: str, otherwise: float) -> float:
    """A number of seconds; the header's other form, a date, is as rare as it is useless here."""
    return float(retry_after) if retry_after.isdecimal() else otherwise


def _reason(error: Exception) -> str:
    if isinstance(error, IncompleteRead):
        return "it broke off its reply"
    number = getattr(error, "errno", None)
    return getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
