"""How long a call is held, and what ends it. Source: protocol reference, long poll and timings."""

from __future__ import annotations

from math import inf

import pytest
import trio

from swarmd.client import BotOrderRequest
from swarmd.testing import Lab
from swarmd.testing.remote_bots import MAINTENANCE, UNHEALTHY

from .worlds import CONFIG, KEEP_ALIVE_S, Timed, came, one, reconfigure

pytestmark = pytest.mark.swarmd(config=CONFIG)


@pytest.mark.parametrize(
    ("deadline_s", "waits_s"),
    [
        (5, 4.0),
        (10, 8.0),
        (inf, 0.8 * KEEP_ALIVE_S),
        (1000, 0.8 * KEEP_ALIVE_S),
        (3.75, 3.0),
        (3.74, 0),
        (3, 0),
    ],
)
@pytest.mark.parametrize("call", ["create", "update"])
async def test_it_waits_for_most_of_what_its_deadline_leaves(
    swarmd: Lab, call: str, deadline_s: float, waits_s: float
):
    bot = await came(swarmd)
    with Timed() as took:
        await getattr(bot, call)(deadline_s=deadline_s)
    assert took.s == pytest.approx(waits_s, abs=0.01)


async def test_settings_bound_the_wait(swarmd: Lab):
    bot = await came(swarmd)
    for changes, waits_s in (
        ({"hold_s": 4.0}, 4.0),
        ({"hold_s": 2.0}, 0.0),
        ({"assumed_deadline_s": 10.0}, 8.0),
    ):
        await reconfigure(swarmd, **changes)
        with Timed() as took:
            await bot.update(deadline_s=inf)
        assert took.s == pytest.approx(waits_s, abs=0.01)


async def test_work_ends_the_wait_at_once(swarmd: Lab):
    bot = await came(swarmd)
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(1)
            await swarmd.submit("make")
    assert took.s == pytest.approx(1, abs=0.01) and len(bot.leases) == 1
    assert bot.session.version == "1"


@pytest.mark.parametrize("deadline_s", [1, 15])
async def test_work_that_is_there_is_given_at_once_also_to_who_cannot_wait(swarmd: Lab, deadline_s: float):
    bot = await came(swarmd)
    await swarmd.submit("make")
    with Timed() as took:
        await bot.update(deadline_s=deadline_s)
    assert took.s < 0.01 and len(bot.leases) == 1


@pytest.mark.parametrize("status", [0, UNHEALTHY, 3, 4, MAINTENANCE, 99])
async def test_who_is_not_ok_gets_no_work_and_does_not_wait(swarmd: Lab, status: int):
    bot = await came(swarmd, status=status)
    id = await swarmd.submit("make")
    with Timed() as took:
        answer = await bot.update(deadline_s=15, status=status)
    assert took.s < 0.01 and answer.status == status and not bot.leases
    await swarmd.check_state(id, "PENDING")
    assert (await swarmd.client.explain(id)).reason == "bots_refuse"
    await bot.update()
    assert len(bot.leases) == 1


async def test_who_is_not_ok_keeps_and_ends_what_it_has(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    await bot.update(status=MAINTENANCE)
    assert [known.id for known in bot.leases] == [lease]
    bot.complete(lease)
    await bot.update(status=MAINTENANCE)
    await swarmd.check_state(id, "COMPLETED")


async def test_who_is_full_does_not_wait(swarmd: Lab):
    bot, _, lease = await one(swarmd)
    with Timed() as took:
        await bot.update(deadline_s=15)
    assert took.s < 0.01 and [known.id for known in bot.leases] == [lease]


async def test_who_can_hold_more_waits_for_it(swarmd: Lab):
    await swarmd.submit("make")
    bot = await came(swarmd, capacity=2)
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(2)
            await swarmd.submit("make")
    assert took.s == pytest.approx(2, abs=0.01) and len(bot.leases) == 2


async def test_an_end_is_answered_at_once_with_the_next_work_if_there_is_any(swarmd: Lab):
    bot, _, lease = await one(swarmd)
    bot.complete(lease)
    with Timed() as took:
        await bot.update(deadline_s=15)
    assert took.s < 0.01 and not bot.leases
    await swarmd.submit("make")
    await bot.update()
    await swarmd.submit("make")
    [lease] = bot.leases
    bot.complete(lease.id)
    await bot.update(deadline_s=15)
    assert len(bot.leases) == 1 and bot.leases[0].id != lease.id


async def test_a_bot_that_never_says_a_version_waits_all_the_same(swarmd: Lab):
    """BuildGrid answers such a bot at once, so that it must pace itself."""
    bot, _, lease = await one(swarmd)
    bot.complete(lease)
    await bot.update()
    bot.session.version = ""
    with Timed() as took:
        await bot.update(deadline_s=10)
    assert took.s == pytest.approx(8, abs=0.01)


async def test_a_cancel_wakes_who_waits_for_more(swarmd: Lab):
    id = await swarmd.submit("make")
    bot = await came(swarmd, capacity=2)
    await bot.update()
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(1)
            await swarmd.client.cancel([id], kill=True)
    assert took.s == pytest.approx(1, abs=0.01) and not bot.leases
    await bot.update()
    await swarmd.check_state(id, "KILLED")


async def test_a_newer_call_ends_the_wait_of_an_older_one(swarmd: Lab):
    bot = await came(swarmd)
    twin = swarmd.remote_bot("w1", instance="lab")
    twin.session.CopyFrom(bot.session)
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(1)
            with Timed() as its_own:
                nursery.start_soon(twin.update, 10)
                await swarmd.sleep(0.01)
                await swarmd.submit("make")
    assert took.s == pytest.approx(1.01, abs=0.01) and its_own.s < 0.1
    assert (len(bot.leases), len(twin.leases)) == (0, 1)


async def test_a_held_session_does_not_expire_and_its_time_counts_from_the_answer(swarmd: Lab):
    bot = await came(swarmd)
    answer = await bot.update(deadline_s=inf)
    assert answer.expire_time.ToSeconds() == int(swarmd.daemon.clock.wall() + KEEP_ALIVE_S)
    await swarmd.sleep(KEEP_ALIVE_S - 0.1)
    await bot.update()


async def test_work_that_was_given_to_a_call_whose_client_went_comes_with_the_next_one(swarmd: Lab):
    bot = await came(swarmd)
    session = type(bot.session).FromString(bot.session.SerializeToString())
    id = await swarmd.submit("make")
    with swarmd.hold_commits():
        with trio.move_on_after(1):
            await bot.update(deadline_s=15)
    bot.session.CopyFrom(session)
    await swarmd.check_attempts(id, "OFFERED")
    await bot.update()
    assert len(bot.leases) == 1 and bot.session.version == "1"
    await swarmd.check_attempts(id, "OFFERED")


async def test_a_wake_for_a_client_that_went_is_passed_on(swarmd: Lab):
    first, second = await came(swarmd, "w1"), await came(swarmd, "w2")
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(second.update, 15)
            await swarmd.sleep(1)

            async def leave():
                await swarmd.sleep(1)
                scope.cancel()

            nursery.start_soon(leave)
            await first.update(deadline_s=15)
        await swarmd.submit("make")
    assert len(second.leases) == 1 and not first.leases


async def test_a_daemon_that_stops_answers_who_waits(swarmd: Lab):
    bot = await came(swarmd)
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(1)
            await swarmd.stop()
    assert took.s < 3
    await swarmd.start()
    await bot.update()


@pytest.mark.parametrize("order", ["restart", "update", "terminate"])
async def test_an_order_keeps_work_from_a_bot_until_it_opens_a_new_session(swarmd: Lab, order: str):
    """Nothing on this wire tells it."""
    bot = await came(swarmd)
    await swarmd.client.order_bot("w1", BotOrderRequest(order=order))
    id = await swarmd.submit("make")
    with Timed() as took:
        await bot.update(deadline_s=5)
    assert took.s == pytest.approx(4, abs=0.01) and not bot.leases
    await swarmd.check_state(id, "PENDING")
    await bot.create()
    assert len(bot.leases) == 1


async def test_a_bot_that_is_drained_while_it_waits_gets_nothing_until_it_is_not_any_more(swarmd: Lab):
    bot = await came(swarmd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bot.update, 15)
        await swarmd.sleep(1)
        await swarmd.client.order_bot("w1", BotOrderRequest(drain=True))
        await swarmd.submit("make")
        await swarmd.sleep(1)
        await swarmd.client.order_bot("w1", BotOrderRequest(drain=False))
        with trio.fail_after(0.1):
            while not bot.leases:
                await swarmd.sleep(0.01)
