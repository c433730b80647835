"""Each kind of call that changes something, killed at each named point of its commit."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Unreachable, task
from swarmd.core.ids import to_text
from swarmd.core.model import Condition, Share
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


async def test_an_event_stream_outlives_a_full_disk(tmp_path, autojump_clock):
    """Reads go on: a follower keeps its connection and gets everything when there is room again."""
    async with bench(tmp_path / "swarmd.db") as b:
        seen = []

        async def follow() -> None:
            async with b.hasty.stream_events(after=to_text(0)) as stream:
                async for event in stream:
                    seen.append(event.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            links = set(b.net.links)
            b.lab.disk.full = True
            with pytest.raises(ApiError, match="full"):
                await b.hasty.submit([task(argv=["a"])])
            await trio.sleep(300)
            b.lab.disk.full = False
            await trio.sleep(5)
            assert seen and links <= b.net.links
            nursery.cancel_scope.cancel()


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
