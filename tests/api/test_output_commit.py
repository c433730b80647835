"""Acknowledged is durable: while a commit is held back, no byte of an answer leaves, whatever the call."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import trio

from swarmd.api.native.routes import ROUTES
from swarmd.client import task
from swarmd.config import Config
from swarmd.config_swarming import SwarmingConfig
from swarmd.daemon.daemon import NO_SPACE_WAIT_S
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.swarming.test_bot_code import a_zip
from tests.api.wire import connect, head, read_answer, send
from tests.api.worlds import DIGEST, World, small_world

JSON = "application/json"
BYTES = "application/octet-stream"
API = "/api/v1"
NEW_BOT = {"session_key": "k" * 8, "bot_key": "b" * 16, "dimensions": {}}
SHA_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

# handler: a request that changes something. Every POST, PUT, PATCH and DELETE of the list must be here or in READS.
CHANGES: dict[str, Callable[[World], tuple[str, Any]]] = {
    "submit": lambda w: (f"{API}/tasks", {"tasks": [{"argv": ["x"]}]}),
    "cancel_tasks": lambda w: (f"{API}/tasks/cancel", {"filter": {"ids": [w.running]}}),
    "retry_tasks": lambda w: (f"{API}/tasks/retry", {"filter": {"ids": [w.done]}}),
    "set_after": lambda w: (f"{API}/tasks/{w.blocked}/after", {"after": []}),
    "submit_graph": lambda w: (f"{API}/graphs", {"tasks": [{"key": "a", "argv": ["x"]}]}),
    "add_to_graph": lambda w: (
        f"{API}/graphs/{w.open_graph}/tasks",
        {"tasks": [{"key": "b", "argv": ["x"]}]},
    ),
    "close_graph": lambda w: (f"{API}/graphs/{w.open_graph}/close", b""),
    "order_bot": lambda w: (f"{API}/bots/b1", {"drain": True}),
    "delete_bot": lambda w: (f"{API}/bots/gone", b""),
    "put_blob": lambda w: (f"{API}/blobs", b"abc"),
    "put_named_blob": lambda w: (f"{API}/blobs/{SHA_OF_ABC}", b"abc"),
    "open_session": lambda w: (f"{API}/bots/new/sessions", NEW_BOT),
    "sync": lambda w: (
        f"{API}/sessions/{w.bot.session}/sync",
        {"seq": 99, "wait_s": 0, "finished": [{"attempt": w.attempt, "ok": True, "exit_code": 0}]},
    ),
    "close_session": lambda w: (f"{API}/sessions/{w.bot.session}", b""),
    "mint_bootstrap": lambda w: (f"{API}/swarming/bootstrap", b""),  # the first one: its key is kept
    "append_output": lambda w: (f"{API}/attempts/{w.attempt}/output/stdout?offset=0", b"abc"),
}
# These change nothing (`backup` writes another file, after everything known is in this one).
READS: dict[str, Callable[[World], tuple[str, Any]]] = {
    "wait_tasks": lambda w: (f"{API}/tasks/wait", {"ids": [w.done]}),
    "missing_blobs": lambda w: (f"{API}/blobs/missing", {"digests": [DIGEST]}),
    "backup": lambda w: (f"{API}/backup", b""),
}
BY_NAME = {route.handler: route for route in ROUTES}


def test_the_table_covers_the_list_of_routes():
    changing = {r.handler for r in ROUTES if r.method in ("POST", "PUT", "PATCH", "DELETE")}
    assert changing == set(CHANGES) | set(READS)


async def send_and_hold(stream: trio.abc.Stream, method: str, target: str, body: Any) -> None:
    import msgspec

    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = BYTES if isinstance(body, bytes) else JSON
    headers = [("Content-Length", str(len(raw)))] + ([("Content-Type", kind)] if raw else [])
    await stream.send_all(head(method, target, headers) + raw)


def dump(path) -> dict[str, list]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        names = [
            r[0] for r in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {name: conn.execute(f'SELECT * FROM "{name}" ORDER BY 1').fetchall() for name in names}


@pytest.mark.parametrize("handler", CHANGES)
async def test_no_byte_of_an_answer_leaves_before_the_commit(handler, autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    config = Config(swarming=SwarmingConfig(bot_code=str(a_zip(tmp_path / "bot.zip"))))
    async with running(path, config=config) as daemon:
        world = await small_world(daemon)
        gone = NativeBot(world.client, "gone")
        await gone.open()
        await gone.close()
        await daemon.daemon.writer.drain()
        before = dump(path)
        target, body = CHANGES[handler](world)
        async with await connect(daemon.url) as stream:
            with daemon.daemon.writer.hold_commits():
                await send_and_hold(stream, BY_NAME[handler].method, target, body)
                with trio.move_on_after(20) as scope:  # virtual time: all that can happen has happened
                    early = await stream.receive_some(1)
                    raise AssertionError(f"{early!r} left before the commit")
                assert scope.cancelled_caught
                assert dump(path) == before
            answer = await read_answer(stream, BY_NAME[handler].method)
        assert answer.status == BY_NAME[handler].status, answer
        assert dump(path) != before, "this row changes nothing: it proves nothing"


LOOKS: dict[str, Callable[[World], str]] = {
    "get_task": lambda w: f"{API}/tasks/{w.running}",
    "list_tasks": lambda w: f"{API}/tasks",
    "explain_task": lambda w: f"{API}/tasks/{w.waiting}/explain",
    "task_events": lambda w: f"{API}/tasks/{w.running}/events",
    "read_output": lambda w: f"{API}/tasks/{w.running}/output/stdout",
    "follow_output": lambda w: f"{API}/tasks/{w.running}/follow",
    "list_graphs": lambda w: f"{API}/graphs",
    "get_graph": lambda w: f"{API}/graphs/{w.open_graph}",
    "list_events": lambda w: f"{API}/events",
    "list_bots": lambda w: f"{API}/bots",
    "get_bot": lambda w: f"{API}/bots/b1",
    "bot_events": lambda w: f"{API}/bots/b1/events",
    "bot_tasks": lambda w: f"{API}/bots/b1/tasks",
    "counts": lambda w: f"{API}/counts",
    "list_instances": lambda w: f"{API}/remoteworkers/instances",
    "metrics": lambda w: "/metrics",
    "wait_tasks": lambda w: f"{API}/tasks/wait",
}
# What is shown there cannot be ahead of the file: blobs come from it, the stream waits for news of commits.
NEVER_AHEAD = {"get_blob", "head_blob", "missing_blobs", "health", "openapi", "stream_events", "backup"}


def test_every_route_that_reads_is_in_a_table():
    assert set(BY_NAME) == set(CHANGES) | set(LOOKS) | NEVER_AHEAD


@pytest.mark.parametrize("handler", LOOKS)
async def test_a_pure_read_of_what_is_not_yet_on_disk_waits_too(handler, autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        world = await small_world(daemon)
        async with await connect(daemon.url) as stream, trio.open_nursery() as nursery:
            with daemon.daemon.writer.hold_commits():
                nursery.start_soon(world.client.submit, [task(argv=["new"])])
                await trio.sleep(1)
                body = {"ids": [world.done]} if handler == "wait_tasks" else b""
                await send_and_hold(stream, BY_NAME[handler].method, LOOKS[handler](world), body)
                with trio.move_on_after(20):
                    data = await stream.receive_some(4096)
                    # A stream may begin, with its head and first comment; a fact it may not tell.
                    assert handler == "follow_output" and b"event:" not in data, data
                    data = await stream.receive_some(4096)
                    assert b"event:" not in data, data
            with trio.fail_after(60):
                assert b"HTTP/1.1 200" in await stream.receive_some(20) or handler == "follow_output"


@pytest.mark.parametrize(("durability", "level"), [("power", 2), ("process", 1)])
async def test_how_far_a_commit_goes(durability, level, autojump_clock, tmp_path):
    """2 is FULL: every commit is on the disk; 1 is NORMAL: it outlives the process."""
    async with running(tmp_path / "swarmd.db", config=Config(durability=durability)) as daemon:

        def ask(conn: sqlite3.Connection) -> tuple[int, str]:
            return conn.execute("PRAGMA synchronous").fetchone()[0], conn.execute(
                "PRAGMA journal_mode"
            ).fetchone()[0]

        # The pragma cannot be asked inside a transaction that changes it; reading is fine.
        found: list[tuple[int, str]] = []
        ticket = daemon.daemon.writer.submit(lambda conn: found.append(ask(conn)))
        await ticket.wait()
        assert found == [(level, "wal")]


def test_full_is_the_default():
    assert Config().durability == "power"


async def test_one_commit_takes_in_what_arrived_meanwhile(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        await daemon.client.counts()
        before = daemon.daemon.writer.commits
        async with trio.open_nursery() as nursery:
            with daemon.daemon.writer.hold_commits():
                for number in range(20):
                    body = {"tasks": [{"argv": [str(number)]}]}
                    nursery.start_soon(send, daemon.url, "POST", f"{API}/tasks", body)
                await trio.sleep(5)
        assert daemon.daemon.writer.commits - before == 1
        assert (await daemon.client.counts()).tasks["PENDING"] == 20


# --------------------------------------------------------------------- no space


def _fills_up(daemon):
    """Makes the next commits fail as on a full disk, until the returned function is called."""
    backend, real = daemon.daemon.backend, daemon.daemon.backend.transact

    async def transact(fn):
        await trio.lowlevel.cancel_shielded_checkpoint()
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    backend.transact = transact

    def there_is_room() -> None:
        backend.transact = real

    return there_is_room


async def test_on_a_full_disk_new_work_is_refused_reads_go_on_and_nothing_is_lost(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as daemon:
        world = await small_world(daemon)
        there_is_room = _fills_up(daemon)
        answers = []

        async def ask(method: str, target: str, body: Any = b"") -> None:
            async with await connect(daemon.url) as stream:
                await send_and_hold(stream, method, target, body)
                answers.append((await read_answer(stream, method), trio.current_time()))

        began = trio.current_time()
        body = {"tasks": [{"argv": ["x"]}], "request_id": "once"}
        await ask("POST", f"{API}/tasks", body)
        answer, at = answers.pop()
        assert (answer.status, answer.error.code) == (507, "no_space")
        assert "not known" in answer.error.message and "same request id" in answer.error.remedy
        assert at - began == pytest.approx(NO_SPACE_WAIT_S, abs=1)  # a bounded time
        await ask("POST", f"{API}/tasks", body)  # now it is known to be full: at once
        answer, later = answers.pop()
        assert (answer.status, answer.error.code) == (507, "no_space") and later - at < 1
        await ask("GET", f"{API}/tasks/{world.done}")
        assert answers.pop()[0].status == 200
        await ask("GET", f"{API}/health")
        assert answers.pop()[0].json()["status"] == "no_space"
        await ask("GET", "/metrics")
        assert b"swarmd_out_of_space 1.0" in answers.pop()[0].body
        there_is_room()
        await trio.sleep(2)
        await ask("POST", f"{API}/tasks", body)
        answer, _ = answers.pop()
        assert answer.status == 201
        [id] = answer.json()["ids"]
        named = [t.id async for t in world.client.tasks() if t.name == ""]
        assert named.count(id) == 1 and len([t async for t in world.client.tasks(state="PENDING")]) == 2
        assert (await world.client.health()).status == "ok"
        daemon.daemon.engine.check()


async def test_any_other_failure_of_a_commit_ends_the_daemon_with_a_sentence(autojump_clock, tmp_path):
    from swarmd.store.errors import StoreBroken

    path = tmp_path / "swarmd.db"
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(path) as daemon:
            [kept] = await daemon.client.submit([task(argv=["x"])])

            async def transact(fn):
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise sqlite3.OperationalError("disk I/O error")

            real, daemon.daemon.backend.transact = daemon.daemon.backend.transact, transact
            with trio.move_on_after(5):
                await daemon.client.submit([task(argv=["y"])])
            daemon.daemon.backend.transact = real
            await trio.sleep(100)
    [broken] = _leaves(caught.value)
    assert isinstance(broken, StoreBroken) and "Nothing of it was acknowledged" in broken.message
    async with running(path) as daemon:
        assert [t.id async for t in daemon.client.tasks()] == [kept]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
