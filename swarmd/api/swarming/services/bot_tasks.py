"""The service `Bots`, where it is about tasks: a bot is ended by one."""

from __future__ import annotations

from swarmd.api.calls import Call
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.proto import bots_pb2
from swarmd.api.swarming.services.requests import core_priority
from swarmd.api.swarming.services.tasks import identity
from swarmd.core.errors import Unknown
from swarmd.core.model import BotId
from swarmd.daemon.terminating import terminate_bot

MAX_REASON = 1_000


class BotTaskMethods:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon

    async def terminate_bot(
        self, call: Call, request: bots_pb2.TerminateRequest
    ) -> bots_pb2.TerminateResponse:
        """The task that ends a bot; the one that waits or runs already, if there is one."""
        bot, reason = request.bot_id, request.reason
        if not bot:
            raise RpcError(Code.INVALID_ARGUMENT, "bot_id is required")
        if len(reason) > MAX_REASON:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"reason has {len(reason)} characters: give at most {MAX_REASON}"
            )
        name = f"Terminate {bot}: {reason}" if reason else f"Terminate {bot}"
        caller = identity(call.caller)
        tags = (
            f"authenticated:{caller}", f"id:{bot}", "priority:0", "realm:none", "service_account:none",
            "swarming.pool.template:no_pool", "swarming.terminate:1", "user:none",
        )  # fmt: skip
        try:
            op = await terminate_bot(
                self._daemon, BotId(bot), name=name, tags=tags, owner=caller, priority=core_priority(0)
            )
        except Unknown:
            raise RpcError(Code.NOT_FOUND, f"no such bot: {bot}") from None
        return bots_pb2.TerminateResponse(task_id=task_id(op))
