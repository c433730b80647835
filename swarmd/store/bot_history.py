"""What happened to a bot: its own events, and the beginnings and ends of its attempts, in one order.

An attempt begins with the offer, which has no event: its id, made in that moment, stands for it. Its end is an event of
the operations that it ran for. So everything has an id of one sequence, and the history is sorted by it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.core.ids import MAX_ID
from swarmd.core.model import AttemptId, AttemptState, Outcome, StopReason, TaskState

from .selecting import parts_of

LAST_WALL = 253_402_300_800.0  # the end of the year 9999
SET_BACK_S = 600.0  # a wall clock that was set back by more may hide the end of what ran at that moment

_TERMINATE = b'"terminate":true'  # in the JSON of a termination task's work
_outcome = msgspec.json.Decoder(Outcome)


class OwnEntry(Struct, frozen=True):
    """An event of the bot itself."""

    id: int
    wall: float
    kind: str
    detail: str | None  # JSON


class OfferEntry(Struct, frozen=True):
    """An attempt was offered to the bot. `id` is the attempt's."""

    id: int
    wall: float
    task: int
    number: int

    @property
    def attempt(self) -> AttemptId:
        return AttemptId(self.id)


class EndEntry(Struct, frozen=True):
    """An attempt on the bot ended. `id` is that of the first event that tells it."""

    id: int
    wall: float
    task: int
    number: int
    attempt: AttemptId
    state: AttemptState
    stop: StopReason | None
    outcome: Outcome


Entry = OwnEntry | OfferEntry | EndEntry


class Run(Struct, frozen=True):
    """What makes a run id."""

    task: int
    number: int
    attempt: AttemptId


class Standing(Struct, frozen=True):
    """The newest events before some moment that say how a bot was; None where there was none."""

    session: OwnEntry | None  # a session was opened or ended, or the bot was deleted
    connected: OwnEntry | None  # the newest session was opened
    health: OwnEntry | None  # its orders and its health changed, or the bot was deleted


_OWN = """
    SELECT id, wall, kind, detail FROM events INDEXED BY events_bot
    WHERE bot = ? AND op IS NULL AND id < ? AND wall >= ? AND wall < ? ORDER BY id DESC LIMIT ?
"""
_OFFERS = """
    SELECT id, offered_wall, task, number FROM attempts INDEXED BY attempts_bot
    WHERE bot = ? AND id < ? AND offered_wall >= ? AND offered_wall < ? ORDER BY id DESC LIMIT ?
"""
# The end of an attempt: the first event of its operation that says so; where that was withdrawn, of those that share
# its task.
_NAMED = f"""
    SELECT MIN(e.id) FROM events AS e INDEXED BY events_op WHERE e.op = {{op}} AND e.id > a.id AND e.attempt = a.id
    AND (e.kind = 'offer.dropped' OR e.kind = 'task' AND e.state <> {int(TaskState.RUNNING)})
"""
# An offer that was taken back, because its task was canceled, is named by none: it is the end of the last operation.
_CANCELED = f"""
    SELECT MAX(e.id) FROM events AS e INDEXED BY events_op WHERE e.op = {{op}} AND e.id > a.id AND e.attempt IS NULL
    AND e.kind = 'task' AND e.state = {int(TaskState.CANCELED)} AND a.state = {int(AttemptState.DROPPED)}
"""
_SHARING = "FROM ops AS o INDEXED BY ops_shared WHERE o.task = a.task AND o.task <> o.id"
_ENDS = f"""
    SELECT COALESCE(
        ({_NAMED.format(op="a.task")}),
        (SELECT MIN(({_NAMED.format(op="o.id")})) {_SHARING}),
        MAX(
            COALESCE(({_CANCELED.format(op="a.task")}), 0),
            COALESCE((SELECT MAX(({_CANCELED.format(op="o.id")})) {_SHARING}), 0)
        )
    ) AS told, a.ended_wall, a.task, a.number, a.id, a.state, a.stop_reason, a.outcome
    FROM attempts AS a INDEXED BY attempts_bot
    WHERE a.bot = ? AND a.id < ? AND a.ended_wall >= ? AND a.ended_wall < ?
"""


def bot_history(
    conn: sqlite3.Connection,
    bot: str,
    *,
    before: int | None = None,
    since: float = 0.0,
    until: float = LAST_WALL,
    limit: int,
) -> list[Entry]:
    """Entries below id `before`, of wall time from `since` until before `until`, newest first.

    Cost: the page, and a look at each older attempt of the bot: any of them may have ended just now. Measured with
    100,000 attempts of one bot: 38 ms. Indexes: events_bot, attempts_bot, events_op, ops_shared.
    """
    assert limit > 0
    before = MAX_ID if before is None else before
    span = (bot, before, since, until)
    found: list[Entry] = [OwnEntry(*row) for row in conn.execute(_OWN, (*span, limit))]
    found += [OfferEntry(*row) for row in conn.execute(_OFFERS, (*span, limit))]
    found.sort(key=_id, reverse=True)
    del found[limit:]
    # Of the ends only those matter that are newer than what fills the page already.
    last, soonest = (found[-1].id, found[-1].wall - SET_BACK_S) if len(found) == limit else (0, 0.0)
    for told, *row in conn.execute(_ENDS, (bot, before, max(since, soonest), until)):
        if last < told < before:
            found.append(_end_entry(told, *row))
    found.sort(key=_id, reverse=True)
    return found[:limit]


def _id(entry: Entry) -> int:
    return entry.id


def _end_entry(
    told: int,
    wall: float,
    task: int,
    number: int,
    attempt: int,
    state: int,
    stop: str | None,
    outcome: bytes | None,
) -> EndEntry:
    return EndEntry(
        told, wall, task, number, AttemptId(attempt), AttemptState(state), StopReason(stop) if stop else None,
        Outcome(ok=False) if outcome is None else _outcome.decode(outcome),
    )  # fmt: skip


_STANDING = """
    SELECT id, wall, kind, detail FROM events INDEXED BY events_bot WHERE bot = ? AND op IS NULL AND id < ?
    AND kind IN ('bot.connected', 'bot.disconnected', 'bot.changed', 'bot.deleted') ORDER BY id DESC
"""


def standing(conn: sqlite3.Connection, bot: str, before: int) -> Standing:
    """How a bot was before the entry `before`. Index: events_bot."""
    session = connected = health = None
    for row in conn.execute(_STANDING, (bot, before)):
        entry = OwnEntry(*row)
        if entry.kind in ("bot.changed", "bot.deleted"):
            health = health or entry
        if entry.kind != "bot.changed":
            session = session or entry
        if entry.kind == "bot.connected":
            connected = connected or entry
        if entry.kind == "bot.deleted" or (health and connected):
            break
    return Standing(session, connected, health)


# The newest attempt of a bot, if it is the task that ended it: nothing else is offered with it, and the bot was never
# connected since.
_TERMINATED = f"""
    SELECT a.task, a.number, a.id, t.work FROM attempts AS a INDEXED BY attempts_bot
    CROSS JOIN tasks AS t ON t.id = a.task AND t.state = {int(TaskState.COMPLETED)} AND t.ok = 1
    WHERE a.bot = ?1
    AND a.id = (SELECT id FROM attempts INDEXED BY attempts_bot WHERE bot = ?1 ORDER BY id DESC LIMIT 1)
    AND NOT EXISTS (
        SELECT 1 FROM events INDEXED BY events_bot
        WHERE bot = ?1 AND op IS NULL AND id > a.id AND kind = 'bot.connected'
    )
"""


def terminations(conn: sqlite3.Connection, bots: Iterable[str]) -> dict[str, Run]:
    """Of `bots` that are gone, those that a termination task ended, with its run. Indexes: attempts_bot, events_bot."""
    found = {}
    for bot in bots:
        row = conn.execute(_TERMINATED, (bot,)).fetchone()
        if row is not None and _TERMINATE in bytes(row[3]):
            found[bot] = Run(row[0], row[1], AttemptId(row[2]))
    return found


def op_names(conn: sqlite3.Connection, ops: Iterable[int]) -> dict[int, str]:
    """The names of operations that exist."""
    return dict(_of_ids(conn, "SELECT id, name FROM ops WHERE id IN ({ids})", ops))


def termination_tasks(conn: sqlite3.Connection, tasks: Iterable[int]) -> set[int]:
    """Of `tasks`, those that tell their bot to end itself.

    In JSON the text that is looked for can stand only where the field does: inside of strings a quote is escaped.
    """
    rows = _of_ids(conn, "SELECT id, work FROM tasks WHERE id IN ({ids})", tasks)
    return {id for id, work in rows if _TERMINATE in bytes(work)}


def _of_ids(conn: sqlite3.Connection, sql: str, ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    for part in parts_of(list(ids)):
        yield from conn.execute(sql.format(ids=",".join("?" * len(part))), part)
