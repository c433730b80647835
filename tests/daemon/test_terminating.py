"""A bot is ended by a task: what its native bots are told and when, and what a client sees meanwhile."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.bot.main import BotConfig, run_bot
from swarmd.bot.wire import ClientWire
from swarmd.bot.workdir import WorkFolder
from swarmd.client import BotOrderRequest
from swarmd.client.address import parse_address
from swarmd.core.errors import Unknown
from swarmd.core.ids import to_text
from swarmd.core.model import BotId
from swarmd.daemon.terminating import END_LIMIT_S, EXPIRATION_S, terminate_bot
from swarmd.testing import Lab, NativeBot
from swarmd.testing.fake_runner import FakeRunner, Script
from swarmd.testing.faults import Failpoint


async def terminate(lab: Lab, bot: str = "b1", priority: int = 0) -> str:
    name = f"Terminate {bot}"
    op = await terminate_bot(
        lab.daemon, BotId(bot), name=name, tags=("swarming.terminate:1",), owner="me", priority=priority
    )
    return to_text(op)


async def connected(lab: Lab, slots: int = 1) -> NativeBot:
    bot = lab.bot("b1", slots=slots)
    await bot.open()
    return bot


def kinds(answer: m.SyncAnswer) -> list[str]:
    return [order.kind for order in answer.orders]


# ------------------------------------------------------------------ the task


async def test_a_bot_that_nobody_knows_cannot_be_ended(swarmd: Lab):
    with pytest.raises(Unknown) as refused:
        await terminate(swarmd, "nobody")
    assert refused.value.code == "unknown_bot"
    assert not [task async for task in swarmd.client.tasks()]


async def test_what_a_client_sees_of_it(swarmd: Lab):
    await connected(swarmd)
    id = await terminate(swarmd, priority=-7)
    details = await swarmd.check_state(id, "PENDING")
    assert (details.name, details.pool, details.priority) == ("Terminate b1", "", -7)
    assert (details.tags, details.dimensions) == (["swarming.terminate:1"], {"id": ["b1"]})
    assert details.work.terminate and details.work.hard_limit_s == END_LIMIT_S
    assert details.slices[0].expiration_s == EXPIRATION_S and details.slices[0].wait_for_capacity
    assert (details.retries, details.bot_retries) == (0, 0)
    assert [task.id async for task in swarmd.client.tasks()] == [id]
    await swarmd.check_file()


async def test_there_is_one_at_a_time(swarmd: Lab):
    bot = await connected(swarmd)
    id = await terminate(swarmd)
    assert await terminate(swarmd) == id
    await bot.sync()
    await swarmd.check_state(id, "RUNNING")
    assert await terminate(swarmd) == id
    await bot.close()
    assert await terminate(swarmd) != id


async def test_calls_at_the_same_time_get_the_same_one(swarmd: Lab):
    await connected(swarmd)
    found: list[str] = []

    async def call() -> None:
        found.append(await terminate(swarmd))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
    assert len(set(found)) == 1 and len(found) == 5


async def test_one_that_is_being_killed_is_not_waited_for(swarmd: Lab):
    bot = await connected(swarmd)
    id = await terminate(swarmd)
    await bot.sync()
    await swarmd.client.cancel([id], kill=True)
    other = await terminate(swarmd)
    assert other != id
    await bot.close()
    await swarmd.check_state(id, "KILLED")
    await swarmd.check_state(other, "PENDING")


async def test_a_final_one_can_be_tried_again_by_a_person(swarmd: Lab):
    await connected(swarmd)
    id = await terminate(swarmd)
    await swarmd.client.cancel([id])
    [again] = (await swarmd.client.retry([id])).ids
    bot = await connected(swarmd)
    assert kinds(await bot.sync()) == ["terminate"]
    await bot.close()
    await swarmd.check_state(again, "COMPLETED")


# ------------------------------------------------------------------ on native bots


async def test_an_idle_bot_is_told_at_once_by_its_held_call(swarmd: Lab):
    bot = await connected(swarmd)
    answers: list[m.SyncAnswer] = []

    async def hold() -> None:
        answers.append(await bot.sync(1, wait_s=30))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await swarmd.sleep(5)
        began_at = swarmd.now
        id = await terminate(swarmd)
    assert swarmd.now == pytest.approx(began_at, abs=0.1)
    assert kinds(answers[0]) == ["terminate"]
    other = await swarmd.submit("make")
    assert await bot.take(1) == []
    await swarmd.check_state(id, "RUNNING")
    await bot.close()
    details = await swarmd.check_state(id, "COMPLETED")
    assert (details.ok, details.exit_code, details.bot) == (True, 0, "b1")
    assert (await swarmd.client.bot("b1")).status == "dead"
    await swarmd.check_state(other, "PENDING")
    await swarmd.check_file()


async def test_a_busy_bot_is_drained_and_told_with_its_last_report(swarmd: Lab):
    bot = await connected(swarmd, slots=2)
    first, second, third = [await swarmd.submit("make") for _ in range(3)]
    [one, two] = await bot.take()
    bot.start(one.attempt)
    await bot.sync()
    id = await terminate(swarmd)
    answer = await bot.sync(None)
    assert kinds(answer) == ["drain"] and answer.offers == []
    bot.decline(two.attempt)
    assert kinds(await bot.sync()) == ["drain"]
    await swarmd.check_state(id, "PENDING")
    bot.finish(one.attempt)
    assert kinds(await bot.sync()) == ["terminate"]
    await bot.close()
    await swarmd.check_state(first, "COMPLETED")
    await swarmd.check_state(id, "COMPLETED")
    for other in (second, third):
        await swarmd.check_state(other, "PENDING")


async def test_the_order_is_repeated_and_outlives_a_restart(swarmd: Lab):
    bot = await connected(swarmd)
    id = await terminate(swarmd)
    request = bot.request(1)
    answer = await swarmd.client.sync(bot.session, request)
    assert kinds(answer) == ["terminate"]
    assert await swarmd.client.sync(bot.session, request) == answer
    await swarmd.crash()
    await swarmd.start()
    assert kinds(await swarmd.client.sync(bot.session, request)) == ["terminate"]
    bot.took(request, answer)
    assert kinds(await bot.sync()) == ["terminate"]
    await swarmd.check_state(id, "RUNNING")
    await bot.close()
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_attempts(id, "ENDED")


async def test_a_bot_that_vanishes_when_it_was_told_has_died(swarmd: Lab):
    bot = await connected(swarmd)
    id = await terminate(swarmd)
    await bot.sync()
    await swarmd.sleep(61)
    details = await swarmd.check_state(id, "BOT_DIED")
    assert not details.ok
    await bot.restart()
    assert kinds(await bot.sync()) == [], "its next life is not to blame"


async def test_a_bot_that_leaves_by_itself_before_it_was_told_is_told_in_its_next_life(swarmd: Lab):
    bot = await connected(swarmd)
    await swarmd.submit("make")
    await bot.run_one()
    id = await terminate(swarmd)
    await bot.close()
    await swarmd.check_state(id, "PENDING")
    bot.running.clear()
    await bot.restart()
    assert kinds(await bot.sync()) == ["terminate"]


async def test_a_bot_that_knows_no_such_order_is_given_up_and_gets_work_again(swarmd: Lab):
    bot = await connected(swarmd)
    id = await terminate(swarmd)
    waiting = await swarmd.submit("make")
    for _ in range(int(END_LIMIT_S + 60) // 30):
        assert (await bot.take(1)) == []
        await swarmd.check_state(id, "RUNNING")
        await swarmd.sleep(30.1)
    await swarmd.check_state(id, "TIMED_OUT")
    assert [offer.task for offer in await bot.take(1)] == [waiting]


async def test_canceled_while_it_is_drained_the_bot_gets_work_again(swarmd: Lab):
    bot = await connected(swarmd, slots=2)
    await swarmd.submit("make")
    await bot.run_one()
    id = await terminate(swarmd)
    second = await swarmd.submit("make")
    assert await bot.take() == []
    await swarmd.client.cancel([id])
    assert [offer.task for offer in await bot.take()] == [second] and bot.orders == []


async def test_a_bot_in_quarantine_ends_all_the_same(swarmd: Lab):
    bot = await connected(swarmd)
    await swarmd.client.order_bot("b1", BotOrderRequest(quarantine="bad disk", drain=True))
    id = await terminate(swarmd)
    assert kinds(await bot.sync()) == ["drain", "terminate"]
    await bot.close()
    await swarmd.check_state(id, "COMPLETED")


async def test_the_order_of_a_person_and_a_task_are_one_end(swarmd: Lab):
    bot = await connected(swarmd)
    await swarmd.client.order_bot("b1", BotOrderRequest(order="terminate"))
    id = await terminate(swarmd)
    assert kinds(await bot.sync()) == ["terminate"]
    await bot.close()
    await swarmd.check_state(id, "COMPLETED")
    await bot.restart()
    assert kinds(await bot.sync()) == []


async def test_a_second_request_of_the_bot_takes_over_and_is_told(swarmd: Lab):
    """The one that it called back is answered with nothing."""
    bot = await connected(swarmd)
    held: list[m.SyncAnswer] = []
    request = bot.request(1, wait_s=30)

    async def hold() -> None:
        held.append(await swarmd.client.sync(bot.session, request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await swarmd.sleep(1)
        bot.seq += 1
        nursery.start_soon(partial(bot.sync, 1, 0.0, seen=0))
        nursery.start_soon(terminate, swarmd)
    assert [order.kind for order in bot.orders] in (["terminate"], [])
    assert kinds(await bot.sync()) == ["terminate"]


# ------------------------------------------------------------------ bots that live by themselves


async def test_a_living_bot_ends_when_its_task_is_done(swarmd: Lab):
    swarmd.living_bot("b1", runs_s=100, slots=2)
    first = await swarmd.submit("make")
    await swarmd.until(first, "RUNNING")
    id = await terminate(swarmd)
    other = await swarmd.submit("make")
    await swarmd.until(id)
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_state(first, "COMPLETED")
    await swarmd.check_state(other, "PENDING")
    assert (await swarmd.client.bot("b1")).status == "dead"


@pytest.mark.parametrize("away_s", [1.0, 30.0])
@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_the_bundled_bot_ends_and_says_so(
    swarmd: Lab, tmp_path: Path, nth: int, point: Failpoint, away_s: float
):
    """Also when the daemon is killed at any of the commits from its last report to its goodbye."""
    config = BotConfig("b1", swarmd.url, 2, {})
    wire = ClientWire(parse_address(swarmd.url), None)
    runner = FakeRunner({"make": Script(after_s=100.0)})
    ids = [await swarmd.submit("make") for _ in range(4)]
    async with trio.open_nursery() as nursery:
        with WorkFolder(tmp_path / "bot") as folder:
            run = partial(run_bot, config, folder=folder, runner=runner, wire=wire)
            await nursery.start(run)
            for id in ids[:2]:
                await swarmd.until(id, "RUNNING")
            end = await terminate(swarmd)
            await swarmd.sleep(10)
            await swarmd.check_state(end, "PENDING")
            assert [info.state for info in [await swarmd.client.get(id) for id in ids]] == [
                "RUNNING", "RUNNING", "PENDING", "PENDING",
            ]  # fmt: skip
            swarmd.fail_at(point, nth=nth, back_after_s=away_s)
            await swarmd.until(end, within_s=300)
    details = await swarmd.check_state(end, "COMPLETED")
    assert (details.ok, details.exit_code) == (True, 0)
    await wire.close()
    assert (await swarmd.client.bot("b1")).status == "dead"
