"""The SQLite file behind four methods, and its twin in memory.

`FileBackend` has one thread for each connection (`store.lane`); each transaction and each read is ONE trip to
it. One connection makes all writes and all checkpoints, because SQLite before 3.51.3 can damage a WAL database
when two connections do so at the same instant. Source: docs/architecture.md, "Output commit".
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import trio
import trio_asyncio

from swarmd.offthread import finished, in_thread

from .errors import StoreBroken, StoreError
from .lane import JobConnection, Lane
from .lock import FileLock, lock_path
from .migrate import Lists, check_versions, migrate
from .space import lacks_space

T = TypeVar("T")
# What an acknowledged change outlives: a power failure, or only the end of this process.
Durability = Literal["power", "process"]

APPLICATION_ID = 0x73776D64  # "swmd"
NEW = ".new"  # behind the name of a file that is being made
READERS = 2
PAGE_BYTES = 4096
CHECKPOINT_PAGES = 4000  # 16 MiB of WAL: two blob transactions; one database fsync per that much
WAL_KEPT_BYTES = 64 << 20  # a WAL that grew beyond it (long read, backup) is cut back to this
WRITE_CACHE_KIB, READ_CACHE_KIB = 10 << 10, 2 << 10  # more would not fit what a large blob may cost in memory
BUSY_TIMEOUT_MS = 5_000  # only foreign programs on the file can make us wait
INTERRUPT_EVERY = 20_000  # virtual machine steps (about 1 ms) between looks whether a read was cancelled


class Backend(Protocol):
    """Where the rows are. `fn` runs to its end in one go, gets a `sqlite3.Connection`, and must not keep it
    or a cursor.
    """

    copying: trio.Lock  # held while a backup runs

    async def transact(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Runs BEGIN IMMEDIATE, `fn`, COMMIT; rolls back on failure. Only for the writer; not cancellable.

        Raises what `fn` or SQLite raised, unchanged; `StoreBroken` when the file was removed or replaced.
        """

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `fn` on a snapshot of what is committed; a write in it fails. A cancel interrupts the running
        statement.
        """

    async def lacks_space(self, error: BaseException) -> bool:
        """Whether a failed `transact` may work when there is space on the disk again."""

    async def close(self) -> None:
        """Ends all connections and gives the file free. Nothing else may be called during or after it."""


class MemoryBackend:
    """A database in memory, in the trio thread; a checkpoint per call."""

    def __init__(self) -> None:
        self.copying = trio.Lock()
        self._conn = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self._conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def migrate(self, migrations: Lists) -> None:
        migrate(self._conn, None, migrations)

    async def transact(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return in_transaction(self._conn, fn)

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        self._conn.execute("PRAGMA query_only = ON")
        try:
            return in_snapshot(self._conn, fn)
        finally:
            self._conn.execute("PRAGMA query_only = OFF")

    async def lacks_space(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.Error) and lacks_space(error, None)

    async def close(self) -> None:
        self._conn.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


class FileBackend:
    """One file: a lock, one connection that writes, `READERS` that read. Made by `open_backend`."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.copying = trio.Lock()
        self._lock = lock
        self._loop = trio_asyncio.current_loop.get()
        assert self._loop is not None, "open a trio_asyncio.open_loop() around the store"
        self._writer: Lane | None = None
        self._readers: list[Lane] = []
        self._free = trio.CapacityLimiter(READERS)
        self._identity = (0, 0)

    async def open(self, durability: Durability, migrations: Lists) -> None:
        """Opens all connections, migrating first. On failure call `close()`."""
        self._writer = await self._connect("rw")
        await self._call(self._writer, partial(_set_up_writer, path=self.path, durability=durability))
        await self._call(self._writer, lambda conn: migrate(conn, self.path, migrations))
        self._identity = _identity(self.path)
        for _ in range(READERS):
            reader = await self._connect("ro")
            self._readers.append(reader)
            await self._call(reader, _set_up_reader)

    async def transact(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        assert self._writer is not None
        return await self._call(self._writer, lambda conn: self._transact(conn, fn))

    def _transact(self, conn: sqlite3.Connection, fn: Callable[[sqlite3.Connection], T]) -> T:
        try:
            found = _identity(self.path)
        except OSError as error:
            raise StoreBroken(
                f"{self.path} was removed while swarmd used it ({error.strerror}). Nothing more can be "
                f"saved; put the file or a "
                "backup back and start again."
            ) from error
        if found != self._identity:
            raise StoreBroken(
                f"{self.path} was replaced by another file while swarmd used it. Nothing more can be "
                f"saved; decide which "
                "file is right and start again."
            )
        return in_transaction(conn, fn)

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        async with self._free:
            reader = self._readers.pop()
            try:
                return await self._read(reader, fn)
            finally:
                self._readers.append(reader)

    async def _read(self, reader: Lane, fn: Callable[[sqlite3.Connection], T]) -> T:
        job = reader.start(lambda conn: in_snapshot(conn, fn))
        try:
            await finished(job.done)
        except trio.Cancelled:
            job.cancelled = True
            reader.interrupt()
            # Ends with the running step of SQLite: the connection must be at rest for the next read.
            with trio.CancelScope(shield=True):
                await finished(job.done)
                await reader.run(_end_transaction)
            raise
        return job.result()

    async def lacks_space(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.Error) and await in_thread(lacks_space, error, self.path)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            async with AsyncExitStack() as last_first:
                last_first.callback(self._lock.release)
                for lane in (self._writer, *self._readers):  # readers end first: the last one removes the WAL
                    if lane is not None:
                        last_first.push_async_callback(lane.close)
                self._writer, self._readers = None, []

    async def _connect(self, mode: str) -> Lane:
        lane = Lane(self._loop)
        await lane.open(f"{self.path.as_uri()}?mode={mode}")
        return lane

    async def _call(self, lane: Lane, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `fn` on the thread of `lane` as it is; not cancellable."""
        return await lane.run(fn)


async def open_backend(
    path: Path | None, *, durability: Durability = "power", migrations: Lists | None = None
) -> MemoryBackend | FileBackend:
    """Opens or makes (mode 0600) the database `path`, locks it and migrates it; None is a database in memory.

    Must run inside `trio_asyncio.open_loop()`, and be closed before that loop. Raises `StoreError` with
    `folder_missing`, `not_a_file`, `not_readable`, `not_writable`, `not_swarmd`, `damaged_file`,
    `newer_file`: the file was not touched; `file_in_use`, `lock_failed`, `no_wal`, and those of `migrate`.
    """
    migrations = migrations or {}
    if path is None:
        memory = MemoryBackend()
        memory.migrate(migrations)
        return memory
    with trio.CancelScope(shield=True):  # short, and a cancel between must not lose the lock
        place, lock = await in_thread(_claim, path, migrations)
    backend = FileBackend(place, lock)
    try:
        await backend.open(durability, migrations)
    except BaseException as error:
        await backend.close()
        if isinstance(error, sqlite3.Error):
            raise _unusable(place, error) from error
        raise
    return backend


def in_transaction(conn: sqlite3.Connection, fn: Callable[[sqlite3.Connection], T]) -> T:
    """BEGIN IMMEDIATE, `fn`, COMMIT on `conn`; after any failure no transaction is open, and the first cause
    is raised.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        value = fn(conn)
        assert conn.in_transaction, "the function given to a transaction must not end it"
        conn.execute("COMMIT")
    except BaseException:
        _end_transaction(conn)
        raise
    return value


def in_snapshot(conn: sqlite3.Connection, fn: Callable[[sqlite3.Connection], T]) -> T:
    """Runs `fn` so that all its statements see the same moment."""
    conn.execute("BEGIN")
    try:
        conn.execute(
            "SELECT 1 FROM sqlite_master LIMIT 1"
        ).fetchone()  # a deferred BEGIN takes its snapshot here
        return fn(conn)
    finally:
        _end_transaction(conn)


def _end_transaction(conn: sqlite3.Connection) -> None:
    if conn.in_transaction:  # SQLite itself rolls back when it is out of space
        conn.execute("ROLLBACK")


def _claim(path: Path, migrations: Lists) -> tuple[Path, FileLock]:
    """Looks at the file before anything is made, locks it, and makes it if it is missing."""
    path = path.resolve()
    if not lock_path(path).exists():  # no lock file beside a file that is not ours
        _inspect(path, migrations)
    lock = FileLock.acquire(path)
    try:
        if not _inspect(path, migrations):
            _create(path)
    except BaseException as error:
        lock.release()
        if isinstance(error, sqlite3.Error | OSError):
            raise _unusable(path, error) from error
        raise
    return path, lock


def _inspect(path: Path, migrations: Lists) -> bool:
    """Whether there is a swarmd file at `path` (an empty one is none yet). Only reads; raises as
    `open_backend` says.
    """
    remedy = "Give --db the path of a swarmd database, or a new name."
    try:
        if not path.parent.is_dir():
            raise StoreError(
                "folder_missing",
                f"Cannot make {path}: there is no folder {path.parent}. Make it, or give another path.",
            )
        if not path.exists():
            return False
        if not path.is_file():
            raise StoreError(
                "not_a_file", f"{path} is not a regular file, so not a swarmd database. {remedy}"
            )
        for right, code, verb in ((os.R_OK, "not_readable", "read"), (os.W_OK, "not_writable", "write")):
            if not os.access(path, right, effective_ids=True):
                raise StoreError(
                    code,
                    f"User {os.geteuid()} may not {verb} {path}. Change its owner or mode, or be its owner.",
                )
        if path.stat().st_size == 0:
            return False
    except OSError as error:
        raise StoreError(
            "not_readable", f"Cannot look at {path}: {error.strerror}. Check the rights of its folders."
        ) from error
    wal = path.with_name(path.name + "-wal")
    # Without a WAL the file is read as it is, with no lock and no file beside it; with one the truth is in
    # both.
    how = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
    conn = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)
    try:
        found = conn.execute("PRAGMA application_id").fetchone()[0]
        if found != APPLICATION_ID:
            raise StoreError(
                "not_swarmd",
                f"{path} is an SQLite database of another program (application id {found:#x}, expected "
                f"{APPLICATION_ID:#x}). "
                f"It was not touched. {remedy}",
            )
        check_versions(conn, path, migrations)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(
                "not_swarmd", f"{path} is not an SQLite database. It was not touched. {remedy}"
            ) from None
        raise StoreError(
            "damaged_file",
            f"{path} cannot be read: {error}. It was not touched. Look with `swarmd check`, or use a backup.",
        ) from error
    finally:
        conn.close()
    return True


def _create(path: Path) -> None:
    """Makes an empty database, which is there as a whole or not at all.

    Under another name: the first transaction of a file goes through a rollback journal, and if the power fails in it,
    SQLite takes the file back to nothing when it is opened next, with the mark by which we know it as ours.
    """
    made = path.with_name(path.name + NEW)
    parts = [made, *(made.with_name(made.name + side) for side in ("-journal", "-wal", "-shm"))]
    for part in parts:
        part.unlink(missing_ok=True)  # of a start in which the power failed
    try:
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        _keep_rights(path, made)
        conn = sqlite3.connect(f"{made.as_uri()}?mode=rw", uri=True, isolation_level=None)
        try:
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute("PRAGMA journal_mode = WAL").fetchone()
        finally:
            conn.close()
        os.replace(made, path)
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_rights(path: Path, made: Path) -> None:
    """An empty file that somebody made at `path` gives its mode and owner to the one that takes its place."""
    try:
        was = path.stat()
    except FileNotFoundError:
        return
    made.chmod(stat.S_IMODE(was.st_mode))
    with suppress(PermissionError):
        os.chown(made, was.st_uid, was.st_gid)


def _set_up_writer(conn: sqlite3.Connection, *, path: Path, durability: Durability) -> None:
    _set_up(conn, WRITE_CACHE_KIB)
    if (mode := conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
        raise StoreError(
            "no_wal",
            f"{path} cannot use write-ahead logging (it stays at {mode!r}): put it on a local file system.",
        )
    synchronous = {"power": 2, "process": 1}[
        durability
    ]  # FULL: fsync per commit; NORMAL: fsync per checkpoint
    for name, value in (
        ("synchronous", synchronous),
        ("wal_autocheckpoint", CHECKPOINT_PAGES),
        ("journal_size_limit", WAL_KEPT_BYTES),
        ("secure_delete", "FAST"),  # zeros deleted content where that costs no extra page write
    ):
        conn.execute(f"PRAGMA {name} = {value}")
    assert conn.execute("PRAGMA synchronous").fetchone()[0] == synchronous


def _set_up_reader(conn: sqlite3.Connection) -> None:
    assert isinstance(conn, JobConnection)
    _set_up(conn, READ_CACHE_KIB)
    conn.execute("PRAGMA wal_autocheckpoint = 0")
    conn.execute("PRAGMA query_only = ON")
    conn.set_progress_handler(lambda: conn.cancelled, INTERRUPT_EVERY)


def _set_up(conn: sqlite3.Connection, cache_kib: int) -> None:
    conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    conn.execute(f"PRAGMA cache_size = -{cache_kib}")
    conn.execute(
        "PRAGMA mmap_size = 0"
    )  # a read error of a mapped file would kill the process instead of failing a call
    conn.execute("PRAGMA temp_store = MEMORY")


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _unusable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        "not_writable",
        f"Cannot use {path}: {error}. swarmd writes the file and others beside it: check space, rights, "
        f"and that its "
        "file system is not read-only.",
    )
