"""Calls of gRPC frame by frame, on the virtual clock."""

from __future__ import annotations

import gc
import gzip
import socket
import tracemalloc
import zlib
from contextlib import asynccontextmanager, suppress

import h2.events
import h2.settings
import msgspec
import pytest
import trio

from swarmd.api.budget import Budget
from swarmd.config import Config
from swarmd.daemon.http2 import CHATTER, OUT_BYTES, RESETS, STREAM_WINDOW, STREAMS
from swarmd.daemon.server import ServerSettings
from swarmd.grpc.conversation import PIECE_S
from swarmd.grpc.wire import MAX_MESSAGE

from .echo import MOST, echoing
from .echo_pb2 import Text
from .raw_client import CHAT, COUNT, SAY, SUM, RawClient, framed


@asynccontextmanager
async def connected(**how):
    """(world, echo, a client)"""
    with trio.fail_after(2_000):  # of virtual time: what does not come is told, instead of waited for
        async with echoing(**how) as (world, echo), await connect(world) as stream:
            yield world, echo, RawClient(stream, world.url.removeprefix("http://").encode())


async def connect(world):
    return await trio.open_tcp_stream("127.0.0.1", int(world.url.rpartition(":")[2]))


async def settled():
    await trio.testing.wait_all_tasks_blocked()


# ------------------------------------------------------------------ answers


async def test_an_answer_is_head_message_and_trailers(autojump_clock):
    async with connected() as (_, _, client):
        answer = await client.say("hello", number=7)
        assert answer.head[":status"] == "200" and answer.head["content-type"] == "application/grpc"
        assert answer.texts == [Text(text="hello", number=7)]
        assert answer.trailers == {"grpc-status": "0"}


async def test_trailers_come_without_te(autojump_clock):
    """The stock server sends them only to who says exactly `te: trailers`."""
    async with connected() as (_, _, client):
        answer = await client.answer(await client.call(SAY, Text(text="a"), te=False))
        assert answer.status == 0 and answer.trailers is not None


@pytest.mark.parametrize(
    ("path", "messages", "code"),
    [
        (SAY, [Text(text="fail no", number=9)], 9),
        (SAY, [Text(text="unknown")], 5),
        (SAY, [Text(text="busy")], 14),
        (SAY, [Text(text="broken")], 13),
        (SAY, [b"\xff\xff"], 3),
        (SAY, [], 13),
        (SAY, [Text(), Text()], 13),
        (COUNT, [], 13),
        (b"/swarmd.tests.Echo/Missing", [Text()], 12),
        (b"/no.Service/Say", [Text()], 12),
        (b"/", [], 12),
        (b"/swarmd.tests.Echo/Say/", [], 12),
        (b"/" + b"a" * 2_000, [], 3),
    ],
)
async def test_a_refusal_is_one_head_that_ends_the_stream(path, messages, code, autojump_clock):
    """True Trailers-Only: an empty DATA at the end makes clients see UNKNOWN."""
    async with connected() as (_, _, client):
        answer = await client.answer(await client.call(path, *messages))
        assert (answer.status, answer.trailers, answer.messages) == (code, None, [])
        assert answer.head[":status"] == "200" and answer.head["grpc-message"]
        assert (await client.say("then")).status == 0


async def test_an_error_in_the_middle_of_a_stream(autojump_clock):
    async with connected() as (_, _, client):
        answer = await client.answer(await client.call(COUNT, Text(text="fail", number=2)))
        assert [t.number for t in answer.texts] == [0, 1]
        assert answer.trailers is not None and answer.trailers["grpc-status"] == "10"


async def test_messages_of_errors_are_percent_encoded_and_short(autojump_clock):
    async with connected() as (_, _, client):
        answer = await client.say("fail 100% größer\n\x1b[2J", number=3)
        assert answer.head["grpc-message"] == "100%25 gr%C3%B6%C3%9Fer\\n\\x1b[2J"
        answer = await client.say("fail " + "ü" * 100_000, number=3)
        assert len(answer.head["grpc-message"]) == 6 * MAX_MESSAGE


async def test_errors_of_the_core_name_their_code(autojump_clock):
    async with connected() as (_, _, client):
        answer = await client.say("unknown")
        assert answer.head["x-swarmd-code"] == "unknown_task"
        assert answer.head["grpc-message"] == "there is no such task; give another"


async def test_an_early_answer_stops_the_client(autojump_clock):
    """The answer, then RST_STREAM(NO_ERROR); what still comes harms nobody."""
    async with connected() as (_, echo, client):
        held = await client.call(SAY, Text(text="hold"))
        for _ in range(3):
            refused = await client.begin(b"/no.Service/Say")
            await client.data(refused, b"x" * 10_000)
            assert (await client.answer(refused)).status == 12
            assert (await client.wait(h2.events.StreamReset, refused)).error_code == 0
            # By hand: our own h2 knows that the stream is closed.
            await client.stream.send_all(b"\0\0\4\0\1" + refused.to_bytes(4, "big") + b"late")
        enough = await client.begin(SUM)
        await client.data(enough, framed(Text(text="enough")))
        assert (await client.answer(enough)).texts == [Text(text="enough")]
        assert (await client.wait(h2.events.StreamReset, enough)).error_code == 0
        echo.release.set()
        assert (await client.answer(held)).status == 0


# ------------------------------------------------------------------ deadlines and cancels


async def test_a_deadline_ends_the_handler_and_is_told(autojump_clock):
    async with connected() as (_, echo, client):
        since = trio.current_time()
        call = await client.call(SAY, Text(text="hold"), fields=((b"grpc-timeout", b"7S"),))
        answer = await client.answer(call)
        assert answer.status == 4 and echo.cancelled == ["hold"]
        assert trio.current_time() - since == pytest.approx(7)


async def test_a_deadline_in_the_middle_of_a_stream(autojump_clock):
    async with connected() as (_, echo, client):
        call = await client.call(COUNT, Text(text="hold", number=2), fields=((b"grpc-timeout", b"500m"),))
        answer = await client.answer(call)
        assert len(answer.messages) == 1 and answer.trailers is not None and answer.status == 4
        assert echo.cancelled == ["hold"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"0n", 4),
        (b"1n", 4),
        (b"99999999H", 0),
        (b"9", 3),
        (b"1s", 3),
        (b"-1S", 3),
        (b"999999999S", 3),
        (b"", 3),
    ],
)
async def test_timeouts_that_are_odd(text, code, autojump_clock):
    async with connected() as (_, _, client):
        call = await client.call(SAY, Text(text="sleep 0.1"), fields=((b"grpc-timeout", text),))
        assert (await client.answer(call)).status == code


@pytest.mark.parametrize("path", [SAY, COUNT])
async def test_a_reset_cancels_the_handler_alone(path, autojump_clock):
    async with connected() as (_, echo, client):
        other = await client.call(SAY, Text(text="hold on"))
        call = await client.call(path, Text(text="hold", number=5))
        await settled()
        client.h2.reset_stream(call)
        await client.flush()
        await settled()
        assert echo.cancelled == ["hold"]
        echo.release.set()
        assert (await client.answer(other)).status == 0


async def test_a_client_that_goes_cancels_its_calls(autojump_clock):
    async with connected() as (_, echo, client):
        for n in range(5):
            await client.call(SAY, Text(text=f"hold {n}"))
        await settled()
        await client.stream.aclose()
        await settled()
        assert sorted(echo.cancelled) == [f"hold {n}" for n in range(5)]


async def test_a_message_that_does_not_come_ends_the_call(autojump_clock):
    async with connected() as (_, _, client):
        for begun in (b"", framed(Text(text="a"))[:3], framed(Text(text="a"))):
            since = trio.current_time()
            call = await client.begin(SAY)
            await client.data(call, begun)
            assert (await client.answer(call)).status == 14
            assert trio.current_time() - since == pytest.approx(PIECE_S)


# ------------------------------------------------------------------ messages


@pytest.mark.parametrize(("coding", "make"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
async def test_compressed_requests(coding, make, autojump_clock):
    async with connected() as (_, _, client):
        call = await client.begin(SUM, (b"grpc-encoding", coding))
        for flag in (1, 0, 1):  # each message says for itself
            raw = Text(number=2, data=b"x" * 10_000).SerializeToString()
            await client.data(call, framed(make(raw) if flag else raw, flag))
        await client.data(call, b"", end=True)
        assert (await client.answer(call)).texts == [Text(number=6, text="30000")]


BOMB = zlib.compress(b"\0" * (MOST + 1))


@pytest.mark.parametrize(
    ("coding", "body", "code"),
    [
        (b"gzip", framed(gzip.compress(b"\0" * (MOST + 1)), 1), 8),
        (b"deflate", framed(BOMB, 1), 8),
        (b"gzip", framed(b"no gzip", 1), 13),
        (b"deflate", framed(zlib.compress(b"cut")[:-2], 1), 13),
        (b"gzip", framed(gzip.compress(b"") + b"more", 1), 13),
        (b"identity", framed(b"", 1), 13),
        (b"identity", framed(b"", 2), 13),
        (b"br", framed(b""), 12),
        (b"identity", b"\0" + (MOST + 1).to_bytes(4, "big"), 8),
        (b"identity", b"\0\xff\xff\xff\xff", 8),
        (b"identity", framed(b"")[:4], 13),
        (b"identity", framed(b"ab")[:-1], 13),
    ],
)
@pytest.mark.parametrize("path", [SAY, CHAT])
async def test_messages_that_are_none(path, coding, body, code, autojump_clock):
    async with connected() as (_, _, client):
        call = await client.begin(path, (b"grpc-encoding", coding))
        await client.data(call, body, end=True)
        assert (await client.answer(call)).status == code
        assert (await client.say("then")).status == 0


async def test_answers_are_compressed_for_who_takes_it(autojump_clock):
    async with connected() as (_, _, client):
        for accept, flag in ((b"identity", 0), (b"identity,deflate, gzip", 1)):
            call = await client.begin(SAY, (b"grpc-accept-encoding", accept))
            await client.data(call, framed(Text(text="size", number=50_000)), end=True)
            answer = await client.answer(call)
            [message] = answer.messages
            assert answer.head.get("grpc-encoding") == ("gzip" if flag else None)
            raw = gzip.decompress(message) if flag else message
            assert len(Text.FromString(raw).data) == 50_000 and (len(message) < 1_000) == bool(flag)


async def test_metadata_that_is_odd(autojump_clock):
    async with connected() as (_, echo, client):
        call = await client.begin(
            SAY, (b"a", b"1"), (b"a", b"2"), (b"b-bin", b"AAE"), (b"authorization", b"Bearer x")
        )
        await client.data(call, framed(Text(text="m")), end=True)
        assert (await client.answer(call)).status == 0
        assert echo.calls[0].metadata == {"a": "1,2"} and echo.calls[0].binary == {"b-bin": b"\0\1"}
        call = await client.call(SAY, Text(), fields=((b"b-bin", b"!"),))
        assert (await client.answer(call)).status == 13


# ------------------------------------------------------------------ who may call


async def test_the_guard_looks_at_calls(autojump_clock, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    config = msgspec.structs.replace(Config(), token_file=str(token), trust_loopback=False)
    async with connected(config=config) as (_, echo, client):
        for fields, code, why in (
            ((), 16, "token_needed"),
            (((b"authorization", b"Bearer wrong wrong wrong"),), 16, "token_needed"),
            (((b"origin", b"http://elsewhere"),), 7, "foreign_origin"),
            (((b"sec-fetch-site", b"cross-site"),), 7, "foreign_origin"),
        ):
            answer = await client.answer(await client.call(SAY, Text(), fields=fields))
            assert (answer.status, answer.head["x-swarmd-code"]) == (code, why)
        client.host, host = b"elsewhere:1", client.host
        answer = await client.answer(await client.call(SAY, Text()))
        assert (answer.status, answer.head["x-swarmd-code"]) == (9, "wrong_host")
        client.host = host
        assert not echo.begun
        bearer = (b"authorization", b"Bearer 0123456789abcdef")
        assert (await client.answer(await client.call(SAY, Text(), fields=(bearer,)))).status == 0


@pytest.mark.parametrize("content", [b"application/grpc-web", b"application/grpc+json", b"application/json"])
async def test_what_is_no_grpc_goes_to_the_routes(content, autojump_clock):
    async with connected() as (_, _, client):
        call = await client.ask(SAY, body=b"{}", more=[(b"content-type", content)])
        assert await client.status(call) == 404


async def test_json_and_grpc_on_one_connection(autojump_clock):
    async with connected() as (_, _, client):
        health = await client.ask(b"/api/v1/health")
        assert (await client.say("a")).status == 0
        assert await client.status(health) == 200


# ------------------------------------------------------------------ flow control


async def test_an_upload_goes_beyond_the_first_window(autojump_clock):
    async with connected() as (_, _, client):
        await client.flush()
        await client.more()  # the server's settings
        assert client.h2.remote_settings.initial_window_size == STREAM_WINDOW
        answer = await client.say("size", data=b"x" * (5 * STREAM_WINDOW))
        assert answer.texts[0].number == 5 * STREAM_WINDOW


async def test_a_handler_that_does_not_read_holds_up_nobody(autojump_clock):
    """The stock server's reader waits for it, with the whole connection."""
    async with connected() as (_, _, client):
        await client.say("so that the server's windows are known")
        client.acknowledges = False
        stuck = await client.begin(CHAT)  # its handler waits to answer, and reads no more
        big = framed(Text(data=b"x" * 100_000))
        for _ in range(9):
            await client.data(stuck, big)
        await settled()
        assert client.h2.local_flow_control_window(stuck) < STREAM_WINDOW / 2
        client.h2.increment_flow_control_window(2**20)
        assert (await client.say("other")).status == 0
        client.h2.increment_flow_control_window(2**20, stuck)
        await client.data(stuck, b"", end=True)
        assert len((await client.answer(stuck)).messages) == 9


async def test_a_stream_of_answers_waits_for_the_client(autojump_clock):
    async with connected() as (_, echo, client):
        client.acknowledges = False
        call = await client.call(
            COUNT, Text(number=-1, data=b"x" * 1_000), fields=((b"grpc-timeout", b"5S"),)
        )
        await trio.sleep(4)
        assert await client.wait(h2.events.ResponseReceived, call)
        while client.kept(h2.events.DataReceived, call):
            pass
        assert not echo.cancelled
        await trio.sleep(2)
        assert echo.cancelled == [""]


async def test_a_held_call_does_not_keep_the_bytes_of_its_message(autojump_clock):
    """They may be 16 MiB, and the handler has the message."""
    async with connected() as (_, echo, client):
        await client.say("what only the first call needs")
        tracemalloc.start()
        try:
            call = await client.call(SAY, Text(text="hold", data=b"x" * (3 << 20)))
            while "hold" not in echo.begun:  # a thread reads so long a message
                await trio.sleep(0.01)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()  # protobuf's own memory is not traced
            assert kept < 1 << 20
        finally:
            tracemalloc.stop()
        echo.release.set()
        assert (await client.answer(call)).status == 0


async def test_a_client_that_gives_no_window_loses_the_stream(autojump_clock):
    async with connected() as (_, echo, client):
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        call = await client.call(COUNT, Text(number=5, data=b"x"))
        assert (await client.wait(h2.events.StreamReset, call)).error_code == 8  # CANCEL
        assert trio.current_time() == pytest.approx(10, abs=1)
        assert echo.cancelled == [""]


async def test_a_stream_without_window_is_cut_also_when_others_filled_the_connection(autojump_clock):
    """What waited while the connection was full, and had no window of its own, was never looked at again."""
    async with connected() as (_, _, client):
        await client.say("the windows are known")
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.h2.increment_flow_control_window(2**22)
        await client.flush()
        calls = []
        for n in range(40):
            call = client.h2.get_next_available_stream_id()
            client.h2.send_headers(call, client.head(SAY))
            if not n % 10:
                client.h2.increment_flow_control_window(2**20, call)
            body = Text(text="size", number=OUT_BYTES * 2)
            client.h2.send_data(call, framed(body), end_stream=True)
            calls.append(call)
        await client.flush()  # all at once: the order of their tasks is any
        for n, call in enumerate(calls):
            if n % 10:
                reset = await client.wait(h2.events.StreamReset, call)
                assert reset.error_code == 8  # CANCEL
            else:
                assert (await client.answer(call)).status == 0


async def test_any_frame_that_opens_a_window_lets_the_answer_go_on(autojump_clock):
    code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
    async with connected() as (_, _, client):
        client.acknowledges = False
        for first, then in (
            (0, lambda call: client.h2.update_settings({code: 2**20})),
            (
                2**20,
                lambda call: client.h2.increment_flow_control_window(2**20),
            ),  # the connection's is used up
            (0, lambda call: client.h2.increment_flow_control_window(2**20, call)),
        ):
            client.h2.update_settings({code: first})
            call = await client.call(SAY, Text(text="size", number=50_000))
            await trio.sleep(9)
            assert client.kept(h2.events.DataReceived, call) is None
            then(call)
            await client.flush()
            assert len((await client.answer(call)).texts[0].data) == 50_000


async def test_small_windows_only_slow_down(autojump_clock):
    async with connected() as (_, _, client):
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 7})
        answer = await client.answer(await client.call(COUNT, Text(number=20, data=b"x" * 50)))
        assert [t.number for t in answer.texts] == list(range(20))


# ------------------------------------------------------------------ many, and too many


async def test_900_calls_are_held_at_once(autojump_clock):
    """The stock server lets 100 in, and fails at 1,000 in all."""
    async with connected() as (_, echo, client):
        for round in range(2):
            calls = [await client.call(SAY, Text(text="hold", number=n)) for n in range(STREAMS)]
            await settled()
            assert len(echo.begun) == (round + 1) * STREAMS
            echo.release.set()
            answers = [await client.answer(call) for call in calls]
            assert [a.texts[0].number for a in answers] == list(range(STREAMS))
            echo.release = trio.Event()


async def test_a_held_call_outlives_thousands_of_others_and_idle_minutes(autojump_clock):
    """The stock server ends a connection after 1,000 calls, and after 5 s without one."""
    async with connected() as (_, echo, client):
        held = await client.call(SAY, Text(text="hold"))
        for _ in range(40):
            calls = [await client.call(SAY, Text(text="a")) for _ in range(50)]
            assert [(await client.answer(call)).status for call in calls] == [0] * 50
        await trio.sleep(500)
        echo.release.set()
        assert (await client.answer(held)).status == 0
        await trio.sleep(500)
        assert (await client.say("after")).status == 0
        assert client.kept(h2.events.ConnectionTerminated) is None


async def test_more_streams_than_allowed_end_the_connection_alone(autojump_clock):
    async with connected() as (world, _, client):
        for n in range(STREAMS + 1):
            await client.call(SAY, Text(text=f"hold {n}"))
        assert await client.wait(h2.events.ConnectionTerminated)
        async with await connect(world) as stream:
            assert (await RawClient(stream, client.host).say("other")).status == 0


@pytest.mark.parametrize(
    "flood", ["resets", "pings", "settings", "windows", "empty data", "priorities", "unknown frames"]
)
async def test_a_flood_ends_the_connection_alone(flood, autojump_clock):
    async with connected() as (world, echo, client):
        call = await client.begin(SAY)
        frames = {
            "pings": b"\0\0\x08\6\0\0\0\0\0" + bytes(8),
            "settings": b"\0\0\0\4\0\0\0\0\0",
            "windows": b"\0\0\4\x08\0\0\0\0\0\0\0\0\1",
            "empty data": b"\0\0\0\0\0" + call.to_bytes(4, "big"),
            "priorities": b"\0\0\5\2\0" + call.to_bytes(4, "big") + b"\0\0\0\0\1",
            "unknown frames": b"\0\0\0\x99\0\0\0\0\0",
        }
        with trio.move_on_after(60):
            try:
                if flood == "resets":
                    for _ in range(RESETS + 10):
                        client.h2.reset_stream(await client.call(SAY, Text(text="hold")))
                        await client.flush()
                else:
                    for _ in range(CHATTER // 1_000 + 2):
                        await client.stream.send_all(frames[flood] * 1_000)
            except trio.BrokenResourceError:
                pass
            goodbye = await client.wait(h2.events.ConnectionTerminated)
            assert goodbye is None or goodbye.error_code == 11  # ENHANCE_YOUR_CALM; a reset may swallow it
            assert len(echo.begun) <= RESETS + 1
        assert await client.wait(h2.events.ConnectionTerminated) is None  # the end
        async with await connect(world) as stream:
            assert (await RawClient(stream, client.host).say("other")).status == 0


async def test_the_limit_of_a_head(autojump_clock):
    async with connected() as (_, _, client):
        most = ServerSettings().max_header_bytes
        call = await client.call(SAY, Text(), fields=((b"big", b"x" * (most - 1_000)),))
        assert (await client.answer(call)).status == 0
        await client.call(SAY, Text(), fields=((b"big", b"x" * (most + 1)),))
        assert await client.wait(h2.events.ConnectionTerminated)


@pytest.mark.parametrize("bomb", ["long field", "many fields", "continuation", "many continuations"])
async def test_a_header_bomb_ends_the_connection_alone(bomb, autojump_clock):
    async with connected() as (world, echo, client):
        await client.flush()
        head = b"\x83\x86\x44\1/"
        match bomb:
            case "long field":
                data = _frame(1, 5, head + b"\0\1a\x7f\xa0\x1f" + b"x" * 12_000) + _frame(9, 4, b"x" * 4_000)
            case "many fields":  # one long entry of the table, then by its number
                block = head + b"\x40\1a\x7f\x81\x1e" + b"b" * 3_970 + b"\xbe" * 5_000
                data = _frame(1, 5, block)
            case "continuation":  # without an end
                data = _frame(1, 1, head) + _frame(9, 0, b"\0\1a\1b" * 3_000) * 60
            case "many continuations":
                data = _frame(1, 1, head) + _frame(9, 0, b"") * 2_000
        try:
            await client.stream.send_all(data)
        except trio.BrokenResourceError:
            pass
        assert await client.wait(h2.events.ConnectionTerminated)
        assert not echo.begun
        async with await connect(world) as stream:
            assert (await RawClient(stream, client.host).say("other")).status == 0


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


async def test_pings_are_answered(autojump_clock):
    async with connected() as (_, _, client):
        for n in range(50):
            client.h2.ping(n.to_bytes(8, "big"))
            await client.flush()
            assert (await client.wait(h2.events.PingAckReceived)).ping_data == n.to_bytes(8, "big")


async def test_a_client_that_never_reads_is_read_no_further(autojump_clock):
    """Each call is answered with much more than it is; what nobody takes must not fill the memory."""
    async with connected() as (_, echo, client):
        await client.say("the windows are known")
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with suppress(trio.BrokenResourceError):  # cut, in the end
            for _ in range(900):
                await client.call(SAY, Text(text="fail " + "ü" * MAX_MESSAGE, number=3))
        await settled()
        assert 20 < len(echo.begun) < 700  # 12 KiB each: what the sockets hold, and little more


async def test_a_client_that_says_goodbye_has_no_calls_any_more(autojump_clock):
    async with connected() as (_, echo, client):
        await client.call(SAY, Text(text="hold"))
        await settled()
        client.h2.close_connection()
        await client.flush()
        await settled()
        assert echo.cancelled == ["hold"] and trio.current_time() == pytest.approx(0, abs=0.01)


async def test_a_client_that_never_reads_is_cut(autojump_clock):
    """What it sends must be answered (PING), and it takes nothing: it is read no further, and then dropped."""
    async with connected() as (world, _, client):
        since = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                call = client.h2.get_next_available_stream_id()
                client.h2.reset_stream(await client.call(SAY, Text(text="hold"))) if call % 400 == 1 else None
                client.h2.ping(bytes(8))
                await client.flush()
                assert trio.current_time() - since < 60
        async with await connect(world) as stream:
            assert (await RawClient(stream, client.host).say("other")).status == 0


async def test_large_messages_of_many_calls_have_an_end_together(autojump_clock):
    """Each stream may have a large one; a held call keeps its own until it ends."""
    large = "x" * (200 << 10)
    async with connected() as (world, echo, client):
        world.app.budget = Budget(300 << 10)
        held = await client.call(SAY, Text(text="hold " + large))
        while not echo.begun:
            await trio.sleep(0.01)
        refused = await client.answer(await client.call(SAY, Text(text=large)))
        told = refused.trailers or refused.head
        assert refused.status == 14 and told["x-swarmd-code"] == "too_many_large_requests"
        assert (await client.say("small")).status == 0
        assert (await client.say("release")).status == 0
        assert (await client.answer(held)).status == 0
        assert world.app.budget.used == 0
        assert (await client.answer(await client.call(SAY, Text(text=large)))).status == 0
