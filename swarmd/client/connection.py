"""One HTTP/1.1 connection: h11 on a trio stream, one exchange at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import h11
import trio

from swarmd.client.address import Address
from swarmd.client.errors import StrangeAnswer

if TYPE_CHECKING:
    from swarmd.tls import TlsStream

CONNECT_S = 10.0
RECEIVE_BYTES = 65_536
MAX_HEAD_BYTES = 65_536
SEND_PIECE_BYTES = 262_144  # a larger body is sent in pieces, each with its own time limit

Body = bytes | Callable[[], AsyncIterator[bytes]]


class Lost(Exception):
    """The connection broke or was too slow. `sent`: bytes of the request may have reached the daemon."""

    def __init__(self, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Connection:
    """A connection that `Response`s are read from one after the other."""

    def __init__(self, stream: trio.SocketStream | TlsStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.used = False  # an exchange was made on it before
        self.idle_since = 0.0

    def is_gone(self) -> bool:
        """Whether an idle connection was closed by the other side (anything readable on it means that)."""
        return self._stream.socket.is_readable()

    async def send(self, request: h11.Request, body: Body, timeout_s: float) -> None:
        """Sends the whole request. A daemon that answers early and stops reading is not an error here."""
        head = self._http.send(request) or b""
        if isinstance(body, bytes):
            data = b"".join((head, (body and self._http.send(h11.Data(data=body))) or b"", self._end()))
            for start in range(0, len(data), SEND_PIECE_BYTES):
                if not await self._send_piece(data[start : start + SEND_PIECE_BYTES], timeout_s):
                    return
            return
        if not await self._send_piece(head, timeout_s):
            return
        async for piece in body():
            if not await self._send_piece(self._http.send(h11.Data(data=piece)) or b"", timeout_s):
                return
        await self._send_piece(self._end(), timeout_s)

    def _end(self) -> bytes:
        return self._http.send(h11.EndOfMessage()) or b""

    async def _send_piece(self, data: bytes, timeout_s: float) -> bool:
        if not data:
            return True
        try:
            with trio.fail_after(timeout_s):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise Lost(f"it took no data for {timeout_s:g} s", sent=True) from None
        except trio.BrokenResourceError:
            return False  # there may be an answer that says why: the reader tells
        return True

    async def receive(self, timeout_s: float) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event of the answer; raises `Lost` when none comes, `StrangeAnswer` for what is not
        HTTP.
        """
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                if self._http.trailing_data[1]:
                    raise Lost("the connection was closed in the middle of the answer", sent=True) from None
                raise StrangeAnswer(
                    f"the answer is not HTTP: {error}", "is that the address of a swarmd server?"
                ) from None
            if event is not h11.NEED_DATA:
                return event
            try:
                with trio.fail_after(timeout_s):
                    data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.TooSlowError:
                raise Lost(f"no answer within {timeout_s:g} s", sent=True) from None
            except trio.BrokenResourceError:
                raise Lost("the connection was reset", sent=True) from None
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise Lost("the connection was closed without an answer", sent=True)
            self._http.receive_data(data)

    def start_next(self) -> bool:
        """Makes it ready for another exchange; False when it must be closed instead."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.used = True
        return True

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def connect(address: Address) -> Connection:
    """A new connection; raises `Lost` (with nothing sent) and its reason as a sentence."""
    try:
        with trio.fail_after(CONNECT_S):
            if address.unix_path:
                stream = await trio.open_unix_socket(address.unix_path)
            else:
                stream = await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError:
        raise Lost(f"no connection within {CONNECT_S:g} s", sent=False) from None
    except FileNotFoundError:
        raise Lost("there is no such socket", sent=False) from None
    except ConnectionRefusedError:
        raise Lost("connection refused", sent=False) from None
    except OSError as error:
        causes = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else (error,)
        refused = all(isinstance(cause, ConnectionRefusedError) for cause in causes)
        reason = "connection refused" if refused else error.strerror or str(causes[-1]) or str(error)
        raise Lost(reason, sent=False) from None
    return Connection(await _in_tls(stream, address.host) if address.tls else stream)


async def _in_tls(stream: trio.SocketStream, host: str) -> TlsStream:
    """Raises `Lost`."""
    from swarmd.tls import TlsFailed, TlsStream, client_context

    secure = TlsStream(stream, client_context(), host)
    try:
        with trio.fail_after(CONNECT_S):
            await secure.handshake()
        return secure
    except trio.TooSlowError:
        reason = f"no TLS within {CONNECT_S:g} s"
    except TlsFailed as error:
        reason = f"no TLS: {error} (SSL_CERT_FILE names who is to be believed)"
    except trio.BrokenResourceError:
        reason = "no TLS: the connection was reset"
    await trio.aclose_forcefully(stream)
    raise Lost(reason, sent=False)
