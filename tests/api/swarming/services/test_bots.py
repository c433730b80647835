"""Bots of all protocols as Swarming clients see them: what is told of one, lists, filters, pages, counts, deleting."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from swarmd.api.routes import Verb
from swarmd.api.swarming.ids import run_id, task_id
from swarmd.api.swarming.methods import METHODS
from swarmd.api.swarming.proto import bots_pb2
from swarmd.api.swarming.prpc.codec import JSON_PREFIX
from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.api.swarming.services.common import cursor_text
from swarmd.client import BotOrderRequest
from swarmd.config import Config
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import BotId
from swarmd.core.sessions import Newcomer
from swarmd.testing import Lab
from swarmd.testing.harness import WALL, running
from tests.api.swarming.prpc.calls import BINARY, JSON, call, fault, message
from tests.api.swarming.services.asking import (
    BOTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    ask,
    dimensions,
    ids_of,
    refused,
    types_of,
)
from tests.api.swarming.worlds import greeted, polling
from tests.api.wire import connect, head, read_answer

DEATH_S = 300.0
NATIVE_DEATH_S = 60.0


async def open_bot(lab: Lab, id: str, *, slots: int = 1, **values: str | list[str]):
    """A native bot with an open session."""
    lists = {key: [v] if isinstance(v, str) else v for key, v in values.items()}
    bot = lab.bot(id, slots=slots, dimensions=lists)
    await bot.open()
    return bot


async def as_json(lab: Lab, name: str, body: dict[str, Any]) -> Any:
    answer = await call(lab.url, f"{BOTS}/{name}", json.dumps(body).encode(), *JSON)
    assert answer.headers["x-prpc-grpc-code"] == "0" and answer.body.startswith(JSON_PREFIX), answer
    return json.loads(answer.body.removeprefix(JSON_PREFIX))


def dimensions_of(bot: bots_pb2.BotInfo) -> dict[str, list[str]]:
    return {pair.key: list(pair.value) for pair in bot.dimensions}


# --------------------------------------------------------------------- as it was recorded


@pytest.mark.swarmd(config={"swarming": {"groups": [{"bots": ["bench-*"], "dimensions": {"pool": ["lab"]}}]}})
async def test_a_list_as_it_was_recorded(swarmd: Lab):
    """The exchange of the protocol's reference; but the daemon does not keep an address, and names sessions itself."""
    bot = swarmd.swarming_bot("bench-01", dimensions={"os": ["Ubuntu", "Linux"]})
    bot.version = "abc123"
    await bot.handshake()
    bot.dimensions.pop("bot_config")
    bot.state = {"cost_usd_hour": 0.1}
    await swarmd.sleep(60)
    await bot.poll()
    await swarmd.sleep(5)
    told = await as_json(swarmd, "ListBots", {"limit": 1000, "dimensions": [{"key": "pool", "value": "lab"}]})
    assert told == {
        "items": [
            {
                "botId": "bench-01", "authenticatedAs": "bot:bench-01", "firstSeenTs": "2026-09-21T14:13:20Z",
                "lastSeenTs": "2026-09-21T14:14:20Z",
                "dimensions": [
                    {"key": "id", "value": ["bench-01"]},
                    {"key": "os", "value": ["Linux", "Ubuntu"]},
                    {"key": "pool", "value": ["lab"]},
                ],
                "version": "abc123", "state": '{"cost_usd_hour":0.1}',
                "sessionId": to_text(swarmd.daemon.engine.bots["bench-01"].session.id),
            }
        ],
        "now": "2026-09-21T14:14:25Z", "deathTimeout": 300,
    }  # fmt: skip


async def test_a_count_as_it_was_recorded(swarmd: Lab):
    """In binary its request is no byte at all."""
    await (await open_bot(swarmd, "b1")).close()
    await open_bot(swarmd, "b2")
    busy = await open_bot(swarmd, "b3")
    await swarmd.submit("make", dimensions={"id": "b3"})
    await busy.run_one()
    told = await as_json(swarmd, "CountBots", {})
    assert told == {"now": "2026-09-21T14:13:20Z", "count": 3, "dead": 1, "busy": 1}
    binary = message(await call(swarmd.url, f"{BOTS}/CountBots", b"", BINARY), bots_pb2.BotsCount)
    assert (binary.count, binary.dead, binary.busy) == (3, 1, 1)


async def test_a_deletion_as_it_was_recorded(swarmd: Lab):
    await (await open_bot(swarmd, "bench-01")).close()
    assert await as_json(swarmd, "DeleteBot", {"botId": "bench-01"}) == {"deleted": True}


# --------------------------------------------------------------------- what is told of a bot


async def test_a_bot_of_the_native_api(swarmd: Lab):
    bot = await open_bot(swarmd, "b1", slots=2, os=["Linux", "Debian"], pool="lab")
    await swarmd.sleep(7)
    await bot.sync()
    told = await ask(swarmd, "GetBot", bot_id="b1")
    assert (told.bot_id, told.authenticated_as, told.external_ip) == ("b1", "bot:b1", "")
    assert dimensions_of(told) == {"id": ["b1"], "os": ["Debian", "Linux"], "pool": ["lab"]}
    assert [pair.key for pair in told.dimensions] == ["id", "os", "pool"]
    assert (told.task_id, told.task_name, told.termination_task_id) == ("", "", "")
    assert not (told.is_dead or told.quarantined or told.maintenance_msg or told.deleted)
    assert json.loads(told.state) == {} and from_text(told.session_id) == from_text(bot.session)
    assert told.last_seen_ts.seconds - told.first_seen_ts.seconds == 7
    assert WALL <= told.first_seen_ts.seconds < WALL + 60
    [listed] = (await ask(swarmd, "ListBots")).items
    assert listed == told


async def test_a_bot_of_swarming(swarmd: Lab):
    """What the server assigned to it replaces what it says itself."""
    bot = swarmd.swarming_bot("s1", dimensions={"os": ["Linux"]})
    await bot.handshake()
    bot.dimensions["pool"] = ["mine"]
    await bot.poll()
    told = await ask(swarmd, "GetBot", bot_id="s1")
    assert dimensions_of(told) == {
        "bot_config": bot.dimensions["bot_config"], "id": ["s1"], "os": ["Linux"], "pool": ["default"],
    }  # fmt: skip
    assert told.version == "1" * 64 and json.loads(told.state)["sleep_streak"] == 0
    assert from_text(told.session_id) == swarmd.daemon.engine.bots["s1"].session.id


async def test_the_task_of_a_swarming_bot(swarmd: Lab):
    bot = await greeted(swarmd)
    id = await swarmd.submit("make", name="build")
    task = await bot.take()
    assert task is not None
    offered = await ask(swarmd, "GetBot", bot_id="s1")
    await task.start()
    running = await ask(swarmd, "GetBot", bot_id="s1")
    for told in (offered, running):
        assert (told.task_id, told.task_name) == (task.id, "build")
        assert told.task_id == task_id(from_text(id))[:-1] + "1"
    await task.end(0)
    told = await ask(swarmd, "GetBot", bot_id="s1")
    assert (told.task_id, told.task_name) == ("", "")


async def test_of_several_tasks_the_one_that_has_been_running_longest(swarmd: Lab):
    bot = await open_bot(swarmd, "b1", slots=3)
    for name in ("first", "second", "third"):
        await swarmd.submit("make", name=name)
    offers = await bot.take(free=3)
    names = {}
    for told in (
        "",
        "third",
        "second",
        "first",
    ):  # the oldest offer; then they are started the other way round
        if told:
            bot.start(offers[("first", "second", "third").index(told)].attempt)
            await bot.sync()
            await swarmd.sleep(1)
        info = await ask(swarmd, "GetBot", bot_id="b1")
        names[told] = info.task_name
        [attempt] = [a for a in swarmd.daemon.engine.attempts.values() if run_id(a) == info.task_id]
        assert attempt.task == from_text(offers[("first", "second", "third").index(info.task_name)].task)
    assert names == {"": "first", "third": "third", "second": "third", "first": "third"}


async def test_the_name_of_a_task_that_others_share(swarmd: Lab):
    """Its own operation was withdrawn: the bot runs it for the one that stands."""
    bot = await open_bot(swarmd, "b1")
    mine = await swarmd.submit("make", name="mine", sameness="k", share="join")
    await swarmd.submit("make", name="yours", sameness="k", share="join")
    await bot.run_one()
    assert (await ask(swarmd, "GetBot", bot_id="b1")).task_name == "mine"
    await swarmd.client.cancel([mine], kill=True)
    assert (await ask(swarmd, "GetBot", bot_id="b1")).task_name == "yours"


async def test_a_bot_out_of_service(swarmd: Lab):
    await open_bot(swarmd, "b1")
    await swarmd.client.order_bot("b1", BotOrderRequest(quarantine="smells", maintenance="new fan"))
    told = await ask(swarmd, "GetBot", bot_id="b1")
    assert (told.quarantined, told.maintenance_msg, told.is_dead) == (True, "new fan", False)
    await swarmd.client.order_bot("b1", BotOrderRequest(quarantine=None, maintenance=""))
    told = await ask(swarmd, "GetBot", bot_id="b1")
    assert (told.quarantined, told.maintenance_msg) == (False, "under maintenance")


@pytest.mark.parametrize("protocol", ["native", "swarming"])
async def test_a_silent_bot_is_dead_and_comes_to_life_again(swarmd: Lab, protocol: str):
    bot: Any = await (open_bot(swarmd, "b1") if protocol == "native" else polling(swarmd, "b1"))
    before = await ask(swarmd, "GetBot", bot_id="b1")
    await swarmd.sleep((NATIVE_DEATH_S if protocol == "native" else DEATH_S) + 1)
    dead = await ask(swarmd, "GetBot", bot_id="b1")
    assert (dead.is_dead, dead.deleted, dead.session_id) == (True, False, "")
    assert dead.last_seen_ts == before.last_seen_ts and dead.dimensions == before.dimensions
    await bot.restart()
    alive = await ask(swarmd, "GetBot", bot_id="b1")
    assert not alive.is_dead and alive.first_seen_ts == before.first_seen_ts
    assert alive.last_seen_ts.seconds > dead.last_seen_ts.seconds


@pytest.mark.parametrize("protocol", ["native", "swarming"])
async def test_a_bot_that_a_task_ended(swarmd: Lab, protocol: str):
    """While it runs it is the bot's task; once the bot is gone it is what ended it, until the bot is back."""
    bot: Any = await (open_bot(swarmd, "b1") if protocol == "native" else polling(swarmd, "b1"))
    task = (await ask(swarmd, "TerminateBot", bot_id="b1")).task_id
    run = task[:-1] + "1"
    waiting = await ask(swarmd, "GetBot", bot_id="b1")
    assert (waiting.task_id, waiting.termination_task_id) == ("", "")
    assert await ids_of(swarmd, is_busy="TRUE") == ["b1"], "it takes nothing else"
    await (bot.sync() if protocol == "native" else bot.poll())
    ending = await ask(swarmd, "GetBot", bot_id="b1")
    assert (ending.task_id, ending.task_name, ending.termination_task_id) == (run, "Terminate b1", "")
    await (bot.close() if protocol == "native" else bot.confirm_end(run))
    ended = await ask(swarmd, "GetBot", bot_id="b1")
    assert (ended.is_dead, ended.task_id, ended.termination_task_id) == (True, "", task)
    await swarmd.restart(away_s=5)
    [ended] = (await ask(swarmd, "ListBots")).items
    assert ended.termination_task_id == task
    await bot.restart()
    assert (await ask(swarmd, "GetBot", bot_id="b1")).termination_task_id == ""


async def test_it_is_the_same_after_a_restart_of_the_daemon(swarmd: Lab):
    await open_bot(swarmd, "b1", slots=2, os="Linux")
    gone = await open_bot(swarmd, "b2")
    await gone.close()
    await polling(swarmd, "s1")
    before = await ask(swarmd, "ListBots")
    await swarmd.restart(away_s=30)
    after = await ask(swarmd, "ListBots")
    for old, new in zip(before.items, after.items, strict=True):
        for moment in ("first_seen_ts", "last_seen_ts"):  # an open session counts as seen
            assert abs(getattr(old, moment).seconds - getattr(new, moment).seconds) <= 40
            new.ClearField(moment)
            old.ClearField(moment)
        assert new == old


# --------------------------------------------------------------------- filters


async def lab_of_all_kinds(lab: Lab) -> None:
    """dead, drained, idle, quarantined, maintained, offered, running; all in pool `lab`, but for `idle`."""
    for id in ("dead", "drained", "quarantined", "maintained", "offered", "running"):
        bot = await open_bot(
            lab, id, pool=["lab", "night"], os=["Linux", "Debian" if len(id) > 6 else "Fedora"]
        )
        if id in ("offered", "running"):
            await lab.submit("make", dimensions={"id": id}, pool="lab")
            await (bot.take() if id == "offered" else bot.run_one())
        if id == "dead":
            await bot.close()
    await open_bot(lab, "idle", os=["Mac"])
    await lab.client.order_bot("drained", BotOrderRequest(drain=True))
    await lab.client.order_bot("quarantined", BotOrderRequest(quarantine="smells"))
    await lab.client.order_bot("maintained", BotOrderRequest(maintenance="new fan"))


ALL = ["dead", "drained", "idle", "maintained", "offered", "quarantined", "running"]
BUSY = ["drained", "maintained", "offered", "quarantined", "running"]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, ALL),
        (dimensions(pool="lab"), [id for id in ALL if id != "idle"]),
        (dimensions(pool="default"), ["idle"]),
        (dimensions(pool=["lab", "night"]), [id for id in ALL if id != "idle"]),
        (dimensions(pool=["lab", "default"]), []),
        (dimensions(pool="lab|default"), ALL),
        (dimensions(os="Debian|Mac"), ["drained", "idle", "maintained", "offered", "quarantined", "running"]),
        (
            dimensions(os=["Debian|Mac", "Linux"]),
            ["drained", "maintained", "offered", "quarantined", "running"],
        ),
        (dimensions(os=["Linux", "Linux"], pool="lab"), [id for id in ALL if id != "idle"]),
        (dimensions(os="Mac|Mac|Mac"), ["idle"]),
        (dimensions(id="idle|running|nobody"), ["idle", "running"]),
        (dimensions(os="linux"), []),
        (dimensions(gpu="none"), []),
        (dimensions(os="Linux|x:y"), [id for id in ALL if id != "idle"]),
    ],
)
async def test_filters_by_dimensions(swarmd: Lab, wanted, ids):
    await lab_of_all_kinds(swarmd)
    assert await ids_of(swarmd, dimensions=wanted or []) == ids
    assert (await ask(swarmd, "CountBots", dimensions=wanted or [])).count == len(ids)


async def test_filters_by_state(swarmd: Lab):
    await lab_of_all_kinds(swarmd)
    yes = {
        "quarantined": ["quarantined"],
        "in_maintenance": ["maintained"],
        "is_dead": ["dead"],
        "is_busy": BUSY,
    }
    for field, ids in yes.items():
        assert await ids_of(swarmd, **{field: "TRUE"}) == ids
        assert await ids_of(swarmd, **{field: "FALSE"}) == [id for id in ALL if id not in ids]
        assert await ids_of(swarmd, **{field: "NULL"}) == ALL
    assert await ids_of(swarmd, is_busy="TRUE", quarantined="FALSE", in_maintenance="FALSE") == [
        "drained", "offered", "running",
    ]  # fmt: skip
    assert await ids_of(swarmd, is_dead="FALSE", is_busy="FALSE", dimensions=dimensions(pool="lab")) == []
    count = await ask(swarmd, "CountBots")
    assert (count.count, count.dead, count.busy, count.quarantined, count.maintenance) == (7, 1, 5, 1, 1)
    count = await ask(swarmd, "CountBots", dimensions=dimensions(os="Mac"))
    assert (count.count, count.dead, count.busy, count.quarantined, count.maintenance) == (1, 0, 0, 0, 0)


async def test_a_bot_that_is_gone_and_in_quarantine_is_counted_as_each(swarmd: Lab):
    bot = await open_bot(swarmd, "b1")
    await swarmd.client.order_bot("b1", BotOrderRequest(quarantine="smells", maintenance="new fan"))
    await bot.close()
    count = await ask(swarmd, "CountBots")
    assert (count.count, count.dead, count.busy, count.quarantined, count.maintenance) == (1, 1, 1, 1, 1)


# --------------------------------------------------------------------- pages


async def pages(lab: Lab, limit: int, **fields: Any) -> list[list[str]]:
    found, cursor = [], ""
    while True:
        page = await ask(lab, "ListBots", limit=limit, cursor=cursor, **fields)
        found.append([bot.bot_id for bot in page.items])
        cursor = page.cursor
        assert bool(cursor) == (len(page.items) == limit)
        if not cursor:
            return found


async def test_pages_of_every_size(swarmd: Lab):
    ids = ["B", "a", "b-10", "b-2", "c"]
    for id in reversed(ids):
        await open_bot(swarmd, id)
    assert await pages(swarmd, 2) == [["B", "a"], ["b-10", "b-2"], ["c"]]
    assert await pages(swarmd, 1) == [[id] for id in ids] + [[]]
    assert await pages(swarmd, 5) == [ids, []], "a page that is full may be the last"
    assert await pages(swarmd, 6) == [ids] == await pages(swarmd, 1000)
    assert await pages(swarmd, 1, dimensions=dimensions(id="a|c")) == [["a"], ["c"], []]


async def test_without_a_limit_a_page_has_a_hundred(swarmd: Lab):
    with swarmd.daemon.step() as (engine, now):
        for number in range(1_002):
            engine.open_session(now, Newcomer(f"b{number:04}", "native", f"k{number}", "h", {}, (), 1))
    page = await ask(swarmd, "ListBots")
    assert len(page.items) == 100 and page.items[-1].bot_id == "b0099"
    assert [len(ids) for ids in await pages(swarmd, 1_000)] == [1_000, 2]


async def test_bots_that_come_and_go_between_pages(swarmd: Lab):
    """Each page is of bots behind the last one; what else happens does not matter, nor does a restart."""
    bots = {id: await open_bot(swarmd, id) for id in ("b1", "b2", "b3", "b4", "b5")}
    page = await ask(swarmd, "ListBots", limit=2)
    assert [bot.bot_id for bot in page.items] == ["b1", "b2"]
    for id in ("b2", "b3"):
        await bots[id].close()
        await ask(swarmd, "DeleteBot", bot_id=id)
    for id in ("a1", "b11", "b45"):
        await open_bot(swarmd, id)
    await swarmd.restart(away_s=5)
    page = await ask(swarmd, "ListBots", limit=2, cursor=page.cursor)
    assert [bot.bot_id for bot in page.items] == ["b4", "b45"]
    page = await ask(swarmd, "ListBots", limit=2, cursor=page.cursor)
    assert ([bot.bot_id for bot in page.items], page.cursor) == (["b5"], "")


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"limit": -1}, "limit is -1, expected 1 to 1000, or 0 for 100"),
        ({"limit": 1001}, "limit is 1001, expected"),
        ({"cursor": "?"}, "bad pagination cursor"),
        ({"cursor": cursor_text("events", "b1")}, "bad pagination cursor"),
        ({"quarantined": 3}, "quarantined is 3, expected NULL, FALSE or TRUE"),
        ({"in_maintenance": -1}, "in_maintenance is -1"),
        ({"is_dead": 7}, "is_dead is 7"),
        ({"is_busy": 1000}, "is_busy is 1000"),
    ],
)
async def test_a_list_that_cannot_be(swarmd: Lab, fields, text):
    assert (await refused(swarmd, "ListBots", **fields)).startswith(text)


@pytest.mark.parametrize("name", ["ListBots", "CountBots"])
@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ([{"key": "", "value": "a"}], "'' cannot be the name of a dimension"),
        ([{"key": "7up", "value": "a"}], "'7up' cannot be"),
        ([{"key": "k" * 65, "value": "a"}], "cannot be the name"),
        ([{"key": "os", "value": ""}], "'' cannot be a value of dimension os"),
        ([{"key": "os", "value": " Linux"}], "' Linux' cannot be"),
        ([{"key": "os", "value": "a||b"}], "'' cannot be"),
        ([{"key": "os", "value": "v" * 257}], "cannot be a value"),
        ([{"key": "os", "value": "a\0b"}], "cannot be a value"),
        ([{"key": "feature", "value": "noop"}], "dimension 'feature' is not told"),
        (dimensions(os=[f"v{n}" for n in range(33)]), "33 different dimensions; at most 32"),
        (dimensions(os=["Linux"] * 513), "513 dimensions; at most 512"),
        (dimensions(os="|".join("a" * 65)), "65 alternatives for dimension os; at most 64"),
    ],
)
async def test_a_filter_that_cannot_be(swarmd: Lab, name, wanted, text):
    said = await refused(swarmd, name, dimensions=wanted)
    assert text in said and "\0" not in said


async def test_many_equal_filters_are_one(swarmd: Lab):
    await open_bot(swarmd, "b1", os="Linux")
    wanted = dimensions(os=["Linux|Mac", "Mac|Linux"] * 256)
    assert await ids_of(swarmd, dimensions=wanted) == ["b1"]


@pytest.mark.parametrize("name", ["GetBot", "DeleteBot", "ListBotEvents"])
async def test_no_bot_is_named(swarmd: Lab, name):
    assert await refused(swarmd, name, INVALID_ARGUMENT) == "bot_id is required"


@pytest.mark.parametrize("name", ["GetBot", "DeleteBot"])
async def test_a_bot_that_nobody_knows(swarmd: Lab, name):
    assert await refused(swarmd, name, NOT_FOUND, bot_id="b7") == "no such bot: b7"
    assert await refused(swarmd, name, NOT_FOUND, bot_id="x" * 100_000) == "no such bot: " + "x" * 256
    assert await refused(swarmd, name, NOT_FOUND, bot_id="ä\0\n") == "no such bot: ä\0\n"


# --------------------------------------------------------------------- deleting


async def test_a_deleted_bot_is_known_from_its_history(swarmd: Lab):
    bot = await greeted(swarmd)
    await bot.poll()
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine="smells", maintenance="new fan"))
    await swarmd.sleep(20)
    await bot.event("bot_shutdown", "power off")
    seen = swarmd.daemon.clock.wall()
    await swarmd.sleep(1_000)
    assert (await ask(swarmd, "DeleteBot", bot_id="s1")).deleted
    assert await refused(swarmd, "DeleteBot", NOT_FOUND, bot_id="s1") == "no such bot: s1"
    assert await ids_of(swarmd) == [] and (await ask(swarmd, "CountBots")).count == 0
    told = await ask(swarmd, "GetBot", bot_id="s1")
    assert abs(told.last_seen_ts.seconds - seen) < 2
    told.ClearField("last_seen_ts")
    assert told == bots_pb2.BotInfo(
        bot_id="s1", authenticated_as="bot:s1", is_dead=True, deleted=True, version="1" * 64, quarantined=True,
        maintenance_msg="new fan",
    )  # fmt: skip
    await bot.restart()
    back = await ask(swarmd, "GetBot", bot_id="s1")
    assert not (back.deleted or back.is_dead or back.quarantined or back.maintenance_msg)
    assert back.first_seen_ts.seconds > told.last_seen_ts.seconds


async def test_a_deleted_bot_of_which_only_some_history_is_left(swarmd: Lab):
    """Whatever is the newest of it."""
    await (await open_bot(swarmd, "b1")).close()
    await ask(swarmd, "DeleteBot", bot_id="b1")
    await swarmd.sleep(100)
    with swarmd.daemon.step() as (engine, now):
        engine.emit(now, "task", bot=BotId("b1"))
    told = await ask(swarmd, "GetBot", bot_id="b1")
    assert told.deleted and told.last_seen_ts.seconds == WALL + 100


async def test_a_bot_that_is_connected_stays(swarmd: Lab):
    """It would be back with its next call, and what it runs lost."""
    bot = await open_bot(swarmd, "b1")
    id = await swarmd.submit("make")
    await bot.run_one()
    request = bots_pb2.BotRequest(bot_id="b1")
    answer = await call(swarmd.url, f"{BOTS}/DeleteBot", request)
    assert (
        fault(answer, *FAILED_PRECONDITION) == "bot b1 is connected; terminate it first: swarmd terminate b1"
    )
    assert answer.headers["x-swarmd-code"] == "bot_connected"
    await swarmd.check_state(id, "RUNNING")
    assert await ids_of(swarmd) == ["b1"]


# --------------------------------------------------------------------- dimensions of all


async def dimensions_in(lab: Lab, pool: str = "") -> dict[str, list[str]]:
    told = await ask(lab, "GetBotDimensions", pool=pool)
    assert abs(told.ts.seconds - lab.daemon.clock.wall()) < 2
    found = {pair.key: list(pair.value) for pair in told.bots_dimensions}
    assert list(found) == sorted(found) and len(found) == len(told.bots_dimensions)
    return found


async def test_dimensions_of_all_bots(swarmd: Lab):
    assert await dimensions_in(swarmd) == await dimensions_in(swarmd, "lab") == {}
    await open_bot(swarmd, "b1", pool=["lab", "night"], os=["Linux", "Debian"], gpu="a100")
    await (await open_bot(swarmd, "b2", pool="lab", os=["Linux", "Arch"])).close()
    await open_bot(swarmd, "b3", os="Mac")
    assert await dimensions_in(swarmd) == {
        "gpu": ["a100"], "os": ["Arch", "Debian", "Linux", "Mac"], "pool": ["default", "lab", "night"],
    }  # fmt: skip
    assert await dimensions_in(swarmd, "lab") == {
        "gpu": ["a100"], "os": ["Arch", "Debian", "Linux"], "pool": ["lab", "night"],
    }  # fmt: skip
    assert await dimensions_in(swarmd, "default") == {"os": ["Mac"], "pool": ["default"]}
    assert await dimensions_in(swarmd, "nobody's") == {}


# --------------------------------------------------------------------- who may, and when it is told


def test_who_may_read_and_who_may_delete():
    verbs = {method.name: method.verb for method in METHODS if method.service == BOTS}
    assert {verbs[name] for name in (*READS, "DeleteBot")} == {Verb.READ, Verb.OPERATE}
    assert [name for name in (*READS, "DeleteBot") if verbs[name] is Verb.OPERATE] == ["DeleteBot"]


READS = {
    "GetBot": {"bot_id": "b1"}, "ListBots": {}, "CountBots": {}, "GetBotDimensions": {},
    "ListBotEvents": {"bot_id": "b1"},
}  # fmt: skip


@pytest.mark.parametrize("name", [*READS, "unknown", "deleted", "DeleteBot", "deleted already"])
async def test_nothing_is_told_that_is_not_in_the_file(name, autojump_clock):
    """A bot came whose session is not committed yet: no byte that tells of it leaves."""
    async with running(config=Config(), tcp=False) as daemon:
        newcomer = Newcomer("b1", "native", "key of b1", "h", {}, (), 1)
        other = Newcomer("b2", "native", "key of b2", "h", {}, (), 1)
        with daemon.daemon.step() as (engine, now):
            opened = engine.open_session(now, newcomer)
            engine.close_session(now, opened.session, "bye")
            if name == "deleted":
                engine.delete_bot(now, BotId("b1"))
        await daemon.daemon.settled()
        fields = READS.get(name, {"bot_id": "b1"})
        method = {"unknown": "GetBot", "deleted": "GetBot", "deleted already": "DeleteBot"}.get(name, name)
        if name == "unknown":
            fields = {"bot_id": "nobody"}
        body = types_of(method)[0](**fields).SerializeToString()
        with daemon.daemon.writer.hold_commits():
            with daemon.daemon.step() as (engine, now):
                engine.open_session(now, other)
                if name == "deleted already":
                    engine.delete_bot(now, BotId("b1"))
            stream = await connect(daemon.url)
            await stream.send_all(
                head("POST", f"/prpc/{BOTS}/{method}", (BINARY, ("Content-Length", str(len(body))))) + body
            )
            with trio.move_on_after(5) as scope:
                await stream.receive_some(1)
            assert scope.cancelled_caught, f"{name} told before the commit"
        answer = await read_answer(stream, "POST")
        assert answer.headers["x-prpc-grpc-code"] == ("5" if name in ("unknown", "deleted already") else "0")
        assert answer.headers["content-type"] in (Encoding.BINARY.value, "text/plain; charset=utf-8")
