"""What the tests of this protocol share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.api.rpc import Code, RpcError
from swarmd.config_remoteworkers import InstanceRules
from swarmd.testing import Lab, RemoteBot

KEEP_ALIVE_S = 20.0
LAB = {
    "keep_alive_s": KEEP_ALIVE_S,
    "instances": {"lab": {}, "lab/east": {"pools": ["default", "east"]}, "": {"pools": ["nameless"]}},
}
CONFIG = {"remoteworkers": LAB}
LINUX = (("OSFamily", "linux"), ("ISA", "x86-64"))


def with_rules(**rules: Any) -> dict[str, Any]:
    """A configuration whose instance `lab` has these rules."""
    return {"remoteworkers": {"keep_alive_s": KEEP_ALIVE_S, "instances": {"lab": rules}}}


async def came(
    lab: Lab, id: str = "w1", *, instance: str = "lab", status: int = 1, **fields: Any
) -> RemoteBot:
    """A bot with a session."""
    bot = lab.remote_bot(id, instance=instance, **fields)
    await bot.create(status=status)
    return bot


async def one(lab: Lab, *argv: str, started: bool = True, **fields: Any) -> tuple[RemoteBot, str, str]:
    """A bot, a task of it, and the id of its lease."""
    id = await lab.submit(*(argv or ("make",)), **fields)
    bot = await came(lab)
    [lease] = bot.leases
    if started:
        await bot.update()
    return bot, id, lease.id


@asynccontextmanager
async def refused(code: Code, begins: str) -> AsyncIterator[None]:
    """What is done inside is refused with this code and a message that begins so."""
    with pytest.raises(RpcError) as caught:
        yield
    assert (caught.value.code, caught.value.message[: len(begins)]) == (code, begins)


class Timed:
    """How long something took, in virtual seconds."""

    def __enter__(self) -> Timed:
        self._began = trio.current_time()
        return self

    def __exit__(self, *args: object) -> None:
        self.s = trio.current_time() - self._began


def session_of(bot: RemoteBot) -> bots_pb2.BotSession:
    """A copy of what it would say next."""
    return bots_pb2.BotSession.FromString(bot.session.SerializeToString())


async def reconfigure(lab: Lab, instances: dict[str, dict[str, Any]] | None = None, **changes: Any) -> None:
    """A new configuration, as after SIGHUP."""
    assert lab._running is not None
    app = lab._running.app
    if instances is not None:
        changes["instances"] = {name: msgspec.convert(r, InstanceRules) for name, r in instances.items()}
    own = msgspec.structs.replace(app.daemon.config.remoteworkers, **changes)
    await app.reconfigure(msgspec.structs.replace(app.daemon.config, remoteworkers=own))


async def kinds_of(lab: Lab, bot: str = "w1") -> list[str]:
    """What happened to a bot, oldest first."""
    return [event.kind async for event in lab.client.bot_events(bot)][::-1]
