"""Calls at the same moment, and a daemon that ends in the middle of one."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import trio

from swarmd.store.retention import Retention, run_once
from swarmd.testing import Lab
from swarmd.testing.faults import FAILPOINTS, Failpoint
from tests.api.swarming.prpc.calls import JSON, JSON_PREFIX, call
from tests.api.swarming.services.client import Answer, new, request, result, rpc, slice

ALL = {"state": "QUERY_ALL"}
CALLERS = 24


async def at_once(*calls: Any) -> list[Any]:
    """The answers of several calls, in order."""
    answers: list[Any] = [None] * len(calls)

    async def one(number: int) -> None:
        answers[number] = await calls[number]()

    async with trio.open_nursery() as nursery:
        for number in range(len(calls)):
            nursery.start_soon(one, number)
    return answers


async def insisting(lab: Lab, method: str, **fields: Any) -> Answer:
    """As the `swarming` command does: it repeats a call whose answer did not come."""
    for _ in range(20):
        try:
            answer = await call(lab.url, f"swarming.v2.{method}", json.dumps(fields).encode(), *JSON)
        except Exception:  # whatever the test's client makes of a connection that ends in the middle
            await trio.sleep(1)
            continue
        assert answer.headers["x-prpc-grpc-code"] == "0", answer
        return json.loads(answer.body.removeprefix(JSON_PREFIX))
    raise AssertionError("the daemon never answered")


async def states(lab: Lab, *ids: str) -> list[str]:
    return (await rpc(lab, "Tasks/ListTaskStates", taskId=list(ids)))["states"]


async def count(lab: Lab) -> int:
    answer = await rpc(lab, "Tasks/CountTasks", start="2010-01-01T00:00:00Z", **ALL)
    return answer.get("count", 0)


# ------------------------------------------------------------------ one UUID


async def test_many_who_send_the_same_uuid_make_one_task(swarmd: Lab):
    made = await at_once(
        *[lambda: rpc(swarmd, "Tasks/NewTask", **request(requestUuid="u")) for _ in range(CALLERS)]
    )
    assert len({one["taskId"] for one in made}) == 1 and await count(swarmd) == 1
    assert all(one == made[0] for one in made)


@pytest.mark.parametrize("name", FAILPOINTS)
async def test_a_daemon_that_ends_while_many_send_the_same_uuid(swarmd: Lab, name: Failpoint):
    failure = swarmd.fail_at(name)
    made = await at_once(
        *[lambda: insisting(swarmd, "Tasks/NewTask", **request(requestUuid="u")) for _ in range(CALLERS)]
    )
    assert failure.has_happened
    assert len({one["taskId"] for one in made}) == 1 and await count(swarmd) == 1
    id = made[0]["taskId"]
    assert await rpc(swarmd, "Tasks/GetRequest", taskId=id) == made[0]["request"]


# ------------------------------------------------------------------ equal tasks


async def test_equal_tasks_that_end_together_answer_for_those_that_follow(swarmd: Lab):
    equal = slice("same", idempotent=True)
    first, second = await new(swarmd, equal), await new(swarmd, equal)
    bots = [swarmd.bot(name) for name in ("b1", "b2")]
    offers = []
    for bot in bots:
        await bot.open()
        [offer] = await bot.take()
        bot.start(offer.attempt)
        await bot.sync()
        offers.append(offer)
    assert await states(swarmd, first, second) == ["RUNNING", "RUNNING"]
    for bot, offer in zip(bots, offers, strict=True):
        bot.finish(offer.attempt, 0)
    *_, made = await at_once(
        *[bot.sync for bot in bots], *[lambda: new(swarmd, equal) for _ in range(CALLERS)],
        lambda: rpc(swarmd, "Tasks/NewTask", **request(equal)),
    )  # fmt: skip
    assert made["taskResult"]["state"] in ("PENDING", "COMPLETED")
    last = await rpc(swarmd, "Tasks/NewTask", **request(equal))
    assert last["taskResult"]["state"] == "COMPLETED"
    assert last["taskResult"]["dedupedFrom"][:-1] in (first[:-1], second[:-1])


async def test_an_equal_task_that_was_forgotten_answers_for_none(swarmd: Lab):
    equal = slice("same", idempotent=True)
    first = await new(swarmd, equal)
    bot = swarmd.bot("b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    bot.finish(offer.attempt, 0)
    await bot.sync()
    assert (await result(swarmd, first))["state"] == "COMPLETED"
    await swarmd.sleep(60)
    daemon = swarmd.daemon
    _, *made = await at_once(
        lambda: run_once(daemon.backend, daemon.writer, daemon.clock.wall(), Retention(days=30 / 86_400)),
        *[lambda: rpc(swarmd, "Tasks/NewTask", **request(equal)) for _ in range(CALLERS)],
    )
    for one in made:  # either it never ran, and the original is there, or it waits for a run of its own
        told = await result(swarmd, one["taskId"])
        if told["state"] == "COMPLETED":
            assert (await result(swarmd, told["dedupedFrom"]))["taskId"] == first
        else:
            assert told["state"] == "PENDING"
    await swarmd.check_file()


# ------------------------------------------------------------------ canceling


@pytest.mark.parametrize("kill", [False, True])
async def test_a_task_is_canceled_in_the_moment_in_which_it_ends(swarmd: Lab, kill: bool):
    bot = swarmd.bot("b1")
    await bot.open()
    for _ in range(8):
        id = await new(swarmd)
        [offer] = await bot.take()
        bot.start(offer.attempt)
        await bot.sync()
        bot.finish(offer.attempt, 0)
        canceled, again, _ = await at_once(
            *[partial(rpc, swarmd, "Tasks/CancelTask", taskId=id, killRunning=kill)] * 2, bot.sync
        )
        state = (await result(swarmd, id))["state"]
        assert not (canceled.get("canceled") and again.get("canceled"))
        if not kill:
            assert not canceled.get("canceled") and not again.get("canceled")
        assert state == ("KILLED" if canceled.get("canceled") or again.get("canceled") else "COMPLETED"), (
            state
        )


async def test_what_comes_between_two_pages_of_a_cancellation_is_spared(swarmd: Lab):
    before = [await new(swarmd, tags=["purpose:smoke"]) for _ in range(6)]
    after, cursor, matched = [], "", 0
    for _ in range(10):
        page = await rpc(swarmd, "Tasks/CancelTasks", tags=["purpose:smoke"], limit=2, cursor=cursor)
        matched += page.get("matched", 0)
        if not (cursor := page.get("cursor", "")):
            break
        after.append(await new(swarmd, tags=["purpose:smoke"]))
    assert not cursor and matched == 6
    assert set(await states(swarmd, *before)) == {"CANCELED"}
    assert set(await states(swarmd, *after)) == {"PENDING"}


@pytest.mark.parametrize("method", ["ListTasks", "ListTaskRequests"])
async def test_what_is_forgotten_between_two_pages_ends_no_list(swarmd: Lab, method: str):
    ids = [await new(swarmd) for _ in range(6)]
    page = await rpc(swarmd, f"Tasks/{method}", limit=2, **ALL)
    assert [one["taskId"] for one in page["items"]] == [ids[5], ids[4]]
    for id in ids[2:5]:  # also the one that the cursor stands for
        await rpc(swarmd, "Tasks/CancelTask", taskId=id)
    await swarmd.sleep(60)
    daemon = swarmd.daemon
    await run_once(daemon.backend, daemon.writer, daemon.clock.wall(), Retention(days=30 / 86_400))
    page = await rpc(swarmd, f"Tasks/{method}", limit=2, cursor=page["cursor"], **ALL)
    assert [one["taskId"] for one in page["items"]] == [ids[1], ids[0]]
    page = await rpc(swarmd, f"Tasks/{method}", limit=2, cursor=page["cursor"], **ALL)
    assert "items" not in page and "cursor" not in page


async def test_a_parent_that_ends_while_its_child_is_made_takes_it_along(swarmd: Lab):
    for _ in range(8):
        parent = await new(swarmd)
        body = json.dumps(request(parentTaskId=parent)).encode()
        _, answer = await at_once(
            partial(rpc, swarmd, "Tasks/CancelTask", taskId=parent),
            partial(call, swarmd.url, "swarming.v2.Tasks/NewTask", body, *JSON),
        )
        if answer.headers["x-prpc-grpc-code"] == "0":
            child = json.loads(answer.body.removeprefix(JSON_PREFIX))["taskId"]
            assert await states(swarmd, child) == ["CANCELED"]
        else:
            assert answer.headers["x-prpc-grpc-code"] == "9", answer
