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
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from swarmd.daemon.http2 import Http2, ServeStream, Stream, keep_alive
from swarmd.daemon.http2_asgi import call_app
from swarmd.daemon.listeners import Door, Waiting, accept
from swarmd.daemon.requests import AppTasks, ASGIApp, Inbox, Message, Patient, Wait
from swarmd.grpc.wire import is_grpc
from swarmd.tls import TlsFailed, TlsStream

log = logging.getLogger("swarmd.server")

Context = Callable[[], ssl.SSLContext]

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


class Connection(TCPServer):
    """One client, from accept to close; `run` never raises an Exception."""

    protocol: Http1 | Http2

    def __init__(
        self, settings: ServerSettings, grpc: ServeStream | None, tls: Context | None, *parts: Any
    ) -> None:
        """`parts`: what TCPServer takes, the stream last."""
        super().__init__(*parts)
        self.settings = settings
        self._grpc = grpc
        self._tls = tls
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
        secure = self._tls is not None and sock.family != socket.AF_UNIX
        if secure and not await self._shake_hands():
            return
        scheme = "https" if secure else "http"
        self._base = {"scheme": scheme, "client": self._client, "server": server, "state": self.state}
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            state = ConnectionState(self.state.copy())
            apps = AppTasks(nursery, self._patient)
            parts = (self.app, self.config, self.context, apps, state)
            self._parts = (*parts, secure, self._client, server, self.protocol_send)
            self.protocol = Http1(*self._parts, patient=self._patient)
            if secure and self.stream.protocol == "h2":
                await self._speak_http2()
            nursery.start_soon(self._watch_idle)
            await self._read()
            self._watch.cancel()
            if self._closing and not self._dead and isinstance(self.protocol, Http1):
                # We closed: an app may finish what it does after its answer.
                self._end_within(LINGER_S)
            else:
                self._scope.cancel()

    async def _shake_hands(self) -> bool:
        """Puts the connection into TLS; False: the client does not take part."""
        assert self._tls is not None
        self.stream = stream = TlsStream(self.stream, self._tls())
        try:
            with trio.move_on_at(self._idle_ends_at):
                await stream.handshake()
                return True
            reason = "it took too long"
        except TlsFailed as error:
            reason = str(error)
        except GONE:
            reason = "it has gone"
        log.debug("connection.no_tls", extra={"client": self._client, "reason": reason})
        return False

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
            await self._speak_http2()
            await self.protocol.handle(RawData(data=preface.data))

    async def _speak_http2(self) -> None:
        self._idle_until(trio.current_time() + self.settings.header_s)  # for the first real request
        limits = self.settings
        self.protocol = http2 = Http2(
            self,
            self._serve_stream,
            send_timeout_s=limits.send_timeout_s,
            max_header_bytes=limits.max_header_bytes,
        )
        keep_alive(self.stream.socket)
        await self._nursery.start(http2.run)
        if self.context.terminated.is_set():
            await http2.farewell()

    async def _serve_stream(self, stream: Stream) -> None:
        if self._grpc is not None and is_grpc(stream.fields):
            await self._grpc(stream)
        else:
            base = {**self._base, "state": self.state.copy()}
            await call_app(self.app, stream, base, partial(self.config.response_headers, "h2"))

    @property
    def peer(self) -> tuple[str, int] | None:
        return self._client

    async def send_bytes(self, data: bytes) -> None:
        await self.protocol_send(RawData(data=data))

    def set_idle(self, idle: bool) -> None:
        self._idle_until(trio.current_time() + self.settings.idle_s if idle else math.inf)

    async def close(self) -> None:
        await self._close_after_answer()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self._dead or self._closing:
                await trio.lowlevel.checkpoint()  # or an app that streams to nobody would spin
            else:
                await self._send_all(event.data)
        elif isinstance(event, Updated):
            self.set_idle(event.idle)
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
            http2 = self.protocol if isinstance(self.protocol, Http2) else None
            if http2 is not None:
                await http2.farewell()
            while over.is_set() and self._idle_ends_at == math.inf:
                self._became_idle = trio.Event()
                await self._became_idle.wait()
            if http2 is not None:
                await http2.flushed()
                await self._close_after_answer()
            else:
                await self.protocol.handle(Closed())
                self._scope.cancel()


async def serve(
    app: ASGIApp,
    listeners: Sequence[Waiting],
    *,
    shutdown: trio.Event,
    settings: ServerSettings = ServerSettings(),
    grpc: ServeStream | None = None,
    tls: Context | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` (ASGI 3, with or without lifespan) over HTTP/1.1 and plain HTTP/2 until `shutdown` is set.

    `grpc` serves the streams of HTTP/2 whose content is gRPC's; without it the app gets them too.
    `tls`: clients that come by TCP must speak TLS; asked for each, so that a certificate can be renewed.

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
        await Connection(settings, grpc, tls, app, config, context, state, stream).run()

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
