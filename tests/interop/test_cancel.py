"""`swarming cancel` and `cancel-tasks`: what waits is taken back, what runs is stopped where that was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from swarmd.client import array, open_client, task
from tests.interop.cli import Cli
from tests.interop.real_lab import WAITING, RealLab, swarming_bot

MANY = 1_200  # a page has at most 1,000
SLEEPS = ("--", "/bin/sh", "-c", "trap 'echo told; exit 9' TERM; echo on; while :; do sleep 600 & wait; done")


async def results(cli: Cli, *ids: str) -> list[Any]:
    summary = await cli.collect("-wait=false", *ids)
    return [summary[id]["results"] for id in ids]


async def states(cli: Cli, *ids: str) -> list[str]:
    return [result["state"] for result in await results(cli, *ids)]


async def test_what_waits_is_canceled_at_once(cli: Cli):
    id = (await cli.trigger(*WAITING, "--", "make"))["task_id"]
    done = await cli("cancel", id)
    assert done.code == 0 and f"Canceled {id}" in done.err, done
    [result] = await results(cli, id)
    assert result["state"] == "CANCELED" and result["abandoned_ts"] == result["completed_ts"]
    assert "task was not canceled. running=false" in await cli.refused("cancel", id)


async def test_what_runs_goes_on_unless_it_shall_be_killed(cli: Cli, lab: RealLab):
    id = (await cli.trigger(*SLEEPS))["task_id"]
    await lab.started(id, b"on\n")
    assert "task was not canceled. running=true" in await cli.refused("cancel", id)
    assert await states(cli, id) == ["RUNNING"]
    done = await cli("cancel", "-kill-running", id)
    assert done.code == 0 and f"Canceled {id}" in done.err, done
    await lab.ended(id)
    one = (await cli.collect("-task-output-stdout", "json", id))[id]
    assert (one["results"]["state"], one["results"]["exit_code"], one["output"]) == (
        "KILLED",
        "9",
        "on\ntold\n",
    )
    assert one["results"]["abandoned_ts"] <= one["results"]["completed_ts"]
    assert "task was not canceled. running=false" in await cli.refused("cancel", "-kill-running", id)


async def test_one_that_is_being_killed_is_not_killed_again(cli: Cli, lab: RealLab):
    """The bot has yet to hear of it: it still runs."""
    bot = await swarming_bot(lab.url, "s1", "slow")
    id = (await cli.trigger("-d", "bench=slow", "--", "make"))["task_id"]
    task = await bot.take()
    assert task is not None
    await task.start()
    assert (await cli("cancel", "-kill-running", id)).code == 0
    [result] = await results(cli, id)
    assert result["state"] == "RUNNING" and "abandoned_ts" in result
    assert "task was not canceled. running=true" in await cli.refused("cancel", "-kill-running", id)
    assert (await task.update())["must_stop"]
    await task.end(-15)
    assert await states(cli, id) == ["KILLED"]


async def test_tasks_are_canceled_by_their_tags(cli: Cli, lab: RealLab):
    """All the tags that were given; of those that run only where that was asked for."""
    tags = ("-tag", "story:tags", "-tag", "colour:red")
    red = (await cli.trigger(*WAITING, *tags, "--", "make"))["task_id"]
    blue = (await cli.trigger(*WAITING, "-tag", "story:tags", "-tag", "colour:blue", "--", "make"))["task_id"]
    runs = (await cli.trigger(*tags, *SLEEPS))["task_id"]
    await lab.started(runs, b"on\n")
    done = await cli("cancel-tasks", *tags)
    assert done.code == 0 and "submitted without error" in done.err, done
    assert await states(cli, red, blue, runs) == ["CANCELED", "PENDING", "RUNNING"]
    assert (await cli("cancel-tasks", *tags, "-kill-running")).code == 0
    await lab.ended(runs)
    assert await states(cli, red, blue, runs) == ["CANCELED", "PENDING", "KILLED"]


async def test_no_more_are_canceled_than_was_said(cli: Cli, lab: RealLab):
    """The newest first, page by page."""
    many = task(
        argv=["make"], dimensions={"bench": ["idle"]}, array=array(first=1, last=MANY), tags=["story:limit"]
    )
    async with open_client(lab.url) as client:
        await client.submit([many])

    async def left() -> int:
        count = ("tasks", "-count", "-start", "1700000000", "-state", "pending", "-tag", "story:limit")
        return (await cli(*count)).json.get("count", 0)

    story = ("cancel-tasks", "-tag", "story:limit")
    assert await left() == MANY
    assert (await cli(*story, "-limit", "1")).code == 0 and await left() == MANY - 1
    assert (await cli(*story)).code == 0 and await left() == MANY - 201
    async with open_client(lab.url) as client:
        await client.submit([many])
    assert (await cli(*story, "-limit", "2000")).code == 0 and await left() == MANY - 201 + MANY - 2000


async def test_only_those_of_a_span_are_canceled(cli: Cli):
    made = await cli.trigger(*WAITING, "-tag", "story:span", "--", "make")
    moment = datetime.fromisoformat(made["request"]["created_ts"]).replace(microsecond=0)

    def at(seconds: int) -> str:
        return (moment + timedelta(seconds=seconds)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    story = ("cancel-tasks", "-tag", "story:span")
    for span in (("-start", at(1)), ("-end", at(0)), ("-start", at(-2), "-end", at(-1))):
        assert (await cli(*story, *span)).code == 0
        assert await states(cli, made["task_id"]) == ["PENDING"], span
    assert (await cli(*story, "-start", at(0), "-end", at(1))).code == 0
    assert await states(cli, made["task_id"]) == ["CANCELED"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "InvalidArgument desc = tags is required: without it everything would be canceled"),
        (("-tag", "a"), "InvalidArgument desc = bad tag 'a': expected key:value, or key:a|b for alternatives"),
        (("-tag", "a:"), "bad tag 'a:'"),
        (("-tag", "a:b", "-start", "2009-12-31T00:00:00Z"), "InvalidArgument desc = start is before 2010"),
        (
            ("-tag", "a:b", "-start", "2026-01-01T00:00:00Z", "-end", "2026-01-01T00:00:00Z"),
            "InvalidArgument desc = start must be before end",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_canceled_is_refused_at_once(cli: Cli, flags: tuple[str, ...], sentence: str):
    assert sentence in await cli.refused("cancel-tasks", *flags)
