"""The edge, over every route of the list: one that is added tomorrow is covered without a new line here."""

from __future__ import annotations

import h11
import msgspec
import pytest
import trio

from swarmd.api.calls import Reply
from swarmd.api.edge import SECURITY_HEADERS
from swarmd.api.native.routes import ROUTES
from swarmd.api.openapi import document
from swarmd.api.routes import Verb
from swarmd.api.swarming.methods import ROUTES as CLIENT_ROUTES
from swarmd.api.swarming.routes import ROUTES as BOT_ROUTES
from swarmd.config import Config
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.wire import JSON, connect, head, read_answer, send
from tests.api.worlds import DIGEST, NOBODY

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
PATHS = sorted({route.path for route in (*ROUTES, *BOT_ROUTES, *CLIENT_ROUTES)})
FORM = ("Content-Type", "application/x-www-form-urlencoded")
TOKEN = "correct-horse-battery-staple"
SOME = {
    "id": NOBODY, "bot": "b1", "session": NOBODY, "attempt": NOBODY, "stream": "stdout", "sha256": DIGEST,
    "digest": DIGEST, "task": "7ae68d4b33000001",
}  # fmt: skip


def target(path: str) -> str:
    return path.format(**SOME)


def spied(app) -> list[str]:
    """Replaces every handler; the list gets the names of those that are entered."""
    entered: list[str] = []

    def spy(name):
        async def handler(call):
            entered.append(name)
            raise AssertionError(f"{name} was entered")

        return handler

    app._handlers = {name: spy(name) for name in app._handlers}
    return entered


HOSTILE = {
    "foreign host": ((), {"host": "evil.example"}, (421,), "wrong_host"),
    "foreign host with our port": ((), {"host": "evil.example:8710"}, (421,), "wrong_host"),
    "a name that begins like ours": ((), {"host": "localhost.evil.example"}, (421,), "wrong_host"),
    "an address with a zone": ((), {"host": "[::1%'<x>']"}, (421,), "wrong_host"),
    "a port in other digits": ((), {"host": "localhost:\xb2"}, (421,), "wrong_host"),
    "an address that begins like ours": ((), {"host": "127.0.0.1.evil.example"}, (421,), "wrong_host"),
    "foreign origin": ((("Origin", "http://evil.example"),), {}, (403,), "foreign_origin"),
    "our name, another scheme": ((("Origin", "file://localhost"),), {}, (403,), "foreign_origin"),
    "our name, another port": ((("Origin", "http://localhost:1"),), {}, (403,), "foreign_origin"),
    "no origin to tell": ((("Origin", "null"),), {}, (403,), "foreign_origin"),
    "empty origin": ((("Origin", ""),), {}, (403,), "foreign_origin"),
    "two origins": (
        (("Origin", "http://localhost"), ("Origin", "http://evil.example")), {}, (403,), "foreign_origin",
    ),
    "cross-site": ((("Sec-Fetch-Site", "cross-site"),), {}, (403,), "foreign_origin"),
    "same-site": ((("Sec-Fetch-Site", "same-site"),), {}, (403,), "foreign_origin"),
    "form": ((FORM,), {}, (415, 400), "wrong_content_type"),
    "form with files": (
        (("Content-Type", "multipart/form-data; boundary=x"),), {}, (415, 400), "wrong_content_type",
    ),
    "text": ((("Content-Type", "text/plain;charset=UTF-8"),), {}, (415, 400), "wrong_content_type"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_page_reaches_no_handler(name, autojump_clock):
    headers, how, statuses, code = HOSTILE[name]
    async with running(tcp=True) as daemon:
        entered = spied(daemon.app)
        allowed = {(route.method, route.path) for route in daemon.app.routes}
        for path in sorted({route.path for route in daemon.app.routes}):
            for method in METHODS:
                body = b"a=b" if any(n == "Content-Type" for n, _ in headers) else b""
                answer = await send(daemon.url, method, target(path), body, headers, **how)
                if code == "wrong_content_type" and (method, path) not in allowed:
                    assert answer.status == 405, (method, path)
                    continue
                assert answer.status in statuses, (method, path, answer)
                if method != "HEAD":
                    assert answer.error.code == code and answer.error.remedy, (method, path)
        assert entered == []


@pytest.mark.parametrize("hosts", [(), ("localhost", "localhost"), ("localhost", "evil.example")])
async def test_exactly_one_host_is_taken(hosts, autojump_clock):
    async with running(tcp=True) as daemon:
        entered = spied(daemon.app)
        for route in daemon.app.routes:
            async with await connect(daemon.url) as stream:
                headers = [("Host", host) for host in hosts]
                headers.append(("Content-Length", "0"))
                await stream.send_all(head(route.method, target(route.path), headers, host=None))
                answer = await read_answer(stream, route.method)
            assert answer.status == 400, (route, answer)
        assert entered == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8710", "127.0.0.1", "127.0.0.1:80", "[::1]:8710", "127.8.9.1"]
)
async def test_our_own_names_are_taken(host, autojump_clock):
    async with running(tcp=True) as daemon:
        answer = await send(daemon.url, "GET", "/api/v1/counts", host=host)
        assert answer.status == 200
        same = (("Origin", f"http://{host.lower()}"), ("Sec-Fetch-Site", "same-origin"))
        assert (await send(daemon.url, "GET", "/api/v1/counts", headers=same, host=host)).status == 200
        typed = (("Sec-Fetch-Site", "none"),)
        assert (await send(daemon.url, "GET", "/api/v1/counts", headers=typed, host=host)).status == 200


@pytest.mark.parametrize("host", ["", "..", "a" * 300, "[::1", "a b", "x:99999", "\xff", "user@localhost"])
async def test_on_a_unix_socket_the_host_does_not_matter(host, autojump_clock):
    async with running() as daemon:
        for route in daemon.app.routes:
            if route.method == "GET" and "{" not in route.path and route.produces != "text/event-stream":
                answer = await send(daemon.url, "GET", route.path, host=host)
                assert answer.status == 200 or answer.error.code in (
                    "no_bot_code",
                    "bad_host",
                    "bad_parameter",
                ), route


async def test_a_listed_host_is_taken(autojump_clock):
    async with running(tcp=True, config=Config(allow_host=["Lab.example"])) as daemon:
        assert (await send(daemon.url, "GET", "/api/v1/counts", host="lab.EXAMPLE:8710")).status == 200
        assert (await send(daemon.url, "GET", "/api/v1/counts", host="xlab.example")).status == 421


# --------------------------------------------------------------------- tokens


def guarded(tmp_path, **more) -> Config:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return Config(token_file=str(file), trust_loopback=False, **more)


async def test_without_the_token_only_what_is_open_answers(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        entered = spied(daemon.app)
        wrong = (("Authorization", "Bearer " + TOKEN[:-1] + "x"),)
        for route in daemon.app.routes:
            if route.verb is Verb.OPEN:
                continue
            for headers in (
                (),
                wrong,
                (("Authorization", "Basic " + TOKEN),),
                (("Authorization", "Bearer"),),
            ):
                sent = (*headers, JSON)
                answer = await send(daemon.url, route.method, target(route.path), b"{}", sent)
                assert answer.status == 401, route
                assert answer.headers["www-authenticate"] == "Bearer"
                if route.method != "HEAD":
                    assert answer.error.code == "token_needed" and "SWARMD_TOKEN_FILE" in answer.error.remedy
        assert entered == []


async def test_the_token_opens_in_a_header_and_in_the_path(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        shown = (("Authorization", "Bearer " + TOKEN),)
        assert (await send(daemon.url, "GET", "/api/v1/counts", headers=shown)).status == 200
        assert (await send(daemon.url, "GET", f"/{TOKEN}/api/v1/counts")).status == 200
        assert (await send(daemon.url, "GET", f"/{TOKEN}/metrics")).status == 200
        assert (await send(daemon.url, "GET", "/wrong-wrong-wrong-wrong/api/v1/counts")).status in (401, 404)
        assert (await send(daemon.url, "GET", "/api/v1/health")).status == 200
        hot = await send(daemon.url, "POST", f"/{TOKEN}/api/v1/sessions/{NOBODY}/sync", {"seq": 1})
        assert (hot.status, hot.error.code) == (404, "unknown_session")
        # Also with the token, a page of another site does not get in.
        foreign = (*shown, ("Origin", "http://evil.example"))
        assert (await send(daemon.url, "GET", "/api/v1/counts", headers=foreign)).status == 403


async def test_an_error_never_shows_the_token(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        for method, path in (
            ("GET", "/nothing"), ("DELETE", "/api/v1/tasks"), ("GET", "/api/v1/tasks/7"), ("GET", ""), ("GET", "/"),
        ):  # fmt: skip
            answer = await send(daemon.url, method, f"/{TOKEN}{path}")
            assert answer.status >= 400 and TOKEN.encode() not in answer.body


async def test_the_log_never_shows_the_token(autojump_clock, tmp_path, caplog):
    """An answer that breaks off is logged with its path, which may have begun with the token."""

    async def breaks_off():
        yield b"the first half"
        raise RuntimeError("in the middle")

    async def handler(call):
        return Reply(stream=breaks_off())

    caplog.set_level("DEBUG", "swarmd")
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        daemon.app._handlers = dict.fromkeys(daemon.app._handlers, handler)
        for path in ("/api/v1/tasks", f"/api/v1/blobs/{DIGEST}"):
            with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
                await send(daemon.url, "GET", f"/{TOKEN}{path}")
    logged = [(r.getMessage(), vars(r).get("path")) for r in caplog.records]
    assert logged == [("request.failed", "/api/v1/tasks"), ("request.failed", f"/api/v1/blobs/{DIGEST}")]
    assert TOKEN not in caplog.text


async def test_behind_the_token_in_its_path_a_call_is_as_any_other(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        for path, headers, status in (
            ("/swarming/api/v1/bot/nothing", (), 404),
            ("/swarming/api/v1/bot/poll", (), 405),
            ("/bot_code", (FORM,), 400),
        ):
            plain = (*headers, ("Authorization", "Bearer " + TOKEN))
            answers = [
                await send(daemon.url, "GET", path, headers=plain),
                await send(daemon.url, "GET", f"/{TOKEN}{path}", headers=headers),
            ]
            assert [answer.status for answer in answers] == [status] * 2, path
            assert answers[0].body == answers[1].body, path  # in the form of the protocol whose path it is


async def test_a_listed_network_needs_no_token(autojump_clock, tmp_path):
    config = Config(allow_network=["127.0.0.0/8"], trust_loopback=False)
    async with running(tcp=True, config=config) as daemon:
        assert (
            await send(daemon.url, "GET", "/api/v1/counts")
        ).status == 401  # loopback has a switch of its own


# --------------------------------------------------------------------- forms of answers


async def test_every_answer_carries_the_security_headers(autojump_clock):
    async with running(tcp=True) as daemon:
        for route in daemon.app.routes:
            if route.produces == "text/event-stream" and "{" not in route.path:
                continue  # it never ends; the next test looks at it
            answer = await send(daemon.url, route.method, target(route.path), b"{}", (JSON,))
            for name, value in SECURITY_HEADERS:
                assert answer.headers[name.decode()] == value.decode(), route
            assert "server" not in answer.headers or "hypercorn" not in answer.headers["server"].lower(), (
                route
            )


async def test_a_stream_carries_them_too(autojump_clock):
    async with running(tcp=True) as daemon, await connect(daemon.url) as stream:
        await stream.send_all(head("GET", "/api/v1/events/stream", []))
        data = b""
        while b"retry:" not in data:
            data += await stream.receive_some(4096)
        for name, value in SECURITY_HEADERS:
            assert b"%b: %b\r\n" % (name, value) in data.lower()
        assert b"content-type: text/event-stream" in data.lower()


NO_PAGES = [
    ("GET", "/"), ("GET", "/favicon.ico"), ("GET", "/static/x"), ("GET", "/api"), ("GET", "/api/v1"),
    ("GET", "/api/v1/tasks/"), ("GET", "//"), ("GET", "/%2e%2e/etc/passwd"), ("GET", "/api/v1/%00"), ("GET", "/..%2f"),
    ("TRACE", "/api/v1/tasks"), ("OPTIONS", "*"), ("FOO", "/api/v1/tasks"), ("POST", "/api/v1/health"),
    ("GET", "/api/v1/tasks/%ff%fe"), ("GET", "/api/v1/bots/%e2%98%83"), ("PROPFIND", "/"),
    ("GET", "/api/v1/bots/a%0Ab"), ("GET", "/api/v1/tasks/%0D%0A/explain"), ("GET", "/api/v1/bots/%2F%2F"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), NO_PAGES)
async def test_no_page_of_a_framework_appears(method, path, autojump_clock):
    async with running(tcp=True) as daemon:
        answer = await send(daemon.url, method, path)
        assert answer.status in (404, 405)
        assert answer.error.code in ("unknown_route", "wrong_method", "unknown_task", "unknown_bot")
        assert b"<" not in answer.body
        if answer.status == 405:
            assert answer.headers["allow"]


async def test_a_handler_that_fails_gives_our_500_and_no_detail(autojump_clock, caplog):
    async with running(tcp=True) as daemon:
        spied(daemon.app)
        for route in daemon.app.routes:
            body = b"{}" if route.request is None else msgspec.json.encode(_least(route.request))
            answer = await send(daemon.url, route.method, target(route.path), body, (JSON,))
            assert answer.status == 500, route
            if route.method != "HEAD":
                assert answer.error.code == "internal" and b"entered" not in answer.body
        assert sum(r.getMessage() == "call.failed" for r in caplog.records) == len(daemon.app.routes)


def _least(kind) -> dict:
    """The smallest body that decodes."""
    given = {
        "tasks": [{"argv": ["x"]}], "ids": [NOBODY], "filter": {}, "after": [], "digests": [], "seq": 1,
        "session_key": "k" * 8, "bot_key": "b" * 16, "dimensions": {},
    }  # fmt: skip
    return {f.name: given[f.name] for f in msgspec.structs.fields(kind) if f.required}


async def test_head_answers_without_a_body_and_the_connection_stays_good(autojump_clock):
    async with running(tcp=True) as daemon:
        sha256 = (await daemon.client.upload_bytes(b"x" * 100_000)).sha256
        async with await connect(daemon.url) as stream:
            for path, status in ((f"/api/v1/blobs/{sha256}", 200), (f"/api/v1/blobs/{DIGEST}", 404)):
                await stream.send_all(head("HEAD", path, []))
                answer = await read_answer(stream, "HEAD")
                assert (answer.status, answer.body) == (status, b"")
            assert answer.headers["content-type"] == "application/json"
            await stream.send_all(head("HEAD", f"/api/v1/blobs/{sha256}", []))
            assert (await read_answer(stream, "HEAD")).headers["content-length"] == "100000"
            await stream.send_all(head("HEAD", "/api/v1/tasks", []))
            assert (await read_answer(stream, "HEAD")).status == 405
            await stream.send_all(head("GET", "/api/v1/health", []))
            assert (await read_answer(stream, "GET")).json()["status"] == "ok"


async def test_websockets_are_refused(autojump_clock):
    async with running(tcp=True) as daemon:
        entered = spied(daemon.app)
        headers = [
            ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]  # fmt: skip
        for path in PATHS:
            async with await connect(daemon.url) as stream:
                await stream.send_all(head("GET", target(path), headers))
                with trio.fail_after(10):
                    data = await stream.receive_some(4096)
                assert not data.startswith(b"HTTP/1.1 101"), path
                assert data[9:10] in (b"4", b""), (path, data)
        assert entered == []
        assert (await send(daemon.url, "GET", "/nothing")).status == 404  # still well


async def test_while_stopping_only_what_is_open_answers(autojump_clock):
    async with running(tcp=True) as daemon:
        daemon.daemon.stop_soon()
        entered = spied(daemon.app)
        for route in daemon.app.routes:
            if route.verb is not Verb.OPEN:
                answer = await send(daemon.url, route.method, target(route.path), b"{}", (JSON,))
                assert answer.status == 503 and answer.headers["retry-after"] == "1", route
                assert answer.headers["connection"] == "close", route
        assert entered == []


async def test_the_answer_to_a_held_call_of_a_daemon_that_stops_is_the_last_of_its_connection(autojump_clock):
    """Ten thousand bots sent their next call on it, and were refused one by one: the stop took 24 s."""
    async with running(tcp=True) as daemon, trio.open_nursery() as nursery:
        opened = await NativeBot(daemon.client).open()
        held = []

        async def hold():
            body = msgspec.json.encode({"seq": 1, "free": 1, "wait_s": 50})
            path = f"/api/v1/sessions/{opened.session}/sync"
            held.append(await send(daemon.url, "POST", path, body, (JSON,)))

        nursery.start_soon(hold)
        await trio.sleep(1)
        assert daemon.daemon.held and not held
        daemon.daemon.stop_soon()
        await trio.sleep(1)
        assert (held[0].status, held[0].headers["connection"]) == (200, "close")


# --------------------------------------------------------------------- the OpenAPI file


def _all_references(node) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _all_references(value)]
    return [r for value in node for r in _all_references(value)] if isinstance(node, list) else []


async def test_the_openapi_file_lists_exactly_the_routes(autojump_clock):
    async with running() as daemon:
        served = await daemon.client.openapi()
        assert served == msgspec.json.decode(msgspec.json.encode(document()))
        listed = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
        assert listed == {(route.method, route.path) for route in daemon.app.packages[0].routes}


def test_the_openapi_file_is_sound():
    """What a validator checks of its structure: references, parameters, names, responses."""
    file = msgspec.json.decode(msgspec.json.encode(document()))
    assert file["openapi"].startswith("3.1.") and file["info"]["title"] and file["info"]["version"]
    schemas = file["components"]["schemas"]
    for reference in _all_references(file):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    names = []
    for path, methods in file["paths"].items():
        in_path = {segment[1:-1] for segment in path.split("/") if segment.startswith("{")}
        for method, operation in methods.items():
            names.append(operation["operationId"])
            parameters = [(p["in"], p["name"]) for p in operation["parameters"]]
            assert len(parameters) == len(set(parameters))
            assert {name for where, name in parameters if where == "path"} == in_path
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
            assert all("schema" in p and p["description"] for p in operation["parameters"])
            assert operation["summary"].endswith((".", "?", "`.")) and operation["responses"]
            assert any(status.startswith("2") for status in operation["responses"])
            if method in ("get", "head", "delete"):
                assert "requestBody" not in operation
    assert len(names) == len(set(names))


def test_the_openapi_file_passes_the_validator():
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(msgspec.json.decode(msgspec.json.encode(document())))
