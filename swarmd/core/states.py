"""Every legal step of a task and of an attempt stands here."""

from __future__ import annotations

from swarmd.core.model import AttemptState as A
from swarmd.core.model import Outcome, StopReason
from swarmd.core.model import TaskState as T

TASK_STEPS: frozenset[tuple[T, T]] = frozenset(
    {
        (T.BLOCKED, T.PENDING),  # what it waited for is done
        (T.PENDING, T.BLOCKED),  # its edges changed before it was offered
        (T.PENDING, T.RUNNING),  # accepted by a bot
        (T.RUNNING, T.PENDING),  # a retry
        (T.BLOCKED, T.COMPLETED),  # a marker; or its sameness key found a finished task
        (T.PENDING, T.COMPLETED),  # a bot may report the end of what it never said it had started
        (T.PENDING, T.EXPIRED),
        (T.PENDING, T.NO_RESOURCE),
        (T.PENDING, T.BOT_DIED),  # dropped by bots too often
        (T.BLOCKED, T.SKIPPED),
        (T.BLOCKED, T.CANCELED),
        (T.PENDING, T.CANCELED),
        (T.RUNNING, T.CANCELED),  # the bot had not started the command yet
        (T.RUNNING, T.COMPLETED),
        (T.RUNNING, T.TIMED_OUT),
        (T.RUNNING, T.KILLED),
        (T.RUNNING, T.BOT_DIED),
        (T.RUNNING, T.CLIENT_ERROR),
    }
)

ATTEMPT_STEPS: frozenset[tuple[A, A]] = frozenset(
    {
        (A.OFFERED, A.RUNNING),
        (A.OFFERED, A.DROPPED),  # never started: not counted
        (A.RUNNING, A.ENDED),
        (A.RUNNING, A.LOST),
    }
)


def final_state(outcome: Outcome, stop: StopReason | None) -> T:
    """The final state of a task whose last attempt ended with `outcome` while `stop` was in progress (or
    None).

    The reason that came first names the state: a stop that the engine began wins over what the bot says
    afterwards.
    Source: docs/architecture.md, "Limits"; the order of the rest as in the Swarming bot API.
    """
    if outcome.canceled and stop in (None, StopReason.CANCELED):
        return T.CANCELED
    if stop is StopReason.CANCELED:
        return T.KILLED
    if stop is not None or outcome.timed_out:
        return T.TIMED_OUT
    if outcome.client_error:
        return T.CLIENT_ERROR
    if outcome.died:
        return T.BOT_DIED
    return T.COMPLETED
