"""All adapters, and the world in which a pair of them tells a story."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from swarmd.client import BotOrderRequest
from swarmd.core.ids import to_text
from swarmd.core.model import BotId
from swarmd.daemon.terminating import terminate_bot
from swarmd.testing import Lab
from tests.conformance.adapters import BotAdapter, BotCan, ClientAdapter, ClientCan, Wish
from tests.conformance.native import NativeBotAdapter, NativeClientAdapter
from tests.conformance.remoteworkers import PendingBotAdapter, RemoteBotAdapter
from tests.conformance.swarming import LeasingBotAdapter, SwarmingBotAdapter
from tests.conformance.swarming_client import SwarmingClientAdapter

BOTS: tuple[type[BotAdapter], ...] = (
    NativeBotAdapter, SwarmingBotAdapter, LeasingBotAdapter, RemoteBotAdapter, PendingBotAdapter,
)  # fmt: skip
CLIENTS: tuple[type[ClientAdapter], ...] = (NativeClientAdapter, SwarmingClientAdapter)

Tell = Callable[["World"], Awaitable[None]]


class Story:
    """One story and what it needs of both sides."""

    def __init__(self, tell: Tell, needs: tuple[BotCan | ClientCan, ...], only_calm: str = "") -> None:
        self.name = tell.__name__
        self.tell = tell
        self.needs = needs
        self.only_calm = only_calm  # why it cannot be true in a storm; "" where it is

    def why_not(self, bot: type[BotAdapter], client: type[ClientAdapter]) -> str | None:
        """A sentence when this pair cannot express it."""
        for need in self.needs:
            side: Any = bot if isinstance(need, BotCan) else client
            if need in side.cannot:
                return f"no {side.protocol} {'bot' if side is bot else 'client'} {need}: {side.cannot[need]}"
        return None


class Weather:
    """What happens between any two calls: nothing, or the daemon dies and is started again on its file."""

    def __init__(self, lab: Lab, storms: bool) -> None:
        self._lab = lab
        self._storms = storms

    def around(self, adapter: Any) -> Any:
        return _Stormy(adapter, self._lab) if self._storms else adapter


class _Stormy:
    """An adapter in a storm: before each of its calls the daemon crashes and comes back."""

    def __init__(self, adapter: Any, lab: Lab) -> None:
        object.__setattr__(self, "_adapter", adapter)
        object.__setattr__(self, "_lab", lab)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._adapter, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._adapter, name)
        if not callable(found) or name in ("word_for", "operation"):
            return found

        async def after_a_crash(*args: Any, **keywords: Any) -> Any:
            await self._lab.crash()
            await self._lab.start()
            return await found(*args, **keywords)

        return after_a_crash


class World:
    """A lab with a client and as many bots as the story wants."""

    def __init__(
        self, lab: Lab, bot: type[BotAdapter], client: type[ClientAdapter], *, storms: bool = False
    ) -> None:
        self.lab = lab
        self._weather = Weather(lab, storms)
        self._bot = bot
        self.client: ClientAdapter = self._weather.around(client(lab))

    async def bot(self, id: str = "b1", *, connects: bool = True) -> BotAdapter:
        """A bot of the protocol at hand, connected."""
        bot: BotAdapter = self._weather.around(self._bot(self.lab, id))
        if connects:
            await bot.connect()
        return bot

    async def submit(self, **wish: Any) -> str:
        return await self.client.submit(Wish(**wish))

    async def check(self, id: str, state: Any, *attempts: str, ok: bool | None = None) -> None:
        """The task is in this state and has attempts in these, for the core and for the client."""
        operation = await self.client.operation(id)
        found = await self.lab.check_state(operation, state)
        assert found.ok is ok, await self.lab.story(operation)
        await self.lab.check_attempts(operation, *attempts)
        assert await self.client.state(id) == self.client.word_for(state, ok)

    async def terminate(self, bot: BotAdapter) -> str:
        """Somebody has the bot ended by a task: the task's id, in the native form."""
        op = await terminate_bot(
            self.lab.daemon, BotId(bot.id), name="the end", tags=(), owner="", priority=0
        )
        return to_text(op)

    async def order(self, bot: BotAdapter, **order: Any) -> None:
        """A person says so: drain, quarantine, maintenance."""
        await self.lab.client.order_bot(bot.id, BotOrderRequest(**order))
