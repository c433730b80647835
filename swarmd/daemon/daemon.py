"""The living daemon: the engine, its clock, the writer, and those who wait.

Every call follows one path: a synchronous step of the engine, then (`settled`) a wait until what it saw
is in the file, and only then the answer. Source: docs/architecture.md, "Time is structured" and "Output
commit".
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import msgspec
import trio

from swarmd.config import Config
from swarmd.core.changes import Changes
from swarmd.core.engine import Engine
from swarmd.core.errors import CoreError
from swarmd.core.model import SessionId
from swarmd.core.submitting import LookAgain
from swarmd.core.world import Lookup, Settings
from swarmd.daemon.asking import Answer, Earlier, Key
from swarmd.daemon.clock import EngineClock
from swarmd.daemon.meters import Meter
from swarmd.daemon.news import EVENTS, News
from swarmd.daemon.works import Works
from swarmd.store import queries
from swarmd.store.backend import Backend
from swarmd.store.errors import StoreBroken, StoreError
from swarmd.store.loading import Clock, load, read_clock
from swarmd.store.rows import ADVANCE_CLOCK, RowBatch, batch_of
from swarmd.store.writer import Ticket, Writer

log = logging.getLogger("swarmd.daemon")
T = TypeVar("T")

LIFE_S = 60.0  # how old the clock in the file may be while attempts are live


NO_SPACE_WAIT_S = 20.0  # how long an answer waits for a full disk; callers wait 30 s for an answer


# What reading a damaged file ends in: a page that is none, a row that says what cannot be.
UNREADABLE = (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError, KeyError, TypeError)


class Stopping(Exception):
    """The daemon is shutting down."""


class NoSpace(Exception):
    """The disk is full: whether this call will take effect is not known yet."""


class Daemon:
    """Made by `open_daemon`; `run` lives in the daemon's nursery.

    `failpoint` is called with the names of `store.writer` and is for tests.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        engine: Engine,
        clock: EngineClock,
        *,
        failpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.config = config
        self.backend = backend
        self.engine = engine
        self.clock = clock
        self.news = News()
        self.works = Works(backend)
        self.started_at = clock.now()
        self.stopping = trio.Event()
        self.writer = Writer(
            backend, self._collect, version=engine.version, committed=self._committed, failpoint=failpoint
        )
        self.held: dict[SessionId, trio.Event] = {}  # calls of sessions that wait for something to say
        self.reserved: dict[tuple[str, ...], trio.Event] = {}  # request ids and graphs being worked on
        self._earlier = Earlier(backend)
        # A version that a caller went away from without knowing whether it is in the file.
        self._unsure_until = 0
        self.meters: list[Meter] = []  # what protocols add to the metrics
        self._collected = engine.version
        self._flying: list[Changes] = []
        self._noted_at = clock.now()
        self._scopes: dict[SessionId, trio.CancelScope] = {}
        self._timer_due = float("inf")
        self._timer_wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._failed: BaseException | None = None

    # ------------------------------------------------------------- steps

    @contextmanager
    def step(self) -> Iterator[tuple[Engine, float]]:
        """One thing happens: gives the engine and engine time. No await inside.

        Errors of the core are the caller's, and changed nothing. Any other error means that memory may
        contradict itself: the daemon stops, and what was not committed was promised to nobody.
        """
        try:
            yield self.engine, self.clock.now()
        except (CoreError, LookAgain):
            raise
        except Exception as error:
            self._fail(error)
            raise
        finally:
            self._stirred()

    def _fail(self, error: BaseException) -> None:
        if self._failed is None:
            self._failed = error
            log.error("engine.failed", exc_info=error)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _stirred(self) -> None:
        """Hands on what a step left behind: rows, wakes, deadlines, lookups."""
        engine = self.engine
        if self._failed is not None:
            return
        if engine.version != self._collected:
            self.writer.kick()
        if engine.woken:
            for session_id in engine.take_woken():
                event = self.held.get(session_id)
                if event is not None:
                    event.set()
        if engine.moved:
            moved, engine.moved = engine.moved, set()
            for session_id in moved:
                self._session_moved(session_id)
        if engine.lookups and self._nursery is not None:
            lookups, engine.lookups = engine.lookups, []
            for lookup in lookups:
                self._nursery.start_soon(self._look_up, lookup)
        due = engine.next_due()
        if due < self._timer_due:
            self._timer_wake.set()

    def note_life(self) -> None:
        """A sign of life came: at most once a minute, while attempts are live, the moment goes into the file, so that a
        crash cannot be taken for a long time down. Nobody waits for it."""
        now = self.clock.now()
        if self.engine.attempts and now - self._noted_at > LIFE_S:
            self._noted_at = now
            self._note_moment()

    def _note_moment(self) -> None:
        row = (self.clock.now(), self.clock.wall(), self.engine.ids.last)
        self.writer.submit(lambda conn: conn.execute(ADVANCE_CLOCK, row))

    @property
    def uncommitted_output(self) -> int:
        """Bytes of output that are not in the file yet."""
        waiting = sum(len(c.data) for c in self.engine.changes.chunks)
        return waiting + sum(len(c.data) for changes in self._flying for c in changes.chunks)

    async def settled(self) -> None:
        """Returns when everything that the engine knows now is in the file.

        Raises `StoreBroken`; `NoSpace` when the disk is full and stays so.
        """
        version = self.engine.version
        if self.writer.version < version:
            await self._unless_full(partial(self.writer.committed_at_least, version))

    async def written(self, ticket: Ticket) -> None:
        """Returns when what was handed to the writer is in the file. Raises as `settled` does."""
        await self._unless_full(ticket.wait)

    async def _unless_full(self, wait: Callable[[], Awaitable[None]]) -> None:
        while True:
            with trio.move_on_after(NO_SPACE_WAIT_S):
                await wait()
                return
            if self.writer.out_of_space:
                self._unsure_until = self.engine.version
                raise NoSpace("the disk is full: the outcome of this call is not known yet")

    async def tellable(self) -> None:
        """As `settled`, for answers that only tell what memory knows: on a full disk `NoSpace` is raised at once."""
        if self.writer.out_of_space and self.writer.version < self.engine.version:
            raise NoSpace("the disk is full: what this would tell is not in the file yet")
        await self.settled()

    def check_space(self) -> None:
        """Raises `NoSpace` at once for what would need more room."""
        if self.writer.out_of_space:
            raise NoSpace("the disk is full: nothing new is accepted")

    async def read(self, fn: Callable[..., T]) -> T:
        """Reads from the file, after everything known now is in it; on a full disk from the last committed state."""
        if not self.writer.out_of_space:
            try:
                await self.settled()
            except NoSpace:
                pass  # it became full meanwhile
        return await self.backend.read(fn)

    async def read_settled(self, fn: Callable[..., T]) -> T:
        """Reads what a change is decided by: never less than everything known now. Raises as `settled` does."""
        await self.settled()
        return await self.backend.read(fn)

    async def earlier_answer(self, key: Key) -> Answer | None:
        """What was answered to a request id, which the caller has reserved until its own answer is in the file.

        Raises as `settled` does, after a full disk.
        """
        if self.writer.version < self._unsure_until:
            await self.settled()
        return await self._earlier.find(key)

    # ------------------------------------------------------------- commits

    def _collect(self) -> RowBatch | None:
        """The rows of everything that changed since the last commit began. Called by the writer, in the trio thread."""
        engine = self.engine
        if engine.version == self._collected or self._failed is not None:
            return None
        changes = engine.take_changes()
        self._collected = engine.version
        self._flying.append(changes)
        self._noted_at = self.clock.now()
        self.works.note(changes)
        return batch_of(changes, engine.version, self.clock.now(), self.clock.wall(), engine.ids.last)

    def _committed(self, version: int) -> None:
        flying, self._flying = self._flying, []
        if self.news:
            for changes in flying:
                self.news.publish(_keys(changes))

    # ------------------------------------------------------------- time

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The scheduler nursery: writer, timer, one task for each open session. Ends when it is cancelled.

        Raises `StoreBroken` when the file cannot be written any more, or the error of an engine that
        contradicts itself.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.writer.run)
                nursery.start_soon(self._keep_time)
                for session_id in self.engine.sessions:
                    self._session_moved(session_id)
                self._stirred()
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # before it closes: calls that end later start nothing in it
        finally:
            self._nursery = None
            if self._failed is not None:
                raise self._failed

    async def _keep_time(self) -> None:
        """Sleeps until the next thing that hangs on no session is due. Nothing sweeps."""
        while True:
            self._timer_wake = trio.Event()
            self._timer_due = self.engine.next_due()
            if self._timer_due == float("inf"):
                await self._timer_wake.wait()
                continue
            with trio.move_on_at(self.clock.trio_time(self._timer_due)):
                await self._timer_wake.wait()
                continue
            self._timer_due = float("inf")
            with self.step() as (engine, now):
                engine.due(now)

    def _session_moved(self, session_id: SessionId) -> None:
        """A session was opened, ended, or got an earlier deadline."""
        session = self.engine.sessions.get(session_id)
        scope = self._scopes.get(session_id)
        if session is None:
            if scope is not None:
                scope.cancel()
        elif scope is None:
            if self._nursery is not None:
                self._scopes[session_id] = trio.CancelScope()
                self._nursery.start_soon(self._live, session_id)
        else:
            scope.deadline = self.clock.trio_time(self.engine.session_due(session))

    async def _live(self, session_id: SessionId) -> None:
        """The life of one session: sleeps until its earliest deadline, tells the engine, which decides.

        Signs of life move a deadline later without waking anybody: it is computed anew when the old one has passed.
        """
        try:
            while (session := self.engine.sessions.get(session_id)) is not None:
                due = self.engine.session_due(session)
                with trio.CancelScope(deadline=self.clock.trio_time(due)) as scope:
                    self._scopes[session_id] = scope
                    await trio.sleep_forever()
                if (
                    session_id in self.engine.sessions
                    and self.engine.session_due(session) <= self.clock.now()
                ):
                    with self.step() as (engine, now):
                        engine.deadline_passed(now, session_id)
        finally:
            self._scopes.pop(session_id, None)

    async def _look_up(self, lookup: Lookup) -> None:
        """Is there a finished task with the sameness key of one that became ready?

        No caller waits for it, so a full disk is waited out, however long it takes.
        """
        await self.writer.committed_at_least(self.engine.version)
        found = await self.backend.read(lambda conn: queries.same_tasks(conn, [lookup.sameness]))
        with self.step() as (engine, now):
            engine.looked_up(now, lookup.task, found.get(lookup.sameness))

    # ------------------------------------------------------------- shutdown

    def stop_soon(self) -> None:
        """Every held call is answered now; nothing else changes.

        The moment goes into the file: the quiet time before it would count as downtime, or, above an hour, not at all.
        """
        self.stopping.set()
        with suppress(StoreBroken):
            self._note_moment()
        for event in self.held.values():
            event.set()
        self.news.publish_all()


def _keys(changes: Changes) -> set[object]:
    """What a commit is news for."""
    keys: set[object] = {c.attempt for c in changes.chunks}
    keys.update(changes.attempts)
    if changes.events:
        keys.add(EVENTS)
        for event in changes.events:
            keys.add(event.op)
            if event.graph is not None:
                keys.add(event.graph)
    return keys


async def open_daemon(
    config: Config,
    backend: Backend,
    *,
    wall: Callable[[], float] | None = None,
    failpoint: Callable[[str], None] = lambda name: None,
) -> Daemon:
    """Loads what is alive from an opened backend. Raises `StoreError` (`damaged_file`) when it cannot be read."""
    try:
        return await _open_daemon(config, backend, wall, failpoint)
    except UNREADABLE as error:
        raise StoreError(
            "damaged_file",
            f"{config.db} cannot be loaded: {type(error).__name__}: {error}. Nothing was changed. Look with "
            f"`swarmd check --db {config.db}`, and go on with a backup.",
        ) from error


async def _open_daemon(
    config: Config, backend: Backend, wall: Callable[[], float] | None, failpoint: Callable[[str], None]
) -> Daemon:
    last = await backend.read(read_clock)
    clock = EngineClock(last.now if last else None, last.wall if last else None, *([wall] if wall else []))
    settings = Settings(
        accept_s=config.accept_s,
        bot_back_s=config.bot_back_s,
        session_deadline_s=config.session_deadline_s,
        output_limit=config.output_limit_mib << 20,
    )
    now, wall_now = clock.now(), clock.wall()  # read here: the file is read on another thread
    engine = Engine(settings, now, last.last_id if last else 0)
    if last is not None:
        found: Clock = last
        await backend.read(lambda conn: load(conn, engine, found, now, wall_now))
        log.info(
            "loaded",
            extra={"tasks": len(engine.tasks), "bots": len(engine.bots), "sessions": len(engine.sessions)},
        )
    return Daemon(config, backend, engine, clock, failpoint=failpoint)
