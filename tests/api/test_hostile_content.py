"""Paths that lead elsewhere, and content that is a page or controls a terminal: what the API makes of them."""

from __future__ import annotations

import re

import pytest

from swarmd.api.edge import SECURITY_HEADERS
from swarmd.api.native import messages as m
from swarmd.api.native.routes import ROUTES
from swarmd.client import GraphRequest, task
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.wire import JSON, Answer, send
from tests.api.worlds import DIGEST, NOBODY

PLACES = {
    "id": NOBODY, "bot": "b1", "session": NOBODY, "attempt": NOBODY, "stream": "stdout", "sha256": DIGEST,
}  # fmt: skip
ELSEWHERE = [
    "..", ".", "%2e%2e", "%2E%2E%2F%2E%2E%2Fetc%2Fpasswd", "..%5c..%5cetc%5cpasswd", "..\\..\\etc\\passwd",
    "%2fetc%2fpasswd", "%00", "a%00.txt", "..%00/", "%c0%ae%c0%ae%c0%af", "....//", "file:%2f%2f%2fetc%2fpasswd",
    "~root", "$HOME", "%252e%252e%252f", "swarmd.db", "%0d%0aX-Evil:%201", "%1b%5b2J", "%3Cscript%3E",
]  # fmt: skip
PAGE = b"<!doctype html><script>alert(1)</script>"
EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\nX-Evil: 1\r\n\r\n<script>alert(1)</script>"


def is_harmless(answer: Answer) -> None:
    """No browser takes it for a page, and nothing that was sent has become a header."""
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name.decode()] == value.decode()
    kinds = ("application/json", "application/octet-stream", "text/event-stream", "text/plain")
    assert answer.headers["content-type"].partition(";")[0] in kinds
    assert "x-evil" not in answer.headers
    assert all(value.isprintable() for value in answer.headers.values())


@pytest.mark.parametrize("text", ELSEWHERE)
async def test_no_path_leads_out_of_the_routes(text, autojump_clock, tmp_path):
    """The daemon opens no file by a name that it was told, so every such path names nothing."""
    async with running(tmp_path / "swarmd.db", tcp=True) as daemon:
        for route in ROUTES:
            for place in re.findall(r"{(\w+)}", route.path):
                target = route.path.format(**{**PLACES, place: text})
                body = b"{}" if route.request is not None else b""
                answer = await send(daemon.url, route.method, target, body, (JSON,))
                assert 400 <= answer.status < 500, (route, place)
                assert b"root:" not in answer.body and b"SQLite" not in answer.body
                is_harmless(answer)
                if route.method != "HEAD":
                    assert answer.error.code and answer.error.message.isprintable()
        answer = await send(daemon.url, "GET", f"/{text}")
        assert answer.status == 404
        is_harmless(answer)


async def test_what_others_wrote_is_no_page_and_no_header(autojump_clock):
    async with running(tcp=True) as daemon:
        client = daemon.client
        bot = NativeBot(client, "b1", dimensions={"os": ["<script>alert(1)</script>"]})
        await bot.open(version=EVIL)
        [id] = await client.submit([task(argv=[EVIL], name=EVIL, tags=[EVIL], key=EVIL, env={"X": EVIL})])
        offer = await bot.run_one()
        bot.write(offer.attempt, PAGE)
        output = m.OutputFile(path=EVIL, blob=DIGEST, size=1)
        bot.finish(offer.attempt, 1, reason=EVIL, outputs=[output])
        await bot.sync(state={EVIL: EVIL})
        await client.order_bot("b1", m.BotOrderRequest(quarantine=EVIL))
        graph = await client.submit_graph(GraphRequest(name=EVIL, open=True))
        blob = (await client.upload_bytes(PAGE)).sha256
        places = {"bot": "b1", "stream": "stdout", "sha256": blob}
        seen = b""
        for route in ROUTES:
            if route.method == "GET" and route.handler not in ("stream_events", "backup"):
                ids = {**places, "id": graph.id if "graphs" in route.path else id}
                answer = await send(daemon.url, "GET", route.path.format(**ids))
                assert answer.status == 200, route
                is_harmless(answer)
                if answer.headers["content-type"].startswith("text/plain"):
                    assert b"script" not in answer.body
                if answer.headers["content-type"] == "application/json":
                    assert not re.search(rb"[\x00-\x1f]", answer.body)
                seen += answer.body
        assert seen.count(b"<script>") > 10  # it was there to be seen


@pytest.mark.parametrize("given", ["text/html", "image/svg+xml", "application/xhtml+xml"])
async def test_a_blob_has_no_type_of_its_own(given, autojump_clock):
    async with running(tcp=True) as daemon:
        put = await send(daemon.url, "POST", "/api/v1/blobs", PAGE, (("Content-Type", given),))
        answer = await send(daemon.url, "GET", f"/api/v1/blobs/{put.json()['sha256']}")
        assert answer.headers["content-type"] == "application/octet-stream" and answer.body == PAGE
        is_harmless(answer)


async def test_errors_repeat_only_what_can_be_shown(autojump_clock):
    """Messages quote what was sent, and quoting takes out what a terminal might obey."""
    async with running(tcp=True) as daemon:
        for method, path, body in (
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"], "cwd": f"../{EVIL}"}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"name": EVIL}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"], "dimensions": {EVIL: ["x"]}}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"], "dimensions": {"x": [EVIL]}}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"], "after": [EVIL]}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"], "env": {f"{EVIL}=": "x"}}]}),
            ("POST", "/api/v1/tasks", {"tasks": [{"argv": ["x"]}], EVIL: 1}),
            ("POST", "/api/v1/graphs", {"tasks": [{"key": EVIL, "argv": ["x"], "after": [EVIL]}]}),
        ):
            answer = await send(daemon.url, method, path, body)
            assert answer.status == 400, answer
            is_harmless(answer)
            assert answer.error.message.isprintable(), answer.error
