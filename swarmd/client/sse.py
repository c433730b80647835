"""Server-sent events: the parser, and a stream that goes on after a lost connection."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import trio

from swarmd.client.connection import Lost
from swarmd.client.errors import StrangeAnswer, Unreachable
from swarmd.client.transport import BACKOFF_S, MAX_BACKOFF_S, QueryValue, Response, Transport

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

MAX_EVENT_BYTES = 16 << 20
SILENCE_S = 90.0  # after this long without a byte the connection is taken for dead
RECONNECT_S = 300.0  # a daemon may be away this long (a restart takes up to 4 minutes)


class ServerEvent(NamedTuple):
    """One event as sent: `id` may be "" (then it moves no position), `kind` is `message` when not named."""

    id: str
    kind: str
    data: str


class EventParser:
    """Bytes in, events out. Source: WHATWG HTML, "Interpreting an event stream"."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that `data` completes; raises `StrangeAnswer` for one above MAX_EVENT_BYTES."""
        events = []
        # A lone CR also ends a line by the standard, but no server that we talk to writes it.
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise StrangeAnswer(
                f"an event is longer than {MAX_EVENT_BYTES:,} bytes", "is that a swarmd server?"
            )
        return events

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            event = (
                ServerEvent(self._id, self._kind or "message", "\n".join(self._data)) if self._data else None
            )
            self._id, self._kind, self._data = "", "", []
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._kind = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None  # comments keep the connection alive; other fields mean nothing


class ServerEvents:
    """An `async with … as events: async for event in events` over a route, resumed by `Last-Event-ID`.

    Ends after an event of a kind in `last_kinds`; without such kinds it never ends by itself. While the
    daemon is away it tries again for RECONNECT_S, then raises `Unreachable`. A daemon that was never
    reached is told at once.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        query: dict[str, QueryValue] | None = None,
        last_kinds: frozenset[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self._path = path
        self._query = query
        self._last_kinds = last_kinds
        self._last_id = ""
        self._parser = EventParser()
        self._ready: list[ServerEvent] = []  # newest first
        self._exchange: AbstractAsyncContextManager[Response] | None = None
        self._response: Response | None = None
        self._ended = False
        self._pause_s = 0.0  # before the next connection
        self._away_since: float | None = None

    async def __aenter__(self) -> ServerEvents:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._disconnect()

    def __aiter__(self) -> ServerEvents:
        return self

    async def __anext__(self) -> ServerEvent:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            await self._receive()
        event = self._ready.pop()
        if event.id:
            self._last_id = event.id
        self._ended = event.kind in self._last_kinds
        return event

    async def _receive(self) -> None:
        if self._response is None:
            await self._connect()
        assert self._response is not None
        try:
            data = await anext(self._response, b"")
        except (Lost, Unreachable):
            data = b""
        if data:
            self._pause_s = 0.0
            self._ready = self._parser.feed(data)[::-1]
            return
        await self._disconnect()  # closed without a last event: the daemon restarts, or let us go

    async def _connect(self) -> None:
        self._parser = EventParser()
        if self._away_since is None:
            self._away_since = trio.current_time()
        await trio.sleep(self._pause_s)
        left_s = max(0.0, self._away_since + RECONNECT_S - trio.current_time())
        self._pause_s = min(self._pause_s * 2 or BACKOFF_S, MAX_BACKOFF_S)
        headers: tuple[tuple[str, str], ...] = (("Accept", "text/event-stream"),)
        if self._last_id:
            headers += (("Last-Event-ID", self._last_id),)
        exchange = self._transport.exchange(
            "GET",
            self._path,
            query=self._query,
            headers=headers,
            timeout_s=SILENCE_S,
            repeatable=True,
            patience_s=left_s,
        )
        self._response = await exchange.__aenter__()
        self._exchange = exchange
        self._away_since = None

    async def _disconnect(self) -> None:
        exchange, self._exchange, self._response = self._exchange, None, None
        if exchange is not None:
            await exchange.__aexit__(None, None, None)
