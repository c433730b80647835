"""Server-sent events: an id on each, a comment now and then so that silence means a lost connection."""

from __future__ import annotations

from msgspec import Struct

HEARTBEAT_S = 30.0
RETRY_MS = 1_000
FIRST = f"retry: {RETRY_MS}\n\n".encode()
HEARTBEAT = b": still here\n\n"


class ServerEvent(Struct, frozen=True):
    """`data` is JSON, so it has no line ends."""

    id: str
    event: str
    data: bytes

    def encode(self) -> bytes:
        assert b"\n" not in self.data and b"\r" not in self.data
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (self.id.encode(), self.event.encode(), self.data)
