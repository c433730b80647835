"""Odd clients, byte by byte: each is a function of a connection, a random generator and a target, and ends by itself.

A client may do anything that a socket allows. What it asks for is named by the target, so that the same clients are let
loose on a toy application and on the whole daemon.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.settings
import trio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DRAIN_S = 3.0  # how long a client reads an answer
MOST_BYTES = 2**24  # of an answer
PAUSES_S = (0, 0.001, 0.01)
Field = tuple[bytes, bytes]


@dataclass(frozen=True)
class Ask:
    """A request that is right by itself."""

    path: bytes
    method: bytes = b"GET"
    body: bytes = b""
    type: bytes = b"application/json"


@dataclass(frozen=True)
class Target:
    """What can be asked for: answers that are short, long, streamed, or held until the client goes; bodies to post."""

    host: bytes
    short: tuple[Ask, ...]
    long: tuple[Ask, ...]
    streams: tuple[Ask, ...]
    held: tuple[Ask, ...]
    posts: tuple[Ask, ...]

    @property
    def all(self) -> tuple[Ask, ...]:
        return (*self.short, *self.long, *self.streams, *self.held, *self.posts)

    def head(self, ask: Ask, *fields: bytes) -> bytes:
        """Of an HTTP/1.1 request, without its empty line; `fields` besides those that it needs."""
        lines = [b"%s %s HTTP/1.1" % (ask.method, ask.path), b"Host: " + self.host, *fields]
        if ask.body:
            lines.append(b"Content-Type: " + ask.type)
        return b"\r\n".join(lines) + b"\r\n"

    def request(self, ask: Ask) -> bytes:
        length = (b"Content-Length: %d" % len(ask.body),) if ask.body else ()
        return self.head(ask, *length) + b"\r\n" + ask.body

    def chunked(self, ask: Ask, *fields: bytes) -> bytes:
        half = len(ask.body) // 2
        parts = [part for part in (ask.body[:half], ask.body[half:]) if part]
        return (
            self.head(ask, b"Transfer-Encoding: chunked", *fields) + b"\r\n" + chunks(*parts) + b"0\r\n\r\n"
        )


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def reset(stream: trio.SocketStream) -> None:
    """Its close will be a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def drain(stream: trio.SocketStream, limit: int = MOST_BYTES) -> None:
    with trio.move_on_after(DRAIN_S):
        while limit > 0 and (data := await stream.receive_some(2**16)):
            limit -= len(data)


async def leave(stream: trio.SocketStream, rng: random.Random) -> None:
    """In one of the ways to go: at once, by reset, after the half of it, after the answer."""
    match rng.randrange(4):
        case 0:
            reset(stream)
        case 1:
            await stream.send_eof()
            await drain(stream)
        case 2:
            await drain(stream, limit=rng.choice([1, 1_000, MOST_BYTES]))


# ------------------------------------------------------------------ HTTP/1: bodies and how clients go


async def half_body(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    ask = rng.choice(to.all)
    expect = rng.choice([(), (b"Expect: 100-continue",)])
    head = to.head(Ask(ask.path, b"POST", b"-", ask.type), b"Content-Length: 5000", *expect)
    await stream.send_all(head + b"\r\n" + (ask.body or rng.randbytes(100))[: rng.randrange(100)])
    await trio.sleep(rng.choice(PAUSES_S))
    await stream.send_eof()
    await drain(stream)


async def partial_body(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """A body that was announced and is not sent to its end, in pieces."""
    ask = rng.choice(to.posts)
    if rng.random() < 0.5:
        data = to.head(ask, b"Content-Length: %d" % (len(ask.body) + rng.choice([0, 1, 10**6, 2**62])))
        data += b"\r\n" + ask.body
    else:
        data = to.chunked(ask)
    data = data[: rng.randrange(1, len(data))]
    cut = rng.randrange(len(data))
    await stream.send_all(data[:cut])
    await trio.sleep(rng.choice(PAUSES_S))
    await stream.send_all(data[cut:])
    await trio.sleep(rng.choice(PAUSES_S))
    await leave(stream, rng)


async def pipelined_then_reset(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    await stream.send_all(to.request(rng.choice([*to.short, *to.long, *to.streams])) * rng.randrange(2, 200))
    await trio.sleep(rng.choice(PAUSES_S))
    if rng.random() < 0.7:
        reset(stream)


async def pipelined(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Different requests in one write, the last perhaps cut, perhaps followed by what is none."""
    asks = rng.choices([*to.short, *to.posts, *to.long], k=rng.randrange(2, 30))
    data = b"".join(to.request(ask) if rng.random() < 0.8 else to.chunked(ask) for ask in asks)
    match rng.randrange(3):
        case 0:
            data = data[: -rng.randrange(1, 40)]
        case 1:
            data += rng.randbytes(rng.randrange(1, 100))
    await stream.send_all(data)
    await leave(stream, rng)


async def half_close(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Whole requests, and nothing more to say before an answer came, or in the middle of it."""
    await stream.send_all(to.request(rng.choice(to.all)))
    if rng.random() < 0.5:
        with trio.move_on_after(0.2):
            await stream.receive_some(rng.choice([1, 1_000]))
    await stream.send_eof()
    await drain(stream, limit=rng.choice([1, 10_000, MOST_BYTES]))


async def resets(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Gone by reset at any moment: before a word, within a head or a body, within the answer."""
    ask = rng.choice(to.all)
    data = to.request(ask)
    await stream.send_all(data[: rng.randrange(len(data) + 1)])
    if rng.random() < 0.5:
        with trio.move_on_after(rng.choice([0.001, 0.05])):
            await stream.receive_some(rng.choice([1, 20_000]))
    reset(stream)


async def stream_and_garbage(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    await stream.send_all(to.request(rng.choice([*to.streams, *to.held])))
    with trio.move_on_after(0.2):
        await stream.receive_some(100)
    await stream.send_all(rng.randbytes(rng.randrange(1, 200)))
    if rng.random() < 0.5:
        reset(stream)
    else:
        await drain(stream, limit=rng.choice([10_000, MOST_BYTES]))


async def slow_reader(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    await stream.send_all(to.request(rng.choice([*to.long, *to.streams])))
    with trio.move_on_after(1):
        for _ in range(10):
            await stream.receive_some(1000)
            await trio.sleep(0.01)
    if rng.random() < 0.5:
        reset(stream)


async def slow_loris(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """A request in drops, for as long as the server lets it; or no word at all."""
    ask = rng.choice(to.posts)
    data = rng.choice([to.request(ask), to.chunked(ask), PREFACE, b""])
    with trio.move_on_after(rng.choice([0.5, 3])):
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(rng.choice([0.001, 0.02]))
        await stream.receive_some(100)
    if rng.random() < 0.5:
        reset(stream)


# ------------------------------------------------------------------ HTTP/1: what is none, or too much of it


async def garbage(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    await stream.send_all(rng.randbytes(rng.randrange(1, 40_000)))
    if rng.random() < 0.5:
        await drain(stream)


async def damaged_request(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    data = bytearray(
        to.chunked(rng.choice(to.posts), b"Expect: 100-continue") + to.request(rng.choice(to.short))
    )
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    await stream.send_all(bytes(data))
    await stream.send_eof()
    await drain(stream)


async def smuggler(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """A body that two readers could find to end at different places, with a request where it might."""
    ask, inner = rng.choice(to.posts), to.request(rng.choice(to.short))
    fields = rng.choice([
        (b"Content-Length: 4", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding : chunked",),
        (b"Content-Length: 4", b"Content-Length: 5"),
        (b"Content-Length: +4",),
        (b"Content-Length: 4\r\n Content-Length: 5",),
        (b"Content-Length: 0x4",),
        (b"Host: other", b"Content-Length: 4"),
    ])  # fmt: skip
    await stream.send_all(to.head(ask, *fields) + b"\r\n0\r\n\r\n" + inner)
    await leave(stream, rng)


async def chunk_bomb(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Chunks that are many, empty, endless, or have more to say about themselves than to say."""
    ask = rng.choice(to.posts)
    head = to.head(ask, b"Transfer-Encoding: chunked") + b"\r\n"
    body = rng.choice([
        lambda: chunks(*[b" "] * rng.randrange(1, 50_000)) + b"0\r\n\r\n",
        lambda: b"f" * rng.randrange(1, 40) + b"\r\n" + rng.randbytes(1_000),
        lambda: b"-5\r\nhello\r\n0\r\n\r\n",
        lambda: b"5;" + b"a=b;" * rng.randrange(1, 20_000) + b"\r\nhello\r\n0\r\n\r\n",
        lambda: (b"1;" + b"x" * 200 + b"\r\n \r\n") * rng.randrange(1, 2_000) + b"0\r\n\r\n",
        lambda: b"0\r\n" + b"Trailer: of many\r\n" * rng.randrange(1, 20_000) + b"\r\n",
        lambda: b"5\r\nhelloo\r\n0\r\n\r\n",
        lambda: b"5\nhello\n0\n\n",
        lambda: b"00000000000000000005\r\nhello\r\n0\r\n\r\n",
    ])()  # fmt: skip
    await stream.send_all(head + body)
    await leave(stream, rng)


async def header_bomb(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """A head without an end, or with fields that are too many, too long, or none."""
    head = to.head(rng.choice(to.all))
    bomb = rng.choice([
        lambda: b"a: b\r\n" * rng.randrange(1, 20_000) + b"\r\n",
        lambda: b"a: " + b"b" * rng.randrange(1, 200_000) + b"\r\n\r\n",
        lambda: b"a" * rng.randrange(1, 200_000),
        lambda: b"a: b\r\n c\r\n" * rng.randrange(1, 1_000) + b"\r\n",
        lambda: b": b\r\n\r\n",
        lambda: b"a\0b: c\r\n\r\n",
        lambda: b"a: b\rc\r\n\r\n",
        lambda: b"Cookie: " + b"a=b; " * rng.randrange(1, 3_000) + b"\r\n\r\n",
    ])()  # fmt: skip
    line = b"GET /%s HTTP/1.1\r\n" % (b"a" * rng.randrange(1, 100_000))
    await stream.send_all(
        rng.choice([head + bomb, head + bomb, line + bomb, b"\r\n" * rng.randrange(1, 50_000)])
    )
    await leave(stream, rng)


async def upgrade(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    wanted = rng.choice([b"h2c", b"websocket", b"nonsense"])
    await stream.send_all(
        to.head(
            rng.choice(to.short),
            b"Connection: upgrade, http2-settings",
            b"Upgrade: " + wanted,
            b"HTTP2-Settings: " + rng.choice([b"", b"AAMAAABk", b"%%%"]),
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
        )
        + b"\r\n"
    )
    await stream.send_all(rng.randbytes(rng.randrange(1, 100)))
    await stream.send_eof()
    await drain(stream)


# ------------------------------------------------------------------ HTTP/2


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def http2_client() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    return client


def send_ask(
    client: h2.connection.H2Connection, to: Target, ask: Ask, end: bool = True, more: Sequence[Field] = ()
) -> int:
    """The head of a request; with `end` that is all of it, and its body is left out."""
    stream_id = client.get_next_available_stream_id()
    fields = [(b":method", ask.method), (b":path", ask.path), (b":scheme", b"http"), (b":authority", to.host)]
    fields += more
    if ask.body:
        fields.append((b"content-type", ask.type))
    client.send_headers(stream_id, fields, end_stream=end)
    return stream_id


def send_whole(client: h2.connection.H2Connection, to: Target, ask: Ask) -> int:
    stream_id = send_ask(client, to, ask, end=not ask.body)
    if ask.body:
        client.send_data(stream_id, ask.body[:16_000], end_stream=True)
    return stream_id


async def preface_and_garbage(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    settings = rng.choice([b"", frame(4, 0, 0, b"")])
    await stream.send_all(PREFACE + settings + rng.randbytes(rng.randrange(1, 3000)))
    await drain(stream)


async def http2_leaves_under_load(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    for _ in range(rng.randrange(1, 60)):
        send_ask(client, to, rng.choice(to.all))
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice([0, 0.001, 0.02]))
    match rng.randrange(3):
        case 0:
            reset(stream)
        case 1:
            client.close_connection()
            await stream.send_all(client.data_to_send())


async def http2_late_data(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """DATA for streams whose answer has ended, that never were, or that were reset."""
    client = http2_client()
    ids = [send_ask(client, to, rng.choice([*to.short, *to.posts]), end=False) for _ in range(8)]
    for stream_id in ids[:3]:
        client.reset_stream(stream_id)
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice([0, 0.01]))
    for _ in range(20):
        late = frame(0, rng.randrange(2), rng.choice([*ids, 999]), b"late" * rng.randrange(100))
        await stream.send_all(late)
    await drain(stream, limit=20_000)


async def http2_partial_body(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Bodies that are whole, cut, padded or reset in the middle, side by side."""
    client = http2_client()
    for _ in range(rng.randrange(1, 20)):
        ask = rng.choice(to.posts)
        if rng.random() < 0.5:
            stream_id = send_whole(client, to, ask)
        else:
            stream_id = send_ask(client, to, ask, end=False)
            client.send_data(stream_id, ask.body[: rng.randrange(100)], pad_length=rng.choice([None, 0, 200]))
        if rng.random() < 0.3:
            client.reset_stream(stream_id)
        if client.outbound_flow_control_window < 20_000:
            break
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice(PAUSES_S))
    await leave(stream, rng)


async def http2_odd_fields(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    send_ask(client, to, Ask(rng.choice([b"/\xff\xfe", "/h\xe9llo".encode(), b"", b"*", b"/a b\r\n"])))
    protocol = rng.choice([(), ((b":protocol", b"websocket"),)])
    method = rng.choice([b"CONNECT", b"CONNECT", b"G\xc3\x89T", b"", b"PRI"])
    send_ask(client, to, Ask(to.short[0].path, method), more=protocol)
    send_ask(client, to, rng.choice(to.short))
    await stream.send_all(client.data_to_send())
    await drain(stream, limit=20_000)


async def http2_header_bomb(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Heads in many pieces, without an end, or small on the wire and large once they are unpacked."""
    client = http2_client()
    stream_id = client.get_next_available_stream_id()
    await stream.send_all(client.data_to_send())
    match rng.randrange(3):
        case 0:  # CONTINUATION without an end
            more = frame(9, 0, stream_id, b"\0\1a\1b" * rng.randrange(1, 3_000))
            await stream.send_all(frame(1, 0, stream_id, b"\x82\x84\x86") + more * rng.randrange(1, 60))
        case 1:  # one long field in the table of HPACK, and then by its number
            field = b"\x40\1a\x7f\x81\x1e" + b"b" * 4_000
            block = b"\x82\x84\x86" + field + b"\xbe" * rng.randrange(1, 10_000)
            await stream.send_all(frame(1, 5, stream_id, block[:16_384]))
        case 2:  # a table that is larger than allowed
            await stream.send_all(frame(1, 5, stream_id, b"\x3f\xff\xff\xff\x7f" + b"\x82\x84\x86"))
    await leave(stream, rng)


async def http2_window_games(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Windows that are shut, opened by drops, or overflow; floods of PING and SETTINGS that must be answered."""
    client = http2_client()
    if rng.random() < 0.5:
        client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: rng.choice([0, 1, 2**31 - 1])})
    ids = [send_whole(client, to, rng.choice([*to.long, *to.streams, *to.short])) for _ in range(5)]
    data = client.data_to_send()
    more = {
        "drops": lambda: frame(8, 0, rng.choice([0, *ids]), (1).to_bytes(4, "big")),
        "overflow": lambda: frame(8, 0, rng.choice([0, *ids]), (2**31 - 1).to_bytes(4, "big")),
        "nothing": lambda: frame(8, 0, rng.choice([0, *ids]), bytes(4)),
        "pings": lambda: frame(6, 0, 0, rng.randbytes(8)),
        "settings": lambda: frame(4, 0, 0, b""),
        "empty data": lambda: frame(0, 0, ids[0], b""),
    }[rng.choice(["drops", "drops", "overflow", "nothing", "pings", "settings", "empty data"])]
    await stream.send_all(data + b"".join(more() for _ in range(rng.randrange(1, 1_000))))
    await leave(stream, rng)


async def http2_any_frames(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    send_ask(client, to, rng.choice(to.streams))
    data = client.data_to_send()
    for _ in range(rng.randrange(1, 40)):
        payload = rng.randbytes(rng.choice([0, 4, 5, 6, 8, 30]))
        data += frame(rng.randrange(11), rng.randrange(256), rng.choice([0, 1, 2, 3, 5]), payload)
    await stream.send_all(data)
    await drain(stream, limit=rng.choice([100, 2**20]))


async def rapid_reset(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    for _ in range(100):
        client.reset_stream(send_ask(client, to, rng.choice(to.all)))
    await stream.send_all(client.data_to_send())
    await drain(stream, limit=20_000)


OddClient = Callable[[trio.SocketStream, random.Random, Target], Awaitable[None]]
ODD: list[OddClient] = [
    half_body,
    partial_body,
    pipelined_then_reset,
    pipelined,
    half_close,
    resets,
    stream_and_garbage,
    slow_reader,
    slow_loris,
    garbage,
    damaged_request,
    smuggler,
    chunk_bomb,
    header_bomb,
    upgrade,
    preface_and_garbage,
    http2_leaves_under_load,
    http2_late_data,
    http2_partial_body,
    http2_odd_fields,
    http2_header_bomb,
    http2_window_games,
    http2_any_frames,
    rapid_reset,
]
