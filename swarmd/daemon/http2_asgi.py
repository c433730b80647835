"""A stream of HTTP/2 as a request of an ASGI application."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import unquote

import trio
from hypercorn.utils import suppress_body

from swarmd.daemon.http2 import Fields, Stream
from swarmd.daemon.requests import ASGIApp, Message, Scope

log = logging.getLogger("swarmd.server")

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]")
OF_HTTP1 = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


class BadAnswer(Exception):
    """The application's fault."""


async def call_app(app: ASGIApp, stream: Stream, base: Scope, usual: Callable[[], Fields]) -> None:
    """`base`: what is the same for all requests of the connection; `usual`: fields that each answer has."""
    scope = scope_of(stream.fields, base)
    request = Request(stream, scope["method"], usual)
    try:
        await app(scope, request.receive, request.send)
    except* Exception as failures:
        log.error(
            "request.failed",
            extra={"method": scope["method"], "path": scope["path"], "client": scope["client"]},
            exc_info=failures,
        )
    if not request.begun:
        await stream.head([(b":status", b"500"), (b"content-length", b"0"), *usual()], end=True)


def scope_of(fields: Fields, base: Scope) -> Scope:
    pseudo = {name: value for name, value in fields if name[:1] == b":"}
    path, _, query = pseudo[b":path"].partition(b"?")
    return {
        **base,
        "type": "http",
        "http_version": "2",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": pseudo[b":method"].decode("ascii").upper(),
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": plain_fields(fields),
        "extensions": {},
    }


def plain_fields(fields: Fields) -> Fields:
    """Without the pseudo fields; `:authority`, where it is given, is the host."""
    authority = [(b"host", value) for name, value in fields if name == b":authority"]
    return authority + [f for f in fields if f[0][:1] != b":" and not (authority and f[0] == b"host")]


class Request:
    """`receive` and `send` of one request."""

    def __init__(self, stream: Stream, method: str, usual: Callable[[], Fields]) -> None:
        self.begun = False  # the answer
        self._stream = stream
        self._method = method
        self._usual = usual
        self._read = False  # all of the body
        self._silent = False  # an answer of this kind has no body

    async def receive(self) -> Message:
        if self._read or self._stream.answered:
            await trio.lowlevel.checkpoint()  # an app that loops here must not stop the others
            await self._stream.over()
            return {"type": "http.disconnect"}
        data = await self._stream.receive()
        self._read = self._stream.at_end
        return {"type": "http.request", "body": data, "more_body": not self._read}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and not self.begun:
            status = int(message["status"])
            fields = _checked(message.get("headers", ()))
            self.begun = True
            self._silent = suppress_body(self._method, status)
            await self._stream.head([(b":status", b"%d" % status), *fields, *self._usual()])
        elif kind == "http.response.body" and self.begun:
            body, more = message.get("body", b""), message.get("more_body", False)
            if body and not self._silent:
                await self._stream.send(bytes(body))
            if more:
                await trio.lowlevel.checkpoint()  # or an app that streams would stop the others
            else:
                await self._stream.end()
        else:
            raise BadAnswer(f"unexpected message {kind}")


def _checked(headers: object) -> Fields:
    """The fields of an answer as HTTP/2 wants them. Raises `BadAnswer`."""
    fields: Fields = []
    for name, value in headers:  # type: ignore[attr-defined]
        name, value = bytes(name).lower().strip(), bytes(value).strip()
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise BadAnswer(f"bad field {name!r}: {value[:80]!r}")
        if name not in OF_HTTP1:
            fields.append((name, value))
    return fields
