"""A SQLite connection on a thread of its own, and a short way to it.

aiosqlite owns the connection and its thread. Going through asyncio for every function is dear: a
durable transaction took 3.2 times as long as in a bare loop, and takes 1.6 times this way (measured in
the same run). So the thread is asked ONCE, through aiosqlite's public interface, to serve a queue:
functions go in by the queue, and trio is told directly when each is done. Source: docs/architecture.md,
"Output commit".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, TypeVar, cast

import aiosqlite
import trio

from swarmd.offthread import finished, outside

T = TypeVar("T")


class Job(Generic[T]):
    """A function for the connection's thread, and what came of it."""

    def __init__(self, fn: Callable[[sqlite3.Connection], T]) -> None:
        self.fn = fn
        self.cancelled = False
        self.done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._value: T | None = None
        self._error: BaseException | None = None

    def run(self, conn: JobConnection) -> None:
        """On the connection's thread."""
        conn.job = self
        try:
            if not self.cancelled:
                self._value = self.fn(conn)
        except BaseException as error:
            self._error = error
        finally:
            conn.job = None
            try:
                self._token.run_sync_soon(self.done.set)
            except trio.RunFinishedError:
                pass  # nobody is there any more to be told

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return cast(T, self._value)


class JobConnection(sqlite3.Connection):
    """A connection whose `executemany(JobConnection.SERVE, queue)` runs the jobs of a queue until it finds None."""

    SERVE: ClassVar[str] = "-- serve"  # compared by identity: no text can ask for it
    job: Job[Any] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the read that runs now was cancelled; long loops between statements should look."""
        return self.job is not None and self.job.cancelled

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        if sql is not self.SERVE:
            return super().executemany(sql, parameters)
        queue, opened = parameters
        opened(self)
        while (job := queue.get()) is not None:
            job.run(self)
        return None


class Lane:
    """One connection. Functions run on its thread, one after another, in the order in which they were given."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._db: aiosqlite.Connection | None = None
        self._serving: asyncio.Future[Any] | None = None
        self._conn: sqlite3.Connection | None = None

    async def open(self, uri: str) -> None:
        """Not cancellable. `loop`, the trio-asyncio loop, must outlive the lane."""

        async def opened() -> None:
            self._db = await aiosqlite.connect(
                uri, uri=True, isolation_level=None, cached_statements=256, factory=JobConnection
            )
            task = (self._queue, self._opened)
            self._serving = asyncio.ensure_future(self._db.executemany(JobConnection.SERVE, cast(Any, task)))

        with trio.CancelScope(shield=True):
            await outside(opened, loop=self._loop)

    def _opened(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def start(self, fn: Callable[[sqlite3.Connection], T]) -> Job[T]:
        job = Job(fn)
        self._queue.put(job)
        return job

    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `fn` to its end; not cancellable. Raises what it raised."""
        job = self.start(fn)
        with trio.CancelScope(shield=True):
            await finished(job.done)
        return job.result()

    def interrupt(self) -> None:
        """Ends the statement that runs now, if one does."""
        if self._conn is not None:
            self._conn.interrupt()

    async def close(self) -> None:
        """Ends the thread and closes the connection."""
        db, serving = self._db, self._serving
        if db is None or serving is None:
            return
        self._db = None
        self._queue.put(None)

        async def closed() -> None:
            await serving
            await db.close()

        await outside(closed, loop=self._loop)
