"""A conversation as it was captured from BuildGrid 0.4.4, field by field; what a lease carries is a command here.

Source: protocol reference, golden examples. Times, session names and lease ids are the daemon's own.
"""

from __future__ import annotations

import pytest
import trio
from google.protobuf import text_format

from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.api.rpc import Code
from swarmd.testing import Lab, RemoteBot

from .worlds import CONFIG, KEEP_ALIVE_S, LINUX, Timed, refused

pytestmark = pytest.mark.swarmd(config=CONFIG)
WORKER = """
worker {
  devices {
    handle: "primary"
    properties { key: "OSFamily" value: "linux" }
    properties { key: "ISA" value: "x86-64" }
  }
}
"""


def bot_a(lab: Lab) -> RemoteBot:
    bot = lab.remote_bot("bot-a", instance="lab", properties=LINUX)
    assert bot.session == text_format.Parse(f'bot_id: "bot-a" status: OK {WORKER}', bots_pb2.BotSession())
    return bot


def check(lab: Lab, answer: bots_pb2.BotSession, text: str) -> None:
    """The answer is this text, with the moment at which it expires."""
    expected = text_format.Parse(
        f'name: "{answer.name}" bot_id: "bot-a" status: OK {WORKER} {text}', bots_pb2.BotSession()
    )
    expires = lab.daemon.clock.wall() + KEEP_ALIVE_S
    assert answer.expire_time.ToNanoseconds() == pytest.approx(expires * 1e9, abs=2e6)
    expected.expire_time.CopyFrom(answer.expire_time)
    assert answer == expected


async def test_the_captured_conversation(swarmd: Lab):
    bot = bot_a(swarmd)
    with Timed() as took:
        answer = await bot.create(deadline_s=5)
    assert took.s == pytest.approx(4, abs=0.01)
    assert answer.name.startswith("lab/") and answer.name == bot.session.name
    check(swarmd, answer, "")

    with Timed() as took:
        answer = await bot.update(deadline_s=5)
    assert took.s == pytest.approx(4, abs=0.01)
    check(swarmd, answer, 'version: "0"')
    with Timed() as took:
        answer = await bot.update(deadline_s=3)
    assert took.s < 0.01
    check(swarmd, answer, 'version: "0"')

    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(1)
            id = await swarmd.submit("echo", "hi")
    assert took.s == pytest.approx(1, abs=0.01)
    [lease] = bot.leases
    payload = text_format.MessageToString(lease.payload)
    given = f'leases {{ state: ACTIVE id: "{lease.id}" payload {{ {payload} }} }} version: "1"'
    check(swarmd, bot.session, given)

    with Timed() as took:
        answer = await bot.update(deadline_s=15)
    assert took.s < 0.01
    check(swarmd, answer, given)

    bot.complete(lease.id)
    said = bots_pb2.BotSession.FromString(bot.session.SerializeToString())
    with Timed() as took:
        answer = await bot.update(deadline_s=15)
    assert took.s < 0.01
    check(swarmd, answer, 'version: "2"')
    await swarmd.check_state(id, "COMPLETED")
    bot.session.CopyFrom(said)
    check(swarmd, await bot.update(deadline_s=15), 'version: "3"')


async def test_the_session_without_an_instance_has_a_name_that_begins_with_a_slash(swarmd: Lab):
    bot = swarmd.remote_bot("bot-a")
    await bot.create()
    assert bot.session.name[0] == "/" and bot.session.name.count("/") == 1
    await bot.update()


async def test_fields_that_nobody_knows_are_sent_back(swarmd: Lab):
    bot = bot_a(swarmd)
    bot.session.MergeFromString(b"\xfa\x3e\x05hello")  # field 1007
    answer = await bot.create()
    assert b"\xfa\x3e\x05hello" in answer.SerializeToString()


async def test_the_mask_of_an_update_is_not_looked_at(swarmd: Lab):
    bot = bot_a(swarmd)
    await bot.create()
    request = bots_pb2.UpdateBotSessionRequest(name=bot.session.name, bot_session=bot.session)
    request.update_mask.paths.append("no.such.field")
    check(swarmd, await bot.call("UpdateBotSession", request, 1), 'version: "0"')


async def test_captured_errors(swarmd: Lab):
    bot = bot_a(swarmd)
    bot.session.bot_id = ""
    async with refused(Code.INVALID_ARGUMENT, "Bots's id must be set by client."):
        await bot.create()
