"""Tokens that a task may ask for through its bot: access to the daemon's own API, and proofs of what it is.

A bot asks for one of two accounts: that of the task, or that of its own work around it. `none` and `bot` have no tokens
that the daemon could give. All others are names: the daemon mints for them, unless a program does (`token_command`).

Source: protocol reference, oauth_token and id_token; docs/swarming.md, "Tokens inside tasks".
"""

from __future__ import annotations

import re
import secrets
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming import wire
from swarmd.api.swarming.context import Context, check_id, reply
from swarmd.api.swarming.id_keys import ALGORITHM, IdKeys
from swarmd.api.swarming.ids import run_id, task_id
from swarmd.api.swarming.manifest import BOT_ACCOUNT, NO_ACCOUNT, account_of, properties_of
from swarmd.api.swarming.token_command import TokenCommand, Wanted, Which
from swarmd.api.swarming.tokens import AccessToken
from swarmd.core.errors import Refused
from swarmd.core.ids import to_text
from swarmd.core.model import Attempt, OpId
from swarmd.daemon.works import work_of
from swarmd.store import selecting

ACCOUNT_IDS = ("task", "system")
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:/-]{0,127}")
MAX_SCOPES_CHARACTERS = 2_000  # of all of them together: they are in the token
MAX_AUDIENCE = 1_000
MIN_ACCESS_S, MAX_ACCESS_S = 600.0, 3_600.0  # an access token lives as long as its attempt may, within these
ID_S = 3_600.0
CLAIMS = [
    "iss", "sub", "aud", "iat", "exp", "jti", "task_id", "run_id", "swarmd_task_id", "task_name", "pool", "bot_id",
    "account_id", "service_account",
]  # fmt: skip


class _Asked(Struct, frozen=True):
    """A token that can be given: of which attempt, account and kind."""

    attempt: Attempt
    account_id: str
    account: str
    which: Which
    scopes: tuple[str, ...] = ()
    audience: str = ""


class AccountHandlers:
    def __init__(self, context: Context, keys: IdKeys) -> None:
        self._context = context
        self._daemon = context.daemon
        self._keys = keys
        self._command = TokenCommand()

    async def swarming_oauth_token(self, call: Call) -> Reply:
        return await self._answer(call, "access_token")

    async def swarming_id_token(self, call: Call) -> Reply:
        return await self._answer(call, "id_token")

    async def _answer(self, call: Call, which: Which) -> Reply:
        asked = await self._asked(call, which)
        answer: dict[str, Any] = {"service_account": asked.account}
        if asked.account not in (NO_ACCOUNT, BOT_ACCOUNT):
            answer[which], answer["expiry"] = await self._mint(call, asked)
            self._record(asked)
            await self._daemon.settled()
        return reply(answer)

    # ------------------------------------------------------------- what is asked

    async def _asked(self, call: Call, which: Which) -> _Asked:
        """Raises `Refused` for what is final for the task, and `Denied` as every call with a session."""
        body: wire.TokenCall = call.body
        token = await self._context.session(call, body.session)
        check_id(token, body.id)
        if body.account_id not in ACCOUNT_IDS:
            raise wire.bad(f"account_id is {body.account_id!r}"[:80], "send task or system")
        scopes = _scopes(body) if which == "access_token" else ()
        audience = _audience(body) if which == "id_token" else ""
        attempt = self._context.held_attempt(token, body.task_id)
        if attempt is None:
            raise _not_running()
        account = await self._account(attempt, body.account_id)
        return _Asked(attempt, body.account_id, account, which, scopes, audience)

    async def _account(self, attempt: Attempt, account_id: str) -> str:
        """What the manifest said, unless the configuration has changed since. Raises `Refused`."""
        config = self._context.config
        task = self._daemon.engine.tasks[attempt.task]
        read = await work_of(self._daemon, attempt, task.slice)
        if read is None or read[1].terminate:
            raise _not_running()
        try:
            account = account_of(properties_of(read[1]), config.task_account)
        except msgspec.MsgspecError as error:  # it was not told to the bot either
            raise Refused("bad_account", f"the task's payload cannot be read: {error}") from None
        account = account if account_id == "task" else config.system_account or NO_ACCOUNT
        if not ACCOUNT.fullmatch(account):
            raise Refused(
                "bad_account",
                f"{account[:80]!r} cannot be the name of an account",
                "use 1 to 128 letters, digits and any of ._@+:/-",
            )
        return account

    # ------------------------------------------------------------- what is given

    async def _mint(self, call: Call, asked: _Asked) -> tuple[str, int]:
        """A token, and when it expires (unix time)."""
        if self._context.config.token_command:
            return await self._by_command(asked)
        if asked.which == "access_token":
            return self._access(asked)
        return await self._proof(call, asked)

    def _access(self, asked: _Asked) -> tuple[str, int]:
        """Good for the daemon's own API while the attempt runs (`Context.lesser`)."""
        clock, attempt = self._daemon.clock, asked.attempt
        life_s = min(MAX_ACCESS_S, max(MIN_ACCESS_S, attempt.limit_due_at - clock.now()))
        token = AccessToken(clock.now() + life_s, attempt.task, attempt.id, asked.scopes)
        return self._context.signer.sign(token), int(clock.wall() + life_s)

    async def _proof(self, call: Call, asked: _Asked) -> tuple[str, int]:
        """Anybody can verify it, with nothing but what `/.well-known/` says."""
        attempt, row = asked.attempt, await self._row(asked.attempt)
        task, at = task_id(OpId(attempt.task)), int(self._daemon.clock.wall())
        expiry = at + int(ID_S)
        claims = {
            "iss": self._issuer(call), "aud": asked.audience, "iat": at, "exp": expiry, "jti": secrets.token_hex(16),
            "sub": f"task:{task}" if asked.account_id == "task" else f"bot:{attempt.bot}",
            "task_id": task, "run_id": run_id(attempt), "swarmd_task_id": to_text(attempt.task), "task_name": row.name,
            "pool": row.pool, "bot_id": attempt.bot, "account_id": asked.account_id, "service_account": asked.account,
        }  # fmt: skip
        assert set(claims) == set(CLAIMS)
        return await self._keys.sign(claims), expiry

    async def _by_command(self, asked: _Asked) -> tuple[str, int]:
        attempt, row = asked.attempt, await self._row(asked.attempt)
        wanted = Wanted(
            asked.account, asked.scopes, asked.audience, task_id(OpId(attempt.task)), attempt.bot, row.pool
        )
        command, wall = self._context.config.token_command, self._daemon.clock.wall
        made = await self._command.mint(command, asked.which, wanted, wall)
        if isinstance(
            made, str
        ):  # 400: the one status whose text a bot hands on to the task, as a final answer
            raise Refused(
                "token_denied", f"account {asked.account}: {made}", "see the program that mints tokens"
            )
        return made

    async def _row(self, attempt: Attempt) -> selecting.OpRow:
        op = OpId(attempt.task)
        found = await self._daemon.read(lambda conn: selecting.ops_by_id(conn, [op]))
        if op not in found:
            raise _not_running()
        return found[op]

    def _record(self, asked: _Asked) -> None:
        """Who got what stands in the history. Raises `Refused` when the attempt has ended meanwhile."""
        if asked.which == "access_token":
            what = f"access token with scopes {' '.join(asked.scopes)}"
        else:
            what = f"ID token for {asked.audience}"
        with self._daemon.step() as (engine, now):
            if asked.attempt.id not in engine.attempts:
                raise _not_running()
            engine.attempt_tells(now, asked.attempt, "task.token", f"{asked.account}: {what}")

    # ------------------------------------------------------------- what anybody may know

    def _issuer(self, call: Call) -> str:
        """Where the daemon is reached; without a path, which may hold the daemon's own token."""
        parts = urlsplit(self._context.server_url(call))
        return f"{parts.scheme}://{parts.netloc}"

    async def swarming_openid_configuration(self, call: Call) -> Reply:
        issuer = self._issuer(call)
        return reply({
            "issuer": issuer,
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "claims_supported": CLAIMS,
        })  # fmt: skip

    async def swarming_jwks(self, call: Call) -> Reply:
        return reply({"keys": self._keys.published()})


def _not_running() -> Refused:
    return Refused("wrong_task", "the bot does not run this task", "ask for a token of the task that runs")


def _scopes(body: wire.TokenCall) -> tuple[str, ...]:
    """Raises `Refused`."""
    scopes = body.scopes
    if body.audience:
        raise wire.bad("an access token has no audience", "send scopes alone, or ask for an id_token")
    if not isinstance(scopes, list) or not scopes or not all(_is_word(scope) for scope in scopes):
        raise wire.bad("scopes is no list of words", "send one or more texts without blanks")
    if sum(map(len, scopes)) > MAX_SCOPES_CHARACTERS:
        raise wire.bad(f"scopes have more than {MAX_SCOPES_CHARACTERS} characters", "ask for fewer")
    return tuple(sorted(set(scopes)))


def _audience(body: wire.TokenCall) -> str:
    """Raises `Refused`."""
    if body.scopes:
        raise wire.bad("an ID token has no scopes", "send an audience alone, or ask for an oauth_token")
    if not _is_word(body.audience) or len(body.audience) > MAX_AUDIENCE:
        raise wire.bad(
            "audience is no word", f"send a text without blanks, at most {MAX_AUDIENCE} characters"
        )
    return str(body.audience)


def _is_word(given: object) -> bool:
    return isinstance(given, str) and bool(given) and all("!" <= c <= "~" for c in given)
