"""The service `Tasks`, one task at a time. Protocol reference, sections 6.1 to 6.5 and 7."""

from __future__ import annotations

import base64
from itertools import count
from typing import Any

import pytest

from swarmd.api.swarming.services.tasks import MAX_BATCH, PAGE_BYTES
from swarmd.testing import Lab
from swarmd.testing.harness import running, virtual_wall
from tests.api.swarming.services.client import (
    Answer,
    new,
    refused,
    request,
    result,
    rpc,
    slice,
)

DAY_S = 86_400
UUID = "7d0c5b0e-6a5e-4c2f-9a55-2f0c3f0f5b11"


async def run(lab: Lab, id: str = "b1", exit_code: int = 0, output: bytes = b"", **bot: Any) -> None:
    """A native bot comes, runs one task, and goes."""
    bot_ = lab.bot(id, **bot)
    await bot_.open()
    [offer] = await bot_.take()
    bot_.start(offer.attempt)
    if output:
        bot_.write(offer.attempt, output)
    await bot_.sync()
    bot_.finish(offer.attempt, exit_code)
    await bot_.sync()
    await bot_.close()


def told(answer: Answer, *names: str) -> Answer:
    """Some fields of an answer, those that are there."""
    return {name: answer[name] for name in names if name in answer}


# ------------------------------------------------------------------ making


async def test_a_new_task_is_pending_and_says_all_that_was_understood(swarmd: Lab):
    made = await rpc(swarmd, "Tasks/NewTask", **request(slice("echo", "hi"), tags=["purpose:smoke"]))
    id = made["taskId"]
    assert made["request"]["taskId"] == made["taskResult"]["taskId"] == id
    assert made["taskResult"]["state"] == "PENDING"
    assert made["taskResult"]["createdTs"] == made["request"]["createdTs"] == made["taskResult"]["modifiedTs"]
    assert made["taskResult"]["tags"] == made["request"]["tags"]
    assert {"pool:default", "priority:200", "purpose:smoke", "user:alice"} <= set(made["request"]["tags"])
    assert made["request"]["realm"] == "default:default"
    assert await rpc(swarmd, "Tasks/GetRequest", taskId=id) == made["request"]
    assert await result(swarmd, id) == made["taskResult"]


async def test_the_moment_it_was_made_is_the_same_in_all_answers(autojump_clock):
    """Also where the wall clock is read a little later each time, as a real one is."""
    reads = count()
    async with running(wall=lambda: virtual_wall() + next(reads) / 1000) as daemon:
        for _ in range(3):
            made = await rpc(daemon, "Tasks/NewTask", **request())
            seen = await rpc(daemon, "Tasks/GetRequest", taskId=made["taskId"])
            assert made["request"]["createdTs"] == made["taskResult"]["createdTs"] == seen["createdTs"]


async def test_it_runs_on_a_native_bot_and_on_a_swarming_bot(swarmd: Lab):
    native_id, swarming_id = await new(swarmd, slice("make", "a")), await new(swarmd, slice("make", "b"))
    await run(swarmd, output=b"one\n")
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    task = await bot.take()
    assert task is not None and task.command == ["make", "b"] and task.id == swarming_id[:-1] + "1"
    await task.start()
    await task.end(0, b"two\n")
    for id, name, output in ((native_id, "b1", b"one\n"), (swarming_id, "s1", b"two\n")):
        found = await result(swarmd, id)
        assert told(found, "state", "botId", "runId", "failure", "exitCode") == {
            "state": "COMPLETED", "botId": name, "runId": id[:-1] + "1",
        }  # fmt: skip
        assert base64.b64decode((await rpc(swarmd, "Tasks/GetStdout", taskId=id))["output"]) == output


async def test_the_same_uuid_again_is_the_same_task_with_its_present_result(swarmd: Lab):
    id = await new(swarmd, requestUuid=UUID)
    await run(swarmd)
    await swarmd.crash()
    await swarmd.start()
    again = await rpc(swarmd, "Tasks/NewTask", **request(slice("something", "else"), requestUuid=UUID))
    assert again["taskId"] == id and again["taskResult"]["state"] == "COMPLETED"
    assert again["request"]["taskSlices"][0]["properties"]["command"] == ["work"]
    assert await new(swarmd, requestUuid=UUID.upper()) != id


async def test_the_same_uuid_again_asks_no_more_for_the_parent(swarmd: Lab):
    parent = await new(swarmd)
    child = request(requestUuid=UUID, parentTaskId=parent[:-1] + "1")
    id = (await rpc(swarmd, "Tasks/NewTask", **child))["taskId"]
    await rpc(swarmd, "Tasks/CancelTask", taskId=parent)
    assert (await rpc(swarmd, "Tasks/NewTask", **child))["taskId"] == id


async def test_what_is_only_evaluated_leaves_nothing_behind(swarmd: Lab):
    id = await new(swarmd, requestUuid=UUID)
    answer = await rpc(
        swarmd, "Tasks/NewTask", **request(slice("other"), evaluateOnly=True, requestUuid=UUID)
    )
    assert set(answer) == {"request"} and "taskId" not in answer["request"]
    assert answer["request"]["properties"]["command"] == ["other"]
    assert [t["taskId"] for t in (await rpc(swarmd, "Tasks/ListTasks", state="QUERY_ALL"))["items"]] == [id]
    assert "priority" in await refused(swarmd, 3, "Tasks/NewTask", **request(evaluateOnly=True, priority=300))


async def test_a_request_that_cannot_be_leaves_nothing_behind(swarmd: Lab):
    text = await refused(swarmd, 3, "Tasks/NewTask", **request(name=""))
    assert text.startswith("bad request: name")
    assert await rpc(swarmd, "Tasks/CountTasks", start="2020-01-01T00:00:00Z", state="QUERY_ALL") == {
        "now": (await rpc(swarmd, "Tasks/CountTasks", start="2020-01-01T00:00:00Z", state="QUERY_ALL"))["now"]
    }


async def test_a_secret_is_never_read_again(swarmd: Lab):
    secret = base64.b64encode(b"hunter2hunter2").decode()
    made = await rpc(swarmd, "Tasks/NewTask", **request(slice(secretBytes=secret)))
    shown = base64.b64encode(b"<REDACTED>").decode()
    for answer in (made["request"], await rpc(swarmd, "Tasks/GetRequest", taskId=made["taskId"])):
        assert answer["taskSlices"][0]["properties"]["secretBytes"] == shown
        assert answer["properties"]["secretBytes"] == shown
    bot = swarmd.swarming_bot()
    await bot.handshake()
    manifest = (await bot.poll())["manifest"]
    assert manifest["secret_bytes"] == secret


# ------------------------------------------------------------------ parents


async def test_children_are_killed_with_their_parent_and_are_its_users(swarmd: Lab):
    parent = await new(swarmd, user="bob")
    made = await rpc(swarmd, "Tasks/NewTask", **request(parentTaskId=parent[:-1] + "1"))
    assert made["request"]["user"] == "bob" and made["taskResult"]["user"] == "bob"
    assert {"user:bob", f"parent_task_id:{parent[:-1]}1"} <= set(made["request"]["tags"])
    await rpc(swarmd, "Tasks/CancelTask", taskId=parent)
    assert (await result(swarmd, made["taskId"]))["state"] == "CANCELED"


async def test_a_parent_must_be_there_and_alive(swarmd: Lab):
    parent = await new(swarmd)
    await run(swarmd)
    text = await refused(swarmd, 9, "Tasks/NewTask", **request(parentTaskId=parent[:-1] + "1"))
    assert text == f'parent task "{parent[:-1]}1" has ended'
    text = await refused(swarmd, 5, "Tasks/NewTask", **request(parentTaskId="7b24c0ea00ffff11"))
    assert text == 'parent task "7b24c0ea00ffff11": no such task'
    assert "parent_task_id" in await refused(swarmd, 3, "Tasks/NewTask", **request(parentTaskId="xyz"))


# ------------------------------------------------------------------ finished tasks of the same properties


def same(**fields: Any) -> Answer:
    return slice("expensive", idempotent=True, **fields)


async def test_a_finished_equal_task_answers_at_once(swarmd: Lab):
    first = await new(swarmd, same(), name="first")
    await run(swarmd, output=b"precious\n")
    await swarmd.sleep(5)
    made = await rpc(swarmd, "Tasks/NewTask", **request(same(expiration=7200), name="second", priority=100))
    second, found = made["taskId"], made["taskResult"]
    original = await result(swarmd, first)
    assert second != first and found["name"] == "second"
    assert told(found, "state", "dedupedFrom", "runId", "botId") == {
        "state": "COMPLETED", "dedupedFrom": original["runId"], "runId": original["runId"], "botId": "b1",
    }  # fmt: skip
    for name in ("startedTs", "completedTs", "duration", "botDimensions"):
        assert found.get(name) == original.get(name), name
    assert found["createdTs"] == made["request"]["createdTs"] != original["createdTs"]
    assert await result(swarmd, second) == found
    output = await rpc(swarmd, "Tasks/GetStdout", taskId=second)
    assert output == {"output": base64.b64encode(b"precious\n").decode(), "state": "COMPLETED"}
    assert "dedupedFrom" not in original
    deduped = await rpc(swarmd, "Tasks/ListTasks", state="QUERY_DEDUPED")
    assert [item["taskId"] for item in deduped["items"]] == [second]


async def test_a_third_one_shares_the_original_not_the_second(swarmd: Lab):
    first = await new(swarmd, same())
    await run(swarmd)
    await new(swarmd, same())
    third = await new(swarmd, same())
    assert (await result(swarmd, third))["dedupedFrom"] == (await result(swarmd, first))["runId"]


@pytest.mark.parametrize(
    "other", [{"env": [{"key": "A", "value": "1"}]}, {"relativeCwd": "x"}, {"ioTimeoutSecs": 60}]
)
async def test_other_properties_are_another_task(swarmd: Lab, other: Answer):
    await new(swarmd, same())
    await run(swarmd)
    assert (await result(swarmd, await new(swarmd, same(**other))))["state"] == "PENDING"


async def test_what_failed_or_runs_or_was_not_meant_to_answers_for_nobody(swarmd: Lab):
    await new(swarmd, same())
    await run(swarmd, exit_code=1)
    assert (await result(swarmd, await new(swarmd, same())))["state"] == "PENDING"
    assert (await result(swarmd, await new(swarmd, same())))["state"] == "PENDING", (
        "one that waits is not joined"
    )
    await new(swarmd, slice("other"))
    for _ in range(3):
        await run(swarmd)
    again = await result(swarmd, await new(swarmd, slice("other")))
    assert again["state"] == "PENDING", "neither was idempotent"


@pytest.mark.parametrize(("days", "state"), [(6.9, "COMPLETED"), (7.1, "PENDING")])
async def test_a_finished_task_answers_for_seven_days(swarmd: Lab, days: float, state: str):
    await new(swarmd, same())
    await run(swarmd)
    await swarmd.sleep(days * DAY_S)
    assert (await result(swarmd, await new(swarmd, same())))["state"] == state


async def test_of_several_slices_the_first_that_was_run_before_answers(swarmd: Lab):
    await new(swarmd, same())
    await run(swarmd)
    made = await rpc(
        swarmd, "Tasks/NewTask", **request(slice("x", idempotent=True), slice("y"), same(), expirationSecs=0)
    )
    found = await result(swarmd, made["taskId"])
    assert found["state"] == "COMPLETED" and found["currentTaskSlice"] == 2
    listed = (await rpc(swarmd, "Tasks/ListTasks", state="QUERY_DEDUPED"))["items"]
    assert [item["currentTaskSlice"] for item in listed] == [2]


# ------------------------------------------------------------------ results by state


async def test_results_of_a_task_that_failed(swarmd: Lab):
    id = await new(swarmd)
    await run(swarmd, exit_code=7)
    found = await result(swarmd, id)
    assert told(found, "state", "exitCode", "failure", "internalFailure") == {
        "state": "COMPLETED", "exitCode": "7", "failure": True,
    }  # fmt: skip


async def test_results_of_a_running_task_and_of_one_that_is_killed(swarmd: Lab):
    id = await new(swarmd)
    bot = swarmd.bot("b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    await bot.sync()
    running = await result(swarmd, id)
    assert running["state"] == "RUNNING" and running["botId"] == "b1" and running["runId"] == id[:-1] + "1"
    assert {"key": "pool", "value": ["default"]} in running["botDimensions"]
    assert not {d["key"] for d in running["botDimensions"]} & {"feature"}
    assert "abandonedTs" not in running and "startedTs" in running
    await swarmd.sleep(5)
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id) == {"wasRunning": True}
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id, killRunning=True) == {
        "canceled": True, "wasRunning": True,
    }  # fmt: skip
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id, killRunning=True) == {"wasRunning": True}
    asked = await result(swarmd, id)
    assert asked["state"] == "RUNNING" and asked["abandonedTs"] > asked["startedTs"]
    await swarmd.sleep(5)
    bot.finish(offer.attempt, -15)
    await bot.sync()
    found = await result(swarmd, id)
    assert found["state"] == "KILLED" and found["exitCode"] == "-15" and "failure" not in found
    assert found["abandonedTs"] == asked["abandonedTs"] < found["completedTs"]
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id, killRunning=True) == {}


async def test_results_of_a_task_that_is_canceled_before_it_runs(swarmd: Lab):
    id = await new(swarmd)
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id) == {"canceled": True}
    assert await rpc(swarmd, "Tasks/CancelTask", taskId=id) == {}
    found = await result(swarmd, id)
    assert found["state"] == "CANCELED" and found["completedTs"] == found["abandonedTs"]
    assert not {"runId", "botId", "startedTs", "exitCode"} & set(found)


async def test_results_of_a_task_whose_bot_died(swarmd: Lab):
    id = await new(swarmd)
    bot = swarmd.bot("b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    await bot.sync()
    await swarmd.sleep(bot.deadline_s + 1)
    found = await result(swarmd, id)
    assert told(found, "state", "internalFailure", "exitCode", "failure", "botId") == {
        "state": "BOT_DIED", "internalFailure": True, "exitCode": "-1", "botId": "b1",
    }  # fmt: skip
    assert "completedTs" in found and "abandonedTs" in found


async def test_results_of_tasks_that_nobody_took(swarmd: Lab):
    expired = await new(swarmd, slice(expiration=60))
    nowhere = await new(swarmd, slice(pool="mars", expiration=3600, wait=False))
    await swarmd.sleep(61)
    for id, state in ((expired, "EXPIRED"), (nowhere, "NO_RESOURCE")):
        found = await result(swarmd, id)
        assert found["state"] == state and found["completedTs"] == found["abandonedTs"]
        assert not {"runId", "botId", "startedTs"} & set(found)


async def test_the_second_slice_is_told_while_it_is_tried(swarmd: Lab):
    id = await new(swarmd, slice("a", expiration=60, pool="default", env=[]), slice("b", expiration=60))
    assert "currentTaskSlice" not in await result(swarmd, id)
    await swarmd.sleep(61)
    assert (await result(swarmd, id))["currentTaskSlice"] == 1
    assert (await rpc(swarmd, "Tasks/GetRequest", taskId=id))["properties"]["command"] == ["a"]
    await run(swarmd)
    assert (await result(swarmd, id))["currentTaskSlice"] == 1


async def test_figures_of_a_swarming_bot(swarmd: Lab):
    id = await new(swarmd)
    bot = swarmd.swarming_bot()
    await bot.handshake()
    task = await bot.take()
    assert task is not None
    await task.start()
    await task.end(
        0, duration=1.25, bot_overhead=0.5,
        isolated_stats={"download": {"duration": 2.0, "initial_number_items": 3, }},
        named_caches_stats={"install": {"duration": 0.25}, "uninstall": {"duration": 0}},
        cipd_pins={"client_package": {"package_name": "a", "version": "b"}, "packages": []},
    )  # fmt: skip
    plain = await result(swarmd, id)
    assert plain["duration"] == 1.25 and len(plain["costsUsd"]) == 1 and plain["costsUsd"][0] > 0
    assert plain["cipdPins"] == {"clientPackage": {"packageName": "a", "version": "b"}}
    assert "performanceStats" not in plain
    stats = (await result(swarmd, id, includePerformanceStats=True))["performanceStats"]
    assert stats["botOverhead"] == 0.5 and stats["namedCachesInstall"] == {"duration": 0.25}
    assert "namedCachesUninstall" not in stats and "isolatedUpload" not in stats
    assert (
        stats["isolatedDownload"]["duration"] == 2.0 and stats["isolatedDownload"]["initialNumberItems"] == 3
    )


async def test_a_task_of_the_native_api_is_told_like_any_other(swarmd: Lab):
    from swarmd.api.swarming.ids import task_id
    from swarmd.core.ids import from_text

    op = await swarmd.submit("make", name="theirs")
    id = task_id(from_text(op))
    found = await result(swarmd, id)
    assert found["state"] == "PENDING" and found["name"] == "theirs" and "pool:default" in found["tags"]
    asked = await rpc(swarmd, "Tasks/GetRequest", taskId=id)
    assert asked["taskSlices"][0]["properties"]["command"] == ["make"] and asked["priority"] == 200
    await run(swarmd, exit_code=3)
    assert (await result(swarmd, id))["exitCode"] == "3"
    assert [
        t["taskId"]
        for t in (await rpc(swarmd, "Tasks/ListTasks", state="QUERY_ALL", tags=["pool:default"]))["items"]
    ] == [id]


# ------------------------------------------------------------------ reading


async def test_ids_in_either_form_and_unknown_ones(swarmd: Lab):
    id = await new(swarmd)
    assert await result(swarmd, id[:-1] + "1") == await result(swarmd, id)
    for method in ("GetResult", "GetRequest", "GetStdout", "CancelTask"):
        assert await refused(swarmd, 5, f"Tasks/{method}", taskId="7b24c0ea00ffff10") == "no such task"
        assert "task_id is required" in await refused(swarmd, 3, f"Tasks/{method}")
        for bad in ("x", "0", "XYZ", "7b24c0ea00ffff10" * 2, "7B24C0EA00FFFF10"):
            assert "bad task_id" in await refused(swarmd, 3, f"Tasks/{method}", taskId=bad)


async def test_a_batch_is_answered_in_order_with_errors_in_their_places(swarmd: Lab):
    a, b = await new(swarmd), await new(swarmd)
    ids = [b, "7b24c0ea00ffff10", a[:-1] + "1"]
    found = (await rpc(swarmd, "Tasks/BatchGetResult", taskIds=ids))["results"]
    assert [one["taskId"] for one in found] == ids
    assert found[1]["error"] == {"code": 5, "message": "no such task"}
    assert [found[0]["result"]["taskId"], found[2]["result"]["taskId"]] == [b, a]


@pytest.mark.parametrize(("method", "field"), [("BatchGetResult", "taskIds"), ("ListTaskStates", "taskId")])
async def test_a_batch_has_limits(swarmd: Lab, method: str, field: str):
    id = await new(swarmd)
    many = [f"7b24c0ea0{number:06x}10" for number in range(MAX_BATCH + 1)]
    for bad in ([], many, [id, id], [id, id[:-1] + "1"], [id, "nonsense"]):
        await refused(swarmd, 3, f"Tasks/{method}", **{field: bad})


async def test_states_of_many(swarmd: Lab):
    a, b = await new(swarmd), await new(swarmd)
    await rpc(swarmd, "Tasks/CancelTask", taskId=a)
    assert await rpc(swarmd, "Tasks/ListTaskStates", taskId=[b, a]) == {"states": ["PENDING", "CANCELED"]}
    text = await refused(swarmd, 5, "Tasks/ListTaskStates", taskId=[a, "7b24c0ea00ffff10"])
    assert text == "7b24c0ea00ffff10: no such task"


async def test_output_in_pages_while_it_runs(swarmd: Lab):
    id = await new(swarmd)
    assert await rpc(swarmd, "Tasks/GetStdout", taskId=id) == {"state": "PENDING"}
    bot = swarmd.bot("b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    bot.write(offer.attempt, b"out 1\n")
    bot.write(offer.attempt, b"err\n", "stderr")
    await bot.sync()
    bot.write(offer.attempt, b"out 2\n")
    await bot.sync()
    everything = b"out 1\nerr\nout 2\n"

    async def page(**fields: Any) -> bytes:
        answer = await rpc(swarmd, "Tasks/GetStdout", taskId=id, **fields)
        assert answer["state"] == "RUNNING"
        return base64.b64decode(answer.get("output", ""))

    assert await page() == await page(length=str(PAGE_BYTES)) == await page(length=str(1 << 62)) == everything
    assert await page(offset=6, length=6) == everything[6:12]
    assert await page(offset=len(everything)) == await page(offset=str(1 << 62)) == b""
    for bad in ({"offset": -1}, {"length": -1}):
        await refused(swarmd, 3, "Tasks/GetStdout", taskId=id, **bad)


# ------------------------------------------------------------------ what stays in the file


async def test_a_request_goes_with_its_task(swarmd: Lab):
    id = await new(swarmd)
    await run(swarmd)

    def rows(conn: Any) -> int:
        return conn.execute("SELECT COUNT(*) FROM swarming_requests").fetchone()[0]

    assert await swarmd.daemon.read(rows) == 1
    await swarmd.daemon.writer.submit(lambda conn: conn.execute("DELETE FROM ops")).wait()
    assert await swarmd.daemon.backend.read(rows) == 0
    assert id


# ------------------------------------------------------------------ permissions


async def test_permissions_for_a_task_are_those_for_one_that_exists(swarmd: Lab):
    id = await new(swarmd)
    assert (await rpc(swarmd, "Swarming/GetPermissions", taskId=id))["cancelTask"]
    assert await refused(swarmd, 5, "Swarming/GetPermissions", taskId="7b24c0ea00ffff10") == "no such task"
    assert "task_id" in await refused(swarmd, 3, "Swarming/GetPermissions", taskId="it")
