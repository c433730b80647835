"""What all handlers of the Swarming package share: configuration, tokens, and who a call is from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from swarmd.api.calls import Call, Reply
from swarmd.api.guard import Denied
from swarmd.api.routes import Verb
from swarmd.api.swarming.groups import Group, Groups
from swarmd.api.swarming.ids import is_run_of
from swarmd.api.swarming.tokens import AccessToken, SessionToken, Signer, TokenFault
from swarmd.config_swarming import SwarmingConfig
from swarmd.core.engine import Engine
from swarmd.core.errors import Refused
from swarmd.core.features import COMMAND, CWD, IO_LIMIT, PAYLOAD, TERMINATE, UNSET
from swarmd.core.model import Attempt, AttemptId, AttemptState, Bot, BotId, Session
from swarmd.core.sessions import Newcomer
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.sessions import Holds

PROTOCOL = "swarming"
BOT_HEADER = "x-luci-swarming-bot-id"  # in which a bot names itself, in each call but the first ping
PROPERTIES = "swarming.properties"  # type of the payload that says all that a manifest can say
RESULT = "swarming.result"  # type of the payload with what a bot reports beyond the outcome
FEATURES = (COMMAND, CWD, IO_LIMIT, PAYLOAD + PROPERTIES, TERMINATE, UNSET)
HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?")
NOT_IN_A_PROJECT = re.compile(r"[^a-z0-9_-]")
MAX_PROJECT = 100
TASK_VERBS = frozenset({Verb.READ, Verb.SUBMIT, Verb.CHANGE})


class Context:
    def __init__(self, daemon: Daemon) -> None:
        """Raises `ConfigError` for groups that cannot be."""
        self.daemon = daemon
        self.config: SwarmingConfig = daemon.config.swarming
        self.groups = Groups(self.config)
        self.signer = Signer(daemon)
        self.holds = Holds(daemon)

    def become(self, config: SwarmingConfig, groups: Groups) -> None:
        """Goes by another configuration from now on."""
        self.config, self.groups = config, groups

    # ------------------------------------------------------------- who calls

    def lesser(self, bearer: str) -> tuple[str, frozenset[Verb]] | None:
        """A secret of a group of bots, or the access token of a running task."""
        group = self.groups.with_token(bearer)
        if group is not None:
            return _name_of(group), frozenset({Verb.BE_IN_A_GROUP})
        try:
            token = self.signer.read(bearer, AccessToken, self.daemon.clock.now())
        except TokenFault:
            return None
        attempt = self.daemon.engine.attempts.get(AttemptId(token.attempt))
        if attempt is None or attempt.task != token.task or attempt.state is not AttemptState.RUNNING:
            return None  # its task has ended
        return f"task:{token.task}", TASK_VERBS

    def group_of(self, call: Call, bot: str) -> Group:
        """The group of a bot that calls. Raises `Denied` when the caller does not show what its group asks for."""
        group = self.groups.of(bot)
        if group.token and call.caller.name != _name_of(group):
            raise Denied(
                401,
                "token_needed",
                f"bot {bot} must show the token of its group",
                "let its get_authentication_headers hook send 'Authorization: Bearer TOKEN'",
            )
        if not group.token and not call.caller.trusted:
            raise Denied(
                401, "token_needed", f"bot {bot} may not call with the token of another group", "use its own"
            )
        return group

    async def session(self, call: Call, text: object) -> SessionToken:
        """The session a call shows. Raises `Denied` as every route but `poll` does for one that is not good, or that is
        of another bot than the one that calls by its own word: two bots that share a folder do that."""
        await self.signer.ready()
        try:
            token = self.signer.read(text, SessionToken, self.daemon.clock.now())
        except TokenFault as fault:
            raise Denied(401, "bad_session", f"session token: {fault.message}", "shake hands anew") from None
        named = call.headers.get(BOT_HEADER)
        if named and named != token.bot:
            raise _not_its_session()
        self.group_of(call, token.bot)
        if token.bot not in self.daemon.engine.bots:
            raise Denied(403, "unknown_bot", f'"{token.bot}" is not a registered bot', "shake hands anew")
        return token

    def token(self, bot: str, session_key: str, config: str, rbe: str = "") -> str:
        """A fresh session token."""
        expires_at = self.daemon.clock.now() + self.config.session_s
        return self.signer.sign(SessionToken(expires_at, bot, session_key, config, rbe))

    def fresh(self, token: SessionToken) -> str:
        return self.token(token.bot, token.session_key, token.config, token.rbe)

    # ------------------------------------------------------------- sessions of the core

    def newcomer(
        self, group: Group, bot: str, session_key: str, dimensions: Any, version: str, state: bytes
    ) -> Newcomer:
        return Newcomer(
            bot=BotId(bot), protocol=PROTOCOL, session_key=session_key, key_hash="", dimensions=dimensions,
            features=FEATURES, slots=1, version=version, state=state, assigned=group.assigned,
            deadline_s=self.config.death_timeout_s, always_wins=True,
        )  # fmt: skip

    def come_back(self, engine: Engine, now: float, group: Group, token: SessionToken) -> Session | None:
        """A session for a bot that was silent for too long; None when another process of the bot has one.

        It is what it was. Its tasks are lost all the same.
        """
        bot = engine.bots.get(BotId(token.bot))
        if bot is not None and bot.session is not None:
            return None
        dimensions: dict[str, tuple[str, ...]] = {"id": (token.bot,)}
        version, state = "", b"{}"
        if bot is not None:
            dimensions, version, state = bot.dimensions, bot.version, bot.state
        engine.open_session(
            now, self.newcomer(group, token.bot, token.session_key, dimensions, version, state)
        )
        return self.open_session_of(token)

    def open_session_of(self, token: SessionToken) -> Session | None:
        """The session of the core that belongs to a token, if it is still open."""
        bot = self.daemon.engine.bots.get(BotId(token.bot))
        session = bot.session if bot is not None and bot.protocol == PROTOCOL else None
        return session if session is not None and session.key == token.session_key else None

    def held_attempt(self, token: SessionToken, named: object) -> Attempt | None:
        """The live attempt of the caller's session that it names, or None: stale reports have no effect."""
        session = self.open_session_of(token)
        if session is None:
            return None
        return next((a for a in session.attempts.values() if is_run_of(named, a)), None)

    def realm_of(self, pool: str) -> str:
        """The realm of tasks that name none."""
        rules = self.config.pools.get(pool)
        if rules is not None and rules.realm:
            return rules.realm
        return NOT_IN_A_PROJECT.sub("-", pool.lower())[:MAX_PROJECT] + ":default"

    def server_url(self, call: Call) -> str:
        """Where the caller reaches the daemon: what all of its paths stand behind."""
        return self.config.server_url or self.plain_url(call) + call.caller.prefix

    def plain_url(self, call: Call) -> str:
        """As `server_url`, for somebody else who is to reach it: without the token that this caller shows.

        Raises `Refused` for a Host that is no address: it gets into scripts.
        """
        if self.config.server_url:
            return self.config.server_url
        host = call.headers.get("host", "")
        if not HOST.fullmatch(host):
            raise Refused(
                "bad_host",
                f"{host[:80]!r} is not where this daemon could be reached",
                "set swarming.server_url",
            )
        scheme = "https" if self.daemon.config.tls_cert else "http"
        return f"{scheme}://{host.lower()}"  # in lower case: what a bot's HTTP library makes of the URL it is given

    def path_before(self, call: Call) -> str:
        """What stands in front of each path of ours, as the caller sees it."""
        return urlsplit(self.config.server_url).path if self.config.server_url else call.caller.prefix


def check_id(token: SessionToken, given: object) -> None:
    """Raises `Denied` when a body names another bot than its session does."""
    if given is not None and given != token.bot:
        raise _not_its_session()


def sick(bot: Bot) -> str:
    """Why a bot gets no work, in one word, or nothing."""
    if bot.quarantined is not None:
        return "quarantined"
    if bot.maintenance is not None:
        return "maintenance"
    return "draining" if bot.draining else ""


def reply(value: dict[str, Any], status: int = 200) -> Reply:
    """JSON as Swarming's server writes it."""
    return Reply(
        msgspec.json.encode(value) + b"\n", status=status, content_type="application/json; charset=utf-8"
    )


def health(
    group: Group, state: object, dimensions: Mapping[str, tuple[str, ...]], faults: list[str]
) -> tuple[str | None, str | None]:
    """Why the bot is in quarantine and under maintenance, by its own word or by what is wrong with its call, and whom
    to ask about it. `dimensions`: those that could be read."""
    said = state if isinstance(state, dict) else {}
    reasons = [r for r in (_reason(said.get("quarantined"), "it says that it is in quarantine"),) if r]
    for value in dimensions.get("quarantined", ()):
        generic = value.lower() in ("true", "1")
        reasons.append("its dimensions say that it is in quarantine" if generic else value)
    reasons += faults
    maintenance = _reason(said.get("maintenance"), "under maintenance")
    return _with_owners(group, "; ".join(reasons) or None), _with_owners(group, maintenance)


def _with_owners(group: Group, reason: str | None) -> str | None:
    return f"{reason} (ask {', '.join(group.owners)})" if reason and group.owners else reason


def _reason(said: object, generic: str) -> str | None:
    if isinstance(said, str) and said:
        return said
    return generic if said else None


def _not_its_session() -> Denied:
    return Denied(401, "bad_session", "the session is of another bot", "send this bot's own session")


def _name_of(group: Group) -> str:
    return "bots:" + hashlib.sha256(group.token.encode()).hexdigest()[:16]
