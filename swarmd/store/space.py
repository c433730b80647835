"""Telling "no space" from other failures of a write."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import tempfile
from pathlib import Path

PROBE_BYTES = 256 << 10  # more than one page group of common file systems, so that a full quota shows
NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# SQLite reports ENOSPC of a write as FULL, but a quota (EDQUOT), a size limit (EFBIG) and the shared memory
# file as these.
PERHAPS_NO_SPACE = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}


def lacks_space(error: sqlite3.Error, path: Path | None) -> bool:
    """Whether the failed write of `error` on the database `path` (None: in memory) was for want of space.
    Blocks.

    An I/O error counts only if a small write beside the database fails for want of space too, or the database
    has reached the size limit of this process (RLIMIT_FSIZE).
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return True
    if code not in PERHAPS_NO_SPACE or path is None:
        return False
    return _at_size_limit(path) or _probe_fails(path.parent)


def _at_size_limit(path: Path) -> bool:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    return any(file.exists() and file.stat().st_size + PROBE_BYTES > limit for file in files)


def _probe_fails(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(b"\0" * PROBE_BYTES)
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno in NO_SPACE_ERRNOS
    return False
