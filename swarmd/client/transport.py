"""Requests to one daemon: a pool of connections, safe repeats, errors in one form."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

import h11
import msgspec
import trio

from swarmd import __version__
from swarmd.api.native.messages import ErrorAnswer
from swarmd.client.address import Address
from swarmd.client.connection import Body, Connection, Lost, connect
from swarmd.client.errors import ApiError, StrangeAnswer, Unreachable

MAX_CONNECTIONS = 256  # at once; a further request waits
MAX_IDLE = 16
IDLE_S = 60.0
FRESH_S = 2.0  # a request that must not be sent twice takes no connection that was idle longer
MAX_ERROR_BYTES = 1 << 20
BACKOFF_S, MAX_BACKOFF_S = 0.1, 3.0
BUSY = (429, 503)
MAX_RETRY_AFTER_S = 60.0

QueryValue = str | int | float | bool | None


def segment(text: str) -> str:
    """One segment of a path, quoted, so that an id given by a user cannot change the route."""
    return quote(text, safe="") if text not in (".", "..") else text.replace(".", "%2E")


class Response:
    """An answer: `status`, `headers` (lower-case names), and its body by `async for` or `read`."""

    def __init__(self, connection: Connection, head: h11.Response, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._ended = False
        self.status = head.status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        if not self._ended:
            event = await self._connection.receive(self._timeout_s)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            self._ended = True
        raise StopAsyncIteration

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises `StrangeAnswer` when it is longer than `limit_bytes`."""
        pieces, size = [], 0
        async for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise StrangeAnswer(
                    f"the answer is longer than {limit_bytes:,} bytes", "ask for less at once"
                )
        return b"".join(pieces)

    async def error(self) -> ApiError:
        """The error that the body tells; a body of another form is quoted."""
        raw = await self.read(MAX_ERROR_BYTES)
        try:
            body = msgspec.json.decode(raw, type=ErrorAnswer).error
        except msgspec.DecodeError:
            start = " ".join(raw[:200].decode("utf-8", "replace").split())
            return ApiError(
                self.status,
                "not_swarmd",
                f"HTTP {self.status}: {start or 'no text'}",
                "is that a swarmd server?",
            )
        return ApiError(self.status, body.code, body.message, body.remedy, body.details)


class Repeats:
    """Decides whether a failed request is sent again, and waits before it is.

    Repeated is what never left (connection refused), and, when `repeatable`, also what may have arrived; until
    `patience_s` have passed, with growing, jittered pauses. A daemon that was never reached is not waited
    for, so that a wrong address is told at once; `was_reached` tells that it is there after all.
    """

    def __init__(
        self, url: str, changes: bool, repeatable: bool, patience_s: float, was_reached: bool
    ) -> None:
        self._url = url
        self._changes = changes
        self._repeatable = repeatable
        self._give_up_at = trio.current_time() + (patience_s if was_reached else 0.0)
        self._patience_s = patience_s
        self._was_reached = was_reached
        self._pause_s = BACKOFF_S

    def was_reached(self) -> None:
        """A connection was made: what is lost from now on is waited for."""
        if not self._was_reached:
            self._was_reached = True
            self._give_up_at = trio.current_time() + self._patience_s

    async def after_loss(self, lost: Lost) -> None:
        """Returns when it is time for another try; raises `Unreachable` when there is none."""
        if lost.sent and not self._repeatable:
            raise self.unreachable(lost) from None
        if not await self._paused(self._pause_s * random.uniform(0.5, 1.0)):
            raise self.unreachable(lost) from None

    async def after_busy(self, error: ApiError, retry_after: str | None) -> None:
        """As `after_loss`, for an answer that says: later."""
        pause_s = (
            min(float(retry_after), MAX_RETRY_AFTER_S)
            if retry_after and retry_after.isdigit()
            else self._pause_s
        )
        if not self._repeatable or not await self._paused(pause_s):
            raise error

    def unreachable(self, lost: Lost) -> Unreachable:
        """What the caller is told of `lost`."""
        return Unreachable(self._url, lost.reason, lost.sent, self._changes)

    async def _paused(self, pause_s: float) -> bool:
        if trio.current_time() + pause_s > self._give_up_at:
            return False
        await trio.sleep(pause_s)
        self._pause_s = min(self._pause_s * 2, MAX_BACKOFF_S)
        return True


async def exchange_once(
    connection: Connection, request: h11.Request, body: Body, timeout_s: float
) -> Response:
    """Sends one request and gives the head of its answer, whatever its status; raises `Lost`."""
    await connection.send(request, body, timeout_s)
    while True:  # 1xx answers may come before the real one
        event = await connection.receive(timeout_s)
        if isinstance(event, h11.Response):
            return Response(connection, event, timeout_s)


class Transport:
    """Sends requests to one daemon. Proxy settings of the environment are ignored."""

    def __init__(self, address: Address, token: str | None, patience_s: float) -> None:
        self.address = address
        self.patience_s = patience_s
        self.reached = False  # something at the address has taken a connection at least once
        self._idle: list[Connection] = []
        self._room = trio.Semaphore(MAX_CONNECTIONS)
        self._headers = [("Host", address.host_header), ("User-Agent", f"swarmd/{__version__}")]
        if token:
            self._headers.append(("Authorization", f"Bearer {token}"))

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, QueryValue] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        body: Body = b"",
        timeout_s: float,
        repeatable: bool,
        patience_s: float | None = None,
    ) -> AsyncIterator[Response]:
        """Sends one request and gives an answer below 400; else raises `ApiError` or `Unreachable`.

        `timeout_s` bounds each wait: for the head of the answer and for each further piece of either body.
        """
        target = self.address.prefix + path + query_text(query)
        request = h11.Request(method=method, target=target, headers=[*self._headers, *headers])
        patience_s = self.patience_s if patience_s is None else patience_s
        changes = method not in ("GET", "HEAD")
        repeats = Repeats(self.address.url, changes, repeatable, patience_s, self.reached)
        async with self._room:
            connection, response = await self._first_answer(request, body, timeout_s, repeatable, repeats)
            try:
                yield response
            except Lost as lost:
                raise repeats.unreachable(lost) from None
            finally:
                await self._put_back(connection)

    async def _first_answer(
        self, request: h11.Request, body: Body, timeout_s: float, repeatable: bool, repeats: Repeats
    ) -> tuple[Connection, Response]:
        while True:  # bounded by the patience of `repeats`, and by the idle connections
            try:
                connection = await self._connection(repeatable)
            except Lost as lost:
                await repeats.after_loss(lost)
                continue
            self.reached = True
            repeats.was_reached()
            was_used = connection.used
            keep = False
            try:
                response = await exchange_once(connection, request, body, timeout_s)
                if response.status < 400:
                    keep = True
                    return connection, response
                error = await response.error()
                await self._put_back(connection)
                keep = True
            except Lost as lost:
                if not (was_used and repeatable):  # a connection that died while idle: the next one, at once
                    await repeats.after_loss(lost)
                continue
            finally:
                if not keep:
                    await connection.close()
            if response.status not in BUSY:
                raise error
            await repeats.after_busy(error, response.headers.get("retry-after"))

    async def _connection(self, repeatable: bool) -> Connection:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            usable_s = IDLE_S if repeatable else FRESH_S
            if now - connection.idle_since <= usable_s and not connection.is_gone():
                return connection
            await connection.close()
        return await connect(self.address)

    async def _put_back(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE and connection.start_next():
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Closes the idle connections; those in use are closed by their users."""
        while self._idle:
            await self._idle.pop().close()


def query_text(query: Mapping[str, QueryValue] | None) -> str:
    """`?a=b&…` of the values that are given: None and "" are left out."""
    given = {}
    for name, value in (query or {}).items():
        if value is None or value == "":
            continue
        given[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return "?" + urlencode(given) if given else ""
