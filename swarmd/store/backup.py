"""Copies of the database: online backup, and the copy that is taken before a migration.

SQLite's backup API, in steps of `STEP_PAGES`, on a reader that holds one snapshot for the whole copy.
Measured on 370 MB with another connection committing 64 rows at a time: 1.7 s, and commits at 0.8 of their
usual rate; without the snapshot each commit would start the copy again. `VACUUM INTO` took 1.4 s (less in the
file, more sorting; both spread by 1.3): not worth that it renumbers rows of tables without an INTEGER PRIMARY
KEY and fails on a damaged page. While the copy runs the WAL cannot be reset, so it grows by what is committed
meanwhile; it shrinks again with the first checkpoint afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from swarmd.offthread import in_thread

from .errors import StoreError

if TYPE_CHECKING:
    from .backend import Backend

STEP_PAGES = 256  # 1 MiB: between steps a cancelled backup is noticed


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the disk of `folder`."""
    return shutil.disk_usage(folder).free


async def backup(backend: Backend, target: Path) -> int:
    """Copies the database to the new file `target` while the daemon goes on; returns the size of the copy in
    bytes.

    The copy is one consistent moment, with all that was acknowledged before the call, in a single file (mode
    0600, on disk when this returns) that opens by itself. One copy at a time; a second call waits. A
    cancelled or failed copy removes what it made. Raises `StoreError`: `target_exists`, `target_unusable`,
    `copy_failed`.
    """
    async with backend.copying:
        await backend.read(lambda conn: copy_database(conn, target))
    return (await in_thread(target.stat)).st_size


def copy_database(conn: sqlite3.Connection, target: Path) -> None:
    """Copies what `conn` sees to the new file `target` (mode 0600), and has it on disk when it returns.
    Blocks.

    Stops early when the read that it runs in is cancelled. Raises `StoreError` like `backup`; then `target`
    is gone again.
    """
    _make(target)
    try:
        copy = sqlite3.connect(f"{target.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        try:
            copy.execute("PRAGMA synchronous = OFF")  # one fsync at the end does
            conn.backup(copy, pages=STEP_PAGES, progress=lambda *_: _stop_if_cancelled(conn))
            mode = copy.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
            assert mode == "delete", mode
        finally:
            copy.close()
        _sync(target)
    except BaseException as error:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                target.with_name(target.name + suffix).unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error | OSError):
            raise StoreError(
                "copy_failed",
                f"The copy to {target} failed: {error}; it was removed, and the database is as it was. "
                f"Check the disk "
                f"({free_bytes(target.parent) >> 20} MiB free) and try again.",
            ) from error
        raise


def _make(target: Path) -> None:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise StoreError(
            "target_exists",
            f"{target} exists already. A copy never replaces a file: give a new name, or remove it.",
        ) from None
    except OSError as error:
        raise StoreError(
            "target_unusable",
            f"Cannot make {target}: {error.strerror}. Give a file name in an existing folder that swarmd "
            f"may write to.",
        ) from error


def _stop_if_cancelled(conn: sqlite3.Connection) -> None:
    if getattr(conn, "cancelled", False):  # set by FileBackend.read
        raise sqlite3.OperationalError("interrupted")


def _sync(target: Path) -> None:
    for place, flags in ((target, os.O_RDWR), (target.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(place, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
