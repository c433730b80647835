"""From attempts to the leases that a bot is told, with what they carry; the end of what cannot be told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from swarmd.api.remoteworkers.context import Context
from swarmd.api.remoteworkers.ids import lease_id, state_of
from swarmd.api.remoteworkers.payloads import payload_of
from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.core.ids import to_text
from swarmd.core.model import Attempt, AttemptId, Outcome, Session
from swarmd.daemon.works import work_of

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

log = logging.getLogger("swarmd.remoteworkers")

# Clients of gRPC take messages of up to 4 MiB unless they are told otherwise, and never get past a longer answer: it
# would be the same again.
MAX_PAYLOAD_BYTES = 3 << 20
ROOM_BYTES = 768 << 10  # of leases in an answer, above which no other one is added


class Told(NamedTuple):
    """The leases of a session as they are told."""

    leases: list[bots_pb2.Lease]
    attempts: frozenset[AttemptId]
    room: int  # bytes of another lease that may begin in the answer; 0 or less: it is full
    largest: int  # bytes of the largest lease


class Answer:
    """What one call is told, which may grow while it waits."""

    def __init__(self, named: Mapping[AttemptId, bots_pb2.Lease], pending_first: bool) -> None:
        self.named = named  # leases that the call names
        self.pending_first = pending_first
        self.given: set[AttemptId] = set()  # by this call
        self.carried: dict[AttemptId, Any] = {}  # what the others carry


class Offering:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon

    async def tell(self, session: Session, answer: Answer) -> Told:
        """What the session holds, in the order in which it was given, without what no lease can carry: that ends here.

        A lease that its bot named is told as it was named; any other one with all that it carries, each time. What
        this call was given and has no room in its answer goes back to the queue.
        """
        leases, told, room, largest = [], set(), ROOM_BYTES, 1
        for attempt in _live(session):
            if attempt.id in answer.given and room <= 0:
                self._give_back(attempt)
                continue
            lease = await self._lease(attempt, answer)
            if lease is not None and attempt.id in session.attempts and attempt.stop is None:
                leases.append(lease)
                told.add(attempt.id)
                size = lease.ByteSize()
                room, largest = room - size, max(largest, size)
        return Told(leases, frozenset(told), room, largest)

    async def _lease(self, attempt: Attempt, answer: Answer) -> bots_pb2.Lease | None:
        lease = bots_pb2.Lease()
        if attempt.id in answer.named:
            lease.CopyFrom(answer.named[attempt.id])
        else:
            if attempt.id not in answer.carried:
                payload = await self._payload(attempt)
                if payload is None:
                    return None
                answer.carried[attempt.id] = payload
            lease.id = lease_id(attempt.id)
            lease.payload.CopyFrom(answer.carried[attempt.id])
        lease.state = state_of(attempt, answer.pending_first)  # type: ignore[assignment]
        return lease

    def _give_back(self, attempt: Attempt) -> None:
        with self._daemon.step() as (engine, now):
            if attempt.id in engine.attempts:
                engine.drop(now, attempt, "the answer to its bot had no room for it", counted=False)

    async def _payload(self, attempt: Attempt) -> Any | None:
        """What the lease of an attempt carries; None when the attempt has ended meanwhile, perhaps because that is too
        long."""
        task = self._daemon.engine.tasks.get(attempt.task)
        read = None if task is None else await work_of(self._daemon, attempt, task.slice)
        if read is None:
            return None
        text, work = read
        payload = payload_of(work, text, attempt)
        if len(payload.value) > MAX_PAYLOAD_BYTES:
            self._refuse(
                attempt, f"it has {len(payload.value)} bytes; a lease carries at most {MAX_PAYLOAD_BYTES}"
            )
            return None
        return payload

    def _refuse(self, attempt: Attempt, reason: str) -> None:
        log.warning("task.too_large", extra={"attempt": to_text(attempt.id), "reason": reason})
        with self._daemon.step() as (engine, now):
            if attempt.id in engine.attempts:
                engine.finish(
                    now, attempt.session, attempt.id, Outcome(ok=False, client_error=True, reason=reason)
                )


def _live(session: Session) -> list[Attempt]:
    """The attempts that are told: one that is being stopped is not, which is how a bot learns of it."""
    return [attempt for attempt in session.attempts.values() if attempt.stop is None]
