"""Every code that the service Bots answers with, and the words that its bots know. Source: protocol reference, status
codes of Bots. What the transport answers (UNAUTHENTICATED, RESOURCE_EXHAUSTED) is tested with it."""

from __future__ import annotations

from math import inf

import pytest
import trio

from swarmd.api.remoteworkers.leases import MOST_NAMED
from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.api.rpc import Code, RpcError
from swarmd.daemon.daemon import NO_SPACE_WAIT_S
from swarmd.testing import Lab

from .worlds import CONFIG, KEEP_ALIVE_S, Timed, came, kinds_of, one, refused, session_of, with_rules

pytestmark = pytest.mark.swarmd(config=CONFIG)
SETS = [{"OSFamily": ["linux"]}, {"OSFamily": ["macos"], "ISA": ["arm-a64"]}]
NOBODY = "lab/00000000-0000-4000-8000-000000000000"


# ------------------------------------------------------------------ who comes


async def test_a_bot_without_an_id(swarmd: Lab):
    bot = swarmd.remote_bot("x", instance="lab")
    bot.session.bot_id = ""
    async with refused(Code.INVALID_ARGUMENT, "Bots's id must be set by client."):
        await bot.create()


async def test_an_instance_that_is_not_configured(swarmd: Lab):
    async with refused(Code.INVALID_ARGUMENT, "Invalid instance name: [nope]"):
        await came(swarmd, instance="nope")
    async with refused(
        Code.INVALID_ARGUMENT, "Invalid instance name: [nope]; configured: [], [lab], [lab/east]"
    ):
        await came(swarmd, instance="nope")
    bot = await came(swarmd)
    bot.session.name = "nope/" + bot.session.name.rpartition("/")[2]
    async with refused(Code.INVALID_ARGUMENT, "Invalid instance name: [nope]"):
        await bot.update()


async def test_an_unknown_instance_is_told_before_a_missing_id(swarmd: Lab):
    bot = swarmd.remote_bot("x", instance="nope")
    bot.session.bot_id = ""
    async with refused(Code.INVALID_ARGUMENT, "Invalid instance name: [nope]"):
        await bot.create()


@pytest.mark.parametrize("id", [" blanks around ", "a\x00b", "x" * 257])
async def test_an_id_that_no_bot_can_have(swarmd: Lab, id: str):
    async with refused(Code.INVALID_ARGUMENT, ""):
        await came(swarmd, id)
    assert [bot.id for bot in await swarmd.client.bots().all()] == []


async def test_an_id_that_a_bot_of_another_protocol_has(swarmd: Lab):
    await swarmd.bot("w1").open()
    async with refused(Code.FAILED_PRECONDITION, "bot w1 has an open native session"):
        await came(swarmd)


@pytest.mark.parametrize("call", ["create", "update"])
async def test_a_capacity_that_is_no_number(swarmd: Lab, call: str):
    bot = await came(swarmd)
    bot.session.worker.configs.add(key="capacity", value="many")
    async with refused(Code.INTERNAL, "invalid literal for int() with base 10: 'many'"):
        await (bot.create() if call == "create" else bot.update())


async def test_a_version_that_is_no_number(swarmd: Lab):
    bot = await came(swarmd)
    bot.session.version = "1.0.3"
    async with refused(Code.INTERNAL, "invalid literal for int() with base 10: '1.0.3'"):
        await bot.update()
    for digits, begins in (
        (20, "version '9999999"),
        (4_300, "version '9999999"),
        (5_000, "Exceeds the limit"),
    ):
        bot.session.version = "9" * digits
        bot.session.leases.add(id="x", state=4)
        async with refused(Code.INTERNAL, begins):
            await bot.update()
        del bot.session.leases[:]
    bot.session.version = " 0 "  # for Python that is a number
    await bot.update()


@pytest.mark.swarmd(config=with_rules(property_sets=SETS))
async def test_a_bot_that_is_like_none_that_may_come(swarmd: Lab):
    for properties in ([], [("OSFamily", "macos")], [("OSFamily", "windows"), ("ISA", "arm-a64")]):
        async with refused(Code.FAILED_PRECONDITION, "Could not find property set for "):
            await came(swarmd, properties=properties)
    for properties in (
        [("OSFamily", "linux")],
        [("ISA", "arm-a64"), ("OSFamily", "macos"), ("OSFamily", "x")],
    ):
        await came(swarmd, properties=properties)


# ------------------------------------------------------------------ whose session it is


async def test_a_request_that_names_another_session_than_its_own(swarmd: Lab):
    bot = await came(swarmd)
    request = bots_pb2.UpdateBotSessionRequest(name=NOBODY, bot_session=bot.session)
    async with refused(Code.INVALID_ARGUMENT, "Name in UpdateBotSessionRequest does not match BotSession. "):
        await bot.call("UpdateBotSession", request)


async def test_a_session_that_never_was(swarmd: Lab):
    bot = swarmd.remote_bot("ghost", instance="lab")
    bot.session.name = NOBODY
    about = (
        "{'instance_name': 'lab', 'request.bot_id': 'ghost', 'request.bot_status': 1, "
        f"'request.bot_name': '{NOBODY}', 'request.capacity': 1}}"
    )
    async with refused(Code.INVALID_ARGUMENT, f"Bot does not exist while validating leases. {about}"):
        await bot.update()


async def test_a_session_that_expired(swarmd: Lab):
    bot = await came(swarmd)
    await swarmd.sleep(KEEP_ALIVE_S + 0.1)
    async with refused(Code.INVALID_ARGUMENT, "Bot does not exist while validating leases. "):
        await bot.update()
    await bot.create()
    await bot.update()


async def test_a_session_of_another_instance(swarmd: Lab):
    bot = await came(swarmd)
    bot.session.name = "lab/east/" + bot.session.name.rpartition("/")[2]
    async with refused(Code.INVALID_ARGUMENT, "Bot does not exist while validating leases. "):
        await bot.update()


async def test_a_session_that_a_newer_one_of_the_same_bot_has_replaced(swarmd: Lab):
    older = await came(swarmd)
    newer = await came(swarmd)
    begins = (
        "Mismatch between client supplied bot_id/bot_name and buildgrid database record. "
        f"db.bot_name=[{newer.session.name}] "
    )
    async with refused(Code.INVALID_ARGUMENT, begins):
        await older.update()
    await newer.update()


async def test_a_session_that_is_replaced_while_its_call_is_held(swarmd: Lab):
    older = await came(swarmd)

    async def wait():
        async with refused(Code.INVALID_ARGUMENT, "Mismatch between client supplied bot_id/bot_name"):
            await older.update(deadline_s=15)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await swarmd.sleep(1)
        newer = await came(swarmd)
    await newer.update()


async def test_a_session_that_disappears_while_its_call_is_held(swarmd: Lab):
    bot = await came(swarmd)

    async def wait():
        async with refused(Code.DATA_LOSS, "Bot not found to fetch expiry. "):
            await bot.update(deadline_s=15)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await swarmd.sleep(1)
        [session] = swarmd.daemon.engine.sessions
        with swarmd.daemon.step() as (engine, now):
            engine.close_session(now, session, "the test says so")


# ------------------------------------------------------------------ what it says of its leases


@pytest.mark.parametrize(
    ("state", "begins"),
    [
        (5, "Illegal attempt from session to set state as cancelled. "),
        (1, "Unsupported lease state transition. "),
        (0, "Unsupported lease state transition. "),
        (3, "Unsupported lease state transition. "),
    ],
)
async def test_a_lease_in_a_state_that_it_cannot_have_come_to(swarmd: Lab, state: int, begins: str):
    bot, id, lease = await one(swarmd, bot_retries=1)
    bot.session.version = "0"  # not the newest
    bot.lease(lease).state = state
    async with refused(Code.DATA_LOSS, begins):
        await bot.update()
    await swarmd.check_state(id, "PENDING")
    await swarmd.check_attempts(id, "LOST")
    async with refused(Code.INVALID_ARGUMENT, "Bot does not exist while validating leases. "):
        await bot.update()
    assert (await kinds_of(swarmd))[-1] == "bot.disconnected"


async def test_a_lease_that_was_given_as_active_is_not_pending(swarmd: Lab):
    bot, id, lease = await one(swarmd, started=False)
    bot.session.version = ""
    bot.lease(lease).state = 1
    async with refused(Code.DATA_LOSS, "Unsupported lease state transition. "):
        await bot.update()
    await swarmd.check_attempts(id, "DROPPED")


@pytest.mark.parametrize("state", [5, 1, 0, 3])
async def test_who_knows_the_newest_revision_is_not_judged_but_set_right(swarmd: Lab, state: int):
    bot, id, lease = await one(swarmd)
    bot.lease(lease).state = state
    await bot.update()
    assert [known.state for known in bot.leases] == [2]
    await swarmd.check_state(id, "RUNNING")


async def test_the_end_of_one_lease_counts_though_another_one_is_in_a_state_that_cannot_be(swarmd: Lab):
    ids = await swarmd.submit_many(2, "make", bot_retries=1)
    bot = await came(swarmd, capacity=2)
    done, odd = (lease.id for lease in bot.leases)
    await bot.update()
    bot.complete(done)
    bot.lease(odd).state = 5
    bot.session.version = ""
    async with refused(Code.DATA_LOSS, "Illegal attempt"):
        await bot.update()
    await swarmd.check_state(ids[0], "COMPLETED")
    await swarmd.check_state(ids[1], "PENDING")


async def test_more_leases_than_any_bot_has_are_not_looked_at(swarmd: Lab):
    """Two bytes make a lease, so that a message may have eight million: they took the daemon nine seconds."""
    bot = await came(swarmd)
    name = bot.session.name
    for _ in range(MOST_NAMED + 1):
        bot.session.leases.add()
    for call in (bot.update, bot.create):
        async with refused(Code.INVALID_ARGUMENT, f"it names {MOST_NAMED + 1} leases; at most {MOST_NAMED}"):
            await call()
    bot.session.name = name
    del bot.session.leases[0]
    await bot.update()
    assert len(swarmd.daemon.engine.sessions) == 1


# ------------------------------------------------------------------ when the daemon cannot


async def test_a_full_disk_tells_when_to_try_again(swarmd: Lab, monkeypatch):
    from google.rpc import error_details_pb2

    bot = swarmd.remote_bot("w1", instance="lab")
    monkeypatch.setattr(swarmd.daemon.writer, "out_of_space", True)
    with pytest.raises(RpcError) as caught:
        await bot.create()
    assert caught.value.code is Code.UNAVAILABLE
    [told] = caught.value.details
    assert isinstance(told, error_details_pb2.RetryInfo)
    assert 25 <= told.retry_delay.ToMilliseconds() / 1000 <= 35


@pytest.mark.parametrize(("deadline_s", "told_after_s"), [(5, 4.5), (inf, NO_SPACE_WAIT_S)])
async def test_a_disk_that_is_full_is_told_before_the_deadline(
    swarmd: Lab, monkeypatch, deadline_s: float, told_after_s: float
):
    bot = await came(swarmd)
    await swarmd.submit("make")
    monkeypatch.setattr(swarmd.daemon.writer, "out_of_space", True)
    with swarmd.hold_commits(), Timed() as took:
        async with refused(Code.UNAVAILABLE, "the disk is full"):
            await bot.update(deadline_s=deadline_s)
    assert took.s == pytest.approx(told_after_s, abs=0.01)


# ------------------------------------------------------------------ PostBotEventTemp


@pytest.mark.parametrize("name", ["", NOBODY, "nope/x"])
async def test_events_are_not_implemented_for_any_name(swarmd: Lab, name: str):
    bot = swarmd.remote_bot("w1")
    bot.session.name = name
    with pytest.raises(RpcError) as caught:
        await bot.post(1, "hello")
    assert (caught.value.code, caught.value.message) == (Code.UNIMPLEMENTED, "")


@pytest.mark.swarmd(config={"remoteworkers": {"events": True}})
async def test_events_are_kept_where_the_configuration_says_so(swarmd: Lab):
    bot = await came(swarmd, instance="")
    await bot.post(1, "all is well")
    await bot.post(2, "it is not")
    await bot.post(7, "who knows")
    told = [(e.kind, e.detail) async for e in swarmd.client.bot_events("w1") if e.kind != "bot.connected"]
    assert told[::-1] == [
        ("bot.log", {"message": "all is well"}),
        ("bot.error", {"message": "it is not"}),
        ("bot.log", {"message": "who knows"}),
    ]
    stranger = session_of(bot)
    bot.session.name = "/" + NOBODY.rpartition("/")[2]
    async with refused(Code.INVALID_ARGUMENT, "there is no session"):
        await bot.post(1, "hello")
    bot.session.CopyFrom(stranger)
