"""Who is woken by what, and when."""

from __future__ import annotations

import trio

from swarmd.client import task
from swarmd.daemon.news import EVENTS, News
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running


async def test_news_wake_those_who_wait_for_the_key_and_nobody_else():
    news = News()
    assert not news
    with news.waiting_for([1, 2]) as both, news.waiting_for([2]) as second, news.waiting_for([3, 3]) as third:
        assert news
        news.publish([2, 99])
        assert (both.is_set(), second.is_set(), third.is_set()) == (True, True, False)
        news.publish_all()
        assert third.is_set()
    assert not news  # nothing is kept for those who left


async def test_nobody_is_told_before_the_commit(autojump_clock, tmp_path):
    """A wait for a task returns when its end is on the disk, not when it is known in memory."""
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        done = []

        async def wait() -> None:
            done.extend(await world.client.wait([id]))

        nursery.start_soon(wait)
        await trio.sleep(1)
        with world.daemon.writer.hold_commits():
            bot.finish(offer.attempt)
            nursery.start_soon(bot.sync)
            await trio.sleep(5)
            assert done == [] and not world.daemon.engine.tasks
        await trio.sleep(1)
        assert [d.state for d in done] == ["COMPLETED"]
        assert not world.daemon.news


async def test_events_are_told_in_the_order_of_their_ids(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        seen = []

        async def listen() -> None:
            async with world.client.stream_events() as events:
                async for event in events:
                    seen.append(event)

        nursery.start_soon(listen)
        await trio.sleep(1)
        assert bool(world.daemon.news) and EVENTS
        async with trio.open_nursery() as many:
            for number in range(20):
                many.start_soon(world.client.submit, [task(argv=[str(number)])])
        await trio.sleep(1)
        ids = [event.id for event in seen]
        assert ids == sorted(set(ids)) and len(ids) == 20
        resumed = []
        async with world.client.stream_events(after=ids[9]) as events:
            async for event in events:
                resumed.append(event.id)
                if len(resumed) == 10:
                    break
        assert resumed == ids[10:]
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_silent_says_that_it_lives(autojump_clock, tmp_path):
    from tests.api.wire import connect, head

    async with running(tmp_path / "swarmd.db") as world, await connect(world.url) as stream:
        await stream.send_all(head("GET", "/api/v1/events/stream", []))
        data = b""
        while trio.current_time() < 95:
            data += await stream.receive_some(4096)
        assert data.count(b": still here") == 4 or data.count(b": still here") == 3
        assert b"retry: 1000" in data
