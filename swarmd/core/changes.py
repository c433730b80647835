"""What changed in memory and is not yet in the file.

Things that changed several times between two commits are written once, as they are when the commit begins.
The records can be in no cycle, so the garbage collector need not look at them (`gc=False`): a commit may hold
hundreds of thousands.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from swarmd.core.model import (
    Attempt,
    AttemptId,
    Bot,
    BotId,
    Condition,
    EventId,
    Graph,
    GraphId,
    OpId,
    Session,
    SessionId,
    Task,
    TaskId,
    TaskState,
)


class TaskRecord(Struct, frozen=True, gc=False):
    """What the file keeps of a task besides its scheduling facts. `work` and `slices` are JSON."""

    task: TaskId
    work: bytes
    slices: bytes
    index: int | None
    line: str | None


class OpRecord(Struct, frozen=True, gc=False):
    """A new operation as the file keeps it."""

    id: OpId
    task: TaskId
    graph: GraphId
    name: str
    key: str
    pool: str
    owner: str
    priority: int
    tags: tuple[str, ...]
    parent: OpId | None
    retry_of: OpId | None
    created_at: float


class OpChange(Struct, frozen=True, gc=False):
    """An operation that now shares another task, changed its priority, or ended apart from its task."""

    id: OpId
    task: TaskId
    ended: TaskState | None


class FinalRecord(Struct, frozen=True, gc=False):
    """How a task ended, for its row."""

    task: TaskId
    state: TaskState
    ok: bool
    exit_code: int | None
    reason: str
    ended_at: float


class Event(Struct, frozen=True, gc=False):
    """An entry of the history of an operation, a bot or a graph."""

    id: EventId
    at: float
    kind: str
    op: OpId | None = None
    attempt: AttemptId | None = None
    bot: BotId | None = None
    graph: GraphId | None = None
    state: TaskState | None = None
    detail: dict[str, Any] | None = None


class OutputChunk(Struct, frozen=True, gc=False):
    """Bytes of one stream. `merged` is where they stand in the order of arrival over all streams."""

    attempt: AttemptId
    stream: str
    offset: int
    merged: int
    data: bytes


class RequestRecord(Struct, frozen=True, gc=False):
    """That a request id was used: the same id and body again gets the same answer."""

    owner: str
    request_id: str
    body_hash: bytes
    answer: bytes
    at: float


class Changes:
    """Everything since the last commit began, in the order in which tables must be written."""

    __slots__ = (
        "attempts",
        "bots",
        "chunks",
        "deleted_bots",
        "edges_added",
        "edges_gone",
        "edges_met",
        "events",
        "finals",
        "graphs",
        "ops_added",
        "ops_changed",
        "requests",
        "sessions",
        "tasks",
        "tasks_added",
        "tasks_gone",
    )

    def __init__(self) -> None:
        self.tasks_added: list[tuple[Task, TaskRecord]] = []
        self.tasks: dict[TaskId, Task] = {}
        self.tasks_gone: list[tuple[TaskId, TaskId]] = []  # whose operation joined another task, and which
        self.finals: dict[TaskId, FinalRecord] = {}
        self.ops_added: list[OpRecord] = []
        self.ops_changed: dict[OpId, OpChange] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.sessions: dict[SessionId, Session] = {}
        self.bots: dict[BotId, Bot] = {}
        self.deleted_bots: list[BotId] = []
        self.graphs: dict[GraphId, Graph] = {}
        self.edges_added: list[tuple[TaskId, OpId, Condition]] = []
        self.edges_met: list[tuple[TaskId, OpId]] = []
        self.edges_gone: list[TaskId] = []  # replaced: written before those added
        self.events: list[Event] = []
        self.chunks: list[OutputChunk] = []
        self.requests: list[RequestRecord] = []

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)
