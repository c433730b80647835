"""Tiny worlds: an engine with a clock that you move, bots that do what you say, and a file in memory.

world = World()
task = world.submit(os="linux")
bot = world.bot("b", os="linux")
attempt = bot.take()
bot.finish(attempt)
assert world.state(task) is TaskState.COMPLETED
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from swarmd.core.engine import Engine
from swarmd.core.features import NATIVE
from swarmd.core.model import (
    NEVER,
    Attempt,
    AttemptId,
    Bot,
    BotId,
    Condition,
    Graph,
    OpId,
    Outcome,
    Session,
    SessionId,
    Share,
    Task,
    TaskId,
    TaskState,
    Work,
)
from swarmd.core.reporting import Ordered
from swarmd.core.sessions import Newcomer, Opened
from swarmd.core.submitting import After, Known, LookAgain, SliceSpec, Submitted, TaskSpec
from swarmd.core.world import Settings
from swarmd.store.loading import load, read_clock
from swarmd.store.migrate import migrate
from swarmd.store.queries import same_tasks
from swarmd.store.rows import batch_of
from swarmd.store.schema import MIGRATIONS

START = 1_000.0
FIRST_ID = 1 << 30  # below are numbers within a submission
WALL_AHEAD_S = 1_700_000_000.0  # the wall clock of a world is its engine time plus this
MAX_DUE_STEPS = 100_000  # of one `pass_time`
OK = Outcome(ok=True, exit_code=0)
FAILED = Outcome(ok=False, exit_code=1)
DIED = Outcome(ok=False, died=True, reason="the bot broke")


def spec(
    *,
    after: Iterable[OpId | int | After] = (),
    slices: Sequence[SliceSpec] = (),
    noop: bool = True,
    marker: bool = False,
    hard_limit_s: float = 3_600.0,
    grace_s: float = 30.0,
    expiration_s: float = 86_400.0,
    wait_for_capacity: bool = True,
    share: Share = Share.NONE,
    dimensions: dict[str, list[str]] | None = None,
    work: Work | None = None,
    **rest: Any,
) -> TaskSpec:
    """A task to submit: known fields by name, every other keyword is a dimension (`os="linux"`).

    An `int` in `after` that is no id (below `FIRST_ID`) is the number of a task of the same submission.
    """
    fields = {name: rest.pop(name) for name in list(rest) if name in TaskSpec.__struct_fields__}
    required = dimensions if dimensions is not None else {key: [value] for key, value in rest.items()}
    work = work or Work(noop=noop and not marker, marker=marker, hard_limit_s=hard_limit_s, grace_s=grace_s)
    return TaskSpec(
        work=(work,),
        slices=tuple(slices) or (SliceSpec(required, expiration_s, wait_for_capacity),),
        after=tuple(_after(a) for a in after),
        share=share,
        **fields,
    )


def _after(on: OpId | int | After) -> After:
    if isinstance(on, After):
        return on
    return After(index=on) if on < FIRST_ID else After(on=OpId(on))


def succeeded(on: int) -> After:
    return _after(on)


def failed(on: int) -> After:
    return (
        After(index=on, condition=Condition.FAILED)
        if on < FIRST_ID
        else After(OpId(on), None, Condition.FAILED)
    )


def ended(on: int) -> After:
    return After(index=on, condition=Condition.ANY) if on < FIRST_ID else After(OpId(on), None, Condition.ANY)


class World:
    """One engine, its time, and the file that it could be loaded from. Keywords are those of `Settings`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.now = START
        self.engine = Engine(self.settings, self.now)
        self.polls = 0
        self._file: sqlite3.Connection | None = None

    # ------------------------------------------------------------- work

    def submit(self, *, graph: Graph | None = None, **fields: Any) -> OpId:
        """One operation; see `spec` for the keywords."""
        return self.submit_all([spec(**fields)], graph)[0].id

    def submit_all(self, specs: Sequence[TaskSpec], graph: Graph | None = None) -> list[Submitted]:
        """As the daemon does it: what the submission names is looked up in the file first."""
        try:
            return self.engine.submit(self.now, specs, graph, self.known(specs))
        except LookAgain as again:
            raise AssertionError(f"the file knows nothing of {again.ops}") from again

    def known(self, specs: Sequence[TaskSpec]) -> Known:
        named = [a.on for s in specs for a in s.after if a.on is not None]
        shared = {s.sameness for s in specs if s.sameness is not None and s.share is not Share.NONE}
        return Known(self.done(named), self.same(shared) if shared else {})

    def done(self, ops: Iterable[OpId]) -> dict[OpId, bool]:
        """Those of `ops` that are final, and whether they ended ok."""
        found = {op: self.final(op) for op in ops if self.engine.task_of(op) is None}
        return {op: final[1] for op, final in found.items() if final is not None}

    def same(self, keys: Iterable[str]) -> dict[str, TaskId]:
        self.write()
        return same_tasks(self.file, keys)

    def graph(self, name: str = "g", is_open: bool = False) -> Graph:
        return self.engine.new_graph(self.now, name, "", is_open)

    def set_after(self, op: OpId, *after: OpId | After) -> None:
        edges = [_after(a) for a in after]
        self.engine.set_after(
            self.now, op, edges, Known(self.done([a.on for a in edges if a.on is not None]))
        )

    def cancel(self, op: OpId, kill: bool = True) -> bool:
        return self.engine.withdraw(self.now, op, "somebody wished so", kill)

    def look_up(self) -> int:
        """Answers every lookup that the engine asked for, as the daemon does; returns how many."""
        count = 0
        while self.engine.lookups:
            lookup = self.engine.lookups.pop(0)
            self.engine.looked_up(self.now, lookup.task, self.same([lookup.sameness]).get(lookup.sameness))
            count += 1
        return count

    # ------------------------------------------------------------- bots

    def bot(self, name: str = "b", *, start: bool = True, **fields: Any) -> FakeBot:
        """A bot with an open session; keywords that `FakeBot` does not know are dimensions."""
        bot = FakeBot(self, name, **fields)
        if start:
            bot.open()
        return bot

    # ------------------------------------------------------------- looking

    def task(self, op: OpId) -> Task:
        """The unfinished task behind an operation."""
        task = self.engine.task_of(op)
        assert task is not None, f"operation {op} is final or unknown"
        return task

    def state(self, op: OpId) -> TaskState:
        """Of an operation, alive or final."""
        task = self.engine.task_of(op)
        if task is not None:
            return task.state
        final = self.final(op)
        assert final is not None, f"operation {op} is neither alive nor in the file"
        return final[0]

    def states(self, *ops: OpId) -> list[str]:
        return [self.state(op).name for op in ops]

    def final(self, op: OpId) -> tuple[TaskState, bool, str] | None:
        """State, ok and reason of a final operation, from the file; None when it is not final."""
        self.write()
        row = self.file.execute(
            "SELECT COALESCE(o.ended, t.state), o.ended IS NULL AND t.ok, COALESCE(t.reason, '')"
            " FROM ops AS o LEFT JOIN tasks AS t ON t.id = o.task WHERE o.id = ?",
            (op,),
        ).fetchone()
        return None if row is None or row[0] < 10 else (TaskState(row[0]), bool(row[1]), row[2])

    def reason(self, op: OpId) -> str:
        final = self.final(op)
        assert final is not None
        return final[2]

    def explain(self, op: OpId) -> tuple[str, str]:
        found = self.engine.explain(self.now, op)
        assert found is not None, f"operation {op} is final or unknown"
        return found.reason, found.sentence

    def queued(self) -> list[TaskId]:
        return sorted(id for id, task in self.engine.tasks.items() if task.queued is not None)

    # ------------------------------------------------------------- time

    def next_due(self) -> float:
        """When something happens next by itself, or infinity."""
        sessions = (self.engine.session_due(s) for s in self.engine.sessions.values())
        return min(self.engine.next_due(), *sessions, NEVER)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass; everything that falls due on the way happens at its own moment."""
        self.pass_until(self.now + seconds)

    def pass_until(self, moment: float) -> None:
        for _ in range(MAX_DUE_STEPS):
            due = self.next_due()
            if due > moment:
                self.now = max(self.now, moment)
                return
            self.now = max(self.now, due)
            self.act()
        raise AssertionError(f"due again and again at {self.now}")

    def act(self) -> None:
        """Does what is due now."""
        self.engine.due(self.now)
        for session in list(self.engine.sessions.values()):
            if session.id in self.engine.sessions and self.engine.session_due(session) <= self.now:
                self.engine.deadline_passed(self.now, session.id)

    # ------------------------------------------------------------- the file

    @property
    def file(self) -> sqlite3.Connection:
        if self._file is None:
            self._file = sqlite3.connect(":memory:", isolation_level=None)
            migrate(self._file, None, MIGRATIONS)
        return self._file

    def write(self, always: bool = False) -> None:
        """Commits what changed; `always`: at least the time."""
        changes = self.engine.take_changes()
        if changes or always:
            batch = batch_of(
                changes, self.engine.version, self.now, self.now + WALL_AHEAD_S, self.engine.ids.last
            )
            self.file.execute("BEGIN")
            batch.write(self.file)
            self.file.execute("COMMIT")

    def loaded(self, down_s: float = 0.0) -> Engine:
        """A fresh engine with what the file holds now."""
        self.write(always=True)
        clock = read_clock(self.file)
        now = self.now + down_s
        engine = Engine(self.settings, now, clock.last_id if clock is not None else 0)
        if clock is not None:
            load(self.file, engine, clock, now, now + WALL_AHEAD_S)
        return engine

    def restart(self, down_s: float = 0.0) -> None:
        """The daemon ends and begins again from its file; `down_s` later."""
        self.engine = self.loaded(down_s)
        self.now += down_s


class FakeBot:
    """A bot that does what the test says. Its methods are calls of its session."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        key: str = "start-1",
        bot_key: str = "secret",
        slots: int = 1,
        protocol: str = "native",
        features: tuple[str, ...] = NATIVE,
        enforces_limits: bool = True,
        always_wins: bool = False,
        dimensions: dict[str, list[str]] | None = None,
        **dims: str,
    ) -> None:
        self.world = world
        self.name = BotId(name)
        self.key = key
        self.bot_key = bot_key
        self.slots = slots
        self.protocol = protocol
        self.features = features
        self.enforces_limits = enforces_limits
        self.always_wins = always_wins
        self.dimensions = dimensions if dimensions is not None else {k: [v] for k, v in dims.items()}
        self.session = SessionId(0)

    def open(self, keeps: Iterable[Attempt] = ()) -> Opened:
        """Opens the session, or asks for it again."""
        opened = self.world.engine.open_session(self.world.now, self.newcomer(keeps))
        self.session = opened.session
        return opened

    def newcomer(self, keeps: Iterable[Attempt] = (), **changes: Any) -> Newcomer:
        """What it says of itself."""
        said = Newcomer(
            self.name, self.protocol, self.key, self.bot_key, self.dimensions, self.features, self.slots,
            keeps=tuple(a.id for a in keeps), enforces_limits=self.enforces_limits, always_wins=self.always_wins,
        )  # fmt: skip
        return replace(said, **changes)

    def describe(self, **changes: Any) -> None:
        """Says anew what it is; `changes` are fields of `Newcomer`."""
        self.world.engine.describe(self.world.now, self.newcomer(**changes))

    @property
    def it(self) -> Bot:
        """What the engine knows of it."""
        return self.world.engine.bots[self.name]

    @property
    def open_session(self) -> Session:
        return self.world.engine.sessions[self.session]

    @property
    def attempts(self) -> list[AttemptId]:
        return list(self.open_session.attempts)

    def seen(self) -> None:
        self.world.engine.seen(self.world.now, self.session)

    def poll(self, limit: int = 1, key: str | None = None, accept_s: float | None = None) -> list[Attempt]:
        """Asks for work; without a `key` it is a new poll each time."""
        self.world.polls += 1
        self.seen()
        return self.world.engine.offer(
            self.world.now, self.session, key or f"poll-{self.world.polls}", limit, accept_s
        )

    def take(self) -> Attempt:
        """The one attempt that it gets now, started."""
        (attempt,) = self.poll()
        self.start(attempt)
        return attempt

    def start(self, attempt: Attempt) -> None:
        self.world.engine.accept(self.world.now, attempt)

    def finish(self, attempt: Attempt, outcome: Outcome = OK) -> bool:
        return self.world.engine.finish(self.world.now, self.session, attempt.id, outcome)

    def holds(
        self, running: Iterable[Attempt] = (), queued: Iterable[Attempt] = (), judged: bool = True
    ) -> list[AttemptId]:
        """Says the whole truth about what it has; returns what it should not have."""
        self.seen()
        return self.world.engine.holds(
            self.world.now, self.session, [a.id for a in running], [a.id for a in queued], lambda a: judged
        )

    def orders(self) -> list[Ordered]:
        return self.world.engine.orders(self.session)

    def wait(self, free: int = 1) -> bool:
        return self.world.engine.wait(self.world.now, self.session, free)

    def woken(self) -> bool:
        """Whether its held call has something to say; the engine forgets all wakes by that."""
        return self.session in self.world.engine.take_woken()

    def close(self, reason: str = "it stopped") -> None:
        self.world.engine.close_session(self.world.now, self.session, reason)

    def change(self, **what: Any) -> None:
        self.world.engine.change_bot(self.world.now, self.name, **what)
