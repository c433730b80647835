"""A Swarming bot is ended by a task: by a poll, by a lease, with answers lost, and when it is in quarantine.

Protocol reference, sections 7, 9, 14 and 16.10.
"""

from __future__ import annotations

import pytest
import trio

from swarmd.client import ApiError, BotOrderRequest
from swarmd.core.ids import to_text
from swarmd.core.model import BotId
from swarmd.daemon.terminating import terminate_bot
from swarmd.testing import Lab, SwarmingBot
from tests.api.swarming.worlds import polling

held = pytest.mark.swarmd(config={"swarming": {"poll_hold_s": 40}})
rbe = pytest.mark.swarmd(config={"swarming": {"pools": {"default": {"mode": "rbe"}}}})
hybrid = pytest.mark.swarmd(config={"swarming": {"pools": {"default": {"mode": "hybrid"}}}})
file = pytest.mark.swarmd(path="file")


async def terminate(lab: Lab, bot: str = "s1") -> str:
    return to_text(
        await terminate_bot(lab.daemon, BotId(bot), name="Terminate s1", tags=(), owner="", priority=0)
    )


async def told(lab: Lab, bot: SwarmingBot) -> tuple[str, str]:
    """The id of a termination task that the bot was told of by a poll, and its run id."""
    id = await terminate(lab)
    answer = await bot.poll()
    assert answer["cmd"] == "terminate"
    await lab.check_state(id, "RUNNING")
    return id, answer["task_id"]


async def leasing(lab: Lab) -> SwarmingBot:
    bot = lab.swarming_bot("s1")
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "rbe"
    await bot.open_rbe()
    return bot


# ------------------------------------------------------------------ by a poll


async def test_it_is_told_confirms_and_is_gone(swarmd: Lab):
    bot = await polling(swarmd)
    other = await swarmd.submit("make", priority=-5)
    id, run = await told(swarmd, bot)
    assert run.endswith("1")
    assert (await bot.confirm_end(run))["ok"]
    details = await swarmd.check_state(id, "COMPLETED")
    assert (details.exit_code, details.bot) == (0, "s1")
    assert (await swarmd.client.bot("s1")).status == "dead", "the confirmation is a goodbye"
    await bot.event("bot_shutdown", "Signal was received")
    await bot.repeat()
    await bot.restart()
    assert (await bot.poll())["cmd"] == "run"
    await swarmd.check_attempts(other, "OFFERED")


async def test_after_the_end_of_the_running_task(swarmd: Lab):
    bot = await polling(swarmd)
    first = await swarmd.submit("make")
    task = await bot.take()
    assert task is not None
    await task.start()
    id = await terminate(swarmd)
    assert not (await task.update())["must_stop"]
    await swarmd.check_state(id, "PENDING")
    await task.end(0)
    await swarmd.check_state(first, "COMPLETED")
    assert (await bot.poll())["cmd"] == "terminate"


@held
async def test_a_held_poll_is_woken(swarmd: Lab, nursery: trio.Nursery):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    answers: list[tuple[str, float]] = []

    async def poll() -> None:
        answers.append(((await bot.poll())["cmd"], swarmd.now))

    nursery.start_soon(poll)
    await swarmd.sleep(5)
    at = swarmd.now
    await terminate(swarmd)
    await swarmd.sleep(1)
    assert answers == [("terminate", pytest.approx(at, abs=0.1))]


async def test_a_poll_that_is_repeated_is_told_again(swarmd: Lab):
    bot = await polling(swarmd)
    bot.loses_answers = True
    id, run = await told(swarmd, bot)
    await swarmd.check_attempts(id, "RUNNING")
    await bot.confirm_end(run)
    await swarmd.check_state(id, "COMPLETED")


@file
async def test_a_poll_that_is_repeated_after_a_crash_is_told_again(swarmd: Lab):
    bot = await polling(swarmd)
    id, run = await told(swarmd, bot)
    await swarmd.crash()
    await swarmd.start()
    assert (await bot.repeat())["task_id"] == run
    await bot.confirm_end(run)
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_attempts(id, "ENDED")


async def test_a_goodbye_without_a_confirmation_is_enough(swarmd: Lab):
    bot = await polling(swarmd)
    id, _ = await told(swarmd, bot)
    await bot.event("bot_shutdown", "Signal was received")
    details = await swarmd.check_state(id, "COMPLETED")
    assert details.ok and details.exit_code == 0


@pytest.mark.parametrize("comes_back", [False, True])
async def test_of_a_bot_that_is_heard_of_no_more_nobody_knows(swarmd: Lab, comes_back: bool):
    bot = await polling(swarmd)
    id, _ = await told(swarmd, bot)
    if comes_back:
        await bot.restart()
    else:
        await swarmd.sleep(301)
    await swarmd.check_state(id, "BOT_DIED")
    if not comes_back:
        await bot.restart()
    assert (await bot.poll())["cmd"] == "sleep", "the next life is spared"


@pytest.mark.parametrize("why", ["quarantine", "maintenance", "drain"])
async def test_a_bot_out_of_service_ends_all_the_same(swarmd: Lab, why: str):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(**{why: True if why == "drain" else "broken"}))
    id, run = await told(swarmd, bot)
    await bot.confirm_end(run)
    await swarmd.check_state(id, "COMPLETED")


async def test_a_task_comes_before_an_order(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    id, run = await told(swarmd, bot)
    await bot.confirm_end(run)
    await swarmd.check_state(id, "COMPLETED")
    await bot.restart()
    assert (await bot.poll())["cmd"] == "sleep", "both are one end"


async def test_killed_when_it_was_told_it_ends_all_the_same(swarmd: Lab):
    bot = await polling(swarmd)
    id, run = await told(swarmd, bot)
    await swarmd.client.cancel([id], kill=True)
    await bot.confirm_end(run)
    await swarmd.check_state(id, "KILLED")


async def test_canceled_before_it_was_told_it_goes_on(swarmd: Lab):
    bot = await polling(swarmd)
    id = await terminate(swarmd)
    await swarmd.client.cancel([id])
    assert (await bot.poll())["cmd"] == "sleep"
    await swarmd.check_state(id, "CANCELED")


async def test_a_bot_that_does_not_obey_gets_work_again(swarmd: Lab):
    bot = await polling(swarmd)
    id, run = await told(swarmd, bot)
    await bot.call("task_update", {}, task_id=run, id="s1", session=bot.session, duration=0, exit_code=1)
    details = await swarmd.check_state(id, "COMPLETED")
    assert not details.ok
    await swarmd.submit("make")
    assert (await bot.poll())["cmd"] == "run"


# ------------------------------------------------------------------ by a lease


@pytest.mark.parametrize("mode", [pytest.param("rbe", marks=rbe), pytest.param("hybrid", marks=hybrid)])
async def test_a_lease_ends_a_bot(swarmd: Lab, mode: str):
    bot = await leasing(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    id = await terminate(swarmd)
    lease = (await bot.update_rbe())["lease"]
    await swarmd.check_attempts(id, "OFFERED")
    answer = await bot.claim(lease)
    assert answer["cmd"] == "terminate" and (await bot.repeat())["task_id"] == answer["task_id"]
    await swarmd.check_state(id, "RUNNING")
    await bot.confirm_end(answer["task_id"])
    await bot.event("bot_shutdown", "Signal was received")
    await bot.close_lease(lease["id"], "BOT_TERMINATING")
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_attempts(id, "ENDED")


@rbe
async def test_the_end_of_its_lease_is_enough(swarmd: Lab):
    """Confirmation and goodbye were lost: the bot ends without trying them again."""
    bot = await leasing(swarmd)
    id = await terminate(swarmd)
    lease = (await bot.update_rbe())["lease"]
    await bot.claim(lease)
    await bot.close_lease(lease["id"], "BOT_TERMINATING")
    await swarmd.check_state(id, "COMPLETED")
    assert (await swarmd.client.bot("s1")).status == "dead"


@rbe
async def test_a_lease_that_was_not_claimed_is_given_again(swarmd: Lab):
    bot = await leasing(swarmd)
    id = await terminate(swarmd)
    lease = (await bot.update_rbe())["lease"]
    assert (await bot.update_rbe())["lease"]["id"] == lease["id"]
    assert (await bot.claim(lease))["cmd"] == "terminate"
    await swarmd.check_attempts(id, "RUNNING")


@rbe
async def test_a_claimed_lease_of_a_bot_that_asks_for_work_was_not_obeyed(swarmd: Lab):
    bot = await leasing(swarmd)
    id = await terminate(swarmd)
    lease = (await bot.update_rbe())["lease"]
    await bot.claim(lease)
    other = await swarmd.submit("make")
    assert (await bot.close_lease(lease["id"], "OK"))["lease"]["id"] != lease["id"]
    await swarmd.check_state(id, "BOT_DIED")
    await swarmd.check_attempts(other, "OFFERED")


@rbe
async def test_a_bot_of_leases_that_polls_is_told_at_once(swarmd: Lab):
    bot = await leasing(swarmd)
    id, run = await told(swarmd, bot)
    await bot.confirm_end(run)
    await swarmd.check_state(id, "COMPLETED")


@rbe
async def test_a_held_call_for_a_lease_is_woken(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    answers: list[object] = []

    async def ask() -> None:
        answers.append((await bot.update_rbe(nonblocking=False)).get("lease"))

    nursery.start_soon(ask)
    await swarmd.sleep(5)
    await terminate(swarmd)
    await swarmd.sleep(1)
    assert len(answers) == 1 and answers[0] is not None


async def test_another_bot_cannot_confirm_it(swarmd: Lab):
    bot, other = await polling(swarmd), await polling(swarmd, "s2")
    id, run = await told(swarmd, bot)
    with pytest.raises(ApiError):
        await other.confirm_end(run)
    await swarmd.check_state(id, "RUNNING")
