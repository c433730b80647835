"""Messages in the body of a call: five bytes in front of each, and their compression."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from swarmd.grpc.codes import Code, WireFault

PREFIX = 5  # a flag and four bytes of length
CODINGS = ("identity", "gzip", "deflate")
_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # as zlib wants it told: a gzip header, or its own
GZIP_LEVEL = 1  # four times faster than the usual 6, for a tenth more bytes


class Deframer:
    """Cuts a body into messages. `limit`: bytes of one, as it was sent. `hold` is told how long one will be, as soon as
    that is known, and may raise."""

    def __init__(self, limit: int, compressible: bool, hold: Callable[[int], None]) -> None:
        self._limit = limit
        self._hold = hold
        self._compressible = compressible  # the call has named a coding
        self._buffer = bytearray()

    @property
    def begun(self) -> bool:
        """A part of a message is there."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[bool, bytes] | None:
        """A whole message, and whether it is compressed; None: there is none yet. Raises `WireFault`, for one that is
        too long as soon as its length is known."""
        buffer = self._buffer
        if len(buffer) < PREFIX:
            return None
        flag, length = buffer[0], int.from_bytes(buffer[1:PREFIX], "big")
        if flag > 1:
            raise WireFault(Code.INTERNAL, f"a message begins with the flag {flag}, expected 0 or 1")
        if flag and not self._compressible:
            raise WireFault(Code.INTERNAL, "a message is compressed, and grpc-encoding does not say how")
        if length > self._limit:
            raise too_large(length, self._limit)
        self._hold(length)
        if len(buffer) < PREFIX + length:
            return None
        message = bytes(memoryview(buffer)[PREFIX : PREFIX + length])
        del buffer[: PREFIX + length]
        return bool(flag), message


def too_large(length: int, limit: int) -> WireFault:
    return WireFault(Code.RESOURCE_EXHAUSTED, f"a message has {length} bytes, and {limit} are allowed")


def inflated(data: bytes, coding: str, limit: int) -> bytes:
    """What was compressed. Raises `WireFault`, before it is more than `limit` bytes."""
    inflater = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        message = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise WireFault(Code.INTERNAL, f"a message is no {coding}: {error}") from None
    if len(message) > limit:
        raise WireFault(
            Code.RESOURCE_EXHAUSTED, f"a message inflates to more than {limit} bytes, which are allowed"
        )
    if not inflater.eof or inflater.unused_data:
        raise WireFault(
            Code.INTERNAL, f"a message is no {coding}: it {'goes on' if inflater.eof else 'ends early'}"
        )
    return message


def deflated(message: bytes) -> bytes:
    """As gzip."""
    deflater = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _WINDOW_BITS["gzip"])
    return deflater.compress(message) + deflater.flush()


def prefix(message: bytes, compressed: bool) -> bytes:
    """What stands in front of a message."""
    return b"%c%b" % (compressed, len(message).to_bytes(4, "big"))
