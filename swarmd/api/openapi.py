"""The OpenAPI file, made from the same list of routes and types that the daemon runs on."""

from __future__ import annotations

from typing import Any

import msgspec

from swarmd import __version__
from swarmd.api.native.messages import ErrorAnswer
from swarmd.api.native.routes import ROUTES
from swarmd.api.routes import Route, Verb

PATH_ABOUT = {
    "id": "An id: 13 characters of base 32.",
    "bot": "A bot's id: 1 to 128 letters, digits, '.', '_', '-'.",
    "session": "A session's id.",
    "attempt": "An attempt's id.",
    "stream": "stdout or stderr.",
    "sha256": "64 lower-case hex digits.",
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
    "503": "Try again later.",
    "507": "The disk is full.",
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1, as JSON-ready objects."""
    types = [t for r in ROUTES for t in (r.request, r.answer) if t is not None]
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
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_type[route.request]}},
        }
    elif route.raw_body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    if route.verb is Verb.OPEN:
        operation["security"] = [{}]
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if name == "stream":
        schema["enum"] = ["stdout", "stderr"]
    return {"name": name, "in": "path", "required": True, "description": PATH_ABOUT[name], "schema": schema}


def _responses(route: Route, by_type: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        good["content"] = {"application/json": {"schema": by_type[route.answer]}}
    elif route.method != "HEAD":
        media = route.produces
        schema = {} if media == "application/json" else {"type": "string"}
        good["content"] = {media: {"schema": schema}}
    responses = {str(route.status): good}
    for status, about in _ERRORS.items():
        responses[status] = {"description": about}
        if route.method != "HEAD":
            responses[status]["content"] = {"application/json": {"schema": by_type[ErrorAnswer]}}
    return responses
