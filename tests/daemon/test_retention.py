"""What is old goes by itself, at its time; nothing sweeps meanwhile."""

from __future__ import annotations

import trio

from swarmd.client import task
from swarmd.config import Config
from swarmd.daemon.retention import settings_of
from swarmd.store.check import check_file
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running

DAY_S = 86_400.0


async def test_a_final_task_is_removed_after_its_days_and_an_unfinished_one_stays(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(
        path, config=Config(retention_days=2.0, session_deadline_s=1e8), retention=True
    ) as world:
        bot = NativeBot(world.client)
        await bot.open()
        [old] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        bot.finish(offer.attempt)
        await bot.sync()
        [alive] = await world.client.submit([task(argv=["y"], expiration_s=6 * DAY_S)])
        await trio.sleep(1.9 * DAY_S)
        assert {t.id async for t in world.client.tasks()} == {old, alive}
        await trio.sleep(1.2 * DAY_S)
        assert {t.id async for t in world.client.tasks()} == {alive}
        world.daemon.engine.check()
    assert check_file(path) == []


async def test_the_settings_are_those_of_the_configuration(autojump_clock):
    async with running(config=Config(retention_days=3.0, retention_gib=0.5)) as world:
        found = settings_of(world.daemon)
        assert (found.days, found.bytes) == (3.0, 1 << 29)
