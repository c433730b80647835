"""Everything that a caller can do wrong at the API: which status, which code, what the message names, what it advises.

One table; one daemon; afterwards nothing has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from swarmd.api.calls import MAX_NESTING
from swarmd.api.edge import MAX_PATH
from swarmd.api.native import messages as m
from swarmd.api.native.routes import ROUTES
from swarmd.api.native.sync import MAX_STATE_BYTES
from swarmd.core.submitting import MAX_EDGES
from swarmd.testing.harness import running
from tests.api.wire import JSON, send
from tests.api.worlds import DIGEST, NOBODY, World, small_world

BYTES = ("Content-Type", "application/octet-stream")
TASKS = "/api/v1/tasks"


class Bad(NamedTuple):
    """`ask` gives (method, target, body[, headers]); `says`: what the message or the remedy must name."""

    code: str
    status: int
    says: tuple[str, ...]
    ask: Callable[[World], tuple[Any, ...]]


def tasks(*found: dict[str, Any], **more: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: ("POST", TASKS, {"tasks": list(found), **more})


def one(**fields: Any) -> Callable[[World], tuple[Any, ...]]:
    return tasks({"argv": ["x"], **fields})


def graph(*found: dict[str, Any]) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: ("POST", "/api/v1/graphs", {"tasks": list(found)})


def raw(body: bytes) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: ("POST", TASKS, body, (JSON,))


def get(target: str) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: ("GET", target.format(w=w), b"")


def session(**fields: Any) -> Callable[[World], tuple[Any, ...]]:
    body = {"session_key": "k" * 8, "bot_key": "b" * 16, "dimensions": {}, **fields}
    return lambda w: ("POST", "/api/v1/bots/newcomer/sessions", body)


def sync(**fields: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: (
        "POST",
        f"/api/v1/sessions/{w.bot.session}/sync",
        {"seq": w.bot.seq + 1, "running": [w.attempt], "wait_s": 0, **fields},
    )


def finished(**fields: Any) -> Callable[[World], tuple[Any, ...]]:
    def ask(w: World) -> tuple[Any, ...]:
        return sync(running=[], finished=[{"attempt": w.attempt, "ok": False, **fields}])(w)

    return ask


def nested(depth: int) -> list[Any]:
    """Lists in one another."""
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


def bot_call(path: str, **body: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda w: ("POST", f"/swarming/api/v1/bot/{path}", body)


def content_type(target: str) -> str:
    """Errors are JSON in the form of the protocol whose path it is."""
    foreign = target.startswith(("/swarming/", "/bot_code", "/bootstrap"))
    return "application/json; charset=utf-8" if foreign else "application/json"


ROWS: dict[str, Bad] = {
    # JSON and its fields
    "malformed JSON": Bad("bad_json", 400, ("JSON",), raw(b'{"tasks": [')),
    "no body": Bad("bad_json", 400, ("JSON",), raw(b"")),
    "not UTF-8": Bad("bad_json", 400, ("JSON",), raw(b'{"request_id": "\xff"}')),
    "half a surrogate": Bad("bad_json", 400, ("JSON",), raw(b'{"request_id": "\\ud800"}')),
    "JSON too deep": Bad("bad_json", 400, ("JSON",), lambda w: (
        "POST", "/api/v1/bots/deep/sessions", b'{"state": {"a":' + b"[" * 9_999 + b"]" * 9_999 + b"}}", (JSON,))),
    "state too deep": Bad("bad_field", 400, ("state", str(MAX_NESTING)), lambda w: session(
        state={"a": nested(MAX_NESTING)})(w)),
    "state too deep in a sync": Bad("bad_field", 400, ("state", str(MAX_NESTING)), lambda w: sync(
        state={"a": nested(MAX_NESTING)}, running=[])(w)),
    "unknown field": Bad("bad_field", 400, ("unknown field `arg`", "$.tasks[0]"), tasks({"arg": ["x"]})),
    "wrong type": Bad("bad_field", 400, ("`array`, got `str`", "$.tasks[0].argv"), tasks({"argv": "make"})),
    "missing field": Bad("bad_field", 400, ("tasks",), lambda w: ("POST", TASKS, {})),
    "no tasks": Bad("bad_field", 400, ("length >= 1", "$.tasks"), tasks()),
    "id of wrong length": Bad("bad_field", 400, ("$.ids[0]",), lambda w: ("POST", f"{TASKS}/wait", {"ids": ["7"]})),
    # limits, each named one of messages.py
    "MAX_TASKS_PER_REQUEST": Bad("bad_field", 400, ("10000", "$.tasks"), tasks(*[{"argv": ["x"]}] * 10_001)),
    "MAX_EXPANDED_TASKS": Bad("too_many_tasks", 400, ("100000",), one(array={"first": 0, "last": 100_000})),
    "MAX_EXPANDED_TASKS lines": Bad("bad_field", 400, ("100000", "lines"), one(lines=[""] * 100_001)),
    "MAX_COMMANDS": Bad("bad_field", 400, ("64", "commands"), tasks({"commands": [{"argv": ["x"]}] * 65})),
    "MAX_ARGV": Bad("bad_field", 400, ("4096", "argv"), tasks({"argv": ["x"] * 4_097})),
    "MAX_ARGV of a command": Bad("bad_task", 400, ("4097", "4096"), tasks({"commands": [{"argv": ["x"] * 4_097}]})),
    "MAX_TEXT": Bad("bad_field", 400, ("65536", "argv[0]"), tasks({"argv": ["x" * 65_537]})),
    "MAX_TEXT of a command": Bad("bad_task", 400, ("65537",), tasks({"commands": [{"argv": ["x" * 65_537]}]})),
    "MAX_ENV": Bad("bad_field", 400, ("256", "env"), one(env={f"V{n}": "" for n in range(257)})),
    "MAX_ENV of a command": Bad("bad_task", 400, ("257",), tasks(
        {"commands": [{"argv": ["x"], "env": {f"V{n}": "" for n in range(257)}}]})),
    "MAX_INPUTS": Bad("bad_field", 400, ("10000", "inputs"), one(inputs=[{"path": "a", "blob": DIGEST}] * 10_001)),
    "MAX_OUTPUTS": Bad("bad_field", 400, ("256", "outputs"), one(outputs=["a"] * 257)),
    "MAX_DEPENDENCIES": Bad("bad_field", 400, ("1000", "after"), one(after=["a"] * 1_001)),
    "MAX_TAGS": Bad("bad_field", 400, ("256", "tags"), one(tags=["a"] * 257)),
    "MAX_NAME": Bad("bad_field", 400, ("256", "name"), one(name="n" * 257)),
    "MAX_DIMENSION_KEYS": Bad("bad_field", 400, ("32", "dimensions"), one(
        dimensions={f"d{n}": ["x"] for n in range(33)})),
    "MAX_SLOTS": Bad("bad_field", 400, ("1024", "slots"), session(slots=1_025)),
    "MAX_SPAN_S": Bad("bad_field", 400, ("604800", "hard_limit_s"), one(hard_limit_s=604_801)),
    "MAX_WAIT_S": Bad("bad_field", 400, ("50", "wait_s"), sync(wait_s=51)),
    "MAX_WAIT_S in a query": Bad("bad_parameter", 400, ("wait_s", "50"), get(
        TASKS + "/{w.done}/output/stdout?wait_s=51")),
    "MAX_OFFSET": Bad("bad_parameter", 400, ("offset",), lambda w: (
        "POST", f"/api/v1/attempts/{w.attempt}/output/stdout?offset={2**70}", b"x", (BYTES,))),
    "MAX_OFFSET in a sync": Bad("bad_field", 400, ("offset",), lambda w: sync(
        output=[{"attempt": w.attempt, "stream": "stdout", "offset": 2**63, "data": "eA=="}])(w)),
    "MAX_SEQ": Bad("bad_field", 400, ("seq",), sync(seq=2**64)),
    "MAX_STATE_BYTES": Bad("too_large", 400, (str(MAX_STATE_BYTES),), sync(
        state={"x": "y" * MAX_STATE_BYTES}, running=[])),  # the running attempt must not be lost by it
    "exit code above": Bad("bad_field", 400, ("exit_code",), finished(exit_code=2**63)),
    "exit code below": Bad("bad_field", 400, ("exit_code",), finished(exit_code=-(2**70))),
    "priority": Bad("bad_field", 400, ("priority", "1000000"), one(priority=10**6 + 1)),
    "grace": Bad("bad_field", 400, ("grace_s", "3600"), one(grace_s=3_601)),
    "no time at all": Bad("bad_field", 400, ("hard_limit_s", "> 0"), one(hard_limit_s=0)),
    "request id too long": Bad("bad_field", 400, ("128", "request_id"), tasks({"argv": ["x"]}, request_id="r" * 129)),
    "MAX_EDGES": Bad("too_many_edges", 400, (str(MAX_EDGES), "marker"), graph(
        {"key": "big", "argv": ["x"], "array": {"first": 1, "last": 90_000}},
        *[{"argv": ["x"], "after": ["big"]} for _ in range(9_000)])),
    # what to run
    "empty command": Bad("empty_command", 400, ("nothing to run", "argv"), tasks({"name": "t"})),
    "command without argv": Bad("empty_command", 400, ("no argv", "write_to"), tasks({"commands": [{}]})),
    "two things to run": Bad("bad_task", 400, ("more than one",), one(noop=True)),
    "array and lines": Bad("bad_task", 400, ("array and lines",), one(array={"first": 0, "last": 1}, lines=["a"])),
    "array backwards": Bad("bad_task", 400, ("ends before it begins",), one(array={"first": 2, "last": 1})),
    "no lines": Bad("bad_task", 400, ("no lines",), one(lines=[])),
    "NUL in an argument": Bad("bad_task", 400, ("NUL",), tasks({"argv": ["a\0b"]})),
    "NUL in a variable": Bad("bad_task", 400, ("'A'",), tasks({"commands": [{"argv": ["x"], "env": {"A": "\0"}}]})),
    "variable with =": Bad("bad_task", 400, ("'A=B'",), one(env={"A=B": "1"})),
    "folder above": Bad("bad_path", 400, ("'../up'", "'..'"), one(cwd="../up")),
    "absolute output": Bad("bad_path", 400, ("'/etc/passwd'",), one(outputs=["/etc/passwd"])),
    "output above": Bad("bad_path", 400, ("'a/../../b'",), one(outputs=["a/../../b"])),
    "input above": Bad("bad_path", 400, ("'../x'",), one(inputs=[{"path": "../x", "blob": DIGEST}])),
    "file written above": Bad("bad_path", 400, ("'../x'",), tasks({"commands": [{"write_to": "../x", "text": "t"}]})),
    "input without path": Bad("bad_task", 400, ("no path",), one(inputs=[{"path": "", "blob": DIGEST}])),
    "input without blob": Bad("bad_task", 400, ("'x'", "SHA-256"), one(inputs=[{"path": "x", "blob": "abc"}])),
    "no pool": Bad("bad_field", 400, ("pool",), one(pool="")),
    # dimensions
    "bad dimension": Bad("bad_dimension", 400, ("'g p u'", "letters"), one(dimensions={"g p u": ["x"]})),
    "empty value": Bad("bad_dimension", 400, ("os", "1 to 256"), one(dimensions={"os": [""]})),
    "no values": Bad("bad_dimension", 400, ("os", "0 values"), one(dimensions={"os": []})),
    "too many alternatives": Bad("bad_dimension", 400, ("9 alternatives",), one(
        dimensions={"os": ["|".join("abcdefghi")]})),
    "dimension feature": Bad("bad_dimension", 400, ("feature",), one(dimensions={"feature": ["x"]})),
    "two pools": Bad("bad_dimension", 400, ("'lab'", "'default'"), one(dimensions={"pool": ["lab"]})),
    "pool of two": Bad("bad_dimension", 400, ("exactly one value",), one(dimensions={"pool": ["a|b"]})),
    "slices and dimensions": Bad(
        "bad_task", 400, ("both slices",), one(slices=[{"dimensions": {}}], dimensions={"os": ["Linux"]})
    ),
    "bad slice": Bad("bad_dimension", 400, ("os",), one(slices=[{"dimensions": {"os": [" "]}}])),
    "bot with bad dimension": Bad("bad_dimension", 400, ("'0'",), session(dimensions={"0": ["x"]})),
    "bot with choice": Bad("bad_dimension", 400, ("a|b", "'|'"), session(dimensions={"os": ["a|b"]})),
    "bot with another id": Bad("bad_dimension", 400, ("newcomer", "other"), session(dimensions={"id": ["other"]})),
    "bot with doubled value": Bad("bad_dimension", 400, ("newcomer", "each once"), session(
        dimensions={"os": ["a", "a"]})),
    # dependencies
    "cycle": Bad("cycle", 400, ("a, b",), graph(
        {"key": "a", "argv": ["x"], "after": ["b"]}, {"key": "b", "argv": ["x"], "after": ["a"]})),
    "cycle by set_after": Bad("cycle", 400, ("itself",), lambda w: (
        "PUT", f"{TASKS}/{w.waiting}/after", {"after": [w.blocked]})),
    "unknown key in a graph": Bad("unknown_dependency", 400, ("'b'",), graph(
        {"key": "a", "argv": ["x"], "after": ["b"]})),
    "unknown task in a graph": Bad("unknown_task", 404, (NOBODY,), graph(
        {"key": "a", "argv": ["x"], "after": [NOBODY]})),
    "unknown dependency": Bad("unknown_task", 404, (NOBODY,), one(after=[NOBODY])),
    "doubled key": Bad("doubled_key", 400, ("'a'",), graph({"key": "a", "argv": ["x"]}, {"key": "a", "argv": ["x"]})),
    "key used in the graph": Bad("doubled_key", 400, ("'a'",), lambda w: (
        "POST", f"/api/v1/graphs/{w.open_graph}/tasks", {"tasks": [{"key": "a", "argv": ["x"]}]})),
    "empty closed graph": Bad("empty_graph", 400, ("open: true",), graph()),
    "closed graph": Bad("graph_closed", 409, ("closed",), lambda w: (
        "POST", f"/api/v1/graphs/{w.closed_graph}/tasks", {"tasks": [{"argv": ["x"]}]})),
    "unknown graph": Bad("unknown_graph", 404, (NOBODY,), get(f"/api/v1/graphs/{NOBODY}")),
    "add to unknown graph": Bad("unknown_graph", 404, (NOBODY,), lambda w: (
        "POST", f"/api/v1/graphs/{NOBODY}/tasks", {"tasks": [{"argv": ["x"]}]})),
    "final parent": Bad("parent_final", 409, ("not running",), lambda w: one(parent=w.done)(w)),
    "set_after of a final task": Bad("task_final", 409, ("final",), lambda w: (
        "PUT", f"{TASKS}/{w.done}/after", {"after": []})),
    "set_after of a running task": Bad("task_started", 409, ("was offered",), lambda w: (
        "PUT", f"{TASKS}/{w.running}/after", {"after": []})),
    # things that are not there
    "unknown task": Bad("unknown_task", 404, (NOBODY,), get(f"{TASKS}/{NOBODY}")),
    "no id": Bad("unknown_task", 404, ("'t-41'", "13 characters"), get(f"{TASKS}/t-41")),
    "explain unknown task": Bad("unknown_task", 404, (NOBODY,), get(f"{TASKS}/{NOBODY}/explain")),
    "output of unknown task": Bad("unknown_task", 404, (NOBODY,), get(f"{TASKS}/{NOBODY}/output/stdout")),
    "follow unknown task": Bad("unknown_task", 404, (NOBODY,), get(f"{TASKS}/{NOBODY}/follow")),
    "cancel unknown task": Bad("unknown_task", 404, (NOBODY,), lambda w: (
        "POST", f"{TASKS}/cancel", {"filter": {"ids": [w.done, NOBODY]}})),
    "wait for unknown task": Bad("unknown_task", 404, (NOBODY,), lambda w: (
        "POST", f"{TASKS}/wait", {"ids": [NOBODY]})),
    "unknown stream": Bad("unknown_stream", 400, ("'stdin'", "stdout, stderr"), get(TASKS + "/{w.done}/output/stdin")),
    "unknown stream of a bot": Bad("unknown_stream", 400, ("'stdin'",), lambda w: (
        "POST", f"/api/v1/attempts/{w.attempt}/output/stdin?offset=0", b"x", (BYTES,))),
    "attempt of another task": Bad("unknown_attempt", 400, ("attempt",), get(
        TASKS + "/{w.done}/output/stdout?attempt={w.attempt}")),
    "attempt that is no id": Bad("unknown_attempt", 404, ("'7'",), get(TASKS + "/{w.done}/output/stdout?attempt=7")),
    "unknown session": Bad("unknown_session", 404, (NOBODY,), lambda w: (
        "POST", f"/api/v1/sessions/{NOBODY}/sync", {"seq": 1})),
    "unknown bot": Bad("unknown_bot", 404, ("b77",), get("/api/v1/bots/b77")),
    "order to unknown bot": Bad("unknown_bot", 404, ("b77",), lambda w: ("PATCH", "/api/v1/bots/b77", {"drain": True})),
    "unknown blob": Bad("unknown_blob", 404, (DIGEST, "PUT"), get(f"/api/v1/blobs/{DIGEST}")),
    "unknown event": Bad("unknown_event", 404, ("'x'",), get("/api/v1/events/stream?after=x")),
    # bots
    "stale attempt, output": Bad("stale_attempt", 409, ("not live",), lambda w: (
        "POST", f"/api/v1/attempts/{w.stale}/output/stdout?offset=0", b"late", (BYTES,))),
    "bot id in use": Bad("bot_in_use", 409, ("b1", "another key"), lambda w: (
        "POST", "/api/v1/bots/b1/sessions", {"session_key": "k" * 8, "bot_key": "not mine" * 2, "dimensions": {}})),
    "bad bot name": Bad("bad_bot_name", 400, ("'a b'",), lambda w: (
        "POST", "/api/v1/bots/a%20b/sessions", {"session_key": "k" * 8, "bot_key": "b" * 16, "dimensions": {}})),
    "old seq": Bad("stale_seq", 409, ("seq 1",), sync(seq=1)),
    "order nothing": Bad("nothing_to_do", 400, ("drain",), lambda w: ("PATCH", "/api/v1/bots/b1", {})),
    "delete a connected bot": Bad("bot_connected", 409, ("b1",), lambda w: ("DELETE", "/api/v1/bots/b1", b"")),
    # Swarming bots
    "no session token": Bad("bad_session", 401, ("no token",), bot_call("event", event="bot_log")),
    "session token that is none": Bad("bad_session", 401, ("no base64", "anew"), bot_call("event", session="x")),
    "session token of somebody else": Bad("bad_session", 401, ("not signed",), bot_call("event", session="x" * 64)),
    "bot without an id": Bad("bad_field", 400, ("dimensions.id", "SWARMING_BOT_ID"), bot_call("poll", dimensions={})),
    "bot with a strange id": Bad("bad_field", 400, ("'a b'", "letters"), bot_call("poll", dimensions={"id": ["a b"]})),
    "strange session id": Bad("bad_field", 400, ("session_id", "'S'"), bot_call(
        "handshake", dimensions={"id": ["b2"]}, session_id="S")),
    "no bot code": Bad("no_bot_code", 404, ("bot_code", "[swarming]"), get("/bot_code")),
    "no bot code to start": Bad("no_bot_code", 404, ("bot_code",), get("/bootstrap")),
    "no such bot code": Bad("no_bot_code", 404, ("bot_code",), get("/swarming/api/v1/bot/bot_code/" + DIGEST)),
    "unknown Swarming route": Bad("unknown_route", 404, ("'/swarming/api/v1/bot/polls'",), bot_call("polls")),
    # in bulk
    "empty filter": Bad("empty_filter", 400, ("everything",), lambda w: ("POST", f"{TASKS}/cancel", {"filter": {}})),
    "empty filter, retry": Bad("empty_filter", 400, ("everything",), lambda w: (
        "POST", f"{TASKS}/retry", {"filter": {}})),
    "retry what runs": Bad("not_final", 400, ("not final",), lambda w: (
        "POST", f"{TASKS}/retry", {"filter": {"ids": [w.running]}})),
    # blobs
    "bad digest": Bad("bad_digest", 400, ("'abc'", "64"), get("/api/v1/blobs/abc")),
    "digest in capitals": Bad("bad_digest", 400, ("lower-case",), get(f"/api/v1/blobs/{'A' * 64}")),
    "bad digest in a list": Bad("bad_field", 400, ("digests[0]",), lambda w: (
        "POST", "/api/v1/blobs/missing", {"digests": ["abc"]})),
    "digest mismatch": Bad("digest_mismatch", 400, (DIGEST, "3 bytes"), lambda w: (
        "PUT", f"/api/v1/blobs/{DIGEST}", b"abc", (BYTES,))),
    # the request itself
    "wrong method": Bad("wrong_method", 405, ("DELETE", "GET, POST"), lambda w: ("DELETE", TASKS, b"")),
    "HEAD where there is none": Bad("wrong_method", 405, (), lambda w: ("HEAD", TASKS, b"")),
    "OPTIONS": Bad("wrong_method", 405, ("OPTIONS",), lambda w: ("OPTIONS", TASKS, b"")),
    "unknown route": Bad("unknown_route", 404, ("'/api/v2/tasks'", "openapi"), get("/api/v2/tasks")),
    "wrong content type": Bad("wrong_content_type", 415, ("'text/json'", "application/json"), lambda w: (
        "POST", TASKS, b"{}", (("Content-Type", "text/json"),))),
    "no content type": Bad("wrong_content_type", 415, ("not given",), lambda w: ("POST", TASKS, b"{}")),
    "form": Bad("wrong_content_type", 415, ("urlencoded",), lambda w: (
        "POST", "/api/v1/blobs", b"a=b", (("Content-Type", "application/x-www-form-urlencoded"),))),
    "unknown query parameter": Bad("unknown_parameter", 400, ("'stat'", "state"), get(TASKS + "?stat=RUNNING")),
    "query where there is none": Bad("unknown_parameter", 400, ("none",), get("/api/v1/health?x=1")),
    "doubled query parameter": Bad("bad_parameter", 400, ("limit", "once"), get(TASKS + "?limit=1&limit=2")),
    "limit too high": Bad("bad_parameter", 400, ("limit", "1000"), get(TASKS + "?limit=1001")),
    "limit of zero": Bad("bad_parameter", 400, ("limit", ">= 1"), get(TASKS + "?limit=0")),
    "unknown state": Bad("bad_parameter", 400, ("'BUSY'", "RUNNING"), get(TASKS + "?state=busy")),
    "not a number": Bad("bad_parameter", 400, ("limit", "'many'"), get(TASKS + "?limit=many")),
    "too many parameters": Bad("bad_parameter", 400, ("query",), get(TASKS + "?" + "&".join(["a=b"] * 65))),
    "bad cursor": Bad("bad_cursor", 400, ("'zzz'", "next"), get(TASKS + "?cursor=zzz")),
    "bad cursor of a bot's tasks": Bad("bad_cursor", 400, ("'zzz'",), get("/api/v1/bots/b1/tasks?cursor=zzz")),
    "bad cursor of events": Bad("bad_cursor", 400, ("'zzz'",), get("/api/v1/events?cursor=zzz")),
    "bad cursor of graphs": Bad("bad_cursor", 400, ("'zzz'",), get("/api/v1/graphs?cursor=zzz")),
    "address too long": Bad("uri_too_long", 414, (str(MAX_PATH),), get("/" + "a" * (MAX_PATH + 1))),
    "foreign Origin": Bad("foreign_origin", 403, ("evil.example",), lambda w: (
        "GET", TASKS, b"", (("Origin", "http://evil.example"),))),
    "cross-site": Bad("foreign_origin", 403, ("cross-site",), lambda w: (
        "GET", TASKS, b"", (("Sec-Fetch-Site", "cross-site"),))),
}  # fmt: skip


async def test_every_bad_request_is_told_what_which_expected_and_what_to_do(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        world = await small_world(daemon)
        before = daemon.daemon.engine.version
        wrong = []
        for name, row in ROWS.items():
            answer = await send(world.url, *row.ask(world))
            if answer.status != row.status:
                wrong.append((name, answer.status, answer.body[:200]))
                continue
            assert answer.headers["content-type"] == content_type(row.ask(world)[1]), name
            if row.ask(world)[0] == "HEAD":
                assert not answer.body, name
                continue
            error = answer.error
            text = f"{error.message} / {error.remedy}"
            missing = [part for part in row.says if part not in text]
            if error.code != row.code or missing or not error.remedy or not error.message:
                wrong.append((name, error.code, text, missing))
        assert wrong == []
        assert daemon.daemon.engine.version == before  # a refused call changes nothing
        assert (await world.client.get(world.running)).state == "RUNNING"
        daemon.daemon.engine.check()


async def test_no_depth_of_a_body_ends_the_daemon(autojump_clock, tmp_path):
    """Reading takes as much stack as writing: what could just be read could not be written in the midst of a step."""
    async with running(tmp_path / "swarmd.db") as daemon:
        world = await small_world(daemon)
        for depth in range(900, sys.getrecursionlimit() + 10):
            state = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
            for target, body in (
                (
                    "/api/v1/bots/newcomer/sessions",
                    b'{"session_key":"kkkkkkkk","bot_key":"bbbbbbbbbbbbbbbb","dimensions":{},',
                ),
                (
                    f"/api/v1/sessions/{world.bot.session}/sync",
                    b'{"seq":99,"running":["%s"],' % world.attempt.encode(),
                ),
            ):
                raw = body + b'"state":' + state + b"}"
                answer = await send(world.url, "POST", target, raw, (JSON,))
                assert (answer.status, answer.error.code in ("bad_field", "bad_json")) == (400, True), depth
        assert (await world.client.get(world.running)).state == "RUNNING"


def test_each_limit_of_the_messages_has_a_row():
    named = {name for name in vars(m) if name.startswith("MAX_")}
    assert named <= {name.partition(" ")[0] for name in ROWS}


@pytest.mark.parametrize("route", [r for r in ROUTES if r.request or r.raw_body], ids=lambda r: r.handler)
async def test_a_body_above_the_limit_of_its_route_is_refused_at_once(route, autojump_clock):
    async with running() as daemon:
        target = route.path.format(
            id=NOBODY, bot="b1", session=NOBODY, attempt=NOBODY, stream="stdout", sha256=DIGEST
        )
        kind = JSON if route.request else BYTES
        answer = await send(daemon.url, route.method, target, b"{", (kind,), length=route.body_limit + 1)
        assert (answer.status, answer.error.code) == (413, "too_large")
        assert answer.error.details == {"limit": route.body_limit}
        assert str(route.body_limit) in answer.error.message and answer.error.remedy


async def test_an_unannounced_body_above_the_limit_is_refused_too(autojump_clock):
    """A chunked body tells no length before."""
    async with running() as daemon:
        from tests.api.wire import connect, head, read_answer

        async with await connect(daemon.url) as stream:
            headers = [JSON, ("Transfer-Encoding", "chunked")]
            await stream.send_all(head("POST", "/api/v1/bots/b1/sessions", headers))
            piece = b" " * 65_536
            for _ in range((1 << 20) // len(piece) + 1):
                await stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
            answer = await read_answer(stream, "POST")
        assert (answer.status, answer.error.code) == (413, "too_large")


async def test_a_body_that_does_not_come_is_not_waited_for(autojump_clock):
    import trio

    from tests.api.wire import connect, head, read_answer

    for headers in ([JSON, ("Content-Length", "100")], [BYTES, ("Content-Length", "100")]):
        target = TASKS if JSON in headers else "/api/v1/blobs"
        async with running() as daemon, await connect(daemon.url) as stream:
            began = trio.current_time()
            await stream.send_all(head("POST", target, headers) + b"{")
            answer = await read_answer(stream, "POST")
            assert (answer.status, answer.error.code) == (408, "body_too_slow")
            assert answer.error.remedy and trio.current_time() - began == pytest.approx(30, abs=1)


async def test_a_request_id_with_another_body_is_refused(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        first = {"tasks": [{"argv": ["a"]}], "request_id": "r1"}
        other = {"tasks": [{"argv": ["b"]}], "request_id": "r1"}
        assert (await send(daemon.url, "POST", TASKS, first)).status == 201
        answer = await send(daemon.url, "POST", TASKS, other)
        assert (answer.status, answer.error.code) == (409, "request_id_reused")
        assert "'r1'" in answer.error.message and answer.error.remedy
        # The same id on another route is another request too.
        answer = await send(daemon.url, "POST", "/api/v1/graphs", first)
        assert (answer.status, answer.error.code) == (409, "request_id_reused")


async def test_a_final_task_stays_as_it_is_when_it_is_canceled(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        world = await small_world(daemon)
        before = msgspec.json.encode(await world.client.get(world.done))
        answer = await world.client.cancel([world.done])
        assert (answer.matched, answer.changed) == (1, 0)
        assert msgspec.json.encode(await world.client.get(world.done)) == before


async def test_the_end_of_a_stale_attempt_changes_nothing_and_is_told_to_stop(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        world = await small_world(daemon)
        before = msgspec.json.encode(await world.client.get(world.done))
        world.bot.finish(world.stale, 1)
        await world.bot.sync()
        assert msgspec.json.encode(await world.client.get(world.done)) == before
        answer = await world.bot.sync(running=[world.attempt, world.stale])
        assert [(o.kind, o.attempt, o.reason) for o in answer.orders] == [("stop", world.stale, "not_yours")]
        assert (await world.client.get(world.running)).state == "RUNNING"


async def test_a_dimension_that_no_bot_has_is_a_warning_that_names_the_nearest(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        await small_world(daemon)
        body = {"tasks": [{"argv": ["x"], "dimensions": {"gpu": ["h100"], "os": ["Linux"]}}]}
        answer = await send(daemon.url, "POST", TASKS, body)
        assert answer.status == 201
        [warning] = answer.json()["warnings"]
        assert "gpu=h100" in warning and "nearest: b1 lacks gpu" in warning and "default" in warning


async def test_no_wait_for_capacity_ends_at_once_after_the_bots_had_time_to_come(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        body = {"tasks": [{"argv": ["x"], "dimensions": {"gpu": ["h100"]}, "wait_for_capacity": False}]}
        [id] = (await send(daemon.url, "POST", TASKS, body)).json()["ids"]
        [item] = await daemon.client.wait([id], 300)
        assert item.state == "NO_RESOURCE" and item.reason
