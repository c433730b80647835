"""A client of gRPC on bare h2: it shows each frame, and can do what no client should."""

from __future__ import annotations

from typing import Any, NamedTuple

import h2.events

from tests.daemon.http2_client import H2Client

from .echo_pb2 import Text

SAY = b"/swarmd.tests.Echo/Say"
COUNT = b"/swarmd.tests.Echo/Count"
SUM = b"/swarmd.tests.Echo/Sum"
CHAT = b"/swarmd.tests.Echo/Chat"


class Answer(NamedTuple):
    head: dict[str, str]
    messages: list[bytes]
    trailers: dict[str, str] | None  # None: the head was all of it

    @property
    def status(self) -> int:
        return int((self.trailers or self.head)["grpc-status"])

    @property
    def texts(self) -> list[Text]:
        return [Text.FromString(m) for m in self.messages]


def framed(message: bytes | Text, flag: int = 0) -> bytes:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def unframed(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = int.from_bytes(data[1:5], "big")
        assert len(data) >= 5 + length, "cut"
        found.append(data[5 : 5 + length])
        data = data[5 + length :]
    return found


class RawClient(H2Client):
    async def begin(self, path: bytes, *fields: tuple[bytes, bytes], te: bool = True) -> int:
        """Sends the head of a call."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, [*self.head(path, te), *fields])
        await self.flush()
        return stream_id

    def head(self, path: bytes, te: bool = True) -> list[tuple[bytes, bytes]]:
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", self.host)]
        return [*head, (b"content-type", b"application/grpc"), *([(b"te", b"trailers")] if te else [])]

    async def data(self, stream_id: int, data: bytes, end: bool = False) -> None:
        while True:
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            piece, data = data[:room], data[room:]
            self.h2.send_data(stream_id, piece, end_stream=end and not data)
            await self.flush()
            if not data:
                return
            while not self.h2.local_flow_control_window(stream_id):
                await self.more()

    async def call(
        self, path: bytes, *messages: bytes | Text, fields: tuple[Any, ...] = (), **how: Any
    ) -> int:
        stream_id = await self.begin(path, *fields, **how)
        await self.data(stream_id, b"".join(framed(m) for m in messages), end=True)
        return stream_id

    async def answer(self, stream_id: int) -> Answer:
        """The whole answer to a call. Raises AssertionError for one that breaks off."""
        head = await self.wait(h2.events.ResponseReceived, stream_id)
        assert head is not None, "closed without an answer"
        body, trailers = b"", None
        while True:
            event = await self.wait(
                (
                    h2.events.DataReceived,
                    h2.events.TrailersReceived,
                    h2.events.StreamEnded,
                    h2.events.StreamReset,
                ),
                stream_id,
            )
            assert event is not None and not isinstance(event, h2.events.StreamReset), "broken off"
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = texts(event.headers)
            else:
                break
        return Answer(texts(head.headers), unframed(body), trailers)

    async def say(self, text: str = "", **fields: Any) -> Answer:
        return await self.answer(await self.call(SAY, Text(text=text, **fields)))


def texts(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
