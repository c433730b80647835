"""The OpenAPI file says what the daemon does. `tests/schemas` tries the whole of it; here is what was found so."""

from __future__ import annotations

import re

import msgspec
import pytest

from swarmd.api.native.examples import EXAMPLE_ID, EXAMPLES
from swarmd.api.native.routes import ROUTES
from swarmd.api.openapi import document
from swarmd.core.ids import MAX_ID, from_text, to_text
from swarmd.testing.harness import running
from tests.api.wire import connect, head, send
from tests.api.worlds import small_world


@pytest.fixture(scope="module")
def file() -> dict:
    return msgspec.json.decode(msgspec.json.encode(document()))


def operations(file: dict):
    for path, methods in file["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


# --------------------------------------------------------------------- examples


def test_each_route_with_a_body_has_examples():
    assert set(EXAMPLES) == {route.handler for route in ROUTES if route.request is not None}


async def test_each_example_is_taken(autojump_clock):
    """As it is; where it names a task, a graph or a bot, one that exists."""
    async with running() as daemon:
        w = await small_world(daemon)
        there = {"id": w.waiting, "bot": "b1", "session": w.bot.session}
        for route in ROUTES:
            for name, example in EXAMPLES.get(route.handler, {}).items():
                ids = {**there, "id": w.open_graph} if "graphs" in route.path else there
                body = msgspec.json.encode(example).replace(EXAMPLE_ID.encode(), w.done.encode())
                answer = await send(
                    daemon.url,
                    route.method,
                    route.path.format(**ids),
                    body,
                    (("Content-Type", "application/json"),),
                )
                # A bot's key is its secret, and its attempts are its own: those two cannot fit.
                expected = {"open_session": (409,), "sync": (200, 409)}.get(route.handler, (route.status,))
                assert answer.status in expected, (route.handler, name, answer)


# --------------------------------------------------------------------- forms


def test_the_pattern_of_an_id_is_that_of_every_id(file):
    patterns = {
        schema["pattern"]
        for _, _, operation in operations(file)
        for parameter in operation["parameters"]
        if parameter["name"] in ("id", "session", "attempt") and parameter["in"] == "path"
        for schema in [parameter["schema"]]
    }
    [pattern] = patterns
    for id in (0, 1, 1 << 20, 1_795_898_275_493 << 20, MAX_ID):
        assert re.search(pattern, to_text(id))
    for wrong in ("", "1", "i" * 13, "8" + "0" * 12, "0" * 14, "0" * 12 + "\n"):
        assert from_text(wrong) is None
    assert not re.search(pattern, "8" + "0" * 12) and not re.search(pattern, "i" * 13)


async def test_an_empty_body_is_an_empty_blob(file, autojump_clock):
    """Raw bodies may be left out, and the file says so."""
    raw = {route.handler for route in ROUTES if route.raw_body}
    for _, _, operation in operations(file):
        if operation["operationId"] in raw:
            assert operation["requestBody"]["required"] is False
    async with running() as daemon:
        assert (await send(daemon.url, "POST", "/api/v1/blobs")).json()["size"] == 0


async def test_a_cursor_of_bots_is_a_name(file, autojump_clock):
    """All other cursors are ids, and the file gives their pattern."""
    for _, path, operation in operations(file):
        for parameter in operation["parameters"]:
            if parameter["name"] == "cursor":
                assert ("pattern" in parameter["schema"]) == (path != "/api/v1/bots"), path
    async with running() as daemon:
        assert (await send(daemon.url, "GET", "/api/v1/bots?cursor=zzz")).status == 200
        for path in ("tasks", "graphs", "events"):
            assert (await send(daemon.url, "GET", f"/api/v1/{path}?cursor=")).status == 200
            assert (await send(daemon.url, "GET", f"/api/v1/{path}?cursor=zzz")).error.code == "bad_cursor"


def test_the_events_of_a_stream_are_described(file):
    streams = [r for r in ROUTES if r.produces == "text/event-stream"]
    assert {r.handler for r in streams} == {"follow_output", "stream_events"}
    for route in streams:
        operation = file["paths"][route.path][route.method.lower()]
        schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
        assert len(schema["anyOf"]) == len(route.events)
        for one in schema["anyOf"]:
            assert one["properties"]["data"]["contentSchema"]["$ref"]


# --------------------------------------------------------------------- headers


async def test_promised_headers_are_there(file, autojump_clock):
    async with running() as daemon:
        w = await small_world(daemon)
        places = {"id": w.done, "stream": "stdout", "sha256": w.blob}
        for route in ROUTES:
            if route.answer_headers:
                answer = await send(daemon.url, route.method, route.path.format(**places))
                assert answer.status == 200, route
                for header in route.answer_headers:
                    text = answer.headers[header.name.lower()]
                    msgspec.convert(text, header.type, strict=False)
                promised = file["paths"][route.path][route.method.lower()]["responses"]["200"]["headers"]
                assert set(promised) == {header.name for header in route.answer_headers}


@pytest.mark.parametrize(
    ("status", "name"), [("401", "WWW-Authenticate"), ("405", "Allow"), ("503", "Retry-After")]
)
def test_headers_of_errors_are_promised(file, status, name):
    """That they come is in test_edge and test_errors."""
    for _, _, operation in operations(file):
        assert operation["responses"][status]["headers"][name]["required"]


@pytest.mark.parametrize("where", ["keeps", "running", "queued", "output", "finished"])
async def test_a_bot_may_name_what_is_no_id_and_the_file_says_so(file, where, autojump_clock):
    """It holds an attempt that the daemon does not know: told so, not refused."""
    stranger = "no id of ours"
    request = "SessionRequest" if where == "keeps" else "SyncRequest"
    schema = file["components"]["schemas"][request]["properties"][where]["items"]
    if "$ref" in schema:
        schema = file["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]["attempt"]
    assert re.search(schema.get("pattern", ""), stranger) and schema["maxLength"] == len(stranger)
    async with running() as daemon:
        w = await small_world(daemon)
        hello = {"session_key": "start 1 of b2", "bot_key": "a secret of bot b2", "dimensions": {}}
        keeps = [stranger] if where == "keeps" else []
        opened = await send(daemon.url, "POST", "/api/v1/bots/b2/sessions", {**hello, "keeps": keeps})
        assert opened.status == 201 or opened.status == 200
        items = {
            "keeps": [], "running": [stranger], "queued": [stranger],
            "output": [{"attempt": stranger, "stream": "stdout", "offset": 0, "data": "eA=="}],
            "finished": [{"attempt": stranger, "ok": True}],
        }  # fmt: skip
        sync = {"seq": 1, "wait_s": 0, **({} if where == "keeps" else {where: items[where]})}
        answer = await send(w.url, "POST", f"/api/v1/sessions/{opened.json()['session']}/sync", sync)
        assert answer.status == 200


@pytest.mark.parametrize(
    ("after", "last"), [("zzz", ""), ("zzz", to_text(1)), ("", "zzz"), (to_text(1), "zzz")]
)
async def test_each_place_to_go_on_from_is_looked_at(after, last, autojump_clock):
    """With a good Last-Event-ID, any text was taken as `after`."""
    headers = [("Last-Event-ID", last)] if last else []
    async with running() as daemon, await connect(daemon.url) as stream:
        await stream.send_all(head("GET", f"/api/v1/events/stream?after={after}", headers))
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 404")
