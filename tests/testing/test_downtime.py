"""What a restart costs counts against no limit, and what was no downtime is not taken for it: over several restarts."""

from __future__ import annotations

from swarmd.testing import Lab, NativeBot


async def alive_for(swarmd: Lab, bot: NativeBot, seconds: float) -> None:
    for _ in range(int(seconds / 20)):
        await swarmd.sleep(20)
        await bot.sync()


async def test_downtime_is_not_forgotten_by_the_next_restart(swarmd: Lab):
    id = await swarmd.submit("work", hard_limit_s=1000, grace_s=0)  # the backstop: 1,060 s after the start
    bot = swarmd.bot()
    await bot.open()
    await bot.run_one()
    await swarmd.restart(away_s=600)
    await swarmd.submit()  # something else is committed
    await swarmd.restart()
    await alive_for(swarmd, bot, 1040)
    await swarmd.check_state(id, "RUNNING")
    await alive_for(swarmd, bot, 40)
    await swarmd.check_state(id, "TIMED_OUT")


async def test_quiet_time_before_a_restart_is_no_downtime(swarmd: Lab):
    id = await swarmd.submit("work", hard_limit_s=1000, grace_s=0)
    bot = swarmd.bot()
    await bot.open()
    await bot.run_one()
    for _ in range(9):
        await alive_for(swarmd, bot, 100)
        await swarmd.restart()
    await alive_for(swarmd, bot, 140)
    await swarmd.check_state(id, "RUNNING")
    await alive_for(swarmd, bot, 40)
    await swarmd.check_state(id, "TIMED_OUT")


async def test_a_daemon_without_bots_does_not_lose_time_by_restarts(swarmd: Lab):
    id = await swarmd.submit("work", expiration_s=20 * 3600)
    for _ in range(3):
        await swarmd.sleep(6 * 3600)
        await swarmd.restart()
    await swarmd.check_state(id, "PENDING")
    await swarmd.sleep(2 * 3600 + 60)
    await swarmd.check_state(id, "EXPIRED")
