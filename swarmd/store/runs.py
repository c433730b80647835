"""Operations with what their newest attempt was, for clients that show tasks as runs on bots."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec import Struct

from swarmd.core.model import AttemptState, Outcome, StopReason, TaskState
from swarmd.core.states import final_state

from .creation import MAX_OP, span_of
from .selecting import (
    OP_COLUMNS,
    OP_WIDTH,
    OpFilter,
    OpRow,
    created_within,
    one_of,
    op_row,
    parts_of,
    rows_by_id,
    select,
)

Sort = Literal["created", "started", "ended"]
Place = tuple[float, int]  # of an attempt in a list; for "created" the first is an integer

_outcome = msgspec.json.Decoder(Outcome)


class RunRow(Struct, frozen=True):
    """An operation and how the newest attempt of its task went. Moments ending in `_wall` are wall time.

    The fields of the attempt are None when there was none, which `op.attempt` tells too.
    """

    op: OpRow
    slice: int
    state: AttemptState | None  # of the attempt
    offered_at: float | None
    offered_wall: float | None
    ended_wall: float | None
    stop_reason: str | None  # also when the attempt is over
    stop_since_wall: float | None
    outcome: bytes | None  # JSON of core.model.Outcome


_COLUMNS = f"""{OP_COLUMNS}, t.slice, a.state, a.offered_at, a.offered_wall, a.ended_wall,
    a.stop_reason, a.offered_wall + a.stop_since_at - a.offered_at, a.outcome
"""


def list_runs(conn: sqlite3.Connection, wanted: OpFilter, before: int | None, limit: int) -> list[RunRow]:
    """Operations that match, newest first, below id `before`."""
    return [_run_row(row) for row in select(conn, _COLUMNS, wanted, before, limit)]


def runs_by_id(conn: sqlite3.Connection, ids: Iterable[int]) -> dict[int, RunRow]:
    """The operations of `ids` that exist."""
    return {row[0]: _run_row(row) for row in rows_by_id(conn, _COLUMNS, ids)}


def _run_row(row: Sequence[Any]) -> RunRow:
    slice, state, *rest = row[OP_WIDTH:]
    return RunRow(op_row(row[:OP_WIDTH]), slice, None if state is None else AttemptState(state), *rest)


# --------------------------------------------------------------------- what ran on a bot


class BotFilter(Struct, frozen=True):
    """What ran on `bot`; every other field that is given must match. Moments are wall time."""

    bot: str
    sort: Sort = "created"
    begin: float | None = None  # by the moment that it is sorted by
    end: float | None = None  # itself not
    states: tuple[TaskState, ...] = ()
    failed: bool | None = None

    def agrees(self, state: TaskState, ok: bool) -> bool:
        failed = state.is_final and not ok
        return (not self.states or state in self.states) and self.failed in (None, failed)


class BotRun(Struct, frozen=True):
    """An attempt that a bot has started, with its operation. It may not be the newest: then `run` has the fields of
    this one, but what `run.op` says of the end is the task's."""

    run: RunRow
    state: TaskState  # how this attempt stands: RUNNING, or what it would have made of its task
    ok: bool
    place: Place


def runs_of_bot(conn: sqlite3.Connection, wanted: BotFilter, after: Place | None, limit: int) -> list[BotRun]:
    """What ran on a bot, newest first, behind the place `after`; by creation in the order of ids.

    Cost: by creation O(attempts newer than the page), by start and end O(all attempts of the bot). Index: attempts_bot.
    """
    assert limit > 0
    chosen = _by_creation if wanted.sort == "created" else _by_moment
    places = {place[1]: place for place in chosen(conn, wanted, after, limit)}
    rows = {row[0]: _run_row(row[1:]) for row in _rows_of_attempts(conn, places)}
    return [
        BotRun(rows[id], *_standing(rows[id].outcome, rows[id].stop_reason), place)
        for id, place in places.items()
    ]


def _by_creation(conn: sqlite3.Connection, wanted: BotFilter, after: Place | None, limit: int) -> list[Place]:
    """Tasks and attempts, looked at by attempt: one is never older than its task, so there is an end to the search."""
    span = span_of(conn, wanted.begin, wanted.end)
    condition, values = created_within("a.task", span, wanted.begin, wanted.end)
    rows = conn.execute(
        "SELECT a.task, a.id, a.outcome, a.stop_reason FROM attempts AS a INDEXED BY attempts_bot "
        "WHERE a.bot = ? AND a.id > ? AND a.task >= ? AND a.task < ? AND (a.task, a.id) < (?, ?) "
        f"AND a.started_wall IS NOT NULL AND {condition} ORDER BY a.id DESC",
        (wanted.bot, span.start, *span.ends, *(after or (MAX_OP, MAX_OP)), *values),
    )
    best: list[Place] = []
    for task, id, *told in rows:
        is_full = len(best) == limit
        if is_full and id < best[0][0]:
            break
        if (is_full and (task, id) < best[0]) or not wanted.agrees(*_standing(*told)):
            continue
        (heapq.heappushpop if is_full else heapq.heappush)(best, (task, id))
    return sorted(best, reverse=True)


def _by_moment(conn: sqlite3.Connection, wanted: BotFilter, after: Place | None, limit: int) -> list[Place]:
    """Moments and attempts. All attempts of the bot are looked at."""
    column = {"started": "a.started_wall", "ended": "a.ended_wall"}[wanted.sort]
    where, values = (
        ["a.bot = ?", "a.started_wall IS NOT NULL", f"{column} IS NOT NULL"],
        list[Any]([wanted.bot]),
    )
    for moment, comparison in ((wanted.begin, ">="), (wanted.end, "<")):
        if moment is not None:
            where.append(f"{column} {comparison} ?")
            values.append(moment)
    if after is not None:
        where.append(f"({column}, a.id) < (?, ?)")
        values += after
    every = not wanted.states and wanted.failed is None
    rows = conn.execute(
        f"SELECT {column}, a.id{'' if every else ', a.outcome, a.stop_reason'} "
        f"FROM attempts AS a INDEXED BY attempts_bot WHERE {' AND '.join(where)} "
        f"ORDER BY {column} DESC, a.id DESC LIMIT ?",
        (*values, limit if every else -1),
    )
    chosen = ((moment, id) for moment, id, *told in rows if every or wanted.agrees(*_standing(*told)))
    return list(islice(chosen, limit))


def _rows_of_attempts(conn: sqlite3.Connection, ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    for part in parts_of(ids):
        yield from conn.execute(
            f"SELECT a.id, {_COLUMNS} FROM attempts AS a CROSS JOIN ops AS o ON o.id = a.task "
            f"CROSS JOIN tasks AS t ON t.id = o.task WHERE {one_of('a.id', part)}",
            part,
        )


def _standing(outcome: bytes | None, stop_reason: str | None) -> tuple[TaskState, bool]:
    """How an attempt that was started stands, and whether it ended ok."""
    if outcome is None:
        return TaskState.RUNNING, False
    told = _outcome.decode(outcome)
    state = final_state(told, None if stop_reason is None else StopReason(stop_reason))
    return state, state is TaskState.COMPLETED and told.ok
