"""The other way in which Swarming bots get work: leases. A lease is an offered attempt; claim makes it a manifest.

Neither a lease that is canceled nor one that is gone stops a running task: only the answer to `task_update` does. So a
lease here says no more than that there is work. Source: protocol reference, claim and RBE session endpoints.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import trio

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming import wire
from swarmd.api.swarming.context import Context, reply
from swarmd.api.swarming.groups import Group
from swarmd.api.swarming.ids import run_id, task_id
from swarmd.api.swarming.offering import Offering
from swarmd.api.swarming.tokens import SessionToken
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Attempt, AttemptId, AttemptState, BotOrder, OpId, Session
from swarmd.daemon.sessions import held

STATUSES = ("OK", "MAINTENANCE", "HOST_REBOOTING", "BOT_TERMINATING", "UNHEALTHY", "INITIALIZING")
LEASE_STATES = ("ACTIVE", "COMPLETED")
TERMINATION = "terminate-"  # begins the lease of an order to end, and the session's number follows


class RbeHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon
        self._offering = Offering(context)

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
        self._check_mode(self._context.group_of(call, token.bot))
        if not token.rbe:
            raise wire.bad("there is no RBE session in this session", "call rbe/session/create first")
        if body.status not in STATUSES:
            raise wire.bad(f"status is {body.status!r}"[:80], f"send one of {', '.join(STATUSES)}")
        lease = _lease(body.lease)
        self._daemon.note_life()
        session = self._context.open_session_of(token)
        answer: dict[str, Any] = {"status": "OK"}
        if session is None:  # a new process took over, or it was silent for too long: its next poll tells
            answer["status"] = "BOT_TERMINATING"
        elif lease is not None and lease.state == "ACTIVE":
            answer |= self._ping(session, lease)
        else:
            self._take_in(session, lease)
            if body.status == "OK":
                answer |= await self._next(session, wire.flag(body.nonblocking, "nonblocking"))
        await self._daemon.settled()
        return reply({**answer, "session": self._context.fresh(token)})

    def _ping(self, session: Session, lease: wire.Lease) -> dict[str, Any]:
        with self._daemon.step() as (engine, now):
            engine.seen(now, session.id)
            attempt = session.attempts.get(AttemptId(from_text(lease.id) or 0))
            if attempt is None and not lease.id.startswith(TERMINATION):
                return {}  # lost
            stopping = attempt is not None and attempt.stop is not None
        return {"lease": {"id": lease.id, "state": "CANCELLED" if stopping else "ACTIVE"}}

    def _take_in(self, session: Session, lease: wire.Lease | None) -> None:
        """The bot holds no lease, or has just closed one: what it was given and does not run goes back."""
        with self._daemon.step() as (engine, now):
            engine.seen(now, session.id)
            closed = AttemptId(from_text(lease.id) or 0) if lease is not None else None
            # An offer that was not claimed may have been lost with its answer: it is made again below.
            kept = [
                a.id for a in session.attempts.values() if a.id != closed and a.state is AttemptState.OFFERED
            ]
            engine.holds(now, session.id, (), (), lambda a: a.id not in kept)

    async def _next(self, session: Session, at_once: bool) -> dict[str, Any]:
        """A lease for a bot that can take one, perhaps after a wait for work."""
        until = trio.current_time() + (0.0 if at_once else self._context.config.rbe_hold_s)
        with self._context.holds.take_over(session.id) as hold, held(self._daemon, session):
            while True:
                with self._daemon.step() as (engine, now):
                    if session.id not in engine.sessions:
                        return {"status": "BOT_TERMINATING"}
                    order = engine.bots[session.bot].order
                    if order is BotOrder.TERMINATE:
                        return {"lease": _termination(session)}
                    if order is not None:
                        return {"status": "BOT_TERMINATING"}  # it polls, and is told there
                    again = list(session.attempts.values())
                    offers = again or engine.offer(
                        now, session.id, f"lease {now}", 1, self._context.config.death_timeout_s
                    )
                if offers:
                    return {"lease": self._as_lease(offers[0])}
                over = hold.called_back or self._daemon.stopping.is_set() or trio.current_time() >= until
                if over:
                    return {}
                await hold.wait(1, until)

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
                raise wire.bad(f"{name} is {getattr(body, name)!r}"[:80], "send what the lease says")
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
                {"cmd": "terminate", "task_id": f"{session.id:x}1"}
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
        "payload": {"reservation_id": f"{TERMINATION}{session.id}", "task_id": f"{session.id:x}0",
                    "slice_index": 0, "task_to_run_shard": 0, "task_to_run_id": 1},
    }  # fmt: skip


def _lease(given: object) -> wire.Lease | None:
    """The lease that a bot reports. Raises `Refused`."""
    if given is None:
        return None
    try:
        lease = msgspec.convert(given, wire.Lease)
    except msgspec.ValidationError as error:
        raise wire.bad(f"lease: {error}") from None
    if lease.state not in LEASE_STATES:
        raise wire.bad(f"lease.state is {lease.state!r}"[:80], f"send one of {', '.join(LEASE_STATES)}")
    return lease
