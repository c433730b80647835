"""Errors that need a rare state of the world."""

from __future__ import annotations

import msgspec
import pytest
import trio

from swarmd.api.native import form
from swarmd.api.native.messages import ErrorAnswer
from swarmd.api.problems import problem_of
from swarmd.client import ApiError, BotOrderRequest, task
from swarmd.core.errors import Busy, Refused
from swarmd.core.submitting import LookAgain, TaskSpec
from swarmd.store.errors import StoreBroken, StoreError
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.wire import connect, head


async def test_an_order_to_a_bot_that_is_not_there(autojump_clock):
    async with running() as world:
        bot = NativeBot(world.client)
        await bot.open()
        await bot.close()
        with pytest.raises(ApiError) as caught:
            await world.client.order_bot("b1", BotOrderRequest(order="restart"))
        assert (caught.value.status, caught.value.code) == (409, "bot_dead") and caught.value.remedy
        assert (await world.client.order_bot("b1", BotOrderRequest(drain=True))).draining


async def test_too_many_bots(autojump_clock):
    async with running() as world:
        engine = world.daemon.engine
        engine.settings = msgspec.structs.replace(engine.settings, max_bots=1)
        await NativeBot(world.client, "first").open()
        with pytest.raises(ApiError) as caught:
            await NativeBot(world.client, "second").open()
        assert (caught.value.status, caught.value.code) == (400, "too_many_bots")
        await NativeBot(world.client, "first").open()


async def test_a_submission_whose_dependencies_never_rest_is_busy(autojump_clock):
    async with running() as world:

        def submit(now, specs, *rest):
            raise LookAgain([])

        world.daemon.engine.submit = submit
        with pytest.raises(ApiError) as caught:
            await world.client.submit([task(argv=["x"])])
        assert (caught.value.status, caught.value.code) == (503, "busy")


async def test_no_more_than_eight_slices_from_any_protocol(autojump_clock):
    async with running() as world:
        with world.daemon.step() as (engine, now), pytest.raises(Refused) as caught:
            engine.submit(now, [TaskSpec(work=(), slices=())])
        assert caught.value.code == "bad_slices" and caught.value.remedy


async def test_a_body_that_is_cut_off_changes_nothing(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        for target, kind in (
            ("/api/v1/tasks", "application/json"),
            ("/api/v1/blobs", "application/octet-stream"),
        ):
            async with await connect(world.url) as stream:
                headers = [("Content-Type", kind), ("Content-Length", "1000000")]
                await stream.send_all(head("POST", target, headers) + b"{" * 300_000)
            await trio.sleep(1)
        assert [t async for t in world.client.tasks()] == []

        def count(conn):
            return conn.execute("SELECT count(*) FROM blobs").fetchone()[0]

        await world.daemon.writer.drain()
        assert await world.daemon.read(count) == 0


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Busy("busy", "later", 2.5, "wait"), 503, "3"),
        (StoreBroken("the disk is gone"), 503, "5"),
        (StoreError("blob_missing", "gone"), 404, None),
        (StoreError("size_mismatch", "short"), 400, None),
        (StoreError("copy_failed", "no"), 500, None),
        (ValueError("a secret"), 500, None),
    ],
)
def test_every_error_has_a_form(error, status, retry_after):
    problem = problem_of(error)
    assert problem is not None
    reply = form(problem)
    assert reply.status == status
    told = msgspec.json.decode(reply.body, type=ErrorAnswer).error
    assert told.code and told.message and told.remedy and "secret" not in told.message
    assert dict(reply.headers).get(b"retry-after", b"").decode() == (retry_after or "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_what_is_not_ours_to_answer(error):
    assert problem_of(error) is None
