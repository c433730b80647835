"""Tasks that ran on a bot, and the task that ends one. Protocol reference, section 6.6."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.testing import Lab
from tests.api.swarming.services.client import Answer, new, refused, result, rpc

ALL = "QUERY_ALL"


async def tasks(lab: Lab, bot: str = "b1", **fields: Any) -> list[Answer]:
    """Everything that is listed, over as many pages as it takes."""
    found: list[Answer] = []
    cursor = ""
    while True:
        page = await rpc(lab, "Bots/ListBotTasks", **{"botId": bot, "state": ALL, "cursor": cursor, **fields})
        items = page.get("items", [])
        found += items
        assert "now" in page and ("cursor" in page) == (len(items) == fields.get("limit", 100))
        if not (cursor := page.get("cursor", "")):
            return found


async def three_runs(lab: Lab) -> list[str]:
    """Tasks that b1 ran one after the other, begun in another order than they were made: ok, failed, running."""
    ids = [await new(lab, name=name) for name in ("first", "second", "third")]
    bot = lab.bot("b1", slots=3)
    await bot.open()
    offers = await bot.take()
    assert len(offers) == 3
    for number in (1, 0, 2):
        bot.start(offers[number].attempt)
        await bot.sync()
        await lab.sleep(5)
    bot.finish(offers[0].attempt, 0)
    await bot.sync()
    await lab.sleep(5)
    bot.finish(offers[1].attempt, 3)
    await bot.sync()
    return ids


async def test_what_ran_there_newest_first(swarmd: Lab):
    ids = await three_runs(swarmd)
    await new(swarmd, name="never there")
    found = await tasks(swarmd)
    assert [item["taskId"] for item in found] == ids[::-1]
    for item in found:
        costs = item.pop("costsUsd")
        assert costs == [0.0] and item == await result(swarmd, item["taskId"])
    assert [await tasks(swarmd, limit=limit) for limit in (1, 2, 3, 4)] == [await tasks(swarmd)] * 4
    assert await tasks(swarmd, "another") == []


@pytest.mark.parametrize(
    ("sort", "expected", "field"),
    [
        ("QUERY_CREATED_TS", [2, 1, 0], "createdTs"), ("QUERY_STARTED_TS", [2, 0, 1], "startedTs"),
        ("QUERY_COMPLETED_TS", [1, 0], "completedTs"),
    ],
)  # fmt: skip
async def test_orders_and_spans_of_them(swarmd: Lab, sort: str, expected: list[int], field: str):
    ids = await three_runs(swarmd)
    wanted = [ids[number] for number in expected]
    for limit in (1, 2, 100):
        found = await tasks(swarmd, sort=sort, limit=limit)
        assert [item["taskId"] for item in found] == wanted
    edge = found[1][field]
    split = next(n for n, item in enumerate(found) if item[field] == edge)
    after = [item["taskId"] for item in found if item[field] >= edge]
    assert [i["taskId"] for i in await tasks(swarmd, sort=sort, start=edge)] == after and split <= 1
    assert [i["taskId"] for i in await tasks(swarmd, sort=sort, end=edge)] == [
        i for i in wanted if i not in after
    ]


async def test_states_that_ran(swarmd: Lab):
    first, second, third = await three_runs(swarmd)
    for state, expected in (
        ("QUERY_RUNNING", [third]), ("QUERY_COMPLETED", [second, first]), ("QUERY_COMPLETED_SUCCESS", [first]),
        ("QUERY_COMPLETED_FAILURE", [second]), ("QUERY_KILLED", []), ("QUERY_BOT_DIED", []),
    ):  # fmt: skip
        assert [item["taskId"] for item in await tasks(swarmd, state=state, limit=1)] == expected, state


async def test_each_bot_tells_what_became_of_a_task_there(swarmd: Lab):
    """A task of the native API may be tried again elsewhere."""
    await swarmd.submit("make", bot_retries=1)
    first = swarmd.bot("b1")
    await first.open()
    [offer] = await first.take()
    first.start(offer.attempt)
    await first.sync()
    await first.close()
    second = swarmd.bot("b2")
    await second.open()
    [offer] = await second.take()
    second.start(offer.attempt)
    second.finish(offer.attempt, 0)
    await second.sync()
    [there], [here] = await tasks(swarmd, "b1"), await tasks(swarmd, "b2")
    assert (there["state"], there["botId"], there["internalFailure"]) == ("BOT_DIED", "b1", True)
    assert (here["state"], here["botId"]) == ("COMPLETED", "b2") and "exitCode" not in here
    assert there["taskId"] == here["taskId"] and there["runId"] == here["taskId"][:-1] + "1"
    assert here["runId"] == here["taskId"][:-1] + "2"
    assert await result(swarmd, here["taskId"]) == {k: v for k, v in here.items() if k != "costsUsd"}


@pytest.mark.parametrize(
    "bad",
    [
        {"state": "QUERY_PENDING"}, {"state": "QUERY_PENDING_RUNNING"}, {"state": "QUERY_EXPIRED"}, {"botId": ""},
        {"state": "QUERY_DEDUPED"}, {"state": "QUERY_NO_RESOURCE"}, {"state": "QUERY_CANCELED"}, {"limit": 1001},
        {"sort": "QUERY_ABANDONED_TS"}, {"sort": "QUERY_STARTED_TS", "state": "QUERY_RUNNING"}, {"sort": 1},
        {"start": "2000-01-01T00:00:00Z"}, {"cursor": "x"},
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_asked(swarmd: Lab, bad: Answer):
    await refused(swarmd, 3, "Bots/ListBotTasks", **{"botId": "b1", "state": ALL, **bad})


async def test_a_cursor_that_somebody_made_up(swarmd: Lab):
    from swarmd.api.swarming.services.common import cursor_text

    await three_runs(swarmd)
    for key in (
        "1",
        "[]",
        '["a", 1]',
        "[1e400, 1]",
        f"[{1 << 80}, 1]",
        "[1, -1]",
        f"[1, {1 << 63}]",
        "[null, 1]",
    ):
        await refused(
            swarmd, 3, "Bots/ListBotTasks", botId="b1", state=ALL, cursor=cursor_text("botTasks", key)
        )


# ------------------------------------------------------------------ the task that ends a bot


async def test_a_bot_is_ended_by_a_task_that_can_be_waited_for(swarmd: Lab):
    bot = swarmd.swarming_bot("b1")
    await bot.handshake()
    id = (await rpc(swarmd, "Bots/TerminateBot", botId="b1", reason="swap disk"))["taskId"]
    waiting = await result(swarmd, id)
    assert (waiting["state"], waiting["name"]) == ("PENDING", "Terminate b1: swap disk")
    assert {"swarming.terminate:1", "id:b1", "priority:0"} <= set(waiting["tags"])
    assert (await rpc(swarmd, "Bots/TerminateBot", botId="b1"))["taskId"] == id, "one is enough"
    asked = await rpc(swarmd, "Tasks/GetRequest", taskId=id)
    assert asked["taskSlices"][0]["properties"]["dimensions"] == [{"key": "id", "value": "b1"}]
    assert "priority" not in asked and "command" not in asked["properties"]
    told = await bot.poll()
    assert told["cmd"] == "terminate"
    await bot.confirm_end(told["task_id"])
    found = await result(swarmd, id)
    assert found["state"] == "COMPLETED" and "exitCode" not in found and found["botId"] == "b1"
    await bot.event("bot_shutdown", "ended")
    info = await rpc(swarmd, "Bots/GetBot", botId="b1")
    assert info["isDead"] is True and info["terminationTaskId"] == id


async def test_a_native_bot_is_ended_likewise(swarmd: Lab):
    bot = swarmd.bot("b1")
    await bot.open()
    id = (await rpc(swarmd, "Bots/TerminateBot", botId="b1"))["taskId"]
    answer = await bot.sync(free=1)
    assert [order.kind for order in answer.orders][-1] == "terminate"
    await bot.close()
    assert (await result(swarmd, id))["state"] == "COMPLETED"


async def test_what_cannot_be_ended(swarmd: Lab):
    assert await refused(swarmd, 5, "Bots/TerminateBot", botId="nobody") == "no such bot: nobody"
    await refused(swarmd, 3, "Bots/TerminateBot")
    assert "reason" in await refused(swarmd, 3, "Bots/TerminateBot", botId="b1", reason="x" * 1001)


async def test_a_task_that_ends_a_bot_has_no_children(swarmd: Lab):
    bot = swarmd.bot("b1")
    await bot.open()
    id = (await rpc(swarmd, "Bots/TerminateBot", botId="b1"))["taskId"]
    from tests.api.swarming.services.client import request

    text = await refused(swarmd, 3, "Tasks/NewTask", **request(parentTaskId=id))
    assert "termination task" in text
