"""Leases: the RBE session endpoints, claim, and the hybrid mode. Protocol reference, sections 9, 14 and 16."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from swarmd.client import ApiError, BotOrderRequest
from swarmd.core.ids import to_text
from swarmd.core.model import Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.testing import Lab, SwarmingBot
from tests.api.swarming.worlds import stranger, without_token

HOLD_S = 40.0  # of a call for a lease
RBE = {"swarming": {"pools": {"default": {"mode": "rbe"}}}}
HYBRID = {"swarming": {"pools": {"default": {"mode": "hybrid"}}}}

pytestmark = pytest.mark.swarmd(config=RBE)
hybrid = pytest.mark.swarmd(config=HYBRID)


async def leasing(lab: Lab, id: str = "s1") -> SwarmingBot:
    """A bot that has been told of leases, has polled and has a session for them."""
    bot = lab.swarming_bot(id)
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "rbe"
    await bot.open_rbe()
    return bot


async def task_of(lab: Lab, bot: SwarmingBot, **fields: Any):
    """A new task, running on `bot`: its id and the bot's side of it."""
    id = await lab.submit("make", **fields)
    task = await bot.take_lease()
    assert task is not None
    await task.start()
    return id, task


# ------------------------------------------------------------------ how a bot is told


async def test_handshake_and_poll_say_that_there_are_leases(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    told = (await bot.handshake())["rbe"]
    assert told == {"instance": "swarmd", "hybrid_mode": False, "sleep": 1.0, "poll_token": "unused"}
    await swarmd.submit("make")
    answer = await bot.poll()
    assert (answer["cmd"], answer["rbe"]) == ("rbe", told)


@pytest.mark.swarmd(config={})
async def test_a_pool_that_gives_work_by_poll_has_no_leases(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    assert "rbe" not in await bot.handshake()
    with pytest.raises(ApiError) as refused:
        await bot.open_rbe()
    assert refused.value.status == 400


async def test_there_are_no_leases_without_a_session_for_them(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    with pytest.raises(ApiError) as refused:
        await bot.update_rbe()
    assert refused.value.status == 400


# ------------------------------------------------------------------ lease, claim, end


async def test_a_task_from_lease_to_end(swarmd: Lab):
    id = await swarmd.submit("make", "test")
    bot = await leasing(swarmd)
    lease = (await bot.update_rbe())["lease"]
    assert lease["state"] == "PENDING"
    assert lease["payload"]["task_id"].endswith("0")
    assert lease["payload"] == {
        "reservation_id": lease["payload"]["reservation_id"], "task_id": lease["payload"]["task_id"],
        "slice_index": 0, "task_to_run_shard": 0, "task_to_run_id": 1,
    }  # fmt: skip
    await swarmd.check_attempts(id, "OFFERED")
    claimed = await bot.claim(lease)
    assert (claimed["cmd"], claimed["task_id"]) == ("run", lease["payload"]["task_id"][:-1] + "1")
    assert claimed["manifest"]["task_id"] == claimed["task_id"]
    assert claimed["manifest"]["command"] == ["make", "test"]
    await swarmd.check_attempts(id, "RUNNING")


async def test_a_claim_made_again_gives_the_same_manifest_also_after_a_restart(swarmd: Lab):
    await swarmd.submit("make")
    bot = await leasing(swarmd)
    lease = (await bot.update_rbe())["lease"]
    first = await bot.claim(lease)
    await swarmd.crash()
    await swarmd.start()
    second = await bot.repeat()
    assert without_token(first) == without_token(second)


async def test_a_lease_whose_answer_was_lost_is_offered_again(swarmd: Lab):
    id = await swarmd.submit("make")
    await swarmd.submit("another")
    bot = await leasing(swarmd)
    first = (await bot.update_rbe())["lease"]
    assert (await bot.repeat())["lease"] == first
    await swarmd.crash()
    await swarmd.start()
    assert (await bot.update_rbe(nonblocking=False))["lease"] == first
    await swarmd.check_attempts(id, "OFFERED")


@pytest.mark.parametrize("ended", ["canceled", "taken by another bot", "never was"])
async def test_a_claim_of_what_is_gone_is_skipped(swarmd: Lab, ended: str):
    id = await swarmd.submit("make")
    bot, other = await leasing(swarmd), await leasing(swarmd, "s2")
    lease = (await bot.update_rbe())["lease"]
    if ended == "canceled":
        await swarmd.client.cancel([id])
        reason = "No such task"
    elif ended == "taken by another bot":
        await bot.close_lease(lease["id"], skip_reason="I would rather not")
        lease = (await other.update_rbe())["lease"]
        reason = "Already claimed by s2"
    else:
        lease = {**lease, "id": "0000000000001"}
        reason = "No such task"
    skipped = await bot.claim(lease)
    assert without_token(skipped) == {"cmd": "skip", "reason": reason}
    await bot.close_lease(lease["id"], "OK", skip_reason=reason)


async def test_a_lease_that_was_closed_unclaimed_goes_back(swarmd: Lab):
    id = await swarmd.submit("make")
    bot = await leasing(swarmd)
    lease = (await bot.update_rbe())["lease"]
    again = (await bot.close_lease(lease["id"], "OK", skip_reason="why not"))["lease"]
    assert again["id"] != lease["id"] and again["payload"]["task_to_run_id"] == 2
    await swarmd.check_attempts(id, "DROPPED", "OFFERED")


async def test_a_lease_that_was_closed_with_an_unfinished_task_is_lost(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot, bot_retries=0)
    await bot.close_lease(task.lease, "OK", bot_internal_error="the runner vanished")
    await swarmd.check_state(id, "BOT_DIED")


async def test_the_end_of_a_task_and_of_its_lease(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot)
    assert (await task.ping())["lease"] == {"id": task.lease, "state": "ACTIVE"}
    await task.end(0)
    assert "lease" not in await bot.close_lease(task.lease)
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_attempts(id, "ENDED")


async def test_a_lease_says_canceled_but_it_is_the_update_that_stops(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot)
    await swarmd.client.cancel([id], kill=True)
    assert (await task.ping())["lease"]["state"] == "CANCELLED"
    await swarmd.check_state(id, "RUNNING")
    assert (await task.update())["must_stop"]
    await task.end(-15)
    await bot.close_lease(task.lease)
    await swarmd.check_state(id, "KILLED")
    assert "lease" not in await task.ping()


async def test_pings_of_a_lease_keep_the_bot_alive(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot)
    for _ in range(4):
        await swarmd.sleep(200)  # of 300 that it may be silent
        await task.ping()
    await swarmd.check_state(id, "RUNNING")


@pytest.mark.parametrize("mode", [pytest.param("rbe"), pytest.param("hybrid", marks=hybrid)])
async def test_a_call_without_a_lease_under_maintenance_does_not_end_what_runs(swarmd: Lab, mode: str):
    """The runner keeps its session for leases by it, also when its task came by a poll."""
    id = await swarmd.submit("make")
    bot = await leasing(swarmd)
    task = await (bot.take_lease() if mode == "rbe" else bot.take(force=True))
    assert task is not None
    await bot.update_rbe("MAINTENANCE")  # so does the main process, before the task starts
    await task.start()
    await bot.update_rbe("MAINTENANCE", nonblocking=False, token=task.session)
    await swarmd.check_attempts(id, "RUNNING")
    await task.end(0)
    await swarmd.check_state(id, "COMPLETED")


async def test_who_asks_for_a_lease_runs_nothing(swarmd: Lab):
    bot = await leasing(swarmd)
    id, _ = await task_of(swarmd, bot, bot_retries=0)
    assert "lease" not in await bot.update_rbe()
    await swarmd.check_state(id, "BOT_DIED")


# ------------------------------------------------------------------ waiting for a lease


async def test_a_call_is_held_until_there_is_work(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    began, told = swarmd.now, []

    async def ask():
        told.append(await bot.update_rbe(nonblocking=False))
        told.append(swarmd.now - began)

    nursery.start_soon(ask)
    await swarmd.sleep(7)
    assert not told
    await swarmd.submit("make")
    await swarmd.sleep(1)
    assert told[0]["lease"]["state"] == "PENDING"
    assert told[1] == pytest.approx(7, abs=0.1)


async def test_a_held_call_ends_without_work_well_before_the_bot_gives_up(swarmd: Lab):
    bot = await leasing(swarmd)
    began = swarmd.now
    assert "lease" not in await bot.update_rbe(nonblocking=False)
    assert swarmd.now - began == pytest.approx(HOLD_S, abs=0.1)
    assert "lease" not in await bot.update_rbe()
    assert swarmd.now - began == pytest.approx(HOLD_S, abs=0.1)


async def test_a_newer_call_takes_over_and_the_older_one_gets_nothing(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    told: list[dict[str, Any]] = []

    async def ask():
        told.append(await bot.update_rbe(nonblocking=False))

    nursery.start_soon(ask)
    await swarmd.sleep(1)
    nursery.start_soon(ask)
    await swarmd.sleep(1)
    assert [set(answer) for answer in told] == [{"session", "status"}]
    await swarmd.submit("make")
    await swarmd.sleep(1)
    assert told[1]["lease"]["state"] == "PENDING"


async def test_a_held_call_is_answered_when_the_daemon_stops(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    told: list[dict[str, Any]] = []

    async def ask():
        told.append(await bot.update_rbe(nonblocking=False))

    nursery.start_soon(ask)
    await swarmd.sleep(1)
    await swarmd.stop()
    assert [answer["status"] for answer in told] == ["OK"]
    await swarmd.start()


@pytest.mark.parametrize(
    "status", ["MAINTENANCE", "HOST_REBOOTING", "BOT_TERMINATING", "UNHEALTHY", "INITIALIZING"]
)
async def test_a_bot_that_does_not_say_ok_gets_no_lease(swarmd: Lab, status: str):
    bot = await leasing(swarmd)
    id = await swarmd.submit("make")
    began = swarmd.now
    assert "lease" not in await bot.update_rbe(status, nonblocking=False)
    assert swarmd.now == pytest.approx(began, abs=0.1)
    await swarmd.check_attempts(id)


# ------------------------------------------------------------------ bots that were away


async def test_a_bot_that_was_silent_for_too_long_goes_on_by_itself(swarmd: Lab):
    bot = await leasing(swarmd)
    await swarmd.sleep(301)
    assert (await swarmd.client.bot("s1")).status == "dead"
    id = await swarmd.submit("make")
    task = await bot.take_lease()
    assert task is not None
    await task.start()
    await swarmd.check_state(id, "RUNNING")


@pytest.mark.parametrize("status", ["BOT_TERMINATING", "HOST_REBOOTING", "MAINTENANCE"])
async def test_a_bot_that_has_said_goodbye_is_not_brought_back_by_its_last_call(swarmd: Lab, status: str):
    bot = await leasing(swarmd)
    await bot.event("bot_shutdown", "Signal was received")
    await bot.update_rbe(status)
    assert (await swarmd.client.bot("s1")).status == "dead"


async def test_the_ping_of_a_runner_whose_bot_has_another_process_says_that_the_lease_is_lost(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot, bot_retries=0)
    await bot.restart()
    assert "lease" not in await task.ping()
    assert (await task.update())["must_stop"]
    await swarmd.check_state(id, "BOT_DIED")


async def test_a_process_that_was_replaced_is_sent_to_its_poll_and_does_not_spin(swarmd: Lab):
    old = await leasing(swarmd)
    new = stranger(swarmd)
    await new.handshake()
    id = await swarmd.submit("make")
    [closed, held] = await spin_until_poll(swarmd, old)
    assert closed < 1 and held == pytest.approx(HOLD_S, abs=0.1)
    assert (await old.poll())["cmd"] == "sleep"
    await swarmd.check_attempts(id)
    task = await new.take_lease()
    assert task is not None


# ------------------------------------------------------------------ orders


async def spin_until_poll(lab: Lab, bot: SwarmingBot) -> list[float]:
    """An idle bot calls until it has been sent to its poll: how long that took, and how long its next call is held."""
    spans = []
    began = lab.now
    lease = (await bot.update_rbe(nonblocking=False))["lease"]
    assert lease["payload"]["noop"] is True
    # A lease that is none makes it busy, and so idle again: only then it polls at once.
    assert "lease" not in await bot.close_lease(lease["id"], "OK")
    spans.append(lab.now - began)
    began = lab.now
    assert "lease" not in await bot.update_rbe(nonblocking=False)
    return [*spans, lab.now - began]


@pytest.mark.parametrize("order", ["restart", "update"])
async def test_an_idle_bot_is_sent_to_its_poll_where_it_is_told(swarmd: Lab, order: Any):
    bot = await leasing(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order=order))
    [at_once, held] = await spin_until_poll(swarmd, bot)
    assert at_once < 1 and held == pytest.approx(HOLD_S, abs=0.1)
    answer = await bot.poll()
    assert (answer["cmd"], answer["message"]) == ("bot_restart", f"told to {order}")
    await bot.update_rbe("HOST_REBOOTING")
    await bot.event("bot_shutdown", "About to restart")
    await bot.restart()
    assert (await bot.poll())["cmd"] == "rbe"
    assert (await swarmd.client.bot("s1")).order is None


async def test_an_order_reaches_a_held_call(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    told: list[dict[str, Any]] = []

    async def ask():
        told.append(await bot.update_rbe(nonblocking=False))

    nursery.start_soon(ask)
    await swarmd.sleep(5)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    await swarmd.sleep(1)
    assert told and told[0]["lease"]["payload"]["noop"]


@pytest.mark.parametrize("how", ["lease", "poll"])
async def test_a_bot_is_told_to_end_itself(swarmd: Lab, how: str):
    bot = await leasing(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    if how == "lease":
        lease = (await bot.update_rbe(nonblocking=False))["lease"]
        answer = await bot.claim(lease)
    else:
        answer = await bot.poll()
    assert answer["cmd"] == "terminate" and answer["task_id"].endswith("1")
    await bot.confirm_end(answer["task_id"])
    await bot.event("bot_shutdown", "Signal was received")
    if how == "lease":
        await bot.close_lease(lease["id"], "BOT_TERMINATING")
    info = await swarmd.client.bot("s1")
    assert (info.status, info.order) == ("dead", None)


async def test_an_order_to_end_that_was_taken_back_is_skipped(swarmd: Lab):
    bot = await leasing(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    lease = (await bot.update_rbe())["lease"]
    await swarmd.client.order_bot("s1", BotOrderRequest(order=None))
    assert (await bot.claim(lease))["cmd"] == "skip"


async def test_an_order_waits_for_the_end_of_the_task(swarmd: Lab):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    assert not (await task.update())["must_stop"]
    assert (await task.ping())["lease"]["state"] == "ACTIVE"
    await task.end(0)
    assert "lease" not in await bot.close_lease(task.lease)
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize(
    "change",
    [{"drain": True}, {"quarantine": "smoke"}, {"maintenance": "a new fan"}],
    ids=lambda change: next(iter(change)),
)
async def test_a_bot_that_takes_no_work_is_held_and_gets_it_when_it_may(
    swarmd: Lab, nursery: trio.Nursery, change: dict[str, Any]
):
    bot = await leasing(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(**change))
    await swarmd.submit("make")
    told: list[dict[str, Any]] = []

    async def ask():
        told.append(await bot.update_rbe(nonblocking=False))

    nursery.start_soon(ask)
    await swarmd.sleep(5)
    assert not told
    back = {key: False if value is True else None for key, value in change.items()}
    await swarmd.client.order_bot("s1", BotOrderRequest(**back))
    await swarmd.sleep(1)
    assert told and told[0]["lease"]["state"] == "PENDING"


# ------------------------------------------------------------------ hybrid mode


@hybrid
async def test_a_hybrid_bot_alternates_and_gets_work_on_both_sides(swarmd: Lab):
    bot = await leasing(swarmd)
    told = bot.rbe
    assert told == {"instance": "swarmd", "hybrid_mode": True, "sleep": 1.0, "poll_token": "unused"}
    by_lease = await swarmd.submit("by lease")
    assert (await bot.poll())["cmd"] == "rbe"  # its turn for leases: a poll gives none
    task = await bot.take_lease()
    assert task is not None
    await task.start()
    await task.end(0)
    await bot.close_lease(task.lease)
    await swarmd.check_state(by_lease, "COMPLETED")
    by_poll = await swarmd.submit("by poll")
    answer = await bot.poll(force=True)
    assert (answer["cmd"], answer["rbe"]) == ("run", told)
    await swarmd.check_attempts(by_poll, "OFFERED")


@hybrid
async def test_a_forced_poll_without_work_goes_on_with_leases(swarmd: Lab):
    bot = await leasing(swarmd)
    answer = await bot.poll(force=True)
    assert answer["cmd"] == "rbe" and answer["rbe"]["hybrid_mode"]


@hybrid
async def test_a_task_whose_poll_was_lost_comes_back_as_a_lease(swarmd: Lab):
    """The poll that is repeated may be one of the other kind: the bot alternates all the same."""
    id = await swarmd.submit("make")
    bot = await leasing(swarmd)
    await bot.poll(force=True)
    again = await bot.repeat()
    assert again["cmd"] == "run"
    lease = (await bot.update_rbe())["lease"]
    assert (await bot.claim(lease))["manifest"]["task_id"] == again["manifest"]["task_id"]
    await swarmd.check_attempts(id, "RUNNING")


# ------------------------------------------------------------------ what is behind a lease


async def test_a_task_may_be_to_end_the_bot(swarmd: Lab):
    bot = await leasing(swarmd)
    spec = TaskSpec((Work(terminate=True),), (SliceSpec({"id": ["s1"]}),), pool="")
    with swarmd.daemon.step() as (engine, now):
        [submitted] = engine.submit(now, [spec])
    lease = (await bot.update_rbe())["lease"]
    answer = await bot.claim(lease)
    assert answer["cmd"] == "terminate" and answer["task_id"] == lease["payload"]["task_id"][:-1] + "1"
    assert (await bot.confirm_end(answer["task_id"]))["ok"]
    await bot.event("bot_shutdown", "Signal was received")
    await bot.close_lease(lease["id"], "BOT_TERMINATING")
    await swarmd.check_state(to_text(submitted.id), "COMPLETED")


async def test_a_payload_that_cannot_be_read_is_skipped_and_told(swarmd: Lab):
    id = await swarmd.submit(payload={"type": "swarming.properties", "data": "bm8ganNvbg=="})
    bot = await leasing(swarmd)
    lease = (await bot.update_rbe())["lease"]
    assert (await bot.claim(lease))["cmd"] == "skip"
    details = await swarmd.check_state(id, "CLIENT_ERROR")
    assert "swarming.properties" in details.reason
    assert "lease" not in await bot.close_lease(lease["id"], "OK", skip_reason="No such task")


async def test_a_bot_of_leases_lives_over_restarts_of_the_daemon(swarmd: Lab, nursery: trio.Nursery):
    bot = await leasing(swarmd)
    id, task = await task_of(swarmd, bot)
    for step in (task.ping, task.update, partial(task.write, b"x"), partial(task.end, 0), bot.poll):
        await swarmd.crash()
        await swarmd.start()
        await step()
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_output(id, b"x")
    await swarmd.check_file()
