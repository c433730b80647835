"""Everything that can be wrong in a call of a Swarming bot: it is told in the form of this protocol, and is never a
failure of the daemon; the bot beside it never notices.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmd.api.swarming.routes import API, BODY_LIMIT, ROUTES
from swarmd.testing import Lab, open_lab
from swarmd.testing.lab import config_for_tests
from tests.api.swarming.worlds import CONFIG, JSON, OWN, World, small_world
from tests.api.wire import Answer, send

pytestmark = pytest.mark.swarmd(config=CONFIG)

DEEP = msgspec.Raw(b"[" * 500 + b"]" * 500)
WRONG: dict[str, Any] = {
    "null": None, "true": True, "false": False, "nought": 0, "minus one": -1, "a fraction": 1.5,
    "huge": 10**30, "hugely negative": -(10**30), "no end": msgspec.Raw(b"1e308"), "nothing": "",
    "a text": "x", "a number as text": "1",
    "a long text": "x" * 100_000,
    "odd letters": "\0\r\n\u202e\U0001f600", "a path": "../../etc/passwd",
    "no base64": "****", "a list": [], "a list of lists": [[[]]], "a list of null": [None], "an object": {},
    "an odd object": {"": {"": None}}, "a long list": [0] * 50_000, "deep": DEEP,
}  # fmt: skip
NO_JSON = {
    "NaN": b"NaN", "Infinity": b"-Infinity", "no number": b"1e999", "cut off": b'"', "half a surrogate": b'"\\ud800"',
    "no UTF-8": b'"\xff"', "a leading nought": b"01", "too deep": b"[" * 200_000,
}  # fmt: skip


def check_form(answer: Answer) -> None:
    """The protocol's own: a JSON object, and on a refusal a text and a code."""
    assert answer.status < 500, answer
    assert answer.headers["content-type"] == "application/json; charset=utf-8", answer
    assert answer.body.endswith(b"\n") and isinstance(answer.json(), dict)
    if answer.status != 200:
        error = answer.error
        assert error.code and error.message and len(error.message) < 1_000


def test_every_route_with_a_body_is_here():
    assert {route.path.removeprefix(API + "/") for route in ROUTES if route.method == "POST"} == set(OWN)


# ------------------------------------------------------------------ each field wrong, each route


@pytest.mark.parametrize("path", OWN)
async def test_each_field_of_a_wrong_type(swarmd: Lab, path: str):
    world = await small_world(swarmd)
    [route] = [route for route in ROUTES if route.path == f"{API}/{path}"]
    refused = 0
    for field in (*route.request.__struct_fields__, "unknown"):
        for wrong in WRONG.values():
            answer = await world.post(path, {**world.good_body(path), field: wrong})
            check_form(answer)
            refused += answer.status != 200
        missing = {key: value for key, value in world.good_body(path).items() if key != field}
        check_form(await world.post(path, missing))
    assert refused or path.endswith("_token")
    await world.check_the_good_bot(ends=True)
    await swarmd.check_file()


@pytest.mark.parametrize("path", OWN)
async def test_a_body_that_is_no_json_or_no_object(swarmd: Lab, path: str):
    world = await small_world(swarmd)
    [route] = [route for route in ROUTES if route.path == f"{API}/{path}"]
    good = msgspec.json.encode({**world.good_body(path), "state": None})
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        good[:-1],
        good + b"x",
        b"\xef\xbb\xbf" + good,
        good.upper(),
    ]
    for raw in NO_JSON.values():
        bodies += [
            good[:-1] + b',"%s":' % field.encode() + raw + b"}" for field in route.request.__struct_fields__
        ]
    for body in bodies:
        answer = await world.post(path, body)
        check_form(answer)
        assert answer.status == 400, body[:100]
        assert answer.error.code in ("bad_json", "bad_field")
    await swarmd.check_attempts(world.id, "RUNNING")
    for raw in NO_JSON.values():  # what is ignored may be anything
        check_form(await world.post(path, good[:-1] + b',"unknown":' + raw + b"}"))
    await world.check_the_good_bot(ends=True)


# ------------------------------------------------------------------ what is refused, and in which words


class Row(NamedTuple):
    """`change` of a good body: what it is refused with."""

    path: str
    change: dict[str, Any]
    status: int
    code: str
    says: str


NO_SESSION = [
    Row(path, {"session": token}, 401, "bad_session", "session token")
    for path in OWN
    if path not in ("handshake", "poll", "oauth_token", "id_token")
    for token in (None, "", "nonsense", 7, ["x"])
]
ROWS = [
    Row("handshake", {"dimensions": None}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {}}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {"id": []}}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {"id": "s1"}}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {"id": ["a", "b"]}}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {"id": [7]}}, 400, "bad_field", "dimensions.id"),
    Row("handshake", {"dimensions": {"id": ["a:b"]}}, 400, "bad_field", "'a:b' cannot be a bot's id"),
    Row("handshake", {"dimensions": {"id": ["x" * 129]}}, 400, "bad_field", "cannot be a bot's id"),
    Row("handshake", {"session_id": None}, 400, "bad_field", "session_id is None"),
    Row("handshake", {"session_id": "CAPITALS"}, 400, "bad_field", "session_id is 'CAPITALS'"),
    Row("handshake", {"session_id": "x" * 51}, 400, "bad_field", "session_id is 'xxx"),
    Row("handshake", {"session_id": ["x"]}, 400, "bad_field", "session_id is a list"),
    Row("poll", {"dimensions": {"os": ["Linux"]}}, 400, "bad_field", "dimensions.id"),
    Row("poll", {"request_uuid": "no blanks"}, 400, "bad_field", "request_uuid is 'no blanks'"),
    Row("poll", {"request_uuid": "x" * 51}, 400, "bad_field", "request_uuid is"),
    Row("poll", {"request_uuid": {"a": 1}}, 400, "bad_field", "request_uuid is an object"),
    Row("event", {"event": "bot_died"}, 400, "bad_field", "event is 'bot_died'"),
    Row("event", {"event": ["bot_log"]}, 400, "bad_field", "event is a list"),
    Row("event", {"event": None}, 400, "bad_field", "event is None"),
    Row("event", {"state": []}, 400, "bad_field", "state is no object"),
    Row("event", {"state": {"a": DEEP}}, 400, "bad_field", "state is nested"),
    Row("event", {"request_uuid": "*"}, 400, "bad_field", "request_uuid is '*'"),
    Row("claim", {"claim_id": None}, 400, "bad_field", "claim_id is None"),
    Row("claim", {"claim_id": 7}, 400, "bad_field", "claim_id is 7"),
    Row("claim", {"task_id": ""}, 400, "bad_field", "task_id is ''"),
    Row("task_update", {"task_id": None}, 400, "bad_field", "task_id is None"),
    Row("task_update", {"task_id": ""}, 400, "bad_field", "task_id is ''"),
    Row("task_update", {"task_id": {}}, 400, "bad_field", "task_id is an object"),
    Row("task_update", {"id": "good"}, 401, "bad_session", "another bot"),
    Row("task_update", {"id": ["bad"]}, 401, "bad_session", "another bot"),
    Row("task_update", {"cost_usd": -0.1}, 400, "bad_field", "cost_usd is -0.1"),
    Row("task_update", {"cost_usd": "1"}, 400, "bad_field", "cost_usd is '1'"),
    Row("task_update", {"cost_usd": 1e300}, 400, "bad_field", "cost_usd is 1e+300"),
    Row("task_update", {"cost_usd": True}, 400, "bad_field", "cost_usd is True"),
    Row("task_update", {"duration": -1, "exit_code": 0}, 400, "bad_field", "duration is -1"),
    Row("task_update", {"duration": 1}, 400, "bad_field", "exactly one of duration and exit_code"),
    Row("task_update", {"exit_code": 0}, 400, "bad_field", "exactly one of duration and exit_code"),
    Row("task_update", {"exit_code": 1.5, "duration": 1}, 400, "bad_field", "exit_code is 1.5"),
    Row("task_update", {"exit_code": "0", "duration": 1}, 400, "bad_field", "exit_code is '0'"),
    Row("task_update", {"exit_code": True, "duration": 1}, 400, "bad_field", "exit_code is True"),
    Row("task_update", {"exit_code": 1 << 33, "duration": 1}, 400, "bad_field", "exit_code is 8589934592"),
    Row(
        "task_update", {"exit_code": -(1 << 33), "duration": 1}, 400, "bad_field", "exit_code is -8589934592"
    ),
    Row("task_update", {"bot_overhead": 1}, 400, "bad_field", "bot_overhead is given without duration"),
    Row("task_update", {"output": "***"}, 400, "bad_field", "output is no base64"),
    Row("task_update", {"output": "YQ"}, 400, "bad_field", "output is no base64"),
    Row("task_update", {"output": "YQ==\n"}, 400, "bad_field", "output is no base64"),
    Row("task_update", {"output": "\u00e9\u00e9\u00e9\u00e9"}, 400, "bad_field", "output is no base64"),
    Row("task_update", {"output": ["YQ=="]}, 400, "bad_field", "output is a list"),
    Row(
        "task_update",
        {"output": "YQ==", "output_chunk_start": -1},
        400,
        "bad_field",
        "output_chunk_start is -1",
    ),
    Row(
        "task_update",
        {"output": "YQ==", "output_chunk_start": 0.5},
        400,
        "bad_field",
        "output_chunk_start is 0.5",
    ),
    Row(
        "task_update",
        {"output": "YQ==", "output_chunk_start": 1 << 53},
        400,
        "bad_field",
        "output_chunk_start is 9007",
    ),
    Row("task_update", {"hard_timeout": "yes"}, 400, "bad_field", "hard_timeout is 'yes'"),
    Row("task_update", {"io_timeout": 1}, 400, "bad_field", "io_timeout is 1"),
    Row("task_update", {"canceled": []}, 400, "bad_field", "canceled is a list"),
    Row("task_error", {"task_id": None}, 400, "bad_field", "task_id is None"),
    Row("task_error", {"id": "good"}, 401, "bad_session", "another bot"),
    Row("rbe/session/update", {"status": "FINE"}, 400, "bad_field", "status is 'FINE'"),
    Row("rbe/session/update", {"status": None}, 400, "bad_field", "status is None"),
    Row("rbe/session/update", {"status": ["OK"]}, 400, "bad_field", "status is a list"),
    Row("rbe/session/update", {"nonblocking": "yes"}, 400, "bad_field", "nonblocking is 'yes'"),
    Row("rbe/session/update", {"lease": []}, 400, "bad_field", "lease"),
    Row("rbe/session/update", {"lease": {}}, 400, "bad_field", "lease"),
    Row("rbe/session/update", {"lease": {"id": 7, "state": "ACTIVE"}}, 400, "bad_field", "lease"),
    Row(
        "rbe/session/update",
        {"lease": {"id": "x", "state": "OPEN"}},
        400,
        "bad_field",
        "lease.state is 'OPEN'",
    ),
    Row(
        "rbe/session/update",
        {"lease": {"id": "x", "state": "COMPLETED", "result": 7}},
        400,
        "bad_field",
        "lease",
    ),
    *NO_SESSION,
]


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
async def test_what_is_refused_and_in_which_words(swarmd: Lab, path: str):
    world = await small_world(swarmd)
    version = swarmd.daemon.engine.version
    wrong = []
    for row in [row for row in ROWS if row.path == path]:
        answer = await world.post(path, {**world.good_body(path), **row.change})
        check_form(answer)
        error = answer.error if answer.status != 200 else None
        if (
            error is None
            or (answer.status, error.code) != (row.status, row.code)
            or row.says not in error.message
        ):
            wrong.append((row.change, answer.status, answer.body[:200]))
    assert wrong == []
    assert swarmd.daemon.engine.version == version, "a refused call changes nothing"
    await swarmd.check_attempts(world.id, "RUNNING")
    await world.check_the_good_bot(ends=True)


@pytest.mark.parametrize(
    "path", [path for path in OWN if path not in ("handshake", "oauth_token", "id_token")]
)
async def test_a_session_of_another_bot_changes_nothing_of_this_one(swarmd: Lab, path: str):
    world = await small_world(swarmd)
    stranger = swarmd.swarming_bot("stranger")
    await stranger.handshake()
    await stranger.open_rbe()
    body = world.good_body(path)
    for change in ({}, {"exit_code": 0, "duration": 1} if path.startswith("task_update") else {}):
        answer = await world.post(path, {**body, **change, "session": stranger.session})
        check_form(answer)
    await swarmd.check_attempts(world.id, "RUNNING")
    assert not (await world.task.update())["must_stop"]
    await world.check_the_good_bot(ends=True)


async def test_a_token_whose_bot_was_deleted_is_refused(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    await bot.event("bot_shutdown")
    await swarmd.client.call("DELETE", "/api/v1/bots/s1")
    body = {"session": bot.session, "event": "bot_log", "message": "still here"}
    answer = await send(swarmd.url, "POST", f"{API}/event", body, (JSON,))
    check_form(answer)
    assert (answer.status, answer.error.code) == (403, "unknown_bot")


# ------------------------------------------------------------------ the request itself


class Odd(NamedTuple):
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    status: int
    code: str
    host: str = "localhost"
    length: int | None = None


TEXT = (("Content-Type", "text/plain"),)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
ODD = {
    "unknown route": Odd("POST", f"{API}/dance", (JSON,), 404, "unknown_route"),
    "unknown route, GET": Odd("GET", f"{API}/dance", (), 404, "unknown_route"),
    "below a route": Odd("POST", f"{API}/poll/more", (JSON,), 404, "unknown_route"),
    "two ids": Odd("POST", f"{API}/task_update/a/b", (JSON,), 404, "unknown_route"),
    "the root": Odd("GET", "/swarming/", (), 404, "unknown_route"),
    "another API of theirs": Odd("GET", "/swarming/api/v1/client/list", (), 404, "unknown_route"),
    "wrong method": Odd("GET", f"{API}/poll", (), 405, "wrong_method"),
    "PUT": Odd("PUT", f"{API}/handshake", (JSON,), 405, "wrong_method"),
    "DELETE": Odd("DELETE", f"{API}/task_update/a11", (), 405, "wrong_method"),
    "POST of what is read": Odd("POST", f"{API}/server_ping", (JSON,), 405, "wrong_method"),
    "a text": Odd("POST", f"{API}/poll", TEXT, 400, "wrong_content_type"),
    "a form": Odd("POST", f"{API}/poll", FORM, 400, "wrong_content_type"),
    "no type": Odd("POST", f"{API}/poll", (), 400, "wrong_content_type"),
    "too large": Odd("POST", f"{API}/poll", (JSON,), 413, "too_large", length=BODY_LIMIT + 1),
    "another site": Odd("POST", f"{API}/poll", (JSON, ("Origin", "http://evil.example")), 403, "foreign_origin"),
    "too long": Odd("GET", f"{API}/" + "x" * 5_000, (), 414, "uri_too_long"),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
async def test_an_odd_request_is_refused_in_the_form_of_this_protocol(swarmd: Lab, odd: Odd):
    body = b"{}" if odd.method in ("POST", "PUT") else b""
    answer = await send(swarmd.url, odd.method, odd.target, body, odd.headers, length=odd.length)
    assert (answer.status, answer.error.code) == (odd.status, odd.code)
    check_form(answer)


@pytest.mark.swarmd(tcp=True)
async def test_a_host_that_is_another_is_refused_in_the_form_of_this_protocol(swarmd: Lab):
    answer = await send(swarmd.url, "POST", f"{API}/poll", b"{}", (JSON,), host="evil.example")
    assert (answer.status, answer.error.code) == (421, "wrong_host")
    check_form(answer)


async def test_a_body_that_grows_above_the_limit_is_refused(swarmd: Lab):
    world = await small_world(swarmd)
    body = msgspec.json.encode({**world.good_body("task_update"), "output": "A" * BODY_LIMIT})
    answer = await world.post("task_update", body)
    assert (answer.status, answer.error.code) == (413, "too_large")
    check_form(answer)
    await world.check_the_good_bot(ends=True)


async def test_a_daemon_that_stops_is_to_be_called_again(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    swarmd.daemon.stopping.set()
    answer = await send(swarmd.url, "POST", f"{API}/poll", b"{}", (JSON,))
    assert (answer.status, answer.error.code) == (503, "stopping")  # which the bot repeats
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


# ------------------------------------------------------------------ anything at all


class Known(NamedTuple):
    """A value that only the running world knows."""

    what: str


KNOWN: dict[str, Callable[[World], Any]] = {
    "session": lambda w: w.bad.session, "task session": lambda w: w.task.session, "old": lambda w: w.good.session,
    "task": lambda w: w.task.id, "request": lambda w: w.task.id[:-1] + "0", "its task": lambda w: w.its_task.id,
    "bad": lambda w: "bad", "dimensions": lambda w: w.bad.dimensions,
}  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["OK", "MAINTENANCE", "ACTIVE", "COMPLETED", "bot_log", "bot_error", "YQ=="]),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS,
    st.sampled_from(sorted(KNOWN)).map(Known),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
LEASES = st.fixed_dictionaries({"id": TEXTS, "state": TEXTS}, optional={"result": VALUES})
DIMENSIONS = st.dictionaries(TEXTS, st.one_of(st.lists(TEXTS, max_size=3), VALUES), max_size=4)


def changes_of(path: str) -> st.SearchStrategy[dict[str, Any]]:
    [route] = [route for route in ROUTES if route.path == f"{API}/{path}"]
    likely = {"lease": LEASES, "dimensions": DIMENSIONS}
    fields = {name: st.one_of(VALUES, likely.get(name, VALUES)) for name in route.request.__struct_fields__}
    return st.fixed_dictionaries({}, optional=fields)


CALLS = st.sampled_from(OWN).flatmap(lambda path: st.tuples(st.just(path), changes_of(path), st.booleans()))


def known(value: Any, world: World) -> Any:
    """`value` with what only the world knows."""
    if isinstance(value, Known):
        return KNOWN[value.what](world)
    if isinstance(value, list):
        return [known(inner, world) for inner in value]
    if isinstance(value, dict):
        return {key: known(inner, world) for key, inner in value.items()}
    return value


def encoded(body: dict[str, Any]) -> bytes:
    """JSON; whole numbers may have any number of digits."""
    return json.dumps(body).encode()


async def anything_at_all(calls: list[tuple[str, dict[str, Any], bool]]) -> None:
    async with open_lab(config=config_for_tests(CONFIG)) as lab:
        world = await small_world(lab)
        for number, (path, changes, whole) in enumerate(calls):
            good = {} if whole else world.good_body(path)
            check_form(await world.post(path, encoded({**good, **known(changes, world)})))
            if number % 5 == 0:
                await world.check_the_good_bot()
        newcomer = lab.swarming_bot("newcomer")
        await newcomer.handshake()
        assert (await newcomer.poll())["cmd"] in ("rbe", "run")
        await world.check_the_good_bot(ends=True)


def run(calls: list[tuple[str, dict[str, Any], bool]]) -> None:
    trio.run(partial(anything_at_all, calls), clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=25, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=20))
def test_nothing_that_a_bot_says_is_a_failure_of_the_daemon(calls: list[tuple[str, dict[str, Any], bool]]):
    run(calls)


@pytest.mark.nightly
@settings(max_examples=1_500, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=60))
def test_nothing_that_a_bot_says_for_long_is_a_failure_of_the_daemon(
    calls: list[tuple[str, dict[str, Any], bool]],
):
    run(calls)


@pytest.mark.parametrize("seed", range(4))
async def test_broken_bytes_of_real_calls_are_refused(swarmd: Lab, seed: int):
    """A byte of a good body replaced, left out, put in, or the rest cut off."""
    world = await small_world(swarmd)
    chance = random.Random(seed)
    for _ in range(120):
        path = chance.choice(OWN)
        raw = bytearray(msgspec.json.encode(world.good_body(path)))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(raw))
            how = chance.randrange(4)
            if how == 0:
                raw[at] = chance.randrange(256)
            elif how == 1:
                del raw[at]
            elif how == 2:
                raw.insert(at, chance.randrange(256))
            else:
                del raw[at + 1 :]
        check_form(await world.post(path, bytes(raw)))
    await world.check_the_good_bot(ends=True)
