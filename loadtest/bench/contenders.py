"""Who is compared: each a running service, and one client's way of asking it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from loadtest import predict, processes
from loadtest.bench import BASELINE, WITNESS
from loadtest.refusal import refuse
from loadtest.requests import CLASSES

Ask = Callable[[int], bytes]
"""Send photograph number i over a client's own connection; return the reply's body."""

BINARY = "application/octet-stream"
_BOUNDARY = "hemavision-bench"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
_PATIENCE = 60.0  # seconds for one answer
_BARE = {"bare serving_default": False, BASELINE: True}  # whether it is asked for maps
_GATEWAY = {
    "gateway none": "?heatmap=none",
    "gateway overlay": "",
    "gateway overlay png": "?format=png",
}
_FASTAPI = {"fastapi none": "?heatmap=false", "fastapi overlay": ""}
_AIOHTTP = {"aiohttp none": "?heatmap=false", "aiohttp overlay": ""}
NAMES = (*_BARE, *_GATEWAY, *_AIOHTTP, *_FASTAPI, WITNESS)

_BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Refused(Exception):
    """The service has too much to do: HTTP 503 or 429, or gRPC's words for it."""


@dataclass(frozen=True)
class Contender:
    """A service under comparison.

    ``connect`` opens a client with a connection of its own, ``predicted`` reads the class from a
    reply, and ``pids`` are the processes that together are the service. ``ours`` is False for
    what others would write.
    """

    name: str
    connect: Callable[[], AbstractContextManager[Ask]]
    predicted: Callable[[bytes], str]
    pids: tuple[int, ...]
    ours: bool = True


@contextmanager
def running(bodies: list[bytes], models: Path, weights: Path) -> Iterator[list[Contender]]:
    """Start everything that is compared, warm; yield it, and stop it afterwards.

    Raises:
        SystemExit: there is no model, or a part does not start.
    """
    version = processes.newest_version(models)
    if not weights.is_file():
        refuse(f"no weights at {weights}: name a .keras file with --weights.")
    with (
        processes.together(
            processes.model_server(models=models),
            processes.baseline("fastapi_app", "--version", str(version)),
            processes.baseline("flask_app", "--weights", str(weights)),
        ) as (server, fastapi, flask),
        processes.gateway(server.address, **processes.PATIENT) as gateway,
        processes.baseline("aiohttp_app", "--model-server", server.address) as aiohttp,
    ):
        yield [
            *bare(server, bodies),
            *_gateway(gateway, server, bodies),
            *_plain(_AIOHTTP, bodies, aiohttp, server),
            *_plain(_FASTAPI, bodies, fastapi),
            _flask(flask, bodies),
        ]


def bare(server: processes.Part, bodies: list[bytes]) -> list[Contender]:
    """The model server alone, without and with its maps."""

    def contender(name: str, explained: bool) -> Contender:
        sent = [predict.request(body, explained) for body in bodies]
        return Contender(
            name,
            lambda: _grpc_client(server.address, sent),
            _likeliest,
            (server.process.pid,),
        )

    return [contender(name, explained) for name, explained in _BARE.items()]


def over_http(
    name: str,
    url: str,
    bodies: list[bytes],
    *parts: processes.Part,
    ours: bool = False,
) -> Contender:
    """A service that takes photographs by POST at ``url``; ``parts`` are all its processes."""
    base, path = url.removeprefix("http://").split("/", 1)
    return Contender(
        name,
        lambda: http_client(base, f"/{path}", BINARY, bodies),
        _prediction,
        tuple(part.process.pid for part in parts),
        ours=ours,
    )


def _gateway(
    gateway: processes.Part, server: processes.Part, bodies: list[bytes]
) -> list[Contender]:
    url = f"{gateway.address}/v1/classify"
    return [
        over_http(name, url + query, bodies, gateway, server, ours=True)
        for name, query in _GATEWAY.items()
    ]


def _plain(asked: dict[str, str], bodies: list[bytes], *parts: processes.Part) -> list[Contender]:
    url = f"{parts[0].address}/classify"
    return [over_http(name, url + query, bodies, *parts) for name, query in asked.items()]


def _flask(part: processes.Part, bodies: list[bytes]) -> Contender:
    forms = [_form(body) for body in bodies]
    return Contender(
        WITNESS,
        lambda: http_client(part.address, "/predict", _FORM, forms),
        _prediction,
        (part.process.pid,),
        ours=False,
    )


@contextmanager
def _grpc_client(address: str, sent: list[bytes]) -> Iterator[Ask]:
    options = [("grpc.use_local_subchannel_pool", 1)]  # or clients would share a connection
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_unary(predict.METHOD)

        def ask(number: int) -> bytes:
            try:
                return bytes(call(sent[number], timeout=_PATIENCE))
            except grpc.RpcError as error:
                if error.code() in _BUSY:
                    raise Refused from error
                raise

        yield ask


@contextmanager
def http_client(url: str, path: str, media_type: str, bodies: list[bytes]) -> Iterator[Ask]:
    """Open a client with a connection of its own, which posts ``bodies`` to ``path``."""
    host, headers = url.removeprefix("http://"), {"Content-Type": media_type}
    with closing(http.client.HTTPConnection(host, timeout=_PATIENCE)) as connection:

        def ask(number: int) -> bytes:
            connection.request("POST", path, bodies[number], headers)
            with connection.getresponse() as response:
                return _body(response)

        yield ask


def _body(response: http.client.HTTPResponse) -> bytes:
    body = response.read()
    if response.status in (http.client.SERVICE_UNAVAILABLE, http.client.TOO_MANY_REQUESTS):
        raise Refused
    if response.status != http.client.OK:
        raise RuntimeError(f"{response.status} {body[:200]!r}")
    return body


def _form(body: bytes) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="cell"\r\n'
        f"Content-Type: {BINARY}\r\n\r\n"
    )
    return head.encode() + body + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _likeliest(response: bytes) -> str:
    return CLASSES[int(predict.probabilities(response).argmax())]


def _prediction(reply: bytes) -> str:
    answer: Any = json.loads(reply)
    return str(answer["prediction"])
