"""Each kind of call that changes something, killed at each named point of its commit."""

from __future__ import annotations

import sqlite3
from functools import partial

import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Unreachable, task
from swarmd.config import Config
from swarmd.core.model import BotId, Condition, SessionId, Share
from swarmd.core.sessions import Newcomer
from swarmd.daemon.daemon import NoSpace, open_daemon
from swarmd.store.backend import MemoryBackend
from swarmd.store.schema import MIGRATIONS
from tests.faults.bench import EVERYTHING, KINDS, NOTHING, bench
from tests.simulate.lab import COMMIT_POINTS


@pytest.mark.parametrize("point", COMMIT_POINTS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("where", ["file", "memory"])
async def test_a_kill_leaves_nothing_or_everything_and_the_call_can_be_repeated(
    where, name, point, tmp_path, autojump_clock
):
    """*Acknowledged is durable*, and what was not acknowledged is there wholly or not at all; the same call again
    (with its request id, key or seq) gives the same answer and has no second effect."""
    kind = KINDS[name]
    async with bench(tmp_path / "swarmd.db" if where == "file" else None) as b:
        await kind.prepare(b)
        await b.settled()
        assert await kind.effect(b) == NOTHING
        b.lab.kill_at(point, 0)
        with pytest.raises(Unreachable):
            await kind.act(b, b.hasty)
        await b.lab.up()
        assert await kind.effect(b) == (EVERYTHING if point == "after_commit" else NOTHING)
        answer = await kind.act(b, b.client)
        assert await kind.effect(b) == EVERYTHING
        assert await kind.act(b, b.client) == answer
        assert await kind.effect(b) == EVERYTHING
        b.lab.kill()
        await b.killed()
        assert await kind.effect(b) == EVERYTHING


@pytest.mark.parametrize("name", KINDS)
async def test_no_answer_leaves_before_its_commit(name, tmp_path, autojump_clock):
    """*Acknowledged is durable*: while a commit is held back, its answer is."""
    kind = KINDS[name]
    async with bench(tmp_path / "swarmd.db") as b:
        await kind.prepare(b)
        await b.settled()
        answered = trio.Event()

        async def act() -> None:
            await kind.act(b, b.client)
            answered.set()

        async with trio.open_nursery() as nursery:
            with (await b.lab.up()).writer.hold_commits():
                nursery.start_soon(act)
                await trio.sleep(10)
                assert not answered.is_set()
            await answered.wait()
        assert await kind.effect(b) == EVERYTHING


async def test_a_full_disk_does_not_end_the_daemon_while_a_ready_task_is_looked_up(tmp_path, autojump_clock):
    """A task whose sameness key is looked up when it becomes ready waits for the disk, like everything else."""
    async with bench(tmp_path / "swarmd.db") as b:
        needs = {"os": ["amiga"]}
        [first] = await b.client.submit([task(argv=["a"], dimensions=needs)])
        after = [m.Dependency(on=first, condition=Condition.ANY)]
        [second] = await b.client.submit(
            [task(argv=["b"], dimensions=needs, after=after, sameness="k", share=Share.FINISHED)]
        )
        b.lab.disk.full = True
        with pytest.raises(ApiError, match="full"):
            await b.hasty.cancel([first])
        await trio.sleep(600)
        b.lab.disk.full = False
        await trio.sleep(5)
        assert (await b.client.get(first)).state == "CANCELED"
        assert (await b.client.get(second)).state == "PENDING"
        assert b.lab.starts == 1


async def test_a_request_repeated_on_a_full_disk_is_accepted_once(tmp_path, autojump_clock):
    """The same request id again, while the first one still waits for space and after it was told 507, is one
    submission."""
    async with bench(tmp_path / "swarmd.db") as b:
        b.lab.disk.full = True
        codes = []

        async def submit() -> None:
            try:
                await b.hasty.submit([task(argv=["a"])], request_id="one")
            except ApiError as error:
                codes.append(error.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            nursery.start_soon(submit)
        assert codes == [507, 507]
        b.lab.disk.full = False
        await trio.sleep(5)
        ids = await b.client.submit([task(argv=["a"])], request_id="one")
        assert [t.id for t in await b.client.tasks().all()] == ids
        assert b.lab.starts == 1


async def test_a_read_that_meets_a_full_disk_is_answered_from_the_last_committed_state(
    tmp_path, autojump_clock
):
    """Reads go on, also the one that was waiting for the commit that found no room; what decides on a change waits."""
    async with bench(tmp_path / "swarmd.db") as b:
        daemon = await b.lab.up()

        def graphs(conn: sqlite3.Connection) -> int:
            return int(conn.execute("SELECT COUNT(*) FROM graphs").fetchone()[0])

        b.lab.disk.full = True
        with daemon.step() as (engine, now):
            engine.new_graph(now, "g", "", True)
        assert not daemon.writer.out_of_space
        assert await daemon.read(graphs) == 0
        with pytest.raises(NoSpace):
            await daemon.read_settled(graphs)
        b.lab.disk.full = False
        assert await daemon.read_settled(graphs) == 1


async def test_a_sign_of_life_never_sets_the_clock_of_the_file_back(tmp_path, autojump_clock):
    """What a commit brings is newer than a moment noted before it: ids given after a kill are new ones."""
    async with bench(tmp_path / "swarmd.db") as b:
        await b.bot.open()
        await b.client.submit([task(argv=["a"])])
        await b.bot.run_one()
        await trio.sleep(50)
        await b.bot.sync(wait_s=30.0)
        daemon = await b.lab.up()
        async with trio.open_nursery() as nursery:
            with daemon.writer.hold_commits():
                nursery.start_soon(partial(b.bot.sync, 0))
                await trio.sleep(1)
                nursery.start_soon(b.client.submit, [task(argv=["b"])])
                await trio.sleep(1)
        [(last_id,)] = await b.rows("SELECT last_id FROM clock")
        assert last_id == daemon.engine.ids.last


@pytest.mark.parametrize("late", range(3))
async def test_a_call_that_ends_after_the_scheduler_starts_nothing_in_it(late, autojump_clock):
    """When the daemon has to stop at once, a call that was held ends a few steps later than the scheduler's tasks.
    trio's order of tasks is random, so it is tried many times."""
    for _ in range(40):
        await _end_with_a_held_call(late)


async def _end_with_a_held_call(late: int) -> None:
    backend = MemoryBackend()
    backend.migrate(MIGRATIONS)
    daemon = await open_daemon(Config(), backend)

    async def held_call(session: SessionId) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(late):
                    await trio.lowlevel.checkpoint()
            with daemon.step() as (engine, now):
                engine.seen(now, session)
                engine.moved.add(session)

    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        with daemon.step() as (engine, now):
            opened = engine.open_session(now, Newcomer(BotId("b1"), "native", "k" * 8, "", {}, (), 1))
        nursery.start_soon(held_call, opened.session)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await backend.close()
