"""Raw HTTP against a running daemon: exactly the bytes that a test wants to send."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from swarmd.api.native.messages import ErrorAnswer, ErrorBody

MAX_ANSWER = 32 << 20
JSON = ("Content-Type", "application/json")


class SwarmingError(msgspec.Struct, forbid_unknown_fields=True):
    error: str
    code: str


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> ErrorBody:
        """The error, in our form or in one of those of Swarming; fails for any other body."""
        if "x-prpc-grpc-code" in self.headers:
            return self._rpc_error()
        if self.headers["content-type"] == "application/json; charset=utf-8":
            told = msgspec.json.decode(self.body, type=SwarmingError, strict=True)
            return ErrorBody(code=told.code, message=told.error, remedy=told.error)
        assert self.headers["content-type"] == "application/json", self
        return msgspec.json.decode(self.body, type=ErrorAnswer, strict=True).error

    def _rpc_error(self) -> ErrorBody:
        """A code and a line of text: what is wrong, and what to do."""
        assert self.headers["content-type"] == "text/plain; charset=utf-8", self
        assert self.headers["x-content-type-options"] == "nosniff", self
        assert 0 < int(self.headers["x-prpc-grpc-code"]) <= 16, self
        text = self.body.decode()
        assert text.endswith("\n") and len(text) > 1, self
        message, _, remedy = text[:-1].rpartition("; ")
        return ErrorBody(code=self.headers.get("x-swarmd-code", ""), message=message, remedy=remedy)

    def json(self):
        return msgspec.json.decode(self.body)


async def connect(url: str) -> trio.abc.Stream:
    if url.startswith("unix:"):
        return await trio.open_unix_socket(url.removeprefix("unix:"))
    parts = urlsplit(url)
    return await trio.open_tcp_stream(parts.hostname, parts.port)


def head(method: str, target: str, headers, *, host: str | None = "localhost") -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_answer(stream: trio.abc.Stream, method: str) -> Answer:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    answer, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Response):
            answer = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            assert len(body) <= MAX_ANSWER
        elif isinstance(event, h11.InformationalResponse):
            continue
        else:
            assert answer is not None, event
            names = {k.decode(): v.decode() for k, v in answer.headers}
            return Answer(answer.status_code, names, body)


async def send(
    url: str,
    method: str,
    target: str,
    body: bytes | object = b"",
    headers=(),
    *,
    host: str | None = "localhost",
    length: int | None = None,
) -> Answer:
    """One request on a connection of its own. A `body` that is not bytes is sent as JSON."""
    headers = list(headers)
    if not isinstance(body, bytes):
        body = msgspec.json.encode(body)
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(JSON)
    if length is not None or body or method not in ("GET", "HEAD", "OPTIONS"):
        headers.append(("Content-Length", str(len(body) if length is None else length)))
    async with await connect(url) as stream:
        await stream.send_all(head(method, target, headers, host=host) + body)
        return await read_answer(stream, method)
