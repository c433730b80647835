"""One daemon per file: an advisory lock on `<path>.lock` beside the database.

The lock is on a file of its own: closing any descriptor of the database file itself would drop the POSIX
locks that SQLite holds on it in this process. The kernel releases the lock when the process ends in any way,
so the pid written in the file is only shown, never trusted. The lock file stays behind: removing it would
race with the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from .errors import StoreError

MAX_LOCK_TEXT = 200  # bytes read back to name the holder


def lock_path(path: Path) -> Path:
    """The lock file of the database `path`."""
    return path.with_name(path.name + ".lock")


class FileLock:
    """The held lock. `release()` gives it up; so does the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path) -> FileLock:
        """Takes the lock of the database `path` without waiting.

        Raises `StoreError`: `file_in_use` when another process (or this one) has it, `lock_failed` when the
        file system cannot lock or the lock file cannot be made.
        """
        place = lock_path(path)
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _failed(place, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, MAX_LOCK_TEXT, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise _failed(place, error) from error
            raise StoreError(
                "file_in_use",
                f"{path} is in use by another swarmd ({holder or 'pid unknown'}). One daemon per file: "
                f"stop that one, "
                "or give this one another file.",
            ) from None
        text = f"pid {os.getpid()}, started {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        with contextlib.suppress(
            OSError
        ):  # the text is only shown: a full disk must not keep the daemon from starting
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        return cls(place, descriptor)

    def release(self) -> None:
        """Gives the lock up; a second call does nothing. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _failed(place: Path, error: OSError) -> StoreError:
    return StoreError(
        "lock_failed",
        f"Cannot lock {place}: {error.strerror}. swarmd needs a lock file beside its database: make the "
        f"folder writable "
        "for this user, on a local file system.",
    )
