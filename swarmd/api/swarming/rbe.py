"""The other way in which Swarming bots get work: leases. A lease is an offered attempt; claim makes it a manifest.

Neither a lease that is canceled nor one that is gone stops a running task: only the answer to `task_update` does. So a
lease here says no more than that there is work. Source: protocol reference, claim and RBE session endpoints.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Any

import msgspec
import trio

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming import wire
from swarmd.api.swarming.context import Context, reply
from swarmd.api.swarming.groups import Group
from swarmd.api.swarming.ids import NO_TASK, run_id, task_id, termination_id
from swarmd.api.swarming.offering import Offering
from swarmd.api.swarming.tokens import SessionToken
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Attempt, AttemptId, AttemptState, BotOrder, OpId, Outcome, Session
from swarmd.daemon.sessions import held

STATUSES = ("OK", "MAINTENANCE", "HOST_REBOOTING", "BOT_TERMINATING", "UNHEALTHY", "INITIALIZING")
LEASE_STATES = ("ACTIVE", "COMPLETED")
TERMINATION = "terminate-"  # begins the lease of an order to end, and the session's number follows
NUDGE = "poll-"  # begins the lease that sends a bot to its poll
NUDGE_S = 60.0  # between two of them; a bot polls within a second of one


class RbeHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon
        self._offering = Offering(context)
        self._nudged: OrderedDict[str, float] = OrderedDict()  # sessions for leases, and when each was

    async def swarming_rbe_create(self, call: Call) -> Reply:
        body: wire.RbeCreateCall = call.body
        token = await self._context.session(call, body.session)
        self._check_mode(self._context.group_of(call, token.bot))
        rbe = secrets.token_hex(12)
        text = self._context.token(token.bot, token.session_key, token.config, rbe)
        return reply({"session": text, "session_id": rbe})

    @staticmethod
    def _check_mode(group: Group) -> None:
        if group.mode == "native":
            raise wire.bad("this bot's pool gives work by poll", 'set mode = "rbe" or "hybrid" for its pool')

    # ------------------------------------------------------------- leases

    async def swarming_rbe_update(self, call: Call) -> Reply:
        body: wire.RbeUpdateCall = call.body
        token = await self._context.session(call, body.session)
        group = self._context.group_of(call, token.bot)
        self._check_mode(group)
        if not token.rbe:
            raise wire.bad("there is no RBE session in this session", "call rbe/session/create first")
        if body.status not in STATUSES:
            raise wire.bad(f"status is {wire.shown(body.status)}", f"send one of {', '.join(STATUSES)}")
        lease = _lease(body.lease)
        at_once = wire.flag(body.nonblocking, "nonblocking")
        self._daemon.note_life()
        if lease is not None and lease.state == "ACTIVE":
            answer = self._ping(token, lease)
        else:
            asks = body.status == "OK"
            session = self._take_in(group, token, lease, asks)
            answer = await self._next(group, token, session, at_once) if asks else {}
        await self._daemon.settled()
        # Another status would make the bot open a session for leases anew, at once and again and again.
        return reply({"status": "OK", **answer, "session": self._context.fresh(token)})

    def _ping(self, token: SessionToken, lease: wire.Lease) -> dict[str, Any]:
        session = self._context.open_session_of(token)
        if session is None:
            return {}  # lost
        with self._daemon.step() as (engine, now):
            engine.seen(now, session.id)
            attempt = session.attempts.get(_attempt_of(lease))
            if attempt is None and not lease.id.startswith((TERMINATION, NUDGE)):
                return {}
            stopping = attempt is not None and attempt.stop is not None
        return {"lease": {"id": lease.id, "state": "CANCELLED" if stopping else "ACTIVE"}}

    def _take_in(
        self, group: Group, token: SessionToken, lease: wire.Lease | None, asks: bool
    ) -> Session | None:
        """The bot closes a lease, or has none. None when another process of it has the session, or none does and it
        does not ask for work: its last call comes after its goodbye.

        Who asks for work runs nothing. Who does not may be a runner that keeps the session for leases while its task
        came by a poll, so nothing is lost by that. An offer that was not closed may have been lost with its answer: it
        is made again.
        """
        with self._daemon.step() as (engine, now):
            session = self._context.open_session_of(token)
            if session is None and asks:
                session = self._context.come_back(engine, now, group, token)
            if session is None:
                return None
            engine.seen(now, session.id)
            closed = AttemptId(0) if lease is None else _attempt_of(lease)
            running = [a.id for a in session.attempts.values() if a.state is AttemptState.RUNNING]
            ending = session.ending
            if (
                not asks
                and ending is not None
                and ending.id == closed
                and ending.state is AttemptState.RUNNING
            ):
                # What a bot that was told to end reports of it may have been lost; that it leaves says the same.
                engine.finish(now, session.id, closed, Outcome(ok=True, exit_code=0))
                return None
            kept = [] if asks else [id for id in running if id != closed]
            engine.holds(now, session.id, kept, (), lambda a: a.id == closed)
        return session

    async def _next(
        self, group: Group, token: SessionToken, session: Session | None, at_once: bool
    ) -> dict[str, Any]:
        """A lease for a bot that can take one, perhaps after a wait for work."""
        hold_s = 0.0 if at_once else self._context.config.rbe_hold_s
        if session is None:  # its poll tells this process that there is another one
            return self._nudge(token) or await self._nothing(hold_s)
        until = trio.current_time() + hold_s
        with self._context.holds.take_over(session.id) as hold, held(self._daemon, session):
            while True:
                with self._daemon.step() as (engine, now):
                    if hold.called_back or session.id not in engine.sessions:
                        return {}  # a newer call gets what there is
                    bot = engine.bots[session.bot]
                    order = (
                        None if bot.is_to_end or session.ending is not None else bot.order
                    )  # a task comes first
                    if order is BotOrder.TERMINATE:
                        return {"lease": _termination(session)}
                    nudge = self._nudge(token) if order is not None and group.mode == "rbe" else None
                    if nudge is not None:
                        return nudge
                    offers = list(session.attempts.values()) or engine.offer(
                        now, session.id, f"lease {now}", 1, self._context.config.death_timeout_s
                    )
                if offers:
                    return {"lease": self._as_lease(offers[0])}
                if self._daemon.stopping.is_set() or trio.current_time() >= until:
                    return {}
                await hold.wait(1, until)

    async def _nothing(self, hold_s: float) -> dict[str, Any]:
        with trio.move_on_after(hold_s):
            await self._daemon.stopping.wait()
        return {}

    def _nudge(self, token: SessionToken) -> dict[str, Any] | None:
        """A lease without work, after which the bot polls at once; None when it was given one just now.

        An idle bot in RBE mode polls every 100 to 140 s only, but also at the moment when it becomes idle again.
        """
        now = self._daemon.clock.now()
        while self._nudged and next(iter(self._nudged.values())) <= now - NUDGE_S:
            self._nudged.popitem(last=False)
        if token.rbe in self._nudged:
            return None
        self._nudged[token.rbe] = now
        id = f"{NUDGE}{token.rbe}"
        payload = {"reservation_id": id, "task_id": NO_TASK, "noop": True}
        return {"lease": {"id": id, "state": "PENDING", "payload": payload}}

    def _as_lease(self, attempt: Attempt) -> dict[str, Any]:
        slice = self._daemon.engine.tasks[attempt.task].slice
        text = task_id(OpId(attempt.task))
        return {
            "id": to_text(attempt.id),
            "state": "PENDING",
            "payload": {
                "reservation_id": f"swarmd-{text}-{slice}-{attempt.number}",
                "task_id": text,
                "slice_index": slice,
                "task_to_run_shard": 0,
                "task_to_run_id": attempt.number,
            },
        }

    # ------------------------------------------------------------- claim

    async def swarming_claim(self, call: Call) -> Reply:
        body: wire.ClaimCall = call.body
        token = await self._context.session(call, body.session)
        for name in ("claim_id", "task_id"):
            if not isinstance(getattr(body, name), str) or not getattr(body, name):
                raise wire.bad(f"{name} is {wire.shown(getattr(body, name))}", "send what the lease says")
        self._daemon.note_life()
        answer = await self._claim(call, token, body.claim_id)
        await self._daemon.settled()
        return reply({**answer, "session": self._context.fresh(token)})

    async def _claim(self, call: Call, token: SessionToken, claim_id: str) -> dict[str, Any]:
        session = self._context.open_session_of(token)
        if session is None:
            return {"cmd": "skip", "reason": "No such task"}
        if claim_id == f"{TERMINATION}{session.id}":
            ordered = self._daemon.engine.bots[session.bot].order is BotOrder.TERMINATE
            return (
                {"cmd": "terminate", "task_id": termination_id(session)}
                if ordered
                else {"cmd": "skip", "reason": "No such task"}
            )
        attempt = session.attempts.get(AttemptId(from_text(claim_id) or 0))
        if attempt is None:
            return {"cmd": "skip", "reason": self._why_gone(claim_id)}
        with self._daemon.step() as (engine, now):
            engine.seen(now, session.id)
            engine.accept(now, attempt)
        made = await self._offering.tell(call, attempt, self._context.group_of(call, token.bot))
        if made is None:
            return {"cmd": "skip", "reason": "No such task"}
        return {**made, "task_id": run_id(attempt)}

    def _why_gone(self, claim_id: str) -> str:
        other = self._daemon.engine.attempts.get(AttemptId(from_text(claim_id) or 0))
        return "No such task" if other is None else f"Already claimed by {other.bot}"


def _termination(session: Session) -> dict[str, Any]:
    return {
        "id": f"{TERMINATION}{session.id}",
        "state": "PENDING",
        "payload": {"reservation_id": f"{TERMINATION}{session.id}", "task_id": termination_id(session, 0),
                    "slice_index": 0, "task_to_run_shard": 0, "task_to_run_id": 1},
    }  # fmt: skip


def _attempt_of(lease: wire.Lease) -> AttemptId:
    """The attempt behind a lease; one that is none has no attempt's number."""
    return AttemptId(from_text(lease.id) or 0)


def _lease(given: object) -> wire.Lease | None:
    """The lease that a bot reports. Raises `Refused`."""
    if given is None:
        return None
    try:
        lease = msgspec.convert(given, wire.Lease)
    except msgspec.ValidationError as error:
        raise wire.bad(f"lease: {error}") from None
    if lease.state not in LEASE_STATES:
        raise wire.bad(f"lease.state is {wire.shown(lease.state)}", f"send one of {', '.join(LEASE_STATES)}")
    return lease
