"""Tokens that a task may ask for through its bot: access to the daemon's own API, and proofs of what it is."""

from __future__ import annotations

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming.context import Context, reply


class AccountHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def swarming_oauth_token(self, call: Call) -> Reply:
        return reply({"service_account": "none"})

    async def swarming_id_token(self, call: Call) -> Reply:
        return reply({"service_account": "none"})
