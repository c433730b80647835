"""What tasks run: from the cache while there is room, from the file otherwise, and the same either way."""

from __future__ import annotations

import msgspec

from swarmd.client import array, task
from swarmd.daemon import works
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running


async def test_an_offer_reads_the_same_from_cache_and_file(autojump_clock, tmp_path, monkeypatch):
    path = tmp_path / "swarmd.db"
    tasks = [
        task(name="plain", argv=["echo", "a"], env={"A": "1"}),
        task(name="range", argv=["x"], array=array(first=3, last=4)),
        task(name="lines", argv=["x"], lines=["one", "two"]),
    ]

    async def offers(world) -> list[tuple]:
        bot = NativeBot(world.client, slots=9)
        await bot.open()
        found = await bot.take(9)
        await bot.close()  # all go back uncounted
        return [(o.name, msgspec.json.decode(o.work), o.index, o.line) for o in found]

    async with running(path) as world:
        await world.client.submit(tasks)
        cached = await offers(world)
        assert [c[0] for c in cached] == ["plain", "range", "range", "lines", "lines"]
        assert [c[2] for c in cached] == [None, 3, 4, 0, 1] and [c[3] for c in cached[3:]] == ["one", "two"]
    async with running(path) as world:
        assert world.daemon.works._cached == {}
        assert await offers(world) == cached
    monkeypatch.setattr(works, "MAX_CACHED", 2)
    async with running(tmp_path / "other.db") as world:
        await world.client.submit(tasks)
        assert len(world.daemon.works._cached) == 2
        assert await offers(world) == cached


async def test_what_is_final_is_forgotten(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        ids = await world.client.submit([task(argv=["x" * 1000]) for _ in range(10)])
        await world.daemon.writer.drain()
        assert world.daemon.works._bytes > 10_000
        await world.client.cancel(ids)
        assert (world.daemon.works._cached, world.daemon.works._bytes) == ({}, 0)
