"""How a Swarming bot comes, waits and goes: handshake, poll, event.

The bot's main process makes these calls, and only while no task runs: so a poll says that the bot holds nothing, but
for the task that a repeated poll asks for again. Source: protocol reference, handshake, poll, event, bot life.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import trio
from msgspec import Struct

from swarmd import __version__
from swarmd.api.calls import Call, Reply
from swarmd.api.swarming import wire
from swarmd.api.swarming.bot_code import BotCode
from swarmd.api.swarming.context import Context, health, reply, sick
from swarmd.api.swarming.groups import Group
from swarmd.api.swarming.ids import termination_id
from swarmd.api.swarming.offering import Offering
from swarmd.api.swarming.tokens import SessionToken, TokenFault
from swarmd.core.engine import Engine
from swarmd.core.errors import Refused
from swarmd.core.ids import to_text
from swarmd.core.model import BotId, BotOrder, Session, SessionId
from swarmd.core.sessions import Newcomer
from swarmd.daemon.sessions import Hold, held

log = logging.getLogger("swarmd.swarming")

FAILED_UPDATE = "Failed to self-update"  # in a bot's own words
RETRY_UPDATE_S = (
    15.0,
    300.0,
)  # a bot that failed to take code is told so again: after the first, twice as late each
# time, at most after the second
MAX_ASKED = (
    100_000  # bots of which it is remembered that they were told; anybody who may be a bot can name one
)
SICK_SLEEP_S = {"quarantined": (30.0, 60.0), "maintenance": (10.0, 20.0), "draining": (5.0, 10.0)}
RIVAL_SLEEP_S = (30.0, 60.0)  # of a process whose bot has another one
STREAK_FACTOR = 1.5  # of the pause of an idle bot, from poll to poll
MAX_STREAK = 20
EVENTS = {
    "bot_error": "bot.error",
    "bot_log": "bot.log",
    "bot_rebooting": "bot.rebooting",
    "bot_shutdown": "bot.shutdown",
}
GOODBYES = ("bot_rebooting", "bot_shutdown")


class _Told(Struct):
    """What a session said and was told last. In memory only."""

    said: tuple[Any, ...] = ()  # what of a poll says what the bot is
    faults: list[str] = []  # of that
    uuid: str = ""
    answer: dict[str, Any] | None = None  # with work in it, to `uuid`


class BotHandlers:
    def __init__(self, context: Context, code: BotCode) -> None:
        self._context = context
        self._daemon = context.daemon
        self._code = code
        self._offering = Offering(context)
        self._told: dict[SessionId, _Told] = {}
        self._asked: dict[
            str, tuple[str, float, float]
        ] = {}  # bot: digest it was told to take, when, next after

    # ------------------------------------------------------------- handshake

    async def swarming_handshake(self, call: Call) -> Reply:
        body: wire.HandshakeCall = call.body
        bot = wire.bot_id(body.dimensions)
        group = self._context.group_of(call, bot)
        key = wire.text(body.session_id, "session_id", wire.SESSION_ID)
        await self._context.signer.ready()
        wanted = await self._code.wanted(bot, self._context.server_url(call))
        given, faults = wire.dimensions(body.dimensions)
        state, more = wire.state(body.state)
        version = body.version if isinstance(body.version, str) else ""
        with self._daemon.step() as (engine, now):
            # Hooks have not run yet: what the bot is, its first poll tells.
            known = engine.bots.get(BotId(bot))
            dimensions = known.dimensions if known is not None else {"id": (bot,)}
            newcomer = self._context.newcomer(group, bot, key, dimensions, version[:128], state)
            opened = engine.open_session(now, newcomer)
            engine.bot_says(now, BotId(bot), *health(group, body.state, given, [*faults, *more]))
        if opened.is_new:
            log.info("session.opened", extra={"bot": bot, "session": to_text(opened.session)})
        await self._daemon.settled()
        answer = {
            "session": self._context.token(bot, key, group.config),
            "bot_version": wanted or version,
            "server_version": __version__,
            "bot_group_cfg": {"dimensions": group.assigned},
            "bot_config_name": group.hooks_name,
            "bot_config_rev": group.hooks_rev,
        }
        if group.hooks:
            answer["bot_config"] = group.hooks
        if group.mode != "native":
            answer["rbe"] = self._rbe(group)
        return reply(answer)

    def _rbe(self, group: Group) -> dict[str, Any]:
        sleep_s = self._context.config.poll_s
        return {
            "instance": "swarmd", "hybrid_mode": group.mode == "hybrid", "sleep": sleep_s, "poll_token": "unused",
        }  # fmt: skip

    # ------------------------------------------------------------- poll

    async def swarming_poll(self, call: Call) -> Reply:
        body: wire.PollCall = call.body
        bot = wire.bot_id(body.dimensions)
        group = self._context.group_of(call, bot)
        await self._context.signer.ready()
        token, fault = self._token(bot, body.session)
        update = await self._update(call, bot, body)
        if update is not None:
            return reply(self._with_session(update, token))
        if token is None:
            return reply({"cmd": "bot_restart", "message": f"Bot session: {fault}"})
        if token.config != group.config:
            return self._restart(token, "Restarting to pick up what the configuration says of this bot")
        uuid = wire.text(body.request_uuid or "", "request_uuid", wire.REQUEST_UUID)
        session = self._take_in(group, token, body, uuid)
        if session is None:
            log.warning("bot.rival", extra={"bot": bot, "session_key": token.session_key})
            return self._sleep(token, random.uniform(*RIVAL_SLEEP_S))
        told = self._told[session.id]
        if uuid and uuid == told.uuid and told.answer is not None:
            answer = told.answer
        else:
            answer = await self._answer(call, body, session, group, uuid)
            told.uuid, told.answer = uuid, answer if answer.get("cmd") in ("run", "terminate") else None
        await self._daemon.settled()
        return reply(self._with_session(answer, token))

    def _token(self, bot: str, text: object) -> tuple[SessionToken | None, str]:
        try:
            token = self._context.signer.read(text, SessionToken, self._daemon.clock.now())
        except TokenFault as fault:
            return None, fault.message
        return (token, "") if token.bot == bot else (None, "it is of another bot")

    def _with_session(self, answer: dict[str, Any], token: SessionToken | None) -> dict[str, Any]:
        return answer if token is None else {**answer, "session": self._context.fresh(token)}

    def _restart(self, token: SessionToken, message: str) -> Reply:
        return reply(self._with_session({"cmd": "bot_restart", "message": message}, token))

    def _sleep(self, token: SessionToken, duration_s: float) -> Reply:
        return reply(self._with_session({"cmd": "sleep", "duration": duration_s}, token))

    async def _update(self, call: Call, bot: str, body: wire.PollCall) -> dict[str, Any] | None:
        """Comes before everything else, so that a broken bot heals. One that could not take the code is left alone
        for a while: it would try again at each poll."""
        wanted = await self._code.wanted(bot, self._context.server_url(call))
        if wanted is None or not isinstance(body.version, str):
            return None
        said = body.state.get("quarantined") if isinstance(body.state, dict) else None
        failed = isinstance(said, str) and FAILED_UPDATE in said
        if body.version == wanted and not failed:
            self._asked.pop(bot, None)
            return None
        asked = self._asked.get(bot)
        now = self._daemon.clock.now()
        wait_s, most_s = RETRY_UPDATE_S
        if failed and asked is not None and asked[0] == wanted:
            if now < asked[1] + asked[2]:
                return None
            wait_s = min(most_s, 2 * asked[2])
        self._asked.pop(bot, None)  # the newest stand last
        self._asked[bot] = (wanted, now, wait_s)
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        if body.version != wanted:
            return {"cmd": "update", "version": wanted}
        # What it failed to take is wanted no more; its quarantine ends only with its process.
        return {"cmd": "bot_restart", "message": "the code that it failed to take is wanted no more"}

    def _take_in(self, group: Group, token: SessionToken, body: wire.PollCall, uuid: str) -> Session | None:
        """What a poll says of the bot. None when another process of this bot has the session."""
        self._forget_ended()
        state, state_faults = wire.state(body.state)
        found, faults = wire.dimensions(body.dimensions)
        version = body.version[:128] if isinstance(body.version, str) else ""
        self._daemon.note_life()
        with self._daemon.step() as (engine, now):
            session = self._context.open_session_of(token) or self._context.come_back(
                engine, now, group, token
            )
            if session is None:
                return None
            told = self._told.setdefault(session.id, _Told())
            if told.said != (found, faults, version, group.config):
                told.said = (found, faults, version, group.config)
                newcomer = self._context.newcomer(group, token.bot, token.session_key, found, version, state)
                told.faults = faults or self._describe(engine, now, newcomer)
            engine.bots[session.bot].state = state
            engine.bot_says(
                now, session.bot, *health(group, body.state, found, [*told.faults, *state_faults])
            )
            engine.seen(now, session.id)
            # It holds nothing, but for what this very poll was given before.
            if not any(uuid and a.offer_key == uuid for a in session.attempts.values()):
                engine.holds(now, session.id, (), (), lambda a: True)
            return session

    @staticmethod
    def _describe(engine: Engine, now: float, newcomer: Newcomer) -> list[str]:
        """Takes what the bot says that it is. What cannot be is a fault: the bot keeps what it was, in quarantine."""
        try:
            engine.describe(now, newcomer)
        except Refused as error:
            return [f"{error.message} ({error.remedy})"]
        return []

    def _forget_ended(self) -> None:
        sessions = self._daemon.engine.sessions
        if len(self._told) > 2 * len(sessions) + 64:
            self._told = {id: told for id, told in self._told.items() if id in sessions}

    async def _answer(
        self, call: Call, body: wire.PollCall, session: Session, group: Group, uuid: str
    ) -> dict[str, Any]:
        bot = self._daemon.engine.bots[session.bot]
        if (end := await self._end(call, session, group, uuid)) is not None:
            return end
        order = self._order(session)
        if order is not None:
            return order
        if reason := sick(bot):
            return {"cmd": "sleep", "duration": random.uniform(*SICK_SLEEP_S[reason])}
        rbe = {} if group.mode == "native" else {"rbe": self._rbe(group)}
        if group.mode == "rbe" or (group.mode == "hybrid" and body.force is not True):
            return {"cmd": "rbe", **rbe}
        work = await self._work(call, session, group, uuid)
        if work is not None:
            return {**work, **rbe}
        if rbe:
            return {"cmd": "rbe", **rbe}
        return self._order(session) or {"cmd": "sleep", "duration": self._pause_s(body.state)}

    async def _end(self, call: Call, session: Session, group: Group, uuid: str) -> dict[str, Any] | None:
        """A termination task. It comes before all else, also for a bot in quarantine and one that works by leases."""
        with self._daemon.step() as (engine, now):
            if session.ending is None and engine.next_termination(session) is not None:
                engine.offer(now, session.id, uuid or f"poll {now}", 1)
            ending = session.ending
        return None if ending is None else await self._offering.tell(call, ending, group)

    def _order(self, session: Session) -> dict[str, Any] | None:
        """What a person asked of the bot; nothing for a process that is not the bot's any more."""
        bot = self._daemon.engine.bots.get(session.bot)
        if bot is None or bot.session is not session or bot.order is None:
            return None
        if bot.order is BotOrder.TERMINATE:
            return {"cmd": "terminate", "task_id": termination_id(session)}
        return {"cmd": "bot_restart", "message": f"told to {bot.order.value}"}

    def _pause_s(self, state: object) -> float:
        streak = state.get("sleep_streak") if isinstance(state, dict) else 0
        steps = min(streak, MAX_STREAK) if isinstance(streak, int) and streak > 0 else 0
        config = self._context.config
        return min(max(config.poll_max_s, config.poll_s), config.poll_s * STREAK_FACTOR**steps)

    async def _work(self, call: Call, session: Session, group: Group, uuid: str) -> dict[str, Any] | None:
        """The task that this poll gets, perhaps after a wait for one."""
        until = trio.current_time() + self._context.config.poll_hold_s
        with self._context.holds.take_over(session.id) as hold, held(self._daemon, session):
            while True:
                with self._daemon.step() as (engine, now):
                    if session.id not in engine.sessions:
                        return None
                    running = [a for a in session.attempts.values() if uuid and a.offer_key == uuid]
                    key = uuid or f"poll {now}"
                    accept_s = self._context.config.death_timeout_s  # hooks run before the first sign
                    fresh = (
                        [] if running or hold.called_back else engine.offer(now, session.id, key, 1, accept_s)
                    )
                    offers = running or fresh
                for attempt in offers:
                    made = await self._offering.tell(call, attempt, group)
                    if made is not None:
                        return made
                if offers:
                    continue  # it could not be told, or was canceled: the next one
                if await self._is_over(hold, session, until):
                    return None

    async def _is_over(self, hold: Hold, session: Session, until: float) -> bool:
        """Waits for work; True when there is no more to wait for."""
        over = hold.called_back or self._daemon.stopping.is_set() or trio.current_time() >= until
        if over or session.id not in self._daemon.engine.sessions or self._order(session) is not None:
            return True
        await hold.wait(1, until)
        return False

    # ------------------------------------------------------------- event

    async def swarming_event(self, call: Call) -> Reply:
        body: wire.EventCall = call.body
        token = await self._context.session(call, body.session)
        if not isinstance(body.event, str) or body.event not in EVENTS:
            raise wire.bad(f"event is {wire.shown(body.event)}", f"send one of {', '.join(EVENTS)}")
        wire.text(body.request_uuid or "", "request_uuid", wire.REQUEST_UUID)
        if faults := wire.state(body.state)[1]:
            raise wire.bad(faults[0])
        message = body.message if isinstance(body.message, str) else ""
        with self._daemon.step() as (engine, now):
            engine.bot_tells(now, BotId(token.bot), EVENTS[body.event], message)
            session = self._context.open_session_of(token)
            if session is not None and body.event in GOODBYES:
                engine.close_session(now, session.id, f"{body.event}: {message[:200]}")
        await self._daemon.settled()
        return reply({})
