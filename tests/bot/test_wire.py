"""The bot's calls as HTTP, against a server that answers from a script."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Callable

import h11
import msgspec
import pytest
import trio
import trio.testing

from swarmd.bot.wire import ClientWire, WireError
from swarmd.client.address import parse_address

Answer = tuple[int, bytes]


class Server:
    """Keeps each request as (method, target, headers, body)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.answer: Callable[[str, str], Answer | None] = lambda method, target: (200, b"{}")

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            await self._converse(stream)
        except trio.BrokenResourceError:
            pass  # a bot that ends closes without reading: the system resets what had more to tell

    async def _converse(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request, body = None, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65_536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert request is not None
            method, target = request.method.decode(), request.target.decode()
            headers = {name.decode(): value.decode() for name, value in request.headers}
            self.requests.append((method, target, headers, body))
            answer = self.answer(method, target)
            if answer is None:
                await stream.aclose()
                return
            status, data = answer
            head = http.send(h11.Response(status_code=status, headers=[("Content-Length", str(len(data)))]))
            await stream.send_all(head + http.send(h11.Data(data=data)) + http.send(h11.EndOfMessage()))
            http.start_next_cycle()


@pytest.fixture
async def server(nursery) -> Server:
    server = Server()
    listeners = await nursery.start(trio.serve_tcp, server.handle, 0)
    server.port = listeners[0].socket.getsockname()[1]
    server.wire = ClientWire(parse_address(f"http://127.0.0.1:{server.port}"), "secret")
    return server


async def test_a_sync_is_one_request_on_a_connection_that_stays(server):
    server.answer = lambda method, target: (200, b'{"seq":1,"offers":[],"orders":[],"deadline_s":60}')
    for _ in range(3):
        answer = await server.wire.sync("s1", b'{"seq":1}', held_s=30.0)
    assert answer.seq == 1 and server.connections == 1
    method, target, headers, body = server.requests[0]
    assert (method, target, body) == ("POST", "/api/v1/sessions/s1/sync", b'{"seq":1}')
    assert headers["authorization"] == "Bearer secret" and headers["content-type"] == "application/json"


async def test_large_things_travel_as_bytes(server):
    server.answer = lambda method, target: (200, b'{"end":3,"limit":9}' if "output" in target else b"blob")
    answer = await server.wire.append_output("a1", "stdout", 7, b"abc")
    assert (answer.end, answer.limit) == (3, 9)
    digest = hashlib.sha256(b"12345").hexdigest()
    await server.wire.put_blob(digest, 5, lambda: [b"123", b"45"])
    async with server.wire.get_blob(digest) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"blob"
    assert [(m, t, b) for m, t, _, b in server.requests] == [
        ("POST", "/api/v1/attempts/a1/output/stdout?offset=7", b"abc"),
        ("PUT", f"/api/v1/blobs/{digest}", b"12345"),
        ("GET", f"/api/v1/blobs/{digest}", b""),
    ]
    assert server.requests[1][2]["content-length"] == "5"


async def test_what_is_missing_is_asked_and_a_session_closed(server):
    server.answer = lambda method, target: (200, b'{"missing":["b"]}' if method == "POST" else b"{}")
    assert await server.wire.missing_blobs(["a", "b"]) == ["b"]
    await server.wire.close_session("s1")
    assert msgspec.json.decode(server.requests[0][3]) == {"digests": ["a", "b"]}
    assert server.requests[1][:2] == ("DELETE", "/api/v1/sessions/s1")


@pytest.mark.parametrize(
    ("status", "gone", "denied", "passing"),
    [(404, True, False, False), (410, True, False, False), (401, False, True, False), (403, False, True, False),
     (400, False, False, False), (409, False, False, False), (503, False, False, True), (507, False, False, True)],
)  # fmt: skip
async def test_a_refusal_says_what_can_be_done(server, status, gone, denied, passing):
    server.answer = lambda method, target: (status, b'{"error":{"code":"some_code","message":"a sentence"}}')
    with pytest.raises(WireError, match="a sentence") as caught:
        await server.wire.sync("s1", b"{}", held_s=0.0)
    error = caught.value
    assert (error.code, error.is_gone, error.is_denied, error.is_passing) == (
        "some_code",
        gone,
        denied,
        passing,
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [None, (200, b"not JSON")])
async def test_no_answer_and_a_strange_one_may_pass(server, answer):
    server.answer = lambda method, target: answer
    with pytest.raises(WireError) as caught:
        await server.wire.sync("s1", b"{}", held_s=0.0)
    assert caught.value.is_passing and caught.value.status is None


@pytest.mark.parametrize("heard", [b"", b"POST /x HTTP/1.1\r\n"])
async def test_a_caller_that_resets_its_connection_does_not_end_the_server(server, heard):
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if heard:
        await stream.send_all(heard)
    with trio.fail_after(5):
        while not server.connections:
            await trio.sleep(0.001)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)  # with this option it is a reset, whatever is unread
    await trio.testing.wait_all_tasks_blocked()
    await server.wire.close_session("s1")
    assert server.requests[0][:2] == ("DELETE", "/api/v1/sessions/s1")


async def test_a_daemon_that_is_not_there_is_told_at_once():
    with trio.fail_after(5):
        with pytest.raises(WireError, match="refused") as caught:
            await ClientWire(parse_address("http://127.0.0.1:1"), None).sync("s1", b"{}", held_s=30.0)
    assert caught.value.is_passing
