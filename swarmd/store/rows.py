"""Changes of the core as rows: built in the trio thread at the moment the commit begins, written in the writer's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from swarmd.core.changes import Changes
from swarmd.core.model import NEVER, Attempt, AttemptState, Bot, Graph, Session, Task, TaskId, TaskState, Work

from .creation import NOTE_OFFSET, offset_of
from .packing import pack

_json = msgspec.json.encode
_works = msgspec.json.Decoder(list[Work])

INSERT_TASK = """
INSERT INTO tasks (id, state, slice, priority, due_at, tries, task_faults, bot_faults, drops, attempt,
    ok, exit_code, reason, ended_wall,
    retries, bot_retries, retry_wait_s, carry_time, sameness, share, idx, line, work, slices)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
# Apart from the one that ends a task, so that the indexes of ended tasks are left alone.
UPDATE_TASK = """
UPDATE tasks SET state = ?, slice = ?, priority = ?, due_at = ?, tries = ?, task_faults = ?,
    bot_faults = ?, drops = ?, attempt = ?
WHERE id = ?
"""
END_TASK = """
UPDATE tasks SET state = ?, slice = ?, priority = ?, due_at = ?, tries = ?, task_faults = ?,
    bot_faults = ?, drops = ?, attempt = ?, ok = ?, exit_code = ?, reason = ?, ended_wall = ?
WHERE id = ?
"""
DELETE_TASK = "DELETE FROM tasks WHERE id = ?"
INSERT_OP = """
INSERT INTO ops (id, task, graph, name, key, pool, owner, priority, parent, retry_of, tags, created_wall)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_TAG = "INSERT OR IGNORE INTO tags (tag, op) VALUES (?, ?)"
UPDATE_OP = "UPDATE ops SET task = ?, ended = ? WHERE id = ?"
# Operations that were withdrawn from a task which has left since: their history needs a task. Index ops_shared.
REHOME_OPS = "UPDATE ops SET task = ? WHERE task = ? AND task <> id"
INSERT_ATTEMPT = """
INSERT INTO attempts (session, offer_key, state, started_at, started_wall, accept_due_at, limit_due_at, queued,
    stop_reason, stop_since_at, stop_due_at, stop_grace_s, streams, merged_end, outcome, ended_wall, id,
    task, number, bot, offered_at, offered_wall, remaining_s)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
UPDATE_ATTEMPT = """
UPDATE attempts SET session = ?, offer_key = ?, state = ?, started_at = ?, started_wall = ?, accept_due_at = ?,
    limit_due_at = ?, queued = ?, stop_reason = ?, stop_since_at = ?, stop_due_at = ?, stop_grace_s = ?,
    streams = ?, merged_end = ?, outcome = ?, ended_wall = ?
WHERE id = ?
"""
UPSERT_SESSION = """
INSERT INTO sessions (id, bot, protocol, key, slots, deadline_s, enforces_limits, opened_at, opened_wall, ended_wall,
    end_reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET ended_wall = excluded.ended_wall, end_reason = excluded.end_reason
"""
UPSERT_BOT = """
INSERT OR REPLACE INTO bots (id, protocol, key_hash, dimensions, assigned, version, state, first_seen_wall,
    last_seen_wall, quarantined, by_person, maintenance, draining, ordered)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
DELETE_BOT = "DELETE FROM bots WHERE id = ?"
UPSERT_GRAPH = """
INSERT INTO graphs (id, name, owner, is_open, created_wall, touched_at, alive, failed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET is_open = excluded.is_open, touched_at = excluded.touched_at, alive = excluded.alive,
    failed = excluded.failed
"""
DELETE_EDGES = "DELETE FROM edges WHERE task = ?"
INSERT_EDGE = "INSERT OR REPLACE INTO edges (task, on_op, condition, met) VALUES (?, ?, ?, 0)"
MEET_EDGE = "UPDATE edges SET met = 1 WHERE task = ? AND on_op = ?"
INSERT_EVENT = """
INSERT INTO events (id, wall, kind, op, attempt, bot, graph, state, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_OUTPUT = """
INSERT INTO output (attempt, stream, offset, merged, size, data) VALUES (?, ?, ?, ?, ?, ?)
"""
INSERT_REQUEST = """
INSERT INTO requests (owner, request_id, body_hash, answer, wall) VALUES (?, ?, ?, ?, ?)
"""
DELETE_USES = "DELETE FROM blob_uses WHERE task = ?"
INSERT_USE = "INSERT OR IGNORE INTO blob_uses (task, sha256) VALUES (?, ?)"
SET_CLOCK = "INSERT OR REPLACE INTO clock (one, now, wall, last_id) VALUES (1, ?, ?, ?)"
# For a moment noted before the commit that it goes into began: the rows of that commit may be ahead of it.
ADVANCE_CLOCK = "UPDATE clock SET now = ?1, wall = ?2, last_id = ?3 WHERE now < ?1"

# Numbers are bound as plain `int`: SQLite's binding looks for an adapter for each bool and each IntEnum, which costs
# 1 µs in the writer's thread, under the interpreter's lock.
Statement = tuple[str, list[tuple[Any, ...]]]


class RowBatch:
    """The rows of one commit, up to engine version `version`. Writing it twice is one effect (after a full disk)."""

    def __init__(self, version: int, statements: list[Statement], chunks: list[tuple[Any, ...]]) -> None:
        self.version = version
        self._statements = statements
        self._chunks = chunks

    def write(self, conn: sqlite3.Connection) -> None:
        for sql, rows in self._statements:
            conn.executemany(sql, rows)
        if self._chunks:
            conn.executemany(INSERT_OUTPUT, ((*row[:-1], pack(row[-1])) for row in self._chunks))


def batch_of(changes: Changes, version: int, now: float, wall: float, last_id: int) -> RowBatch:
    """The rows of `changes` as the things are now. `wall` is the wall time of engine time `now`."""
    offset = wall - now
    statements = [
        (sql, made)
        for sql, rows in (
            *_task_statements(changes, offset),
            *_op_statements(changes, offset),
            *_bot_statements(changes, offset),
            *_attempt_statements(changes, offset),
            *_graph_statements(changes, offset),
            *_history_statements(changes, offset),
        )
        if (made := list(rows))
    ]
    for attempt in changes.attempts.values():
        attempt.stored = True
    statements.append((SET_CLOCK, [(now, wall, last_id)]))
    chunks = [(c.attempt, c.stream, c.offset, c.merged, len(c.data), c.data) for c in changes.chunks]
    return RowBatch(version, statements, chunks)


Statements = tuple[tuple[str, Iterable[tuple[Any, ...]]], ...]


def _task_statements(changes: Changes, offset: float) -> Statements:
    new = {task.id for task, _ in changes.tasks_added}
    gone = {id for id, _ in changes.tasks_gone}
    finals = changes.finals
    known = [task for task in changes.tasks.values() if task.id not in new]
    inserted = (
        (
            task.id, *_moving(task), *_ending(finals.get(task.id), offset), task.plan.retries, task.plan.bot_retries,
            task.plan.retry_wait_s, int(task.plan.carry_time), task.sameness, task.share.value, record.index,
            record.line, record.work, record.slices,
        )
        for task, record in changes.tasks_added
        if task.id not in gone
    )  # fmt: skip
    ended = ((*_moving(t), *_ending(finals[t.id], offset), t.id) for t in known if t.id in finals)
    return (
        (DELETE_TASK, ((id,) for id in gone)),
        (DELETE_USES, ((id,) for id in gone)),
        (INSERT_TASK, inserted),
        (UPDATE_TASK, ((*_moving(t), t.id) for t in known if t.id not in finals)),
        (END_TASK, ended),
        (INSERT_USE, _uses(changes, gone)),
    )


def _op_statements(changes: Changes, offset: float) -> Statements:
    inserted = (
        (
            op.id, op.task, op.graph or None, op.name, op.key, op.pool, op.owner, op.priority, op.parent,
            op.retry_of, _json(op.tags).decode() if op.tags else "[]", op.created_at + offset,
        )
        for op in changes.ops_added
    )  # fmt: skip
    return (
        (INSERT_OP, inserted),
        (NOTE_OFFSET, [offset_of(changes.ops_added, offset)] if changes.ops_added else ()),
        (INSERT_TAG, ((tag, op.id) for op in changes.ops_added for tag in op.tags)),
        (UPDATE_OP, ((op.task, op.ended, op.id) for op in changes.ops_changed.values())),
        (REHOME_OPS, ((other, gone) for gone, other in changes.tasks_gone)),
    )


def _bot_statements(changes: Changes, offset: float) -> Statements:
    return (
        (DELETE_BOT, ((id,) for id in changes.deleted_bots)),  # first: one that came back since stays
        (UPSERT_BOT, (_bot(bot, offset) for bot in changes.bots.values())),
        (UPSERT_SESSION, (_session(session, offset) for session in changes.sessions.values())),
    )


def _attempt_statements(changes: Changes, offset: float) -> Statements:
    attempts = changes.attempts.values()
    return (
        (UPDATE_ATTEMPT, (_attempt(a, offset) for a in attempts if a.stored)),
        (
            INSERT_ATTEMPT,
            (
                (
                    *_attempt(a, offset),
                    a.task,
                    a.number,
                    a.bot,
                    a.offered_at,
                    a.offered_at + offset,
                    a.remaining_s,
                )
                for a in attempts
                if not a.stored
            ),
        ),
    )


def _graph_statements(changes: Changes, offset: float) -> Statements:
    return (
        (UPSERT_GRAPH, (_graph(graph, offset) for graph in changes.graphs.values())),
        (DELETE_EDGES, ((task,) for task in changes.edges_gone)),
        (INSERT_EDGE, _edges(changes)),
        (MEET_EDGE, changes.edges_met),
    )


def _history_statements(changes: Changes, offset: float) -> Statements:
    events = (
        (
            e.id, e.at + offset, e.kind, e.op, e.attempt, e.bot, e.graph,
            None if e.state is None else int(e.state), None if e.detail is None else _json(e.detail).decode(),
        )
        for e in changes.events
    )  # fmt: skip
    requests = ((r.owner, r.request_id, r.body_hash, r.answer, r.at + offset) for r in changes.requests)
    return ((INSERT_EVENT, events), (INSERT_REQUEST, requests))


def _never(moment: float) -> float | None:
    return None if moment == NEVER else moment


def _moving(task: Task) -> tuple[Any, ...]:
    """The columns of a task that change, in the order of the statements."""
    due_at = _never(task.due_at)
    if (
        due_at is not None
        and task.state is TaskState.PENDING
        and task.queued is None
        and task.attempt is None
    ):
        due_at = -due_at  # a retry wait
    return (
        int(task.state), task.slice, task.priority, due_at, task.tries, task.task_faults,
        task.bot_faults, task.drops, task.last_attempt or None,
    )  # fmt: skip


def _ending(final: Any, offset: float) -> tuple[Any, ...]:
    if final is None:
        return (None, None, None, None)
    return (int(final.ok), final.exit_code, final.reason, final.ended_at + offset)


def _edges(changes: Changes) -> Iterable[tuple[int, int, str]]:
    """The edges added; of a task whose edges were replaced in this batch, only those that stand."""
    replaced = set(changes.edges_gone)
    met = set(changes.edges_met) if replaced else set()
    for task, on, condition in changes.edges_added:
        if task in replaced and (task, on) not in met:
            now = changes.tasks.get(task)
            if now is not None and not now.state.is_final and on not in (now.waits or ()):
                continue
        yield task, on, condition.value


def _uses(changes: Changes, gone: set[TaskId]) -> Iterable[tuple[int, str]]:
    """The blobs that new tasks need and that ended attempts made."""
    for _, record in changes.tasks_added:
        if b'"inputs"' in record.work and record.task not in gone:
            for work in _works.decode(record.work):
                for needed in work.inputs:
                    yield record.task, needed.blob
    for attempt in changes.attempts.values():
        if attempt.outcome is not None:
            for made in attempt.outcome.outputs:
                yield attempt.task, made.blob


def _attempt(a: Attempt, offset: float) -> tuple[Any, ...]:
    """The columns of an attempt that change, then its id, in the order of both statements."""
    stop = a.stop
    over = a.state not in (AttemptState.OFFERED, AttemptState.RUNNING)
    streams = "{}" if not a.streams else _json({n: (s.end, s.dropped) for n, s in a.streams.items()}).decode()
    return (
        a.session, a.offer_key, int(a.state),
        a.started_at or None, a.started_at + offset if a.started_at else None, _never(a.accept_due_at),
        _never(a.limit_due_at), int(a.queued),
        stop.reason.value if stop else None, stop.since_at if stop else None, stop.due_at if stop else None,
        stop.grace_s if stop else None, streams, a.merged_end,
        None if a.outcome is None else _json(a.outcome), a.outcome_at + offset if over else None, a.id,
    )  # fmt: skip


def _session(s: Session, offset: float) -> tuple[Any, ...]:
    return (
        s.id, s.bot, s.protocol, s.key, s.slots, s.deadline_s, s.enforces_limits, s.opened_at, s.opened_at + offset,
        s.ended_at + offset if s.ended_at else None, s.end_reason or None,
    )  # fmt: skip


def _bot(b: Bot, offset: float) -> tuple[Any, ...]:
    return (
        b.id, b.protocol, b.key_hash, _json(b.dimensions).decode(), _json(b.assigned).decode(), b.version, b.state,
        b.first_seen_at + offset, b.last_seen_at + offset, b.quarantined, b.quarantined_by_person, b.maintenance,
        b.draining, b.order.value if b.order else None,
    )  # fmt: skip


def _graph(g: Graph, offset: float) -> tuple[Any, ...]:
    return (
        g.id, g.name, g.owner, g.is_open, g.created_at + offset, g.touched_at, len(g.alive), g.failed,
    )  # fmt: skip
