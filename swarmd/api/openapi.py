"""The OpenAPI file, made from the same list of routes and types that the daemon runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swarmd import __version__
from swarmd.api.native import messages as m
from swarmd.api.native.examples import EXAMPLES
from swarmd.api.native.messages import ErrorAnswer
from swarmd.api.native.routes import ROUTES
from swarmd.api.routes import Header, Route, Verb

PATH_PARAMETERS: dict[str, tuple[Any, str]] = {
    "id": (m.Id, "An id: 13 characters of base 32."),
    "bot": (m.BotName, "A bot's id: 1 to 128 letters, digits, '.', '_', '-'."),
    "session": (m.Id, "A session's id."),
    "attempt": (m.Id, "An attempt's id."),
    "stream": (m.StreamName, "stdout or stderr."),
    "sha256": (m.Digest, "64 lower-case hex digits."),
}
_ERRORS = {
    "400": "The request is wrong: the error says what, which, expected and remedy.",
    "401": "A token is needed.",
    "403": "A page of another site may not call this daemon.",
    "404": "It names something that does not exist.",
    "405": "The address takes other methods.",
    "408": "The body did not arrive in time.",
    "409": "It does not fit the state of things now.",
    "413": "The body is larger than this route's limit.",
    "414": "The address is too long.",
    "415": "The body has the wrong type.",
    "421": "The Host header does not name this daemon.",
    "500": "The daemon failed at this call; its log tells more.",
    "503": "Try again later.",
    "507": "The disk is full.",
}
_ERROR_HEADERS = {
    "401": Header("WWW-Authenticate", Literal["Bearer"], "What to send: a token."),
    "405": Header("Allow", str, "The methods that the address takes."),
    "503": Header("Retry-After", Annotated[int, Meta(ge=1)], "Seconds to wait before the next try."),
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1, as JSON-ready objects."""
    types = [t for r in ROUTES for t in (r.request, r.answer, *r.events.values()) if t is not None]
    unique = list(dict.fromkeys([*types, ErrorAnswer]))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "swarmd",
            "version": __version__,
            "summary": "A durable task queue for lab machines.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(route: Route, by_type: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler,
        "summary": route.about,
        "tags": [route.path.split("/")[3] if route.path.startswith("/api/v1/") else "daemon"],
        "parameters": [_path_parameter(s[1:-1]) for s in route.path.split("/") if s.startswith("{")],
        "responses": _responses(route, by_type),
    }
    for query in route.query:
        schema = msgspec.json.schema(query.type)
        if query.default not in (None, ""):
            schema = {**schema, "default": query.default}
        operation["parameters"].append(
            {
                "name": query.name,
                "in": "query",
                "required": False,
                "description": query.about,
                "schema": schema,
            }
        )
    for header in route.headers:
        operation["parameters"].append(
            {
                "name": header.name,
                "in": "header",
                "required": False,
                "description": header.about,
                "schema": msgspec.json.schema(header.type),
            }
        )
    if route.request is not None:
        examples = {name: {"value": value} for name, value in EXAMPLES[route.handler].items()}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_type[route.request], "examples": examples}},
        }
    elif route.raw_body:
        operation["requestBody"] = {
            "required": False,  # without one it is a body of no bytes
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    if route.verb is Verb.OPEN:
        operation["security"] = [{}]
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    type, about = PATH_PARAMETERS[name]
    schema = msgspec.json.schema(type)
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def _responses(route: Route, by_type: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        good["content"] = {"application/json": {"schema": by_type[route.answer]}}
    elif route.method != "HEAD":
        good["content"] = {route.produces: {"schema": _schema_of_bytes(route, by_type)}}
    if route.answer_headers:
        good["headers"] = _headers(*route.answer_headers)
    responses = {str(route.status): good}
    for status, about in _ERRORS.items():
        responses[status] = {"description": about}
        if status in _ERROR_HEADERS:
            responses[status]["headers"] = _headers(_ERROR_HEADERS[status])
        if route.method != "HEAD":
            responses[status]["content"] = {"application/json": {"schema": by_type[ErrorAnswer]}}
    return responses


def _schema_of_bytes(route: Route, by_type: dict[Any, Any]) -> dict[str, Any]:
    """Of an answer that is no JSON of ours; for a stream of events, as usual in OpenAPI 3.1, that of each event."""
    if route.events:
        return {"anyOf": [_event_schema(kind, by_type[type]) for kind, type in route.events.items()]}
    return {} if route.produces == "application/json" else {"type": "string"}


def _event_schema(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "description": "To be sent back as Last-Event-ID."},
            "event": {"const": kind} if kind else {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": payload},
        },
    }


def _headers(*headers: Header) -> dict[str, Any]:
    return {
        header.name: {
            "description": header.about,
            "required": True,
            "schema": msgspec.json.schema(header.type),
        }
        for header in headers
    }
