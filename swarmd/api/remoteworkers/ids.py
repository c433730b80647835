"""Names of leases and their states. A lease is an attempt, so its id tells a stale report from a fresh one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Attempt, AttemptId, AttemptState

if TYPE_CHECKING:
    from swarmd.api.remoteworkers.proto.bots_pb2 import Lease

PENDING, ACTIVE, COMPLETED, CANCELLED = 1, 2, 4, 5  # states of a lease


def lease_id(attempt: AttemptId) -> str:
    return to_text(attempt)


def attempt_of(lease: Lease) -> AttemptId:
    """The attempt behind a lease; one that is none has no attempt's number."""
    return AttemptId(from_text(lease.id) or 0)


def state_of(attempt: Attempt, pending_first: bool) -> int:
    """In which state an attempt is told."""
    return PENDING if pending_first and attempt.state is AttemptState.OFFERED else ACTIVE
