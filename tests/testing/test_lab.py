"""What the fixture gives: a daemon that stops, dies and comes back, bots that misbehave, checks that say why."""

from __future__ import annotations

import inspect
import re

import pytest
import trio

from swarmd.client import ApiError
from swarmd.store import writer
from swarmd.testing import Fault, Lab, LabError, open_lab
from swarmd.testing.faults import FAILPOINTS


async def test_a_task_runs_on_a_living_bot(swarmd: Lab):
    swarmd.living_bot("b1", runs_s=600)
    before = swarmd.now
    task = await swarmd.until(await swarmd.submit("make", "test"))
    assert (task.state, task.ok, task.bot) == ("COMPLETED", True, "b1")
    assert swarmd.now - before == pytest.approx(600, abs=1)


async def test_a_bot_is_led_step_by_step(swarmd: Lab):
    id = await swarmd.submit("make", dimensions={"os": "Linux"})
    bot = swarmd.bot(dimensions={"os": ["Linux", "Debian"]})
    await bot.open()
    offer = await bot.run_one()
    await swarmd.check_state(id, "RUNNING")
    bot.write(offer.attempt, b"done\n")
    bot.finish(offer.attempt, 3)
    await bot.sync()
    assert (await swarmd.check_state(id, "COMPLETED")).exit_code == 3
    await swarmd.check_output(id, b"done\n")


# ------------------------------------------------------------------ restarts


async def test_what_runs_goes_on_over_a_restart(swarmd: Lab):
    swarmd.living_bot("b1", runs_s=600)
    id = await swarmd.submit("make")
    await swarmd.until(id, "RUNNING")
    url, first = swarmd.url, swarmd.daemon
    await swarmd.restart(away_s=120)
    assert swarmd.url == url and swarmd.daemon is not first
    task = await swarmd.until(id)
    assert (task.state, task.number) == ("COMPLETED", 1)
    await swarmd.check_file()


async def test_what_was_not_committed_is_gone_after_a_crash(swarmd: Lab):
    kept = await swarmd.submit()
    with swarmd.hold_commits():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarmd.submit)
            await swarmd.sleep(1)  # virtual time moves only when nothing else does
            assert len(swarmd.daemon.engine.tasks) == 2
            await swarmd.crash()
            assert not swarmd.is_up
            nursery.cancel_scope.cancel()
    await swarmd.start()
    assert [task.id async for task in swarmd.client.tasks()] == [kept]


@pytest.mark.parametrize("name", FAILPOINTS)
async def test_a_submission_that_meets_a_failpoint_takes_effect_once(swarmd: Lab, name):
    failure = swarmd.fail_at(name)
    id = await swarmd.submit("make")
    assert failure.has_happened
    await failure.happened()
    assert [task.id async for task in swarmd.client.tasks()] == [id]
    assert swarmd.daemon.writer.commits == (1 if name == "before_commit" else 0)


async def test_a_failpoint_counts_and_the_daemon_may_stay_down(swarmd: Lab):
    failure = swarmd.fail_at("after_commit", nth=3, back_after_s=None)
    for _ in range(2):
        await swarmd.submit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarmd.submit)
        await failure.happened()
        await swarmd.sleep(3600)
        assert not swarmd.is_up
        with pytest.raises(LabError, match=r"await swarmd\.start\(\)"):
            swarmd.daemon  # noqa: B018
        await swarmd.start()
    assert len(swarmd.daemon.engine.tasks) == 3


async def test_a_failpoint_in_the_middle_of_a_start_is_survived(swarmd: Lab):
    await swarmd.submit()
    swarmd.fail_at("before_commit")
    swarmd.fail_at("before_commit", nth=2)
    await swarmd.submit()
    assert len(swarmd.daemon.engine.tasks) == 2


@pytest.mark.parametrize("name", FAILPOINTS)
async def test_a_failpoint_in_the_middle_of_a_stop_is_survived(swarmd: Lab, name):
    ids = await swarmd.submit_many(2)
    failure = swarmd.fail_at(name)
    await swarmd.restart()
    assert failure.has_happened, "the moment of a stop is committed"
    await swarmd.sleep(10)  # it was to be started twice
    assert sorted([task.id async for task in swarmd.client.tasks()]) == ids


def test_the_failpoints_are_those_of_the_writer():
    assert tuple(re.findall(r'_failpoint\("(\w+)"\)', inspect.getsource(writer))) == FAILPOINTS


@pytest.mark.swarmd(path="memory")
async def test_a_database_in_memory_cannot_come_back(swarmd: Lab):
    for ask in (swarmd.stop, swarmd.crash, swarmd.restart, swarmd.check_file):
        with pytest.raises(LabError, match="needs a file"):
            await ask()
    with pytest.raises(LabError, match="needs a file"):
        swarmd.fail_at("before_commit")


async def test_an_unknown_failpoint_is_told(swarmd: Lab):
    with pytest.raises(LabError, match="there are before_commit, after_commit"):
        swarmd.fail_at("in_commit")  # type: ignore[arg-type]


# ------------------------------------------------------------------ waiting


async def test_until_wakes_with_the_news_and_asks_for_nothing_meanwhile(swarmd: Lab):
    id = await swarmd.submit()
    asked = 0
    get = swarmd.client.get

    async def counted(id: str):
        nonlocal asked
        asked += 1
        return await get(id)

    swarmd.client.get = counted  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarmd.until, id, "RUNNING")
        await swarmd.sleep(20_000)
        assert asked == 1
        swarmd.living_bot(runs_s=5)
    assert asked <= 3
    await swarmd.check_state(id, "RUNNING")


async def test_until_sees_a_state_that_was_passed_within_one_commit(swarmd: Lab):
    id = await swarmd.submit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarmd.until, id, "RUNNING")
        await swarmd.sleep(1)
        bot = swarmd.bot()
        await bot.open()
        [offer] = await bot.take()
        bot.finish(offer.attempt)
        await bot.sync()
    await swarmd.check_state(id, "COMPLETED")


async def test_until_fails_at_once_when_it_cannot_come_any_more(swarmd: Lab):
    id = await swarmd.submit(name="the build")
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarmd.client.cancel, [id])
        with pytest.raises(AssertionError, match=r"\(the build\) is CANCELED; expected RUNNING"):
            await swarmd.until(id, "RUNNING")
    assert trio.current_time() == before


async def test_until_gives_up(swarmd: Lab):
    id = await swarmd.submit()
    before = trio.current_time()
    with pytest.raises(AssertionError, match=r"is PENDING; expected RUNNING within 50 s\s+why: no bot has"):
        await swarmd.until(id, "RUNNING", within_s=50)
    assert trio.current_time() == pytest.approx(before + 50)


async def test_until_waits_over_a_restart(swarmd: Lab):
    id = await swarmd.submit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarmd.until, id, "COMPLETED")
        await swarmd.sleep(10)
        await swarmd.crash()
        await swarmd.sleep(100)
        await swarmd.start()
        swarmd.living_bot()


# ------------------------------------------------------------------ checks


async def test_a_failed_check_tells_the_whole_story(swarmd: Lab):
    id = await swarmd.submit("make")
    first, second = swarmd.bot("b1"), swarmd.bot("b2")
    await first.open()
    await first.run_one()
    await swarmd.sleep(61)
    await second.open()
    await second.run_one()
    with pytest.raises(AssertionError) as failed:
        await swarmd.check_state(id, "COMPLETED", "TIMED_OUT")
    assert re.sub(r"[0-9a-z]{13}", "ID", str(failed.value)).splitlines() == [
        "task ID is RUNNING; expected COMPLETED or TIMED_OUT",
        "why: it has been running on bot b2 (attempt 2) for 0 s",
        "attempts:",
        "  1  LOST     on b1, offered +0.000 s, started +0.000 s, ended +60.000 s: "
        "its bot b1 is gone: silent for 60 s",
        "  2  RUNNING  on b2, offered +61.000 s, started +61.000 s",
        "history:",
        "        +0.000 s  PENDING",
        "        +0.000 s  RUNNING on b1",
        "       +60.000 s  PENDING on b1: its bot b1 is gone: silent for 60 s",
        "       +61.000 s  RUNNING on b2",
        f"seed {swarmd.seed}",
    ]
    with pytest.raises(AssertionError, match=r"the attempts of task .* are LOST, RUNNING; expected ENDED"):
        await swarmd.check_attempts(id, "ENDED")
    with pytest.raises(AssertionError, match=r"stdout of task .* is\s+b''\s+expected\s+b'x'\s+why: "):
        await swarmd.check_output(id, b"x")
    await swarmd.check_attempts(id, "LOST", "RUNNING")


async def test_names_that_do_not_exist_are_told_not_waited_for(swarmd: Lab):
    id = await swarmd.submit()
    with pytest.raises(LabError, match="there is no state 'DONE'; states are BLOCKED"):
        await swarmd.check_state(id, "DONE")  # type: ignore[arg-type]
    with pytest.raises(LabError, match="there is no state 'DONE'"):
        await swarmd.until(id, "DONE")  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r"Unexpected keyword argument 'retrys'[\s\S]*retries"):
        await swarmd.submit("make", retrys=1)
    with pytest.raises(ApiError, match="no task 0000000000001"):
        await swarmd.until("0000000000001", "RUNNING")


async def test_check_file_names_a_fault(swarmd: Lab):
    id = await swarmd.submit()
    await swarmd.check_file()
    await swarmd.daemon.backend.transact(lambda conn: conn.execute("DELETE FROM tasks"))
    with pytest.raises(AssertionError, match="is damaged:"):
        await swarmd.check_file()
    assert id


async def test_graphs_in_one_line(swarmd: Lab):
    ids = await swarmd.submit_graph({"build": [], "test": ["build"], "alarm": ["build"]})
    assert list(ids) == ["build", "test", "alarm"]
    await swarmd.check_state(ids["test"], "BLOCKED")
    swarmd.living_bot(outcome=lambda offer: 1)
    await swarmd.until(ids["alarm"], "SKIPPED")


# ------------------------------------------------------------------ bots that misbehave


@pytest.mark.parametrize("fault", sorted(Fault))
async def test_every_task_ends_well_once_a_good_bot_is_there(swarmd: Lab, fault: Fault):
    ids = await swarmd.submit_many(5, bot_retries=5, hard_limit_s=100, retries=5, grace_s=1)
    swarmd.living_bot("bad", fault=fault, chance=0.7, runs_s=1, slots=2)
    await swarmd.sleep(200)
    swarmd.living_bot("good", runs_s=1)
    for id in ids:
        task = await swarmd.until(id)
        assert task.ok, await swarmd.story(id)
    await swarmd.check_file()


@pytest.mark.parametrize("fault", sorted(Fault))
async def test_living_bots_outlive_a_daemon_that_is_away(swarmd: Lab, fault: Fault):
    swarmd.living_bot("bad", fault=fault, chance=0.5, runs_s=1)
    ids = await swarmd.submit_many(3, bot_retries=100)
    await swarmd.crash()
    await swarmd.sleep(100)
    await swarmd.start()
    swarmd.living_bot("good")
    for id in ids:
        await swarmd.until(id)


async def test_the_same_seed_is_the_same_life(tmp_path, autojump_clock):
    stories = []
    for name in ("one", "two"):
        async with open_lab(tmp_path / name, seed=7) as lab:
            lab.living_bot("bad", fault="crashing", chance=0.5, runs_s=1)
            ids = await lab.submit_many(10, bot_retries=10)
            ends = [await lab.until(id) for id in ids]
            stories.append([[a.state for a in (await lab.client.get(end.id)).attempts] for end in ends])
    assert stories[0] == stories[1]
    assert {"DROPPED", "ENDED"} <= {state for story in stories[0] for state in story}, "chance did both"


# ------------------------------------------------------------------ without the fixture


async def test_what_a_test_raises_comes_out_as_it_is(autojump_clock):
    with pytest.raises(ZeroDivisionError):
        async with open_lab() as lab:
            await lab.submit()
            1 / 0  # noqa: B018


async def test_memory_that_contradicts_itself_fails_the_test(autojump_clock):
    with pytest.raises(AssertionError):
        async with open_lab() as lab:
            await lab.submit()
            [task] = lab.daemon.engine.tasks.values()
            task.queued = None
            lab.daemon.engine.matching.sets.clear()
            task.state = type(task.state).RUNNING


@pytest.mark.swarmd(real_time=True, tcp=True)
async def test_real_time_and_a_real_port(swarmd: Lab):
    assert swarmd.url.startswith("http://127.0.0.1:")
    swarmd.living_bot()
    await swarmd.until(await swarmd.submit())
    url = swarmd.url
    await swarmd.restart()
    assert swarmd.url == url
    await swarmd.until(await swarmd.submit())
