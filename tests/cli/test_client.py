"""The client against a fake daemon: forms, repeats, streams, errors."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.client import (
    ApiError,
    BadSetting,
    Client,
    OutputEvent,
    StrangeAnswer,
    Unreachable,
    open_client,
    task,
)
from swarmd.client.address import parse_address, read_token
from swarmd.client.sse import EventParser
from swarmd.client.transport import query_text, segment
from tests.cli.fake import ID, OTHER, Fake, Reply, details, info, problem, sse

TASKS = "/api/v1/tasks"
SUBMITTED = Reply({"ids": [ID], "states": ["PENDING"]}, 201)


@asynccontextmanager
async def connected(fake: Fake, token: str | None = None) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(fake.serve)
        async with open_client(url, token) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_submit_gives_ids_and_sets_a_request_id(autojump_clock):
    fake = Fake({("POST", TASKS): SUBMITTED})
    async with connected(fake, "secret") as client:
        assert await client.submit([task(argv=["echo", "hi"])]) == [ID]
    [seen] = fake.seen
    assert seen.json["tasks"] == [{"argv": ["echo", "hi"]}]
    assert len(seen.json["request_id"]) == 32
    assert seen.headers["authorization"] == "Bearer secret"


async def test_connections_are_kept(autojump_clock):
    fake = Fake({("GET", f"{TASKS}/{ID}"): Reply(details())})
    async with connected(fake) as client:
        for _ in range(5):
            assert (await client.get(ID)).work.commands[0].argv == ("echo", "hi")
    assert fake.connections == 1


async def test_a_lost_answer_is_asked_for_again_with_the_same_request_id(autojump_clock):
    fake = Fake({("POST", TASKS): [Reply(drop=True), Reply({}, cut=True), SUBMITTED]})
    fake.table["GET", f"{TASKS}/{ID}"] = Reply(details())
    async with connected(fake) as client:
        await client.get(ID)
        assert await client.submit([task(argv=["x"])]) == [ID]
    bodies = [seen.body for seen in fake.asked("POST", TASKS)]
    assert len(bodies) == 3 and len(set(bodies)) == 1


async def test_what_must_not_be_sent_twice_is_not(autojump_clock):
    fake = Fake({("DELETE", "/api/v1/bots/b"): Reply(drop=True)})
    async with connected(fake) as client:
        with pytest.raises(Unreachable, match="is not known") as caught:
            await client.delete_bot("b")
    assert caught.value.sent and len(fake.seen) == 1


async def test_a_connection_that_died_while_idle_costs_nothing(autojump_clock):
    fake = Fake({("GET", f"{TASKS}/{ID}"): Reply(details(), headers={"connection": "close"})})
    async with connected(fake) as client:
        await client.get(ID)
        await client.get(ID)
    assert fake.connections == 2 and len(fake.seen) == 2


async def test_busy_is_tried_again_after_the_time_it_names(autojump_clock):
    busy = problem(503, "busy", "too much at once")._replace(headers={"retry-after": "7"})
    fake = Fake({("GET", f"{TASKS}/{ID}"): [Reply(details()), busy, Reply(details())]})
    async with connected(fake) as client:
        await client.get(ID)
        start = trio.current_time()
        await client.get(ID)
    assert 7.0 <= trio.current_time() - start < 7.5


async def test_errors_are_told_as_sent(autojump_clock):
    fake = Fake({("GET", f"{TASKS}/{ID}"): problem(404, "unknown_task", "no task x", "look at swarmd tasks")})
    async with connected(fake) as client:
        with pytest.raises(ApiError) as caught:
            await client.get(ID)
    error = caught.value
    assert (error.status, error.code, str(error)) == (404, "unknown_task", "no task x; look at swarmd tasks")


@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"", b'{"error": 1}'])
async def test_a_stranger_is_named(autojump_clock, body):
    fake = Fake({("GET", f"{TASKS}/{ID}"): Reply(body, 404), ("GET", "/api/v1/counts"): Reply(body)})
    async with connected(fake) as client:
        with pytest.raises(ApiError) as caught:
            await client.get(ID)
        assert caught.value.code == "not_swarmd"
        with pytest.raises(StrangeAnswer):
            await client.counts()


async def test_an_answer_that_is_not_http(autojump_clock):
    async def speak(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, speak, 0, host="127.0.0.1"))
        async with open_client(f"http://127.0.0.1:{listener.socket.getsockname()[1]}") as client:
            with pytest.raises(StrangeAnswer, match="not HTTP"):
                await client.health()
        nursery.cancel_scope.cancel()


async def test_silence_ends_after_the_timeout(autojump_clock):
    fake = Fake({("GET", "/api/v1/counts"): Reply(hang=True)})
    async with connected(fake) as client:
        with pytest.raises(Unreachable, match="no answer within 30 s"):
            await client.counts()


async def test_nobody_there_is_told_at_once(autojump_clock, tmp_path):
    start = trio.current_time()
    for url, reason in (
        (f"unix:{tmp_path}/none", "there is no such socket"),
        ("http://127.0.0.1:1", "connection refused"),
    ):
        async with open_client(url) as client:
            with pytest.raises(Unreachable, match="is `swarmd serve` running") as caught:
                await client.health()
        assert (caught.value.reason, caught.value.sent) == (reason, False)
    assert trio.current_time() == start


async def test_a_unix_socket_and_no_proxy(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("SWARMD_URL", f"unix:{tmp_path}/s")
    fake = Fake({("GET", "/metrics"): Reply(b"a 1\n")})
    async with trio.open_nursery() as nursery:
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(f"{tmp_path}/s")
        socket.listen()
        nursery.start_soon(trio.serve_listeners, fake.handle, [trio.SocketListener(socket)])
        async with open_client() as client:
            assert await client.metrics() == "a 1\n"
        nursery.cancel_scope.cancel()
    assert fake.seen[0].headers["host"] == "localhost"


async def test_lists_go_over_all_pages(autojump_clock):
    def page(seen):
        start = int(seen.query.get("cursor", 0))
        items = [info(f"{number:013}") for number in range(start, min(start + 1000, 2500))]
        return Reply({"items": items, "next": str(start + 1000) if start + 1000 < 2500 else None})

    fake = Fake({("GET", TASKS): page})
    async with connected(fake) as client:
        assert len(await client.tasks(state="RUNNING", failed=True).all()) == 2500
        assert len(await client.tasks(limit=1200).all()) == 1200
    assert fake.seen[0].query == {"state": "RUNNING", "failed": "true", "limit": "1000"}
    assert [seen.query["limit"] for seen in fake.seen] == ["1000"] * 3 + ["1000", "200"]


async def test_wait_asks_only_for_what_is_left(autojump_clock):
    fake = Fake(
        {
            ("POST", f"{TASKS}/wait"): [
                Reply({"items": [info()], "pending": 1}),
                Reply({"items": [info(OTHER)], "pending": 0}),
            ]
        }
    )
    async with connected(fake) as client:
        told = []
        done = await client.wait([ID, OTHER, ID], progress=lambda *counts: told.append(counts))
    assert [item.id for item in done] == [ID, OTHER] and told == [(1, 2), (2, 2)]
    assert [seen.json["ids"] for seen in fake.seen] == [[ID, OTHER], [OTHER]]


async def test_wait_gives_up_in_time(autojump_clock):
    def held(seen):
        clock_jumps.append(seen.json["wait_s"])
        return Reply({"items": [], "pending": 1})

    clock_jumps: list[float] = []
    fake = Fake({("POST", f"{TASKS}/wait"): held})
    async with connected(fake) as client:
        assert await client.wait([ID], timeout_s=0.0) == []
    assert clock_jumps == [0.0]


async def test_follow_resumes_where_the_connection_was_lost(autojump_clock):
    first = sse(
        ("1", "output", {"stream": "stdout", "offset": 0, "data": "YWI=", "attempt": "a"}),
        ("2", "output", {"stream": "stderr", "offset": 0, "data": "ZQ==", "attempt": "a"}),
        cut=True,
    )
    second = sse(
        (
            "3",
            "output",
            {"stream": "stdout", "offset": 1, "data": "YmM=", "attempt": "a"},
        ),  # cut in another way
        ("4", "output", {"stream": "stdout", "offset": 0, "data": "WA==", "attempt": "b"}),  # another attempt
        ("5", "end", {"state": "COMPLETED"}),
    )
    fake = Fake({("GET", f"{TASKS}/{ID}/follow"): [first, second]})
    async with connected(fake) as client, client.follow(ID) as events:
        seen = [
            (e.stream, e.data) if isinstance(e, OutputEvent) else (e.state, e.final) async for e in events
        ]
    assert seen == [
        ("stdout", b"ab"),
        ("stderr", b"e"),
        ("stdout", b"c"),
        ("stdout", b"X"),
        ("COMPLETED", True),
    ]
    assert [request.headers.get("last-event-id") for request in fake.seen] == [None, "2"]


async def test_follow_gives_up_when_the_daemon_stays_away(autojump_clock):
    fake = Fake({("GET", f"{TASKS}/{ID}/follow"): sse(("1", "state", {"state": "RUNNING"}), cut=True)})
    async with trio.open_nursery() as nursery:
        url = await nursery.start(fake.serve)
        async with open_client(url) as client, client.follow(ID) as events:
            await anext(events)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), pytest.raises(Unreachable):
                start = trio.current_time()
                await anext(events)
            assert 290 < trio.current_time() - start < 310


async def test_output_is_read_to_its_end(autojump_clock):
    text = b"0123456789"

    def piece(seen):
        at = int(seen.query.get("offset", 0))
        data = text[at : at + 4]
        head = {"swarmd-offset": str(at), "swarmd-end": "10", "swarmd-final": "true", "swarmd-attempt": "a"}
        return Reply(data, headers=head)

    fake = Fake({("GET", f"{TASKS}/{ID}/output/stdout"): piece})
    async with connected(fake) as client:
        assert b"".join([data async for data in client.output(ID, follow=True)]) == text
    assert [seen.query.get("attempt") for seen in fake.seen] == [None, "a", "a"]


async def test_blobs_go_up_and_come_down(autojump_clock, tmp_path):
    data = bytes(range(256)) * 4096
    digest = hashlib.sha256(data).hexdigest()
    path = f"/api/v1/blobs/{digest}"
    (tmp_path / "f").write_bytes(data)
    answer = Reply({"sha256": digest, "size": len(data)}, 201)
    fake = Fake(
        {
            ("PUT", path): [Reply(drop=True), answer],
            ("POST", "/api/v1/blobs"): answer,
            ("GET", path): Reply(data),
        }
    )
    fake.table["HEAD", path] = Reply(b"", headers={"content-length": "77"})

    async def chunks():
        yield data[:1000]
        yield data[1000:]

    async with connected(fake) as client:
        await client.blob_size(digest)
        told = []
        await client.upload_file(tmp_path / "f", digest, lambda *counts: told.append(counts))
        assert told[-1] == (len(data), len(data))
        await client.upload(chunks(), len(data))
        got = []
        assert await client.save_blob(digest, got.append) == len(data) and b"".join(got) == data
        assert await client.blob_size(digest) == 77
        fake.table["GET", path] = Reply(b"other")
        with pytest.raises(StrangeAnswer, match="other bytes"):
            await client.save_blob(digest, got.append)
        fake.table["HEAD", path] = Reply(b"", 404)
        assert await client.blob_size(digest) is None
    assert [len(seen.body) for seen in fake.asked("PUT", path)] == [len(data)] * 2
    assert fake.asked("POST", "/api/v1/blobs")[0].body == data


async def test_an_upload_that_is_refused_early_tells_why(autojump_clock):
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        body = b'{"error": {"code": "too_large", "message": "too large"}}'
        await stream.send_all(
            b"HTTP/1.1 413 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
        )
        await stream.send_eof()
        with trio.move_on_after(5):
            while await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        async with open_client(f"http://127.0.0.1:{listener.socket.getsockname()[1]}") as client:
            with pytest.raises(ApiError) as caught:
                await client.upload_bytes(b"x" * (8 << 20))
        nursery.cancel_scope.cancel()
    assert caught.value.code == "too_large"


async def test_canceling_a_call_closes_its_connection(autojump_clock):
    fake = Fake(
        {
            ("GET", "/api/v1/counts"): [
                Reply(hang=True),
                Reply({"tasks": {}, "bots": {}, "sessions": 0, "graphs": 0}),
            ]
        }
    )
    async with connected(fake) as client:
        with trio.move_on_after(1):
            await client.counts()
        assert (await client.counts()).sessions == 0
    assert fake.connections == 2


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://x", "not one of a server"),
        ("127.0.0.1:8710", "not one of a server"),
        ("http://", "not one of a server"),
        ("http://x:99999", "cannot be read"),
        ("http://me:pw@x", "name or password"),
        ("unix:", "no socket"),
    ],
)
def test_wrong_addresses(url, word):
    with pytest.raises(BadSetting, match=word):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://lab", ("lab", 8710, "", "", False)),
        ("http://[::1]:80/t/", ("::1", 80, "", "/t", False)),
        ("https://lab/t", ("lab", 8710, "", "/t", True)),
        ("unix:/a/b", ("", 0, "/a/b", "", False)),
        ("unix:///a/b", ("", 0, "/a/b", "", False)),
        ("unix:b", ("", 0, "b", "", False)),
    ],
)
def test_addresses(url, expected):
    assert parse_address(url)[1:] == expected


def test_a_token_file_must_be_private_and_hold_a_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("abc\n")
    file.chmod(0o600)
    assert read_token(str(file)) == "abc"
    file.chmod(0o644)
    with pytest.raises(BadSetting, match="chmod 600"):
        read_token(str(file))
    file.chmod(0o600)
    for text in ("", "a b", "ä", "x" * 5000):
        file.write_text(text)
        with pytest.raises(BadSetting, match="one line"):
            read_token(str(file))
    with pytest.raises(BadSetting, match="No such file"):
        read_token(str(tmp_path / "none"))


def test_events_are_parsed_however_they_arrive():
    raw = b": hello\n\nid: 1\nevent: a\ndata: x\ndata: y\n\r\ndata:\xc3\xa4\r\n\r\nid: 3\n\nevent: lost\ndata: z\n"
    whole = EventParser().feed(raw)
    parser = EventParser()
    assert [event for byte in raw for event in parser.feed(bytes([byte]))] == whole
    assert whole == [("1", "a", "x\ny"), ("", "message", "ä")]


def test_an_id_cannot_change_the_route():
    assert segment("a/../b?c#d e") == "a%2F..%2Fb%3Fc%23d%20e"
    assert segment("..") == "%2E%2E"
    assert query_text({"a": None, "b": "", "c": True, "d": 0, "e": "x y"}) == "?c=true&d=0&e=x+y"


async def test_every_route_has_a_method(autojump_clock):
    """Calls each convenience method once: the routes that they ask are the routes there are."""
    from swarmd.api.native.routes import ROUTES

    fake = Fake()
    async with connected(fake) as client:
        calls = [
            lambda: client.submit([task(argv=["x"])]), lambda: client.tasks().all(), lambda: client.get("i"),
            lambda: client.wait(["i"]), lambda: client.cancel(["i"]), lambda: client.retry(["i"]),
            lambda: client.set_after("i", []), lambda: client.explain("i"), lambda: client.task_events("i").all(),
            lambda: client.read_output("i", "stdout"), lambda: anext(client.follow("i")._events),
            lambda: client.submit_graph(m.GraphRequest()), lambda: client.graphs().all(), lambda: client.graph("i"),
            lambda: client.submit_request(m.SubmitRequest(tasks=[]), "i"), lambda: client.close_graph("i"),
            lambda: client.events().all(), lambda: anext(client.stream_events()._events),
            lambda: client.bots().all(), lambda: client.bot("b"), lambda: client.delete_bot("b"),
            lambda: client.order_bot("b", m.BotOrderRequest(drain=True)), lambda: client.bot_events("b").all(),
            lambda: client.bot_tasks("b").all(), lambda: client._upload(b"", 0, "", True),
            lambda: client.upload_bytes(b""), lambda: client.save_blob("d", print), lambda: client.blob_size("d"),
            lambda: client.missing_blobs([]),
            lambda: client.open_session("b", m.SessionRequest(session_key="s", bot_key="k", dimensions={})),
            lambda: client.sync("s", m.SyncRequest(seq=1)), lambda: client.close_session("s"),
            lambda: client.append_output("a", "stdout", 0, b""), client.counts, client.health, client.openapi,
            client.backup().__aenter__, client.metrics, client.mint_bootstrap,
            client.remote_instances,
        ]  # fmt: skip
        for call in calls:
            try:
                await call()
            except ApiError as error:
                assert error.status == 404
    empty = hashlib.sha256(b"").hexdigest()
    names = {
        "i": "{id}",
        "b": "{bot}",
        "s": "{session}",
        "a": "{attempt}",
        "d": "{sha256}",
        empty: "{sha256}",
    }
    names |= {"stdout": "{stream}"}
    asked = {(s.method, "/".join(names.get(part, part) for part in s.path.split("/"))) for s in fake.seen}
    assert asked == {(route.method, route.path) for route in ROUTES}
