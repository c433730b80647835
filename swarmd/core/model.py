"""The words of the core: ids, states, what a task runs, and the living things the engine keeps in memory.

Values are frozen `msgspec.Struct`s and may be shared; living things have `__slots__` and change only inside
the engine.
Moments end in `_at` and are engine time (seconds, see docs/architecture.md "Time"); spans end in `_s`.

Source: docs/glossary.md (one word per idea).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, NewType

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from swarmd.core.queue import RequirementSet

TaskId = NewType("TaskId", int)
OpId = NewType("OpId", int)  # the first operation of a task has the task's own number
AttemptId = NewType("AttemptId", int)
SessionId = NewType("SessionId", int)
GraphId = NewType("GraphId", int)
EventId = NewType("EventId", int)
BotId = NewType("BotId", str)


def is_own(op: OpId, task: TaskId) -> bool:
    """Whether `op` is the operation that `task` was made for."""
    return int(op) == int(task)


NO_GRAPH = GraphId(0)
NEVER = float("inf")

DEFAULT_HARD_LIMIT_S = 3600.0
DEFAULT_GRACE_S = 30.0
DEFAULT_EXPIRATION_S = 86_400.0
DEFAULT_BOT_RETRIES = 1
DEFAULT_POOL = "default"


class TaskState(IntEnum):
    """Where a task stands; the numbers are stored in the file and never change their meaning."""

    BLOCKED = 1  # waits for other tasks
    PENDING = 2  # waits for a bot, or for the end of a retry wait
    RUNNING = 3  # a bot has started it
    COMPLETED = 10  # ran to its end, any exit code
    TIMED_OUT = 11
    KILLED = 12  # canceled while running
    CANCELED = 13  # canceled before it ran
    EXPIRED = 14  # nobody took it in time
    NO_RESOURCE = 15  # no bot could take it
    BOT_DIED = 16
    CLIENT_ERROR = 17  # could not be started
    SKIPPED = 18  # something it depends on did not succeed

    @property
    def is_final(self) -> bool:
        return self >= 10


class AttemptState(IntEnum):
    """Where an attempt stands; the numbers are stored in the file."""

    OFFERED = 1
    RUNNING = 2
    ENDED = 10  # the bot reported its outcome, or a stop ran out
    LOST = 11  # its bot is gone or no longer knows it
    DROPPED = 12  # never started: the task went back to the queue uncounted


class StopReason(StrEnum):
    """Why an attempt is being stopped; the first reason names the final state."""

    CANCELED = "canceled"
    HARD_LIMIT = "hard_limit"
    IO_LIMIT = "io_limit"


class Condition(StrEnum):
    """What a dependency must have come to before the dependent task may start."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ANY = "any"


class Share(StrEnum):
    """How an operation may share another task of the same sameness key."""

    NONE = "none"
    FINISHED = "finished"  # a finished, successful one answers at once
    JOIN = "join"  # also joins one that is not finished


class BotOrder(StrEnum):
    """What a bot is told to do with itself as soon as it is idle."""

    RESTART = "restart"
    UPDATE = "update"
    TERMINATE = "terminate"


class Command(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One step of a task: a program to run, or a text to write to a file (`write_to` set)."""

    argv: tuple[str, ...] = ()
    env: dict[str, str | None] = {}  # null removes a variable
    cwd: str = ""  # relative to the work folder
    write_to: str = ""  # relative path
    text: str = ""


class Input(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A blob that must stand at `path` (relative to the work folder) before the first command starts."""

    path: str
    blob: str  # SHA-256, 64 lower-case hex digits
    executable: bool = False


# Bytes, in JSON as base64; the pattern is for the OpenAPI file only.
Base64 = Annotated[
    bytes,
    Meta(
        extra_json_schema={
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        }
    ),
]


class Payload(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A protocol's own message, opaque to the core: bots of that protocol get it unchanged."""

    type: str  # a type URL
    data: Base64 = b""


class Work(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to run, in the one form that all protocols translate to and from.

    `hard_limit_s` > 0, `io_limit_s` >= 0 (0: none), `grace_s` >= 0 seconds between the polite and the forced
    stop.
    """

    commands: tuple[Command, ...] = ()
    env: dict[str, str | None] = {}
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()  # paths or glob patterns, relative to the work folder
    hard_limit_s: float = DEFAULT_HARD_LIMIT_S
    io_limit_s: float = 0.0
    grace_s: float = DEFAULT_GRACE_S
    ping_tolerance_s: float = (
        0.0  # its bot is lost after so long without a sign of life; 0: as for any of its kind
    )
    noop: bool = False  # goes to a bot like any task but starts no process
    marker: bool = False  # never reaches a bot: the engine completes it when it is ready
    terminate: bool = False  # tells the bot that takes it to end itself, when nothing else runs there
    payload: Payload | None = None


class OutputFile(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file that a task left behind and its bot kept as a blob."""

    path: str
    blob: str
    size: int  # bytes
    executable: bool = False


class Outcome(Struct, frozen=True, omit_defaults=True):
    """How an attempt ended, as its bot (or the engine, for a lost one) tells it. `ok` decides; the exit code
    is for show."""

    ok: bool
    exit_code: int | None = None
    duration_s: float | None = None
    timed_out: bool = False
    canceled: bool = False  # never started, and no fault: it was told to stop first, or it was given back
    client_error: bool = False  # could not be started: no such program, no such input
    died: bool = False  # the bot's own fault
    reason: str = ""  # a sentence for people
    outputs: tuple[OutputFile, ...] = ()
    payload: Payload | None = None


class SliceFacts:
    """The scheduling facts of one slice, shared by all tasks that have the same ones."""

    __slots__ = (
        "expiration_s",
        "grace_s",
        "hard_limit_s",
        "io_limit_s",
        "marker",
        "ping_tolerance_s",
        "requires",
        "wait_for_capacity",
    )

    def __init__(
        self,
        requires: RequirementSet,
        expiration_s: float,
        wait_for_capacity: bool,
        hard_limit_s: float,
        io_limit_s: float,
        grace_s: float,
        marker: bool,
        ping_tolerance_s: float,
    ) -> None:
        self.requires = requires
        self.expiration_s = expiration_s
        self.wait_for_capacity = wait_for_capacity
        self.hard_limit_s = hard_limit_s
        self.io_limit_s = io_limit_s
        self.grace_s = grace_s
        self.marker = marker
        self.ping_tolerance_s = ping_tolerance_s


class Plan:
    """How a task may be tried: its slices and retry limits. Interned: equal tasks share one."""

    __slots__ = ("bot_retries", "carry_time", "key", "retries", "retry_wait_s", "slices", "users")

    def __init__(
        self,
        slices: tuple[SliceFacts, ...],
        retries: int,
        bot_retries: int,
        retry_wait_s: float,
        carry_time: bool,
    ) -> None:
        self.slices = slices
        self.retries = retries  # after a fault of the task
        self.bot_retries = bot_retries  # after a fault of the bot
        self.retry_wait_s = retry_wait_s
        self.carry_time = carry_time  # time that a skipped slice did not use goes to the next
        self.users = 0  # tasks that hold it
        self.key: object = None  # under which it is interned


class Task:
    """An unfinished task: only what scheduling needs (a million of these must fit in memory)."""

    __slots__ = (
        "attempt",
        "bot_faults",
        "drops",
        "due_at",
        "graph",
        "id",
        "last_attempt",
        "ops",
        "own_withdrawn",
        "plan",
        "priority",
        "queued",
        "sameness",
        "share",
        "slice",
        "state",
        "task_faults",
        "tries",
        "waits",
    )

    def __init__(self, id: TaskId, plan: Plan, priority: int) -> None:
        self.id = id
        self.plan = plan
        self.priority = priority  # the best of its operations; lower runs first
        self.state = TaskState.PENDING
        self.slice = 0
        self.queued: RequirementSet | None = None  # the set in whose queue it stands
        self.due_at = NEVER  # queued: end of the slice's expiration; not queued: end of the retry wait
        self.tries = 0  # the number of the newest attempt, counted or not
        self.task_faults = 0
        self.bot_faults = 0
        self.drops = 0
        self.attempt: Attempt | None = None  # the one live attempt
        self.last_attempt = AttemptId(0)  # the newest one, live or not
        self.ops: dict[OpId, Op] | None = None  # None: just its own operation
        self.own_withdrawn = False
        self.graph = NO_GRAPH  # of its own operation
        self.sameness: str | None = None
        self.share = Share.NONE
        self.waits: dict[OpId, Condition] | None = None  # dependencies not yet met

    @property
    def facts(self) -> SliceFacts:
        """The facts of the current slice."""
        return self.plan.slices[self.slice]


class Op:
    """An operation that shares a task which is not its own, or that stands beside such a one."""

    __slots__ = ("graph", "id", "priority", "task")

    def __init__(self, id: OpId, task: TaskId, priority: int, graph: GraphId) -> None:
        self.id = id
        self.task = task
        self.priority = priority
        self.graph = graph


class Stop:
    """A stop in progress: why, since when, and when the engine ends the attempt unheard."""

    __slots__ = ("due_at", "grace_s", "reason", "since_at")

    def __init__(self, reason: StopReason, since_at: float, due_at: float, grace_s: float) -> None:
        self.reason = reason
        self.since_at = since_at
        self.due_at = due_at
        self.grace_s = grace_s


class Stream:
    """How far one output stream of an attempt has grown, in bytes."""

    __slots__ = ("dropped", "end")

    def __init__(self, end: int = 0, dropped: int = 0) -> None:
        self.end = end
        self.dropped = dropped


class Attempt:
    """One live try of a task on one bot."""

    __slots__ = (
        "accept_due_at",
        "bot",
        "ends_bot",
        "id",
        "limit_due_at",
        "merged_end",
        "number",
        "offer_key",
        "offered_at",
        "outcome",
        "outcome_at",
        "queued",
        "remaining_s",
        "session",
        "started_at",
        "state",
        "stop",
        "stored",
        "streams",
        "task",
    )

    def __init__(
        self,
        id: AttemptId,
        task: TaskId,
        number: int,
        bot: BotId,
        session: SessionId,
        offer_key: str,
        offered_at: float,
        ends_bot: bool = False,
    ) -> None:
        self.id = id
        self.task = task
        self.number = number
        self.bot = bot
        self.session = session
        self.offer_key = offer_key
        self.offered_at = offered_at
        self.ends_bot = ends_bot  # of a termination task
        self.state = AttemptState.OFFERED
        self.started_at = 0.0
        self.accept_due_at = NEVER
        self.limit_due_at = NEVER
        self.remaining_s = 0.0  # what was left of its task's expiration when it was offered
        self.stored = False  # the file has a row of it
        self.queued = False  # the bot said that it has it, waiting for a slot
        self.stop: Stop | None = None
        self.streams: dict[str, Stream] = {}
        self.merged_end = 0  # bytes over all streams, in order of arrival
        self.outcome: Outcome | None = None
        self.outcome_at = 0.0

    @property
    def expires_at(self) -> float:
        """When the expiration of its task's slice ends, if it is not started before."""
        return self.offered_at + self.remaining_s


class Session:
    """One connection episode of a bot."""

    __slots__ = (
        "attempts",
        "bot",
        "bucket",
        "deadline_s",
        "due_at",
        "end_reason",
        "ended_at",
        "enforces_limits",
        "free",
        "heard",
        "held",
        "id",
        "key",
        "opened_at",
        "protocol",
        "slots",
        "waiting_since",
        "woken",
    )

    def __init__(
        self,
        id: SessionId,
        bot: BotId,
        protocol: str,
        key: str,
        slots: int,
        deadline_s: float,
        enforces_limits: bool,
        opened_at: float,
    ) -> None:
        self.id = id
        self.bot = bot
        self.protocol = protocol
        self.key = key
        self.slots = slots
        self.deadline_s = deadline_s
        self.enforces_limits = enforces_limits
        self.opened_at = opened_at
        self.due_at = opened_at + deadline_s
        self.attempts: dict[AttemptId, Attempt] = {}
        self.heard = True  # a sign of life has come since the daemon started
        self.held = 0  # calls of it that are held right now: it cannot expire meanwhile
        self.free = 0  # offers that its waiting call would take
        self.bucket = -1  # under which load it stands among the waiting ones; -1: it does not
        self.woken = 0  # of these, how many it was woken for
        self.waiting_since = 0.0
        self.ended_at = 0.0
        self.end_reason = ""

    @property
    def ending(self) -> Attempt | None:
        """The attempt of a termination task that it holds: then it holds nothing else, and gets nothing else."""
        if len(self.attempts) != 1:
            return None
        attempt = next(iter(self.attempts.values()))
        return attempt if attempt.ends_bot else None


class Bot:
    """A bot that the daemon knows, connected or not."""

    __slots__ = (
        "assigned",
        "back_until",
        "dimensions",
        "draining",
        "first_seen_at",
        "id",
        "is_to_end",
        "key_hash",
        "last_seen_at",
        "maintenance",
        "order",
        "protocol",
        "quarantined",
        "quarantined_by_person",
        "satisfies",
        "session",
        "state",
        "values",
        "version",
    )

    def __init__(self, id: BotId, protocol: str, first_seen_at: float) -> None:
        self.id = id
        self.protocol = protocol
        self.key_hash = ""
        self.dimensions: dict[str, tuple[str, ...]] = {}  # as the bot told them
        self.assigned: dict[str, tuple[str, ...]] = {}  # set by the server: they replace the bot's
        self.values: frozenset[str] = frozenset()  # "key:value" of all that counts
        self.version = ""
        self.state: bytes = b"{}"  # JSON, for show
        self.session: Session | None = None
        self.back_until = 0.0  # still capacity until then, though its session has ended
        self.first_seen_at = first_seen_at
        self.last_seen_at = first_seen_at
        self.quarantined: str | None = None  # the reason
        self.quarantined_by_person = False
        self.maintenance: str | None = None
        self.draining = False
        self.order: BotOrder | None = None
        self.is_to_end = False  # a termination task is queued for it (kept by its requirement set)
        self.satisfies: set[RequirementSet] = set()

    @property
    def is_leaving(self) -> bool:
        """Whether somebody wants it to end, by an order or by a task: it gets nothing else before."""
        if self.is_to_end or self.order is BotOrder.TERMINATE:
            return True
        return self.session is not None and self.session.ending is not None

    @property
    def takes_work(self) -> bool:
        """Whether it is offered tasks, other than one that ends it."""
        return (
            self.quarantined is None
            and self.maintenance is None
            and not self.draining
            and self.order is None
            and not self.is_leaving
        )

    @property
    def status(self) -> str:
        """One of dead, quarantined, maintenance, draining, busy, idle."""
        if self.session is None:
            return "dead"
        if self.quarantined is not None:
            return "quarantined"
        if self.maintenance is not None:
            return "maintenance"
        if self.draining:
            return "draining"
        return "busy" if self.session.attempts else "idle"


class Graph:
    """Operations with dependencies, submitted together or added while it is open."""

    __slots__ = (
        "alive",
        "closed_at",
        "created_at",
        "doomed",
        "failed",
        "id",
        "is_open",
        "name",
        "owner",
        "touched_at",
    )

    def __init__(self, id: GraphId, name: str, owner: str, is_open: bool, created_at: float) -> None:
        self.id = id
        self.name = name
        self.owner = owner
        self.is_open = is_open
        self.created_at = created_at
        self.touched_at = created_at
        self.closed_at = 0.0
        self.alive: set[OpId] = set()  # operations that are not final
        self.doomed: set[TaskId] = set()  # blocked for good, unless the graph changes while it is open
        self.failed = 0  # operations that ended neither ok nor SKIPPED
