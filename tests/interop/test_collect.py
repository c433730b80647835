"""`swarming collect`: waits, and tells how tasks ended and what they printed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from swarmd.client import array, open_client, task
from swarmd.testing import SwarmingTask
from tests.interop.cli import Cli
from tests.interop.real_lab import WAITING, RealLab, swarming_bot

PAGE_BYTES = 16_384_000  # of output, with which the command asks
MANY = 1_200  # ids; it asks for 500 at once
UNKNOWN = "7c3d9392af000010"
SH = ("--", "/bin/sh", "-c")


async def run(cli: Cli, lab: RealLab, script: str) -> str:
    """The id of a task that has run."""
    id = (await cli.trigger(*SH, script))["task_id"]
    await lab.ended(id)
    return id


def only(summary: Any) -> Any:
    [one] = summary.values()
    return one


async def test_it_waits_and_tells_how_all_of_them_ended(cli: Cli):
    """Also of what failed: its own exit code says only whether it could tell."""
    done = await cli(
        "trigger", "-d", "pool=default", "-dump-json", "made.json", *SH, "sleep 0.3; echo out; exit 3"
    )
    assert done.code == 0 and "swarming collect" in done.err and done.out == ""
    other = (await cli.trigger(*SH, "sleep 0.2; echo err >&2"))["task_id"]
    summary = await cli.collect("-requests-json", "made.json", other)
    told = {id: one["results"] for id, one in summary.items()}
    assert len(told) == 2 and told[other]["state"] == "COMPLETED" and "exit_code" not in told[other]
    [failed] = told.keys() - {other}
    result = told[failed]
    assert result["task_id"] == failed and result["run_id"] == failed[:-1] + "1"
    assert (result["state"], result["exit_code"], result["failure"]) == ("COMPLETED", "3", True)
    assert 0.3 <= result["duration"] < 5.0 and result["bot_id"] == "b1"
    assert result["created_ts"] <= result["started_ts"] < result["completed_ts"] <= result["modified_ts"]
    assert {"key": "id", "value": ["b1"]} in result["bot_dimensions"]
    assert not any("output" in one or "error" in one for one in summary.values())


@pytest.mark.parametrize(
    ("flags", "out", "summary", "file"),
    [
        ((), "", None, None),
        (("none",), "", None, None),
        (("console",), "{id}: COMPLETED, exit code 0\nab\ncd\n", None, None),
        (("json",), "", "ab\ncd", None),
        (("all",), "{id}: COMPLETED, exit code 0\nab\ncd\n", "ab\ncd", None),
        (("dir:texts",), "", None, "texts"),
        (("dir",), "", None, "out"),
        (("dir:texts", "json"), "", "ab\ncd", "texts"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
async def test_output_goes_where_it_shall(
    cli: Cli, lab: RealLab, flags: tuple[str, ...], out: str, summary: str | None, file: str | None
):
    id = await run(cli, lab, "echo ab; printf cd >&2")
    options = [word for flag in flags for word in ("-task-output-stdout", flag)]
    done = await cli("collect", *options, "-output-dir", "out", "-task-summary-json", "summary.json", id)
    assert done.code == 0 and done.out == out.format(id=id), done
    one = only(await cli.collect(*options, "-output-dir", "out", id))
    assert one.get("output") == summary and "outputs" not in one
    assert list((cli.folder / "out" / id).iterdir()) == []
    assert file is None or (cli.folder / file / f"{id}.txt").read_bytes() == b"ab\ncd"


async def test_the_summary_for_older_scripts_is_in_the_order_of_the_ids(cli: Cli, lab: RealLab):
    ids = [await run(cli, lab, f"echo {number}") for number in range(3)]
    asked = [ids[2], ids[0], ids[1]]
    summary = await cli.collect("-task-summary-python", "-task-output-stdout", "json", *asked)
    assert [(one["task_id"], one["output"]) for one in summary["shards"]] == [
        (ids[2], "2\n"), (ids[0], "0\n"), (ids[1], "1\n"),
    ]  # fmt: skip


async def test_without_waiting_it_tells_the_present_state(cli: Cli, lab: RealLab):
    waiting = (await cli.trigger(*WAITING, "--", "make"))["task_id"]
    running = (await cli.trigger(*SH, "echo half; exec sleep 600"))["task_id"]
    await lab.started(running, b"half\n")
    summary = await cli.collect("-wait=false", "-task-output-stdout", "json", waiting, running)
    assert summary[waiting]["results"]["state"] == "PENDING" and "run_id" not in summary[waiting]["results"]
    assert summary[running]["results"]["state"] == "RUNNING"
    assert "output" not in summary[running], "the command asks only for that of tasks that have ended"
    done = await cli("cancel", "-kill-running", running)
    assert done.code == 0


async def test_eager_is_content_with_the_first_that_ended(cli: Cli, lab: RealLab):
    waiting = (await cli.trigger(*WAITING, "--", "make"))["task_id"]
    ended = await run(cli, lab, "true")
    summary = await cli.collect("-eager", waiting, ended)
    assert {id: one["results"]["state"] for id, one in summary.items()} == {
        waiting: "PENDING",
        ended: "COMPLETED",
    }


async def test_it_waits_no_longer_than_it_was_told(cli: Cli):
    waiting = (await cli.trigger(*WAITING, "--", "make"))["task_id"]
    one = only(await cli.collect("-timeout", "1s", waiting))
    assert (one["error"], one["results"]["state"]) == ("rpc_timeout", "PENDING")


async def test_an_unknown_task_is_told_beside_the_others(cli: Cli, lab: RealLab):
    id = await run(cli, lab, "true")
    summary = await cli.collect("-task-output-stdout", "console", id, UNKNOWN)
    assert "NotFound" in summary[UNKNOWN]["error"] and "no such task" in summary[UNKNOWN]["error"]
    assert "results" not in summary[UNKNOWN] and summary[id]["results"]["state"] == "COMPLETED"


@pytest.mark.parametrize("id", ["x", "7C3D9392AF000010"])
async def test_what_is_no_id_is_refused_at_once(cli: Cli, id: str):
    assert "must be hex" in await cli.refused("collect", id)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (("a",), "bad task_ids 'a': expected 16 lower-case hex digits"),
        # the command sends ids in an order of its own
        (
            (UNKNOWN, UNKNOWN[:-1] + "1"),
            f"task_ids: {UNKNOWN[:-1]}[01] and {UNKNOWN[:-1]}[01] are the same task",
        ),
    ],
)
async def test_a_refusal_ends_the_wait_for_all(cli: Cli, ids: tuple[str, ...], sentence: str):
    summary = await cli.collect(*ids)
    assert set(summary) == set(ids)
    for one in summary.values():
        assert re.fullmatch(f"rpc error: code = InvalidArgument desc = {sentence}", one["error"])


# ------------------------------------------------------------------ ends of all kinds


async def _stopped(cli: Cli, task: SwarmingTask) -> None:
    assert (await cli("cancel", "-kill-running", task.id)).code == 0
    assert (await task.update())["must_stop"]
    await task.end(-15)


# State and exit code as the summary has them, what is printed of it, further members of the result.
ENDS: dict[str, tuple[Any, tuple[str, str | None], str, dict[str, Any]]] = {
    "well": (lambda cli, task: task.end(0), ("COMPLETED", None), "COMPLETED, exit code 0", {}),
    "with a code": (lambda cli, task: task.end(3), ("COMPLETED", "3"), "COMPLETED, exit code 3", {"failure": True}),
    "by a signal": (lambda cli, task: task.end(-9), ("COMPLETED", "-9"), "COMPLETED, exit code -9", {"failure": True}),
    "at its limit": (lambda cli, task: task.time_out(), ("TIMED_OUT", "-15"), "TIMED_OUT", {"failure": True}),
    "killed": (_stopped, ("KILLED", "-15"), "KILLED", {}),
    "with its bot": (
        lambda cli, task: task.fail("disk on fire"), ("BOT_DIED", "-1"), "BOT_DIED", {"internal_failure": True},
    ),
    "for want of a package": (
        lambda cli, task: task.fail("no package", {"missing_cipd": [{"package_name": "x", "version": "1"}]}),
        ("CLIENT_ERROR", "-1"), "CLIENT_ERROR", {"internal_failure": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
async def test_how_it_ended_is_told(cli: Cli, lab: RealLab, end: str):
    finish, (state, code), line, more = ENDS[end]
    bot = await swarming_bot(lab.url, "s1", "ends")
    id = (await cli.trigger("-d", "bench=ends", "--", "make"))["task_id"]
    task = await bot.take()
    assert task is not None
    await task.start()
    await task.write(b"begun\n")
    await finish(cli, task)
    done = await cli("collect", "-task-output-stdout", "all", "-task-summary-json", "summary.json", id)
    assert (done.code, done.out) == (0, f"{id}: {line}\nbegun\n\n"), done
    one = only(await cli.collect("-task-output-stdout", "json", id))
    assert one["output"] == "begun\n"
    result = one["results"]
    assert (result["state"], result.get("exit_code")) == (state, code)
    flags = {name: result[name] for name in ("failure", "internal_failure") if name in result}
    assert flags == more


# ------------------------------------------------------------------ much of it

WRITES = """
import sys
line = b"%09d\\n"
sys.stdout.buffer.writelines(line % n for n in range({lines}))
"""


async def test_output_of_more_than_one_page_arrives_whole(cli: Cli, lab: RealLab):
    lines = PAGE_BYTES // 10 + 1
    id = (await cli.trigger("--", "python3", "-c", WRITES.format(lines=lines)))["task_id"]
    await lab.ended(id)
    summary = await cli.collect("-task-output-stdout", "dir:texts", id)
    assert only(summary)["results"]["state"] == "COMPLETED"
    found = (cli.folder / "texts" / f"{id}.txt").read_bytes()
    assert len(found) == PAGE_BYTES + 10
    assert found == b"".join(b"%09d\n" % number for number in range(lines))


async def test_output_of_exactly_one_page_ends_there(cli: Cli, lab: RealLab):
    id = await run(cli, lab, f"head -c {PAGE_BYTES} /dev/zero")
    await cli.collect("-task-output-stdout", "dir:texts", id)
    assert (cli.folder / "texts" / f"{id}.txt").read_bytes() == bytes(PAGE_BYTES)


async def test_bytes_that_are_no_text(cli: Cli, lab: RealLab):
    """Exact in a file; in JSON what cannot be said is replaced."""
    id = await run(cli, lab, r"printf 'a\000\377\303\050b'")
    summary = await cli.collect("-task-output-stdout", "dir:texts", "-task-output-stdout", "json", id)
    assert (cli.folder / "texts" / f"{id}.txt").read_bytes() == b"a\0\xff\xc3\x28b"
    assert only(summary)["output"] == "a\0\N{REPLACEMENT CHARACTER}(b"


async def test_more_ids_than_one_call_has(cli: Cli, lab: RealLab):
    async with open_client(lab.url) as client:
        ids = await client.submit(
            [
                task(
                    argv=["make"],
                    dimensions={"bench": ["idle"]},
                    array=array(first=1, last=MANY),
                    tags=["many"],
                )
            ]
        )
    asked = [_told(id) for id in ids]
    (cli.folder / "made.json").write_text(json.dumps({"tasks": [{"task_id": id} for id in asked]}))
    summary = await cli.collect("-wait=false", "-requests-json", "made.json")
    assert set(summary) == set(asked)
    assert all(one["results"]["task_id"] == id for id, one in summary.items())
    assert {one["results"]["state"] for one in summary.values()} == {"PENDING"}


def _told(id: str) -> str:
    from swarmd.api.swarming.ids import task_id
    from swarmd.core.ids import from_text

    op = from_text(id)
    assert op is not None
    return task_id(op)
