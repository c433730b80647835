"""Which operations were created when: moments of wall time as ids, for lists and counts of a range of time.

Ids carry engine time, which falls behind wall time while the daemon is down for long and ignores jumps of the wall
clock. The table `wall_offsets` says how far the two were apart: for the operations from `first` on (up to the next
row's), `created_wall` less the time in the id lies within `low` and `high`. A row is added when that holds no
more, so there are about as many as restarts after a long pause and jumps of the clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import ceil, floor

from msgspec import Struct

from swarmd.core.changes import OpRecord
from swarmd.core.ids import COUNTER_BITS, made_at

ROOM_S = 1.0  # how far the offset may drift before another row is made
MAX_OP = (1 << 63) - 1

# In the transaction that inserts the operations, whose ids are all above those of earlier ones.
NOTE_OFFSET = """
INSERT INTO wall_offsets (first, low, high) SELECT ?1, ?2 - ?4, ?3 + ?4 WHERE NOT EXISTS (
    SELECT 1 FROM (SELECT low, high FROM wall_offsets ORDER BY first DESC LIMIT 1) WHERE low <= ?2 AND ?3 <= high
)
"""
_UNUSED = "first < (SELECT MAX(first) FROM wall_offsets WHERE first <= (SELECT MIN(id) FROM ops))"


def offset_of(ops: Sequence[OpRecord], offset: float) -> tuple[int, float, float, float]:
    """The values of `NOTE_OFFSET` for new operations, of which there is one; `offset`: wall less engine time."""
    ahead = [op.created_at - made_at(op.id) for op in ops]
    return min(op.id for op in ops), min(ahead) + offset, max(ahead) + offset, ROOM_S


def has_unused(conn: sqlite3.Connection) -> bool:
    """Whether there are rows below the one that the oldest operation needs."""
    return conn.execute(f"SELECT 1 FROM wall_offsets WHERE {_UNUSED} LIMIT 1").fetchone() is not None


def forget_unused(conn: sqlite3.Connection) -> None:
    conn.execute(f"DELETE FROM wall_offsets WHERE {_UNUSED}")


class Span(Struct, frozen=True):
    """The ids from `start` to below `stop`. Those from `sure_start` to below `sure_stop` need no look at their
    moment of creation; the others may have been made somewhat before or after the range asked for."""

    start: int
    stop: int
    sure_start: int
    sure_stop: int

    @property
    def ends(self) -> tuple[int, int]:
        return self.start, self.stop

    def below(self, stop: int) -> Span:
        return Span(self.start, min(self.stop, stop), self.sure_start, self.sure_stop)


def span_of(conn: sqlite3.Connection, created_from: float | None, created_before: float | None) -> Span:
    """The narrowest known span that has every operation created within the range. O(rows of `wall_offsets`)."""
    if created_from is None and created_before is None:
        return Span(0, MAX_OP, 0, MAX_OP)
    rows = conn.execute("SELECT first, low, high FROM wall_offsets ORDER BY first").fetchall()
    start, stop, sure_start, sure_stop = MAX_OP, 0, 0, MAX_OP
    ends = [*(first for first, _, _ in rows[1:]), MAX_OP]
    for (first, low, high), after in zip(rows, ends, strict=False):
        begin, end = first, after
        if created_from is not None:
            begin = max(first, _id_at(floor((created_from - high) * 1000)))
            if first < (sure := _id_at(ceil((created_from - low) * 1000))):
                sure_start = min(sure, after)
        if created_before is not None:
            end = min(after, _id_at(ceil((created_before - low) * 1000)))
            if after > (sure := _id_at(floor((created_before - high) * 1000))):
                sure_stop = min(sure_stop, max(sure, first))
        if begin < end:
            start, stop = min(start, begin), max(stop, end)
    return Span(start, stop, sure_start, sure_stop) if start < stop else Span(0, 0, 0, 0)


def _id_at(ms: int) -> int:
    """The first id of a millisecond of engine time."""
    return min(MAX_OP, max(0, ms) << COUNTER_BITS)
