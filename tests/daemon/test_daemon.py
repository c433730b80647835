"""The daemon as a whole: it stops and starts again, and nothing is forgotten or changed by it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import trio

from swarmd.api.native import messages as m
from swarmd.client import GraphRequest, open_client, task
from swarmd.store.check import check_file
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running


def rows(path) -> dict[str, list]:
    """All of the file that says what is true; times of signs of life move by themselves."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        names = [
            r[0] for r in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {
            n: conn.execute(f'SELECT * FROM "{n}" ORDER BY 1, 2').fetchall() for n in names if n != "clock"
        }


async def test_bots_that_outlive_a_restart_go_on(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as world:
        bot = NativeBot(world.client, slots=3)
        await bot.open()
        ids = await world.client.submit([task(argv=[str(n)], retries=0, bot_retries=0) for n in range(4)])
        for offer in await bot.take(2):
            bot.start(offer.attempt)
        for attempt in bot.running:
            bot.write(attempt, b"before\n")
        await bot.sync()
        bot.finish(next(iter(bot.running)))  # it ends while the daemon is away
    await trio.sleep(200)
    async with running(path) as world:
        bot.client = world.client
        [still] = list(bot.running)
        bot.write(still, b"after\n")
        answer = await bot.sync(2)
        assert len(answer.offers) == 2
        bot.finish(still)
        for offer in answer.offers:
            bot.finish(offer.attempt)
        await bot.sync()
        items = await world.client.wait(ids, 10)
        assert [(i.state, i.number) for i in items] == [("COMPLETED", 1)] * 4
        assert (await world.client.read_output(ids[1], "stdout")).data == b"before\nafter\n"
        world.daemon.engine.check()
    assert check_file(path) == []


async def test_a_bot_that_does_not_return_loses_its_work_after_a_full_deadline(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        await bot.run_one()
        await trio.sleep(50)
    await trio.sleep(100)
    async with running(path) as world:
        await trio.sleep(59)
        assert (await world.client.get(id)).state == "RUNNING"
        await trio.sleep(2)
        assert (await world.client.get(id)).state == "PENDING"


async def test_an_expiration_counts_the_time_the_daemon_was_down(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as world:
        [id] = await world.client.submit([task(argv=["x"], expiration_s=100)])
    await trio.sleep(99)
    async with running(path) as world:
        assert (await world.client.get(id)).state == "PENDING"
        began = trio.current_time()
        [item] = await world.client.wait([id], 10)
        assert item.state == "EXPIRED" and trio.current_time() - began < 1.1


async def test_a_stop_answers_every_held_call_and_changes_nothing(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    answers: list[str] = []
    async with running(path) as world:
        busy, idle = (
            NativeBot(world.client, "busy"),
            NativeBot(world.client, "idle", dimensions={"os": ["none"]}),
        )
        await busy.open()
        await idle.open()
        [id, *_] = await world.client.submit([task(argv=["x"]), task(argv=["y"], after=[])])
        graph = await world.client.submit_graph(GraphRequest(tasks=[task(argv=["z"], after=[id])], open=True))
        await busy.run_one()
        await world.daemon.writer.drain()
        before = rows(path)
        async with trio.open_nursery() as nursery:

            async def held(name: str, call) -> None:
                began = trio.current_time()
                await call()
                assert trio.current_time() - began < 20, name  # it would have been held for 50 s
                answers.append(name)

            async def follow() -> None:
                async with await _stream(world.url, f"/api/v1/tasks/{id}/follow") as stream:
                    while await stream.receive_some(4096):
                        pass

            nursery.start_soon(held, "sync", lambda: busy.sync(0, 50))
            nursery.start_soon(
                held, "idle sync", lambda: world.client.sync(idle.session, m.SyncRequest(seq=1, wait_s=50))
            )
            nursery.start_soon(held, "wait", lambda: world.client.wait_once([id], 50))
            nursery.start_soon(held, "output", lambda: world.client.read_output(id, "stdout", wait_s=50))
            nursery.start_soon(held, "follow", follow)
            await trio.sleep(10)
            assert answers == []
            world.daemon.stop_soon()
        assert sorted(answers) == ["follow", "idle sync", "output", "sync", "wait"]
    after = rows(path)
    assert {name for name in before if before[name] != after[name]} == set()
    async with running(path) as world:
        busy.client = world.client
        await busy.sync()
        assert (await world.client.get(id)).state == "RUNNING"
        assert (await world.client.graph(graph.id)).open
    assert check_file(path) == []


async def _stream(url: str, target: str) -> trio.abc.Stream:
    from tests.api.wire import connect, head

    stream = await connect(url)
    await stream.send_all(head("GET", target, [("Connection", "close")]))
    return stream


async def test_the_events_of_a_client_that_stays_over_restarts_come_once_each(autojump_clock, tmp_path):
    """A follower on TCP; the daemon goes and comes back on the same port."""
    from tests.daemon.restarts import Restarting

    path = tmp_path / "swarmd.db"
    seen: list[str] = []
    async with (
        Restarting(path) as daemons,
        open_client(daemons.url) as client,
        trio.open_nursery() as nursery,
    ):

        async def listen() -> None:
            async with client.stream_events() as events:
                async for event in events:
                    seen.append(event.id)

        nursery.start_soon(listen)
        await trio.sleep(1)
        for number in range(3):
            await client.submit([task(argv=[str(number)]) for _ in range(10)])
            await daemons.restart(away_s=20)
            await client.submit([task(argv=[str(number)]) for _ in range(10)])
            await trio.sleep(10)
        listed = [e.id async for e in client.events()]
        nursery.cancel_scope.cancel()
    assert len(seen) == len(set(seen)) and seen == sorted(seen)
    assert set(listed) == set(seen) and len(seen) >= 60


async def test_each_byte_of_a_followed_output_comes_once_over_restarts(autojump_clock, tmp_path):
    from tests.daemon.restarts import Restarting

    path = tmp_path / "swarmd.db"
    got: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    states: list[str] = []
    async with (
        Restarting(path) as daemons,
        open_client(daemons.url) as client,
        trio.open_nursery() as nursery,
    ):
        bot = NativeBot(client)
        await bot.open()
        [id] = await client.submit([task(argv=["x"])])
        offer = await bot.run_one()

        async def follow() -> None:
            async with client.follow(id) as events:
                async for event in events:
                    if hasattr(event, "data"):
                        assert event.offset == len(got[event.stream])
                        got[event.stream] += event.data
                    else:
                        states.append(event.state)

        nursery.start_soon(follow)
        expected = {"stdout": b"", "stderr": b""}
        for number in range(6):
            for stream in expected:
                data = f"{stream} {number}\n".encode() * (number + 1)
                expected[stream] += data
                bot.write(offer.attempt, data, stream)
            await bot.sync()
            await trio.sleep(2)
            if number % 2:
                await daemons.restart(away_s=10)
        bot.finish(offer.attempt)
        await bot.sync()
    assert got == expected
    assert states == [
        "RUNNING",
        "COMPLETED",
        "COMPLETED",
    ]  # the state, then the end; none again after a restart


async def test_the_tail_of_an_attempt_is_followed_also_when_the_next_begins_at_once(autojump_clock, tmp_path):
    """The last bytes, the end, and the next attempt's first bytes may all be in one commit."""
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"], retries=1)])
        offer = await bot.run_one()
        got: list[bytes] = []

        async def follow() -> None:
            async with world.client.follow(id) as events:
                async for event in events:
                    if hasattr(event, "data"):
                        got.append(event.data)

        nursery.start_soon(follow)
        await trio.sleep(1)
        with world.daemon.writer.hold_commits():
            bot.write(offer.attempt, b"tail of the first\n")
            bot.finish(offer.attempt, 1)

            async def go_on() -> None:
                [again] = (await bot.sync(1)).offers
                bot.start(again.attempt)
                bot.write(again.attempt, b"second\n")
                await bot.sync()
                bot.finish(again.attempt)
                await bot.sync()

            nursery.start_soon(go_on)
            await trio.sleep(1)
    assert b"".join(got) == b"tail of the first\nsecond\n"
