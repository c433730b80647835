"""The history of a bot as Swarming clients see it."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.proto import bots_pb2
from swarmd.api.swarming.services.common import cursor_text
from swarmd.client import BotOrderRequest
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import BotId
from swarmd.testing import Lab
from swarmd.testing.harness import WALL
from tests.api.swarming.services.asking import INVALID_ARGUMENT, ask, refused
from tests.api.swarming.worlds import greeted, polling, stranger

Event = bots_pb2.BotEventResponse


async def events_of(lab: Lab, bot: str, **fields: Any) -> list[Event]:
    """All that is told of a bot, oldest first."""
    return list((await ask(lab, "ListBotEvents", bot_id=bot, limit=1_000, **fields)).items)[::-1]


async def types_of(lab: Lab, bot: str) -> list[str]:
    return [event.event_type for event in await events_of(lab, bot)]


async def texts_of(lab: Lab, bot: str) -> list[tuple[str, str]]:
    return [(event.event_type, event.message) for event in await events_of(lab, bot)]


# --------------------------------------------------------------------- what is told


async def test_the_day_of_a_swarming_bot(swarmd: Lab):
    bot = await greeted(swarmd)
    session = to_text(swarmd.daemon.engine.bots["s1"].session.id)
    id = task_id(from_text(await swarmd.submit("make")))[:-1] + "1"
    await swarmd.sleep(1)
    task = await bot.take()
    await task.start()
    await swarmd.sleep(10)
    await task.end(3)
    await bot.event("bot_error", "no space left")
    await bot.event("bot_log", "hello")
    await swarmd.sleep(1)
    await bot.event("bot_rebooting", "now and then")

    def event(
        after_s: float, type: str, message: str = "", task_id: str = "", session: str = session
    ) -> Event:
        told = Event(
            event_type=type, message=message, task_id=task_id, session_id=session, authenticated_as="bot:s1",
            version="1" * 64,
        )  # fmt: skip
        told.ts.FromMicroseconds(int((WALL + after_s) * 1e6))
        return told

    assert await events_of(swarmd, "s1") == [
        event(0, "bot_connected"),
        event(1, "request_task", "", id),
        event(11, "task_completed", "", id),
        event(11, "bot_error", "no space left"),
        event(11, "bot_log", "hello"),
        event(12, "bot_rebooting", "now and then"),
        event(12, "bot_log", "bot_rebooting: now and then"),
    ]


async def test_a_bot_that_falls_silent_and_comes_back(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.submit("make", bot_retries=0)
    task = await bot.take()
    await task.start()
    await swarmd.sleep(1_000)
    await bot.restart()
    told = await events_of(swarmd, "s1")
    assert [(e.event_type, e.message) for e in told] == [
        ("bot_connected", ""),
        ("request_task", ""),
        ("task_error", "its bot s1 is gone: silent for 300 s"),
        ("bot_missing", "silent for 300 s"),
        ("bot_connected", ""),
    ]
    first, second = told[0].session_id, told[-1].session_id
    assert [e.session_id for e in told] == [first] * 4 + [second] and first != second


async def test_a_newer_process_takes_the_place_of_an_older_one(swarmd: Lab):
    await polling(swarmd)
    await stranger(swarmd).handshake()
    assert await texts_of(swarmd, "s1") == [
        ("bot_connected", ""), ("bot_log", "replaced by a new session of the same bot"), ("bot_connected", ""),
    ]  # fmt: skip


async def test_a_native_bot_says_goodbye(swarmd: Lab):
    bot = swarmd.bot("b1")
    opened = await bot.open()
    await bot.close()
    told = await events_of(swarmd, "b1")
    assert [(e.event_type, e.message, e.session_id) for e in told] == [
        ("bot_connected", "", opened.session), ("bot_shutdown", "closed by its bot", opened.session),
    ]  # fmt: skip


async def test_every_way_in_which_a_task_leaves_its_bot(swarmd: Lab):
    """declined, given back, canceled before it began, ended well, killed, out of time, not to be started."""
    bot = swarmd.bot("b1", slots=8)
    await bot.open()
    named = {}
    for name in ("given back", "canceled", "ok", "killed", "late", "wrong", "lost"):
        named[await swarmd.submit("make", retries=0, bot_retries=0)] = name
    offers = {named[offer.task]: offer for offer in await bot.take(free=7)}
    for name in ("ok", "killed", "late", "wrong", "lost"):
        bot.start(offers[name].attempt)
    await bot.sync()
    await swarmd.client.cancel([offers["canceled"].task])
    await swarmd.client.cancel([offers["killed"].task], kill=True)
    named[await swarmd.submit("make", retries=0, bot_retries=0)] = "declined"
    [offers["declined"]] = await bot.take(free=1)
    bot.decline(offers["declined"].attempt)
    bot.decline(offers["given back"].attempt)
    bot.finish(offers["ok"].attempt, 1)
    bot.finish(offers["killed"].attempt, -15)
    bot.finish(offers["late"].attempt, -15, timed_out="hard_limit")
    bot.finish(offers["wrong"].attempt, None, ok=False, client_error=True, reason="no such program")
    bot.running.pop(offers["lost"].attempt)
    await bot.sync(free=0)
    names = {task_id(from_text(offer.task))[:-1]: name for name, offer in offers.items()}
    ends = {
        names[e.task_id[:-1]]: (e.event_type, e.message) for e in await events_of(swarmd, "b1") if e.task_id
    }
    lost = ends.pop("lost")
    assert ends == {
        "declined": ("task_error", "never started: declined by its bot"),
        "given back": ("task_killed", "never started: given back by its bot"),
        "canceled": ("task_killed", "never started: canceled by its submitter"),
        "ok": ("task_completed", ""),
        "killed": ("task_killed", ""),
        "late": ("task_completed", "hard_limit"),
        "wrong": ("task_error", "no such program"),
    }
    assert lost[0] == "task_error" and lost[1]


async def test_a_swarming_bot_that_fails_at_a_task(swarmd: Lab):
    """What it says is told, also when the task is not its own any more; that the run ended, once."""
    bot = await polling(swarmd)
    await swarmd.submit("make", bot_retries=0)
    task = await bot.take()
    await task.start()
    await task.fail("no disk")
    await task.fail("no disk")
    assert (await texts_of(swarmd, "s1"))[2:] == [
        ("bot_log", "no disk"), ("task_error", "no disk"), ("bot_log", "no disk"),
    ]  # fmt: skip


async def test_what_people_order(swarmd: Lab):
    bot = await polling(swarmd)
    for order in ("restart", "update", None, "update"):
        await swarmd.client.order_bot("s1", BotOrderRequest(order=order))
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine="smells"))
    await swarmd.client.order_bot("s1", BotOrderRequest(maintenance="new fan", drain=True))
    await bot.restart()
    await swarmd.client.order_bot("s1", BotOrderRequest(order="update"))
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine=None, maintenance=None))
    await swarmd.client.order_bot("s1", BotOrderRequest(drain=False))
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    told = await events_of(swarmd, "s1")
    assert [(e.event_type, e.message) for e in told] == [
        ("bot_connected", ""),
        ("request_restart", "told to restart"),
        ("request_update", "told to update"),
        ("bot_log", "takes work"),
        ("request_update", "told to update"),
        ("bot_log", "in quarantine: smells"),
        ("bot_log", "in quarantine: smells; under maintenance: new fan; draining"),
        ("bot_log", "replaced by a new session of the same bot"),
        ("bot_connected", ""),
        ("request_update", "told to update"),
        ("bot_log", "draining"),
        ("bot_log", "takes work"),
        ("bot_terminate", "told to terminate"),
    ]
    assert [e.quarantined for e in told] == [False] * 5 + [True] * 5 + [False] * 3
    assert [e.maintenance_msg for e in told] == [""] * 6 + ["new fan"] * 4 + [""] * 3


async def test_an_order_stands_until_it_is_carried_out(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    await bot.event("bot_rebooting", "as told")
    await swarmd.client.order_bot("s1", BotOrderRequest(drain=True))
    await bot.restart()
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    await bot.event("bot_shutdown", "as told")
    await bot.restart()
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    assert [type for type in await types_of(swarmd, "s1") if type.startswith(("request", "bot_term", "bot_log"))] == [
        "request_restart", "bot_log", "bot_log", "request_restart", "bot_terminate", "bot_log", "bot_terminate",
    ]  # fmt: skip


async def test_a_task_that_ends_its_bot(swarmd: Lab):
    bot = await polling(swarmd)
    id = (await ask(swarmd, "TerminateBot", bot_id="s1", reason="swap disk")).task_id
    told = await bot.poll()
    await bot.confirm_end(told["task_id"])
    await bot.event("bot_shutdown", "Signal was received")
    events = await events_of(swarmd, "s1")
    assert [(e.event_type, e.message) for e in events] == [
        ("bot_connected", ""),
        ("bot_terminate", ""),
        ("task_completed", ""),
        ("bot_shutdown", "it ended itself, as a task told it"),
        ("bot_shutdown", "Signal was received"),
    ]
    run = id[:-1] + "1"
    assert [e.task_id for e in events] == ["", run, run, "", ""]


async def test_what_another_version_wrote_of_bots_can_be_told(swarmd: Lab):
    await polling(swarmd)
    with swarmd.daemon.step() as (engine, now):
        engine.bot_tells(now, "s1", "bot.sang", "la la la")
        for kind in ("bot.danced", "bot.changed", "bot.disconnected", "bot.connected"):
            engine.emit(now, kind, bot=BotId("s1"))
        engine.emit(now, "bot.changed", bot=BotId("s1"), detail={"order": "dance"})
    assert (await texts_of(swarmd, "s1"))[1:] == [
        ("bot_log", "la la la"), ("bot_log", ""), ("bot_log", "takes work"), ("bot_shutdown", ""),
        ("bot_connected", ""), ("bot_log", "told to dance"),
    ]  # fmt: skip


async def test_the_history_of_a_deleted_bot_and_of_its_successor(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine="smells"))
    await bot.event("bot_shutdown", "bye")
    await ask(swarmd, "DeleteBot", bot_id="s1")
    bot.version = "2" * 64
    await bot.restart()
    told = await events_of(swarmd, "s1")
    assert [(e.event_type, e.quarantined, e.version[:1]) for e in told] == [
        ("bot_connected", False, "1"),
        ("bot_log", True, "1"),
        ("bot_shutdown", True, "1"),
        ("bot_log", True, "1"),
        ("bot_deleted", True, "1"),
        ("bot_connected", False, "2"),
    ]


async def test_nobody_has_no_history(swarmd: Lab):
    told = await ask(swarmd, "ListBotEvents", bot_id="nobody")
    assert (list(told.items), told.cursor, told.now.seconds) == ([], "", WALL)


# --------------------------------------------------------------------- pages


async def eventful(lab: Lab, rounds: int = 10) -> int:
    """A bot with a long task, short ones, orders and entries of its log; how many events that makes."""
    bot = lab.bot("b1", slots=2)
    await bot.open()
    await lab.submit("long")
    await bot.run_one()
    for number in range(rounds):
        await lab.sleep(5)
        await lab.submit("short")
        offer = await bot.run_one()
        await lab.client.order_bot("b1", BotOrderRequest(quarantine=f"{number}"))
        await lab.sleep(5)
        await lab.client.order_bot("b1", BotOrderRequest(quarantine=None))
        bot.finish(offer.attempt)
        await bot.sync()
    return len(await events_of(lab, "b1"))


async def test_pages_are_together_what_one_page_is(swarmd: Lab):
    """Also what each event tells of the bot: that was perhaps said pages before it."""
    count = await eventful(swarmd)
    assert count > 30
    whole = (await ask(swarmd, "ListBotEvents", bot_id="b1", limit=1_000)).items
    assert [e.ts.ToNanoseconds() for e in whole] == sorted(
        (e.ts.ToNanoseconds() for e in whole), reverse=True
    )
    assert {e.quarantined for e in whole} == {True, False}
    for limit in (1, 3, 7, count):
        found: list[Event] = []
        cursor = ""
        while True:
            page = await ask(swarmd, "ListBotEvents", bot_id="b1", limit=limit, cursor=cursor)
            found += page.items
            cursor = page.cursor
            assert bool(cursor) == (len(page.items) == limit)
            if not cursor:
                break
        assert found == list(whole), limit


async def test_what_happens_meanwhile_changes_no_later_page(swarmd: Lab):
    """Nor does a restart in between."""
    bot = swarmd.bot("b1")
    await bot.open()
    await swarmd.submit("long")
    offer = await bot.run_one()
    for number in range(9):
        await swarmd.client.order_bot("b1", BotOrderRequest(quarantine=f"{number}"))
    whole = (await ask(swarmd, "ListBotEvents", bot_id="b1")).items
    first = await ask(swarmd, "ListBotEvents", bot_id="b1", limit=4)
    bot.finish(offer.attempt)
    await bot.sync()
    await swarmd.client.order_bot("b1", BotOrderRequest(quarantine=None))
    await swarmd.restart(away_s=5)
    second = await ask(swarmd, "ListBotEvents", bot_id="b1", limit=1_000, cursor=first.cursor)
    assert [*first.items, *second.items] == list(whole)
    assert len((await ask(swarmd, "ListBotEvents", bot_id="b1")).items) == len(whole) + 2


async def test_a_span_begins_with_its_start_and_ends_before_its_end(swarmd: Lab):
    await eventful(swarmd, rounds=4)
    whole = list((await ask(swarmd, "ListBotEvents", bot_id="b1", limit=1_000)).items)
    moments = {e.ts.ToNanoseconds(): e.ts for e in whole}
    assert len(moments) == 9
    for start in moments:
        for end in moments:
            told = await ask(
                swarmd, "ListBotEvents", bot_id="b1", start=moments[start], end=moments[end], limit=1_000
            )
            assert list(told.items) == [e for e in whole if start <= e.ts.ToNanoseconds() < end]
        told = await ask(swarmd, "ListBotEvents", bot_id="b1", start=moments[start], limit=1_000)
        assert list(told.items) == [e for e in whole if start <= e.ts.ToNanoseconds()]
    told = await ask(swarmd, "ListBotEvents", bot_id="b1", end=moments[start], limit=1_000)
    assert list(told.items) == [e for e in whole if e.ts.ToNanoseconds() < start]


async def test_a_hundred_events_without_a_limit(swarmd: Lab):
    await swarmd.bot("b1").open()
    with swarmd.daemon.step() as (engine, now):
        for number in range(150):
            engine.bot_tells(now, "b1", "bot.log", f"{number}")
    page = await ask(swarmd, "ListBotEvents", bot_id="b1")
    assert [e.message for e in page.items] == [f"{n}" for n in range(149, 49, -1)]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"limit": 1_001}, "limit is 1001, expected 1 to 1000, or 0 for 100"),
        ({"limit": -5}, "limit is -5"),
        ({"cursor": "bad"}, "bad pagination cursor"),
        ({"cursor": cursor_text("bots", "b1")}, "bad pagination cursor"),
        ({"cursor": cursor_text("events", "b1")}, "bad pagination cursor"),
        ({"cursor": cursor_text("events", "zzzzzzzzzzzzz")}, "bad pagination cursor"),
        ({"start": {"seconds": 1 << 40}}, "no moment has 1099511627776 seconds"),
        ({"end": {"seconds": 7, "nanos": -1}}, "no moment has 7 seconds and -1 nanos"),
    ],
)
async def test_a_history_that_cannot_be(swarmd: Lab, fields, text):
    assert (await refused(swarmd, "ListBotEvents", INVALID_ARGUMENT, bot_id="b1", **fields)).startswith(text)


async def test_any_span_of_time_may_be_asked_for(swarmd: Lab):
    await swarmd.bot("b1").open()
    told = await ask(
        swarmd,
        "ListBotEvents",
        bot_id="b1",
        start={"seconds": -62_135_596_800},
        end={"seconds": 253_402_300_799},
    )
    assert [e.event_type for e in told.items] == ["bot_connected"]
    told = await ask(swarmd, "ListBotEvents", bot_id="b1", start={"seconds": 9}, end={"seconds": 5})
    assert list(told.items) == []
