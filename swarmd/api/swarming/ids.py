"""Task ids as Swarming writes them: a number in hex, and one more digit that says what of the task is meant.

    number  = milliseconds since 2010 << 20 | counter       our own id, counted from 2010 instead of 1970
    task id = hex(number) + "0"                              the request
    run id  = hex(number) + hex(attempt)                     its attempt 1 to 15

Two reports on two attempts of a task differ in the last digit, so a stale one is told apart. An attempt above the 15th
has no digit left: its run id is made of its own number, and ends in 1.

Source: protocols of LUCI Swarming, task ids; docs/swarming.md, "Task ids".
"""

from __future__ import annotations

import re

from swarmd.core.engine import Engine
from swarmd.core.model import Attempt, AttemptId, OpId, Session, TaskId

EPOCH_S = 1_262_304_000  # 2010-01-01T00:00:00Z
_EPOCH = EPOCH_S * 1000 << 20
_MASK = (1 << 63) - 1
MAX_DIGIT = 15
_TEXT = re.compile(r"[0-9a-f]{2,17}")
NO_TASK = "10"  # an id that is none of ours, where one must be given


def task_id(op: OpId) -> str:
    """The id of an operation: 16 hex digits, the last one 0."""
    return _text(op, 0)


def run_id(attempt: Attempt) -> str:
    """The id of an attempt."""
    if attempt.number <= MAX_DIGIT:
        return _text(attempt.task, attempt.number)
    return _text(attempt.id, 1)


def run_id_of(task: int, number: int, attempt: AttemptId) -> str:
    """As `run_id`, for an attempt that is known from the file."""
    return _text(task, number) if number <= MAX_DIGIT else _text(attempt, 1)


def termination_id(session: Session, digit: int = 1) -> str:
    """The run id under which a bot confirms that it ends itself, by an order that is no task."""
    return _text(session.id, digit)


def parse(text: object) -> tuple[int, int] | None:
    """The id of ours behind a task or run id, and its last digit; None for what is none."""
    if not isinstance(text, str) or not _TEXT.fullmatch(text):
        return None
    number = int(text, 16)
    if number >> 4 > _MASK:
        return None
    return ((number >> 4) + _EPOCH) & _MASK, number & 15


def is_run_of(text: object, attempt: Attempt) -> bool:
    """Whether a bot means this attempt: by its run id, or by the request id, which names whatever runs."""
    parsed = parse(text)
    if parsed is None:
        return False
    id, digit = parsed
    if id == attempt.task:
        return digit in (0, attempt.number)
    return attempt.number > MAX_DIGIT and id == attempt.id


def live_run(engine: Engine, text: object) -> Attempt | None:
    """The live attempt of any bot that a bot means."""
    parsed = parse(text)
    if parsed is None:
        return None
    task = engine.tasks.get(TaskId(parsed[0]))
    attempt = engine.attempts.get(AttemptId(parsed[0])) if task is None else task.attempt
    return attempt if attempt is not None and is_run_of(text, attempt) else None


def _text(id: int, digit: int) -> str:
    return f"{(id - _EPOCH) & _MASK:x}{digit:x}"
