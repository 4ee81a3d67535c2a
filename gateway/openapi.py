"""The API's description, OpenAPI 3.1, from the types and tables that make the replies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from gateway.errors import HemaVisionError, KeyRequired
from gateway.query import Option
from gateway.wire import Problem, Rule

Json = dict[str, Any]

PROBLEM = "application/problem+json"
_PLAIN: dict[object, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    Any: {},
}
_HEADERS: Json = {
    "X-Request-ID": {
        "description": "The request's id: yours, if you sent one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "traceresponse": {
        "description": "The request's trace and our span in it, as W3C Trace Context writes them.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "Milliseconds of the whole request (`total`) and of its stages.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "In how many seconds the same may work.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How a key is sent.",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Abstain": {
        "description": "With an overlay: the reasons not to take the answer, as `unfamiliar`, "
        "separated by commas; left out where it may be taken.",
        "schema": {"type": "string"},
    },
}
_EACH_REPLY = ("X-Request-ID", "traceresponse", "Server-Timing")
_OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_WHERE_ASKED_FOR: list[Json] = [{}, *({name: []} for name in _KEYS)]


@dataclass(frozen=True)
class Operation:
    """What one method of one path takes and answers.

    ``body`` and ``replies`` map media types to a type of ``wire`` or to a JSON Schema;
    ``headers`` are those of a reply of this route alone;
    ``defaults`` holds its options' defaults, None the usual ones; ``errors`` are the refusals and
    failures that it can end in.
    """

    method: str
    path: str
    summary: str
    tag: str
    replies: Mapping[str, Any]
    body: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    defaults: object = None
    path_options: tuple[Option, ...] = ()
    headers: tuple[str, ...] = ()
    errors: tuple[type[HemaVisionError], ...] = ()
    details: str = ""


def describe(
    operations: Iterable[Operation],
    problems: Mapping[type[HemaVisionError], tuple[int, str, str]],
    defaults: object,
    information: Json,
) -> Json:
    """Describe the whole API.

    Args:
        operations: every route.
        problems: status, stable name and title of each error.
        defaults: holds each option's default under its name.
        information: the document's ``info``.
    """
    schemas = Schemas()
    paths: Json = {}
    for operation in operations:
        described = _operation(operation, problems, operation.defaults or defaults, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": information,
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "headers": _HEADERS,
            "securitySchemes": _KEYS,
        },
    }


class Schemas:
    """JSON Schemas of types; those of TypedDicts are kept by name and referred to."""

    def __init__(self) -> None:
        self.named: dict[str, Json] = {}

    def of(self, hint: Any) -> Json:
        """Describe a type: plain, Annotated, Literal, union, list, dict or TypedDict."""
        if is_typeddict(hint):
            return self._reference(hint)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.of(arguments[0]) | _remarks(hint.__metadata__)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is None:
            return dict(_PLAIN[hint])
        return self._made_of(origin, [self.of(argument) for argument in arguments])

    @staticmethod
    def _made_of(origin: Any, parts: list[Json]) -> Json:
        if origin is list:
            return {"type": "array", "items": parts[0]}
        if origin is dict:
            return {"type": "object"} | ({"additionalProperties": parts[1]} if parts[1] else {})
        if origin in {Union, UnionType}:
            return {"anyOf": parts}
        raise TypeError(f"{origin} has no JSON Schema here")

    def _reference(self, kind: Any) -> Json:
        name: str = kind.__name__
        if name not in self.named:
            self.named[name] = {}  # so that a type may hold itself
            fields = get_type_hints(kind, include_extras=True)
            self.named[name] = {
                "type": "object",
                "description": kind.__doc__,
                "properties": {key: self.of(hint) for key, hint in fields.items()},
                "required": [key for key in fields if key in kind.__required_keys__],
            }
        return {"$ref": f"#/components/schemas/{name}"}


def _remarks(metadata: Iterable[str | Rule]) -> Json:
    """A field's meaning is a string, and the rules for its value are the rest."""
    remarks: Json = {}
    for remark in metadata:
        remarks |= {"description": remark} if isinstance(remark, str) else remark.keywords
    return remarks


def _operation(
    operation: Operation,
    problems: Mapping[type[HemaVisionError], tuple[int, str, str]],
    defaults: object,
    schemas: Schemas,
) -> Json:
    described: Json = {
        "summary": operation.summary,
        "operationId": _name(operation),
        "tags": [operation.tag],
        "parameters": [_parameter(o, "query", defaults) for o in operation.options]
        + [_parameter(option, "path", defaults) for option in operation.path_options],
        "responses": {
            "200": _reply("The answer.", operation.replies, schemas, operation.headers),
            **_refusals([problems[error] for error in operation.errors], schemas),
        },
    }
    if operation.details:
        described["description"] = operation.details
    if KeyRequired in operation.errors:
        described["security"] = _WHERE_ASKED_FOR
    if operation.body:
        content = _content(operation.body, schemas)
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameter(option: Option, place: str, defaults: object) -> Json:
    default = getattr(defaults, option.name, None)
    schema = option.schema() | ({} if default is None else {"default": default})
    return {
        "name": option.name,
        "in": place,
        "required": place == "path",
        "description": option.meaning,
        "schema": schema,
    }


def _reply(
    description: str, content: Mapping[str, Any], schemas: Schemas, headers: tuple[str, ...]
) -> Json:
    named = (*_EACH_REPLY, *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named},
        "content": _content(content, schemas),
    }


def _content(kinds: Mapping[str, Any], schemas: Schemas) -> Json:
    return {
        media: {"schema": dict(kind) if isinstance(kind, dict) else schemas.of(kind)}
        for media, kind in kinds.items()
    }


def _refusals(problems: Iterable[tuple[int, str, str]], schemas: Schemas) -> Json:
    """One reply a status, with the names that its problems can have."""
    by_status: dict[int, list[tuple[str, str]]] = {}
    for status, name, title in sorted(problems):
        by_status.setdefault(status, []).append((name, title))
    replies: Json = {}
    for status, kinds in by_status.items():
        types = [f"urn:hemavision:problem:{name}" for name, _ in kinds]
        shape = schemas.of(Problem) | {
            "properties": {"type": {"enum": types}, "status": {"const": status}}
        }
        description = "; ".join(f"{title} (`{name}`)" for name, title in kinds) + "."
        headers = _OF_STATUS.get(status, ())
        replies[str(status)] = _reply(description, {PROBLEM: shape}, schemas, headers)
    return replies


def _name(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    return "_".join([operation.method.lower(), *filter(None, words)])
