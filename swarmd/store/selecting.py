"""Which operations match a filter: listed newest first, counted, or read by their ids.

A filter is looked up through the index that names the fewest operations (its driver); what it does not say is
checked on the rows.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.core.model import DEFAULT_POOL, AttemptId, AttemptState, GraphId, OpId, TaskId, TaskState

from .creation import Span, span_of

MAX_IDS_PER_QUERY = 500  # SQLite's limit of variables is 32,766; short statements stay cached
WINDOW = 2_000  # newest operations that are looked through before any index is
FEW = 1_000  # a filter that names less than so many is used at once
COUNTED = (10_000, 100_000)  # how far others are counted to find the one that names the fewest
COUNTED_TO_COUNT = (*COUNTED, 1_000_000)  # where all its ids will be read
FAR_S = 1e300  # beyond every moment
ROW_COST = 4  # of joining the row of an id, compared with looking in an index

_tags = msgspec.json.Decoder(tuple[str, ...])


class OpRow(Struct, frozen=True):
    """An operation with its task and its task's newest attempt, as committed. Moments are wall time."""

    id: OpId
    task: TaskId
    name: str
    state: TaskState
    ok: bool | None
    exit_code: int | None
    reason: str
    pool: str
    priority: int
    created_wall: float
    started_wall: float | None
    ended_wall: float | None
    bot: str | None
    attempt: AttemptId | None
    number: int
    tags: tuple[str, ...]
    index: int | None
    line: str | None
    graph: GraphId | None
    key: str
    parent: OpId | None
    retry_of: OpId | None
    stop_reason: str | None
    owner: str


class OpFilter(Struct, frozen=True):
    """Every field that is given must match."""

    ids: tuple[OpId, ...] = ()
    states: tuple[TaskState, ...] = ()
    pool: str = ""
    tag: str = ""
    name: str = ""
    graph: GraphId | None = None
    bot: str = ""
    failed: bool | None = None
    tags: tuple[tuple[str, ...], ...] = ()  # of each, one at least
    created_from: float | None = None  # wall time
    created_before: float | None = None  # wall time; itself not
    shared: bool | None = None  # whether its task is another operation's

    @property
    def is_empty(self) -> bool:
        return self == OpFilter()

    @property
    def tag_choices(self) -> tuple[tuple[str, ...], ...]:
        return ((self.tag,), *self.tags) if self.tag else self.tags


OP_COLUMNS = """
    o.id, o.task, o.name, COALESCE(o.ended, t.state), t.ok, t.exit_code, t.reason, o.pool, o.priority,
    o.created_wall, a.started_wall, t.ended_wall, a.bot, a.id, a.number, o.tags, t.idx, t.line, o.graph, o.key,
    o.parent, o.retry_of, a.stop_reason, o.owner, o.ended, a.state
"""
OP_WIDTH = 26
JOINS = "CROSS JOIN tasks AS t ON t.id = o.task LEFT JOIN attempts AS a ON a.id = t.attempt"


def op_row(row: Sequence[Any]) -> OpRow:
    """From the values of `OP_COLUMNS`."""
    (id, task, name, state, ok, exit_code, reason, pool, priority, created, started, ended, bot, attempt, number, tags,
     index, line, graph, key, parent, retry_of, stop_reason, owner, own_end, attempt_state) = row  # fmt: skip
    state = TaskState(state)
    if own_end is not None:
        ok, exit_code, reason = False, None, "withdrawn: other operations share its task"
    alive = attempt_state is not None and attempt_state < AttemptState.ENDED
    return OpRow(
        OpId(id), TaskId(task), name, state, None if not state.is_final else bool(ok), exit_code, reason or "", pool,
        priority, created, started, ended, bot, attempt, number or 0, _tags.decode(tags) if tags != "[]" else (),
        index, line, graph, key, parent, retry_of, stop_reason if alive else None, owner,
    )  # fmt: skip


def ops_by_id(conn: sqlite3.Connection, ids: Iterable[int]) -> dict[int, OpRow]:
    """The operations of `ids` that exist."""
    return {row[0]: op_row(row) for row in rows_by_id(conn, OP_COLUMNS, ids)}


def list_ops(conn: sqlite3.Connection, wanted: OpFilter, before: int | None, limit: int) -> list[OpRow]:
    """Operations that match, newest first, below id `before`."""
    return [op_row(row) for row in select(conn, OP_COLUMNS, wanted, before, limit)]


def matching_ops(
    conn: sqlite3.Connection, wanted: OpFilter, limit: int, before: int | None = None
) -> list[int]:
    """Ids of the operations that match, newest first, below id `before`."""
    return [row[0] for row in select(conn, "o.id", wanted, before, limit)]


def count_ops(conn: sqlite3.Connection, wanted: OpFilter) -> int:
    """How many operations match.

    Filters of tags, states, sharing and creation are counted in indexes alone; 1,000,000 take about 100 ms, and some
    times as long with several of them. Others read each row.
    """
    span = span_of(conn, wanted.created_from, wanted.created_before)
    if wanted.ids or wanted.pool or wanted.name or wanted.graph or wanted.bot:
        drivers = _drivers(conn, wanted, span)
        return _count_rows(
            conn, wanted, _smallest(conn, drivers, span, COUNTED_TO_COUNT) if drivers else None, span
        )
    by_tag = _tag_drivers(wanted, span)
    if by_tag and not wanted.states and wanted.failed is None and wanted.shared is None:
        return _smallest(conn, by_tag, span, COUNTED_TO_COUNT).count(conn, span)
    by_state = _state_driver(conn, wanted, span)
    driver = _smallest(conn, [by_state, *by_tag], span, COUNTED_TO_COUNT)
    return by_state.count(conn, span) if driver is by_state else _count_rows(conn, wanted, driver, span)


def _count_rows(conn: sqlite3.Connection, wanted: OpFilter, driver: _Driver | None, span: Span) -> int:
    """The operations of `driver` (None: all of the span) that match, row by row."""
    where, values = _conditions(wanted)
    sql = f"SELECT COUNT(*) FROM ops AS o {JOINS} WHERE "
    if driver is None and not wanted.ids:
        where = ["o.id >= ?", "o.id < ?", *where]
        return int(conn.execute(sql + " AND ".join(where), (*span.ends, *values)).fetchone()[0])
    ids = set(wanted.ids) if wanted.ids or driver is None else driver.ids(conn, span)
    return sum(
        conn.execute(sql + " AND ".join((one_of("o.id", part), *where)), (*part, *values)).fetchone()[0]
        for part in parts_of(ids)
    )


# --------------------------------------------------------------------- selecting


def rows_by_id(conn: sqlite3.Connection, columns: str, ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    """Columns of the operations of `ids` that exist, in any order."""
    for part in parts_of(ids):
        yield from conn.execute(f"SELECT {columns} FROM ops AS o {JOINS} WHERE {one_of('o.id', part)}", part)


def select(
    conn: sqlite3.Connection, columns: str, wanted: OpFilter, before: int | None, limit: int
) -> list[tuple[Any, ...]]:
    """Columns of the operations that match, newest first, below id `before`.

    By a filter that names few operations, through its index; else first among the newest `WINDOW`, which is enough
    when many match; then by the filter that names the fewest. Figures: docs/benchmarks.md, "Lists".
    """
    span = span_of(conn, wanted.created_from, wanted.created_before)
    if before is not None:
        span = span.below(before)
    if wanted.ids:
        ids = sorted((id for id in set(wanted.ids) if id < span.stop), reverse=True)
        return _among(conn, columns, ids, wanted, limit)
    found: list[tuple[Any, ...]] = []
    drivers = _drivers(conn, wanted, span)
    driver = drivers[0] if len(drivers) == 1 and drivers[0].is_exact else _smaller(conn, drivers, span, FEW)
    if driver is None:
        floor = _window_floor(conn, span) if drivers else span.start
        found = _within(conn, columns, Span(floor, span.stop, 0, 0), wanted, limit)
        if len(found) == limit or floor == span.start:
            return found
        span = span.below(floor)
        driver = _smallest(conn, drivers, span)
    return found + _among(conn, columns, driver.ids(conn, span), wanted, limit - len(found))


def _within(
    conn: sqlite3.Connection, columns: str, span: Span, wanted: OpFilter, limit: int
) -> list[tuple[Any, ...]]:
    """Those of a span that match, newest first, until there are `limit`."""
    where, values = _conditions(wanted)
    return conn.execute(
        f"SELECT {columns} FROM ops AS o {JOINS} WHERE {' AND '.join(('o.id >= ?', 'o.id < ?', *where))} "
        "ORDER BY o.id DESC LIMIT ?",
        (*span.ends, *values, limit),
    ).fetchall()


def _window_floor(conn: sqlite3.Connection, span: Span) -> int:
    """The oldest of the newest `WINDOW` operations; the start of the span when there are not more."""
    row = conn.execute(
        "SELECT id FROM ops WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1 OFFSET ?",
        (*span.ends, WINDOW - 1),
    ).fetchone()
    return span.start if row is None else int(row[0])


def _among(
    conn: sqlite3.Connection, columns: str, ids: Iterable[int], wanted: OpFilter, limit: int
) -> list[tuple[Any, ...]]:
    """Those of `ids` (newest first) that match, until there are `limit`."""
    found: list[tuple[Any, ...]] = []
    where, values = _conditions(wanted)
    for part in parts_of(ids, min(limit, MAX_IDS_PER_QUERY)):
        found += conn.execute(
            f"SELECT {columns} FROM ops AS o {JOINS} WHERE {' AND '.join((one_of('o.id', part), *where))} "
            "ORDER BY o.id DESC LIMIT ?",
            (*part, *values, limit - len(found)),
        ).fetchall()
        if len(found) >= limit:
            break
    return found


def one_of(column: str, values: Sequence[object]) -> str:
    return f"{column} IN ({','.join('?' * len(values))})"


def _conditions(wanted: OpFilter) -> tuple[list[str], list[Any]]:
    """What a filter says, apart from `ids`, as conditions on the joined rows, and their values."""
    where, values = [], list[Any]()
    if wanted.states:
        numbers = ",".join(str(int(s)) for s in wanted.states)
        where.append(f"COALESCE(o.ended, t.state) IN ({numbers})")
    for choice in wanted.tag_choices:
        where.append(_has_tag(choice, "o.id"))
        values += choice
    for condition, value in (
        ("o.pool = ?", wanted.pool or None),
        ("o.name = ?", wanted.name or None),
        ("o.graph = ?", wanted.graph or None),
        ("o.created_wall >= ?", wanted.created_from),
        ("o.created_wall < ?", wanted.created_before),
        ("a.bot = ?", wanted.bot or None),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    if wanted.failed is True:
        where.append("(t.ok = 0 OR o.ended IS NOT NULL)")
    elif wanted.failed is False:
        where.append("(t.ok IS NOT 0 AND o.ended IS NULL)")
    if wanted.shared is not None:
        where.append("o.task <> o.id" if wanted.shared else "o.task = o.id")
    return where, values


# --------------------------------------------------------------------- drivers


class _Arm(Struct, frozen=True):
    """The ids that one statement gives through one index."""

    id: str  # the column
    source: str  # FROM … WHERE …, without the span
    values: tuple[Any, ...] = ()
    again: bool = False  # an id may come several times

    def within(self, also: str) -> str:
        """FROM and WHERE; values are the arm's, the span's, and those of `also`."""
        return f"FROM {self.source} AND {self.id} >= ? AND {self.id} < ?{also.replace('{id}', self.id)}"

    def sql(self, also: str) -> str:
        group = f" GROUP BY {self.id}" if self.again else ""
        return f"SELECT {self.id} {self.within(also)}{group} ORDER BY {self.id} DESC"


class _Driver(Struct, frozen=True):
    """One way to find the operations that may match: its arms, and other filters that its ids are enough for."""

    arms: list[_Arm]
    also: str = ""
    also_values: tuple[Any, ...] = ()
    is_exact: bool = True  # names just the operations that match, in order, at no cost beyond their number
    cost: int = 1  # of one id, compared with other drivers
    less: list[_Arm] = []  # what the arms name although they should not, when they are counted

    def ids(self, conn: sqlite3.Connection, span: Span) -> Iterator[int]:
        """Newest first, each once."""
        cursors = [
            conn.execute(arm.sql(self.also), (*arm.values, *span.ends, *self.also_values))
            for arm in self.arms
        ]
        if len(cursors) == 1:
            return (id for (id,) in cursors[0])
        return (id for (id,), _ in groupby(heapq.merge(*cursors, reverse=True)))

    def size(self, conn: sqlite3.Connection, span: Span, limit: int) -> int:
        """How many ids the arms give, up to `limit`, without the other filters."""
        count = 0
        for arm in self.arms:
            if count < limit:
                sql = f"SELECT COUNT(*) FROM (SELECT 1 {arm.within('')} LIMIT ?)"
                count += conn.execute(sql, (*arm.values, *span.ends, limit - count)).fetchone()[0]
        return count

    def count(self, conn: sqlite3.Connection, span: Span) -> int:
        """How many operations there are, other filters included. The arms must not name one twice."""
        count = 0
        for sign, arms in ((1, self.arms), (-1, self.less)):
            for arm in arms:
                sql = f"SELECT COUNT(*) {arm.within(self.also)}"
                count += sign * conn.execute(sql, (*arm.values, *span.ends, *self.also_values)).fetchone()[0]
        return count


def _smaller(conn: sqlite3.Connection, drivers: list[_Driver], span: Span, limit: int) -> _Driver | None:
    """The cheapest of the drivers, if one of them names less than `limit` operations."""
    sizes = [driver.size(conn, span, limit) for driver in drivers]
    if not sizes or min(sizes) == limit:
        return None
    costs = [size * driver.cost for size, driver in zip(sizes, drivers, strict=True)]
    return drivers[costs.index(min(costs))]


def _smallest(
    conn: sqlite3.Connection, drivers: list[_Driver], span: Span, limits: Sequence[int] = COUNTED
) -> _Driver:
    """The cheapest of the drivers, as far as they are counted: counting costs as much as some ids of that one."""
    if len(drivers) > 1:
        for limit in limits:
            if (found := _smaller(conn, drivers, span, limit)) is not None:
                return found
    return min(drivers, key=lambda driver: driver.cost)


def _drivers(conn: sqlite3.Connection, wanted: OpFilter, span: Span) -> list[_Driver]:
    """The filters that have an index. Indexes: tags (primary key), ops_graph, ops_name, ops_pool, attempts_bot,
    tasks_alive, tasks_final, ops_shared, ops_sharing, ops_ended.
    """
    found = _tag_drivers(wanted, span)
    also, also_values = _also(wanted, span)
    for index, condition, value in (
        ("ops_graph", "graph = ?", wanted.graph),
        ("ops_name", "name = ? AND name <> ''", wanted.name),
        ("ops_pool", "pool = ? AND pool <> 'default'", wanted.pool if wanted.pool != DEFAULT_POOL else ""),
    ):
        if value:
            arm = _Arm("ops.id", f"ops INDEXED BY {index} WHERE {condition}", (value,))
            found.append(_Driver([arm], also, also_values, cost=ROW_COST))
    if wanted.bot:
        arms = [_Arm(*arm, (wanted.bot,), True) for arm in (_BOT_OWN, _BOT_SHARED)]
        found.append(_Driver(arms, also, also_values, is_exact=False, cost=ROW_COST))
    if wanted.states or wanted.failed is not None:
        found.append(_state_driver(conn, wanted, span))
    if wanted.shared:
        found.append(_Driver([_Arm("ops.id", _SHARED)], also, also_values, cost=ROW_COST))
    return found


def _tag_drivers(wanted: OpFilter, span: Span) -> list[_Driver]:
    """One for each choice of tags; its arms exclude each other."""
    only_tags = not wanted.states and wanted.failed is None and wanted.shared is None
    found = []
    for place, choice in enumerate(wanted.tag_choices):
        tags = list(dict.fromkeys(choice))
        arms = [
            _Arm(
                "tags.op",
                "tags WHERE tags.tag = ?" + (f" AND NOT {_has_tag(tags[:n], 'tags.op')}" if n else ""),
                (tag, *tags[:n]),
            )
            for n, tag in enumerate(tags)
        ]
        also, also_values = _also(wanted, span, place)
        found.append(_Driver(arms, also, also_values, cost=1 if only_tags else ROW_COST))
    return found


def _has_tag(tags: Sequence[str], id: str) -> str:
    return f"EXISTS (SELECT 1 FROM tags AS g WHERE {one_of('g.tag', tags)} AND g.op = {id})"


def _also(wanted: OpFilter, span: Span, but: int | None = None) -> tuple[str, tuple[Any, ...]]:
    """The filters of tags (without the choice at place `but`) and of creation, as conditions on an id."""
    conditions, values = [], list[Any]()
    for place, choice in enumerate(wanted.tag_choices):
        if place != but:
            conditions.append(_has_tag(choice, "{id}"))
            values += choice
    if wanted.created_from is not None or wanted.created_before is not None:
        condition, more = created_within("{id}", span, wanted.created_from, wanted.created_before)
        conditions.append(condition)
        values += more
    return "".join(f" AND {condition}" for condition in conditions), tuple(values)


def created_within(
    id: str, span: Span, begin: float | None, end: float | None
) -> tuple[str, tuple[float, ...]]:
    """A condition on ids of the span of these moments, and its values: only few of them need a look at the row."""
    return (
        f"({id} >= ? AND {id} < ? OR EXISTS (SELECT 1 FROM ops AS c WHERE c.id = {id} "
        "AND c.created_wall >= ? AND c.created_wall < ?))",
        (span.sure_start, span.sure_stop, -FAR_S if begin is None else begin, FAR_S if end is None else end),
    )


_BOT_OWN = ("attempts.task", "attempts INDEXED BY attempts_bot WHERE attempts.bot = ?")
_BOT_SHARED = (
    "ops.id",
    "attempts INDEXED BY attempts_bot CROSS JOIN ops INDEXED BY ops_shared "
    "ON ops.task = attempts.task AND ops.task <> ops.id WHERE attempts.bot = ?",
)
_ALIVE = "tasks INDEXED BY tasks_alive {} WHERE tasks.state = ? AND tasks.state < 10"
_FINAL = "tasks INDEXED BY tasks_final {} WHERE tasks.state = ? AND tasks.ok = ? AND tasks.state >= 10"
_THEIR_SHARED = (
    "CROSS JOIN ops INDEXED BY ops_shared ON ops.task = tasks.id AND ops.task <> ops.id AND ops.ended IS NULL"
)
_SHARED = "ops INDEXED BY ops_sharing WHERE task <> ops.id"
_SHARED_IN = (
    "ops INDEXED BY ops_sharing CROSS JOIN tasks ON tasks.id = ops.task "
    "WHERE ops.task <> ops.id AND ops.ended IS NULL AND ({})"
)
_ENDED = "ops INDEXED BY ops_ended WHERE ops.ended = ?"
_ENDED_IN = (
    "ops INDEXED BY ops_ended CROSS JOIN tasks ON tasks.id = ops.id "
    "WHERE ops.ended IS NOT NULL AND ops.task = ops.id AND ({})"
)

_Kind = tuple[TaskState, int | None]  # a state, and ok of final ones


def _state_driver(conn: sqlite3.Connection, wanted: OpFilter, span: Span) -> _Driver:
    """By the states of tasks: own operations; those that share another's task; and those that ended apart from theirs.

    An own operation that ended apart is found by the state of its task too.
    """
    states = tuple(dict.fromkeys(wanted.states)) or tuple(TaskState)
    kinds: list[_Kind] = [
        (state, None) for state in states if not state.is_final and wanted.failed is not True
    ]
    kinds += [
        (state, ok)
        for state in states
        if state.is_final
        for ok in ((0, 1) if wanted.failed is None else (int(not wanted.failed),))
        if not ok or state is TaskState.COMPLETED
    ]
    own = [_kind_arm("tasks.id", "", kind) for kind in kinds]
    arms, less = list[_Arm](), list[_Arm]()
    if not wanted.states and wanted.failed is None:
        arms += own if wanted.shared is not True else []
        arms += [_Arm("ops.id", _SHARED)] if wanted.shared is not False else []
        return _Driver(arms, *_also(wanted, span), is_exact=False)
    if kinds and wanted.shared is not True:
        arms += own
        less.append(_Arm("tasks.id", _ENDED_IN.format(_kinds_sql(kinds))))
    if kinds and wanted.shared is not False:
        arms += _shared_arms(conn, kinds, own, span)
    if TaskState.CANCELED in states and wanted.failed is not False:  # none ends otherwise
        which = {None: "", True: " AND ops.task <> ops.id", False: " AND ops.task = ops.id"}[wanted.shared]
        arms.append(_Arm("ops.id", _ENDED + which, (int(TaskState.CANCELED),)))
    return _Driver(arms, *_also(wanted, span), is_exact=False, less=less)


def _shared_arms(conn: sqlite3.Connection, kinds: list[_Kind], own: list[_Arm], span: Span) -> list[_Arm]:
    """Operations that share a task of these kinds: through the tasks, or through all that share, whichever are less."""
    through_all = [_Arm("ops.id", _SHARED_IN.format(_kinds_sql(kinds)))]
    if (TaskState.COMPLETED, 1) in kinds:
        return through_all  # most are
    limit = COUNTED[-1]
    tasks = _Driver(own).size(conn, Span(0, span.stop, 0, 0), limit)
    few = tasks // ROW_COST
    if tasks == limit or (few and _Driver([_Arm("ops.id", _SHARED)]).size(conn, span, few) < few):
        return through_all
    return [_kind_arm("ops.id", _THEIR_SHARED, kind) for kind in kinds]


def _kind_arm(id: str, join: str, kind: _Kind) -> _Arm:
    state, ok = kind
    return _Arm(
        id, (_ALIVE if ok is None else _FINAL).format(join), (int(state),) if ok is None else (int(state), ok)
    )


def _kinds_sql(kinds: list[_Kind]) -> str:
    each = (
        f"tasks.state = {state:d}" + ("" if ok is None else f" AND tasks.ok = {ok}") for state, ok in kinds
    )
    return " OR ".join(each)


def parts_of(ids: Iterable[int], first: int = MAX_IDS_PER_QUERY) -> Iterator[list[int]]:
    """`ids`, each once, in their order, as many at a time as fit a statement (`first` the first time); read no
    further than asked for.
    """
    rest = iter(dict.fromkeys(ids) if isinstance(ids, Sequence) else ids)
    size = first
    while part := list(islice(rest, size)):
        yield [int(id) for id in part]
        size = MAX_IDS_PER_QUERY
