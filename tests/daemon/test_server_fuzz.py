"""Odd clients, byte by byte, next to a well-behaved one that must never notice.

Real clock and loopback sockets. The seed is printed and can be given as SWARMD_FUZZ_SEED.
"""

import contextlib
import os
import random
import socket
import struct
import time

import h2.config
import h2.connection
import pytest
import trio

from swarmd.daemon.listeners import open_listeners
from swarmd.daemon.server import ServerSettings, serve

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
SETTLE_S = 10.0  # in which the last connections must have gone
AT_ONCE = 16


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/stream":
        await send(start)
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 5000, "more_body": True})
            await trio.sleep(0.001)
        return await send({"type": "http.response.body", "body": b"end"})
    if scope["path"] == "/raise":
        raise RuntimeError("broken app")
    if scope["path"] == "/hold":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"hello"
    if scope["path"] == "/echo":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    if scope["path"] == "/big":
        body = b"b" * 2_000_000
    start["headers"] = [(b"content-length", b"%d" % len(body))]
    await send(start)
    await send({"type": "http.response.body", "body": body})


def reset(stream):
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def get(path):
    return GET.replace(b"/hello", path)


async def drain(stream, limit=2**24):
    with trio.move_on_after(3):
        while limit > 0 and (data := await stream.receive_some(2**16)):
            limit -= len(data)


# --- the odd clients --------------------------------------------------------------------------------------


async def half_body(stream, rng):
    path = rng.choice([b"/echo", b"/hello", b"/hold", b"/stream", b"/raise"])
    await stream.send_all(
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" % path
        + rng.randbytes(rng.randrange(100))
    )
    await trio.sleep(rng.choice([0, 0.001, 0.01]))
    await stream.send_eof()
    await drain(stream)


async def pipelined_then_reset(stream, rng):
    await stream.send_all(get(rng.choice([b"/hello", b"/stream", b"/big"])) * rng.randrange(2, 200))
    await trio.sleep(rng.choice([0, 0.001, 0.01]))
    if rng.random() < 0.7:
        reset(stream)


async def garbage(stream, rng):
    await stream.send_all(rng.randbytes(rng.randrange(1, 40_000)))
    if rng.random() < 0.5:
        await drain(stream)


async def damaged_request(stream, rng):
    data = bytearray(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n" + GET
    )
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    await stream.send_all(bytes(data))
    await stream.send_eof()
    await drain(stream)


async def upgrade(stream, rng):
    wanted = rng.choice([b"h2c", b"websocket", b"nonsense"])
    await stream.send_all(
        b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: %s\r\n"
        b"HTTP2-Settings: %s\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        % (wanted, rng.choice([b"", b"AAMAAABk", b"%%%"]))
    )
    await stream.send_all(rng.randbytes(rng.randrange(1, 100)))
    await stream.send_eof()
    await drain(stream)


async def stream_and_garbage(stream, rng):
    await stream.send_all(get(b"/stream"))
    await stream.receive_some(100)
    await stream.send_all(rng.randbytes(rng.randrange(1, 200)))
    if rng.random() < 0.5:
        reset(stream)
    else:
        await drain(stream, limit=rng.choice([10_000, 2**24]))


async def slow_reader(stream, rng):
    await stream.send_all(get(rng.choice([b"/big", b"/stream"])))
    for _ in range(10):
        await stream.receive_some(1000)
        await trio.sleep(0.01)
    if rng.random() < 0.5:
        reset(stream)


async def preface_and_garbage(stream, rng):
    await stream.send_all(
        PREFACE + rng.choice([b"", b"\0\0\0\4\0\0\0\0\0"]) + rng.randbytes(rng.randrange(1, 3000))
    )
    await drain(stream)


def frame(kind, flags, stream_id, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def http2_client():
    config = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    return client


def ask(client, path, end=True, method=b"POST"):
    stream_id = client.get_next_available_stream_id()
    fields = [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", b"a")]
    client.send_headers(stream_id, fields, end_stream=end)
    return stream_id


async def http2_leaves_under_load(stream, rng):
    client = http2_client()
    for _ in range(rng.randrange(1, 60)):
        ask(client, rng.choice([b"/hello", b"/big", b"/stream", b"/hold", b"/raise"]))
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice([0, 0.001, 0.02]))
    match rng.randrange(3):
        case 0:
            reset(stream)
        case 1:
            client.close_connection()
            await stream.send_all(client.data_to_send())


async def http2_late_data(stream, rng):
    """DATA for streams whose answer has ended, that never were, or that were reset."""
    client = http2_client()
    ids = [ask(client, rng.choice([b"/hello", b"/raise", b"/echo"]), end=False) for _ in range(8)]
    for stream_id in ids[:3]:
        client.reset_stream(stream_id)
    await stream.send_all(client.data_to_send())
    await trio.sleep(rng.choice([0, 0.01]))
    for _ in range(20):
        await stream.send_all(
            frame(0, rng.randrange(2), rng.choice([*ids, 999]), b"late" * rng.randrange(100))
        )
    await drain(stream, limit=20_000)


async def http2_odd_fields(stream, rng):
    client = http2_client()
    ask(client, rng.choice([b"/\xff\xfe", "/h\xe9llo".encode(), b"", b"*", b"/a b\r\n"]))
    ask(client, b"/hello", method=rng.choice([b"CONNECT", b"G\xc3\x89T", b"", b"PRI"]))
    ask(client, b"/hello")
    await stream.send_all(client.data_to_send())
    await drain(stream, limit=20_000)


async def http2_any_frames(stream, rng):
    client = http2_client()
    ask(client, b"/stream")
    data = client.data_to_send()
    for _ in range(rng.randrange(1, 40)):
        payload = rng.randbytes(rng.choice([0, 4, 5, 6, 8, 30]))
        data += frame(rng.randrange(11), rng.randrange(256), rng.choice([0, 1, 2, 3, 5]), payload)
    await stream.send_all(data)
    await drain(stream, limit=rng.choice([100, 2**20]))


async def rapid_reset(stream, rng):
    client = http2_client()
    for _ in range(100):
        client.reset_stream(ask(client, rng.choice([b"/hold", b"/stream", b"/hello"])))
    await stream.send_all(client.data_to_send())
    await drain(stream, limit=20_000)


ODD = [
    half_body,
    pipelined_then_reset,
    garbage,
    damaged_request,
    upgrade,
    stream_and_garbage,
    slow_reader,
    preface_and_garbage,
    http2_leaves_under_load,
    http2_late_data,
    http2_odd_fields,
    http2_any_frames,
    rapid_reset,
]


# --- the well-behaved one ---------------------------------------------------------------------------------


async def well_behaved(port, over, report):
    """Asks on one kept-alive connection until `over`; every answer must be right and come in time."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        while not over.is_set():
            body = os.urandom(30).hex().encode()
            await stream.send_all(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            got = b""
            with trio.fail_after(20):
                while not got.endswith(body):
                    part = await stream.receive_some(2**16)
                    assert part, f"closed after {report['answers']} answers"
                    got += part
            assert got.startswith(b"HTTP/1.1 200")
            report["answers"] += 1
            await trio.sleep(0.002)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def fuzz(connections, seed):
    print(f"SWARMD_FUZZ_SEED={seed}")
    settings = ServerSettings(idle_s=2, header_s=2, send_timeout_s=2, graceful_s=1)
    before, shutdown, over, report = descriptors(), trio.Event(), trio.Event(), {"answers": 0}
    listeners = await open_listeners([("127.0.0.1", 0)], None)
    port = listeners[0].socket.getsockname()[1]
    seeds = iter(range(seed * 1_000_000, seed * 1_000_000 + connections))

    async def odd_clients():
        for one in seeds:
            rng = random.Random(one)
            kind = ODD[one % len(ODD)]
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(5):
                    await kind(stream, rng)

    async with trio.open_nursery() as nursery:

        async def server(task_status):
            await serve(app, listeners, shutdown=shutdown, settings=settings, task_status=task_status)
            assert shutdown.is_set(), "the server ended by itself"

        await nursery.start(server)
        idle = descriptors()
        async with trio.open_nursery() as clients:
            clients.start_soon(well_behaved, port, over, report)
            async with trio.open_nursery() as odd:
                for _ in range(AT_ONCE):
                    odd.start_soon(odd_clients)
            over.set()
        deadline = time.monotonic() + SETTLE_S
        while descriptors() > idle and time.monotonic() < deadline:
            await trio.sleep(0.05)
        assert descriptors() == idle, f"{descriptors() - idle} descriptors leaked"
        with trio.fail_after(settings.graceful_s + settings.send_timeout_s + 5):
            shutdown.set()
            while descriptors() > before:
                await trio.sleep(0.01)
    assert report["answers"] > 0


def seed():
    return int(os.environ.get("SWARMD_FUZZ_SEED") or random.SystemRandom().randrange(1_000_000))


async def test_odd_clients_harm_nobody():
    await fuzz(connections=400, seed=seed())


@pytest.mark.nightly
async def test_many_odd_clients_harm_nobody():
    for _ in range(10):
        await fuzz(connections=2000, seed=seed())


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
async def test_one_kind_alone(kind, monkeypatch):
    """Names the culprit when the mix fails."""
    monkeypatch.setattr(f"{__name__}.ODD", [kind])
    await fuzz(connections=20, seed=1)
