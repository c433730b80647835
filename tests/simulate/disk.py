"""A disk that takes its time, fills up, and loses power; behind it a real file, or a database in memory.

The file is the store's own backend with all its settings, in the trio thread, so that a run is repeatable.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from swarmd.api.migrations import MIGRATIONS
from swarmd.store.backend import READERS, FileBackend, JobConnection, MemoryBackend, _claim, in_snapshot
from swarmd.store.errors import StoreBroken
from swarmd.store.lock import FileLock
from swarmd.store.space import lacks_space

T = TypeVar("T")
MAX_COMMIT_S = 0.4


class Disk:
    """What all backends of one run have in common."""

    def __init__(self, path: Path | None, rng: random.Random, injected: Counter[str]) -> None:
        self.path = path
        self.rng = rng
        self.injected = injected
        self.dead = False  # the process was killed: nothing is written any more
        self.full = False
        self.slow = False
        self._memory: MemoryTwin | None = None

    async def open(self) -> FileInThread | MemoryTwin:
        """A backend, as a new process would open it."""
        self.dead = False
        if self.path is None:
            if self._memory is None:
                self._memory = MemoryTwin(self)
                self._memory.migrate(MIGRATIONS)
            return self._memory
        place, lock = _claim(self.path, MIGRATIONS)
        backend = FileInThread(self, place, lock)
        await backend.open("process", MIGRATIONS)
        return backend

    async def pause(self) -> None:
        """Time passes while the disk works; raises when the process was killed meanwhile."""
        if self.slow and self.rng.random() < 0.5:
            await trio.sleep(self.rng.uniform(0, MAX_COMMIT_S))
        else:
            await trio.lowlevel.checkpoint()
        if self.dead:
            raise StoreBroken("killed")

    def write(self, run: Callable[[], T]) -> T:
        if self.full:
            self.injected["commit on a full disk"] += 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return run()


class FileInThread(FileBackend):
    """The file backend, without threads."""

    def __init__(self, disk: Disk, path: Path, lock: FileLock) -> None:
        self.path = path
        self.copying = trio.Lock()
        self._disk = disk
        self._lock = lock
        self._writer: Any = None
        self._readers: list[Any] = []
        self._free = trio.CapacityLimiter(READERS)
        self._identity = (0, 0)

    async def transact(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self._disk.pause()
        value = self._disk.write(lambda: self._transact(self._writer, fn))
        await self._disk.pause()
        return value

    async def _read(self, reader: Any, fn: Callable[[sqlite3.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        return in_snapshot(reader, fn)

    async def lacks_space(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.Error) and lacks_space(error, self.path)

    async def _connect(self, mode: str) -> Any:
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, isolation_level=None, factory=JobConnection
        )

    async def _call(self, db: Any, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(db)

    async def close(self) -> None:
        for conn in (*self._readers, self._writer):
            if conn is not None:
                conn.close()
        self._writer, self._readers = None, []
        self._lock.release()


class MemoryTwin(MemoryBackend):
    """A database in memory that outlives the daemon."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    async def transact(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await self._disk.pause()
        if self._disk.full:
            self._disk.write(lambda: None)
        value = await super().transact(fn)
        await self._disk.pause()
        return value

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
