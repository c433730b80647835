"""Group commit: one task that owns all writes.

While one transaction is being committed, everything else that arrives collects and goes into the next; load
makes batches grow by itself, and there are no timers. The writer knows no tables: it asks `collect` for the
rows of the core, and runs the functions handed to it by `submit` and `submit_bytes` after them, in order, in
the same transaction. Source: docs/architecture.md, "Output commit".
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from .backend import Backend
from .errors import StoreBroken

MAX_UNCOMMITTED_BYTES = 64 << 20  # of `submit_bytes`; above it callers wait, so bodies are not read
MAX_BULK_BYTES = (
    8 << 20
)  # of `submit_bytes` in one transaction (at least one function): bounds how long a commit takes
GATHER_TICKS = 3  # turns of the loop before a batch is taken: whom the change woke brings its own along
RETRY_S = 1.0  # how often a batch is tried again while the disk is full

Job = Callable[[sqlite3.Connection], object]


class Batch(Protocol):
    """Changes of the core up to `version`. `write` may be called again with the same rows when the disk was
    full.
    """

    @property
    def version(self) -> int: ...

    def write(self, conn: sqlite3.Connection) -> None: ...


@dataclass(eq=False)
class _Transaction:
    """What goes into one transaction. `done` is set when it is on disk, or never will be."""

    done: trio.Event = field(default_factory=trio.Event)
    core: Batch | None = None
    jobs: list[Job] = field(default_factory=list)
    bulk_bytes: int = 0
    committed: bool = False

    def write(self, conn: sqlite3.Connection) -> int:
        before = conn.total_changes
        if self.core is not None:
            self.core.write(conn)
        for job in self.jobs:
            job(conn)
        return conn.total_changes - before


def _nothing(conn: sqlite3.Connection) -> None:
    """Stands for a function that was handed on."""


@dataclass(eq=False)
class _Bulk:
    """A function of `submit_bytes`; `home` is the transaction it ended up in."""

    job: Job
    size: int
    taken: trio.Event = field(default_factory=trio.Event)
    home: _Transaction | None = None


class Ticket:
    """Tells when a submitted function is on disk."""

    def __init__(self, writer: Writer, source: _Transaction | _Bulk) -> None:
        self._writer = writer
        self._source = source

    async def wait(self) -> None:
        """Returns when the function's transaction is on disk; raises `StoreBroken` when it never will be."""
        source = self._source
        if isinstance(source, _Bulk):
            await source.taken.wait()
            self._writer.check()
            assert source.home is not None
            source = source.home
        await source.done.wait()
        if not source.committed:
            self._writer.check()
            raise AssertionError("a transaction ended without commit and without a reason")


class Gate:
    """Holds commits back until `release()`, or until the end of its `with` block. For tests."""

    def __init__(self) -> None:
        self._open = trio.Event()

    def release(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        await self._open.wait()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Writer:
    """The one that commits. Run `run` in the daemon's nursery; call everything else in the trio thread.

    Attributes to read: `version` (the last core version on disk), `out_of_space`, `uncommitted_bytes` (bulk
    that waits or is being written), and the counters `commits` and `rows` (changed rows, since start).
    """

    def __init__(
        self,
        backend: Backend,
        collect: Callable[[], Batch | None],
        *,
        version: int = 0,
        committed: Callable[[int], None] = lambda version: None,
        failpoint: Callable[[str], None] = lambda name: None,
        retry_s: float = RETRY_S,
    ) -> None:
        self.version = version
        self.out_of_space = False
        self.uncommitted_bytes = 0
        self.commits = 0
        self.rows = 0
        self._backend = backend
        self._collect = collect
        self._committed = committed
        self._failpoint = failpoint
        self._retry_s = retry_s
        self._next = _Transaction()
        self._flight: _Transaction | None = None
        self._bulk: deque[_Bulk] = deque()
        self._kicked = False
        self._wake = trio.Event()
        self._resting = trio.Event()  # set, and replaced, each time nothing is left to do
        self._room = trio.Event()  # set, and replaced, each time `uncommitted_bytes` fell
        self._stopping = trio.Event()
        self._broken: StoreBroken | None = None
        self._gate: Gate | None = None

    # What callers use.

    def kick(self) -> None:
        """Says that `collect` has something to give. Cheap; call it after each change."""
        self._kicked = True
        self._wake.set()

    async def committed_at_least(self, version: int) -> None:
        """Returns when the core's `version` is on disk. Wakes once per wait, whatever the load.

        Waits on while the disk is full (set a deadline around it); raises `StoreBroken` when commits have
        ended.
        """
        while self.version < version:
            self.check()
            flight = self._flight
            if flight is not None and flight.core is not None and flight.core.version >= version:
                await flight.done.wait()
            else:
                await self._next.done.wait()

    def submit(self, fn: Job) -> Ticket:
        """Adds `fn(conn)` to the transaction that takes what `collect` would give now; never waits.

        For rows that must travel with a change of the core. `fn` may run again when the disk was full, and
        must not fail: an exception in it stops the daemon.
        """
        self.check()
        self._next.jobs.append(fn)
        self.kick()
        return Ticket(self, self._next)

    async def submit_bytes(self, fn: Job, size: int) -> Ticket:
        """Queues `fn(conn)`, which writes about `size` bytes; waits while too many bytes are queued.

        These run in the order in which they were queued, after the rows, at most `MAX_BULK_BYTES` per
        transaction.
        """
        assert 0 <= size <= MAX_UNCOMMITTED_BYTES
        while self.uncommitted_bytes and self.uncommitted_bytes + size > MAX_UNCOMMITTED_BYTES:
            self.check()
            await self._room.wait()
        return self.queue_bytes(fn, size)

    def queue_bytes(self, fn: Job, size: int) -> Ticket:
        """`submit_bytes` without the wait, for what removes or ends something; its size counts as well."""
        self.check()
        bulk = _Bulk(fn, size)
        self._bulk.append(bulk)
        self.uncommitted_bytes += size
        self.kick()
        return Ticket(self, bulk)

    async def drain(self) -> None:
        """Returns when nothing is left to commit (under steady load: never). Raises `StoreBroken`."""
        self.kick()
        resting = self._resting
        self.check()
        await resting.wait()
        self.check()

    def stop(self) -> None:
        """Ends `run` when nothing is left to commit; on a full disk at once, with `StoreBroken`."""
        self._stopping.set()
        self._wake.set()

    def hold_commits(self) -> Gate:
        """Holds the next commits back before they begin; for tests."""
        self._gate = Gate()
        return self._gate

    def check(self) -> None:
        """Raises the `StoreBroken` that ended commits, if one did."""
        if self._broken is not None:
            raise StoreBroken(self._broken.message)

    # The loop.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commits until `stop()`. Raises `StoreBroken` when the file cannot be written any more.

        A cancel takes effect between commits; what was not committed by then was promised to nobody.
        """
        task_status.started()
        try:
            while True:
                if not self._kicked:
                    self._resting.set()
                    self._resting = trio.Event()
                    if self._stopping.is_set():
                        break
                    await self._wake.wait()
                self._wake = trio.Event()
                for _ in range(GATHER_TICKS):
                    await trio.lowlevel.checkpoint()
                if self._gate is not None:
                    await self._gate.wait()
                if (taken := self._take()) is not None:
                    await self._commit(taken)
        except StoreBroken as broken:
            self._end(broken)
            raise
        except BaseException as error:
            self._end(StoreBroken(f"The writer ended: {error!r}"))
            raise
        self._end(StoreBroken("The writer was stopped: the daemon is shutting down."))

    def _take(self) -> _Transaction | None:
        """Everything that is due, as one transaction; None when there is nothing. One step, with no await in
        it.
        """
        self._kicked = False
        taken = self._next
        taken.core = self._collect()
        assert taken.core is None or taken.core.version >= self.version, "versions only grow"
        while self._bulk and (
            not taken.bulk_bytes or taken.bulk_bytes + self._bulk[0].size <= MAX_BULK_BYTES
        ):
            bulk = self._bulk.popleft()
            taken.jobs.append(bulk.job)
            taken.bulk_bytes += bulk.size
            bulk.home, bulk.job = taken, _nothing
            bulk.taken.set()
        self._kicked = bool(self._bulk)
        if taken.core is None and not taken.jobs:
            return None
        self._next, self._flight = _Transaction(), taken
        return taken

    async def _commit(self, taken: _Transaction) -> None:
        self._failpoint("before_commit")
        self.rows += await self._until_written(taken)
        self._failpoint("after_commit")
        self.commits += 1
        self._flight = None
        taken.committed = True
        taken.jobs.clear()  # whoever keeps a ticket need not keep the bytes
        if taken.core is not None:
            self.version = taken.core.version
            self._committed(self.version)
        if taken.bulk_bytes:
            self.uncommitted_bytes -= taken.bulk_bytes
            assert self.uncommitted_bytes >= 0
            self._room.set()
            self._room = trio.Event()
        taken.done.set()

    async def _until_written(self, taken: _Transaction) -> int:
        """Commits `taken`, trying again while the disk is full; returns the number of changed rows."""
        while True:
            try:
                with trio.CancelScope(shield=True):
                    rows = await self._backend.transact(taken.write)
            except StoreBroken:
                raise
            except Exception as error:
                if not await self._backend.lacks_space(error):
                    raise StoreBroken(
                        f"A commit failed: {type(error).__name__}: {error}. Nothing of it was "
                        f"acknowledged; the file is at the last "
                        "commit. Check the disk and the system log, then start again; if the disk is "
                        "well, report this."
                    ) from error
                self.out_of_space = True
                with trio.move_on_after(self._retry_s):
                    await self._stopping.wait()
                if self._stopping.is_set():
                    raise StoreBroken(
                        f"Stopped while there was no space to commit ({error}). What was acknowledged is "
                        f"in the file; make room "
                        "before the next start."
                    ) from error
            else:
                self.out_of_space = False
                return rows

    def _end(self, broken: StoreBroken) -> None:
        """Wakes everybody who waits; they find `_broken`."""
        self._broken = broken
        for transaction in (self._flight, self._next):
            if transaction is not None:
                transaction.done.set()
        for bulk in self._bulk:
            bulk.taken.set()
        self._room.set()
        self._resting.set()
