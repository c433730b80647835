"""Bots that die, come back, come twice, and polls that are held. Protocol reference, sections 7 and 16.6."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from swarmd.client import ApiError, BotOrderRequest
from swarmd.config_swarming import SwarmingConfig
from swarmd.testing import Lab, SwarmingBot
from tests.api.swarming.worlds import kinds_of, polling, stranger

DEATH_S = 300.0  # a bot that is silent for so long is dead
SLEEPS = {"quarantined": (30, 60), "maintenance": (10, 20), "draining": (5, 10)}

held = pytest.mark.swarmd(config={"swarming": {"poll_hold_s": 40}})


# ------------------------------------------------------------------ death, and processes of one id


async def test_a_silent_bot_is_dead_and_its_task_lost(swarmd: Lab):
    bot = await polling(swarmd)
    lost = await swarmd.submit("make", bot_retries=0)
    task = await bot.take()
    assert task is not None
    await task.start()
    await swarmd.sleep(DEATH_S - 1)
    await swarmd.check_state(lost, "RUNNING")
    await swarmd.sleep(2)
    details = await swarmd.check_state(lost, "BOT_DIED")
    assert "silent for 300 s" in details.reason
    assert (await swarmd.client.bot("s1")).status == "dead"
    answer = await task.update()
    assert answer["must_stop"] and not answer["ok"]
    assert (await swarmd.client.bot("s1")).status == "dead", "a runner does not bring its bot back"
    last = await task.end(0)
    assert (last["must_stop"], last["ok"]) == (False, False)
    await swarmd.check_state(lost, "BOT_DIED")
    assert (await bot.poll())["cmd"] == "sleep"
    assert (await swarmd.client.bot("s1")).status == "idle"
    await swarmd.check_state(lost, "BOT_DIED")


async def test_updates_keep_a_bot_alive(swarmd: Lab):
    bot = await polling(swarmd)
    id = await swarmd.submit("make")
    task = await bot.take()
    assert task is not None
    for _ in range(5):
        await task.update()
        await swarmd.sleep(DEATH_S - 10)
    await swarmd.check_state(id, "RUNNING")


async def test_polls_keep_a_bot_alive_whatever_they_are_answered(swarmd: Lab):
    bot = await polling(swarmd)
    for state in ({}, {"quarantined": "smoke"}, {"maintenance": "a new fan"}, {}):
        for _ in range(2):
            await swarmd.sleep(DEATH_S - 10)
            assert (await bot.poll(state=state))["cmd"] == "sleep"
    assert (await swarmd.client.bot("s1")).status == "idle"
    events = [event async for event in swarmd.client.bot_events("s1")]
    assert [event.kind for event in events].count("bot.connected") == 1


async def test_a_bot_that_comes_back_is_what_it_was(swarmd: Lab):
    bot = await polling(swarmd, dimensions={"os": ["Linux"]})
    await swarmd.sleep(DEATH_S + 1)
    await swarmd.submit("make", dimensions={"os": "Linux"})
    assert (await bot.poll())["cmd"] == "run"
    await swarmd.sleep(DEATH_S + 1)
    assert (await bot.poll(dimensions={"id": ["s1"], "os": []}))["cmd"] == "sleep"
    assert (await swarmd.client.bot("s1")).dimensions["os"] == ["Linux"]


async def test_a_new_process_loses_what_the_old_one_ran_and_the_runner_is_told_to_stop(swarmd: Lab):
    """A main process that was killed leaves its runner behind, which goes on with the old token."""
    bot = await polling(swarmd)
    first, second = await swarmd.submit("first", bot_retries=0), await swarmd.submit("second")
    old = await bot.take()
    assert old is not None
    await old.start()
    await bot.restart()
    await swarmd.check_state(first, "BOT_DIED")
    new = await bot.take()
    assert new is not None and new.command == ["second"]
    await new.start()
    answer = await old.write(b"still here\n")
    assert answer["must_stop"] and not answer["ok"] and answer["stop_reason"]
    assert not (await new.update())["must_stop"]
    last = await old.end(0)
    assert (last["must_stop"], last["ok"]) == (False, False)
    await new.end(0)
    await swarmd.check_state(first, "BOT_DIED")
    await swarmd.check_state(second, "COMPLETED")
    await swarmd.check_output(first, b"")


async def test_a_new_process_gives_back_what_the_old_one_had_not_started(swarmd: Lab):
    bot = await polling(swarmd)
    id = await swarmd.submit("make", bot_retries=0)
    assert await bot.take() is not None
    await bot.restart()
    await swarmd.check_attempts(id, "DROPPED")
    await swarmd.check_state(id, "PENDING")


async def test_two_processes_of_one_id_do_not_fight(swarmd: Lab):
    old = await polling(swarmd)
    new = stranger(swarmd)
    await new.handshake()
    id = await swarmd.submit("make")
    for _ in range(3):
        answer = await old.poll()
        assert answer["cmd"] == "sleep" and 30 <= answer["duration"] <= 60
    task = await new.take()
    assert task is not None
    await task.start()
    assert (await old.poll())["cmd"] == "sleep"
    await swarmd.check_state(id, "RUNNING")
    await task.end(0)
    assert (await kinds_of(swarmd)).count("bot.connected") == 2
    await new.event("bot_shutdown")
    await swarmd.submit("next")
    assert (await old.poll())["cmd"] == "run", "the other one has gone"


async def test_a_native_bot_and_a_swarming_bot_cannot_share_an_id(swarmd: Lab):
    native = swarmd.bot("s1")
    await native.open()
    bot = swarmd.swarming_bot("s1")
    with pytest.raises(ApiError) as refused:
        await bot.handshake()
    assert (refused.value.status, refused.value.code) == (409, "bot_in_use")
    await native.close()
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "sleep"


# ------------------------------------------------------------------ held polls


class Asking:
    """A poll that is held: what it was answered, and when."""

    def __init__(self, lab: Lab, nursery: trio.Nursery, bot: SwarmingBot) -> None:
        self.answer: dict[str, Any] = {}
        self.at = -1.0

        async def ask() -> None:
            began = lab.now
            self.answer = await bot.poll()
            self.at = lab.now - began

        nursery.start_soon(ask)


@held
async def test_a_held_poll_is_woken_by_a_task(swarmd: Lab, nursery: trio.Nursery):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    poll = Asking(swarmd, nursery, bot)
    await swarmd.sleep(7)
    assert not poll.answer
    await swarmd.submit("make")
    await swarmd.sleep(1)
    assert poll.answer["cmd"] == "run" and poll.at == pytest.approx(7, abs=0.1)


@held
async def test_a_held_poll_without_work_ends_and_the_bot_was_alive_meanwhile(
    swarmd: Lab, nursery: trio.Nursery
):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    poll = Asking(swarmd, nursery, bot)
    await swarmd.sleep(41)
    assert poll.answer["cmd"] == "sleep" and poll.at == pytest.approx(40, abs=0.1)
    assert (await swarmd.client.bot("s1")).status == "idle"


@held
@pytest.mark.parametrize("order", ["restart", "terminate"])
async def test_a_held_poll_is_woken_by_an_order(swarmd: Lab, nursery: trio.Nursery, order: Any):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    poll = Asking(swarmd, nursery, bot)
    await swarmd.sleep(5)
    await swarmd.client.order_bot("s1", BotOrderRequest(order=order))
    await swarmd.sleep(1)
    assert poll.answer["cmd"] == {"restart": "bot_restart", "terminate": "terminate"}[order]
    assert poll.at == pytest.approx(5, abs=0.1)


@held
async def test_a_second_poll_of_the_session_takes_over(swarmd: Lab, nursery: trio.Nursery):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    first = Asking(swarmd, nursery, bot)
    await swarmd.sleep(5)
    second = Asking(swarmd, nursery, bot)
    await swarmd.sleep(1)
    assert first.answer["cmd"] == "sleep" and first.at == pytest.approx(5, abs=0.1) and not second.answer
    id = await swarmd.submit("make")
    await swarmd.sleep(1)
    assert second.answer["cmd"] == "run"
    await swarmd.check_attempts(id, "OFFERED")


@held
async def test_a_held_poll_is_answered_when_the_daemon_stops_and_when_the_session_ends(
    swarmd: Lab, nursery: trio.Nursery
):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    poll = Asking(swarmd, nursery, bot)
    await swarmd.sleep(1)
    await stranger(swarmd).handshake()
    await swarmd.sleep(1)
    assert poll.answer["cmd"] == "sleep"
    other = swarmd.swarming_bot("s2")
    await other.handshake()
    poll = Asking(swarmd, nursery, other)
    await swarmd.sleep(1)
    await swarmd.stop()
    assert poll.answer["cmd"] == "sleep"
    await swarmd.start()


@held
async def test_a_held_poll_of_a_bot_that_is_deleted_is_answered(swarmd: Lab, nursery: trio.Nursery):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    poll = Asking(swarmd, nursery, bot)
    await swarmd.sleep(1)
    with swarmd.daemon.step() as (engine, now):  # both before the poll is told
        engine.close_session(now, next(iter(engine.sessions)), "it went")
        engine.delete_bot(now, next(iter(engine.bots)))
    await swarmd.sleep(1)
    assert poll.answer["cmd"] == "sleep"
    answer = await bot.poll()
    assert answer["cmd"] == "sleep", "its token is good: it is a new bot"


@held
async def test_a_poll_whose_bot_went_away_leaves_the_task_to_the_next(swarmd: Lab, nursery: trio.Nursery):
    gone, other = swarmd.swarming_bot("s1"), swarmd.swarming_bot("s2")
    await gone.handshake()
    await other.handshake()
    with trio.move_on_after(5):
        await gone.poll()
    poll = Asking(swarmd, nursery, other)
    await swarmd.sleep(5)
    await swarmd.submit("make")
    await swarmd.sleep(1)
    assert poll.answer.get("cmd") == "run"


def test_the_defaults_of_the_configuration_are_what_these_tests_assume():
    assert SwarmingConfig().death_timeout_s == DEATH_S
