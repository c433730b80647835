"""Schema versions: numbered migrations, forward only, one transaction each, with a copy of the file taken
first.

The core's version is `PRAGMA user_version`; protocol packages have lists of their own. The table `migrations`
has a row for each step of each owner. A process killed at any moment leaves the file at the version before or
after a step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .backup import copy_database, free_bytes
from .errors import StoreError

CORE = "core"
MAX_COPIES_PER_SECOND = 100  # names of copies taken in the same second get a number
SPARE_BYTES = 1 << 20  # must be free on the disk beside the copy itself

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    owner TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (owner, number)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Migration:
    """One step of a schema. Numbers of an owner are 1, 2, 3, …; `statements` hold no BEGIN or COMMIT."""

    number: int
    name: str
    statements: tuple[str, ...]


Lists = Mapping[str, Sequence[Migration]]


def versions(conn: sqlite3.Connection) -> dict[str, int]:
    """The schema version of each owner in the file; owners at 0 are left out."""
    found: dict[str, int] = {}
    if conn.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'").fetchone():
        found = dict(conn.execute("SELECT owner, MAX(number) FROM migrations GROUP BY owner").fetchall())
    core = conn.execute("PRAGMA user_version").fetchone()[0]
    if core:
        found[CORE] = core
    return found


def check_versions(conn: sqlite3.Connection, path: Path | None, owner_lists: Lists) -> None:
    """Raises `StoreError("newer_file")` when the file is newer than this program for one of the owners. Only
    reads.
    """
    found = versions(conn)
    for owner, steps in owner_lists.items():
        assert [step.number for step in steps] == list(range(1, len(steps) + 1)), (
            f"numbers of {owner} have a gap"
        )
        if found.get(owner, 0) > len(steps):
            raise StoreError(
                "newer_file",
                f"{path or 'the database'} has version {found[owner]} of the schema {owner!r}; this "
                f"swarmd knows up to "
                f"version {len(steps)}. Nothing was touched. Use the newer swarmd, or the copy it took "
                f"before it migrated.",
            )


def migrate(
    conn: sqlite3.Connection,
    path: Path | None,
    owner_lists: Lists,
    *,
    failpoint: Callable[[str], None] = lambda name: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[tuple[str, int]]:
    """Brings the schemas in `owner_lists` to their last version; returns the steps taken as (owner, number).

    A file that has a schema already is copied first to `<path>.before-v<N>-<time>.bak` (N: the core's new
    version); `path` None is a database in memory, which is not copied. `failpoint` is called after each
    statement. Raises `StoreError`: `newer_file`, `no_space_for_copy`, `copy_failed`, `migration_failed`.
    """
    check_versions(conn, path, owner_lists)
    found = versions(conn)
    due = [(owner, step) for owner, steps in owner_lists.items() for step in steps[found.get(owner, 0) :]]
    if not due:
        return []
    if path is not None and found:
        core_steps = owner_lists.get(CORE)
        _take_copy(conn, path, len(core_steps) if core_steps else found.get(CORE, 0), now())
    for owner, step in due:
        _apply(conn, path, owner, step, now(), failpoint)
    return [(owner, step.number) for owner, step in due]


def _apply(
    conn: sqlite3.Connection,
    path: Path | None,
    owner: str,
    step: Migration,
    at: datetime,
    failpoint: Callable[[str], None],
) -> None:
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute(MIGRATIONS_TABLE)
        for place, statement in enumerate(step.statements, 1):
            conn.execute(statement)
            assert conn.in_transaction, "a migration must not end its transaction"
            failpoint(f"{owner}-{step.number}-{place}")
        conn.execute(
            "INSERT INTO migrations (owner, number, name, at) VALUES (?, ?, ?, ?)",
            (owner, step.number, step.name, at.isoformat(timespec="seconds")),
        )
        if owner == CORE:
            conn.execute(f"PRAGMA user_version = {step.number:d}")
        failpoint(f"{owner}-{step.number}-commit")
        conn.execute("COMMIT")
    except BaseException as error:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise StoreError(
                "migration_failed",
                f"Migration {step.number} ({step.name}) of {owner!r} failed on {path or 'the database'}: "
                f"{error}. The file is at the "
                "version before it. Make room if the disk is full; otherwise go on with the older swarmd "
                "and report this.",
            ) from error
        raise


def _take_copy(conn: sqlite3.Connection, path: Path, version: int, at: datetime) -> Path:
    wal = path.with_name(path.name + "-wal")
    size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
    free = free_bytes(path.parent)
    if free < size + SPARE_BYTES:
        raise StoreError(
            "no_space_for_copy",
            f"{path} must be copied before it is migrated, which takes {size >> 20} MiB; {path.parent} "
            f"has {free >> 20} MiB "
            "free. Nothing was changed. Make room, or move the file to a larger disk.",
        )
    stem = f"{path.name}.before-v{version}-{at:%Y%m%dT%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, MAX_COPIES_PER_SECOND))]
    target = next(
        path.with_name(f"{name}.bak") for name in names if not path.with_name(f"{name}.bak").exists()
    )
    copy_database(conn, target)
    return target
