"""Calls as a client sees them: encodings, compression, limits, deadlines, and every error in its form."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import threading

import pytest
import trio
import trio.testing
from google.protobuf import any_pb2

from swarmd.api.aside import MAX_AT_ONCE
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.methods import METHODS
from swarmd.api.swarming.proto import prpc_pb2, server_pb2, tasks_pb2
from swarmd.api.swarming.prpc.codec import encoded
from swarmd.api.swarming.prpc.errors import STATUS
from swarmd.api.swarming.prpc.layer import MAX_BODY, MAX_OF_ENCODING, USUAL_BODY
from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.core.errors import Busy, Conflict, NotYours, Refused, Unknown
from swarmd.daemon.daemon import NoSpace, Stopping
from swarmd.store.errors import StoreBroken, StoreError
from swarmd.testing.harness import running
from tests.api.swarming.prpc.calls import BINARY, JSON, TASKS, call, fault, message, path, serving
from tests.api.wire import connect, head, read_answer, send

STDOUT = f"{TASKS}/GetStdout"
DETAILS = "swarming.v2.Swarming/GetDetails"
PERMISSIONS = "swarming.v2.Swarming/GetPermissions"
GZIPPED = ("Content-Encoding", "gzip")


class Echo:
    """Answers with the task id, `length` times over."""

    def __init__(self) -> None:
        self.asked: list[tasks_pb2.TaskIdWithOffsetRequest] = []

    async def get_stdout(self, call, request):
        self.asked.append(request)
        return tasks_pb2.TaskOutputResponse(output=request.task_id.encode() * max(request.length, 1))


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def get_stdout(self, call, request):
        raise self.error


class Slow:
    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.was_cancelled = False

    async def get_stdout(self, call, request):
        try:
            await trio.sleep(self.takes_s)
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        return tasks_pb2.TaskOutputResponse()


def asks(task_id: str = "x", length: int = 0) -> tasks_pb2.TaskIdWithOffsetRequest:
    return tasks_pb2.TaskIdWithOffsetRequest(task_id=task_id, length=length)


# --------------------------------------------------------------------- encodings


async def test_each_encoding_goes_in_and_comes_out(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        for given in Encoding:
            body = encoded(asks(), given)[5:] if given is Encoding.JSON else encoded(asks(), given)
            for wanted in Encoding:
                headers = (("Content-Type", given.value), ("Accept", wanted.value))
                answer = await call(daemon.url, STDOUT, body, *headers)
                assert message(answer, tasks_pb2.TaskOutputResponse, wanted).output == b"x", (given, wanted)
                assert answer.headers["content-length"] == str(len(answer.body))
                assert "content-encoding" not in answer.headers


async def test_without_headers_both_are_binary(autojump_clock):
    """Also without a body: an empty message has none."""
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS)
        assert message(answer, server_pb2.ServerDetails).server_version
        answer = await call(daemon.url, DETAILS, b"", BINARY, ("Accept", "*/*"))
        assert message(answer, server_pb2.ServerDetails).server_version


async def test_the_connection_is_kept(autojump_clock):
    async with running() as daemon, await connect(daemon.url) as stream:
        for key, code in ((DETAILS, "0"), ("swarming.v2.Tasks/Shiny", "12"), (DETAILS, "0")):
            await stream.send_all(head("POST", path(key), [BINARY, ("Content-Length", "0")]))
            assert (await read_answer(stream, "POST")).headers["x-prpc-grpc-code"] == code


@pytest.mark.parametrize("accept", ["text/html", "application/prpc; encoding=xml", "application/json;q=0"])
async def test_who_takes_none_of_our_encodings_is_told(accept, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS, b"", ("Accept", accept))
        assert "'application/json'" in fault(answer, 3, 406)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "application/xml",
        "application/prpc; encoding=xml",
        "application/prpc; charset=utf-8",
        "/",
        ",",
    ],
)
async def test_a_body_of_another_type_is_refused(content_type, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS, b"", ("Content-Type", content_type))
        assert "'application/json'" in fault(answer, 3, 415)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_page_can_send_without_asking_is_refused(content_type, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS, b"", ("Content-Type", content_type))
        assert content_type.split(";")[0] in fault(answer, 3, 415)
        assert answer.error.code == "wrong_content_type"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("Accept", "application/json;q=2", "Accept"),
        ("X-Prpc-Grpc-Timeout", "soon", "X-Prpc-Grpc-Timeout"),
        ("X-Prpc-Max-Response-Size", "0", "X-Prpc-Max-Response-Size"),
        ("Accept-Encoding", "gzip;q=2", "Accept-Encoding"),
    ],
)
async def test_a_malformed_header_is_told(name, value, text, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS, b"", (name, value))
        assert text in fault(answer, 3, 400)


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"\x0a\xff", (BINARY,)), (b"[]", JSON), (b"", JSON), (b"?", (("Content-Type", Encoding.TEXT.value),))],
)
async def test_a_body_that_is_no_message_is_told(body, headers, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, PERMISSIONS, body, *headers)
        assert fault(answer, 3, 400).startswith("could not decode body: ")


# --------------------------------------------------------------------- compression


async def test_a_compressed_request_is_read(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        for body in (
            gzip.compress(encoded(asks(), Encoding.BINARY)),
            gzip.compress(b"") + gzip.compress(b"\x0a\x01x"),
        ):
            answer = await call(daemon.url, STDOUT, body, BINARY, GZIPPED)
            assert message(answer, tasks_pb2.TaskOutputResponse).output == b"x"
        answer = await call(daemon.url, STDOUT, b"\x0a\x01x", BINARY, ("Content-Encoding", "identity"))
        assert message(answer, tasks_pb2.TaskOutputResponse).output == b"x"


GOOD = gzip.compress(b"\x0a\x01x")


@pytest.mark.parametrize(
    "body",
    [b"", b"x", GOOD[:-1], GOOD[:5], GOOD + b"x", GOOD[:-8] + bytes(8), GOOD * 17, b"\x1f\x8b" + bytes(50)],
)
async def test_a_body_that_is_no_gzip_is_told(body, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, PERMISSIONS, body, BINARY, GZIPPED)
        assert "gzip" in fault(answer, 3, 400)


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd"])
async def test_another_compression_is_refused(coding, autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, DETAILS, b"", BINARY, ("Content-Encoding", coding))
        assert coding in fault(answer, 3, 415)


async def test_an_answer_is_compressed_for_who_takes_it(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        takes = ("Accept-Encoding", "gzip")
        large = await call(daemon.url, STDOUT, asks("x", 5_000), takes)
        assert large.headers["content-encoding"] == "gzip" and len(large.body) < 200
        plain = large._replace(body=gzip.decompress(large.body))
        assert message(plain, tasks_pb2.TaskOutputResponse).output == b"x" * 5_000
        for size, headers in ((1_000, (takes,)), (5_000, ()), (5_000, (("Accept-Encoding", "gzip;q=0"),))):
            answer = await call(daemon.url, STDOUT, asks("x", size), *headers)
            assert "content-encoding" not in answer.headers
            assert len(message(answer, tasks_pb2.TaskOutputResponse).output) == size


# --------------------------------------------------------------------- limits of requests


async def test_a_large_request_is_read(monkeypatch, autojump_clock):
    """Above what frameworks take by default, and in a thread."""
    echo = Echo()
    async with serving(monkeypatch, echo, "GetStdout") as daemon:
        request = asks("x" * (20 << 20))
        assert (await call(daemon.url, STDOUT, request)).status == 200
        body = gzip.compress(encoded(request, Encoding.BINARY), 1)
        assert (await call(daemon.url, STDOUT, body, BINARY, GZIPPED)).status == 200
        assert echo.asked == [request, request]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
async def test_a_request_above_the_limit_of_its_method_is_refused_at_once(method, autojump_clock):
    assert method.limit <= MAX_BODY
    async with running() as daemon:
        answer = await call(daemon.url, method.key, b"x", BINARY, length=method.limit + 1)
        assert str(method.limit) in fault(answer, 3, 413)


async def test_an_unannounced_request_above_the_limit_is_refused(autojump_clock):
    async with running() as daemon, await connect(daemon.url) as stream:
        await stream.send_all(head("POST", path(PERMISSIONS), [BINARY, ("Transfer-Encoding", "chunked")]))
        for _ in range(USUAL_BODY // 65_536 + 1):
            await stream.send_all(b"%x\r\n%b\r\n" % (65_536, b"x" * 65_536))
        assert str(USUAL_BODY) in fault(await read_answer(stream, "POST"), 3, 413)


BOMBS = {
    "zeros": gzip.compress(bytes(MAX_BODY + 1)),
    "zeros, twice over": gzip.compress(bytes(MAX_BODY // 2)) * 2 + gzip.compress(b"x"),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_not_inflated_beyond_the_limit(name, monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        answer = await call(daemon.url, STDOUT, BOMBS[name], BINARY, GZIPPED)
        assert str(MAX_BODY) in fault(answer, 3, 413)


async def test_a_bomb_is_not_inflated_beyond_the_limit_of_its_method(autojump_clock):
    async with running() as daemon:
        answer = await call(daemon.url, PERMISSIONS, BOMBS["zeros"], BINARY, GZIPPED)
        assert str(USUAL_BODY) in fault(answer, 3, 413)


async def test_only_some_bodies_are_inflated_at_once(monkeypatch, autojump_clock):
    """Thirty bombs of 60 MiB took two gigabytes."""
    go, running, most = threading.Event(), set(), 0

    def inflated(data: bytes, limit: int) -> bytes:
        nonlocal most
        running.add(threading.get_ident())
        most = max(most, len(running))
        go.wait()
        running.remove(threading.get_ident())
        return b""

    monkeypatch.setattr("swarmd.api.swarming.prpc.layer.inflated", inflated)
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon, trio.open_nursery() as nursery:
        for _ in range(3 * MAX_AT_ONCE):
            nursery.start_soon(call, daemon.url, STDOUT, gzip.compress(b"x"), BINARY, GZIPPED)
        while not running:
            await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert 1 <= most <= MAX_AT_ONCE


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.TEXT])
async def test_slow_encodings_are_taken_up_to_limits_of_their_own(encoding, monkeypatch, autojump_clock):
    limit = MAX_OF_ENCODING[encoding]
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        long = b'{"taskId": "' + b"x" * limit + b'"}'
        kind = ("Content-Type", encoding.value)
        assert str(limit) in fault(await call(daemon.url, STDOUT, long, kind), 3, 413)
        zipped = await call(daemon.url, STDOUT, gzip.compress(long), kind, GZIPPED)
        assert str(limit) in fault(zipped, 3, 413)


async def test_a_body_that_does_not_come_is_not_waited_for(autojump_clock):
    async with running() as daemon, await connect(daemon.url) as stream:
        began = trio.current_time()
        await stream.send_all(head("POST", path(DETAILS), [BINARY, ("Content-Length", "9")]) + b"x")
        fault(await read_answer(stream, "POST"), 14, 408)
        assert trio.current_time() - began == pytest.approx(30, abs=1)


# --------------------------------------------------------------------- size of answers


@pytest.mark.parametrize("encoding", Encoding)
async def test_an_answer_is_never_larger_than_the_client_takes(encoding, monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        accept = ("Accept", encoding.value)
        whole = await call(daemon.url, STDOUT, asks("x", 3_000), accept)
        size = len(whole.body)
        just = ("X-Prpc-Max-Response-Size", str(size))
        assert (await call(daemon.url, STDOUT, asks("x", 3_000), accept, just)).body == whole.body
        less = ("X-Prpc-Max-Response-Size", str(size - 1))
        answer = await call(daemon.url, STDOUT, asks("x", 3_000), accept, less, ("Accept-Encoding", "gzip"))
        text = fault(answer, 14, 503)
        assert str(size) in text and str(size - 1) in text
        detail = base64.b64decode(answer.headers["x-prpc-status-details-bin"], validate=True)
        assert told(detail, encoding) == (size, size - 1)


def told(detail: bytes, encoding: Encoding) -> tuple[int, int]:
    """The sizes in a detail of type `luci.prpc.ErrorDetails`."""
    if encoding is Encoding.JSON:
        value = json.loads(detail)
        assert value["@type"].endswith("/luci.prpc.ErrorDetails")
        return int(value["responseTooBig"]["responseSize"]), int(value["responseTooBig"]["responseLimit"])
    any, details = any_pb2.Any(), prpc_pb2.ErrorDetails()
    if encoding is Encoding.TEXT:
        from google.protobuf import text_format

        text_format.Parse(detail.decode(), any)
    else:
        any.ParseFromString(detail)
    assert any.Unpack(details)
    return details.response_too_big.response_size, details.response_too_big.response_limit


async def test_large_answers_are_sent(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Echo(), "GetStdout") as daemon:
        answer = await call(
            daemon.url, STDOUT, asks("x", 16_384_000), ("X-Prpc-Max-Response-Size", "33521664")
        )
        assert len(message(answer, tasks_pb2.TaskOutputResponse).output) == 16_384_000


# --------------------------------------------------------------------- time


@pytest.mark.parametrize("timeout", ["90S", "90000000u", "90000m"])
async def test_a_call_ends_when_the_time_of_its_client_does(timeout, monkeypatch, autojump_clock):
    slow = Slow(1_000)
    async with serving(monkeypatch, slow, "GetStdout") as daemon:
        began = trio.current_time()
        answer = await call(daemon.url, STDOUT, asks(), ("X-Prpc-Grpc-Timeout", timeout))
        assert "90" in fault(answer, 4, 504)
        assert trio.current_time() - began == pytest.approx(90, abs=0.01) and slow.was_cancelled


async def test_a_call_that_is_done_in_time_is_answered(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Slow(89), "GetStdout") as daemon:
        answer = await call(daemon.url, STDOUT, asks(), ("X-Prpc-Grpc-Timeout", "90S"))
        message(answer, tasks_pb2.TaskOutputResponse)
        assert trio.current_time() == pytest.approx(89, abs=0.01)


async def test_no_time_at_all(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Slow(1), "GetStdout") as daemon:
        fault(await call(daemon.url, STDOUT, asks(), ("X-Prpc-Grpc-Timeout", "0n")), 4, 504)


async def test_the_time_of_the_client_bounds_the_body_too(autojump_clock):
    async with running() as daemon, await connect(daemon.url) as stream:
        headers = [BINARY, ("Content-Length", "9"), ("X-Prpc-Grpc-Timeout", "5S")]
        await stream.send_all(head("POST", path(DETAILS), headers) + b"x")
        fault(await read_answer(stream, "POST"), 4, 504)
        assert trio.current_time() == pytest.approx(5, abs=0.01)


async def test_a_client_that_goes_away_ends_its_call(monkeypatch, autojump_clock):
    slow = Slow(1_000)
    async with serving(monkeypatch, slow, "GetStdout") as daemon:
        async with await connect(daemon.url) as stream:
            await stream.send_all(head("POST", path(STDOUT), [BINARY, ("Content-Length", "0")]))
            await trio.sleep(1)
        await trio.sleep(1)
        assert slow.was_cancelled


# --------------------------------------------------------------------- errors of handlers


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
async def test_each_code_has_its_status(code, monkeypatch, autojump_clock):
    async with serving(monkeypatch, Raising(RpcError(code, f"it is {code.name}")), "GetStdout") as daemon:
        answer = await call(daemon.url, STDOUT, asks())
        assert fault(answer, code, STATUS[code]) == f"it is {code.name}"
        assert "x-prpc-status-details-bin" not in answer.headers


CORE = {
    "unknown": (Unknown("unknown_task", "there is no task 7", "list them"), 5, 404),
    "refused": (Refused("bad_field", "a is 7", "give 8"), 3, 400),
    "conflict": (Conflict("already_closed", "it is closed"), 9, 400),
    "not yours": (NotYours("not_yours", "it is another's"), 9, 400),
    "busy": (Busy("busy", "much to do", 2.5, "wait"), 14, 503),
    "no space": (NoSpace("the disk is full"), 14, 507),
    "stopping": (Stopping(), 14, 503),
    "the store is broken": (StoreBroken("the disk is gone"), 14, 503),
    "no blob": (StoreError("blob_missing", "gone"), 5, 404),
    "the store failed": (StoreError("copy_failed", "no"), 13, 500),
    "not expected": (ValueError("a secret"), 13, 500),
    "not a message": (AssertionError("a secret"), 13, 500),
}


@pytest.mark.parametrize("name", CORE)
async def test_errors_of_the_core_are_told_in_this_form(name, monkeypatch, autojump_clock, caplog):
    error, code, status = CORE[name]
    async with serving(monkeypatch, Raising(error), "GetStdout") as daemon:
        answer = await call(daemon.url, STDOUT, asks(), *JSON[1:])
        text = fault(answer, code, status)
        assert "secret" not in text and answer.headers["x-swarmd-code"]
        if hasattr(error, "remedy") and error.remedy:
            assert text == f"{error.message}; {error.remedy}"
        assert ("retry-after" in answer.headers) is (code == 14 and status == 503)
    logged = any(record.getMessage() == "call.failed" for record in caplog.records)
    assert logged is isinstance(error, (ValueError, AssertionError))


async def test_a_handler_that_answers_with_another_message_is_our_fault(monkeypatch, autojump_clock, caplog):
    class Wrong:
        async def get_stdout(self, call, request):
            return request

    async with serving(monkeypatch, Wrong(), "GetStdout") as daemon:
        fault(await call(daemon.url, STDOUT, asks()), 13, 500)
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_details_may_be_several(monkeypatch, autojump_clock):
    details = [tasks_pb2.TaskIdRequest(task_id=text) for text in ("a", "b")]
    error = RpcError(Code.NOT_FOUND, "no such task", details)
    async with serving(monkeypatch, Raising(error), "GetStdout") as daemon:
        async with await connect(daemon.url) as stream:
            await stream.send_all(
                head("POST", path(STDOUT), [("Content-Length", "0"), ("Connection", "close")])
            )
            data = b""
            while piece := await stream.receive_some():
                data += piece
        lines = [
            line for line in data.split(b"\r\n") if line.lower().startswith(b"x-prpc-status-details-bin: ")
        ]
        found = []
        for line in lines:
            any, detail = any_pb2.Any(), tasks_pb2.TaskIdRequest()
            any.ParseFromString(base64.b64decode(line.split(b": ")[1], validate=True))
            assert any.Unpack(detail)
            found.append(detail)
        assert found == details


async def test_an_error_looks_like_this(monkeypatch, autojump_clock):
    async with serving(monkeypatch, Raising(RpcError(Code.NOT_FOUND, "no such task")), "GetStdout") as daemon:
        answer = await call(daemon.url, STDOUT, b'{"taskId": "7b24c0ea00ffff10"}', *JSON)
        assert answer.status == 404 and answer.body == b"no such task\n"
        assert {name: value for name, value in answer.headers.items() if name not in ("date", "server")} == {
            "x-prpc-grpc-code": "5", "x-content-type-options": "nosniff", "content-type": "text/plain; charset=utf-8",
            "content-length": "13", "cache-control": "no-store",
            "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        }  # fmt: skip


# --------------------------------------------------------------------- errors before any handler


@pytest.mark.parametrize(
    "target",
    [
        "/prpc/swarming.v2.Tasks/Shiny", "/prpc/swarming.v3.Tasks/NewTask", "/prpc/", "/prpc/x", "/prpc/x/",
        "/prpc/swarming.v2.Swarming/GetDetails/", "/prpc/swarming.v2.Swarming/getdetails", "/prpc/a/b/c",
        "/prpc/%2e%2e/GetDetails", "/prpc//",
    ],
)  # fmt: skip
async def test_an_unknown_method_is_unimplemented(target, autojump_clock):
    async with running() as daemon:
        for method in ("POST", "GET", "OPTIONS"):
            answer = await send(daemon.url, method, target)
            assert "Describe" in fault(answer, 12, 501)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
async def test_another_verb_is_unimplemented_too(method, autojump_clock):
    async with running() as daemon:
        answer = await send(daemon.url, method, path(DETAILS))
        assert (answer.status, answer.headers["x-prpc-grpc-code"], answer.headers["allow"]) == (
            405,
            "12",
            "POST",
        )


async def test_the_guard_answers_in_this_form(autojump_clock, tmp_path):
    from tests.api.test_edge import TOKEN, guarded

    refused = {
        "a foreign host": ((), {"host": "evil.example"}, 9, 421),
        "a foreign origin": ((("Origin", "http://evil.example"),), {}, 7, 403),
        "another site": ((("Sec-Fetch-Site", "cross-site"),), {}, 7, 403),
        "no token": ((), {}, 16, 401),
    }
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        for name, (headers, how, code, status) in refused.items():
            for key in (DETAILS, "swarming.v2.Tasks/Shiny"):
                if (name, key) == ("no token", "swarming.v2.Tasks/Shiny"):
                    continue  # that there is no such method is no secret
                answer = await call(daemon.url, key, b"", BINARY, *headers, **how)
                fault(answer, code, status)
                assert answer.error.code and answer.error.remedy
        shown = ("Authorization", f"Bearer {TOKEN}")
        assert (await call(daemon.url, DETAILS, b"", BINARY, shown)).headers["x-prpc-grpc-code"] == "0"
        assert (await send(daemon.url, "POST", f"/{TOKEN}{path(DETAILS)}")).headers["x-prpc-grpc-code"] == "0"


async def test_an_error_behind_a_token_in_the_path_has_this_form(autojump_clock, tmp_path):
    """The form belongs to the protocol of the path, whatever stood before it."""
    from tests.api.test_edge import TOKEN, guarded

    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        fault(await send(daemon.url, "POST", f"/{TOKEN}/prpc/swarming.v2.Tasks/Shiny"), 12, 501)
        fault(await send(daemon.url, "GET", f"/{TOKEN}{path(DETAILS)}"), 12, 405)


async def test_a_page_of_our_own_may_call_and_gets_no_leave_for_others(autojump_clock):
    async with running(tcp=True) as daemon:
        same = (("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin"))
        answer = await call(daemon.url, DETAILS, b"", BINARY, *same)
        message(answer, server_pb2.ServerDetails)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        fault(await send(daemon.url, "OPTIONS", path(DETAILS), headers=same), 12, 405)
        foreign = (("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST"))
        fault(await send(daemon.url, "OPTIONS", path(DETAILS), headers=foreign), 7, 403)


async def test_a_stopping_daemon_is_unavailable(autojump_clock):
    async with running() as daemon:
        daemon.daemon.stop_soon()
        answer = await call(daemon.url, DETAILS)
        fault(answer, 14, 503)
        assert answer.headers["retry-after"] == "1"


async def test_an_address_that_is_too_long(autojump_clock):
    async with running() as daemon:
        fault(await send(daemon.url, "POST", "/prpc/" + "x" * 5_000), 3, 414)
