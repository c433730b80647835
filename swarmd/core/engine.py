"""Engine: the one place where it is decided what is true.

A state machine in memory. Each public method is one thing that can happen; it takes `now` (engine time),
checks it against
the tables, changes memory, notes what changed in `changes`, and returns the answer or raises an error of
`core.errors`.
It is deterministic: the same calls give the same state. It never blocks and does no I/O.

The steps live in layers, each using only those below it:

    world       what is alive, ids, history
    placing     plans, queues, capacity, waiting sessions
    ending      how a task ends and what follows
    reporting   offers, acceptance, output, outcomes
    sessions    how bots come and go
    submitting  how work comes in; edges and graphs
    explain     why a task waits

Source: docs/architecture.md, "The core".
"""

from __future__ import annotations

from swarmd.core.changes import Changes
from swarmd.core.explain import Explaining
from swarmd.core.ids import to_text
from swarmd.core.model import (
    NEVER,
    Attempt,
    AttemptState,
    Bot,
    BotId,
    Graph,
    GraphId,
    Op,
    OpId,
    Outcome,
    Session,
    SessionId,
    Task,
    TaskId,
    TaskState,
    is_own,
)

SAME_MOMENT_S = 1e-5  # due moments are kept in whole microseconds


class Engine(Explaining):
    """The whole core. See the module's text for its layers."""

    # ------------------------------------------------------------- time

    def due(self, now: float) -> None:
        """Acts on everything that hangs on no session and is due at `now`: expirations, retry waits, open
        graphs."""
        while (id := self.task_timers.pop_due(now)) is not None:
            task = self.tasks.get(TaskId(id))
            if task is not None and task.state is TaskState.PENDING and task.due_at <= now + SAME_MOMENT_S:
                self._task_due(now, task)
        while (entry := self.pop_other_due(now)) is not None:
            kind, other = entry
            if kind == "impatient":
                self._pass_over(now)
            elif kind == "bot":
                self.bot_may_be_gone(now, BotId(str(other)))
            else:
                assert kind == "graph" and isinstance(other, int)
                self.graph_idle(now, GraphId(other))

    def _task_due(self, now: float, task: Task) -> None:
        if task.queued is None:
            self.start_slice(now, task)  # the retry wait is over
        else:
            self.slice_over(now, task)

    def _pass_over(self, now: float) -> None:
        self.impatience_due = False
        for task in self.impatient_without_capacity():
            if task.id not in self.tasks:
                continue  # a child of one that ended before it in this loop
            requires = task.facts.requires
            if not self.next_slice(now, task, task.due_at - now):
                _, sentence = (
                    self.no_match(requires)
                    if not requires.bots
                    else ("", "no bot that could run it takes work")
                )
                self.finish_task(now, task, TaskState.NO_RESOURCE, Outcome(ok=False, reason=sentence))

    # ------------------------------------------------------------- persistence

    def take_changes(self) -> Changes:
        """Hands over what changed since the last call."""
        taken, self.changes = self.changes, Changes()
        return taken

    def take_woken(self) -> list[SessionId]:
        """The sessions whose held calls have something to say, since the last call."""
        taken, self.woken = self.woken, []
        return taken

    # ------------------------------------------------------------- loading

    def load_bot(self, bot: Bot) -> None:
        self.bots[bot.id] = bot

    def load_graph(self, graph: Graph) -> None:
        self.graphs[graph.id] = graph
        if graph.is_open:
            self.set_other_due(graph.touched_at + self.settings.open_graph_idle_s, "graph", graph.id)

    def load_session(self, now: float, session: Session) -> None:
        """A session found open in the file; its attempts are added by the calls that follow."""
        bot = self.bots[session.bot]
        bot.session = session
        bot.last_seen_at = now
        session.heard = False
        self.sessions[session.id] = session
        self.matching.enter(bot)

    def load_task(self, task: Task) -> None:
        """A task that was not final; its attempt, operations and graph are added by the calls that follow."""
        self.tasks[task.id] = task
        for on in task.waits or ():
            self.dependents.setdefault(on, []).append(task.id)

    def load_ops(self, task: Task, ops: list[tuple[Op, OpId | None]]) -> None:
        """All operations of an unfinished task that stand, each with its parent."""
        alone = len(ops) == 1 and is_own(ops[0][0].id, task.id)
        if not alone:
            task.ops = {}
        for op, parent in ops:
            if task.ops is not None:
                task.ops[op.id] = op
            if is_own(op.id, task.id):
                task.graph = op.graph
            else:
                self.joined[op.id] = op
            if op.graph in self.graphs:
                self.graphs[op.graph].alive.add(op.id)
            if parent is not None:
                self.children.setdefault(parent, set()).add(op.id)
        task.own_withdrawn = not alone and OpId(task.id) not in (task.ops or {})

    def load_attempt(self, attempt: Attempt) -> None:
        """A live attempt, its deadlines moved by the time the daemon was down; so they go into the file with the
        next time that does."""
        self.touch_attempt(attempt)
        self.attempts[attempt.id] = attempt
        attempt.stored = True
        task = self.tasks[attempt.task]
        attempt.ends_bot = task.facts.requires.ends_bot
        task.attempt = attempt
        task.tries, task.last_attempt, task.due_at = attempt.number, attempt.id, NEVER
        self.sessions[attempt.session].attempts[attempt.id] = attempt

    def loaded(self, now: float) -> None:
        """Everything was added: queue what is PENDING, look up what is ready, drop children whose parents
        are gone. A session found open in the file starts with its full patience."""
        for session in self.sessions.values():
            session.due_at = now + self.patience_s(session)
        for task in sorted(self.tasks.values(), key=lambda t: t.id):
            if task.id not in self.tasks:
                continue  # it followed another one
            if task.sameness is not None and not task.waits:
                self.may_be_joined(task)
            if task.state is TaskState.PENDING and task.attempt is None:
                if task.due_at < 0:  # a retry wait
                    self.set_task_due(task, -task.due_at)
                else:
                    due_at = task.due_at
                    task.facts.requires.push(task)
                    self.set_task_due(task, due_at)
                    if not task.facts.wait_for_capacity:
                        self._pass_over_soon(now)
            elif task.state is TaskState.BLOCKED and not task.waits:
                self.ready(now, task)
            elif task.state is TaskState.BLOCKED:
                self._doom_if_unmet(now, task)
        for parent in [op for op in self.children if self.task_of(op) is None]:
            for child in sorted(self.children.pop(parent)):
                self.withdraw(now, child, "its parent ended", kill=True)

    # ------------------------------------------------------------- for people

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Unfinished tasks by state, and bots by status. O(n)."""
        tasks: dict[str, int] = {"BLOCKED": 0, "PENDING": 0, "RUNNING": 0}
        for task in self.tasks.values():
            tasks[task.state.name] += 1
        bots: dict[str, int] = {}
        for bot in self.bots.values():
            bots[bot.status] = bots.get(bot.status, 0) + 1
        return tasks, bots

    def check(self) -> None:
        """Raises AssertionError when memory contradicts itself. For tests and for a look at a running
        daemon. O(n)."""
        for task in self.tasks.values():
            assert not task.state.is_final
            assert (task.attempt is None) or task.attempt.task == task.id
            assert (task.state is TaskState.BLOCKED) == bool(task.waits) or task.sameness is not None, (
                to_text(task.id)
            )
            if task.queued is not None:
                assert task.state is TaskState.PENDING and task.attempt is None and task.due_at != NEVER
            if task.state is TaskState.RUNNING:
                assert task.attempt is not None and task.attempt.state is AttemptState.RUNNING
        for attempt in self.attempts.values():
            assert self.tasks[attempt.task].attempt is attempt
            assert self.sessions[attempt.session].attempts[attempt.id] is attempt
            assert not attempt.ends_bot or self.sessions[attempt.session].ending is attempt
        for requirement_set in self.matching.sets.values():
            assert requirement_set.count == len(requirement_set.queued_tasks(self.tasks))
