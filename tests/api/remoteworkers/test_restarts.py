"""What a restart of the daemon, or the loss of a bot, leaves of sessions and their leases."""

from __future__ import annotations

import pytest

from swarmd.testing import Lab
from swarmd.testing.remote_bots import ACTIVE, MAINTENANCE

from .worlds import CONFIG, KEEP_ALIVE_S, came, one, session_of

pytestmark = pytest.mark.swarmd(config=CONFIG)


async def test_a_kill_of_the_daemon_leaves_its_bots_able_to_go_on(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    idle = await came(swarmd, "idle", instance="lab/east")
    await swarmd.crash()
    await swarmd.sleep(200)
    await swarmd.start()
    await bot.update()
    assert [(known.id, known.state) for known in bot.leases] == [
        (lease, ACTIVE)
    ] and bot.session.version == "1"
    await swarmd.check_attempts(id, "RUNNING")
    bot.complete(lease)
    await bot.update()
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.submit("make", pool="east")
    await idle.update(deadline_s=15)
    assert len(idle.leases) == 1 and idle.session.name.startswith("lab/east/")


async def test_a_lease_whose_answer_was_lost_in_the_crash_is_told_again(swarmd: Lab):
    bot = await came(swarmd)
    id = await swarmd.submit("make")
    before = session_of(bot)
    await bot.update()
    lease = bot.leases[0]
    bot.session.CopyFrom(before)
    await swarmd.crash()
    await swarmd.start()
    await bot.update()
    assert bot.leases == [lease]
    await swarmd.check_attempts(id, "OFFERED")


async def test_an_end_that_was_committed_and_not_answered_counts_once(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    bot.complete(lease, 3)
    said = session_of(bot)
    await bot.update()
    await swarmd.crash()
    await swarmd.start()
    bot.session.CopyFrom(said)
    await bot.update()
    assert not bot.leases
    await swarmd.check_attempts(id, "ENDED")


@pytest.mark.parametrize("says", ["active", "completed"])
async def test_a_bot_that_opens_a_new_session_keeps_what_it_names(swarmd: Lab, says: str):
    """BuildGrid gives such work to another bot; here the bot's word for it is good."""
    bot, id, lease = await one(swarmd, bot_retries=0)
    if says == "completed":
        bot.complete(lease, 4)
    await swarmd.crash()
    await swarmd.start()
    await bot.create()
    if says == "active":
        assert [(known.id, known.state) for known in bot.leases] == [(lease, ACTIVE)]
        await swarmd.check_attempts(id, "RUNNING")
        bot.complete(lease, 4)
        await bot.update()
    assert not bot.leases
    assert (await swarmd.check_state(id, "COMPLETED")).exit_code == 4


async def test_a_bot_that_comes_back_without_its_lease_gets_it_as_a_new_attempt_and_uncounted(swarmd: Lab):
    """reccworker ends when a call of it fails, and is started again by whoever watches over it."""
    _, id, lease = await one(swarmd, bot_retries=0)
    await swarmd.crash()
    await swarmd.start()
    bot = await came(swarmd)
    await swarmd.check_attempts(id, "LOST", "OFFERED")
    [again] = bot.leases
    assert again.id != lease
    bot.complete(again.id)
    await bot.update()
    await swarmd.check_state(id, "COMPLETED")


async def test_a_session_that_stops_calling_is_ended_and_its_leases_go_to_another_bot(swarmd: Lab):
    bot, id, _ = await one(swarmd, bot_retries=1)
    other = await came(swarmd, "w2", status=MAINTENANCE)
    await swarmd.sleep(KEEP_ALIVE_S - 1)
    await other.update()
    assert not other.leases
    await swarmd.sleep(1.01)
    await other.update()
    [again] = other.leases
    await swarmd.check_attempts(id, "LOST", "OFFERED")
    await bot.create(status=MAINTENANCE)
    assert not bot.leases, "what it still runs is not its own any more"
    other.complete(again.id)
    await other.update()
    await swarmd.check_state(id, "COMPLETED")


async def test_the_status_of_a_bot_outlives_the_daemon(swarmd: Lab):
    bot = await came(swarmd, status=4)
    await swarmd.restart()
    found = await swarmd.client.bot("w1")
    assert (found.state["status"], found.maintenance) == (
        "BOT_TERMINATING",
        "it says that it is BOT_TERMINATING",
    )
    await bot.update()
    found = await swarmd.client.bot("w1")
    assert (found.state["status"], found.status, found.state["session"]) == ("OK", "idle", bot.session.name)


async def test_who_opens_a_session_again_because_the_answer_was_lost_has_one(swarmd: Lab):
    id = await swarmd.submit("make")
    bot = swarmd.remote_bot("w1", instance="lab")
    bot.loses_answers = True
    await bot.create()
    bot.loses_answers = False
    assert len(bot.leases) == 1 and len(swarmd.daemon.engine.sessions) == 1
    await swarmd.check_attempts(id, "DROPPED", "OFFERED")
