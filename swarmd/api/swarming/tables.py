"""What the Swarming package keeps in the file: its secrets. A released migration never changes."""

from __future__ import annotations

import sqlite3

from swarmd.store.migrate import Migration

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
