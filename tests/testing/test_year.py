"""A year in the life of a daemon, in seconds: nothing sleeps for real, nothing piles up, nothing is forgotten."""

from __future__ import annotations

import random
import time

import pytest
import trio

from swarmd.testing import Lab, NativeBot

MINUTE_S, DAY_S, WEEK_S = 60.0, 86_400.0, 7 * 86_400.0
WEEKS = 52
TASKS_A_WEEK = 3
RETENTION_DAYS = 30


async def come_for_ten_minutes(swarmd: Lab, bot: NativeBot, chance: random.Random) -> None:
    """A lab machine that is switched on for a short while; one task in four fails, and is tried again."""
    with trio.move_on_after(10 * MINUTE_S):
        await bot.live(
            runs_s=20, wait_s=50, outcome=lambda offer: int(offer.number == 1 and chance.random() < 0.25)
        )


@pytest.mark.swarmd(config={"retention_days": RETENTION_DAYS})
async def test_a_year_with_a_bot_that_comes_for_ten_minutes_each_week(swarmd: Lab):
    began, real_began = trio.current_time(), time.monotonic()
    chance = swarmd.random
    ids: list[str] = []
    tried_twice = 0
    for week in range(WEEKS):
        await swarmd.sleep(began + week * WEEK_S - trio.current_time())
        fresh = await swarmd.submit_many(
            TASKS_A_WEEK,
            "measure",
            dimensions={"bench": "7"},
            retries=2,
            retry_wait_s=60,
            expiration_s=2 * DAY_S,
        )
        late = await swarmd.submit("measure", dimensions={"bench": "8"}, expiration_s=2 * DAY_S)
        await swarmd.sleep(DAY_S)
        await come_for_ten_minutes(swarmd, swarmd.bot("bench-7", dimensions={"bench": "7"}), chance)
        done = await swarmd.client.wait(fresh, timeout_s=0)
        assert [task.ok for task in done] == [True] * TASKS_A_WEEK, f"week {week}"
        tried_twice += sum(task.number == 2 for task in done)
        await swarmd.until(late, "EXPIRED")
        ids += [*fresh, late]
        if week == WEEKS // 2:
            await swarmd.restart(away_s=MINUTE_S)
    await swarmd.sleep(began + WEEKS * WEEK_S - trio.current_time())

    assert tried_twice > 10, "the retries were part of this"
    kept = {task.id async for task in swarmd.client.tasks()}
    young = {id for week, id in enumerate_weeks(ids) if (WEEKS - week) * 7 - 3 < RETENTION_DAYS - 1}
    old = {id for week, id in enumerate_weeks(ids) if (WEEKS - week) * 7 - 3 > RETENTION_DAYS + 1}
    assert young <= kept and not old & kept
    engine = swarmd.daemon.engine
    assert not engine.tasks and not engine.attempts and not engine.sessions
    await swarmd.check_file()
    assert trio.current_time() - began == pytest.approx(WEEKS * WEEK_S)
    assert time.monotonic() - real_began < 60, "a year took more than a minute"


def enumerate_weeks(ids: list[str]) -> list[tuple[int, str]]:
    """Each id with the number of its week."""
    return [(number // (TASKS_A_WEEK + 1), id) for number, id in enumerate(ids)]
