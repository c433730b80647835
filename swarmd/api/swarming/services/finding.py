"""From ids as clients write them to operations; what the file knows of these."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from msgspec import Struct

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming import tables
from swarmd.api.swarming.ids import parse
from swarmd.core.model import OpId
from swarmd.store.runs import RunRow, runs_by_id

NO_SUCH_TASK = "no such task"
RUN_DIGIT = 1  # of the id of an attempt that is named by its own number


class Named(Struct, frozen=True):
    """An id that a client sent. `op`: what it means, unless the attempt is named by its own number."""

    text: str
    op: OpId
    may_be_attempt: bool


def named(text: str, field: str = "task_id") -> Named:
    """Raises `RpcError` (INVALID_ARGUMENT) for what is no id."""
    if not text:
        raise RpcError(Code.INVALID_ARGUMENT, f"{field} is required")
    parsed = parse(text)
    if parsed is None:
        raise RpcError(Code.INVALID_ARGUMENT, f"bad {field} {text[:40]!r}: expected 16 lower-case hex digits")
    return Named(text, OpId(parsed[0]), parsed[1] == RUN_DIGIT)


def unknown(text: str = "") -> RpcError:
    return RpcError(Code.NOT_FOUND, f"{text}: {NO_SUCH_TASK}" if text else NO_SUCH_TASK)


def find_runs(ids: Sequence[Named]) -> Callable[[sqlite3.Connection], dict[str, RunRow]]:
    """A read that gives the tasks of `ids` by their texts; unknown ones are left out."""

    def read(conn: sqlite3.Connection) -> dict[str, RunRow]:
        runs = runs_by_id(conn, [id.op for id in ids])
        lost = [id.op for id in ids if id.op not in runs and id.may_be_attempt]
        others = tables.tasks_of_attempts(conn, lost)
        if others:
            more = runs_by_id(conn, others.values())
            runs |= {OpId(attempt): more[OpId(task)] for attempt, task in others.items() if task in more}
        return {id.text: runs[id.op] for id in ids if id.op in runs}

    return read
