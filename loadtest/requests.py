"""The requests of a load test, made before it begins, each with the right answer to it.

What the idle service answers in a first quiet pass is right: under load nothing else will do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from loadtest import answers, predict
from loadtest.answers import Answer
from loadtest.photographs import Photograph
from loadtest.refusal import refuse
from loadtest.samples import RIGHT, WRONG

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
_BOUNDARY = "photograph-boundary-7d3f2c"
_RAW = {"Content-Type": "application/octet-stream"}
_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

_PROBLEM = re.compile(rb'"urn:hemavision:problem:[^}]*?"status": ?(\d{3})')
_BUSY = ("429", "503")
_TRIES = 50
_PAUSE = 0.2  # seconds


@dataclass(frozen=True)
class Reply:
    """A reply as it came: its status, or in ``failure`` why there is none."""

    status: int
    body: bytes = b""
    server_timing: str = ""
    failure: str = ""

    @property
    def outcome(self) -> str:
        """The status, or what broke."""
        return self.failure or str(self.status)


@dataclass(frozen=True)
class Request:
    """One request; ``name`` is what the statistics call its kind."""

    name: str
    path: str
    body: bytes
    photographs: Sequence[Photograph]
    headers: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[bytes], Answer] = answers.results
    right: Answer | None = None
    right_body: bytes = b""

    def outcome(self, reply: Reply) -> str:
        """Tell RIGHT, WRONG, another status than 200, or what broke.

        The status may be that of one photograph in a form.
        """
        if reply.outcome == "200" and self._is_right(reply.body):
            return RIGHT
        return _refused(reply) or WRONG

    def _is_right(self, body: bytes) -> bool:
        if body == self.right_body:  # pictures are: comparing them decodes them
            return True
        try:
            return self.right is not None and self.read(body).same_as(self.right)
        except ValueError:
            return False


Send = Callable[[Request], Reply]


def interactive(photographs: Sequence[Photograph], size: int) -> Iterator[Request]:
    """One photograph, with its heat map over it: what the page and most programs ask."""
    del size
    for one in photographs:
        yield Request("interactive", "/v1/classify", one.body, [one], _RAW)


def explain(photographs: Sequence[Photograph], size: int) -> Iterator[Request]:
    """Why not another class? The heat map alone, as a picture."""
    del size
    for one, other in zip(photographs, cycle(CLASSES), strict=False):
        path = f"/v1/heatmap?explain={other}"
        yield Request("explain", path, one.body, [one], _RAW, read=answers.overlay)


def batch(photographs: Sequence[Photograph], size: int) -> Iterator[Request]:
    """Several photographs in one form, without pictures in the reply."""
    for part in _parts(photographs, size):
        path = "/v1/classify?heatmap=none"
        yield Request(f"batch of {size}", path, _form(part), part, _FORM)


def differential(photographs: Sequence[Photograph], size: int) -> Iterator[Request]:
    """Several photographs of one smear, to be counted."""
    for part in _parts(photographs, size):
        yield Request(f"differential of {size}", "/v1/differential", _form(part), part, _FORM)


def model_server(photographs: Sequence[Photograph], size: int) -> Iterator[Request]:
    """What the gateway asks the model server for an interactive request, as gRPC."""
    del size
    for one in photographs:
        body = predict.request(one.body)
        yield Request("model server", predict.METHOD, body, [one], read=_probabilities)


def with_right_answers(requests: Iterable[Request], send: Send) -> list[Request]:
    """Ask each once, one after the other, and keep the answer as the right one.

    Several load generators do this at once: a service that is busy is asked again.

    Raises:
        SystemExit: one is not answered.
    """
    return [_with_right_answer(request, _patiently(send, request)) for request in requests]


def misnamed(requests: Iterable[Request]) -> list[str]:
    """Return the photographs whose right answer is not the class that their folder is named after.

    Folders of other names say nothing.
    """
    return [
        f"{photograph.folder}/{photograph.name}"
        for request in requests
        if request.right is not None
        for photograph, said in zip(request.photographs, request.right.classes, strict=False)
        if photograph.folder in CLASSES and photograph.folder != said
    ]


def _patiently(send: Send, request: Request) -> Reply:
    reply = send(request)
    for _ in range(_TRIES):
        if _refused(reply) not in _BUSY:
            break
        time.sleep(_PAUSE)
        reply = send(request)
    return reply


def _with_right_answer(request: Request, reply: Reply) -> Request:
    if refused := _refused(reply):
        photograph, said = _why(request, reply)
        name = f"{photograph.folder}/{photograph.name}"
        refuse(f"{name} got {refused} as {request.name} from an idle service: {said}")
    try:
        right = request.read(reply.body)
    except ValueError as error:
        name = request.photographs[0].name
        refuse(f"{name} got {error} as {request.name} from an idle service.")
    return replace(request, right=right, right_body=reply.body)


def _refused(reply: Reply) -> str:
    """Return what there is instead of answers: of the request, or of one photograph in it."""
    if reply.outcome != "200":
        return reply.outcome
    problem = _PROBLEM.search(reply.body)
    return problem[1].decode() if problem else ""


def _why(request: Request, reply: Reply) -> tuple[Photograph, str]:
    """Return the first photograph that was refused, and what was said."""
    try:
        said = json.loads(reply.body)
        parts = said.get("results") or said.get("photographs") or [said]
        for photograph, part in zip(request.photographs, parts, strict=False):
            if detail := (part.get("problem") or part).get("detail"):
                return photograph, detail
    except (ValueError, AttributeError):
        pass  # what said this is no gateway
    return request.photographs[0], reply.body[:200].decode(errors="replace")


def _parts(photographs: Sequence[Photograph], size: int) -> Iterator[list[Photograph]]:
    """Cut the photographs into parts of ``size``; they begin again where they do not suffice."""
    endless = cycle(photographs)
    for _ in range(max(1, len(photographs) // size)):
        yield list(islice(endless, size))


def _form(photographs: Sequence[Photograph]) -> bytes:
    parts = [
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
        f'name="file"; filename="{number}"\r\n\r\n'.encode()
        + one.body
        + b"\r\n"
        for number, one in enumerate(photographs, 1)
    ]
    return b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])


def _probabilities(body: bytes) -> Answer:
    figures = predict.probabilities(body)
    return Answer((CLASSES[int(figures.argmax())],), figures)
