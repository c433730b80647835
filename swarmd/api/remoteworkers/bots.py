"""The service Bots: how a bot comes, what it says, and how it waits for work.

    CreateBotSession    a process comes; an older session of the same bot ends
    UpdateBotSession    it says what became of its leases, and is told what it holds now
    PostBotEventTemp    it has something for its history

A call waits while there is nothing to tell, at most for a share of what its deadline leaves. Source: protocol
reference, the service Bots; docs/remoteworkers.md.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING
from uuid import uuid4

import trio
from google.protobuf import empty_pb2

from swarmd.api.remoteworkers import worker
from swarmd.api.remoteworkers.context import (
    PROTOCOL,
    Context,
    Ledger,
    answered,
    illegal,
    instance_of,
    version_of,
    whole,
)
from swarmd.api.remoteworkers.leases import Said, check_count, said_of, take_in
from swarmd.api.remoteworkers.offering import Answer, Offering, Told
from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.api.rpc import Code, RpcError
from swarmd.config_remoteworkers import InstanceRules
from swarmd.core.engine import Engine
from swarmd.core.ids import to_text
from swarmd.core.model import AttemptId, BotId, Session
from swarmd.daemon.daemon import NoSpace
from swarmd.daemon.sessions import Hold, held

if TYPE_CHECKING:
    from swarmd.api.grpc import RpcCall

log = logging.getLogger("swarmd.remoteworkers")

SHARE = 0.8  # of the time that a call has left: the answer must be there before its deadline
LAST_SHARE = 0.9  # at the latest then
LEAST_WAIT_S = 3.0  # a shorter wait is none
INFO, ERROR = 1, 2  # types of a bot's event
MAX_OFFERS = 64  # in one answer: what a lease carries may be long


class _Exchange:
    """One Create or Update on its way to its answer."""

    def __init__(
        self,
        given: bots_pb2.BotSession,
        rules: InstanceRules,
        capacity: int,
        wait_s: float,
        deadline: float,
    ) -> None:
        self.given = given
        self.pending_first = rules.leases == "pending"
        self.capacity = capacity  # leases that this call says the bot can hold
        now = trio.current_time()
        self.until = now + wait_s
        self.told_by = now + LAST_SHARE * (deadline - now)  # if only why it cannot be answered
        self.waits = wait_s > 0 and given.status == worker.OK
        self.said = Said()

    def is_news(self, told: Told) -> bool:
        """Whether the bot does not know yet what it would be told."""
        before = {lease.id: lease.state for lease in self.given.leases}
        return before != {lease.id: lease.state for lease in told.leases}


class BotHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon
        self._offering = Offering(context)

    # ------------------------------------------------------------- a bot comes

    @answered
    async def create_bot_session(
        self, call: RpcCall, request: bots_pb2.CreateBotSessionRequest
    ) -> bots_pb2.BotSession:
        given = request.bot_session
        rules = self._context.rules(request.parent)
        if not given.bot_id:
            raise RpcError(Code.INVALID_ARGUMENT, "Bots's id must be set by client.")
        check_count(given.leases)
        capacity = whole(worker.capacity_text(given.worker))
        self._daemon.check_space()
        exchange = _Exchange(given, rules, capacity, self._wait_s(call), call.deadline)
        given.name = f"{request.parent}/{uuid4()}"
        newcomer = self._context.newcomer(given, rules, capacity)
        with self._daemon.step() as (engine, now):
            opened = engine.open_session(now, newcomer)
            session = engine.sessions[opened.session]
            exchange.said = said_of(session, given.leases, exchange.pending_first, is_current=True)
            take_in(engine, now, session, exchange.said)
            engine.bot_says(now, session.bot, *worker.health(given.status))
        log.info("session.opened", extra={"bot": given.bot_id, "session": to_text(session.id)})
        answer = await self._answer(exchange, session, Ledger())
        if answer.version == "0":
            answer.version = ""
        return answer

    # ------------------------------------------------------------- it says what it holds

    @answered
    async def update_bot_session(
        self, call: RpcCall, request: bots_pb2.UpdateBotSessionRequest
    ) -> bots_pb2.BotSession:
        given = request.bot_session
        if request.name != given.name:
            raise RpcError(
                Code.INVALID_ARGUMENT,
                "Name in UpdateBotSessionRequest does not match BotSession. "
                f"UpdateBotSessionRequest.name=[{request.name}] BotSession.name=[{given.name}]",
            )
        rules = self._context.rules(instance_of(request.name))
        check_count(given.leases)
        version = version_of(given)
        capacity = whole(worker.capacity_text(given.worker))
        exchange = _Exchange(given, rules, capacity, self._wait_s(call), call.deadline)
        session = self._context.session(given, exchange.capacity)
        known = self._context.ledger(session) or Ledger(version)
        said = exchange.said = said_of(
            session, given.leases, exchange.pending_first, is_current=version == known.revision
        )
        self._daemon.note_life()
        with self._daemon.step() as (engine, now):
            self._hear(engine, now, session, exchange, rules)
            if said.illegal is None:
                engine.seen(now, session.id)  # last: what an ended task tolerated counts no more
            else:
                engine.close_session(
                    now, session.id, f"it says what cannot be of lease {said.illegal.id[:40]!r}"
                )
        if said.illegal is not None:
            await self._daemon.settled()
            raise illegal(given, exchange.capacity, said.illegal.state)
        ended = frozenset(id for id, _ in said.completed)
        return await self._answer(
            exchange, session, Ledger(known.revision + said.reports, known.told - ended)
        )

    def _hear(
        self, engine: Engine, now: float, session: Session, exchange: _Exchange, rules: InstanceRules
    ) -> None:
        """What became of its leases, how it is by its own word, and what the configuration says of it now."""
        take_in(engine, now, session, exchange.said)
        bot = engine.bots[session.bot]
        self._context.note_status(engine, bot, exchange.given.status)
        engine.bot_says(now, bot.id, *worker.health(exchange.given.status))
        changed = self._context.reconfigured(bot, session, rules)
        if changed is not None:
            engine.describe(now, changed)

    # ------------------------------------------------------------- it is told what it holds now

    def _wait_s(self, call: RpcCall) -> float:
        """How long a call may wait for something to tell; 0: it is answered at once."""
        config = self._context.config
        left_s = config.assumed_deadline_s if call.deadline == inf else call.deadline - trio.current_time()
        wait_s = min(SHARE * min(left_s, config.keep_alive_s), config.hold_s)
        return wait_s if wait_s >= LEAST_WAIT_S else 0.0

    async def _answer(self, exchange: _Exchange, session: Session, known: Ledger) -> bots_pb2.BotSession:
        with self._context.holds.take_over(session.id) as hold, held(self._daemon, session):
            self._context.keep(session, known)
            told = await self._something_to_tell(exchange, session, hold)
            if session.id not in self._daemon.engine.sessions:
                raise self._context.gone(exchange.given, exchange.capacity)
            known = self._context.ledger(session) or known
            fresh = told.attempts - known.told - exchange.said.named.keys()
            revision = known.revision + len(fresh) + len(known.told - told.attempts)
            self._context.keep(session, Ledger(revision, told.attempts))
            await self._settled(exchange)
        answer = bots_pb2.BotSession()
        answer.CopyFrom(exchange.given)
        del answer.leases[:]
        answer.leases.extend(told.leases)
        answer.version = str(revision)
        expires = self._daemon.clock.wall() + self._daemon.engine.patience_s(session)
        answer.expire_time.FromNanoseconds(round(expires * 1e6) * 1000)
        return answer

    async def _settled(self, exchange: _Exchange) -> None:
        """As the daemon's; but a call whose deadline comes before the daemon loses patience with a full disk is told
        so in time: after its deadline a bot takes its session for lost. Raises `NoSpace`."""
        with trio.move_on_at(exchange.told_by):
            await self._daemon.settled()
            return
        if self._daemon.writer.out_of_space:
            raise NoSpace("the disk is full: what this would tell is not in the file yet")
        await self._daemon.settled()

    async def _something_to_tell(self, exchange: _Exchange, session: Session, hold: Hold) -> Told:
        """Waits until there is something that the bot does not know, or the call has waited long enough."""
        limit, answer = MAX_OFFERS, Answer(exchange.said.named, exchange.pending_first)
        while True:
            told = await self._filled(exchange, session, answer, limit)
            over = not exchange.waits or len(told.leases) >= exchange.capacity or hold.called_back
            over = over or self._daemon.stopping.is_set() or trio.current_time() >= exchange.until
            if over or exchange.is_news(told) or session.id not in self._daemon.engine.sessions:
                return told
            free = session.slots - len(session.attempts) if told.room > 0 else 0
            limit = await hold.wait(free, exchange.until)

    async def _filled(self, exchange: _Exchange, session: Session, answer: Answer, limit: int) -> Told:
        """What it is told when it got what it can take: as many leases as it said when it opened the session that it
        can hold, as far as there is room for what they carry. How much that is only reading tells, so one comes first,
        and then as many as there is room for if they are like what came."""
        limit = min(limit, MAX_OFFERS)
        while True:
            told = await self._offering.tell(session, answer)
            like_these = told.room // told.largest if told.leases else 1
            count = min(limit, max(1, like_these)) if told.room > 0 else 0
            given = self._offer(exchange, session, count)
            if not given:
                break
            answer.given.update(given)
            limit -= len(given)
        if limit > 0 and told.room <= 0 and answer.given:
            with self._daemon.step() as (engine, _):
                engine.pass_on(session.id)  # it may have been woken for more than it took
        return told

    def _offer(self, exchange: _Exchange, session: Session, limit: int) -> list[AttemptId]:
        if session.id not in self._daemon.engine.sessions or exchange.given.status != worker.OK:
            return []
        free = min(limit, session.slots - len(session.attempts))
        if free <= 0:
            return []
        with self._daemon.step() as (engine, now):
            # No live attempt can have this key already: each of them is of an earlier moment or a smaller number.
            key = f"lease {now} {max(session.attempts, default=AttemptId(0))}"
            return [attempt.id for attempt in engine.offer(now, session.id, key, free, session.deadline_s)]

    # ------------------------------------------------------------- it has something for its history

    @answered
    async def post_bot_event_temp(
        self, call: RpcCall, request: bots_pb2.PostBotEventTempRequest
    ) -> empty_pb2.Empty:
        if not self._context.config.events:
            raise RpcError(Code.UNIMPLEMENTED, "")
        self._context.rules(instance_of(request.name))
        sessions = self._daemon.engine.sessions.values()
        session = next((s for s in sessions if s.protocol == PROTOCOL and s.key == request.name), None)
        if session is None:
            raise RpcError(Code.INVALID_ARGUMENT, f"there is no session {request.name[:200]}")
        kind = "bot.error" if request.type == ERROR else "bot.log"
        with self._daemon.step() as (engine, now):
            engine.bot_tells(now, BotId(session.bot), kind, request.msg)
        await self._daemon.settled()
        return empty_pb2.Empty()
