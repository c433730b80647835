"""The stories. Each is told once, over any pair of adapters, and is true in any weather.

A story names in `@story(…)` what its pair must be able to express. It ends in a check of what became of its tasks; that
the daemon's memory and its file hold together is checked after each.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.adapters import BotCan, ClientCan
from tests.conformance.pairs import Story, Tell, World

STORIES: list[Story] = []


def story(*needs: BotCan | ClientCan, only_calm: str = "") -> Callable[[Tell], Tell]:
    def add(tell: Tell) -> Tell:
        STORIES.append(Story(tell, needs, only_calm))
        return tell

    return add


# ------------------------------------------------------------------ how a task ends


@story()
async def runs(world: World) -> None:
    id = await world.submit(argv=("make", "test"))
    await world.check(id, "PENDING")
    bot = await world.bot()
    job = await bot.take()
    assert job is not None and job.argv == ("make", "test")
    await bot.start(job)
    await world.check(id, "RUNNING", "RUNNING")
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)
    assert await bot.take() is None


@story(ClientCan.READ_EXIT_CODE)
async def fails(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 3)
    await world.check(id, "COMPLETED", "ENDED", ok=False)
    assert await world.client.exit_code(id) == 3


@story(BotCan.REPORT_TIMEOUT, ClientCan.SET_LIMIT)
async def times_out(world: World) -> None:
    id = await world.submit(hard_limit_s=30)
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.lab.sleep(30)
    await bot.time_out(job)
    await world.check(id, "TIMED_OUT", "ENDED", ok=False)


@story(ClientCan.SET_LIMIT, only_calm="a daemon that crashes cannot tell its last quiet minute from downtime")
async def times_out_on_a_bot_that_only_says_it_lives(world: World) -> None:
    id = await world.submit(hard_limit_s=100, grace_s=5)
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    for _ in range(9):  # the limit, three graces, a minute: 175 s at most
        await world.check(id, "RUNNING", "RUNNING")
        await world.lab.sleep(11)
        await bot.live()
    await world.lab.sleep(30)
    await bot.live()
    await world.lab.sleep(55)
    await world.check(id, "TIMED_OUT", "ENDED", ok=False)
    await bot.finish(job, 0)
    await world.check(id, "TIMED_OUT", "ENDED", ok=False)


# ------------------------------------------------------------------ how a task is canceled


@story(ClientCan.CANCEL_ONE)
async def is_canceled_before_anybody_took_it(world: World) -> None:
    id = await world.submit()
    await world.client.cancel(id, kill=True)
    await world.check(id, "CANCELED", ok=False)
    bot = await world.bot()
    assert await bot.take() is None


@story(ClientCan.CANCEL_ONE, BotCan.HOLD_BACK)
async def is_canceled_while_offered(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await world.check(id, "PENDING", "OFFERED")
    await world.client.cancel(id, kill=False)
    await world.check(id, "CANCELED", "DROPPED", ok=False)
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(id, "CANCELED", "DROPPED", ok=False)


@story(ClientCan.CANCEL_ONE, BotCan.BE_STOPPED)
async def is_killed_while_it_runs(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    assert not await bot.is_told_to_stop(job)
    await world.client.cancel(id, kill=True)
    await world.check(id, "RUNNING", "RUNNING")
    assert await bot.is_told_to_stop(job)
    assert await bot.is_told_to_stop(job), "an order is repeated until its effect is seen"
    await bot.report_stopped(job)
    await world.check(id, "KILLED", "ENDED", ok=False)


@story(ClientCan.CANCEL_ONE, BotCan.BE_STOPPED)
async def is_killed_by_a_bot_that_dies_meanwhile(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.client.cancel(id, kill=True)
    assert await bot.is_told_to_stop(job)
    await world.lab.sleep(bot.silence_s)
    await world.check(id, "KILLED", bot.stop_unheard, ok=False)


@story(ClientCan.SPARE_RUNNING)
async def is_spared_by_a_cancel_that_does_not_kill(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.client.cancel(id, kill=False)
    assert not await bot.is_told_to_stop(job)
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)


# ------------------------------------------------------------------ what is said twice, late, in pieces


@story(BotCan.WRITE_PIECES, ClientCan.READ_OUTPUT, ClientCan.READ_LIVE_OUTPUT)
async def prints_in_pieces(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    printed = b""
    for piece in (b"one\n", b"\x00\xff not text", b"", b"three" * 1000):
        await bot.write(job, piece)
        printed += piece
        assert await world.client.output(id) == printed
    await bot.finish(job, 0)
    assert await world.client.output(id) == printed
    await world.check(id, "COMPLETED", "ENDED", ok=True)


@story(ClientCan.READ_OUTPUT)
async def loses_every_answer_and_happens_once(world: World) -> None:
    id = await world.submit()
    other = await world.submit()
    bot = await world.bot(connects=False)
    bot.loses_answers = True
    await bot.connect()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    if BotCan.WRITE_PIECES not in bot.cannot:
        await bot.write(job, b"once\n")
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)
    if BotCan.WRITE_PIECES not in bot.cannot:
        assert await world.client.output(id) == b"once\n"
    await world.check(other, "PENDING")


@story()
async def is_reported_twice(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 0)
    await bot.finish(job, 1)
    await world.check(id, "COMPLETED", "ENDED", ok=True)
    next_one = await world.submit()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(next_one, "COMPLETED", "ENDED", ok=True)


@story(ClientCan.SET_BOT_RETRIES)
async def is_reported_late(world: World) -> None:
    id = await world.submit(bot_retries=1)
    late, other = await world.bot("late"), await world.bot("other")
    stale = await late.take()
    assert stale is not None
    await late.start(stale)
    await world.lab.sleep(late.silence_s)
    job = await other.take()
    if job is None:  # it was away as well, and has another session now
        job = await other.take()
    assert job is not None and job.id != stale.id
    await other.start(job)
    await late.finish(stale, 0)
    await world.check(id, "RUNNING", "LOST", "RUNNING")
    await other.finish(job, 5)
    await late.finish(stale, 0)
    await world.check(id, "COMPLETED", "LOST", "ENDED", ok=False)


# ------------------------------------------------------------------ bots that die and come back


@story(ClientCan.SET_BOT_RETRIES)
async def dies_with_its_bot(world: World) -> None:
    id = await world.submit(bot_retries=0)
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.lab.sleep(bot.silence_s)
    await world.check(id, "BOT_DIED", "LOST", ok=False)
    assert await bot.take() is None


@story(ClientCan.SET_BOT_RETRIES)
async def is_tried_again_when_its_bot_dies(world: World) -> None:
    id = await world.submit(bot_retries=1)
    bot = await world.bot("first")
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.lab.sleep(bot.silence_s)
    await world.check(id, "PENDING", "LOST")
    other = await world.bot("second")
    job = await other.take()
    assert job is not None
    await other.start(job)
    await other.finish(job, 0)
    await world.check(id, "COMPLETED", "LOST", "ENDED", ok=True)


@story(BotCan.HOLD_BACK, ClientCan.SET_BOT_RETRIES)
async def goes_back_uncounted_when_its_bot_dies_before_it_starts(world: World) -> None:
    id = await world.submit(bot_retries=0)
    bot = await world.bot("first")
    assert await bot.take() is not None
    await world.lab.sleep(bot.silence_s)
    await world.check(id, "PENDING", "DROPPED")
    other = await world.bot("second")
    job = await other.take()
    assert job is not None
    await other.start(job)
    await other.finish(job, 0)
    await world.check(id, "COMPLETED", "DROPPED", "ENDED", ok=True)


@story(BotCan.KEEP_TASKS, BotCan.PROVE_ITSELF)
async def goes_on_in_a_bot_that_comes_back_with_it(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.come_back(holding=[job])
    await world.check(id, "RUNNING", "RUNNING")
    await bot.live()
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)


@story(BotCan.PROVE_ITSELF, ClientCan.SET_BOT_RETRIES)
async def is_tried_again_when_its_bot_comes_back_without_it(world: World) -> None:
    id = await world.submit(bot_retries=1)
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.come_back(holding=[])
    await world.check(id, "PENDING", "LOST")
    again = await bot.take()
    assert again is not None and again.id != job.id
    await bot.start(again)
    await bot.finish(again, 0)
    await world.check(id, "COMPLETED", "LOST", "ENDED", ok=True)


@story(ClientCan.SET_BOT_RETRIES)
async def is_not_taken_over_by_a_stranger_under_the_same_id(world: World) -> None:
    id = await world.submit(bot_retries=1)
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    let_in = await bot.intrude()
    if let_in:  # where the wire has no key, the newcomer wins, and begins with nothing
        await world.check(id, "PENDING", "LOST")
    else:
        await world.check(id, "RUNNING", "RUNNING")
        await world.lab.sleep(bot.silence_s)
        assert await bot.intrude(), "the name is free when the session has ended"
        await world.check(id, "PENDING", "LOST")
    again = await bot.take()
    assert again is not None and again.id != job.id
    await bot.start(again)
    await bot.finish(again, 0)
    await world.check(id, "COMPLETED", "LOST", "ENDED", ok=True)


# ------------------------------------------------------------------ the daemon and the people around it


@story(BotCan.WRITE_PIECES, ClientCan.READ_OUTPUT)
async def goes_on_while_the_daemon_restarts(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.write(job, b"before\n")
    await world.lab.restart(away_s=200)
    await bot.live()
    await world.check(id, "RUNNING", "RUNNING")
    await bot.write(job, b"after\n")
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)
    assert await world.client.output(id) == b"before\nafter\n"


@story(BotCan.HOLD_BACK)
async def stays_offered_while_the_daemon_crashes(world: World) -> None:
    id = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await world.lab.crash()
    await world.lab.start()
    await world.check(id, "PENDING", "OFFERED")
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)


@story()
async def waits_while_its_bot_is_drained(world: World) -> None:
    first = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.order(bot, drain=True)
    second = await world.submit()
    await bot.finish(job, 0)
    await world.check(first, "COMPLETED", "ENDED", ok=True)
    assert await bot.take() is None
    await world.check(second, "PENDING")
    assert (await world.lab.client.explain(await world.client.operation(second))).reason == "bots_refuse"
    await world.order(bot, drain=False)
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(second, "COMPLETED", "ENDED", ok=True)


@story(BotCan.ASK_WHILE_BUSY)
async def is_not_given_to_a_drained_bot_that_still_runs_one(world: World) -> None:
    first = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await world.order(bot, drain=True)
    second = await world.submit()
    assert await bot.take() is None
    await world.check(first, "RUNNING", "RUNNING")
    await bot.finish(job, 0)
    await world.check(first, "COMPLETED", "ENDED", ok=True)
    await world.check(second, "PENDING")


@story()
async def waits_while_its_bot_is_in_quarantine(world: World) -> None:
    bot = await world.bot()
    await world.order(bot, quarantine="the disk makes noises")
    id = await world.submit()
    assert await bot.take() is None
    await world.check(id, "PENDING")
    explained = await world.lab.client.explain(await world.client.operation(id))
    assert "the disk makes noises" in explained.sentence
    await world.order(bot, quarantine=None)
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)


# ------------------------------------------------------------------ a bot is ended by a task


@story(BotCan.BE_ENDED)
async def waits_for_a_bot_that_is_ended_by_a_task(world: World) -> None:
    first = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    end = await world.terminate(bot)
    second = await world.submit()
    await world.lab.check_state(end, "PENDING")
    assert await world.terminate(bot) == end
    await bot.finish(job, 0)
    await world.check(first, "COMPLETED", "ENDED", ok=True)
    assert await bot.is_told_to_end()
    await world.lab.check_state(end, "RUNNING")
    assert await world.terminate(bot) == end
    await bot.end()
    found = await world.lab.check_state(end, "COMPLETED")
    assert (found.ok, found.exit_code, found.bot) == (True, 0, bot.id)
    await world.lab.check_attempts(end, "ENDED")
    assert (await world.lab.client.bot(bot.id)).status == "dead"
    await world.check(second, "PENDING")
    await bot.come_back(())
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(second, "COMPLETED", "ENDED", ok=True)


@story(BotCan.BE_ENDED, BotCan.ASK_WHILE_BUSY)
async def is_not_given_to_a_bot_that_is_to_end(world: World) -> None:
    first = await world.submit()
    bot = await world.bot()
    job = await bot.take()
    assert job is not None
    await bot.start(job)
    end = await world.terminate(bot)
    second = await world.submit()
    assert not await bot.is_told_to_end(), "it runs something"
    await world.check(first, "RUNNING", "RUNNING")
    await world.lab.check_state(end, "PENDING")
    await bot.finish(job, 0)
    assert await bot.is_told_to_end()
    await bot.end()
    await world.lab.check_state(end, "COMPLETED")
    await world.check(second, "PENDING")


@story(BotCan.BE_ENDED)
async def outlives_the_end_of_its_bot_with_all_answers_lost(world: World) -> None:
    bot = await world.bot()
    bot.loses_answers = True
    end = await world.terminate(bot)
    id = await world.submit()
    assert await bot.is_told_to_end()
    await bot.end()
    await world.lab.check_state(end, "COMPLETED")
    await world.lab.check_attempts(end, "ENDED")
    await world.check(id, "PENDING")


@story(BotCan.BE_ENDED)
async def runs_on_a_bot_that_vanished_when_it_was_told_to_end_and_came_back(world: World) -> None:
    bot = await world.bot()
    end = await world.terminate(bot)
    assert await bot.is_told_to_end()
    await world.lab.sleep(bot.silence_s)
    await world.lab.check_state(end, "BOT_DIED")
    await world.lab.check_attempts(end, "LOST")
    id = await world.submit()
    await bot.come_back(())
    job = await bot.take()
    assert job is not None, "the next life is spared"
    await bot.start(job)
    await bot.finish(job, 0)
    await world.check(id, "COMPLETED", "ENDED", ok=True)


@story(BotCan.BE_ENDED)
async def waits_for_a_bot_that_is_to_end_when_it_comes_back(world: World) -> None:
    bot = await world.bot()
    await world.lab.sleep(bot.silence_s)
    end = await world.terminate(bot)
    id = await world.submit()
    await world.lab.check_state(end, "PENDING")
    await bot.come_back(())
    assert await bot.is_told_to_end()
    await bot.end()
    await world.lab.check_state(end, "COMPLETED")
    await world.check(id, "PENDING")
