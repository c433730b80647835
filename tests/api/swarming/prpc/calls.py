"""Calls of methods over a real socket, and methods that only tests have."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from swarmd.api.routes import Verb
from swarmd.api.swarming import methods, services
from swarmd.api.swarming.prpc.codec import JSON_PREFIX, decoded, encoded
from swarmd.api.swarming.prpc.layer import MAX_BODY, Method
from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.testing.harness import running
from tests.api.wire import Answer, send

TASKS = "swarming.v2.Tasks"
BINARY = ("Content-Type", "application/prpc; encoding=binary")
JSON = (("Content-Type", "application/json"), ("Accept", "application/json"))


def path(key: str) -> str:
    return f"/prpc/{key}"


async def call(url: str, key: str, body: bytes | object = b"", *headers: tuple[str, str], **more) -> Answer:
    """One call. A `body` that is a message is sent in binary."""
    if not isinstance(body, bytes):
        body, headers = encoded(body, Encoding.BINARY), (BINARY, *headers)
    return await send(url, "POST", path(key), body, headers, **more)


def message(answer: Answer, type, encoding: Encoding = Encoding.BINARY):
    """The message of a good answer; checks everything else of it."""
    assert (answer.status, answer.headers["x-prpc-grpc-code"]) == (200, "0"), answer
    assert answer.headers["content-type"] == encoding.value
    assert answer.headers["x-content-type-options"] == "nosniff"
    body = answer.body
    if encoding is Encoding.JSON:
        assert body.startswith(JSON_PREFIX) and body.endswith(b"\n")
        body = body[len(JSON_PREFIX) : -1]
    return decoded(type, body, encoding)


def fault(answer: Answer, code: int, status: int) -> str:
    """The text of an answer that is an error; checks everything else of it."""
    assert (answer.headers.get("x-prpc-grpc-code"), answer.status) == (str(code), status), answer
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    text = answer.body.decode()
    assert text.endswith("\n") and len(text) > 1
    return text[:-1]


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, part: object, *names: str, **how):
    """A daemon whose methods of the service `Tasks` are those of `part`, called `names`."""
    rows = tuple(Method(TASKS, name, Verb.READ, "For tests.", MAX_BODY) for name in names)
    monkeypatch.setattr(methods, "METHODS", rows)
    monkeypatch.setattr(methods, "ROUTES", tuple(row.route() for row in rows))
    monkeypatch.setattr(services, "parts", lambda context, code: (part,))
    async with running(**how) as daemon:
        yield daemon
