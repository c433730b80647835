"""Bots as people see them: list, look at, drain, quarantine, order, delete."""

from __future__ import annotations

import msgspec

from swarmd.api.calls import Call, cursor_of
from swarmd.api.native import messages as m
from swarmd.api.native import translate
from swarmd.api.native.tasks import events, task_list
from swarmd.core.errors import Refused
from swarmd.core.model import BotId
from swarmd.core.sessions import UNCHANGED
from swarmd.daemon.daemon import Daemon
from swarmd.store import selecting


class BotHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def list_bots(self, call: Call) -> m.BotList:
        """By name; the cursor is the name of the last one."""
        after, limit = call.query["cursor"], call.query["limit"]
        names = sorted(name for name in self.daemon.engine.bots if name > after)
        page = [
            translate.bot_info(self.daemon.engine.bots[n], self.daemon.clock.offset()) for n in names[:limit]
        ]
        await self.daemon.tellable()
        return m.BotList(items=page, next=page[-1].id if len(names) > limit else None)

    async def get_bot(self, call: Call) -> m.BotInfo:
        info = translate.bot_info(
            self.daemon.engine.bot_named(BotId(call.params["bot"])), self.daemon.clock.offset()
        )
        await self.daemon.tellable()
        return info

    async def order_bot(self, call: Call) -> m.BotInfo:
        body: m.BotOrderRequest = call.body
        unset = msgspec.UNSET
        quarantine = UNCHANGED if body.quarantine is unset else body.quarantine
        maintenance = UNCHANGED if body.maintenance is unset else body.maintenance
        order = UNCHANGED if body.order is unset else body.order
        if body.drain is None and {quarantine, maintenance, order} == {UNCHANGED}:
            raise Refused(
                "nothing_to_do", "the body orders nothing", "give drain, quarantine, maintenance or order"
            )
        with self.daemon.step() as (engine, now):
            bot = engine.change_bot(
                now,
                BotId(call.params["bot"]),
                drain=body.drain,
                quarantine=quarantine,  # type: ignore[arg-type]
                maintenance=maintenance,  # type: ignore[arg-type]
                order=order,  # type: ignore[arg-type]
            )
            info = translate.bot_info(bot, self.daemon.clock.offset())
        await self.daemon.settled()
        return info

    async def delete_bot(self, call: Call) -> m.Empty:
        with self.daemon.step() as (engine, now):
            engine.delete_bot(now, BotId(call.params["bot"]))
        await self.daemon.settled()
        return m.Empty()

    async def bot_events(self, call: Call) -> m.EventList:
        bot = self.daemon.engine.bot_named(BotId(call.params["bot"])).id
        return await events(self.daemon, call, bot=bot)

    async def bot_tasks(self, call: Call) -> m.TaskList:
        bot = self.daemon.engine.bot_named(BotId(call.params["bot"])).id
        before = cursor_of(call)
        limit = call.query["limit"]
        wanted = selecting.OpFilter(bot=bot)
        rows = await self.daemon.read(lambda conn: selecting.list_ops(conn, wanted, before, limit + 1))
        return task_list(rows, limit)
