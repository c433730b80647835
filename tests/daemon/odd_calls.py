"""Odd clients of gRPC, for the same targets as `odd_clients`: calls that are cut, damaged, endless or never read."""

from __future__ import annotations

import gzip
import random
import zlib

import h2.connection
import h2.exceptions
import h2.settings
import trio
import trio.lowlevel

from .odd_clients import (
    PAUSES_S,
    OddClient,
    Target,
    drain,
    frame,
    http2_client,
    leave,
    reset,
)

ECHO = b"/swarmd.tests.Echo/"
PATHS = (
    ECHO + b"Say", ECHO + b"Count", ECHO + b"Sum", ECHO + b"Chat", ECHO + b"Missing", b"/grpc.health.v1.Health/Check",
    b"/grpc.health.v1.Health/Watch", b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"/",
    b"/api/v1/tasks", b"/google.devtools.remoteworkers.v1test2.Bots/CreateBotSession",
    b"/google.devtools.remoteworkers.v1test2.Bots/UpdateBotSession",
)  # fmt: skip
# Fields of the test's message: what the handler shall do, bytes to carry, how many.
WISHES = (b"", b"hold", b"sleep 0.01", b"fail no", b"unknown", b"busy", b"metadata", b"size", b"enough")
BOMBS = (gzip.compress(bytes(40 << 20), 9), zlib.compress(bytes(40 << 20), 9))
TIMEOUTS = (b"1n", b"1m", b"20m", b"1S", b"99999999H", b"0S", b"-1S", b"1", b"S", b"1" * 90)
Fields = list[tuple[bytes, bytes]]


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def message(rng: random.Random) -> bytes:
    """A message that is right."""
    wish, data = rng.choice(WISHES), rng.randbytes(rng.choice([0, 10, 3_000]))
    number = rng.choice([0, 1, 9, 50, 3_000])
    return b"\x0a" + varint(len(wish)) + wish + b"\x12" + varint(len(data)) + data + b"\x18" + varint(number)


def framed(data: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def odd_message(rng: random.Random) -> bytes:
    """What stands in a body where a message should."""
    data = message(rng)
    match rng.randrange(8):
        case 0:
            return framed(rng.randbytes(rng.randrange(200)))
        case 1:
            return framed(data)[: rng.randrange(len(data) + 5)]
        case 2:
            flipped = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return framed(bytes(flipped))
        case 3:  # groups, or a field of a huge length
            return framed(rng.choice([b"\x0b" * 5_000, b"\x0a" + b"\xff" * 9 + b"\x7f"]))
        case 4:
            return framed(rng.choice(BOMBS), 1)
        case 5:  # a length that is not so
            return bytes([rng.randrange(3)]) + rng.randbytes(4) + data
        case 6:
            return framed(rng.choice([gzip.compress, zlib.compress])(data), 1)
    return framed(data)


def begin(
    client: h2.connection.H2Connection, to: Target, rng: random.Random, fields: Fields | None = None
) -> int:
    stream_id = client.get_next_available_stream_id()
    head = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", rng.choice(PATHS)),
        (b":authority", to.host),
    ]
    head += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *(fields or [])]
    client.send_headers(stream_id, head)
    return stream_id


def put(client: h2.connection.H2Connection, stream_id: int, data: bytes, end: bool) -> None:
    """As much as the windows take."""
    while True:
        room = min(client.local_flow_control_window(stream_id), client.max_outbound_frame_size)
        piece, data = data[:room], data[room:]
        if not room:
            return
        client.send_data(stream_id, piece, end_stream=end and not data)
        if not data:
            return


def coding(rng: random.Random) -> Fields:
    return [(b"grpc-encoding", rng.choice([b"identity", b"gzip", b"gzip", b"deflate", b"br", b"\xff"]))]


async def calls_cut(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Right calls, and the client goes at any moment."""
    client = http2_client()
    for _ in range(rng.randrange(1, 30)):
        put(client, begin(client, to, rng), framed(message(rng)), rng.random() < 0.8)
    data = client.data_to_send()
    await stream.send_all(data[: rng.randrange(1, len(data) + 1)])
    await trio.sleep(rng.choice(PAUSES_S))
    await leave(stream, rng)


async def odd_messages(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    for _ in range(rng.randrange(1, 10)):
        stream_id = begin(client, to, rng, coding(rng))
        for _ in range(rng.randrange(4)):
            put(client, stream_id, odd_message(rng), rng.random() < 0.3)
            if (
                stream_id not in client.streams
                or client.streams[stream_id].state_machine.state.name != "OPEN"
            ):
                break
    await stream.send_all(client.data_to_send())
    await leave(stream, rng)


async def odd_fields(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    for _ in range(rng.randrange(1, 8)):
        fields: Fields = rng.choices(
            [
                (b"grpc-timeout", rng.choice(TIMEOUTS)),
                (b"x-bin", rng.choice([b"AAE", b"!", b"A,B", b"=" * 50])),
                (b"grpc-accept-encoding", rng.choice([b"gzip", b",,", b"\xff"])),
                (b"authorization", rng.choice([b"Bearer", b"Bearer " + b"x" * 3_000, b"\xff"])),
                (b"host", b"elsewhere"),
                (b"origin", b"http://elsewhere"),
                (b"content-length", rng.choice([b"0", b"5", b"1" * 40, b"-1"])),
                (b"content-type", b"application/grpc"),
                (rng.choice([b"Upper", b"a b", b":late", b"connection", b"x" * 500]), rng.randbytes(20)),
                (b"big", b"x" * rng.choice([10, 8_000, 15_000])),
            ],
            k=rng.randrange(1, 5),
        )
        put(client, begin(client, to, rng, fields), framed(message(rng)), True)
    await stream.send_all(client.data_to_send())
    await leave(stream, rng)


async def calls_reset(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    for _ in range(rng.randrange(1, 150)):
        stream_id = begin(client, to, rng)
        put(client, stream_id, framed(message(rng)), False)
        if rng.random() < 0.5:
            client.reset_stream(stream_id, rng.choice([0, 5, 8, 11]))
        if rng.random() < 0.1:
            await stream.send_all(client.data_to_send())
            await trio.lowlevel.checkpoint()
    await stream.send_all(client.data_to_send())
    await leave(stream, rng)


async def damaged_frames(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Right calls with a few bits of their frames flipped, or frames twice, or in another order."""
    client = http2_client()
    for _ in range(rng.randrange(1, 12)):
        put(client, begin(client, to, rng), framed(message(rng)), True)
    data = client.data_to_send()
    frames, at = [data[:24]], 24
    while at < len(data):
        size = 9 + int.from_bytes(data[at : at + 3], "big")
        frames.append(data[at : at + size])
        at += size
    match rng.randrange(3):
        case 0:
            broken = bytearray(data)
            for _ in range(rng.randrange(1, 6)):
                broken[rng.randrange(24, len(broken))] ^= 1 << rng.randrange(8)
            data = bytes(broken)
        case 1:
            again = rng.randrange(1, len(frames))
            data = b"".join([*frames[: again + 1], *frames[again:]])
        case 2:
            rest = frames[1:]
            rng.shuffle(rest)
            data = frames[0] + b"".join(rest)
    await stream.send_all(data)
    await drain(stream, limit=rng.choice([100, 2**20]))


async def windows_of_calls(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Long answers into windows that are shut, opened by drops, or shut again."""
    client = http2_client()
    code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
    client.update_settings({code: rng.choice([0, 1, 100, 65_535, 2**31 - 1])})
    ids = []
    for _ in range(rng.randrange(1, 40)):
        ids.append(begin(client, to, rng))
        put(client, ids[-1], framed(message(rng)), True)
    data = client.data_to_send()
    for _ in range(rng.randrange(40)):
        size = rng.choice([0, 1, 1, 3, 50, 2**31 - 1])
        data += rng.choice(
            [
                frame(8, 0, rng.choice([0, *ids]), size.to_bytes(4, "big")),
                frame(4, 0, 0, b"\0\4" + rng.choice([0, 1, 70_000]).to_bytes(4, "big")),
            ]
        )
    await stream.send_all(data)
    await trio.sleep(rng.choice([*PAUSES_S, 2.5]))
    await leave(stream, rng)


async def never_reads(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    client = http2_client()
    client.increment_flow_control_window(2**31 - 1 - 65_535)
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    for _ in range(rng.randrange(1, 30)):
        put(client, begin(client, to, rng), framed(b"\x0a\x04size\x18" + varint(2 << 20)), True)
    await stream.send_all(client.data_to_send())
    with trio.move_on_after(rng.choice([0.01, 1, 3])):
        while True:
            await stream.send_all(frame(6, 0, 0, bytes(8)) * 50)
            await trio.sleep(0.01)


async def endless_uploads(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """Bodies in the smallest pieces, padded or empty, without an end."""
    client = http2_client()
    ids = [begin(client, to, rng) for _ in range(rng.randrange(1, 10))]
    body = framed(message(rng)) * 40
    try:
        for at in range(rng.randrange(1, 400)):
            piece = body[at : at + rng.choice([0, 1, 1, 7])]
            client.send_data(rng.choice(ids), piece, pad_length=rng.choice([None, None, 0, 200]))
    except h2.exceptions.FlowControlError:
        pass
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice(PAUSES_S))
    await leave(stream, rng)


async def says_goodbye(stream: trio.SocketStream, rng: random.Random, to: Target) -> None:
    """GOAWAY with calls under way, and more after it."""
    client = http2_client()
    for _ in range(rng.randrange(1, 20)):
        put(client, begin(client, to, rng), framed(message(rng)), True)
    data = client.data_to_send() + frame(7, 0, 0, rng.randbytes(8)) + frame(6, 0, 0, bytes(8))
    await stream.send_all(data + frame(1, 5, 99, b"\x82\x84\x86"))
    if rng.random() < 0.3:
        reset(stream)
    else:
        await leave(stream, rng)


ODD_CALLS: list[OddClient] = [
    calls_cut, odd_messages, odd_fields, calls_reset, damaged_frames, windows_of_calls, never_reads, endless_uploads,
    says_goodbye,
]  # fmt: skip
