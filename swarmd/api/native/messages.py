"""The native API's messages: what travels as JSON under `/api/v1`.

Ids are strings (`core.ids.to_text`), moments RFC 3339 UTC with milliseconds, spans numbers of seconds in
fields ending in
`_s`. Unknown fields of a request are refused. The same types make the OpenAPI file, the server's checks and
the client.

This module imports nothing but msgspec and the core's values, so that the bot and the client can use it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from swarmd.core.model import (
    DEFAULT_BOT_RETRIES,
    DEFAULT_EXPIRATION_S,
    DEFAULT_GRACE_S,
    DEFAULT_HARD_LIMIT_S,
    DEFAULT_POOL,
    Base64,
    Command,
    Condition,
    Input,
    OutputFile,
    Payload,
    Share,
    Work,
)

# Limits of one request; each is listed in docs/http-api.md.
MAX_TASKS_PER_REQUEST = 10_000  # after arrays and lines are expanded: 100,000
MAX_EXPANDED_TASKS = 100_000
MAX_COMMANDS = 64
MAX_ARGV = 4_096
MAX_TEXT = 65_536  # characters of one argument, line or variable
MAX_ENV = 256
MAX_INPUTS = 10_000
MAX_OUTPUTS = 256
MAX_DEPENDENCIES = 1_000
MAX_TAGS = 256
MAX_NAME = 256
MAX_DIMENSION_KEYS = 32  # of a task; a bot may have 256
MAX_SLOTS = 1_024
MAX_SPAN_S = 7 * 86_400.0
MAX_WAIT_S = 50.0
MAX_OFFSET = 1 << 53  # of an output stream; whole numbers above it are not exact in every JSON reader
MAX_SEQ = 1 << 53

Name = Annotated[str, Meta(max_length=MAX_NAME)]
Tag = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
# Patterns that only the OpenAPI file says: what is checked is `core.ids` (which takes upper case, too) and
# `core.dimensions`, whose refusals say more than a pattern could.
ID_PATTERN = "[0-7][0-9a-hjkmnp-tv-z]{12}"
KEY_PATTERN = r"^[a-zA-Z_.\-][0-9a-zA-Z_.\-]{0,63}$"

Id = Annotated[
    str,
    Meta(
        min_length=13, max_length=13, description="An id: 13 characters of base 32.",
        extra_json_schema={"pattern": f"^{ID_PATTERN}$"},
    ),
]  # fmt: skip
# A bot names what it holds; a text that is no id is one more attempt that the daemon does not know.
HeldAttempt = Annotated[str, Meta(min_length=13, max_length=13, description="An attempt's id.")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256, lower-case hex.")]
Span = Annotated[float, Meta(ge=0, le=MAX_SPAN_S)]
PositiveSpan = Annotated[float, Meta(gt=0, le=MAX_SPAN_S)]
Priority = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
BotName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Dimensions = Annotated[
    dict[str, Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": 16})]],
    Meta(extra_json_schema={"propertyNames": {"pattern": KEY_PATTERN}, "maxProperties": MAX_DIMENSION_KEYS}),
]
BotDimensions = Annotated[
    dict[str, Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "uniqueItems": True})]],
    Meta(max_length=256, extra_json_schema={"propertyNames": {"pattern": KEY_PATTERN}}),
]
Environment = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=256)], Text | None], Meta(max_length=MAX_ENV)
]
StateName = Literal[
    "BLOCKED", "PENDING", "RUNNING", "COMPLETED", "TIMED_OUT", "KILLED", "CANCELED", "EXPIRED", "NO_RESOURCE",
    "BOT_DIED", "CLIENT_ERROR", "SKIPPED",
]  # fmt: skip
StreamName = Literal["stdout", "stderr"]
Pool = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
# Of any system: signals are negative, Windows has 32 bits without sign.
ExitCode = Annotated[int, Meta(ge=-(1 << 32), le=1 << 32)]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]


class Request(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of everything a caller sends."""


class Answer(Struct, kw_only=True):
    """Base of everything the daemon sends."""


# ------------------------------------------------------------------ submitting


class ArrayRange(Request):
    """Expands one task into `last - first + 1` tasks with `SWARMD_INDEX` set, both ends included."""

    first: Annotated[int, Meta(ge=0, le=10**9)]
    last: Annotated[int, Meta(ge=0, le=10**9)]
    step: Annotated[int, Meta(ge=1, le=10**6)] = 1


class SliceRequest(Request):
    """An alternative of what is required, tried in order."""

    dimensions: Dimensions
    expiration_s: PositiveSpan = DEFAULT_EXPIRATION_S
    wait_for_capacity: bool = True


class Dependency(Request):
    """`on` names an operation by id, or by the `key` of another task of the same request or graph."""

    on: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    condition: Condition = Condition.SUCCEEDED


class TaskRequest(Request):
    """One task (or, with `array` or `lines`, many equal ones).

    Give `argv` for one command, or `commands` for several; `noop` runs on a bot but starts no process;
    `marker` never
    reaches a bot and is completed as soon as what it depends on is done.
    """

    key: Name = ""  # a name for `after` of others in the same request or graph
    name: Name = ""
    argv: Annotated[list[Text], Meta(max_length=MAX_ARGV)] = []
    commands: Annotated[list[Command], Meta(max_length=MAX_COMMANDS)] = []
    cwd: Text = ""
    env: Environment = {}
    inputs: Annotated[list[Input], Meta(max_length=MAX_INPUTS)] = []
    outputs: Annotated[list[Text], Meta(max_length=MAX_OUTPUTS)] = []
    noop: bool = False
    marker: bool = False
    payload: Payload | None = None
    pool: Pool = DEFAULT_POOL
    dimensions: Annotated[Dimensions, Meta(max_length=MAX_DIMENSION_KEYS)] = {}
    slices: Annotated[
        list[SliceRequest], Meta(max_length=8)
    ] = []  # instead of dimensions and what goes with them
    priority: Priority = 0
    hard_limit_s: PositiveSpan = DEFAULT_HARD_LIMIT_S
    io_limit_s: Span = 0.0
    ping_tolerance_s: Span = 0.0  # 0, or 10 and more
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = DEFAULT_GRACE_S
    expiration_s: PositiveSpan = DEFAULT_EXPIRATION_S
    wait_for_capacity: bool = True
    retries: Annotated[int, Meta(ge=0, le=1000)] = 0
    bot_retries: Annotated[int, Meta(ge=0, le=1000)] = DEFAULT_BOT_RETRIES
    retry_wait_s: Span = 0.0
    after: Annotated[list[str | Dependency], Meta(max_length=MAX_DEPENDENCIES)] = []
    tags: Annotated[list[Tag], Meta(max_length=MAX_TAGS)] = []
    parent: Id | None = None  # ends with that operation
    sameness: Name = ""  # equal keys mean equal results
    share: Share = Share.NONE
    array: ArrayRange | None = None
    lines: Annotated[list[Text], Meta(max_length=MAX_EXPANDED_TASKS)] | None = None


class SubmitRequest(Request):
    """All of `tasks` are accepted in one transaction, or none."""

    tasks: Annotated[list[TaskRequest], Meta(min_length=1, max_length=MAX_TASKS_PER_REQUEST)]
    request_id: Annotated[str, Meta(max_length=128)] = ""


class SubmitAnswer(Answer):
    """`ids` in the order of the request, arrays and lines expanded in place."""

    ids: list[str]
    states: list[StateName]
    warnings: list[str] = []


class GraphRequest(Request):
    """A graph: tasks with `key` and `after`; with `open` more may be added until it is closed."""

    tasks: Annotated[list[TaskRequest], Meta(max_length=MAX_TASKS_PER_REQUEST)] = []
    name: Name = ""
    open: bool = False
    request_id: Annotated[str, Meta(max_length=128)] = ""


class GraphAnswer(Answer):
    id: str
    ids: list[str]
    states: list[StateName]
    warnings: list[str] = []


class EdgesRequest(Request):
    """Replaces what an operation that was not yet offered waits for."""

    after: Annotated[list[str | Dependency], Meta(max_length=MAX_DEPENDENCIES)]


# ------------------------------------------------------------------ reading


class AttemptInfo(Answer):
    id: str
    number: int
    state: Literal["OFFERED", "RUNNING", "ENDED", "LOST", "DROPPED"]
    bot: str
    offered_at: str
    started_at: str | None = None
    ended_at: str | None = None
    ok: bool | None = None
    exit_code: int | None = None
    duration_s: float | None = None
    reason: str = ""
    stopping: str | None = None  # why it is being stopped
    outputs: list[OutputFile] = []
    streams: dict[str, int] = {}  # bytes so far
    dropped: dict[str, int] = {}  # bytes above the limit, not kept
    payload: Payload | None = None  # what its bot reported in its protocol's own message, unchanged


class TaskInfo(Answer):
    """An operation and the task behind it. `id` is the operation's; `task` differs from it only when it was
    shared."""

    id: str
    task: str
    name: str
    state: StateName
    ok: bool | None  # null until it is final
    exit_code: int | None
    reason: str
    pool: str
    priority: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    duration_s: float | None
    bot: str | None
    attempt: str | None  # the newest attempt
    number: int  # of the newest attempt
    tags: list[str]
    index: int | None
    line: str | None
    graph: str | None
    key: str
    parent: str | None
    retry_of: str | None
    stopping: str | None


class TaskDetails(TaskInfo):
    """Everything about one operation."""

    work: Work
    dimensions: dict[str, list[str]]
    slices: list[SliceRequest]
    retries: int
    bot_retries: int
    after: list[Dependency]
    attempts: list[AttemptInfo]
    outputs: list[OutputFile]


class TaskList(Answer):
    items: list[TaskInfo]
    next: str | None = None


class WaitRequest(Request):
    """Waits until all (or, with `any`, one) of `ids` are final, at most `wait_s`."""

    ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_TASKS_PER_REQUEST)]
    wait_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 30.0
    any: bool = False


class WaitAnswer(Answer):
    """`items` are those that are final; `pending` counts the others."""

    items: list[TaskInfo]
    pending: int


class Filter(Request):
    """Which operations: those of `ids`, or all that match every field given."""

    ids: Annotated[list[Id], Meta(max_length=MAX_TASKS_PER_REQUEST)] = []
    states: list[StateName] = []
    pool: Name = ""
    tag: Name = ""
    name: Name = ""
    graph: Id | None = None
    bot: Name = ""
    failed: bool | None = None  # final and not ok


class CancelRequest(Request):
    """`kill`: also those that run. At least one field of `filter` must be given."""

    filter: Filter
    kill: bool = True
    reason: Text = ""


class RetryRequest(Request):
    """A final operation is never changed: each gets a new one with `retry_of`."""

    filter: Filter
    request_id: Annotated[str, Meta(max_length=128)] = ""


class BulkAnswer(Answer):
    """How many matched and how many were changed; `ids` are those changed (for retry: the new ones)."""

    matched: int
    changed: int
    ids: list[str] = []


class ExplainAnswer(Answer):
    id: str
    state: StateName
    reason: str  # one of the codes in docs/http-api.md
    sentence: str


class EventInfo(Answer):
    id: str
    at: str
    kind: str
    op: str | None = None
    attempt: str | None = None
    bot: str | None = None
    graph: str | None = None
    state: str | None = None
    detail: dict[str, Any] = {}


class EventList(Answer):
    items: list[EventInfo]
    next: str | None = None


class GraphInfo(Answer):
    id: str
    name: str
    open: bool
    owner: str
    created_at: str
    counts: dict[str, int]  # operations by state
    done: bool
    ok: bool | None


class GraphList(Answer):
    items: list[GraphInfo]
    next: str | None = None


class BotInfo(Answer):
    id: str
    protocol: str
    status: Literal["idle", "busy", "dead", "quarantined", "maintenance", "draining"]
    dimensions: dict[str, list[str]]
    version: str
    slots: int
    running: list[str]  # ids of attempts
    first_seen_at: str
    last_seen_at: str
    quarantined: str | None = None
    maintenance: str | None = None
    draining: bool = False
    order: str | None = None
    state: dict[str, Any] = {}


class BotList(Answer):
    items: list[BotInfo]
    next: str | None = None


class BotOrderRequest(Request):
    """What a person wants of a bot. `quarantine`, `maintenance`: a reason; null takes it back."""

    drain: bool | None = None
    quarantine: Text | msgspec.UnsetType | None = msgspec.UNSET
    maintenance: Text | msgspec.UnsetType | None = msgspec.UNSET
    order: Literal["restart", "update", "terminate"] | msgspec.UnsetType | None = msgspec.UNSET


class BlobAnswer(Answer):
    sha256: str
    size: int


class BlobQuery(Request):
    digests: Annotated[list[Digest], Meta(max_length=MAX_INPUTS)]


class BlobMissing(Answer):
    missing: list[str]


class CountsAnswer(Answer):
    """Unfinished tasks by state, bots by status, and how far the file is."""

    tasks: dict[str, int]
    bots: dict[str, int]
    sessions: int
    graphs: int


class HealthAnswer(Answer):
    status: Literal["ok", "no_space", "stopping"]
    version: str
    uptime_s: float
    database: str
    out_of_space: bool


class OutputEvent(Answer):
    """`data` stands at byte `offset` of `stream` of `attempt`."""

    attempt: str
    stream: StreamName
    offset: int
    data: Base64


class StateEvent(Answer):
    state: StateName
    attempt: str | None


class EndEvent(Answer):
    """Nothing more will come: the operation is final."""

    state: StateName
    ok: bool | None
    exit_code: int | None
    reason: str


class BootstrapAnswer(Answer):
    """What makes a machine a Swarming bot: it fetches `{url}/bootstrap?tok={token}` and runs that in Python."""

    url: str  # where it reaches the daemon
    token: str  # opens the routes that lead to the bot's code; write it percent-encoded
    expires_at: str
    digest: str  # version of the code that it gets
    token_needed: bool  # false: who calls from where the daemon may be called needs no token


class InstanceInfo(Answer):
    """An instance of the Remote Workers API, with all bots that take its work. Statuses are the protocol's; a bot is
    counted under each of its labels, and under `unknown` when it has none."""

    name: str
    pools: list[str]
    connected: int  # of the instance itself: bots with a call that waits or runs right now
    bots: dict[str, int] = {}  # by status
    capacity: dict[str, int] = {}  # leases that they can still take, by status
    bots_by_label: dict[str, dict[str, int]] = {}  # by status, then by label
    capacity_by_label: dict[str, dict[str, int]] = {}


class InstanceList(Answer):
    items: list[InstanceInfo]


class ErrorBody(Answer):
    code: str
    message: str
    remedy: str = ""
    details: dict[str, Any] = {}


class ErrorAnswer(Answer):
    error: ErrorBody


class Empty(Answer):
    """Nothing to say."""


# ------------------------------------------------------------------ a bot's calls (docs/http-api.md, "A
# bot's calls")


class SessionRequest(Request):
    session_key: Annotated[str, Meta(min_length=8, max_length=128)]
    bot_key: Annotated[str, Meta(min_length=16, max_length=128)]
    dimensions: BotDimensions
    slots: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] = 1
    version: Name = ""
    state: dict[str, Any] = {}
    keeps: Annotated[list[HeldAttempt], Meta(max_length=4 * MAX_SLOTS)] = []


class SessionAnswer(Answer):
    """`lost`: attempts named in `keeps` that are not this bot's any more: stop them and forget them."""

    session: str
    deadline_s: float
    lost: list[str]


class FinishedAttempt(Request):
    """How one attempt ended. `ok` decides; `exit_code` is negative for a signal, null if no process ended.

    `canceled`: it was stopped before it started (a killed one has its signal as exit code); `died`: the bot lost it.
    """

    attempt: HeldAttempt
    ok: bool
    exit_code: ExitCode | None = None
    duration_s: Annotated[float, Meta(ge=0)] | None = None
    timed_out: Literal["hard_limit", "io_limit"] | None = None
    canceled: bool = False
    client_error: bool = False
    died: bool = False
    reason: Text = ""
    outputs: Annotated[list[OutputFile], Meta(max_length=MAX_INPUTS)] = []
    payload: Payload | None = None


class OutputPiece(Request):
    """`data` stands at byte `offset` of the stream; bytes below the stream's end are ignored."""

    attempt: HeldAttempt
    stream: StreamName
    offset: Offset
    data: Base64  # base64 in JSON


class SyncRequest(Request):
    """`running` and `queued` are the whole truth of what the bot holds. `free`: how many more offers it
    takes.

    `seen`: the highest `seq` whose answer the bot had read when it made this request (left out: `seq - 1`).
    Offers of a later
    answer are not judged by this request. It matters only to a bot that sends a request while another one is
    held.
    """

    seq: Annotated[int, Meta(ge=1, le=MAX_SEQ)]
    seen: Annotated[int, Meta(ge=0, le=MAX_SEQ)] | None = None
    running: Annotated[list[HeldAttempt], Meta(max_length=4 * MAX_SLOTS)] = []
    queued: Annotated[list[HeldAttempt], Meta(max_length=4 * MAX_SLOTS)] = []
    finished: Annotated[list[FinishedAttempt], Meta(max_length=8 * MAX_SLOTS)] = []
    output: Annotated[list[OutputPiece], Meta(max_length=8 * MAX_SLOTS)] = []
    free: Annotated[int, Meta(ge=0, le=2 * MAX_SLOTS)] = 0
    wait_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 30.0
    state: dict[str, Any] | None = None  # for show: maintenance and quarantined in it are obeyed


class Offer(Answer):
    """A task to run. `work` is `core.model.Work` as JSON."""

    attempt: str
    number: int
    task: str  # the id of the operation: SWARMD_TASK_ID
    name: str
    work: msgspec.Raw
    index: int | None = None
    line: str | None = None


class Order(Answer):
    """`stop` names an attempt, why, and the grace between the polite and the forced stop; the others mean
    the bot itself.

    An order is repeated in every answer until its effect is seen.
    """

    kind: Literal["stop", "drain", "restart", "update", "terminate"]
    attempt: str | None = None
    reason: str = ""
    grace_s: float | None = None


class SyncAnswer(Answer):
    seq: int
    offers: list[Offer]
    orders: list[Order]
    deadline_s: float


class OutputAnswer(Answer):
    """`end`: how long the stream is now; `limit`: no byte above it is kept."""

    end: int
    limit: int
