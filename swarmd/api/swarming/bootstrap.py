"""How a machine without a credential becomes a bot: a token, good for an hour, with which it may fetch the bot's code.

It opens the three routes that lead to the code, and nothing else. Source: docs/swarming.md, "Bootstrap".
"""

from __future__ import annotations

import secrets

from swarmd.api.calls import Call, Reply
from swarmd.api.guard import Denied
from swarmd.api.native.messages import BootstrapAnswer
from swarmd.api.native.translate import moment
from swarmd.api.swarming.bot_code import BotCode, ticket_query
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.tokens import BootstrapToken, TokenFault

BOOTSTRAP_S = 3_600.0

SCRIPT = '''#!/usr/bin/env python3
"""Fetches a Swarming bot into the present folder and starts it. Its id is in SWARMING_BOT_ID, else it is the host's."""

import os
import sys
import urllib.error
import urllib.request

if os.path.realpath(".") == os.path.realpath(os.path.expanduser("~")):
    sys.exit("use a folder of the bot's own, not the home folder: it deletes what it does not know")
try:
    with urllib.request.urlopen({code!r}, timeout=60) as answer:
        code = answer.read()
except urllib.error.HTTPError as error:
    sys.exit("the daemon refused: " + error.read(2000).decode("utf-8", "replace"))
with open("swarming_bot.zip", "wb") as file:
    file.write(code)
os.environ.setdefault("SWARMING_EXTERNAL_BOT_SETUP", "1")
if "TMPDIR" not in os.environ:
    os.makedirs("tmp", exist_ok=True)
    os.environ["TMPDIR"] = os.path.abspath("tmp")
os.execv(sys.executable, [sys.executable, "swarming_bot.zip", "start_bot"])
'''


async def fresh_ticket(context: Context) -> str:
    """A bootstrap token."""
    await context.signer.ready()
    expires_at = context.daemon.clock.now() + BOOTSTRAP_S
    return context.signer.sign(BootstrapToken(expires_at, secrets.token_hex(8)))


class BootstrapHandlers:
    def __init__(self, context: Context, code: BotCode) -> None:
        self._context = context
        self._code = code

    def check_ticket(self, shown: str) -> None:
        """Raises `Denied` for a bootstrap token that is not good."""
        try:
            self._context.signer.read(shown, BootstrapToken, self._context.daemon.clock.now())
        except TokenFault as fault:
            raise Denied(
                401,
                "bad_bootstrap_token",
                f"bootstrap: {fault.message}",
                "get a new link: swarmd swarming-bot",
            ) from None

    async def swarming_bootstrap(self, call: Call) -> Reply:
        url = self._context.server_url(call)
        await self._code.stable(url)
        script = SCRIPT.format(code=f"{url}/bot_code{ticket_query(call)}")
        return Reply(script.encode(), content_type="text/plain; charset=utf-8")

    async def mint_bootstrap(self, call: Call) -> BootstrapAnswer:
        """Answers a route of the native API."""
        daemon = self._context.daemon
        url = self._context.plain_url(call)
        digest = await self._code.stable(url)
        return BootstrapAnswer(
            url=url,
            token=await fresh_ticket(self._context),
            expires_at=moment(daemon.clock.wall() + BOOTSTRAP_S) or "",
            digest=digest,
            token_needed=bool(daemon.config.token_file),
        )
