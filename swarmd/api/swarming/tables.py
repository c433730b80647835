"""What the Swarming package keeps in the file: its secrets, and requests as clients sent them.

A released migration never changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from swarmd.store.migrate import Migration
from swarmd.store.selecting import parts_of

OWNER = "swarming"
MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "keys",
        (
            """
            CREATE TABLE swarming_keys (
                id INTEGER PRIMARY KEY,
                kind TEXT NOT NULL,                 -- "session": signs session and access tokens; "id": signs ID tokens
                made_wall REAL NOT NULL,
                secret BLOB NOT NULL
            )
            """,
        ),
    ),
    Migration(
        2,
        "requests",
        (
            """
            CREATE TABLE swarming_requests (
                op INTEGER PRIMARY KEY,
                slice INTEGER NOT NULL,             -- which one was found finished, for an operation that shares a task
                request BLOB NOT NULL               -- swarming.v2.TaskRequestResponse, without what `ops` has
            )
            """,
            # An operation takes its request along, whoever removes it.
            """
            CREATE TRIGGER swarming_requests_gone AFTER DELETE ON ops
            BEGIN DELETE FROM swarming_requests WHERE op = OLD.id; END
            """,
        ),
    ),
)


def keys(conn: sqlite3.Connection, kind: str) -> list[tuple[int, float, bytes]]:
    """The keys of a kind, newest first: number, wall time when it was made, secret."""
    return conn.execute(
        "SELECT id, made_wall, secret FROM swarming_keys WHERE kind = ? ORDER BY id DESC", (kind,)
    ).fetchall()


def add_key(conn: sqlite3.Connection, kind: str, made_wall: float, secret: bytes) -> int:
    """Returns the key's number."""
    done = conn.execute(
        "INSERT INTO swarming_keys (kind, made_wall, secret) VALUES (?, ?, ?)", (kind, made_wall, secret)
    )
    assert done.lastrowid is not None
    return done.lastrowid


def drop_keys(conn: sqlite3.Connection, kind: str, up_to: int) -> None:
    """Drops the key of this number and all older ones of the kind."""
    conn.execute("DELETE FROM swarming_keys WHERE kind = ? AND id <= ?", (kind, up_to))


# --------------------------------------------------------------------- requests

INSERT_REQUEST = "INSERT OR REPLACE INTO swarming_requests (op, slice, request) VALUES (?, ?, ?)"
CREATED_WALL = "SELECT created_wall FROM ops WHERE id = ?"


def keep_request(conn: sqlite3.Connection, op: int, slice: int, request: bytes) -> float:
    """Gives the wall time at which the operation was made: its transaction decides that, and this is part of it."""
    conn.execute(INSERT_REQUEST, (op, slice, request))
    return conn.execute(CREATED_WALL, (op,)).fetchone()[0]


def requests(conn: sqlite3.Connection, ops: Sequence[int]) -> dict[int, tuple[int, bytes]]:
    """Of `ops`, those that Swarming clients submitted: which slice was found finished, and the request."""
    sql = "SELECT op, slice, request FROM swarming_requests WHERE op IN ({marks})"
    return {op: (slice, request) for op, slice, request in _by_ids(conn, sql, ops)}


def request_sizes(conn: sqlite3.Connection, ops: Sequence[int]) -> dict[int, int]:
    """About how many bytes it takes to tell the requests of `ops`, whoever submitted them."""
    sql = (
        "SELECT o.id, COALESCE(LENGTH(r.request), LENGTH(t.work)) FROM ops AS o CROSS JOIN tasks AS t ON t.id = o.task "
        "LEFT JOIN swarming_requests AS r ON r.op = o.id WHERE o.id IN ({marks})"
    )
    return dict(_by_ids(conn, sql, ops))


def tasks_of_attempts(conn: sqlite3.Connection, attempts: Sequence[int]) -> dict[int, int]:
    """The tasks of attempts that are named by their own numbers (see `ids.py`)."""
    return dict(_by_ids(conn, "SELECT id, task FROM attempts WHERE id IN ({marks})", attempts))


def _by_ids(conn: sqlite3.Connection, sql: str, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    for part in parts_of(ids):
        yield from conn.execute(sql.format(marks=",".join("?" * len(part))), part)
