"""Brings what is alive back from the file: only that, so that a start does not depend on the size of the history.

Limits and session deadlines do not count the time the daemon was down; expirations and retry waits do.
Source: docs/architecture.md, "Time".
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable

import msgspec
from msgspec import Struct

from swarmd.core.dimensions import values_of
from swarmd.core.engine import Engine
from swarmd.core.model import (
    NEVER,
    NO_GRAPH,
    Attempt,
    AttemptId,
    AttemptState,
    Bot,
    BotId,
    BotOrder,
    Condition,
    Graph,
    GraphId,
    Op,
    OpId,
    Plan,
    Session,
    SessionId,
    Share,
    Stop,
    StopReason,
    Stream,
    Task,
    TaskId,
    TaskState,
    Work,
)
from swarmd.core.placing import SliceKey
from swarmd.core.submitting import SliceSpec, slice_key

_works = msgspec.json.Decoder(list[Work])
_slices = msgspec.json.Decoder(list[SliceSpec])
_dimensions = msgspec.json.Decoder(dict[str, tuple[str, ...]])
_streams = msgspec.json.Decoder(dict[str, tuple[int, int]])


class Clock(Struct, frozen=True):
    """The moment of the last commit."""

    now: float
    wall: float
    last_id: int


def read_clock(conn: sqlite3.Connection) -> Clock | None:
    """None for a new file."""
    row = conn.execute("SELECT now, wall, last_id FROM clock").fetchone()
    return None if row is None else Clock(*row)


def load(conn: sqlite3.Connection, engine: Engine, clock: Clock, now: float, wall: float) -> None:
    """Fills a fresh `engine` with everything alive; `now` and `wall` are this start's engine and wall time.

    The garbage collector rests meanwhile: nothing that is made here can be garbage (it took a quarter of the time).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        _load(conn, engine, clock, now, wall)
    finally:
        if collecting:
            gc.enable()


def _load(conn: sqlite3.Connection, engine: Engine, clock: Clock, now: float, wall: float) -> None:
    down_s = max(0.0, now - clock.now)
    offset = wall - now
    _load_bots(conn, engine, offset)
    _load_graphs(conn, engine)
    _load_sessions(conn, engine, now)
    _load_ops(conn, engine, _load_tasks(conn, engine))
    _load_attempts(conn, engine, now, down_s)
    engine.loaded(now)


def _load_bots(conn: sqlite3.Connection, engine: Engine, offset: float) -> None:
    rows = conn.execute("""
        SELECT id, protocol, key_hash, dimensions, assigned, version, state, first_seen_wall, last_seen_wall,
            quarantined, by_person, maintenance, draining, ordered FROM bots
    """)
    for id, protocol, key_hash, dimensions, assigned, version, state, first, last, *flags in rows:
        bot = Bot(BotId(id), protocol, first - offset)
        bot.key_hash, bot.version, bot.state = key_hash, version, bytes(state)
        bot.dimensions, bot.assigned = _dimensions.decode(dimensions), _dimensions.decode(assigned)
        bot.values = values_of(bot.dimensions, bot.assigned)
        bot.last_seen_at = last - offset
        bot.quarantined, by_person, bot.maintenance, draining, ordered = flags
        bot.quarantined_by_person, bot.draining = bool(by_person), bool(draining)
        bot.order = BotOrder(ordered) if ordered else None
        engine.load_bot(bot)


def _load_graphs(conn: sqlite3.Connection, engine: Engine) -> None:
    rows = conn.execute("""
        SELECT id, name, owner, is_open, touched_at, failed FROM graphs WHERE is_open = 1 OR alive > 0
    """)
    for id, name, owner, is_open, touched_at, failed in rows:
        graph = Graph(GraphId(id), name, owner, bool(is_open), touched_at)
        graph.failed = failed
        engine.load_graph(graph)


def _load_sessions(conn: sqlite3.Connection, engine: Engine, now: float) -> None:
    rows = conn.execute("""
        SELECT id, bot, protocol, key, slots, deadline_s, enforces_limits, opened_at
        FROM sessions WHERE ended_wall IS NULL
    """)
    for id, bot, protocol, key, slots, deadline_s, enforces, opened_at in rows:
        session = Session(
            SessionId(id), BotId(bot), protocol, key, slots, deadline_s, bool(enforces), opened_at
        )
        engine.load_session(now, session)


def _plans(engine: Engine) -> Callable[..., Plan]:
    """Equal texts give equal plans: each is read once."""
    known: dict[tuple[bytes, bytes, str], tuple[SliceKey, ...]] = {}

    def plan_of(work: bytes, slices: bytes, pool: str, *limits: object) -> Plan:
        key = (work, slices, pool)
        found = known.get(key)
        if found is None:
            works = _works.decode(work)
            parts = _slices.decode(slices)
            found = known[key] = tuple(
                slice_key(works[n if len(works) > 1 else 0], part, pool) for n, part in enumerate(parts)
            )
        retries, bot_retries, retry_wait_s, carry = limits
        return engine.plan_of(found, int(retries), int(bot_retries), float(retry_wait_s), bool(carry))  # type: ignore[call-overload]

    return plan_of


_STATES = {int(state): state for state in TaskState}
_OwnOps = dict[int, tuple[Op, OpId | None]]


def _load_tasks(conn: sqlite3.Connection, engine: Engine) -> _OwnOps:
    """Adds all unfinished tasks; returns those of their own operations that have a graph or a parent."""
    plan_of = _plans(engine)
    own_ops: _OwnOps = {}
    rows = conn.execute("""
        SELECT t.id, t.state, t.slice, t.priority, t.due_at, t.tries, t.task_faults, t.bot_faults,
            t.drops, t.attempt, t.sameness, t.share, o.graph, o.parent, o.ended,
            t.work, t.slices, o.pool, t.retries, t.bot_retries, t.retry_wait_s, t.carry_time
        FROM tasks AS t INDEXED BY tasks_alive CROSS JOIN ops AS o ON o.id = t.id WHERE t.state < 10
    """)
    for (id, state, slice, priority, due_at, tries, task_faults, bot_faults, drops, attempt, sameness, share,
         graph, parent, ended, *plan) in rows:  # fmt: skip
        task = Task(id, plan_of(*plan), priority)
        task.state = _STATES[state]
        task.slice = slice
        if due_at is not None:
            task.due_at = due_at
        if tries:
            task.tries, task.task_faults, task.bot_faults, task.drops = tries, task_faults, bot_faults, drops
            task.last_attempt = AttemptId(attempt or 0)
        if sameness is not None:
            task.sameness, task.share = sameness, Share(share)
        if (graph is not None or parent is not None) and ended is None:
            own_ops[id] = _op((id, id, priority, graph, parent))
        engine.load_task(task)
    _load_edges(conn, engine)
    return own_ops


def _load_edges(conn: sqlite3.Connection, engine: Engine) -> None:
    edges = conn.execute("""
        SELECT e.task, e.on_op, e.condition FROM tasks AS t INDEXED BY tasks_alive
        JOIN edges AS e ON e.task = t.id WHERE t.state < 10 AND t.state = 1 AND e.met = 0
    """)
    for task_id, on, condition in edges:
        task = engine.tasks[TaskId(task_id)]
        if task.waits is None:
            task.waits = {}
        task.waits[OpId(on)] = Condition(condition)
        engine.dependents.setdefault(OpId(on), []).append(task.id)


def _load_ops(conn: sqlite3.Connection, engine: Engine, own_ops: _OwnOps) -> None:
    """Operations that say more than their task does: in a graph, with a parent, or sharing."""
    shared: dict[int, list[tuple[Op, OpId | None]]] = {}
    others = conn.execute("""
        SELECT o.id, o.task, o.priority, o.graph, o.parent FROM tasks AS t INDEXED BY tasks_alive
        JOIN ops AS o INDEXED BY ops_shared ON o.task = t.id WHERE t.state < 10 AND o.task <> o.id AND o.ended IS NULL
    """).fetchall()
    for row in others:
        shared.setdefault(row[1], []).append(_op(row))
    for task_id in shared:
        own = conn.execute(
            "SELECT id, task, priority, graph, parent FROM ops WHERE id = ? AND task = id AND ended IS NULL",
            (task_id,),
        ).fetchone()
        if own is not None:  # else it was withdrawn
            shared[task_id].insert(0, _op(own))
    for task_id, one in own_ops.items():
        shared.setdefault(task_id, [one])
    for task_id, ops in shared.items():
        engine.load_ops(engine.tasks[TaskId(task_id)], ops)


def _op(row: tuple[int, int, int, int | None, int | None]) -> tuple[Op, OpId | None]:
    id, task, priority, graph, parent = row
    op = Op(OpId(id), TaskId(task), priority, GraphId(graph) if graph else NO_GRAPH)
    return op, None if parent is None else OpId(parent)


def _load_attempts(conn: sqlite3.Connection, engine: Engine, now: float, down_s: float) -> None:
    rows = conn.execute("""
        SELECT a.id, a.task, a.number, a.bot, a.session, a.offer_key, a.state, a.offered_at, a.started_at,
            a.accept_due_at, a.limit_due_at, a.queued, a.stop_reason, a.stop_since_at, a.stop_due_at, a.stop_grace_s,
            a.streams, a.merged_end, a.remaining_s
        FROM tasks AS t INDEXED BY tasks_alive CROSS JOIN attempts AS a INDEXED BY attempts_task ON a.task = t.id
        WHERE t.state < 10 AND t.state IN (2, 3) AND a.state < 10
    """)
    for id, task, number, bot, session, offer_key, state, offered_at, started_at, *rest in rows:
        (
            accept_due_at,
            limit_due_at,
            queued,
            reason,
            since_at,
            due_at,
            grace_s,
            streams,
            merged_end,
            remaining_s,
        ) = rest
        attempt = Attempt(
            AttemptId(id), TaskId(task), number, BotId(bot), SessionId(session), offer_key, offered_at
        )
        attempt.state = AttemptState(state)
        attempt.started_at = started_at or 0.0
        attempt.accept_due_at = NEVER if accept_due_at is None else accept_due_at + down_s
        attempt.limit_due_at = NEVER if limit_due_at is None else limit_due_at + down_s
        attempt.queued = bool(queued)
        if reason is not None:
            attempt.stop = Stop(StopReason(reason), since_at, due_at + down_s, grace_s)
        if streams != "{}":
            attempt.streams = {n: Stream(*s) for n, s in _streams.decode(streams).items()}
        attempt.merged_end, attempt.remaining_s = merged_end, remaining_s
        if attempt.queued and attempt.state is AttemptState.OFFERED:
            # Expirations count the downtime, but its bot may have started it meanwhile: it has time to say so.
            heard_at = min(attempt.expires_at + down_s, now + engine.settings.accept_s)
            attempt.accept_due_at = max(attempt.expires_at, heard_at)
        engine.load_attempt(attempt)
