"""HTTP/2: a connection on h2, and its streams, each served by a task of its own.

It knows nothing of what is served: whoever opens a stream gets `serve(stream)` as a task in a scope of its own, which
is cancelled when the client takes the stream back or goes. The reader only appends to a stream's body and wakes its
task, so one task that does not read never holds up the others; the client gets more window when a task has taken what
came. All that is written goes through one writer, which takes everything that was written meanwhile at once.

Bounds, all per connection: `STREAMS` open streams, `RUNNING` tasks, the two windows for bodies that nobody has read,
`OUT_BYTES` that the client has not taken, and two budgets for frames that cost us more than the client.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypercorn.events import Closed, Event, RawData
from hyperframe.frame import GoAwayFrame

log = logging.getLogger("swarmd.server")

STREAMS = 900  # open at a time
RUNNING = 2 * STREAMS  # tasks, those included whose stream the client has reset
STREAM_WINDOW = 1 << 20  # bytes of one body that its task has not read
CONNECTION_WINDOW = 4 << 20  # of all bodies together
OUT_BYTES = 128 << 10  # written, and not yet taken by the client: above it no task writes more
READ_STOP = 512 << 10  # and above this nothing more is read, for what a client sends is answered too
RESETS, RESETS_PER_S = 2 * STREAMS, 100.0  # streams that a client may take back
CHATTER, CHATTER_PER_S = (
    10_000,
    500.0,
)  # frames that ask for nothing: PING, SETTINGS, WINDOW_UPDATE, empty DATA, …

Fields = list[tuple[bytes, bytes]]
ServeStream = Callable[["Stream"], Awaitable[None]]


class TooMuch(Exception):
    """A client that gives us more to do than any program in earnest would."""


class Budget:
    """`burst` at once, and `per_s` in the long run."""

    def __init__(self, what: str, burst: float, per_s: float) -> None:
        self._what = what
        self._burst = self._left = burst
        self._per_s = per_s
        self._at = trio.current_time()

    def spend(self) -> None:
        """Raises `TooMuch`."""
        self._left -= 1
        if self._left < 0:
            now = trio.current_time()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 0:
                raise TooMuch(f"more than {self._burst:g} {self._what} at once, or {self._per_s:g} a second")

    def refill(self) -> None:
        self._left = self._burst


class Owner(Protocol):
    """What a connection's protocol needs of the connection."""

    @property
    def peer(self) -> tuple[str, int] | None: ...

    async def send_bytes(self, data: bytes) -> None: ...

    def set_idle(self, idle: bool) -> None: ...

    async def close(self) -> None: ...


class Stream:
    """One request, and its answer: `receive`, then `head`, `send` and `end` in that order.

    What is done to a stream that has ended does nothing; its task is cancelled at its next checkpoint.
    """

    __slots__ = (
        "_body", "_http2", "_news", "_over", "_owed", "_turn", "answered", "fields", "id", "scope", "took_all",
        "waits_for_all",
    )  # fmt: skip

    def __init__(self, http2: Http2, id: int, fields: Fields) -> None:
        self._http2 = http2
        self.id = id
        self.fields = fields  # with the pseudo fields; names in lower case
        self.scope = trio.CancelScope()  # around the task
        self.answered = False  # nothing more can be sent
        self.took_all = False  # of the request, from the client
        self.waits_for_all = False  # to write: the connection is full
        self._body = bytearray()
        self._owed = 0  # bytes of the windows that the client gets back
        self._news: trio.Event | None = None  # the task waits for the body
        self._turn: trio.Event | None = None  # the task waits for a window
        self._over: trio.Event | None = None

    @property
    def peer(self) -> tuple[str, int] | None:
        """None: a Unix socket."""
        return self._http2.owner.peer

    @property
    def at_end(self) -> bool:
        """The request has come to its end, and all of it was read."""
        return self.took_all and not self._body

    async def receive(self) -> bytes:
        """What came of the body and was not read; nothing at its end."""
        while not self._body and not self.took_all:
            self._news = trio.Event()
            await self._news.wait()
        data = bytes(self._body)
        self._body.clear()
        self.settle()
        return data

    async def head(self, fields: Fields, end: bool = False) -> None:
        """The head of the answer, with `:status` first; `end`: it is all of it."""
        self._http2.put_fields(self, fields, end)

    async def send(self, data: bytes) -> None:
        """A part of the body. Waits until the client takes it; one that takes nothing loses the stream."""
        sent = 0
        while sent < len(data) and not self.answered:
            room = self._http2.room(self.id)
            if room <= 0:
                await self._wait_turn()
                continue
            self._http2.put_data(
                self, data if room >= len(data) - sent and not sent else data[sent : sent + room]
            )
            sent += room

    async def end(self, trailers: Fields | None = None) -> None:
        """The end of the answer."""
        if trailers is not None:
            self._http2.put_fields(self, trailers, True)
        else:
            self._http2.put_end(self)

    def reset(self, code: ErrorCodes) -> None:
        """Breaks off."""
        self._http2.reset(self, code)

    async def over(self) -> None:
        """Returns when nothing more can be sent."""
        if not self.answered:
            self._over = self._over or trio.Event()
            await self._over.wait()

    async def _wait_turn(self) -> None:
        """For a window to write into. The client must open one in time; only the connection knows how it is with what
        was written already."""
        http2 = self._http2
        self._turn = trio.Event()
        http2.blocked[self.id] = self
        # Full of what others wrote: not this stream's fault, and looked at anew as soon as something was taken.
        self.waits_for_all = http2.is_full
        with trio.move_on_after(math.inf if self.waits_for_all else http2.send_timeout_s) as patience:
            await self._turn.wait()
        if patience.cancelled_caught:
            log.warning("stream.stuck", extra={"client": self.peer, "after_s": http2.send_timeout_s})
            self.reset(ErrorCodes.CANCEL)
            self.scope.cancel()
            await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------- by the connection

    def feed(self, data: bytes, flow: int) -> None:
        self._body += data
        self._owed += flow
        if not data:
            self.settle()  # padding alone
        self._tell()

    def finish(self) -> None:
        """The request is whole."""
        self.took_all = True
        self._tell()

    def take_turn(self) -> None:
        if self._turn is not None:
            self._turn.set()

    def close(self) -> None:
        self.answered = True
        if self._over is not None:
            self._over.set()

    def settle(self) -> None:
        if self._owed:
            owed, self._owed = self._owed, 0
            self._http2.acknowledge(self.id, owed)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()


class Http2:
    """One connection, driven by its owner: `run` and `initiate`, then `handle` for what comes."""

    answer_open = False  # a cut stream is told from a whole one by its framing
    unread = True  # frames may be on their way whenever we close
    head_begun = False

    def __init__(
        self, owner: Owner, serve: ServeStream, *, send_timeout_s: float, max_header_bytes: int
    ) -> None:
        self.owner = owner
        self.send_timeout_s = send_timeout_s
        self.blocked: dict[int, Stream] = {}  # streams whose tasks wait to write
        self._serve = serve
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                normalize_outbound_headers=False,  # who writes them sees to it
                validate_outbound_headers=False,
            )
        )
        # As initial values: what is set later is not in the first frame, and uploads would stall at 65,535 bytes.
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_bytes,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            },
        )
        # h2 itself sets this only when the client has acknowledged it.
        self._h2.decoder.max_header_list_size = max_header_bytes
        self._streams: dict[int, Stream] = {}  # that have a task
        self._last = 0  # the newest stream that was served
        self._leaving = False  # GOAWAY was sent
        self._broken = False  # h2 takes and gives nothing more
        self._resets = Budget("streams reset", RESETS, RESETS_PER_S)
        self._chatter = Budget("frames that ask for nothing", CHATTER, CHATTER_PER_S)
        self._out: list[bytes] = []
        self._out_bytes = 0  # with what the socket has not taken yet
        self._written = trio.Event()  # something is in _out
        self._taken: trio.Event | None = None  # the writer has been at it
        self._nursery: trio.Nursery | None = None

    # ------------------------------------------------------------- the owner's side

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The tasks of the connection, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
            self._flush()
            nursery.start_soon(self._write)
            task_status.started()

    async def handle(self, event: Event) -> None:
        """What the client sent, or that it has gone. Waits while it does not read what it is sent. Raises `TooMuch`."""
        if isinstance(event, Closed):
            self._break()
        if not isinstance(event, RawData) or self._broken:
            return
        try:
            for happened in self._h2.receive_data(event.data):
                self._on(happened)
        except h2.exceptions.ProtocolError:
            self._broken = True  # h2 has told the client why
        except TooMuch as why:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, str(why).encode())
            self._flush()
            self._break()
            await self.flushed()
            raise
        self._flush()
        if self._broken:
            self._break()
            await self.flushed()
            await self.owner.close()
        while self._out_bytes > READ_STOP:
            await self._until_taken()

    async def farewell(self) -> None:
        """No further stream; those that run go on. A client that began one meanwhile learns that it was not served."""
        if not self._leaving and not self._broken:
            self._leaving = True
            self._flush()
            # By hand: after a GOAWAY of its own h2 sends no answers.
            self._put(GoAwayFrame(0, last_stream_id=self._last, error_code=ErrorCodes.NO_ERROR).serialize())
        await self.flushed()

    async def flushed(self) -> None:
        """Returns when everything was sent; a client that does not read loses the connection meanwhile."""
        while self._out_bytes:
            await self._until_taken()

    def _break(self) -> None:
        """Ends all tasks."""
        self._broken = True
        for stream in self._streams.values():
            stream.close()
            stream.scope.cancel()

    # ------------------------------------------------------------- what comes

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream_id, headers=fields):
                assert stream_id is not None and fields is not None
                self._begin(stream_id, fields)
            case h2.events.DataReceived(stream_id=stream_id, data=data, flow_controlled_length=flow):
                assert stream_id is not None and data is not None and flow is not None
                if not data and event.stream_ended is None:
                    self._chatter.spend()
                stream = self._streams.get(stream_id)
                if stream is not None and not stream.answered:
                    stream.feed(data, flow)
                else:
                    self.acknowledge(stream_id, flow)  # a body that comes after the answer
            case h2.events.StreamEnded(stream_id=stream_id):
                if (stream := self._streams.get(stream_id or 0)) is not None:
                    stream.finish()
            case h2.events.StreamReset(stream_id=stream_id):
                self._resets.spend()
                if (stream := self._streams.get(stream_id or 0)) is not None:
                    stream.close()
                    stream.scope.cancel()
            case h2.events.WindowUpdated(stream_id=stream_id):
                self._chatter.spend()
                if stream_id:
                    if (stream := self.blocked.pop(stream_id, None)) is not None:
                        stream.take_turn()
                else:
                    self._give_turns()
            case h2.events.RemoteSettingsChanged():
                self._chatter.spend()
                self._give_turns()
            case h2.events.ConnectionTerminated():
                self._broken = True
            case (
                h2.events.PingReceived()
                | h2.events.PriorityUpdated()
                | h2.events.SettingsAcknowledged()
                | h2.events.UnknownFrameReceived()
            ):
                self._chatter.spend()

    def _begin(self, stream_id: int, fields: Fields) -> None:
        stream = Stream(self, stream_id, fields)
        if self._leaving:
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = dict(fields)
        path, method = pseudo.get(b":path"), pseudo.get(b":method", b"")
        if path is None or not path.isascii() or not method.isascii():
            self._resets.spend()
            self.reset(
                stream, ErrorCodes.REFUSED_STREAM if method == b"CONNECT" else ErrorCodes.PROTOCOL_ERROR
            )
            return
        if method == b"CONNECT":  # there is nothing to connect to, nor is there a WebSocket
            self._resets.spend()
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        if len(self._streams) >= RUNNING:
            raise TooMuch(f"{RUNNING} requests of one connection are still running")
        assert self._nursery is not None
        if not self._streams:
            self.owner.set_idle(False)
        self._last = stream_id
        self._streams[stream_id] = stream
        self._nursery.start_soon(self._run_stream, stream)

    async def _run_stream(self, stream: Stream) -> None:
        try:
            with stream.scope:
                await self._serve(stream)
        except* Exception as failures:
            log.error("request.failed", extra={"client": stream.peer}, exc_info=failures)
        finally:
            del self._streams[stream.id]
            self.blocked.pop(stream.id, None)
            if not stream.answered:
                self.reset(stream, ErrorCodes.INTERNAL_ERROR)  # half an answer is none
            elif not stream.took_all:
                self.reset(stream, ErrorCodes.NO_ERROR)  # answered before the request ended: RFC 9113 8.1
            stream.close()
            stream.settle()
            self._flush()
            if not self._streams:
                self.owner.set_idle(True)

    # ------------------------------------------------------------- what a stream does

    @property
    def is_full(self) -> bool:
        return self._out_bytes >= OUT_BYTES

    def room(self, stream_id: int) -> int:
        """Bytes that may be written to a stream at once, 0 or less when none."""
        if self.is_full:
            return 0
        try:
            return min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
        except h2.exceptions.ProtocolError:
            return 1  # the stream has ended: what is written goes nowhere

    def put_fields(self, stream: Stream, fields: Fields, end: bool) -> None:
        if stream.answered or self._broken:
            return
        try:
            self._h2.send_headers(stream.id, fields, end_stream=end)
        except h2.exceptions.ProtocolError:
            end = True  # it has ended
        self._chatter.refill()
        if end:
            stream.close()
        self._flush()

    def put_data(self, stream: Stream, data: bytes) -> None:
        if stream.answered or self._broken:
            return
        try:
            self._h2.send_data(stream.id, data)
        except h2.exceptions.ProtocolError:
            stream.close()
        self._chatter.refill()
        self._flush()

    def put_end(self, stream: Stream) -> None:
        if stream.answered or self._broken:
            return
        try:
            self._h2.end_stream(stream.id)
        except h2.exceptions.ProtocolError:
            pass
        stream.close()
        self._flush()

    def reset(self, stream: Stream, code: ErrorCodes) -> None:
        stream.close()
        if self._broken:
            return
        try:
            self._h2.reset_stream(stream.id, code)
        except h2.exceptions.ProtocolError:
            return  # it has ended by itself
        self._flush()

    def acknowledge(self, stream_id: int, flow: int) -> None:
        """Gives the client its window back."""
        if self._broken or not flow:
            return
        try:
            self._h2.acknowledge_received_data(flow, stream_id)
        except h2.exceptions.ProtocolError:
            return
        self._flush()

    # ------------------------------------------------------------- writing

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._put(data)

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        self._written.set()

    async def _write(self) -> None:
        while True:
            if not self._out:
                self._written = trio.Event()
                await self._written.wait()
            data, self._out = b"".join(self._out), []
            await self.owner.send_bytes(data)
            self._out_bytes -= len(data)
            if self._taken is not None:
                self._taken.set()
                self._taken = None
            if self.blocked and not self.is_full:
                self._give_turns()

    def _give_turns(self) -> None:
        """Wakes the tasks that have a window again, those that wait longest first."""
        for stream_id, stream in [*self.blocked.items()]:
            if self.is_full:
                return
            if stream.waits_for_all or self.room(stream_id) > 0:
                del self.blocked[stream_id]
                stream.take_turn()

    async def _until_taken(self) -> None:
        self._taken = self._taken or trio.Event()
        await self._taken.wait()


def keep_alive(sock: Any) -> None:
    """A client whose machine is gone is noticed by the kernel; a call may be held without an end."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    ):
        try:
            sock.setsockopt(level, option, value)
        except OSError:
            return  # a Unix socket has none
