"""Operations with what their newest attempt was, for clients that show tasks as runs on bots."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from swarmd.core.model import AttemptState

from .selecting import OP_COLUMNS, OP_WIDTH, OpFilter, OpRow, op_row, rows_by_id, select


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
