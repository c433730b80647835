"""A submission with a request id happens once, however often and however it is sent."""

from __future__ import annotations

import sqlite3

import pytest
import trio
import trio.testing

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Filter, GraphRequest, SubmitRequest, task
from swarmd.core.model import Command, Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.daemon.daemon import Daemon, NoSpace
from swarmd.daemon.submitting import Submission, submit
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running

TASKS, GRAPHS, RETRY = "/api/v1/tasks", "/api/v1/graphs", "/api/v1/tasks/retry"


async def test_the_same_request_again_gives_the_same_ids_also_after_a_restart(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    request = SubmitRequest(tasks=[task(argv=["x"], array=m.ArrayRange(first=1, last=5))], request_id="r1")
    async with running(path) as world:
        first = await world.client.submit_request(request)
        assert len(set(first.ids)) == 5
        assert await world.client.submit_request(request) == first
    async with running(path) as world:
        assert await world.client.submit_request(request) == first
        assert len([t async for t in world.client.tasks()]) == 5


async def test_many_at_the_same_moment_are_one(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        answers = []

        async def send() -> None:
            request = SubmitRequest(tasks=[task(argv=["x"])], request_id="r1")
            answers.append((await world.client.submit_request(request)).ids)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(send)
        assert len(answers) == 30 and len({tuple(ids) for ids in answers}) == 1
        assert len([t async for t in world.client.tasks()]) == 1
        assert world.daemon.reserved == {}


async def test_a_caller_that_leaves_in_the_middle_leaves_one_submission(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        request = SubmitRequest(tasks=[task(argv=["x"])], request_id="r1")
        with world.daemon.writer.hold_commits(), trio.move_on_after(3):
            await world.client.submit_request(request)
        again = await world.client.submit_request(request)
        assert [t.id async for t in world.client.tasks()] == again.ids
        assert world.daemon.reserved == {}


async def test_a_refused_request_id_may_be_used_again(autojump_clock, tmp_path):
    """What was refused was not accepted: the corrected request goes in under the same id."""
    async with running(tmp_path / "swarmd.db") as world:
        with pytest.raises(ApiError, match="there is no task"):
            await world.client.submit([task(argv=["x"], after=["0" * 12 + "1"])], "r1")
        assert len(await world.client.submit([task(argv=["x"])], "r1")) == 1
        assert world.daemon.reserved == {}


async def test_a_graph_and_what_is_added_to_it_happen_once(autojump_clock, tmp_path):
    """An addition that is repeated finds its own keys in the graph: that is no doubled key."""
    path = tmp_path / "swarmd.db"
    new = GraphRequest(tasks=[task(key="a", argv=["x"])], open=True, request_id="g1")
    more = SubmitRequest(tasks=[task(key="b", argv=["x"], after=["a"])], request_id="g2")
    async with running(path) as world:
        graph = await world.client.submit_graph(new)
        added = await world.client.submit_request(more, graph.id)
        assert await world.client.submit_graph(new) == graph
        assert await world.client.submit_request(more, graph.id) == added
    async with running(path) as world:
        assert await world.client.submit_request(more, graph.id) == added
        await world.client.close_graph(graph.id)
        assert (
            await world.client.submit_request(more, graph.id) == added
        )  # also when nothing new may be added
        assert len([t async for t in world.client.tasks(graph=graph.id)]) == 2


async def test_two_additions_at_the_same_moment_cannot_use_the_same_key(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        graph = await world.client.submit_graph(GraphRequest(open=True))
        codes = []

        async def add(number: int) -> None:
            try:
                request = SubmitRequest(tasks=[task(key="same", argv=[str(number)])])
                await world.client.submit_request(request, graph.id)
                codes.append("ok")
            except ApiError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(add, number)
        assert sorted(codes) == ["doubled_key"] * 7 + ["ok"]
        assert len([t async for t in world.client.tasks(graph=graph.id)]) == 1


async def test_a_retry_happens_once_though_more_would_match_now(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        nursery.start_soon(lambda: bot.live(outcome=lambda offer: 1))
        await world.client.wait(await world.client.submit([task(argv=["x"])]))
        request = m.RetryRequest(filter=Filter(failed=True), request_id="r1")
        first = await world.client.call("POST", RETRY, request, m.BulkAnswer)
        assert first.changed == 1
        await world.client.wait(first.ids)
        assert await world.client.call("POST", RETRY, request, m.BulkAnswer) == first
        retried = await world.client.get(first.ids[0])
        assert retried.retry_of is not None and retried.id != retried.retry_of
        nursery.cancel_scope.cancel()


async def test_a_dependency_that_ends_while_it_is_looked_up_is_looked_up_again(autojump_clock, tmp_path):
    """It was alive when the file was searched and final when the engine was asked."""
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [first] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        bot.finish(offer.attempt)
        ids = []
        async with trio.open_nursery() as nursery:
            with world.daemon.writer.hold_commits():
                nursery.start_soon(bot.sync)
                await trio.sleep(1)  # final in memory, not in the file

                async def submit() -> None:
                    ids.extend(await world.client.submit([task(argv=["y"], after=[first])]))

                nursery.start_soon(submit)
                await trio.sleep(1)
                assert ids == []
        assert (await world.client.get(ids[0])).state == "PENDING"
        world.daemon.engine.check()


async def test_arrays_that_wait_for_arrays_are_counted_before_they_are_built(autojump_clock):
    """Nine thousand tasks that wait for an array of ninety thousand: refused in no time, with little memory."""
    import time

    async with running() as world:
        tasks = [task(key="big", argv=["x"], array=m.ArrayRange(first=1, last=90_000))]
        tasks += [task(argv=["x"], after=["big"]) for _ in range(9_000)]
        began = time.thread_time()
        with pytest.raises(ApiError) as caught:
            await world.client.submit_graph(GraphRequest(tasks=tasks))
        assert caught.value.code == "too_many_edges"
        assert time.thread_time() - began < 3


async def test_a_marker_between_two_arrays_joins_them(autojump_clock):
    async with running() as world:
        answer = await world.client.submit_graph(
            GraphRequest(
                tasks=[
                    task(key="first", argv=["x"], array=m.ArrayRange(first=1, last=300)),
                    task(key="all", marker=True, after=["first"]),
                    task(argv=["y"], array=m.ArrayRange(first=1, last=300), after=["all"]),
                ]
            )
        )
        assert answer.states.count("PENDING") == 300 and answer.states.count("BLOCKED") == 301


async def test_a_request_whose_outcome_a_full_disk_left_open_is_not_accepted_twice(autojump_clock, tmp_path):
    """Room came back for what was stuck before it, while it was still on its way."""
    async with running(tmp_path / "swarmd.db") as world:
        daemon, real = world.daemon, world.daemon.backend.transact
        is_under_way, may_fail, is_full = trio.Event(), trio.Event(), True

        async def transact(fn):
            if is_full:
                is_under_way.set()
                await may_fail.wait()
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return await real(fn)

        daemon.backend.transact = transact
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_without_space, daemon, "before")
            await is_under_way.wait()
            nursery.start_soon(_without_space, daemon, "r1")
            await trio.testing.wait_all_tasks_blocked()
            may_fail.set()
        gate = daemon.writer.hold_commits()
        is_full = False
        while daemon.writer.out_of_space:
            await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_submit, daemon, "r1")
            await trio.testing.wait_all_tasks_blocked()
            gate.release()
        assert [t.name async for t in world.client.tasks()] == ["r1", "before"]


async def test_one_look_into_the_file_is_for_all_who_ask_meanwhile(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        daemon, looks, read = world.daemon, [], world.daemon.backend.read

        async def counted(fn):
            looks.append(fn)
            return await read(fn)

        ids = [f"r{number}" for number in range(40)]
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for id in ids:
                    nursery.start_soon(_submit, daemon, id)
            daemon.backend.read = counted
        assert 1 <= len(looks) <= 3
        assert sorted([t.name async for t in world.client.tasks()]) == sorted(ids)


async def test_who_leaves_during_a_look_spoils_it_for_nobody(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        daemon = world.daemon
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as leaving:
                nursery.start_soon(_submit, daemon, "r1")
                nursery.start_soon(_submit, daemon, "r2")
                leaving.cancel()
                await _submit(daemon, "r0")
        assert sorted([t.name async for t in world.client.tasks()]) == ["r1", "r2"]


async def _submit(daemon: Daemon, request_id: str) -> None:
    spec = TaskSpec(work=(Work(commands=(Command(("x",)),)),), slices=(SliceSpec({}),), name=request_id)
    await submit(daemon, Submission([spec], lambda made, graph: b"{}", request_id=request_id))


async def _without_space(daemon: Daemon, request_id: str) -> None:
    with pytest.raises(NoSpace):
        await _submit(daemon, request_id)
