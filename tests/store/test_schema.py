"""The tables are what the program writes and reads, and no more."""

import re
from pathlib import Path

import swarmd.store
from swarmd.store.migrate import versions
from swarmd.store.schema import CORE_MIGRATIONS
from tests.store.builders import new_database

SOURCES = (
    "rows.py", "loading.py", "queries.py", "selecting.py", "runs.py", "creation.py", "blobs.py", "check.py",
    "retention.py", "migrate.py",
)  # fmt: skip
STATEMENTS = "\n".join((Path(swarmd.store.__file__).parent / name).read_text() for name in SOURCES)


def tables(conn):
    return [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def test_a_new_file_has_the_last_version():
    assert versions(new_database()) == {"core": len(CORE_MIGRATIONS)}


def test_every_table_and_column_is_used():
    conn = new_database()
    unused = [
        f"{table}.{column}"
        for table in tables(conn)
        for _, column, *_ in conn.execute(f"PRAGMA table_info({table})")
        if not re.search(rf"\b{column}\b", STATEMENTS)
    ]
    assert unused == []
    assert [table for table in tables(conn) if not re.search(rf"\b{table}\b", STATEMENTS)] == []


def test_every_column_is_not_null_or_may_be_missing_for_a_reason():
    """A column that may be NULL says nothing until something happened; these are all."""
    conn = new_database()
    nullable = {
        f"{table}.{column}"
        for table in tables(conn)
        for _, column, _, not_null, _, key in conn.execute(f"PRAGMA table_info({table})")
        if not not_null and not key
    }
    assert nullable == {
        "tasks.due_at", "tasks.attempt", "tasks.sameness", "tasks.idx", "tasks.line", "tasks.ok", "tasks.exit_code",
        "tasks.reason", "tasks.ended_wall", "ops.graph", "ops.parent", "ops.retry_of", "ops.ended",
        "attempts.started_at", "attempts.started_wall", "attempts.accept_due_at", "attempts.limit_due_at",
        "attempts.stop_reason", "attempts.stop_since_at", "attempts.stop_due_at", "attempts.stop_grace_s",
        "attempts.outcome", "attempts.ended_wall", "sessions.ended_wall", "sessions.end_reason", "bots.quarantined",
        "bots.maintenance", "bots.ordered", "events.op", "events.attempt", "events.bot", "events.graph",
        "events.state", "events.detail", "blobs.sha256",
    }  # fmt: skip


def test_every_index_serves_a_statement():
    """Named in a statement, or in the text of the function that the planner uses it for."""
    conn = new_database()
    names = [
        row[0]
        for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    ]
    unnamed = {name for name in names if name not in STATEMENTS}
    assert unnamed == {"blob_uses_sha256", "graphs_alive"}  # the planner chooses these: see below


def test_the_other_indexes_serve_too():
    conn = new_database()
    plans = {
        "blobs_incomplete": "SELECT id FROM blobs WHERE complete = 0",
        "blob_uses_sha256": "SELECT 1 FROM blobs AS b WHERE b.complete = 1 AND NOT EXISTS "
        "(SELECT 1 FROM blob_uses AS u WHERE u.sha256 = b.sha256)",
        "graphs_alive": "SELECT id, name FROM graphs WHERE is_open = 1 OR alive > 0",
    }
    for index, sql in plans.items():
        steps = [row[3] for row in conn.execute("EXPLAIN QUERY PLAN " + sql)]
        assert any(index in step for step in steps), (index, steps)
