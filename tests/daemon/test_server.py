"""The guarded server, one behaviour each, on the virtual clock with real sockets."""

import json
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager
from functools import partial

import h2.events
import h11
import pytest
import trio

from swarmd.daemon.http2 import CONNECTION_WINDOW, RUNNING, STREAM_WINDOW
from swarmd.daemon.listeners import open_listeners
from swarmd.daemon.requests import INBOX_MESSAGES
from swarmd.daemon.server import RECEIVE_BYTES, ServerSettings, serve

from .http2_client import H2Client

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
BIG = 30 * 1024 * 1024  # more than the sockets' buffers hold


class App:
    """The app under test, with a way to see and to steer its requests."""

    def __init__(self):
        self.started, self.ended, self.cancelled = 0, 0, 0
        self.release = trio.Event()
        self.clients = []

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        self.started += 1
        self.clients.append(scope["client"])
        try:
            await getattr(self, scope["path"].strip("/"))(scope, receive, send)
            self.ended += 1
        except trio.Cancelled:
            self.cancelled += 1
            raise

    async def hello(self, scope, receive, send):
        await answer(send, b"hello")

    async def echo(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await answer(send, body)

    async def deaf(self, scope, receive, send):
        await answer(send, b"no", status=404)  # without reading the body

    async def hold(self, scope, receive, send):
        await self.release.wait()
        await answer(send, b"released")

    async def late(self, scope, receive, send):
        await answer(send, b"first")
        await trio.sleep(1)  # what an app may do after its answer

    async def big(self, scope, receive, send):
        await answer(send, b"x" * BIG)

    async def stream(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})

    async def raises(self, scope, receive, send):
        raise RuntimeError("the app is broken")

    async def breaks_off(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("the app is broken")

    async def bad_head(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"bad name", b"1")]})


async def answer(send, body, status=200):
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class World:
    def __init__(self, app, port, shutdown):
        self.app, self.port, self.shutdown = app, port, shutdown
        self.server_ended_at = None

    async def connect(self):
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def running(app=None, **settings):
    app = app or App()
    shutdown = trio.Event()
    listeners = await open_listeners([("127.0.0.1", 0)], None)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        world = World(app, port, shutdown)
        before = len(os.listdir("/proc/self/fd"))

        async def server(task_status):
            limits = ServerSettings(**settings)
            await serve(app, listeners, shutdown=shutdown, settings=limits, task_status=task_status)
            world.server_ended_at = trio.current_time()

        await nursery.start(server)
        yield world
        shutdown.set()
    assert len(os.listdir("/proc/self/fd")) <= before


def post(path, body=b"", length=None, extra=b""):
    length = len(body) if length is None else length
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n%s" % (path, length, extra, body)


async def read_all(stream):
    """Everything until the end; `RESET` is added when the end was a reset."""
    data = b""
    try:
        while part := await stream.receive_some(2**20):
            data += part
    except trio.BrokenResourceError:
        data += b"RESET"
    return data


async def read_answer(stream):
    """(status, headers, body) of one answer with a Content-Length, and the number of reads it took."""
    parser, body, head, reads = h11.Connection(h11.CLIENT), b"", None, 0
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    parser.send(h11.EndOfMessage())
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await stream.receive_some(2**20))
            reads += 1
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return head.status_code, dict(head.headers), body, reads


def events_of(caplog):
    return [record.message for record in caplog.records if record.name == "swarmd.server"]


# --- requests ---------------------------------------------------------------------------------------------


async def test_head_and_body_come_in_one_piece_without_a_server_header(autojump_clock):
    async with running() as world, await world.connect() as client:
        for _ in range(3):
            await client.send_all(GET)
            status, headers, body, reads = await read_answer(client)
            assert (status, body, reads) == (200, b"hello", 1)
            assert b"server" not in headers and b"date" in headers


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * INBOX_MESSAGES * RECEIVE_BYTES])
async def test_a_body_arrives_whole(size, autojump_clock):
    body = os.urandom(size)
    async with running() as world, await world.connect() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, post(b"/echo", body))
        assert (await read_answer(client))[2] == body


async def test_a_client_may_ask_more_than_1000_times(autojump_clock):
    async with running() as world, await world.connect() as client:
        for _ in range(1100):
            await client.send_all(GET)
            assert (await read_answer(client))[0] == 200


async def test_pipelined_requests_are_answered_in_order(autojump_clock):
    async with running() as world, await world.connect() as client:
        close = b"Connection: close\r\n"
        await client.send_all(post(b"/echo", b"one") + GET + post(b"/echo", b"three", extra=close))
        data = await read_all(client)
        assert data.index(b"one") < data.index(b"hello") < data.index(b"three")


async def test_connection_close_closes_and_the_app_may_finish(autojump_clock):
    async with running() as world, await world.connect() as client:
        await client.send_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await read_all(client)).endswith(b"first")
        await trio.sleep(1.5)
        assert (world.app.ended, world.app.cancelled) == (1, 0)


async def test_an_answer_before_the_end_of_the_body_is_not_lost(autojump_clock):
    """A large upload to a path that does not read it: the client still sees the answer."""
    async with running() as world, await world.connect() as client:
        await client.send_all(post(b"/deaf", b"x" * 3_000_000, length=10_000_000))
        assert (await read_answer(client))[0] == 404
        assert await read_all(client) in (b"", b"RESET")
        assert world.app.ended == 1


async def test_who_asks(autojump_clock, tmp_path):
    """A TCP peer is (host, port), a Unix peer is None."""
    app, shutdown, path = App(), trio.Event(), tmp_path / "s"
    listeners = await open_listeners([("127.0.0.1", 0)], path)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, listeners, shutdown=shutdown))
        tcp = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        unix = await trio.open_unix_socket(path)
        for client in (tcp, unix):
            await client.send_all(GET)
            assert (await read_answer(client))[0] == 200
        assert app.clients == [tcp.socket.getsockname(), None]
        shutdown.set()
    await tcp.aclose()
    await unix.aclose()


# --- failures of the app ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"raises", b"bad_head"])
async def test_an_app_that_raises_gives_500(path, caplog, autojump_clock):
    async with running() as world:
        async with await world.connect() as client:
            await client.send_all(GET.replace(b"hello", path))
            assert (await read_answer(client))[0] == 500
        async with await world.connect() as client:
            await client.send_all(GET)
            assert (await read_answer(client))[0] == 200
    assert events_of(caplog) == ["request.failed"]
    assert caplog.records[0].path == "/" + path.decode() and caplog.records[0].exc_info


async def test_a_half_sent_answer_ends_in_a_reset(caplog, autojump_clock):
    async with running() as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"breaks_off"))
        assert (await read_all(client)).endswith(b"halfRESET")
    assert events_of(caplog) == ["request.failed"]


async def test_bad_requests_are_told_so(autojump_clock):
    cases = {b"nonsense\r\n\r\n": 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000: 431}
    async with running() as world:
        for request, status in cases.items():
            async with await world.connect() as client:
                await client.send_all(request)
                assert (await read_answer(client))[0] == status
                await client.send_eof()
                assert await read_all(client) == b""


# --- time limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [b"", b"data before the handshake is over"])
async def test_a_websocket_is_refused_before_the_app_hears_of_it(behind, caplog, autojump_clock):
    async with running() as world, await world.connect() as client:
        await client.send_all(
            b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + behind
        )
        answer = await read_all(client)
        assert answer.startswith(b"HTTP/1.1 403") and b"\r\nconnection: close\r\n" in answer, answer
    assert world.app.started == 0 and events_of(caplog) == []


async def test_an_idle_connection_is_closed_after_exactly_idle_s(autojump_clock):
    async with running(idle_s=600, header_s=30) as world, await world.connect() as client:
        for _ in range(2):
            await client.send_all(GET)
            await read_answer(client)
            since = trio.current_time()
            with trio.move_on_after(599.999) as waiting:
                await client.receive_some(1)
            assert waiting.cancelled_caught
        await client.send_all(GET)
        await read_answer(client)
        since = trio.current_time()
        assert await client.receive_some(1) == b""
        assert trio.current_time() - since == pytest.approx(600, abs=1e-6)


async def test_a_running_request_is_not_idle(autojump_clock):
    async with running(idle_s=10, header_s=10) as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"hold"))
        await trio.sleep(80_000)
        world.app.release.set()
        assert (await read_answer(client))[2] == b"released"


@pytest.mark.parametrize("before", [0, 1])
async def test_a_slow_head_is_cut_after_header_s(before, autojump_clock):
    """Also the head of a later request, counted from its first byte; dripping does not help."""
    async with running(header_s=30) as world, await world.connect() as client:
        for _ in range(before):
            await client.send_all(GET)
            await read_answer(client)
            await trio.sleep(100)
        since = trio.current_time()

        async def drip():
            for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                try:
                    await client.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert await read_all(client) in (b"", b"RESET")
            assert trio.current_time() - since == pytest.approx(30, abs=0.001)
            nursery.cancel_scope.cancel()


async def test_a_silent_connection_is_cut_after_header_s(autojump_clock):
    async with running(header_s=30) as world, await world.connect() as client:
        since = trio.current_time()
        assert await client.receive_some(1) == b""
        assert trio.current_time() - since == pytest.approx(30, abs=0.001)


@pytest.mark.parametrize("path", [b"big", b"stream"])
async def test_a_client_that_never_reads_is_dropped(path, caplog, autojump_clock):
    async with running(send_timeout_s=10) as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", path))
        await trio.sleep(9.9)
        assert (world.app.started, world.app.cancelled) == (1, 0)
        await trio.sleep(0.2)
        assert world.app.ended + world.app.cancelled == 1
    assert events_of(caplog) == ["connection.stuck"]


async def test_a_slow_reader_gets_everything(autojump_clock):
    async with running(send_timeout_s=10) as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"big"))
        since, got = trio.current_time(), 0
        while got < BIG:
            got += len(await client.receive_some(2**20))
            await trio.sleep(1)
        assert trio.current_time() - since > 15


async def test_a_client_that_leaves_ends_its_request(autojump_clock):
    async with running() as world:
        for path in (b"hold", b"stream"):
            client = await world.connect()
            await client.send_all(GET.replace(b"hello", path))
            await trio.sleep(0.01)
            await client.aclose()
        await trio.sleep(0.01)
        assert world.app.cancelled == 2


@pytest.mark.parametrize("go", ["close", "reset"])
async def test_a_client_that_leaves_behind_further_requests_ends_the_running_one(go, autojump_clock):
    async with running() as world:
        client = await world.connect()
        await client.send_all(GET.replace(b"hello", b"hold") + GET + b"garbage")
        await trio.sleep(0.01)
        await client.send_all(b"more of it" * 100)
        await trio.sleep(0.01)
        if go == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await trio.sleep(0.01)
        assert world.app.cancelled == world.app.started == 1


async def test_a_client_that_leaves_behind_an_unread_body_ends_its_request(autojump_clock):
    async with running() as world:
        client = await world.connect()
        await client.send_all(post(b"/hold", length=10**6))
        for _ in range(INBOX_MESSAGES + 3):
            await client.send_all(b"a piece that nobody takes")
            await trio.sleep(0.01)
        await client.aclose()
        await trio.sleep(0.01)
        assert world.app.cancelled == 1


async def test_what_was_read_ahead_is_answered_in_order(autojump_clock):
    """A body in pieces behind a request that runs for long."""
    body = os.urandom(3 * RECEIVE_BYTES)
    async with running() as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"hold") + post(b"/echo", length=len(body)))

        async def send_the_body():
            for start in range(0, len(body), 10_000):
                await client.send_all(body[start : start + 10_000])
                await trio.sleep(0.01)
            await client.send_all(GET)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_the_body)
            await trio.sleep(10)
            world.app.release.set()
            got = b""
            while not got.endswith(b"hello"):
                got += await client.receive_some(2**20)
        assert b"released" in got and body in got and got.index(b"released") < got.index(body)


# --- the limit of connections -----------------------------------------------------------------------------


async def test_connections_over_the_limit_get_503(caplog, autojump_clock):
    async with running(max_connections=2) as world:
        inside = [await world.connect() for _ in range(2)]
        for client in inside:
            await client.send_all(GET)
            assert (await read_answer(client))[0] == 200
        for _ in range(3):
            async with await world.connect() as client:
                await client.send_all(GET)
                status, headers, _, _ = await read_answer(client)
                assert (status, int(headers[b"retry-after"]) > 0) == (503, True)
                assert await client.receive_some(1) == b""
        await inside.pop().aclose()
        await trio.sleep(0.01)
        async with await world.connect() as client:
            await client.send_all(GET)
            assert (await read_answer(client))[0] == 200
        await inside.pop().aclose()
    assert events_of(caplog) == ["connection.refused"]


# --- shutdown ---------------------------------------------------------------------------------------------


async def test_shutdown_closes_idle_connections_at_once(autojump_clock):
    async with running(graceful_s=5) as world, await world.connect() as fresh, await world.connect() as used:
        await used.send_all(GET)
        await read_answer(used)
        since = trio.current_time()
        world.shutdown.set()
        assert await fresh.receive_some(1) == await used.receive_some(1) == b""
        await trio.sleep(0.01)
        assert world.server_ended_at == since
        with pytest.raises(OSError):
            await world.connect()


async def test_shutdown_lets_running_requests_end(autojump_clock):
    async with running(graceful_s=5) as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"hold"))
        await trio.sleep(0.01)
        world.shutdown.set()
        await trio.sleep(4)
        assert world.server_ended_at is None
        world.app.release.set()
        assert (await read_answer(client))[2] == b"released"
        assert await client.receive_some(1) == b""
        ended = trio.current_time()
        await trio.sleep(0.01)
        assert world.server_ended_at == pytest.approx(ended, abs=0.01)


async def test_shutdown_cancels_held_requests_after_graceful_s(autojump_clock):
    async with running(graceful_s=5) as world:
        clients = [await world.connect() for _ in range(50)]
        for client in clients:
            await client.send_all(GET.replace(b"hello", b"hold"))
        await trio.sleep(0.01)
        since = trio.current_time()
        world.shutdown.set()
        for client in clients:
            assert await read_all(client) == b""
            await client.aclose()
        assert trio.current_time() - since == pytest.approx(5)
        assert world.app.cancelled == 50


async def test_a_client_that_never_reads_delays_shutdown_by_send_timeout_s_at_most(autojump_clock):
    async with running(graceful_s=1, send_timeout_s=10) as world, await world.connect() as client:
        await client.send_all(GET.replace(b"hello", b"big"))
        await trio.sleep(0.01)
        since = trio.current_time()
        world.shutdown.set()
        await trio.sleep(30)
        assert 1 <= world.server_ended_at - since <= 11


# --- lifespan ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manners", ["full", "raises", "returns", "fails"])
async def test_lifespan(manners, autojump_clock):
    seen, app, shutdown = [], App(), trio.Event()

    async def with_lifespan(scope, receive, send):
        if scope["type"] != "lifespan":
            assert seen in ([], ["lifespan.startup"])
            return await app(scope, receive, send)
        if manners == "raises":
            raise NotImplementedError
        while manners == "full" and "lifespan.shutdown" not in seen:
            seen.append((await receive())["type"])
            await send({"type": seen[-1] + ".complete"})
        if manners == "fails":
            await send({"type": "lifespan.startup.failed", "message": "no disk"})

    listeners = await open_listeners([("127.0.0.1", 0)], None)
    if manners == "fails":
        with pytest.raises(ExceptionGroup):
            await serve(with_lifespan, listeners, shutdown=shutdown)
        assert listeners[0].socket.fileno() == -1
        return
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, with_lifespan, listeners, shutdown=shutdown))
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as client:
            await client.send_all(GET)
            assert (await read_answer(client))[2] == b"hello"
        shutdown.set()
    assert seen == (["lifespan.startup", "lifespan.shutdown"] if manners == "full" else [])


async def test_a_quart_app_is_served(autojump_clock):
    from quart import request
    from quart_trio import QuartTrio

    app = QuartTrio("tests.daemon.test_server")
    begun = []

    @app.before_serving
    async def begin():
        begun.append(True)

    @app.post("/echo")
    async def echo():
        return {"got": json.loads(await request.get_data()), "from": request.remote_addr}

    async with running(app) as world, await world.connect() as client:
        for extra in (b"", b"Connection: close\r\n"):
            await client.send_all(post(b"/echo", b"[1]", extra=extra))
            status, _, body, _ = await read_answer(client)
            assert (status, json.loads(body)) == (200, {"got": [1], "from": "127.0.0.1"})
        assert await client.receive_some(1) == b""
    assert begun


# --- HTTP/2 -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def http2(**settings):
    async with running(**settings) as world, await world.connect() as stream:
        yield world, H2Client(stream)


async def test_http2_request(autojump_clock):
    async with http2() as (_, client):
        first, second = await client.ask(b"/echo", b"body"), await client.ask(b"/hello")
        assert await client.status(first) == await client.status(second) == 200
        data = await client.wait(h2.events.DataReceived, first)
        assert data.data == b"body"
        assert await client.wait(h2.events.StreamEnded, first)


async def test_http2_body_after_the_answer_harms_nobody(caplog, autojump_clock):
    async with http2() as (world, client):
        held = await client.ask(b"/hold")
        for _ in range(5):
            deaf = await client.ask(b"/deaf", b"x" * 1000, end=False)
            assert await client.status(deaf) == 404
            ended = await client.wait(h2.events.StreamReset, deaf)
            assert ended.error_code == 0  # NO_ERROR: stop sending, the answer stands
            # By hand: our own h2 knows that the stream is closed.
            await client.stream.send_all(b"\x00\x00\x04\x00\x01" + deaf.to_bytes(4, "big") + b"late")
        world.app.release.set()
        assert await client.status(held) == 200
    assert events_of(caplog) == []


async def test_http2_late_bodies_cost_no_window(autojump_clock):
    """What comes after the answer, while its app goes on, is thrown away, and the client may send as much again."""
    async with http2() as (_, client):
        await client.status(await client.ask(b"/hello"))  # the server's windows are known
        piece = b"x" * 16_384
        for _ in range(3 * CONNECTION_WINDOW // STREAM_WINDOW):
            late = await client.ask(b"/late", piece, end=False)
            assert await client.status(late) == 200
            for _ in range(STREAM_WINDOW // len(piece) - 1):
                while client.h2.outbound_flow_control_window < len(piece):
                    with trio.fail_after(0.5):
                        await client.more()
                client.h2.send_data(late, piece)
                await client.flush()
            assert await client.wait(h2.events.StreamReset, late)


async def test_http2_non_ascii_path_is_reset_alone(caplog, autojump_clock):
    async with http2(idle_s=50) as (_, client):
        good = await client.ask(b"/hello")
        bad = await client.ask(b"/h\xc3\xa9llo")
        reset = await client.wait(h2.events.StreamReset, bad)
        assert reset.error_code == 1  # PROTOCOL_ERROR
        assert await client.status(good) == 200
        since = trio.current_time()
        # GOAWAY in time: the bad one does not count as running.
        assert await client.wait(h2.events.ConnectionTerminated)
        assert trio.current_time() - since == pytest.approx(50)
    assert events_of(caplog) == []


async def test_http2_websocket_is_reset_alone(caplog, autojump_clock):
    """RFC 8441; stock takes every CONNECT for one."""
    async with http2() as (world, client):
        bad = await client.ask(b"/hello", method=b"CONNECT", more=[(b":protocol", b"websocket")])
        assert (await client.wait(h2.events.StreamReset, bad)).error_code == 7  # REFUSED_STREAM
        assert await client.status(await client.ask(b"/hello")) == 200
    assert world.app.started == 1 and events_of(caplog) == []


async def test_http2_app_errors(caplog, autojump_clock):
    async with http2() as (_, client):
        stream = await client.ask(b"/raises")
        assert await client.status(stream) == 500
        stream = await client.ask(b"/breaks_off")
        assert (await client.wait(h2.events.StreamReset, stream)).error_code == 2  # INTERNAL_ERROR
        stream = await client.ask(b"/hello")
        assert await client.status(stream) == 200
    assert events_of(caplog) == ["request.failed"] * 2


async def test_http2_reset_cancels_the_request_and_frees_the_connection(autojump_clock):
    async with http2(idle_s=50) as (world, client):
        for path in (b"/hold", b"/stream"):
            stream = await client.ask(path)
            await trio.sleep(0.01)
            client.h2.reset_stream(stream)
            await client.flush()
        await trio.sleep(0.01)
        assert world.app.cancelled == 2
        assert await client.wait(h2.events.ConnectionTerminated)
        assert trio.current_time() < 60


async def test_http2_client_that_gives_no_window_is_cut(caplog, autojump_clock):
    async with http2(send_timeout_s=10) as (world, client):
        big = await client.ask(b"/big")
        await trio.sleep(9.9)
        assert (world.app.started, world.app.ended) == (1, 0)
        await trio.sleep(0.2)
        assert world.app.ended + world.app.cancelled == 1
        assert (await client.wait(h2.events.StreamReset, big)).error_code == 8  # CANCEL
    assert events_of(caplog) == ["stream.stuck"]


async def test_http2_stream_waits_for_window(autojump_clock):
    """An app that streams for ever does not fill the memory while the client takes nothing."""
    sent = []

    class Counting(App):
        async def stream(self, scope, receive, send):
            async def counted(message):
                await send(message)
                sent.append(len(message.get("body", b"")))

            await super().stream(scope, receive, counted)

    async with running(Counting()) as world, await world.connect() as stream:
        client = H2Client(stream)
        await client.ask(b"/stream")
        await trio.sleep(1)
        assert 65_535 - 4 < sum(sent) <= 65_535  # the initial window of the client
        world.shutdown.set()


async def test_http2_idle_and_shutdown(autojump_clock):
    async with http2(idle_s=100, header_s=30) as (world, client):
        await client.status(await client.ask(b"/hello"))
        since = trio.current_time()
        assert await client.wait(h2.events.ConnectionTerminated)
        assert trio.current_time() - since == pytest.approx(100)
        second = H2Client(await world.connect())
        await second.status(await second.ask(b"/hello"))
        held = await second.ask(b"/hold")
        await trio.sleep(0.01)
        world.shutdown.set()
        goodbye = await second.wait(h2.events.ConnectionTerminated)
        assert (goodbye.error_code, goodbye.last_stream_id) == (0, held)
        late = await second.ask(b"/hello")
        assert (
            await second.wait(h2.events.StreamReset, late)
        ).error_code == 7  # REFUSED_STREAM: may be tried elsewhere
        await trio.sleep(1)
        world.app.release.set()
        assert await second.status(held) == 200
        assert await second.wait(h2.events.StreamEnded, held)
        assert await second.wait(h2.events.ConnectionTerminated) is None  # said once; then the end
        await second.stream.aclose()


async def test_http2_preface_alone_is_cut_after_header_s(autojump_clock):
    async with http2(header_s=30) as (_, client):
        await client.flush()
        since = trio.current_time()
        assert await client.wait(h2.events.ConnectionTerminated)
        assert trio.current_time() - since == pytest.approx(30, abs=0.001)


async def test_http2_rapid_reset_ends_the_connection_not_the_server(caplog, autojump_clock):
    class Stubborn(App):
        async def hold(self, scope, receive, send):
            with trio.CancelScope(shield=True):
                await self.release.wait()

    app = Stubborn()
    async with running(app) as world, await world.connect() as stream:
        client = H2Client(stream)
        with trio.move_on_after(5):
            try:
                for _ in range(2 * RUNNING):
                    client.h2.reset_stream(await client.ask(b"/hold"))
                    await client.flush()
                await client.wait(h2.events.ConnectionTerminated)
            except trio.BrokenResourceError:
                pass
        assert RUNNING - 100 < app.started <= RUNNING
        app.release.set()
        async with await world.connect() as other:
            await other.send_all(GET)
            assert (await read_answer(other))[0] == 200
    assert events_of(caplog) == ["connection.failed"]


@pytest.fixture(autouse=True)
def all_levels(caplog):
    caplog.set_level(logging.INFO, "swarmd.server")
