"""`swarming bot-tasks`: what has run on a bot."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.client import array, open_client, task
from swarmd.testing import SwarmingTask
from tests.interop.cli import Cli
from tests.interop.real_lab import RealLab, swarming_bot

MANY = 1_050  # a page has at most 1,000


def ids_of(tasks: Any) -> list[str]:
    return [task["task_id"] for task in tasks]


async def test_what_ran_on_a_bot_is_listed_newest_first(cli: Cli, lab: RealLab):
    ids = [(await cli.trigger("-d", "id=b1", "--", "sh", "-c", f"exit {n}"))["task_id"] for n in range(3)]
    await lab.ended(*ids)
    found = (await cli("bot-tasks", "-id", "b1")).json
    assert ids_of(found)[:3] == ids[::-1]
    newest = found[0]
    assert (newest["state"], newest["exit_code"], newest["bot_id"]) == ("COMPLETED", "2", "b1")
    assert ids_of((await cli("bot-tasks", "-id", "b1", "-limit", "2")).json) == ids[:0:-1]


async def test_they_are_found_by_their_state(cli: Cli, lab: RealLab):
    bot = await swarming_bot(lab.url, "s1", "states")

    async def taken() -> tuple[str, SwarmingTask]:
        id = (await cli.trigger("-d", "bench=states", "--", "make"))["task_id"]
        task = await bot.take()
        assert task is not None
        await task.start()
        return id, task

    ids: dict[str, str] = {}
    ids["well"], run = await taken()
    await run.end(0)
    ids["badly"], run = await taken()
    await run.end(1)
    ids["slow"], run = await taken()
    await run.time_out()
    ids["lost"], run = await taken()
    await run.fail()
    ids["wrong"], run = await taken()
    await run.fail(client_error={"missing_cas": [{"hash": "a", "size_bytes": 1}]})
    ids["killed"], run = await taken()
    assert (await cli("cancel", "-kill-running", ids["killed"])).code == 0
    await run.end(-15)
    ids["runs"], _ = await taken()
    names = {id: name for name, id in ids.items()}
    states = {
        "all": list(names.values())[::-1], "running": ["runs"], "completed": ["badly", "well"],
        "completed_success": ["well"], "completed_failure": ["badly"], "timed_out": ["slow"], "bot_died": ["lost"],
        "killed": ["killed"], "client_error": ["wrong"],
    }  # fmt: skip
    for state, expected in states.items():
        listed = (await cli("bot-tasks", "-id", "s1", "-state", state)).json
        assert [names[id] for id in ids_of(listed)] == expected, state


async def test_more_than_a_page_of_them(cli: Cli, lab: RealLab):
    async with open_client(lab.url) as client:
        many = task(
            noop=True, dimensions={"id": ["b1"]}, array=array(first=1, last=MANY), tags=["story:many"]
        )
        ids = await client.submit([many])
        assert len(await client.wait(ids, timeout_s=60)) == MANY
    wanted = sorted(
        ids_of((await cli("tasks", "-tag", "story:many", "-limit", str(MANY))).json), reverse=True
    )
    assert len(wanted) == MANY
    for limit in (1_000, MANY):
        listed = ids_of((await cli("bot-tasks", "-id", "b1", "-limit", str(limit))).json)
        assert listed == wanted[:limit], limit


async def test_only_those_since_a_moment(cli: Cli, lab: RealLab):
    id = (await cli.trigger("-d", "id=b1", "--", "true"))["task_id"]
    await lab.ended(id)
    since = ("bot-tasks", "-id", "b1", "-limit", "1", "-start")
    assert ids_of((await cli(*since, "1700000000")).json) == [id]
    assert (await cli(*since, "4000000000")).json == []


async def test_a_bot_that_nobody_knows_has_run_nothing(cli: Cli):
    assert (await cli("bot-tasks", "-id", "nobody")).json == []


@pytest.mark.parametrize(
    "state", ["pending", "pending_running", "expired", "deduped", "no_resource", "canceled"]
)
async def test_states_of_tasks_that_ran_on_no_bot_are_refused_at_once(cli: Cli, state: str):
    done = await cli("bot-tasks", "-id", "b1", "-state", state)
    assert (done.code, done.repeats) == (
        1,
        0,
    ) and f"InvalidArgument desc = state QUERY_{state.upper()}: " in done.err, done
