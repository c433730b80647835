"""`swarming bots`, `terminate` and `delete-bots`: bots of every protocol are listed, counted, ended and forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec
import pytest
import trio

from swarmd.client import open_client
from swarmd.testing import SwarmingBot
from tests.interop.cli import QUICKLY_S, Cli
from tests.interop.real_lab import END_S, RealLab, bundled_bot, swarming_bot

MANY = 1_050  # a page has at most 1,000


@asynccontextmanager
async def another_bot(lab: RealLab, id: str, *options: str) -> AsyncIterator[None]:
    """A bundled bot that has come, and is not lost to the lab when the test is over."""
    with bundled_bot(lab.url, lab.folder, id, *options):
        async with open_client(lab.url) as client:
            with trio.fail_after(END_S):
                while id not in {bot.id for bot in await client.bots().all()}:
                    await trio.sleep(0.05)
        yield


async def ids(cli: Cli, *dimensions: str) -> list[str]:
    done = await cli("bots", "-bare", *(word for d in dimensions for word in ("-dimension", d)))
    assert done.code == 0, done
    return done.out.split()


async def test_bots_are_listed_and_counted_by_their_dimensions(cli: Cli, lab: RealLab):
    for number, bench in ((1, "red"), (2, "blue"), (3, "blue")):
        await swarming_bot(lab.url, f"listed-{number}", bench)
    everyone = await ids(cli)
    assert {"b1", "idler", "listed-1", "listed-2", "listed-3"} <= set(everyone) and everyone == sorted(
        everyone
    )
    assert await ids(cli, "bench=blue") == ["listed-2", "listed-3"]
    assert await ids(cli, "bench=red|blue", "pool=default") == ["listed-1", "listed-2", "listed-3"]
    assert await ids(cli, "bench=blue", "id=listed-3") == ["listed-3"]
    assert await ids(cli, "bench=green") == []
    counted = (await cli("bots", "-count", "-dimension", "bench=blue")).json
    assert counted.pop("now") and counted == {"count": 2}
    assert (await cli("bots", "-count")).json["count"] == len(everyone)


async def test_a_bot_is_told(cli: Cli, lab: RealLab):
    [told] = (await cli("bots", "-dimension", "id=b1")).json
    dimensions = {pair["key"]: pair["value"] for pair in told["dimensions"]}
    assert (dimensions["id"], dimensions["pool"]) == (["b1"], ["default"]) and "Linux" in dimensions["os"]
    assert "feature" not in dimensions and list(dimensions) == sorted(dimensions)
    assert (told["bot_id"], told["authenticated_as"]) == ("b1", "bot:b1")
    assert told["session_id"] and told["version"] and msgspec.json.decode(told["state"])["pid"]
    assert datetime.fromisoformat(told["first_seen_ts"]) <= datetime.fromisoformat(told["last_seen_ts"])
    assert not told.keys() & {"is_dead", "quarantined", "maintenance_msg", "deleted", "task_id"}


async def test_a_bot_at_work_is_told_with_its_task(cli: Cli, lab: RealLab):
    id = (await cli.trigger("-task-name", "long one", "-d", "id=b1", "--", "sleep", "600"))["task_id"]
    await lab.started(id)
    [told] = (await cli("bots", "-dimension", "id=b1")).json
    assert (told["task_id"], told["task_name"]) == (id[:-1] + "1", "long one")
    assert (await cli("bots", "-count", "-dimension", "id=b1")).json["busy"] == 1
    assert (await cli("cancel", "-kill-running", id)).code == 0


async def test_a_bot_that_says_it_is_unwell_is_told_so(cli: Cli, lab: RealLab):
    for name, said in (("quarantined", "no disk"), ("maintenance", "swap disk")):
        bot = SwarmingBot(lab.url, f"unwell-{name}", dimensions={"bench": ["unwell"]})
        bot.state[name] = said
        await bot.handshake()
        await bot.poll()
    maintained, quarantined = (await cli("bots", "-dimension", "bench=unwell")).json
    assert maintained["maintenance_msg"] == "swap disk" and quarantined["quarantined"] is True
    counted = (await cli("bots", "-count", "-dimension", "bench=unwell")).json
    assert {name: counted[name] for name in ("count", "quarantined", "maintenance")} == {
        "count": 2,
        "quarantined": 1,
        "maintenance": 1,
    }


@pytest.mark.parametrize("flags", [("-count",), ("-bare",), ()], ids=["counted", "bare", "listed"])
async def test_what_bots_cannot_have_is_refused_at_once(cli: Cli, flags: tuple[str, ...]):
    done = await cli("bots", *flags, "-dimension", "rack=")
    assert (done.code, done.repeats) == (1, 0) and done.took_s < QUICKLY_S
    assert "InvalidArgument desc = dimensions: '' cannot be a value of dimension rack" in done.err


# ------------------------------------------------------------------ ended


async def test_a_bundled_bot_is_ended_and_that_is_waited_for(cli: Cli, lab: RealLab):
    """After what it runs, not in the midst of it."""
    async with another_bot(lab, "ended"):
        last = (await cli.trigger("-d", "id=ended", "--", "sh", "-c", "sleep 0.5; echo last"))["task_id"]
        await lab.started(last)
        done = await cli("terminate", "-wait", "-reason", "swap disk", "ended")
        assert done.code == 0 and "Successfully terminated ended" in done.err, done
        [one] = (await cli.collect("-task-output-stdout", "json", last)).values()
        assert (one["results"]["state"], one["output"]) == ("COMPLETED", "last\n")
        [ending] = (await cli("tasks", "-tag", "swarming.terminate:1", "-tag", "id:ended")).json
        assert (ending["name"], ending["state"], ending["bot_id"]) == (
            "Terminate ended: swap disk",
            "COMPLETED",
            "ended",
        )
        with trio.fail_after(END_S):
            while "is_dead" not in (told := (await cli("bots", "-dimension", "id=ended")).json[0]):
                await trio.sleep(0.05)
        assert told["termination_task_id"] == ending["task_id"]
    assert (await cli("bots", "-count", "-dimension", "id=ended")).json["dead"] == 1


async def test_a_swarming_bot_is_ended_and_told_once(cli: Cli, lab: RealLab):
    """Asked for twice it is one task."""
    bot = await swarming_bot(lab.url, "s-ended", "ended")
    for _ in range(2):
        assert (await cli("terminate", "s-ended")).code == 0
    [ending] = (await cli("tasks", "-tag", "id:s-ended")).json
    assert (ending["name"], ending["state"]) == ("Terminate s-ended", "PENDING")
    told = await bot.poll()
    assert (told["cmd"], told["task_id"]) == ("terminate", ending["task_id"][:-1] + "1")
    await bot.confirm_end(told["task_id"])
    await bot.event("bot_shutdown")
    [one] = (await cli.collect(ending["task_id"])).values()
    assert one["results"]["state"] == "COMPLETED"
    [info] = (await cli("bots", "-dimension", "id=s-ended")).json
    assert info["is_dead"] and info["termination_task_id"] == ending["task_id"]


async def test_who_waits_for_an_end_that_is_taken_back_is_told(cli: Cli, lab: RealLab):
    await swarming_bot(lab.url, "stays", "stays")

    async def take_back() -> None:
        with trio.fail_after(END_S):
            while not (found := (await cli("tasks", "-tag", "id:stays")).json):
                await trio.sleep(0.05)
        assert (await cli("cancel", found[0]["task_id"])).code == 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_back)
        done = await cli("terminate", "-wait", "stays")
    assert done.code == 1 and "failed to terminate bot ID stays with task state CANCELED" in done.err, done


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("nobody",), "NotFound desc = no such bot: nobody"),
        (("",), "InvalidArgument desc = bot_id is required"),
        (("-reason", "x" * 1_001, "b1"), "InvalidArgument desc = reason has 1001 characters: give at most 1000"),
    ],
    ids=["unknown", "empty", "long"],
)  # fmt: skip
async def test_what_cannot_be_ended_is_refused_at_once(cli: Cli, flags: tuple[str, ...], sentence: str):
    assert sentence in await cli.refused("terminate", *flags)


# ------------------------------------------------------------------ forgotten


async def test_bots_that_are_gone_are_deleted(cli: Cli, lab: RealLab):
    for id in ("gone-1", "gone-2"):
        bot = await swarming_bot(lab.url, id, "gone")
        await bot.event("bot_shutdown")
    assert await ids(cli, "bench=gone") == ["gone-1", "gone-2"]
    asked = await cli("delete-bots", "gone-1", "gone-2", input="n\n")
    assert asked.code == 0 and await ids(cli, "bench=gone") == ["gone-1", "gone-2"], asked
    assert (await cli("delete-bots", "gone-1", input="y\n")).code == 0
    assert await ids(cli, "bench=gone") == ["gone-2"]
    done = await cli("delete-bots", "-f", "gone-2", "gone-1")
    assert done.code == 1 and "Successfully deleted gone-2" in done.err, done
    assert "Failed deleting gone-1" in done.err and "NotFound desc = no such bot: gone-1" in done.err
    assert await ids(cli, "bench=gone") == []
    await swarming_bot(lab.url, "gone-1", "gone")
    assert await ids(cli, "bench=gone") == ["gone-1"], "it came again"


async def test_a_bot_that_is_there_is_not_deleted(cli: Cli):
    told = await cli.refused("delete-bots", "-f", "b1")
    assert "FailedPrecondition desc = bot b1 is connected; terminate it first" in told
    assert await ids(cli, "id=b1") == ["b1"]


async def test_more_bots_than_a_page_has(cli: Cli, lab: RealLab):
    """Last in this file: they stay."""
    wanted = [f"one-of-{number:04}" for number in range(MANY)]
    left = iter(wanted)

    async def come() -> None:
        for id in left:
            await SwarmingBot(lab.url, id, dimensions={"bench": ["many"]}).handshake()

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(come)
    assert [id for id in await ids(cli) if id.startswith("one-of-")] == wanted
    assert (await cli("bots", "-count")).json["count"] >= MANY
