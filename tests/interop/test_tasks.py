"""`swarming tasks`, `request-show`, `spawn-tasks`, `reproduce`: tasks are found, told and made again."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import trio

from swarmd.api.swarming.ids import task_id
from swarmd.client import array, open_client, task
from swarmd.core.ids import from_text
from swarmd.testing import SwarmingTask
from tests.interop.cli import Cli
from tests.interop.real_lab import WAITING, RealLab, swarming_bot

UNKNOWN = "7c3d9392af000010"
MANY = 1_200  # a page has at most 1,000


def swarming_id(id: str) -> str:
    """What the command calls a task of the native API."""
    op = from_text(id)
    assert op is not None
    return task_id(op)


def ids_of(tasks: Any) -> list[str]:
    return [task["task_id"] for task in tasks]


# ------------------------------------------------------------------ found

STATES = {
    "PENDING": "waits", "RUNNING": "runs", "PENDING_RUNNING": "waits runs", "COMPLETED": "well badly again",
    "COMPLETED_SUCCESS": "well again", "COMPLETED_FAILURE": "badly", "EXPIRED": "expired", "TIMED_OUT": "slow",
    "BOT_DIED": "lost", "CANCELED": "canceled", "DEDUPED": "again", "KILLED": "killed", "NO_RESOURCE": "",
    "CLIENT_ERROR": "wrong",
}  # fmt: skip


async def ended_in_every_way(cli: Cli, lab: RealLab) -> dict[str, str]:
    """What a task went through: its id."""
    bot = await swarming_bot(lab.url, "s1", "ways")
    to_bot = ("-d", "bench=ways", "-tag", "story:ways")

    async def taken(*flags: str) -> tuple[str, SwarmingTask]:
        id = (await cli.trigger(*to_bot, *flags, "--", "make"))["task_id"]
        task = await bot.take()
        assert task is not None
        await task.start()
        return id, task

    ids: dict[str, str] = {}
    ids["well"], run = await taken("-idempotent")
    await run.end(0)
    ids["again"] = (await cli.trigger(*to_bot, "-idempotent", "--", "make"))["task_id"]
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
    for name in ("waits", "canceled"):
        ids[name] = (await cli.trigger(*WAITING, "-tag", "story:ways", "--", "make"))["task_id"]
    assert (await cli("cancel", ids["canceled"])).code == 0
    async with open_client(lab.url) as client:
        hasty = task(
            argv=["make"],
            dimensions={"bench": ["ways"]},
            expiration_s=0.05,
            tags=["story:ways"],
            name="expired",
        )
        [expired] = await client.submit([hasty])
        await client.wait([expired])
    ids["expired"] = swarming_id(expired)
    return ids


async def test_tasks_are_found_by_their_state(cli: Cli, lab: RealLab):
    ids = await ended_in_every_way(cli, lab)
    found = {}
    for state in STATES:
        listed = (await cli("tasks", "-tag", "story:ways", "-state", state.lower())).json
        names = {id: name for name, id in ids.items()}
        found[state] = {names[id] for id in ids_of(listed)}
    assert found == {state: set(names.split()) for state, names in STATES.items()}
    everything = (await cli("tasks", "-tag", "story:ways")).json
    assert ids_of(everything) == sorted(ids.values(), reverse=True), "newest first"
    assert len(everything) == len(ids)


async def test_tasks_are_found_by_their_tags(cli: Cli):
    red = (await cli.trigger(*WAITING, "-tag", "colour:red", "-tag", "size:s", "--", "make"))["task_id"]
    blue = (await cli.trigger(*WAITING, "-tag", "colour:blue", "-tag", "size:s", "--", "make"))["task_id"]

    async def found(*tags: str) -> list[str]:
        return ids_of((await cli("tasks", *(word for tag in tags for word in ("-tag", tag)))).json)

    assert await found("colour:red") == [red]
    assert await found("colour:red|blue", "size:s") == [blue, red]
    assert await found("colour:red", "colour:blue") == []
    assert await found("bench:idle", "size:s", "pool:default") == [blue, red]


async def test_as_many_as_were_asked_for_are_listed_page_by_page(cli: Cli, lab: RealLab):
    async with open_client(lab.url) as client:
        many = task(
            argv=["make"],
            dimensions={"bench": ["idle"]},
            array=array(first=1, last=MANY),
            tags=["story:many"],
        )
        ids = [swarming_id(id) for id in await client.submit([many])]
    newest_first = ids[::-1]
    for limit in (1, 1_000, 1_001, MANY, 10 * MANY):
        listed = (await cli("tasks", "-tag", "story:many", "-limit", str(limit))).json
        assert ids_of(listed) == newest_first[:limit], limit
    assert ids_of((await cli("tasks", "-tag", "story:many")).json) == newest_first[:200]
    count = ("tasks", "-count", "-tag", "story:many", "-state", "pending")
    told = (await cli(*count, "-start", "1700000000")).json
    assert told["count"] == MANY and told["now"]
    assert "count" not in (await cli(*count, "-start", "4000000000")).json, "none"


async def test_only_those_since_a_moment_are_listed_and_counted(cli: Cli):
    made = await cli.trigger(*WAITING, "-tag", "story:moment", "--", "make")
    whole_s = int(
        (await cli("tasks", "-count", "-start", "1700000000", "-tag", "story:moment")).json["count"]
    )
    assert whole_s == 1
    for start, ids in (("1700000000", [made["task_id"]]), ("4000000000", [])):
        assert ids_of((await cli("tasks", "-tag", "story:moment", "-start", start)).json) == ids


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("-tag", "red"), "InvalidArgument desc = bad tag 'red': expected key:value, or key:a|b for alternatives"),
        (("-tag", "colour: red"), "bad tag 'colour: red'"),
        (("-start", "5"), "InvalidArgument desc = start is before 2010"),
        (("-count", "-start", "5"), "InvalidArgument desc = start is before 2010"),
    ],
)  # fmt: skip
async def test_what_cannot_be_looked_for_is_refused_at_once(cli: Cli, flags: tuple[str, ...], sentence: str):
    done = await cli("tasks", *flags)
    assert (done.code, done.repeats) == (1, 0) and sentence in done.err, done


# ------------------------------------------------------------------ told


async def test_a_request_is_told_whoever_made_it(cli: Cli, lab: RealLab):
    async with open_client(lab.url) as client:
        ours = task(
            argv=["make", "all"], cwd="src", env={"A": "1"}, dimensions={"bench": ["idle"]}, name="ours", priority=5
        )  # fmt: skip
        [id] = await client.submit([ours])
    told = (await cli("request-show", swarming_id(id))).json
    assert told["task_id"] == swarming_id(id) and (told["name"], told["priority"]) == ("ours", 205)
    assert told["properties"]["command"] == ["make", "all"] and told["properties"]["relative_cwd"] == "src"
    assert told["properties"]["env"] == [{"key": "A", "value": "1"}]
    assert told["properties"] == told["task_slices"][0]["properties"]
    assert (await cli("request-show", swarming_id(id)[:-1] + "1")).json == told, "its run is named"


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        (UNKNOWN, "NotFound desc = no such task"),
        ("xyz", "InvalidArgument desc = bad task_id 'xyz': expected 16 lower-case hex digits"),
    ],
)
@pytest.mark.parametrize("command", ["request-show", "reproduce", "cancel"])
async def test_a_task_that_is_not_there_is_told_at_once(cli: Cli, command: str, id: str, sentence: str):
    assert sentence in await cli.refused(command, id)


# ------------------------------------------------------------------ spawned


def request(*command: str, **fields: Any) -> dict[str, Any]:
    properties = {
        "command": command, "dimensions": [{"key": "pool", "value": "default"}], "executionTimeoutSecs": 60,
    }  # fmt: skip
    return {
        "name": "spawned",
        "priority": 100,
        "taskSlices": [{"properties": properties, "expirationSecs": 60}],
        **fields,
    }


def spawned(cli: Cli, *requests: dict[str, Any]) -> tuple[str, ...]:
    (cli.folder / "tasks.json").write_text(json.dumps({"requests": requests}))
    return "spawn-tasks", "-json-input", "tasks.json"


async def test_tasks_are_spawned_from_a_file_as_children_of_the_one_that_does(cli: Cli, lab: RealLab):
    parent = (await cli.trigger("-user", "bob", "--", "sleep", "600"))["task_id"]
    await lab.started(parent)
    spawn = spawned(
        cli, *(request("sh", "-c", f"echo {n}; exec sleep 600", name=f"part {n}") for n in range(3))
    )
    made = (await cli(*spawn, env={"SWARMING_TASK_ID": parent[:-1] + "1"})).json["tasks"]
    assert sorted(one["request"]["name"] for one in made) == ["part 0", "part 1", "part 2"]
    assert {one["request"]["parent_task_id"] for one in made} == {parent[:-1] + "1"}
    assert {one["request"]["user"] for one in made} == {"bob"}, "a child is its parent's user's"
    children = [one["task_id"] for one in made]
    for child in children:
        await lab.started(child)
    assert (await cli("cancel", "-kill-running", parent)).code == 0
    await lab.ended(parent, *children)
    summary = await cli.collect(parent, *children)
    assert {one["results"]["state"] for one in summary.values()} == {"KILLED"}


async def test_a_task_of_another_server_is_no_parent(cli: Cli):
    """The command warns, and leaves it out."""
    elsewhere = {"SWARMING_TASK_ID": UNKNOWN, "SWARMING_SERVER": "https://swarming.example"}
    done = await cli(
        "trigger", "-S", cli.url, "-d", "pool=default", *WAITING, "-json-output", "-", "--", "make", env=elsewhere
    )  # fmt: skip
    assert "parent_task_id" not in done.json["tasks"][0]["request"]


@pytest.mark.parametrize("parent", ["unknown", "ended", "no id"])
async def test_a_parent_that_cannot_be_is_refused_at_once(cli: Cli, lab: RealLab, parent: str):
    if parent == "ended":
        id = (await cli.trigger("--", "true"))["task_id"]
        await lab.ended(id)
        sentence = f'FailedPrecondition desc = parent task "{id}" has ended'
    elif parent == "unknown":
        id, sentence = UNKNOWN, f'NotFound desc = parent task "{UNKNOWN}": no such task'
    else:
        id, sentence = "x", "InvalidArgument desc = bad parent_task_id 'x': expected 16 lower-case hex digits"
    told = await cli.refused(*spawned(cli, request("make")), env={"SWARMING_TASK_ID": id})
    assert sentence in told


async def test_one_bad_request_of_a_file_fails_at_once(cli: Cli):
    told = await cli.refused(*spawned(cli, request("make"), request("make", priority=0)))
    assert "bad request: priority: it is 0; give 1 to 255" in told


async def test_a_file_without_tasks_spawns_none(cli: Cli):
    assert (await cli(*spawned(cli))).json == {}


# ------------------------------------------------------------------ run again


async def test_it_runs_again_here_what_ran_there(cli: Cli, lab: RealLab):
    script = 'printf "%s|" "$1" "$A" "$GONE"; echo here > made; pwd'
    made = await cli.trigger(
        "-env", "A=b c", "-env", "GONE=", "-relative-cwd", "deep/down", "--", "sh", "-c", script, "sh", "$HOME"
    )  # fmt: skip
    await lab.ended(made["task_id"])
    work = cli.folder / "again"
    done = await cli("reproduce", "-work", str(work), made["task_id"], env={"GONE": "set"})
    assert done.code == 0, done
    assert done.out == f"$HOME|b c||{os.path.realpath(work)}/deep/down\n"
    assert (work / "deep" / "down" / "made").read_text() == "here\n"
    [one] = (await cli.collect("-task-output-stdout", "json", made["task_id"])).values()
    assert one["output"].startswith("$HOME|b c||") and one["output"].endswith("deep/down\n")


async def test_what_fails_there_fails_here(cli: Cli, lab: RealLab):
    made = await cli.trigger("--", "sh", "-c", "echo no; exit 3")
    await lab.ended(made["task_id"])
    done = await cli("reproduce", made["task_id"])
    assert (done.code, done.out) == (1, "no\n") and "exit status 3" in done.err, done


async def test_a_task_of_the_native_api_runs_here_too(cli: Cli, lab: RealLab):
    async with open_client(lab.url) as client:
        [id] = await client.submit([task(argv=["sh", "-c", "echo $A"], env={"A": "ours"})])
    with trio.fail_after(30):
        done = await cli("reproduce", swarming_id(id))
    assert (done.code, done.out) == (0, "ours\n"), done
