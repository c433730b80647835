"""What a bot says of its leases, beside what the daemon knows of them.

    the bot says        the daemon knows                what becomes of it
    COMPLETED           the attempt is live here        it ends
    COMPLETED           anything else                   nothing; the lease is not told any more
    ACTIVE              live, not being stopped         it runs
    PENDING             offered as pending              the bot has it
    anything            being stopped, or not live here the lease is not told any more: the bot drops it
    anything else       live                            illegal, unless the bot knows the newest revision
    nothing             being stopped                   it ends: the bot has let it go
    nothing             live                            it is told again

Source: protocol reference, lease state machine; docs/remoteworkers.md, "Leases".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swarmd.api.remoteworkers.ids import ACTIVE, COMPLETED, PENDING, attempt_of
from swarmd.api.remoteworkers.payloads import Report, report_of
from swarmd.api.remoteworkers.worker import MAX_CAPACITY
from swarmd.api.rpc import Code, RpcError
from swarmd.core.engine import Engine
from swarmd.core.model import Attempt, AttemptId, AttemptState, Outcome, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarmd.api.remoteworkers.proto.bots_pb2 import Lease

MOST_NAMED = 4 * MAX_CAPACITY  # a lease is two bytes or more, and looked at by itself
LET_GO = "its bot let it go"


class Said:
    """What a call says of leases, sorted. Nothing has happened yet."""

    def __init__(self) -> None:
        self.named: dict[AttemptId, Lease] = {}  # that the bot holds, whether they are live here or not
        self.completed: list[tuple[AttemptId, Report]] = []
        self.started: list[Attempt] = []
        self.received: list[Attempt] = []
        self.let_go: list[Attempt] = []
        self.illegal: Lease | None = None
        self.reports = False  # whether it says of any lease that it is completed


def check_count(leases: Sequence[Lease]) -> None:
    """Raises `RpcError` for more leases than any bot has."""
    if len(leases) > MOST_NAMED:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"it names {len(leases)} leases; at most {MOST_NAMED} can be named"
        )


def said_of(session: Session, leases: Sequence[Lease], pending_first: bool, is_current: bool) -> Said:
    """Sorts what a bot says. `is_current`: it knows all that it was told; then nothing it says is an error, as with
    BuildGrid, which does not even look."""
    said = Said()
    for lease in leases:
        id = attempt_of(lease)
        attempt = session.attempts.get(id)
        if lease.state == COMPLETED:
            said.reports = True
            if attempt is not None:
                said.completed.append((id, report_of(lease)))
            continue
        said.named[id] = lease
        if attempt is None or attempt.stop is not None:
            continue
        if lease.state == ACTIVE:
            said.started.append(attempt)
        elif lease.state == PENDING and pending_first and attempt.state is AttemptState.OFFERED:
            said.received.append(attempt)
        elif not is_current:
            said.illegal = said.illegal or lease
    said.let_go = [a for id, a in session.attempts.items() if a.stop is not None and id not in said.named]
    return said


def take_in(engine: Engine, now: float, session: Session, said: Said) -> None:
    """Lets it happen, in one step of the engine."""
    for id, report in said.completed:
        attempt = session.attempts.get(id)
        if attempt is None:
            continue  # a child of one that ended before it in this loop
        for stream, data in (("stdout", report.stdout), ("stderr", report.stderr)):
            if data:
                engine.report_output(now, attempt, stream, 0, data)
        engine.finish(now, session.id, id, report.outcome)
    _each_live(session, said.started, lambda attempt: engine.accept(now, attempt))
    _each_live(session, said.received, engine.received)
    outcome = Outcome(ok=False, reason=LET_GO)
    _each_live(session, said.let_go, lambda attempt: engine.finish(now, session.id, attempt.id, outcome))


def _each_live(session: Session, attempts: list[Attempt], act: Callable[[Attempt], object]) -> None:
    for attempt in attempts:
        if attempt.id in session.attempts:
            act(attempt)
