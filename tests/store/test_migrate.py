"""Migrations go forward whole or not at all, with a copy first."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from swarmd.store import migrate as migrate_module
from swarmd.store.errors import StoreError
from swarmd.store.migrate import Migration, check_versions, migrate, versions

FIRST = Migration(1, "start", ("CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1)"))
SECOND = Migration(
    2,
    "names",
    ("ALTER TABLE t ADD COLUMN name TEXT", "UPDATE t SET name = 'x'", "CREATE INDEX i ON t (name)"),
)
PACKAGE = Migration(1, "jobs", ("CREATE TABLE jobs (id INTEGER)",))
OLD, NEW = {"core": [FIRST]}, {"core": [FIRST, SECOND], "spincycle": [PACKAGE]}
STEPS = [*(f"core-2-{place}" for place in (1, 2, 3, "commit")), "spincycle-1-1", "spincycle-1-commit"]
AT = datetime(2026, 11, 23, 14, 5, 9, tzinfo=UTC)

KILLED = """
import os, sqlite3, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.store.test_migrate import NEW
from swarmd.store.migrate import migrate
def failpoint(name):
    if name == sys.argv[2]:
        os._exit(9)
path = Path(sys.argv[1])
conn = sqlite3.connect(path, isolation_level=None)
migrate(conn, path, NEW, failpoint=failpoint)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


@pytest.fixture
def conn(path):
    conn = connect(path)
    yield conn
    conn.close()


def connect(path):
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    return conn


def shape(conn):
    """Everything in the database, as text."""
    return list(conn.iterdump()), conn.execute("PRAGMA user_version").fetchone()


def copies(path):
    return sorted(found.name for found in path.parent.iterdir() if found.suffix == ".bak")


def test_a_fresh_file_gets_all_steps_and_no_copy(conn, path):
    assert migrate(conn, path, NEW, now=lambda: AT) == [("core", 1), ("core", 2), ("spincycle", 1)]
    assert conn.execute("SELECT a, name FROM t").fetchall() == [(1, "x")]
    assert conn.execute(
        "SELECT owner, number, name, at FROM migrations ORDER BY owner, number"
    ).fetchall() == [
        ("core", 1, "start", "2026-11-23T14:05:09+00:00"),
        ("core", 2, "names", "2026-11-23T14:05:09+00:00"),
        ("spincycle", 1, "jobs", "2026-11-23T14:05:09+00:00"),
    ]
    assert versions(conn) == {"core": 2, "spincycle": 1}
    assert copies(path) == []
    assert migrate(conn, path, NEW) == []


def test_an_older_file_is_copied_first(conn, path):
    migrate(conn, path, OLD, now=lambda: AT)
    before = shape(conn)
    assert migrate(conn, path, NEW, now=lambda: AT) == [("core", 2), ("spincycle", 1)]
    assert copies(path) == ["a.db.before-v2-20261123T140509.bak"]
    copy = path.parent / copies(path)[0]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    opened = sqlite3.connect(copy)
    assert shape(opened) == before
    opened.close()


def test_a_name_that_is_taken_is_not_overwritten(conn, path):
    migrate(conn, path, OLD)
    (path.parent / "a.db.before-v2-20261123T140509.bak").write_text("earlier copy")
    migrate(conn, path, NEW, now=lambda: AT)
    assert copies(path) == ["a.db.before-v2-20261123T140509-2.bak", "a.db.before-v2-20261123T140509.bak"]
    assert (path.parent / copies(path)[1]).read_text() == "earlier copy"


def test_memory_needs_no_copy():
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn, None, OLD)
    assert migrate(conn, None, NEW) == [("core", 2), ("spincycle", 1)]
    conn.close()


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_leaves_the_version_before_it(conn, path, step):
    migrate(conn, path, OLD)
    old = shape(conn)

    def failpoint(name):
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        migrate(conn, path, NEW, failpoint=failpoint)
    assert not conn.in_transaction
    if step.startswith("core"):
        assert shape(conn) == old
    else:
        assert versions(conn) == {"core": 2}
        assert not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone()
    migrate(conn, path, NEW)
    assert versions(conn) == {"core": 2, "spincycle": 1}


@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_in_a_step_leaves_the_version_before_it(path, step):
    conn = connect(path)
    migrate(conn, path, OLD)
    old = shape(conn)
    conn.close()
    top = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), step, top], timeout=30)
    assert killed.returncode == 9
    conn = connect(path)
    assert (shape(conn) == old) is step.startswith("core")
    assert versions(conn)["core"] == (1 if step.startswith("core") else 2)
    migrate(conn, path, NEW)
    assert versions(conn) == {"core": 2, "spincycle": 1}
    assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    conn.close()


def test_a_failing_statement_is_told_with_its_migration(conn, path):
    migrate(conn, path, OLD)
    bad = {"core": [FIRST, Migration(2, "typo", ("ALTER TABLE t ADD COLUMN b", "ALTER TABEL t"))]}
    with pytest.raises(StoreError, match=r"Migration 2 \(typo\) of 'core'.*TABEL") as caught:
        migrate(conn, path, bad)
    assert caught.value.code == "migration_failed"
    assert versions(conn) == {"core": 1}
    assert [row[1] for row in conn.execute("PRAGMA table_info(t)")] == ["a"]


@pytest.mark.parametrize(
    "known, words", [(OLD, "version 2 .*'core'.* up to version 1"), ({"spincycle": []}, "'spincycle'")]
)
def test_a_newer_file_is_refused(conn, path, known, words):
    migrate(conn, path, NEW)
    before = shape(conn)
    for call in (check_versions, migrate):
        with pytest.raises(StoreError, match=words) as caught:
            call(conn, path, known)
        assert caught.value.code == "newer_file"
        assert "Nothing was touched" in caught.value.message
    assert shape(conn) == before and copies(path) == []


def test_owners_that_are_not_asked_for_are_left_alone(conn, path):
    migrate(conn, path, NEW)
    assert migrate(conn, path, {"core": [FIRST, SECOND]}) == []


def test_a_disk_too_small_for_the_copy(conn, path, monkeypatch):
    migrate(conn, path, OLD)
    before = shape(conn)
    monkeypatch.setattr(migrate_module, "free_bytes", lambda folder: 1 << 20)
    with pytest.raises(StoreError, match=r"a\.db must be copied.* 1 MiB free") as caught:
        migrate(conn, path, NEW)
    assert caught.value.code == "no_space_for_copy"
    assert shape(conn) == before and copies(path) == []


def test_gaps_in_the_numbers_are_our_bug(conn, path):
    with pytest.raises(AssertionError, match="gap"):
        migrate(conn, path, {"core": [SECOND]})


def test_a_copy_can_take_the_place_of_the_file(conn, path, tmp_path):
    migrate(conn, path, OLD)
    migrate(conn, path, NEW)
    restored = tmp_path / "restored.db"
    shutil.copy(path.parent / copies(path)[0], restored)
    again = connect(restored)
    assert migrate(again, restored, NEW) == [("core", 2), ("spincycle", 1)]
    again.close()
