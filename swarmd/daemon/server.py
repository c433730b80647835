"""The guarded HTTP server: hypercorn's protocols, with connections that cannot hurt the daemon.

Stock `hypercorn.trio.serve` (0.18.0) lets one odd client end the whole process, leak descriptors or hold up a
shutdown for ever. Here every connection runs in its own scope in our nursery: whatever happens in it is
logged and closes that one connection. See docs/architecture.md, "HTTP". hypercorn is pinned exactly, because
its connection and protocol classes are importable but not a documented interface;
tests/daemon/test_server_fuzz.py tells whether a new version still fits.

What the app sees: `scope["client"]` is `(host, port)` for a TCP peer and **None for a peer on a Unix socket**
(only a Unix peer has None: a TCP connection whose peer cannot be named is not served). `scope["server"]`
likewise. Never a WebSocket: that is refused here. An app whose client is gone is cancelled; a client that
closes its sending half counts as gone.
"""

import logging
import math
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h2.events
import h2.exceptions
import h11
import trio
from h2.errors import ErrorCodes
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from swarmd.daemon.listeners import Door, Waiting, accept
from swarmd.daemon.requests import H2_STREAMS, AppTasks, ASGIApp, Inbox, Message, Patient, Wait

log = logging.getLogger("swarmd.server")

RECEIVE_BYTES = 64 * 1024  # one read from a socket
PIECE_BYTES = 256 * 1024  # one write, with send_timeout_s each: a slow reader is not taken for a dead one
AHEAD_BYTES = RECEIVE_BYTES  # of a client that sends on while it waits: so far we read to see it go
LINGER_S = 2.0  # how long we read on after an early answer, so that it is not lost in a reset
CLOSE_S = 1.0  # for the last words of a connection
LIFESPAN_S = 60.0  # for the start of the app, and for its stop
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by reset; nobody takes a cut answer for a whole one
# Sent when h11 has given up on the connection because the app's head was wrong.
GIVE_UP = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


@dataclass(frozen=True)
class ServerSettings:
    """Limits of the server; all times in seconds."""

    idle_s: float = 600.0  # a kept-alive connection without a request is closed after this
    header_s: float = 30.0  # from the connection, or a later head's first byte, to the end of a request head
    send_timeout_s: float = 10.0  # a client that takes no byte for this long is dropped
    graceful_s: float = 5.0  # what running requests get at shutdown before they are cancelled
    max_connections: int = 20_000  # above it: a bare 503 with Retry-After
    max_header_bytes: int = 16 * 1024  # a request head; HTTP/1: 431, HTTP/2: the connection ends


class LifespanFailed(Exception):
    """The app said that it cannot start or stop."""


class Turn(EventWrapper):
    """What hypercorn waits for when more came of a client whose request is still running."""

    def __init__(self, patient: Patient) -> None:
        super().__init__()
        self._patient = patient

    async def wait(self) -> None:
        await self._patient(super().wait)


class Http1(H11Protocol):
    """HTTP/1.1 with one write per small response, without upgrades (HTTP/2 needs none here)."""

    def __init__(self, *args: Any, patient: Patient) -> None:
        super().__init__(*args)
        self.can_read = Turn(patient)
        self._held = b""  # a head whose body is about to come
        self._bad_head = False

    async def farewell(self) -> None:
        """Nothing to say on HTTP/1."""

    @property
    def answer_open(self) -> bool:
        return self.connection.our_state is h11.SEND_BODY

    @property
    def unread(self) -> bool:
        """The client may still be sending what nobody will read: closing now could destroy our answer."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    @property
    def head_begun(self) -> bool:
        return self.connection.our_state is h11.IDLE and self.connection.trailing_data[0] != b""

    async def _send_h11_event(self, event: Any) -> None:
        if self._bad_head:
            self._bad_head = False
            await self.send(RawData(data=GIVE_UP))
            return
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.stream is None or self.connection.their_state is h11.ERROR:
                await trio.lowlevel.checkpoint()  # the client is gone, or was told off; the app does not know
                return
            self._bad_head = isinstance(event, h11.Response)
            raise  # the app's fault
        self._held += data or b""
        if isinstance(event, h11.Response) and _has_body(event):
            return
        if self._held:
            data, self._held = self._held, b""
            await self.send(RawData(data=data))

    async def _create_stream(self, request: h11.Request) -> None:
        if any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers):
            await self._send_error_response(403)  # stock's answer, which it may give twice
            await self.send(Closed())
            return
        await super()._create_stream(request)

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])


def _has_body(head: h11.Response) -> bool:
    # A chunked head is sent at once: its first chunk may be long in coming.
    return any(name == b"content-length" and value != b"0" for name, value in head.headers)


class Http2(H2Protocol):
    """HTTP/2 without the ways in which hypercorn 0.18.0 loses a connection or keeps a request for nothing."""

    def __init__(self, *args: Any, send_timeout_s: float) -> None:
        super().__init__(*args)
        self._send_timeout_s = send_timeout_s
        self._patience: dict[int, trio.CancelScope] = {}  # streams that wait for the client to take data

    answer_open = False  # a cut stream is told from a whole one by its framing
    unread = False
    head_begun = False

    async def farewell(self) -> None:
        self.connection.close_connection()
        await self._flush()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.PriorityUpdated):
                continue  # deprecated by RFC 9113 5.3; a tree that clients can grow is only a way to break us
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # A body that comes after the answer: stock raises KeyError.
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                continue
            if isinstance(event, h2.events.StreamReset):
                self._cancel_app(event.stream_id)
            await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset | h2.events.RequestReceived):
                await self._tell_if_idle()  # a reset or refused request: stock takes it for running for ever
        await self._flush()

    def _cancel_app(self, stream_id: int) -> None:
        put = getattr(self.streams.get(stream_id), "app_put", None)
        if put is not None:
            put.__self__.app.cancel()  # an Inbox, see AppTasks.spawn_app

    async def _tell_if_idle(self) -> None:
        if not self.streams:
            await self.send(Updated(idle=True))

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        fields = dict(request.headers)
        if not (fields.get(b":path", b"").isascii() and fields[b":method"].isascii() and b":path" in fields):
            await self._reset(request.stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if fields[b":method"] == b"CONNECT":  # stock takes it for a WebSocket
            await self._reset(request.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        await super()._create_stream(request)

    async def stream_send(self, event: StreamEvent) -> None:
        stream_id = event.stream_id
        if stream_id not in self.stream_buffers:
            await trio.lowlevel.checkpoint()  # the stream has ended: an app that still streams would spin
        if isinstance(event, StreamClosed):
            stream = self.streams.get(stream_id)
            if isinstance(stream, HTTPStream) and stream.state is not ASGIHTTPState.CLOSED:
                await self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)  # the app broke off
        with trio.CancelScope(deadline=trio.current_time() + self._send_timeout_s) as patience:
            self._patience[stream_id] = patience
            try:
                await super().stream_send(event)
            finally:
                self._patience.pop(stream_id, None)
        if patience.cancelled_caught:
            log.warning("stream.stuck", extra={"client": self.client, "after_s": self._send_timeout_s})
            self._cancel_app(stream_id)
            await self._close_stream(stream_id)
            await self._reset(stream_id, ErrorCodes.CANCEL)
            await self._tell_if_idle()

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        waiting = len(buffer.buffer) if buffer is not None else 0
        if waiting and not self._window(stream_id):
            self.priority.block(stream_id)  # stock wakes the app here, which then fills the memory
            return
        await super()._send_data(stream_id)
        if buffer is not None and len(buffer.buffer) < waiting and stream_id in self._patience:
            self._patience[stream_id].deadline = trio.current_time() + self._send_timeout_s
        if stream_id not in self.stream_buffers:
            stream = self.connection.streams.get(stream_id)
            if stream is not None and not stream.closed:  # answered before the request ended: RFC 9113 8.1
                await self._reset(stream_id, ErrorCodes.NO_ERROR)

    def _window(self, stream_id: int) -> int:
        try:
            return max(0, self.connection.local_flow_control_window(stream_id))
        except h2.exceptions.ProtocolError:
            return 1  # the stream has ended: let it be forgotten

    async def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # it has ended by itself
        await self._window_updated(stream_id)  # wakes the sender, which forgets the stream
        await self._flush()


class Connection(TCPServer):
    """One client, from accept to close; `run` never raises an Exception."""

    protocol: Http1 | Http2

    def __init__(self, settings: ServerSettings, *parts: Any) -> None:
        """`parts`: what TCPServer takes, the stream last."""
        super().__init__(*parts)
        self.settings = settings
        self._client: tuple[str, int] | None = None
        self._parts: tuple[Any, ...] = ()  # what a protocol is made of
        self._scope = trio.CancelScope()  # cancel this, never the nursery in it
        self._dead = False  # a write failed or was cut: nothing more can be sent
        self._closing = False  # the last byte was sent
        self._ahead = bytearray()  # read, and not yet looked at
        self._idle_ends_at = trio.current_time() + settings.header_s  # math.inf: a request is running
        self._nap = trio.CancelScope()
        self._became_idle = trio.Event()
        self._watch = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                await self._serve()
        except* Exception as failures:
            log.warning("connection.failed", extra={"client": self._client}, exc_info=failures)
        finally:
            # We and the protocol refer to each other, so only the collector could free us: see `daemon.garbage`.
            protocol = vars(self).pop("protocol", None)
            self._parts = ()
            if protocol is not None and protocol.answer_open:
                self._close_by_reset()
            await trio.aclose_forcefully(self.stream)

    async def _serve(self) -> None:
        sock = self.stream.socket
        try:
            self._client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
        except OSError:
            return  # gone before it said a word
        async with trio.open_nursery() as nursery:
            state = ConnectionState(self.state.copy())
            apps = AppTasks(nursery, self._patient)
            parts = (self.app, self.config, self.context, apps, state)
            self._parts = (*parts, False, self._client, server, self.protocol_send)
            self.protocol = Http1(*self._parts, patient=self._patient)
            nursery.start_soon(self._watch_idle)
            await self._read()
            self._watch.cancel()
            if self._closing and not self._dead:  # we closed: an app may finish what it does after its answer
                self._end_within(LINGER_S)
            else:
                self._scope.cancel()

    def _end_within(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    async def _read(self) -> None:
        while True:
            if self._ahead:
                data, self._ahead = bytes(self._ahead), bytearray()
            elif not (data := await self._receive()):
                break
            if self._closing:
                continue  # read on and throw away
            await self._feed(RawData(data=data))
            if self._idle_ends_at != math.inf and self.protocol.head_begun:
                self._idle_until(min(self._idle_ends_at, trio.current_time() + self.settings.header_s))
        await self._feed(Closed())

    async def _receive(self) -> bytes:
        """What comes next; nothing when the client has gone."""
        try:
            return bytes(await self.stream.receive_some(RECEIVE_BYTES))
        except GONE:
            return b""

    async def _patient(self, wait: Wait) -> None:
        """Waits for an app before more is taken of what the client sends. We read on meanwhile, or a client that has
        sent more than its request could go without our seeing it, and its request would run for nobody."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead)
            await wait()
            nursery.cancel_scope.cancel()

    async def _read_ahead(self) -> None:
        while len(self._ahead) < AHEAD_BYTES:
            data = await self._receive()
            if not data:
                self._scope.cancel()
                return
            self._ahead += data

    async def _feed(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as preface:
            self._idle_until(trio.current_time() + self.settings.header_s)  # for the first real request
            self.protocol = Http2(*self._parts, send_timeout_s=self.settings.send_timeout_s)
            await self.protocol.initiate()
            await self.protocol.handle(RawData(data=preface.data))

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self._dead or self._closing:
                await trio.lowlevel.checkpoint()  # or an app that streams to nobody would spin
            else:
                await self._send_all(event.data)
        elif isinstance(event, Updated):
            self._idle_until(trio.current_time() + self.settings.idle_s if event.idle else math.inf)
        elif isinstance(event, Closed):
            await self._close_after_answer()

    async def _send_all(self, data: bytes) -> None:
        """Sends everything or marks the connection dead. Cancellation acts only between large pieces."""
        sent = 0
        try:
            with trio.CancelScope(shield=True) as limit:
                async with self.send_lock:
                    while sent < len(data):
                        limit.deadline = trio.current_time() + self.settings.send_timeout_s
                        piece = data if len(data) <= PIECE_BYTES else data[sent : sent + PIECE_BYTES]
                        await self.stream.send_all(piece)
                        sent += len(piece)
                        if sent < len(data):
                            limit.shield = False
                            await trio.lowlevel.checkpoint_if_cancelled()
                            limit.shield = True
            if limit.cancelled_caught:
                log.warning("connection.stuck", extra={"client": self._client, "bytes": len(data) - sent})
        except GONE:
            pass
        finally:
            if sent < len(data):
                self._dead = True
                self._scope.cancel()

    async def _close_after_answer(self) -> None:
        if self._closing:
            return
        self._closing = True
        # Shielded: the app's own cancel (quart-trio's, after its answer) must not skip the close.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            linger = self.protocol.unread and not self.protocol.answer_open
            if self.protocol.answer_open:
                self._close_by_reset()
            else:
                try:
                    await self.stream.send_eof()
                except GONE:
                    pass
            await self.protocol.handle(Closed())
            if linger:
                self._end_within(LINGER_S)
            else:
                await self.stream.aclose()

    def _close_by_reset(self) -> None:
        try:
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            pass  # closed already

    def _idle_until(self, ends_at: float) -> None:
        self._idle_ends_at = ends_at
        self._nap.deadline = ends_at
        if ends_at != math.inf:
            self._became_idle.set()

    async def _watch_idle(self) -> None:
        """Closes the connection when its idle time is over, or at shutdown as soon as no request runs."""
        over = self.context.terminated
        with self._watch:
            while not over.is_set():
                with trio.CancelScope(deadline=self._idle_ends_at) as self._nap:
                    await over.wait()
                if self._idle_ends_at <= trio.current_time():
                    break
            while over.is_set() and self._idle_ends_at == math.inf:
                self._became_idle = trio.Event()
                await self._became_idle.wait()
            await self.protocol.farewell()
            await self.protocol.handle(Closed())
            self._scope.cancel()


async def serve(
    app: ASGIApp,
    listeners: Sequence[Waiting],
    *,
    shutdown: trio.Event,
    settings: ServerSettings = ServerSettings(),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` (ASGI 3, with or without lifespan) over HTTP/1.1 and plain HTTP/2 until `shutdown` is set.

    Ready (`task_status`) when the app has started and connections are accepted. Takes over the listeners and
    closes them at the end, however it ends. After `shutdown`: no new connection, idle ones close at once,
    running requests get `graceful_s`, then are cancelled; a client that does not read may add
    `send_timeout_s`. Wake long polls with an empty answer before setting it: they are not told.

    Raises an ExceptionGroup if the app answers `lifespan.startup.failed`. No connection, no request raises.
    """
    config = _config(settings)
    context = WorkerContext(None)
    state: dict[str, Any] = {}

    async def connection(stream: trio.SocketStream) -> None:
        await Connection(settings, app, config, context, state, stream).run()

    door = Door(settings.max_connections, connection)
    try:
        async with _lifespan(app, state), trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(accept, listener, door, connections)
                task_status.started()
                await shutdown.wait()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + settings.graceful_s
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


def _config(settings: ServerSettings) -> Config:
    config = Config()
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_max_requests = sys.maxsize
    config.h11_max_incomplete_size = settings.max_header_bytes
    config.h2_max_header_list_size = settings.max_header_bytes
    config.h2_max_concurrent_streams = H2_STREAMS
    return config


@asynccontextmanager
async def _lifespan(app: ASGIApp, state: dict[str, Any]) -> AsyncIterator[None]:
    """The app is started inside, and stopped at the end; an app without lifespan is left alone."""
    inbox, started, stopped = Inbox(), trio.Event(), trio.Event()

    async def send(message: Message) -> None:
        if message["type"].endswith(".failed"):
            raise LifespanFailed(message.get("message", ""))
        (started if message["type"] == "lifespan.startup.complete" else stopped).set()

    async def run() -> None:
        scope = {"type": "lifespan", "asgi": {"spec_version": "2.0", "version": "3.0"}, "state": state}
        try:
            await app(scope, inbox.receive, send)
        except* LifespanFailed:
            raise
        except* Exception as failures:
            if started.is_set():
                log.error("lifespan.failed", exc_info=failures)
            else:  # ASGI: an app without lifespan raises
                log.debug("lifespan.unsupported", exc_info=failures)
        finally:
            started.set()
            stopped.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await inbox.put({"type": "lifespan.startup"})
        with trio.fail_after(LIFESPAN_S):
            await started.wait()
        yield
        await inbox.put({"type": "lifespan.shutdown"})
        with trio.move_on_after(LIFESPAN_S):
            await stopped.wait()
        nursery.cancel_scope.cancel()
