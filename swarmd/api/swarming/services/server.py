"""The service `Swarming`: about the server, and what the caller may do there."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import empty_pb2

from swarmd import __version__
from swarmd.api.calls import Call
from swarmd.api.routes import Verb
from swarmd.api.swarming.bootstrap import fresh_ticket
from swarmd.api.swarming.bot_code import BotCode
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.proto import server_pb2
from swarmd.api.swarming.services.finding import find_runs, named, unknown
from swarmd.core.dimensions import POOL


class ServerMethods:
    def __init__(self, context: Context, code: BotCode) -> None:
        self._context = context
        self._code = code

    async def get_details(self, call: Call, request: empty_pb2.Empty) -> server_pb2.ServerDetails:
        url = self._context.server_url(call)
        digest = await self._code.stable(url) if self._code.is_served else ""
        return server_pb2.ServerDetails(server_version=__version__, bot_version=digest)

    async def get_token(self, call: Call, request: empty_pb2.Empty) -> server_pb2.BootstrapToken:
        """Raises `Denied` when there is no bot code that the token could open."""
        await self._code.stable(self._context.server_url(call))
        return server_pb2.BootstrapToken(bootstrap_token=await fresh_ticket(self._context))

    async def get_permissions(
        self, call: Call, request: server_pb2.PermissionsRequest
    ) -> server_pb2.ClientPermissions:
        """In a lab nobody owns a bot, a task or a pool: who may do a thing may do it to all. Raises `RpcError` for a
        task that does not exist."""
        if request.task_id:
            id = named(request.task_id)
            if id.text not in await self._context.daemon.read(find_runs([id])):
                raise unknown()
        cancel, operate = call.caller.may(Verb.CHANGE), call.caller.may(Verb.OPERATE)
        pools = self._pools(request.tags)
        await self._context.daemon.tellable()
        return server_pb2.ClientPermissions(
            delete_bot=operate, delete_bots=operate, terminate_bot=operate, cancel_task=cancel, cancel_tasks=cancel,
            get_bootstrap_token=operate, list_bots=pools, list_tasks=pools,
        )  # fmt: skip

    def _pools(self, tags: Iterable[str]) -> list[str]:
        """The pools that the caller names; if it names none, those that bots are in or that are configured."""
        keys = [tag.partition(":") for tag in tags]
        named = {value for key, _, value in keys if key == POOL and value}
        if named:
            return sorted(named)
        bots = self._context.daemon.engine.bots.values()
        return sorted(
            {*self._context.config.pools, *(p for bot in bots for p in bot.dimensions.get(POOL, ()))}
        )
