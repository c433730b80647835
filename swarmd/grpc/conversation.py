"""One call of gRPC on a stream of HTTP/2: messages in, messages out, and how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import trio

from swarmd.grpc.codes import Code, WireFault
from swarmd.grpc.framing import Deframer, deflated, inflated, prefix
from swarmd.grpc.wire import Fields, Head, status_fields

GZIP_ABOVE = 1024  # bytes of an answer
MOST_INFLATION = 1_100  # times, in deflate: few bytes may be much work
LARGE = 64 << 10  # bytes of a message that is not copied once more to stand behind its prefix
PIECE_S = 30.0  # for the next piece of a message that has begun, or of a call's only message
HEAD: Fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
ACCEPTED: Fields = [(b"grpc-accept-encoding", b"identity, gzip, deflate")]
T = TypeVar("T")
Aside = Callable[..., Awaitable[Any]]  # (size, fn, *args): runs it, off the trio thread when it is much


class ByteStream(Protocol):
    """The stream of HTTP/2, as far as a call needs it."""

    @property
    def at_end(self) -> bool: ...

    @property
    def answered(self) -> bool: ...

    async def receive(self) -> bytes: ...

    async def head(self, fields: Fields, end: bool = False) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def end(self, trailers: Fields | None = None) -> None: ...


class Conversation:
    """Reads a call's messages and writes its answer. `limit`: bytes of a message, as sent and inflated. `hold` is told
    how many bytes of one the call holds, and may raise."""

    def __init__(
        self, stream: ByteStream, head: Head, limit: int, aside: Aside, hold: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._coding = head.coding
        self._takes_gzip = head.takes_gzip
        self._limit = limit
        self._aside = aside
        self._hold = hold
        self._deframer = Deframer(limit, head.coding != "identity", hold)
        self.initial: Fields = []  # metadata to send in front of the first message
        self._begun = False

    # ------------------------------------------------------------- what comes

    async def message(self) -> bytes | None:
        """The next message, None after the last one. Raises `WireFault`."""
        while (found := self._deframer.next()) is None:
            if self._stream.at_end:
                self._check_cut()
                return None
            if self._deframer.begun:
                self._deframer.feed(await self._soon())
            else:
                self._deframer.feed(await self._stream.receive())
        return await self._plain(*found)

    async def only_message(self) -> bytes:
        """The one message of a call that has no more, once the client has said so. Raises `WireFault`."""
        while (found := self._deframer.next()) is None:
            if self._stream.at_end:
                self._check_cut()
                raise WireFault(Code.INTERNAL, "the call has no message")
            self._deframer.feed(await self._soon())
        while not self._stream.at_end and not self._deframer.begun:
            self._deframer.feed(await self._soon())
        if self._deframer.begun:
            raise WireFault(Code.INTERNAL, "the call has more than one message")
        return await self._plain(*found)

    def _check_cut(self) -> None:
        if self._deframer.begun:
            raise WireFault(Code.INTERNAL, "the call ends in the middle of a message")

    async def _plain(self, compressed: bool, data: bytes) -> bytes:
        if not compressed:
            return data
        inflating = min(self._limit, len(data) * MOST_INFLATION)
        plain: bytes = await self._aside(inflating, inflated, data, self._coding, self._limit)
        self._hold(len(plain))
        return plain

    async def _soon(self) -> bytes:
        with trio.move_on_after(PIECE_S):
            return await self._stream.receive()
        raise WireFault(Code.UNAVAILABLE, f"nothing of a message came for {PIECE_S:g} s; send it again")

    # ------------------------------------------------------------- what goes

    async def begin(self) -> None:
        """Sends the head, if it was not sent."""
        if not self._begun:
            self._begun = True
            coding: Fields = [(b"grpc-encoding", b"gzip")] if self._takes_gzip else []
            await self._stream.head([*HEAD, *coding, *ACCEPTED, *self.initial])

    async def answer(self, message: bytes) -> None:
        await self.begin()
        compressed = self._takes_gzip and len(message) > GZIP_ABOVE
        if compressed:
            message = await self._aside(len(message), deflated, message)
        if len(message) > LARGE:
            await self._stream.send(prefix(message, compressed))
            await self._stream.send(message)
        else:
            await self._stream.send(prefix(message, compressed) + message)

    async def end(
        self, code: Code, message: str = "", details: bytes = b"", trailing: Fields | None = None
    ) -> None:
        """The end; without anything before it, it is all of the answer (`Trailers-Only`)."""
        fields = [*status_fields(code, message, details), *(trailing or [])]
        if self._begun:
            await self._stream.end(fields)
        else:
            await refuse(self._stream, fields, self.initial)


async def refuse(stream: ByteStream, status: Fields, initial: Fields = []) -> None:  # noqa: B006
    """An answer that is nothing but its end."""
    await stream.head([*HEAD, *ACCEPTED, *initial, *status], end=True)
