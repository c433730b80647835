"""The service `Tasks`, many at a time. Protocol reference, sections 6.4 and 6.5."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.testing import Lab
from tests.api.swarming.services.client import Answer, native, new, refused, request, result, rpc, slice

LISTS = ("ListTasks", "ListTaskRequests")
ALL = "QUERY_ALL"


async def ids(lab: Lab, method: str = "ListTasks", **fields: Any) -> list[str]:
    """Of everything that is listed, over as many pages as it takes."""
    found: list[str] = []
    cursor = ""
    while True:
        page = await rpc(lab, f"Tasks/{method}", **{"state": ALL, "cursor": cursor, **fields})
        assert "now" in page
        found += [item["taskId"] for item in page.get("items", ())]
        assert ("cursor" in page) == (len(page.get("items", ())) == fields.get("limit", 100)), page
        if not (cursor := page.get("cursor", "")):
            return found


async def count(lab: Lab, **fields: Any) -> int:
    answer = await rpc(lab, "Tasks/CountTasks", **{"start": "2010-01-01T00:00:00Z", "state": ALL, **fields})
    return answer.get("count", 0)


async def ends(lab: Lab, **states: str) -> dict[str, str]:
    """One task for each name, which ends as its story says."""
    made = {}
    for name, story in states.items():
        made[name] = id = await new(lab, name=name)
        if story == "cancel":
            await rpc(lab, "Tasks/CancelTask", taskId=id)
            continue
        if story == "wait":
            continue
        bot = lab.bot(f"bot-{name}")
        await bot.open()
        [offer] = await bot.take()
        bot.start(offer.attempt)
        await bot.sync()
        if story == "kill":
            await rpc(lab, "Tasks/CancelTask", taskId=id, killRunning=True)
        if story == "die":
            await bot.close()
        elif story != "run":
            timed_out = {"timed_out": "hard_limit"} if story == "time out" else {}
            client_error = {"client_error": True} if story == "refuse" else {}
            bot.finish(offer.attempt, {"fail": 1, "kill": -15}.get(story, 0), **timed_out, **client_error)
            await bot.sync()
    return made


# ------------------------------------------------------------------ pages


async def test_a_page_of_large_requests_is_shorter_and_nothing_is_left_out(swarmd: Lab):
    """Each may have 64 MiB, and all of a page are in memory at once."""
    large = ["x" * 60_000] * 50  # three of them are above the limit of a page
    made = [await new(swarmd, slice("a", *large)) for _ in range(3)]
    made += [await swarmd.submit("b", *large) for _ in range(3)]
    pages, cursor = [], ""
    while True:
        page = await rpc(swarmd, "Tasks/ListTaskRequests", state="QUERY_ALL", cursor=cursor)
        pages.append([item["taskId"] for item in page["items"]])
        if not (cursor := page.get("cursor", "")):
            break
    assert [len(page) for page in pages] == [2, 2, 2]
    assert len({id for page in pages for id in page}) == len(made)


@pytest.mark.parametrize("method", LISTS)
async def test_pages_hold_everything_once_newest_first(swarmd: Lab, method: str):
    made = [await new(swarmd, name=f"t{number}") for number in range(7)]
    for limit in (1, 2, 3, 6, 7, 8, 1000):
        assert await ids(swarmd, method, limit=limit) == made[::-1]
    assert await ids(swarmd, method) == made[::-1]


async def test_what_comes_between_two_pages_moves_nothing(swarmd: Lab):
    made = [await new(swarmd) for _ in range(4)]
    first = await rpc(swarmd, "Tasks/ListTasks", state=ALL, limit=2)
    await new(swarmd)
    await swarmd.restart()
    second = await rpc(swarmd, "Tasks/ListTasks", state=ALL, limit=2, cursor=first["cursor"])
    assert [item["taskId"] for item in (*first["items"], *second["items"])] == made[::-1]
    assert "items" not in await rpc(swarmd, "Tasks/ListTasks", state=ALL, limit=2, cursor=second["cursor"])


async def test_requests_are_those_that_were_made(swarmd: Lab):
    made = await rpc(swarmd, "Tasks/NewTask", **request(slice("mine", caches=[{"name": "c", "path": "p"}])))
    other = await swarmd.submit("theirs")
    items = (await rpc(swarmd, "Tasks/ListTaskRequests", state=ALL))["items"]
    assert items[1] == made["request"]
    assert native(items[0]["taskId"]) == other and items[0]["properties"]["command"] == ["theirs"]


@pytest.mark.parametrize("method", (*LISTS, "CancelTasks"))
async def test_a_page_cannot_be_anything(swarmd: Lab, method: str):
    usual = {"tags": ["a:b"]} if method == "CancelTasks" else {"state": ALL}
    for limit in (-1, 1001, 1 << 30):
        assert "limit" in await refused(swarmd, 3, f"Tasks/{method}", **usual, limit=limit)
    other = {"ListTasks": "ListTaskRequests"}.get(method, "ListTasks")
    await new(swarmd, tags=["a:b"])
    theirs = (await rpc(swarmd, f"Tasks/{other}", state=ALL, limit=1))["cursor"]
    for cursor in ("x", "ä", "AAAA", theirs, "e" * 5000):
        text = await refused(swarmd, 3, f"Tasks/{method}", **usual, cursor=cursor)
        assert text == "bad pagination cursor"


# ------------------------------------------------------------------ filters


STORIES = {
    "waits": "wait", "runs": "run", "ok": "succeed", "bad": "fail", "late": "time out", "killed": "kill",
    "lost": "die", "gone": "cancel", "refused": "refuse",
}  # fmt: skip
FOUND = {
    "QUERY_PENDING": ["waits"], "QUERY_RUNNING": ["runs"], "QUERY_PENDING_RUNNING": ["waits", "runs"],
    "QUERY_COMPLETED": ["ok", "bad"], "QUERY_COMPLETED_SUCCESS": ["ok"], "QUERY_COMPLETED_FAILURE": ["bad"],
    "QUERY_TIMED_OUT": ["late"], "QUERY_KILLED": ["killed"], "QUERY_BOT_DIED": ["lost"], "QUERY_CANCELED": ["gone"],
    "QUERY_CLIENT_ERROR": ["refused"], "QUERY_EXPIRED": [], "QUERY_NO_RESOURCE": [], "QUERY_DEDUPED": [],
    "QUERY_ALL": list(STORIES),
}  # fmt: skip


async def test_each_state_is_found_and_counted(swarmd: Lab):
    made = await ends(swarmd, **{name: story for name, story in STORIES.items() if name != "waits"})
    made["waits"] = await new(swarmd, name="waits")
    for state, names in FOUND.items():
        expected = {made[name] for name in names}
        assert set(await ids(swarmd, state=state)) == expected, state
        assert set(await ids(swarmd, state=state, limit=1)) == expected, state
        assert await count(swarmd, state=state) == len(expected), state
    assert {item["taskId"] for item in (await rpc(swarmd, "Tasks/ListTasks"))["items"]} == {made["waits"]}
    for id in made.values():
        assert (await result(swarmd, id))["taskId"] == id


async def test_tags_are_all_asked_for_and_may_have_alternatives(swarmd: Lab):
    a = await new(swarmd, tags=["kind:a", "run:1"])
    b = await new(swarmd, tags=["kind:b", "run:1"])
    c = await new(swarmd, tags=["kind:c", "run:2"], user="carol")
    for tags, expected in (
        (["kind:a"], [a]), (["kind:a|b"], [b, a]), (["kind:a|b|c", "run:2"], [c]), (["run:1", "run:2"], []),
        (["kind:z"], []), (["user:carol"], [c]), (["kind:a", "kind:a"], [a]), (["pool:default"], [c, b, a]),
        (["pool:default|mars"], [c, b, a]), (["pool:mars"], []), (["pool:mars", "pool:default"], []),
        (["priority:200", "run:1"], [b, a]),
    ):  # fmt: skip
        for method in LISTS:
            assert await ids(swarmd, method, tags=tags) == expected, tags
        assert await count(swarmd, tags=tags) == len(expected), tags


@pytest.mark.parametrize(
    "tag", ["", "key", ":value", "key:", "key:a|", "key:|a", " key:a", "key: a", "key:a |b"]
)
@pytest.mark.parametrize("method", (*LISTS, "CountTasks", "CancelTasks"))
async def test_a_tag_that_is_none(swarmd: Lab, method: str, tag: str):
    start = {"start": "2020-01-01T00:00:00Z"} if method == "CountTasks" else {}
    assert "bad tag" in await refused(swarmd, 3, f"Tasks/{method}", tags=["a:b", tag], **start)


@pytest.mark.parametrize("method", (*LISTS, "CountTasks", "CancelTasks"))
async def test_tags_have_a_bounded_number_of_values(swarmd: Lab, method: str):
    """Each is looked up for each task that the others match: 64 times 64 took 25 seconds for ten thousand tasks."""
    start = {"start": "2020-01-01T00:00:00Z"} if method == "CountTasks" else {}
    some = "a:" + "|".join(map(str, range(60)))
    await rpc(swarmd, f"Tasks/{method}", tags=[some, "b:1|2|3|4", some], **start)
    for tags in ([some, "b:1|2|3|4|5"], [f"b:{n}" for n in range(65)]):
        assert "more than 64" in await refused(swarmd, 3, f"Tasks/{method}", tags=tags, **start)


async def test_a_span_begins_with_its_start_and_ends_before_its_end(swarmd: Lab):
    made = []
    for _ in range(3):
        made.append(await new(swarmd))
        await swarmd.sleep(10.25)
    stamps = [(await result(swarmd, id))["createdTs"] for id in made]
    assert await ids(swarmd, start=stamps[1]) == made[:0:-1]
    assert await ids(swarmd, end=stamps[1]) == made[:1]
    assert await ids(swarmd, start=stamps[0], end=stamps[2]) == made[1::-1]
    assert (
        await count(swarmd, start=stamps[1]) == 2 and await count(swarmd, start=stamps[1], end=stamps[2]) == 1
    )


@pytest.mark.parametrize("method", (*LISTS, "CountTasks"))
async def test_a_span_that_is_none(swarmd: Lab, method: str):
    for span in (
        {"start": "2009-12-31T23:59:59Z"}, {"start": "2020-01-01T00:00:00Z", "end": "2009-01-01T00:00:00Z"},
        {"start": "2020-01-01T00:00:00Z", "end": "2020-01-01T00:00:00Z"},
    ):  # fmt: skip
        await refused(swarmd, 3, f"Tasks/{method}", **span)
    if method == "CountTasks":
        assert "start is required" in await refused(swarmd, 3, "Tasks/CountTasks", state=ALL)


@pytest.mark.parametrize("method", LISTS)
async def test_other_orders_and_states_are_refused(swarmd: Lab, method: str):
    for bad in ({"sort": "QUERY_STARTED_TS"}, {"sort": 1}, {"state": 99}):
        await refused(swarmd, 3, f"Tasks/{method}", **bad)


# ------------------------------------------------------------------ canceling


async def test_many_are_canceled_page_by_page(swarmd: Lab):
    made = [await new(swarmd, tags=["purpose:smoke"]) for _ in range(5)]
    spared = await new(swarmd)
    cursor, matched = "", []
    while True:
        page: Answer = await rpc(swarmd, "Tasks/CancelTasks", tags=["purpose:smoke"], limit=2, cursor=cursor)
        matched.append(page.get("matched", 0))
        if not (cursor := page.get("cursor", "")):
            break
    assert matched == [2, 2, 1]
    assert {(await result(swarmd, id))["state"] for id in made} == {"CANCELED"}
    assert (await result(swarmd, spared))["state"] == "PENDING"


async def test_running_ones_are_spared_or_killed(swarmd: Lab):
    made = await ends(swarmd, a="run", b="run")
    assert await rpc(swarmd, "Tasks/CancelTasks", tags=["pool:default"]) == {
        "now": (await rpc(swarmd, "Tasks/ListTasks"))["now"]
    }
    page = await rpc(swarmd, "Tasks/CancelTasks", tags=["pool:default"], killRunning=True)
    assert page["matched"] == 2
    for id in made.values():
        assert "abandonedTs" in await result(swarmd, id)


async def test_not_everything_is_canceled_by_a_request_that_forgot_its_tags(swarmd: Lab):
    id = await new(swarmd)
    assert "tags" in await refused(swarmd, 3, "Tasks/CancelTasks", limit=200)
    assert (await result(swarmd, id))["state"] == "PENDING"
