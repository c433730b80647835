"""Forgetting what is old: 30 days or 10 GiB, whichever is first. Nothing that is alive is ever touched.

Readers look for what is due, a page at a time; the writer removes it in steps of at most `STEP_ROWS` rows and
`STEP_BYTES` bytes, each in a transaction of its own, and looks again in it whether the thing may go. A task's
output goes first, its row last, so that a run that was cut off is taken up by the next one.
Source: docs/http-api.md, "Defaults".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import trio

from .backend import Backend
from .blobs import Blob, remove_blob
from .creation import forget_unused, has_unused
from .writer import MAX_BULK_BYTES, Writer

T = TypeVar("T")

DAY_S = 86_400.0
STEP_ROWS = 500  # removed in one transaction; twice as many took the writer 17 ms on average, 71 at worst
STEP_BYTES = 8 << 20  # of output removed in one transaction: its pages are read for it
PAGE = 200  # tasks looked up at a time
RECENT_S = 600.0  # what ended, or was used, so recently stays even when the file is too large
SETTLE_S = 5.0  # a submission that found a finished task to share has named it in the file by then
LOW_WATER = 0.9  # of the byte limit: a file that was too large is emptied down to it
REST_S = 3_600.0  # between two runs, at least
CALM_S = DAY_S  # between two looks at the size of a file that is less than half of its limit


@dataclass(frozen=True)
class Retention:
    """How long final things stay: `days` > 0 after they ended, and while the file holds at most `bytes` > 0."""

    days: float = 30.0
    bytes: int = 10 << 30

    @property
    def limit_s(self) -> float:
        return self.days * DAY_S


@dataclass
class Removed:
    """What a run removed. `output_bytes` and `blob_bytes` are sizes before packing."""

    tasks: int = 0
    ops: int = 0
    output_bytes: int = 0
    events: int = 0
    requests: int = 0
    sessions: int = 0
    graphs: int = 0
    blobs: int = 0
    blob_bytes: int = 0


async def run_once(backend: Backend, writer: Writer, wall_now: float, settings: Retention) -> Removed:
    """Removes what is due at wall time `wall_now` (seconds since 1970 UTC).

    A cancel takes effect between two steps. Raises `StoreBroken` when commits have ended.
    """
    removed = Removed()
    cutoff = wall_now - settings.limit_s
    run = _Run(backend, writer, removed)
    await run.forget_tasks(cutoff)
    await run.forget_rest(cutoff)
    await run.forget_blobs(cutoff)
    if await backend.read(used_bytes) > settings.bytes:
        recent = wall_now - RECENT_S
        low = int(settings.bytes * LOW_WATER)
        await run.forget_blobs(recent)
        await run.forget_tasks(recent, low)
    return removed


async def next_due(backend: Backend, wall_now: float, settings: Retention) -> float:
    """The wall time at which `run_once` should be called next: when the oldest thing will be due, but not within
    `REST_S`; sooner when the file may grow over its limit meanwhile."""
    oldest, used = await backend.read(lambda conn: (_oldest(conn), used_bytes(conn)))
    look = wall_now + (REST_S if used * 2 >= settings.bytes else CALM_S)
    due = look if oldest is None else min(look, oldest + settings.limit_s)
    return max(wall_now + REST_S, due)


def used_bytes(conn: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _oldest(conn: sqlite3.Connection) -> float | None:
    """Wall time of the oldest thing that may be removed some day. Indexes: tasks_ended, requests_wall,
    sessions_ended; blobs are scanned."""
    found = [
        conn.execute(sql).fetchone()[0]
        for sql in (
            "SELECT MIN(ended_wall) FROM tasks WHERE ended_wall IS NOT NULL",
            "SELECT MIN(wall) FROM requests",
            "SELECT MIN(ended_wall) FROM sessions WHERE ended_wall IS NOT NULL",
            f"SELECT MIN(used_at) + (SELECT wall - now FROM clock) FROM blobs AS b WHERE {_UNUSED}",
        )
    ]
    return min((moment for moment in found if moment is not None), default=None)


_UNUSED = "b.complete = 1 AND NOT EXISTS (SELECT 1 FROM blob_uses AS u WHERE u.sha256 = b.sha256)"


# ------------------------------------------------------------- which tasks

_DUE = """
    SELECT id, ended_wall, sameness IS NOT NULL FROM tasks INDEXED BY tasks_ended
    WHERE ended_wall IS NOT NULL AND (ended_wall, id) > (?, ?) AND ended_wall < ? ORDER BY ended_wall, id LIMIT ?
"""
# A task stays while a younger operation shares it, or an operation of an unfinished graph names it.
_KEPT = """
    SELECT 1 FROM ops AS o LEFT JOIN graphs AS g ON g.id = o.graph WHERE o.id IN (
        SELECT ?1 UNION ALL SELECT id FROM ops INDEXED BY ops_shared WHERE task = ?1 AND task <> id
    ) AND (o.created_wall >= ?2 OR g.is_open = 1 OR g.alive > 0) LIMIT 1
"""
_AWAITED = """
    SELECT DISTINCT e.on_op FROM tasks AS t INDEXED BY tasks_alive JOIN edges AS e ON e.task = t.id
    WHERE t.state < 10 AND t.state = 1 AND e.met = 0
"""


def _may_go(conn: sqlite3.Connection, task: int, cutoff: float) -> bool:
    row = conn.execute("SELECT ended_wall FROM tasks WHERE id = ? AND state >= 10", (task,)).fetchone()
    return (
        row is not None
        and row[0] is not None
        and row[0] < cutoff
        and conn.execute(_KEPT, (task, cutoff)).fetchone() is None
    )


def _due_tasks(
    conn: sqlite3.Connection, after: tuple[float, int], cutoff: float
) -> tuple[list[tuple[int, bool]], tuple[float, int] | None]:
    """A page of the tasks that may go, oldest first, each with whether it has a sameness key; and where the next
    page begins, None behind the last."""
    rows = conn.execute(_DUE, (*after, cutoff, PAGE)).fetchall()
    due = [(id, bool(same)) for id, _, same in rows if _may_go(conn, id, cutoff)]
    return due, (rows[-1][1], rows[-1][0]) if len(rows) == PAGE else None


def _awaited(conn: sqlite3.Connection) -> set[int]:
    """Operations that a BLOCKED task waits for. O(unmet edges)."""
    return {row[0] for row in conn.execute(_AWAITED)}


# ------------------------------------------------------------- a run


class _Run:
    """One call of `run_once`."""

    def __init__(self, backend: Backend, writer: Writer, removed: Removed) -> None:
        self._backend = backend
        self._writer = writer
        self._removed = removed

    async def _write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Runs one step in a transaction and returns what it gave, once that is on disk."""
        given: list[T] = []  # more than one when the disk was full meanwhile: the last one counts
        await self._writer.queue_bytes(lambda conn: given.append(step(conn)), MAX_BULK_BYTES).wait()
        return given[-1]

    async def forget_tasks(self, cutoff: float, down_to: int | None = None) -> None:
        """Removes final tasks that ended before `cutoff` with all that hangs on them, oldest first; with
        `down_to` only until the file holds less than that many bytes, and the blobs that only they used too."""
        awaited: set[int] | None = None
        after: tuple[float, int] | None = (float("-inf"), 0)
        while after is not None:
            due, after = await self._backend.read(partial(_due_tasks, after=after, cutoff=cutoff))
            if due and awaited is None:
                awaited = await self._backend.read(_awaited)
            going = [(id, same) for id, same in due if id not in (awaited or ())]
            await self._unshare([id for id, same in going if same], cutoff)
            ids = [id for id, _ in going]
            used = await self._backend.read(partial(_blobs_of, tasks=ids)) if down_to is not None else []
            while ids:
                ids = await self._write_tasks(ids, cutoff)
            if down_to is not None:
                await self._remove_blobs(used, cutoff)
                if await self._backend.read(used_bytes) < down_to:
                    return

    async def _unshare(self, ids: Sequence[int], cutoff: float) -> None:
        """No new operation finds these tasks any more; waits until none that found one is still on its way."""
        if ids:
            await self._write(partial(_unshare, ids=ids, cutoff=cutoff))
            await trio.sleep(SETTLE_S)

    async def _write_tasks(self, ids: list[int], cutoff: float) -> list[int]:
        step = await self._write(partial(_remove_tasks, ids=ids, cutoff=cutoff))
        self._removed.tasks += step.tasks
        self._removed.ops += step.ops
        self._removed.output_bytes += step.output_bytes
        self._removed.events += step.events
        return ids[step.done :]

    async def forget_rest(self, cutoff: float) -> None:
        """Requests, ended sessions, events of bots, graphs that have no operations any more, and what only forgotten
        operations needed."""
        removed = self._removed
        while count := await self._write_if(_REQUESTS_DUE, _REMOVE_REQUESTS, cutoff):
            removed.requests += count
        while count := await self._write_if(_SESSIONS_DUE, _REMOVE_SESSIONS, cutoff):
            removed.sessions += count
        while ids := await self._backend.read(partial(_ids, sql=_EVENTS_DUE, cutoff=cutoff)):
            await self._write(partial(_remove_rows, sql="DELETE FROM events WHERE id = ?", ids=ids))
            removed.events += len(ids)
        while ids := await self._backend.read(partial(_ids, sql=_GRAPHS_DUE, cutoff=cutoff)):
            events, graphs = await self._write(partial(_remove_graphs, ids=ids, cutoff=cutoff))
            removed.events += events
            removed.graphs += graphs
            if not events + graphs:
                break
        if await self._backend.read(has_unused):
            await self._write(forget_unused)

    async def _write_if(self, due: str, remove: str, cutoff: float) -> int:
        """Removes up to STEP_ROWS rows; no transaction when a reader finds none."""
        if not await self._backend.read(partial(_ids, sql=due, cutoff=cutoff)):
            return 0
        return await self._write(lambda conn: conn.execute(remove, (cutoff, STEP_ROWS)).rowcount)

    async def forget_blobs(self, cutoff: float) -> None:
        """Complete blobs that no task uses and nobody used since `cutoff`."""
        while blobs := await self._backend.read(partial(_unused_blobs, cutoff=cutoff)):
            if not await self._remove_blobs(blobs, cutoff):
                return

    async def _remove_blobs(self, blobs: Sequence[Blob], cutoff: float) -> int:
        gone = 0
        for blob in blobs:
            if await self._write(partial(_hide_blob, blob=blob, cutoff=cutoff)):
                await remove_blob(self._writer, blob)
                gone += 1
                self._removed.blobs += 1
                self._removed.blob_bytes += blob.size
        return gone


# ------------------------------------------------------------- steps of the writer


@dataclass
class _Step:
    """What one transaction may still remove, and what it did. `done`: so many of its tasks are dealt with."""

    rows: int = field(default_factory=lambda: STEP_ROWS)
    bytes: int = field(default_factory=lambda: STEP_BYTES)
    done: int = 0
    tasks: int = 0
    ops: int = 0
    output_bytes: int = 0
    events: int = 0

    @property
    def is_full(self) -> bool:
        return self.rows <= 0 or self.bytes <= 0


def _unshare(conn: sqlite3.Connection, *, ids: Sequence[int], cutoff: float) -> None:
    rows = [(id,) for id in ids if _may_go(conn, id, cutoff)]
    conn.executemany("UPDATE tasks SET sameness = NULL WHERE id = ?", rows)


def _remove_tasks(conn: sqlite3.Connection, *, ids: Sequence[int], cutoff: float) -> _Step:
    """Removes the first of `ids`, as many as one transaction takes (at least a part of one)."""
    step = _Step()
    for id in ids:
        if _may_go(conn, id, cutoff):
            if not _remove_task(conn, id, step):
                break
            step.tasks += 1
        step.done += 1
        if step.is_full:
            break
    return step


def _remove_task(conn: sqlite3.Connection, task: int, step: _Step) -> bool:
    """Removes a task, or a part of it; whether it is gone."""
    shared = conn.execute(
        "SELECT id FROM ops INDEXED BY ops_shared WHERE task = ? AND task <> id LIMIT ?", (task, STEP_ROWS)
    ).fetchall()
    for (op,) in shared:
        if step.is_full or not _remove_op(conn, op, step):
            return False
    if len(shared) == STEP_ROWS or not _remove_op(conn, task, step):
        return False
    step.rows -= _count(conn, "DELETE FROM blob_uses WHERE task = ?", task)
    step.rows -= _count(conn, "DELETE FROM tasks WHERE id = ?", task)
    return True


def _remove_op(conn: sqlite3.Connection, op: int, step: _Step) -> bool:
    """Removes an operation with its own attempts, or some of their output and events; whether it is gone.

    An operation that joined another task may have attempts from before.
    """
    for (attempt,) in conn.execute(
        "SELECT id FROM attempts INDEXED BY attempts_task WHERE task = ?", (op,)
    ).fetchall():
        if not _remove_output(conn, attempt, step):
            return False
    events = _count(
        conn,
        "DELETE FROM events WHERE id IN (SELECT id FROM events INDEXED BY events_op WHERE op = ? LIMIT ?)",
        op,
        max(1, step.rows),
    )
    step.rows -= events
    step.events += events
    if step.is_full and conn.execute("SELECT 1 FROM events WHERE op = ? LIMIT 1", (op,)).fetchone():
        return False
    for sql in (
        "DELETE FROM tags WHERE op = ?1 AND tag IN (SELECT value FROM ops, json_each(ops.tags) WHERE ops.id = ?1)",
        "DELETE FROM edges WHERE task = ?1",
        "DELETE FROM attempts WHERE task = ?1",
        "DELETE FROM ops WHERE id = ?1",
    ):
        step.rows -= _count(conn, sql, op)
    step.ops += 1
    return True


def _remove_output(conn: sqlite3.Connection, attempt: int, step: _Step) -> bool:
    """Removes the output of an attempt, or a part of it; whether it is gone."""
    conn.execute(
        "UPDATE attempts SET streams = '{}', merged_end = 0 WHERE id = ? AND streams <> '{}'", (attempt,)
    )
    going = []
    chunks = conn.execute(
        "SELECT id, size, LENGTH(data) FROM output INDEXED BY output_merged WHERE attempt = ?", (attempt,)
    )
    for id, size, packed in chunks:
        if step.is_full:
            break
        going.append((id,))
        step.rows -= 1
        step.bytes -= packed
        step.output_bytes += size
    else:
        conn.executemany("DELETE FROM output WHERE id = ?", going)
        return True
    conn.executemany("DELETE FROM output WHERE id = ?", going)
    return False


def _count(conn: sqlite3.Connection, sql: str, *values: object) -> int:
    return conn.execute(sql, values).rowcount


# ------------------------------------------------------------- the rest

_REQUESTS_DUE = "SELECT 1 FROM requests INDEXED BY requests_wall WHERE wall < ? LIMIT ?"
_REMOVE_REQUESTS = """
    DELETE FROM requests WHERE (owner, request_id) IN (
        SELECT owner, request_id FROM requests INDEXED BY requests_wall WHERE wall < ? LIMIT ?)
"""
_SESSIONS_DUE = """
    SELECT id FROM sessions INDEXED BY sessions_ended WHERE ended_wall IS NOT NULL AND ended_wall < ? LIMIT ?
"""
_REMOVE_SESSIONS = f"DELETE FROM sessions WHERE id IN ({_SESSIONS_DUE})"
_EVENTS_DUE = """
    SELECT id FROM events INDEXED BY events_bot WHERE bot IS NOT NULL AND op IS NULL AND wall < ? LIMIT ?
"""
_GRAPHS_DUE = """
    SELECT g.id FROM graphs AS g WHERE g.is_open = 0 AND g.alive = 0
    AND g.touched_at + (SELECT wall - now FROM clock) < ?
    AND NOT EXISTS (SELECT 1 FROM ops AS o WHERE o.graph = g.id) LIMIT ?
"""


def _ids(conn: sqlite3.Connection, *, sql: str, cutoff: float) -> list[int]:
    return [row[0] for row in conn.execute(sql, (cutoff, STEP_ROWS))]


def _remove_rows(conn: sqlite3.Connection, *, sql: str, ids: Sequence[int]) -> None:
    conn.executemany(sql, [(id,) for id in ids])


def _remove_graphs(conn: sqlite3.Connection, *, ids: Sequence[int], cutoff: float) -> tuple[int, int]:
    """(events, graphs) removed, of those of `ids` that are still due."""
    rows, graphs, events = STEP_ROWS, 0, 0
    still = set(_ids(conn, sql=_GRAPHS_DUE, cutoff=cutoff))
    for id in ids:
        if rows <= 0:
            break
        if id in still:
            count = _count(
                conn,
                "DELETE FROM events WHERE id IN (SELECT id FROM events INDEXED BY events_graph "
                "WHERE graph = ? AND op IS NULL LIMIT ?)",
                id,
                rows,
            )
            rows -= count
            events += count
            if rows > 0:
                graphs += _count(conn, "DELETE FROM graphs WHERE id = ?", id)
                rows -= 1
    return events, graphs


def _unused_blobs(conn: sqlite3.Connection, *, cutoff: float) -> list[Blob]:
    """Engine time of a blob's use is compared by what the clocks showed at the last commit."""
    rows = conn.execute(
        f"SELECT id, sha256, size FROM blobs AS b WHERE {_UNUSED} "
        "AND used_at + (SELECT wall - now FROM clock) < ? LIMIT ?",
        (cutoff, PAGE),
    )
    return [Blob(*row) for row in rows]


def _blobs_of(conn: sqlite3.Connection, *, tasks: Sequence[int]) -> list[Blob]:
    marks = ",".join("?" * len(tasks))
    rows = conn.execute(
        "SELECT DISTINCT b.id, b.sha256, b.size FROM blob_uses AS u JOIN blobs AS b ON b.sha256 = u.sha256 "
        f"AND b.complete = 1 WHERE u.task IN ({marks})",
        tuple(tasks),
    )
    return [Blob(*row) for row in rows]


def _hide_blob(conn: sqlite3.Connection, *, blob: Blob, cutoff: float) -> bool:
    """Makes a blob invisible, if it still is unused; whether it did."""
    count = _count(
        conn,
        f"UPDATE blobs AS b SET sha256 = NULL, complete = 0 WHERE id = ? AND {_UNUSED} "
        "AND used_at + (SELECT wall - now FROM clock) < ?",
        blob.id,
        cutoff,
    )
    return count == 1
