"""How a Swarming bot gets a task and reports it. Protocol reference, sections 7 to 11, 16.1, 16.2, 16.8 and 16.9."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from swarmd.api.swarming.context import RESULT
from swarmd.client import ApiError
from swarmd.core.ids import from_text
from swarmd.core.model import OpId
from swarmd.testing import Lab, SwarmingBot, SwarmingTask
from tests.api.swarming.worlds import greeted, one, taking, without_token

RUN_ID = re.compile(r"[0-9a-f]{2,16}[1-9a-f]")
LIMIT = 1 << 20  # of a stream, where a test says so

small_output = pytest.mark.swarmd(config={"output_limit_mib": 1})


# ------------------------------------------------------------------ a poll made again


async def nothing(lab: Lab, bot: SwarmingBot, task: SwarmingTask) -> None:
    pass


async def daemon_restarts(lab: Lab, bot: SwarmingBot, task: SwarmingTask) -> None:
    await lab.restart()


async def daemon_crashes(lab: Lab, bot: SwarmingBot, task: SwarmingTask) -> None:
    await lab.crash()
    await lab.start()


async def task_starts(lab: Lab, bot: SwarmingBot, task: SwarmingTask) -> None:
    await task.start()


async def task_starts_and_daemon_crashes(lab: Lab, bot: SwarmingBot, task: SwarmingTask) -> None:
    await task.start()
    await daemon_crashes(lab, bot, task)


@pytest.mark.parametrize(
    "meanwhile", [nothing, daemon_restarts, daemon_crashes, task_starts, task_starts_and_daemon_crashes]
)
async def test_a_repeated_poll_gets_the_very_same_task(
    swarmd: Lab, meanwhile: Callable[[Lab, SwarmingBot, SwarmingTask], Awaitable[None]]
):
    bot = await greeted(swarmd)
    id = await swarmd.submit("make", bot_retries=0)
    await swarmd.submit("another")
    first = await bot.poll()
    poll = bot.last
    assert poll is not None
    task = SwarmingTask(bot, first["manifest"])
    await meanwhile(swarmd, bot, task)
    assert without_token(await bot.exchange(poll)) == without_token(first)
    started = meanwhile.__name__.startswith("task")
    await swarmd.check_attempts(id, "RUNNING" if started else "OFFERED")
    await task.end(0)
    await swarmd.check_state(id, "COMPLETED")


async def test_a_repeated_poll_without_work_may_get_some(swarmd: Lab):
    bot = await greeted(swarmd)
    assert (await bot.poll())["cmd"] == "sleep"
    await swarmd.submit("make")
    assert (await bot.repeat())["cmd"] == "run"


async def test_a_poll_that_comes_twice_after_the_end_changes_nothing(swarmd: Lab):
    """Something on the way sent it again: nobody reads the answer, and what it gave would be lost."""
    bot, id, task = await one(swarmd, started=False)
    other = await swarmd.submit("another")
    poll = bot.last
    assert poll is not None
    await task.start()
    await task.end(0)
    await bot.exchange(poll)
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_attempts(other)


async def test_another_poll_gives_an_unclaimed_task_back(swarmd: Lab):
    bot = await greeted(swarmd)
    id = await swarmd.submit("make", bot_retries=0)
    first = await taking(bot)
    second = await taking(bot)
    await swarmd.check_attempts(id, "DROPPED", "OFFERED")
    assert first.id != second.id
    assert (await first.start())["must_stop"]
    await second.start()
    await second.end(0)
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize(("bot_retries", "state"), [(0, "BOT_DIED"), (1, "RUNNING")])
async def test_a_poll_while_a_task_runs_loses_it(swarmd: Lab, bot_retries: int, state: Any):
    bot, id, task = await one(swarmd, bot_retries=bot_retries)
    again = await bot.take()
    assert (again is not None) == bool(bot_retries)
    assert (await task.update())["must_stop"]
    if again is not None:
        await again.start()
    await swarmd.check_state(id, state)
    await swarmd.check_attempts(id, *(["LOST", "RUNNING"] if bot_retries else ["LOST"]))


async def test_a_task_that_is_never_started_goes_back_when_its_bot_is_silent(swarmd: Lab):
    _, id, _ = await one(swarmd, started=False, bot_retries=0)
    await swarmd.sleep(299)
    await swarmd.check_attempts(id, "OFFERED")
    await swarmd.sleep(2)
    await swarmd.check_attempts(id, "DROPPED")
    await swarmd.check_state(id, "PENDING")


# ------------------------------------------------------------------ output


async def test_output_is_written_at_its_offset(swarmd: Lab):
    bot, id, task = await one(swarmd)
    await task.write(b"one ")
    await bot.repeat()
    await swarmd.check_output(id, b"one ")
    await task.write(b"one two", offset=0)  # more of what it began with
    await swarmd.check_output(id, b"one two")
    await task.write(b"late", offset=2)
    await swarmd.check_output(id, b"one two")
    await task.write(b"gap", offset=10)
    await swarmd.check_output(id, b"one two\0\0\0gap")
    await task.end(0, b" end")
    await swarmd.check_output(id, b"one two\0\0\0gap end")


@small_output
async def test_output_above_the_limit_is_counted_and_dropped(swarmd: Lab):
    _, id, task = await one(swarmd)
    await task.write(b"x" * 250_000)
    await task.write(b"y" * 10, offset=LIMIT - 4)
    await task.write(b"z" * 10, offset=LIMIT + 100)
    await task.end(0)
    [attempt] = await swarmd.check_attempts(id, "ENDED")
    assert attempt.streams == {"stdout": LIMIT}
    assert attempt.dropped == {"stdout": 110}
    await swarmd.check_output(id, b"x" * 250_000 + b"\0" * (LIMIT - 4 - 250_000) + b"yyyy")


@small_output
async def test_an_offset_far_away_costs_no_memory(swarmd: Lab):
    _, id, task = await one(swarmd)
    await task.write(b"end", offset=(1 << 53) - 100)
    await task.write(b"more", offset=3)
    [attempt] = await swarmd.check_attempts(id, "RUNNING")
    assert attempt.streams == {"stdout": LIMIT}


async def test_output_without_an_offset_begins_at_nought(swarmd: Lab):
    _, id, task = await one(swarmd)
    await task.update(output=base64.b64encode(b"text").decode())
    await task.update(output=base64.b64encode(b"text").decode(), output_chunk_start=None)
    await swarmd.check_output(id, b"text")


# ------------------------------------------------------------------ how a task ends

KILL, HARD, IO = "kill", "hard_timeout", "io_timeout"
MISSING = {"missing_cas": [{"instance": "x", "digest": "abc/3"}], "missing_cipd": []}
PACKAGE = {"missing_cas": [], "missing_cipd": [{"package_name": "p/q", "version": "v1", "path": "."}]}


@pytest.mark.parametrize(
    ("killed", "report", "state", "ok", "exit_code"),
    [
        (False, lambda t: t.end(0), "COMPLETED", True, 0),
        (False, lambda t: t.end(3), "COMPLETED", False, 3),
        (False, lambda t: t.end(-9), "COMPLETED", False, -9),
        (False, lambda t: t.time_out(HARD, -15), "TIMED_OUT", False, -15),
        (False, lambda t: t.time_out(HARD, 0), "TIMED_OUT", False, 0),
        (False, lambda t: t.time_out(IO, -9), "TIMED_OUT", False, -9),
        (False, lambda t: t.update(hard_timeout=True, io_timeout=False), "TIMED_OUT", False, -1),
        (False, lambda t: t.report_canceled(), "CANCELED", False, None),
        (False, lambda t: t.fail("Execution failed: internal error (1)."), "BOT_DIED", False, -1),
        (False, lambda t: t.fail("no such tree", MISSING), "CLIENT_ERROR", False, -1),
        (False, lambda t: t.fail("no such package", PACKAGE), "CLIENT_ERROR", False, -1),
        (True, lambda t: t.end(-15), "KILLED", False, -15),
        (True, lambda t: t.end(0), "KILLED", False, 0),
        (True, lambda t: t.report_canceled(), "CANCELED", False, None),
        (True, lambda t: t.time_out(HARD, -15), "KILLED", False, -15),  # the reason that came first
        (True, lambda t: t.fail("it broke"), "KILLED", False, -1),
        (True, lambda t: t.fail("no such tree", MISSING), "KILLED", False, -1),
    ],
)  # fmt: skip
async def test_how_a_task_ends(
    swarmd: Lab, killed: bool, report: Callable[[SwarmingTask], Awaitable[Any]], state: Any, ok: bool,
    exit_code: int | None,
):  # fmt: skip
    bot, id, task = await one(swarmd, bot_retries=0)
    if killed:
        await swarmd.client.cancel([id], kill=True)
    await report(task)
    details = await swarmd.check_state(id, state)
    assert (details.ok, details.exit_code) == (ok, exit_code)
    await swarmd.check_attempts(id, "ENDED")
    last = bot.last
    assert last is not None
    await bot.exchange(last)  # what is told again changes nothing
    again = await task.end(77)
    assert (again["must_stop"], again["ok"]) == (False, False)
    assert (await task.update())["must_stop"]
    assert await task._call("task_error", message="late", client_error={}) == {}
    after = await swarmd.check_state(id, state)
    assert (after.ok, after.exit_code, after.reason) == (details.ok, details.exit_code, details.reason)
    assert (await bot.poll())["cmd"] == "sleep"


async def test_what_failed_is_told_to_people(swarmd: Lab):
    bot = await greeted(swarmd)
    ids = [await swarmd.submit("make", bot_retries=0) for _ in range(4)]
    await (await taking(bot)).fail("Execution failed: no disk")
    await (await taking(bot)).fail("cannot fetch", MISSING)
    await (await taking(bot)).fail("cannot fetch", PACKAGE)
    await (await taking(bot)).fail("")
    told = [(await swarmd.client.get(id)).reason for id in ids]
    assert told[0] == "Execution failed: no disk"
    assert told[1] == "cannot fetch; missing: CAS abc/3"
    assert told[2] == "cannot fetch; missing: CIPD p/q@v1"
    assert told[3] == "the bot failed and did not say why"
    events = [event async for event in swarmd.client.bot_events("s1")]
    said = [event.detail["message"] for event in events if event.kind == "bot.task_error"]
    assert said[::-1] == ["Execution failed: no disk", "cannot fetch", "cannot fetch", ""]


@pytest.mark.parametrize(
    ("fields", "state"), [({"bot_retries": 1}, "COMPLETED"), ({"bot_retries": 0}, "BOT_DIED")]
)
async def test_a_failure_of_the_bot_is_tried_again_as_often_as_the_task_says(
    swarmd: Lab, fields: dict[str, Any], state: Any
):
    bot, id, task = await one(swarmd, **fields)
    await task.fail("it broke")
    again = await bot.take()
    if again is not None:
        await again.start()
        await again.end(0)
    await swarmd.check_state(id, state)


async def test_statistics_are_kept_for_clients_of_this_protocol(swarmd: Lab):
    _, id, task = await one(swarmd)
    with swarmd.daemon.step() as (engine, _):
        attempt = next(iter(engine.attempts.values()))
    await task.end(0, cas_output_root={"cas_instance": "i", "digest": {"hash": "h", "size_bytes": 3}})
    assert attempt.outcome is not None and attempt.outcome.payload is not None
    assert attempt.outcome.payload.type == RESULT
    kept = msgspec.json.decode(attempt.outcome.payload.data)
    assert kept["cas_output_root"] == {"cas_instance": "i", "digest": {"hash": "h", "size_bytes": 3}}
    assert kept["bot_overhead"] == 0.5 and kept["isolated_stats"] == {"download": {}}
    assert attempt.outcome.duration_s == 1.5
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize("depth", [0, 60, 70, *range(930, sys.getrecursionlimit() - 30, 3)])
async def test_statistics_of_any_depth_do_not_lose_the_end(swarmd: Lab, depth: int):
    _, id, task = await one(swarmd)
    try:
        await task.end(0, cipd_pins=msgspec.Raw(b"[" * depth + b"1" + b"]" * depth))
    except ApiError as refused:  # it could not even be read
        assert (refused.status, refused.code) == (400, "bad_json") and depth > 900
        await task.end(0)
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize("value", ["x" * (2 << 20), "1e300", 10**30], ids=["long", "text", "huge"])
async def test_statistics_that_are_absurd_do_not_lose_the_end(swarmd: Lab, value: Any):
    _, id, task = await one(swarmd)
    await task.end(
        0, cipd_pins=msgspec.Raw(f'"{value}"'.encode()), cipd_stats=msgspec.Raw(str(10**30).encode())
    )
    await swarmd.check_state(id, "COMPLETED")


# ------------------------------------------------------------------ cancel and kill


async def test_a_task_that_is_canceled_before_it_starts(swarmd: Lab):
    _, id, task = await one(swarmd, started=False)
    await swarmd.client.cancel([id])
    await swarmd.check_state(id, "CANCELED")
    answer = await task.start()
    assert answer["must_stop"] and answer["stop_reason"]
    answer = await task.report_canceled()
    assert not answer["must_stop"]
    details = await swarmd.check_state(id, "CANCELED")
    assert (details.exit_code, details.duration_s) == (None, None)
    await swarmd.check_attempts(id, "DROPPED")


async def test_a_kill_is_told_until_the_task_has_ended(swarmd: Lab):
    _, id, task = await one(swarmd, grace_s=5)
    await swarmd.client.cancel([id], kill=False)
    assert not (await task.update())["must_stop"]
    for _ in range(2):  # twice is one effect
        await swarmd.client.cancel([id], kill=True)
    for _ in range(3):
        answer = await task.write(b".")
        assert (answer["must_stop"], answer["ok"], answer["stop_reason"]) == (True, True, "Killing task")
        await swarmd.sleep(10)
        await swarmd.check_state(id, "RUNNING")
    await swarmd.restart()
    assert (await task.update())["must_stop"], "a stop outlives the daemon"
    assert not (await task.end(-9))["must_stop"]
    await swarmd.check_state(id, "KILLED")
    await swarmd.check_output(id, b"...")


async def test_a_kill_of_a_bot_that_never_answers(swarmd: Lab):
    _, id, task = await one(swarmd, grace_s=5)
    await swarmd.client.cancel([id], kill=True)
    await swarmd.sleep(3 * 5 + 61)
    await swarmd.check_state(id, "KILLED")
    assert (await task.update())["must_stop"]


async def test_a_start_that_crosses_a_kill(swarmd: Lab):
    """The answer to the first update was lost, the task killed meanwhile; the update comes again."""
    bot, id, task = await one(swarmd)
    await swarmd.client.cancel([id], kill=True)
    assert (await bot.repeat())["must_stop"]
    await task.report_canceled()
    await swarmd.check_state(id, "CANCELED")


async def test_a_limit_that_the_bot_forgot_is_enforced(swarmd: Lab):
    _, id, task = await one(swarmd, hard_limit_s=100, grace_s=5)
    for _ in range(18):
        await task.update()
        await swarmd.sleep(10)
    await swarmd.check_state(id, "TIMED_OUT")
    assert (await task.update())["must_stop"]


# ------------------------------------------------------------------ what is said twice, late, of another


async def test_a_first_update_that_comes_twice_starts_once(swarmd: Lab):
    bot, id, _ = await one(swarmd)
    await bot.repeat()
    events = [event async for event in swarmd.client.task_events(id)]
    assert [event.state for event in events if event.kind == "task"][::-1] == ["PENDING", "RUNNING"]


async def test_an_end_without_a_start_is_an_end(swarmd: Lab):
    _, id, task = await one(swarmd, started=False)
    await task.end(0, b"quick")
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_output(id, b"quick")


async def test_a_task_of_another_bot_is_refused(swarmd: Lab):
    _, id, task = await one(swarmd)
    other = await greeted(swarmd, "s2")
    for route, fields in (
        (f"task_update/{task.id}", {}),
        (f"task_update/{task.id}", {"exit_code": 0, "duration": 1}),
        (f"task_update/{task.id[:-1]}0", {"exit_code": 0, "duration": 1}),
    ):
        with pytest.raises(ApiError) as refused:
            await other.call(
                route, {}, task_id=route.partition("/")[2], id="s2", session=other.session, **fields
            )
        assert refused.value.status == 400
    said = {
        "task_id": task.id,
        "id": "s2",
        "session": other.session,
        "message": "no",
        "client_error": MISSING,
    }
    assert await other.call(f"task_error/{task.id}", {}, **said) == {}
    with pytest.raises(ApiError) as refused:  # with the session of another
        await other.call(f"task_update/{task.id}", {}, task_id=task.id, id="s1", session=other.session)
    assert (refused.value.status, refused.value.code) == (401, "bad_session")
    await swarmd.check_attempts(id, "RUNNING")
    await task.end(0)
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize(
    "id",
    [
        "a11",
        "0",
        "1",
        "6663cfc78b41fb11",
        "f" * 17,
        "g11",
        "0x11",
        "1_1",
        "-11",
        " 11",
        "11 ",
        "1" * 40,
        "É11",
    ],
)
async def test_a_task_that_nobody_knows_is_stopped(swarmd: Lab, id: str):
    bot = await greeted(swarmd)
    said = {"task_id": id, "id": "s1", "session": bot.session}
    answer = await bot.call("task_update", {}, **said)
    assert (answer["must_stop"], answer["ok"]) == (True, False) and answer["stop_reason"]
    answer = await bot.call("task_update", {}, **said, exit_code=0, duration=1)
    assert without_token(answer) == {"must_stop": False, "ok": False}
    assert await bot.call("task_error", {}, **said, message="", client_error={}) == {}


async def test_the_id_in_the_body_counts_and_the_request_id_names_what_runs(swarmd: Lab):
    bot, id, task = await one(swarmd)
    said = {"id": "s1", "session": bot.session}
    for path, named in ((task.id, task.id[:-1] + "0"), ("nonsense", task.id), ("a11", task.id)):
        answer = await bot.call(f"task_update/{path}", {}, task_id=named, **said)
        assert answer["ok"] and not answer["must_stop"]
    answer = await bot.call("task_update", {}, task_id=task.id[:-1] + "2", **said)
    assert not answer["ok"], "an attempt that is not"
    await swarmd.check_attempts(id, "RUNNING")


async def test_reports_on_an_attempt_do_not_touch_the_next_one(swarmd: Lab):
    bot, id, first = await one(swarmd, bot_retries=1)
    await bot.restart()
    second = await taking(bot)
    assert (first.id[:-1], first.id[-1], second.id[-1]) == (second.id[:-1], "1", "2")
    await second.start()
    assert (await first.write(b"stale"))["must_stop"]
    await first.end(7)
    assert await first._call("task_error", message="stale", client_error={}) == {}
    await second.end(0, b"good")
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_output(id, b"good")
    await swarmd.check_attempts(id, "LOST", "ENDED")


@pytest.mark.parametrize("ends", ["well", "late"])
async def test_attempts_above_the_15th_report_well(swarmd: Lab, ends: str):
    """The last digit of a run id tells attempts apart, and there are 15 of them."""
    bot = await greeted(swarmd)
    id = await swarmd.submit("make", bot_retries=20)
    seen: list[SwarmingTask] = []
    for _ in range(18):
        task = await taking(bot)
        await task.start()
        seen.append(task)
        await bot.restart()
    last = await taking(bot)
    await last.start()
    assert [task.id[-1] for task in seen] == list("123456789abcdef111")
    assert len({task.id for task in [*seen, last]}) == 19
    assert all(RUN_ID.fullmatch(task.id) for task in seen)
    for stale in seen[-4:]:
        assert (await stale.update())["must_stop"]
        await stale.end(5)
    await swarmd.crash()
    await swarmd.start()
    if ends == "late":
        await bot.restart()
        await last.end(0)
        await swarmd.check_state(id, "PENDING")
        return
    assert not (await last.write(b"the 19th"))["must_stop"]
    await last.end(0)
    await swarmd.check_state(id, "COMPLETED")
    await swarmd.check_output(id, b"the 19th")
    assert (await swarmd.client.get(id)).number == 19


async def test_ids_are_those_of_this_protocol(swarmd: Lab):
    _, id, task = await one(swarmd)
    number = (from_text(id) or 0) - (1_262_304_000_000 << 20) & (1 << 63) - 1
    assert task.id == f"{number:x}1"
    assert OpId(from_text(id) or 0)


# ------------------------------------------------------------------ two who share a task


async def test_a_task_with_two_operations_runs_once(swarmd: Lab):
    bot = await greeted(swarmd)
    first = await swarmd.submit("make", sameness="k", share="join")
    second = await swarmd.submit("make", sameness="k", share="join")
    task = await taking(bot)
    await task.start()
    await swarmd.client.cancel([first], kill=True)
    assert not (await task.update())["must_stop"], "the other one still wants it"
    await task.end(0)
    await swarmd.check_state(first, "CANCELED")
    await swarmd.check_state(second, "COMPLETED")
