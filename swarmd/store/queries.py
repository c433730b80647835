"""What is read from the file: one function per question. Each runs on a snapshot, in a reader's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.core.model import (
    AttemptId,
    AttemptState,
    GraphId,
    OpId,
    Outcome,
    TaskId,
    TaskState,
    Work,
)
from swarmd.core.submitting import SliceSpec, TaskSpec

from .packing import unpack
from .selecting import OpRow, ops_by_id, parts_of

MAX_READ_BYTES = 16 << 20

_works = msgspec.json.Decoder(tuple[Work, ...])
_slices = msgspec.json.Decoder(tuple[SliceSpec, ...])
_outcome = msgspec.json.Decoder(Outcome)
_streams = msgspec.json.Decoder(dict[str, tuple[int, int]])


class AttemptRow(Struct, frozen=True):
    id: AttemptId
    number: int
    state: AttemptState
    bot: str
    offered_wall: float
    started_wall: float | None
    ended_wall: float | None
    stop_reason: str | None
    outcome: Outcome | None
    streams: dict[str, tuple[int, int]]  # end, dropped


class EventRow(Struct, frozen=True):
    id: int
    wall: float
    kind: str
    op: int | None
    attempt: int | None
    bot: str | None
    graph: int | None
    state: int | None
    detail: str | None


class GraphRow(Struct, frozen=True):
    id: GraphId
    name: str
    owner: str
    is_open: bool
    created_wall: float
    alive: int
    failed: int


# --------------------------------------------------------------------- operations


def ops_done(conn: sqlite3.Connection, ids: Iterable[int]) -> dict[OpId, bool]:
    """Of `ids`, those that are final, and whether they ended ok."""
    return {row.id: bool(row.ok) for row in ops_by_id(conn, ids).values() if row.state.is_final}


def same_tasks(conn: sqlite3.Connection, keys: Iterable[str]) -> dict[str, TaskId]:
    """The newest finished, successful task of each sameness key. Index: tasks_same."""
    found = {}
    for key in keys:
        row = conn.execute(
            "SELECT id FROM tasks WHERE sameness = ? AND ok = 1 ORDER BY id DESC LIMIT 1", (key,)
        ).fetchone()
        if row is not None:
            found[key] = TaskId(row[0])
    return found


def works_of(
    conn: sqlite3.Connection, tasks: Iterable[int]
) -> dict[int, tuple[bytes, int | None, str | None, str]]:
    """What tasks run: (JSON array of works, index, line, name)."""
    found: dict[int, tuple[bytes, int | None, str | None, str]] = {}
    for part in parts_of(tasks):
        marks = ",".join("?" * len(part))
        rows = conn.execute(
            f"SELECT t.id, t.work, t.idx, t.line, COALESCE(o.name, '') FROM tasks AS t "
            f"LEFT JOIN ops AS o ON o.id = t.id WHERE t.id IN ({marks})",
            part,
        )
        for id, *rest in rows:
            found[id] = tuple(rest)
    return found


class TaskText(Struct, frozen=True):
    """What was submitted, besides the operation's own columns."""

    work: tuple[Work, ...]
    slices: tuple[SliceSpec, ...]
    retries: int
    bot_retries: int
    retry_wait_s: float
    carry_time: bool
    sameness: str | None
    after: tuple[tuple[OpId, str], ...]


def task_text(conn: sqlite3.Connection, task: int, op: int) -> TaskText | None:
    row = conn.execute(
        "SELECT work, slices, retries, bot_retries, retry_wait_s, carry_time, sameness FROM tasks WHERE id = ?",
        (task,),
    ).fetchone()
    if row is None:
        return None
    edges = conn.execute("SELECT on_op, condition FROM edges WHERE task = ? ORDER BY on_op", (op,)).fetchall()
    work, slices, retries, bot_retries, wait_s, carry, sameness = row
    return TaskText(
        _works.decode(work), _slices.decode(slices), retries, bot_retries, wait_s, bool(carry), sameness,
        tuple((OpId(on), condition) for on, condition in edges),
    )  # fmt: skip


def specs_for_retry(conn: sqlite3.Connection, ids: Sequence[int]) -> list[tuple[OpRow, TaskSpec]]:
    """The final ones among `ids`, with what a new task of each would be."""
    rows = ops_by_id(conn, ids)
    found = []
    for id in sorted(rows):
        row = rows[id]
        text = task_text(conn, row.task, row.id)
        if row.state.is_final and text is not None:
            spec = TaskSpec(
                work=text.work, slices=text.slices, pool=row.pool, name=row.name, key=row.key, priority=row.priority,
                retries=text.retries, bot_retries=text.bot_retries, retry_wait_s=text.retry_wait_s,
                carry_time=text.carry_time, tags=row.tags, retry_of=row.id, sameness=text.sameness, index=row.index,
                line=row.line, owner=row.owner,
            )  # fmt: skip
            found.append((row, spec))
    return found


def attempts_of(conn: sqlite3.Connection, task: int) -> list[AttemptRow]:
    """All attempts of a task, by number. Index: attempts_task."""
    rows = conn.execute(
        "SELECT id, number, state, bot, offered_wall, started_wall, ended_wall, stop_reason, outcome, streams "
        "FROM attempts WHERE task = ? ORDER BY number",
        (task,),
    )
    return [
        AttemptRow(
            AttemptId(id), number, AttemptState(state), bot, offered, started, ended, stop_reason,
            None if outcome is None else _outcome.decode(outcome), _streams.decode(streams),
        )
        for id, number, state, bot, offered, started, ended, stop_reason, outcome, streams in rows
    ]  # fmt: skip


def requests(
    conn: sqlite3.Connection, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """(hash of the body, JSON of the answer) of earlier requests by their owner and id."""
    found = {}
    for key in keys:
        row = conn.execute(
            "SELECT body_hash, answer FROM requests WHERE owner = ? AND request_id = ?", key
        ).fetchone()
        if row is not None:
            found[key] = row
    return found


# --------------------------------------------------------------------- graphs


def graph(conn: sqlite3.Connection, id: int) -> GraphRow | None:
    row = conn.execute(
        "SELECT id, name, owner, is_open, created_wall, alive, failed FROM graphs WHERE id = ?", (id,)
    ).fetchone()
    return None if row is None else _graph_row(row)


def list_graphs(conn: sqlite3.Connection, before: int | None, limit: int) -> list[GraphRow]:
    rows = conn.execute(
        "SELECT id, name, owner, is_open, created_wall, alive, failed FROM graphs WHERE id < ? "
        "ORDER BY id DESC LIMIT ?",
        (before or (1 << 63) - 1, limit),
    )
    return [_graph_row(row) for row in rows]


def _graph_row(row: Sequence[Any]) -> GraphRow:
    id, name, owner, is_open, created, alive, failed = row
    return GraphRow(GraphId(id), name, owner, bool(is_open), created, alive, failed)


def graph_counts(conn: sqlite3.Connection, id: int) -> dict[str, int]:
    """Operations of a graph by state. Index: ops_graph."""
    rows = conn.execute(
        "SELECT COALESCE(o.ended, t.state), COUNT(*) FROM ops AS o JOIN tasks AS t ON t.id = o.task "
        "WHERE o.graph = ? GROUP BY 1",
        (id,),
    )
    return {TaskState(state).name: count for state, count in rows}


def graph_keys(conn: sqlite3.Connection, id: int, keys: Iterable[str]) -> dict[str, list[OpId]]:
    """The operations of a graph by their key."""
    wanted = set(keys)
    found: dict[str, list[OpId]] = {}
    for op, key in conn.execute("SELECT id, key FROM ops WHERE graph = ? AND key <> '' ORDER BY id", (id,)):
        if key in wanted:
            found.setdefault(key, []).append(OpId(op))
    return found


# --------------------------------------------------------------------- events


def events(
    conn: sqlite3.Connection,
    *,
    op: int | None = None,
    bot: str | None = None,
    graph: int | None = None,
    before: int | None = None,
    limit: int,
) -> list[EventRow]:
    """Newest first. Indexes: events_op, events_bot, events_graph."""
    clauses, values = ["id < ?"], [before or (1 << 63) - 1]
    for column, value in (("op", op), ("bot", bot), ("graph", graph)):
        if value is not None:
            clauses.append(f"{column} = ?" + (" AND op IS NULL" if column != "op" else ""))
            values.append(value)  # type: ignore[arg-type]
    rows = conn.execute(
        "SELECT id, wall, kind, op, attempt, bot, graph, state, detail FROM events "
        f"WHERE {' AND '.join(clauses)} ORDER BY id DESC LIMIT ?",
        (*values, limit),
    )
    return [EventRow(*row) for row in rows]


def events_after(conn: sqlite3.Connection, after: int, limit: int) -> list[EventRow]:
    """Oldest first, for streams."""
    rows = conn.execute(
        "SELECT id, wall, kind, op, attempt, bot, graph, state, detail FROM events WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [EventRow(*row) for row in rows]


def last_event(conn: sqlite3.Connection) -> int:
    return conn.execute("SELECT COALESCE(MAX(id), 0) FROM events").fetchone()[0]


# --------------------------------------------------------------------- output


class OutputState(Struct, frozen=True):
    """How far the output of one attempt is, as committed."""

    attempt: AttemptId
    over: bool  # nothing more will come
    streams: dict[str, tuple[int, int]]  # end, dropped
    merged_end: int  # of all streams as one


def output_state(conn: sqlite3.Connection, task: int, attempt: int | None) -> OutputState | None:
    """Of the newest attempt of `task`, or of `attempt` if it is one of that task."""
    if attempt is None:
        row = conn.execute(
            "SELECT id, state, streams, merged_end FROM attempts WHERE task = ? ORDER BY number DESC LIMIT 1",
            (task,),
        ).fetchone()
    else:
        row = conn.execute(
            "SELECT id, state, streams, merged_end FROM attempts WHERE id = ? AND task = ?", (attempt, task)
        ).fetchone()
    if row is None:
        return None
    return OutputState(AttemptId(row[0]), row[1] >= AttemptState.ENDED, _streams.decode(row[2]), row[3])


def read_output(conn: sqlite3.Connection, attempt: int, stream: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a stream, at most MAX_READ_BYTES; gaps are NULs. The caller keeps `stop` below its end.

    Index: output_stream.
    """
    stop = min(stop, start + MAX_READ_BYTES)
    first = conn.execute(
        "SELECT COALESCE(MAX(offset), 0) FROM output WHERE attempt = ? AND stream = ? AND offset <= ?",
        (attempt, stream, start),
    ).fetchone()[0]
    rows = conn.execute(
        "SELECT offset, size, data FROM output WHERE attempt = ? AND stream = ? AND offset >= ? AND offset < ? "
        "ORDER BY offset",
        (attempt, stream, first, stop),
    )
    return _joined(rows, start, stop)


def read_merged(conn: sqlite3.Connection, attempt: int, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of all streams as one, in the order of arrival, as `read_output` does for one stream.

    Index: output_merged.
    """
    stop = min(stop, start + MAX_READ_BYTES)
    first = conn.execute(
        "SELECT COALESCE(MAX(merged), 0) FROM output INDEXED BY output_merged WHERE attempt = ? AND merged <= ?",
        (attempt, start),
    ).fetchone()[0]
    rows = conn.execute(
        "SELECT merged, size, data FROM output INDEXED BY output_merged "
        "WHERE attempt = ? AND merged >= ? AND merged < ? ORDER BY merged",
        (attempt, first, stop),
    )
    return _joined(rows, start, stop)


def _joined(chunks: Iterable[tuple[int, int, bytes]], start: int, stop: int) -> bytes:
    """Bytes [start, stop) of packed chunks, each with its place and its size."""
    found = bytearray(max(0, stop - start))
    for offset, size, packed in chunks:
        if offset + size > start:
            data = unpack(packed, size)
            skip = max(0, start - offset)
            part = data[skip : stop - offset]
            at = offset + skip - start
            found[at : at + len(part)] = part
    return bytes(found)
