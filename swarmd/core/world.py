"""The state of the engine, and the bookkeeping that every step of it uses."""

from __future__ import annotations

import heapq
from typing import Any

from msgspec import Struct

from swarmd.core.changes import Changes, Event
from swarmd.core.errors import Unknown
from swarmd.core.ids import IdSource, to_text
from swarmd.core.model import (
    NEVER,
    NO_GRAPH,
    Attempt,
    AttemptId,
    Bot,
    BotId,
    EventId,
    Graph,
    GraphId,
    Op,
    OpId,
    Plan,
    Session,
    SessionId,
    Task,
    TaskId,
    TaskState,
)
from swarmd.core.queue import Matching
from swarmd.core.states import TASK_STEPS
from swarmd.core.timers import Timers


class Settings(Struct, frozen=True):
    """Spans and limits of the engine; the defaults are those of docs/http-api.md."""

    accept_s: float = 30.0  # an offer that no sign came for goes back to the queue
    bot_back_s: float = 60.0  # how long a bot stays capacity after its session ended
    session_deadline_s: float = 60.0
    max_drops: int = 16  # times a task may be offered and never started
    open_graph_idle_s: float = 86_400.0  # an open graph without a change is closed
    stop_margin_s: float = 60.0  # a bot that enforces limits gets limit + 3 × grace + this
    output_limit: int = 256 << 20  # bytes kept of one stream
    max_bots: int = 100_000


class Lookup(Struct, frozen=True):
    """A lookup that a task needs before it may start: is there a finished task with this sameness key?"""

    task: TaskId
    sameness: str


class World:
    """All that is alive. Nothing here decides; the layers above do."""

    def __init__(self, settings: Settings, now: float, last_id: int = 0) -> None:
        self.settings = settings
        self.started_at = now
        self.last_now = now
        self.ids = IdSource(last_id)
        self.version = 0  # grows with every change; an answer waits until this one is in the file
        self.changes = Changes()
        self.tasks: dict[TaskId, Task] = {}
        self.joined: dict[OpId, Op] = {}  # operations whose task is not their own
        self.attempts: dict[AttemptId, Attempt] = {}  # live ones
        self.sessions: dict[SessionId, Session] = {}  # open ones
        self.bots: dict[BotId, Bot] = {}
        self.graphs: dict[GraphId, Graph] = {}  # that are open or have operations alive
        self.plans: dict[object, Plan] = {}
        self.matching = Matching()
        self.dependents: dict[OpId, list[TaskId]] = {}
        self.children: dict[OpId, set[OpId]] = {}
        self.by_sameness: dict[str, TaskId] = {}
        self.task_timers = Timers()
        self.other_timers: list[tuple[float, str, Any]] = []  # bots that may be back, open graphs
        self.impatience_due = False  # a timer for tasks that do not wait for capacity is set
        self.waiting: dict[int, dict[SessionId, Session]] = {}  # by load, longest waiting first
        self.woken: list[SessionId] = []  # sessions whose held call has something to say now
        self.moved: set[SessionId] = set()  # sessions whose deadline moved
        self.lookups: list[Lookup] = []

    # ------------------------------------------------------------- ids and events

    def changed(self) -> None:
        self.version += 1

    def emit(
        self,
        now: float,
        kind: str,
        *,
        op: OpId | None = None,
        attempt: AttemptId | None = None,
        bot: BotId | None = None,
        graph: GraphId = NO_GRAPH,
        state: TaskState | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Adds an entry to the history."""
        self.changes.events.append(
            Event(EventId(self.ids.next(now)), now, kind, op, attempt, bot, graph or None, state, detail)
        )
        self.version += 1

    def tell_state(self, now: float, task: Task, attempt: Attempt | None = None, reason: str = "") -> None:
        """Adds the task's state to the history of each of its operations."""
        detail = {"reason": reason} if reason else None
        number = attempt.id if attempt else None
        bot = attempt.bot if attempt else None
        if task.ops is None:  # as `emit` would: this is half of all events, several for each task
            own: Any = task.id
            id: Any = self.ids.next(now)
            graph = task.graph or None
            self.changes.events.append(Event(id, now, "task", own, number, bot, graph, task.state, detail))
            self.version += 1
            return
        for op in task.ops.values():
            self.emit(
                now,
                "task",
                op=op.id,
                attempt=number,
                bot=bot,
                graph=op.graph,
                state=task.state,
                detail=detail,
            )

    def move(self, task: Task, state: TaskState) -> None:
        """Takes one legal step of a task."""
        assert (task.state, state) in TASK_STEPS, (
            f"task {task.id}: no step from {task.state.name} to {state.name}"
        )
        task.state = state
        self.touch(task)

    def touch(self, task: Task) -> None:
        self.changes.tasks[task.id] = task
        self.version += 1

    def touch_attempt(self, attempt: Attempt) -> None:
        self.changes.attempts[attempt.id] = attempt
        self.version += 1

    def touch_bot(self, bot: Bot) -> None:
        self.changes.bots[bot.id] = bot
        self.version += 1

    def touch_session(self, session: Session) -> None:
        self.changes.sessions[session.id] = session
        self.version += 1

    def touch_graph(self, graph: Graph) -> None:
        self.changes.graphs[graph.id] = graph
        self.version += 1

    # ------------------------------------------------------------- looking up

    def task_of(self, op: OpId) -> Task | None:
        """The unfinished task behind an operation, or None when it is final, withdrawn or unknown."""
        shared = self.joined.get(op)
        if shared is not None:
            return self.tasks.get(shared.task)
        task = self.tasks.get(TaskId(op))
        return None if task is None or task.own_withdrawn else task

    def ops_of(self, task: Task) -> list[OpId]:
        return [OpId(task.id)] if task.ops is None else list(task.ops)

    def bot_named(self, id: BotId) -> Bot:
        """Raises `Unknown`."""
        bot = self.bots.get(id)
        if bot is None:
            raise Unknown("unknown_bot", f"there is no bot {id}", "swarmd bots lists those that are known")
        return bot

    def session_named(self, id: SessionId) -> Session:
        """Raises `Unknown`: the bot should open a new session."""
        session = self.sessions.get(id)
        if session is None:
            raise Unknown(
                "unknown_session", f"session {to_text(id)} is not open (any more)", "open a new session"
            )
        return session

    # ------------------------------------------------------------- time

    def set_task_due(self, task: Task, due_at: float) -> None:
        task.due_at = due_at
        self.task_timers.push(due_at, task.id)
        if self.task_timers.is_bloated:
            self.task_timers.rebuild((t.due_at, t.id) for t in self.tasks.values())

    def set_other_due(self, due_at: float, kind: str, id: Any) -> None:
        if due_at != NEVER:
            heapq.heappush(self.other_timers, (due_at, kind, id))

    def next_due(self) -> float:
        """When `due` must be called next, or infinity. Sessions have their own deadline (`session_due`)."""
        return min(self.task_timers.next_due(), self.other_timers[0][0] if self.other_timers else NEVER)
