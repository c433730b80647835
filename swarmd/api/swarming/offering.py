"""From an attempt to what the bot is told of it: a manifest, an order to end, or the end of what cannot be told."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from swarmd.api.calls import Call
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.groups import Group
from swarmd.api.swarming.ids import run_id
from swarmd.api.swarming.manifest import Told, manifest, task_dimensions
from swarmd.core.dimensions import FEATURE, POOL
from swarmd.core.ids import to_text
from swarmd.core.model import Attempt, BotId, Outcome
from swarmd.daemon.works import work_of

log = logging.getLogger("swarmd.swarming")
MAX_REASON = 1_000
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # bytes that are no UTF-8 are a ValueError


class Offering:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def tell(self, call: Call, attempt: Attempt, group: Group) -> dict[str, Any] | None:
        """`{"cmd": "run", …}` or `{"cmd": "terminate", …}` for a live attempt; None when it ended meanwhile.

        A task whose payload no bot could read ends here, as one that cannot be started.
        """
        daemon = self._context.daemon
        task = daemon.engine.tasks.get(attempt.task)
        bot = daemon.engine.bots.get(BotId(attempt.bot))
        if task is None or bot is None:
            return None
        slice, requires = task.slice, task.facts.requires.requirements
        pool = next((alternatives[0] for key, alternatives in requires if key == POOL), "")
        told = Told(
            run_id=run_id(attempt), server=self._context.server_url(call), bot=attempt.bot,
            bot_dimensions={k: v for k, v in {**bot.dimensions, **bot.assigned}.items() if k != FEATURE},
            task_dimensions=task_dimensions(requires, bot),
            task_account=self._context.config.task_account, system_account=self._context.config.system_account,
            realm=self._context.realm_of(pool) if pool else "",
        )  # fmt: skip
        read = await work_of(daemon, attempt, slice)
        if read is None:
            return None
        text, work = read
        if work.terminate:
            return self._end(attempt, told.run_id)
        try:
            # Encoded here, because what a payload holds may be read and still not be written.
            return {
                "cmd": "run",
                "manifest": msgspec.Raw(msgspec.json.encode(manifest(work, text, attempt, told))),
            }
        except UNREADABLE as error:
            kind = "" if work.payload is None else work.payload.type
            self._refuse(attempt, f"its payload is not one of type {kind}: {error}"[:MAX_REASON])
            return None

    def _end(self, attempt: Attempt, run_id: str) -> dict[str, Any] | None:
        """Tells the bot to end. The task runs from here on: a bot that cannot confirm it ends all the same, and its
        next life is not to be told again."""
        with self._context.daemon.step() as (engine, now):
            if attempt.id not in engine.attempts:
                return None
            engine.accept(now, attempt)
        return {"cmd": "terminate", "task_id": run_id}

    def _refuse(self, attempt: Attempt, reason: str) -> None:
        log.warning("task.unreadable", extra={"attempt": to_text(attempt.id), "reason": reason})
        with self._context.daemon.step() as (engine, now):
            if attempt.id in engine.attempts:
                engine.finish(
                    now, attempt.session, attempt.id, Outcome(ok=False, client_error=True, reason=reason)
                )
