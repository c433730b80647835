"""What one protocol must do so that the stories can be told over it: a bot adapter, a client adapter.

An adapter says on its own wire what the story wants said, and nothing else: it keeps what a real bot or client would
keep, sends no call that its method does not need, and waits for nothing but answers. Time belongs to the story.

What a wire cannot express stands in `cannot`, each with a sentence that says why. A story that needs it is then skipped
for that adapter, under that sentence. Everything else must be true: there is no other way out of a story.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from swarmd.testing import Lab


class BotCan(StrEnum):
    """What a bot's wire may be unable to express."""

    HOLD_BACK = "has an offer without having started it"
    WRITE_PIECES = "sends output while the task runs"
    REPORT_TIMEOUT = "tells a timeout from another failure"
    BE_STOPPED = "is told to stop a task"
    KEEP_TASKS = "names the tasks that it still runs when it comes back"
    PROVE_ITSELF = "proves by a key that it is the same bot"
    BE_ENDED = "is told to end itself"
    ASK_WHILE_BUSY = "asks for more work while it runs a task"


class ClientCan(StrEnum):
    """What a client's wire may be unable to express."""

    CANCEL_ONE = "cancels one task"
    SPARE_RUNNING = "cancels only what does not run yet"
    READ_OUTPUT = "reads what a task printed"
    READ_LIVE_OUTPUT = "reads what a task has printed so far"
    READ_EXIT_CODE = "reads the exit code"
    SET_LIMIT = "sets the hard limit of a task"
    SET_BOT_RETRIES = "says how often a task is tried again after its bot failed"


@dataclass(frozen=True)
class Wish:
    """What a story wants to have done; a client that cannot set a field is not asked to."""

    argv: tuple[str, ...] = ("work",)
    hard_limit_s: float = 3600.0
    grace_s: float = 5.0
    bot_retries: int = 1


@dataclass
class Job:
    """One attempt as its bot knows it. `raw` is the adapter's own."""

    id: str
    argv: tuple[str, ...]
    raw: Any = field(default=None, repr=False)


class BotAdapter(ABC):
    """One bot, on the wire of its protocol. `id` is what the daemon calls it."""

    protocol: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}  # settings of the daemon that it needs
    cannot: ClassVar[Mapping[BotCan, str]] = {}
    # How an attempt ends whose bot falls silent while it is being stopped.
    stop_unheard: ClassVar[str] = "LOST"

    def __init__(self, lab: Lab, id: str) -> None:
        self.lab = lab
        self.id = id
        # While it is true, each call is made twice with the same bytes: the first answer was lost.
        self.loses_answers = False

    @property
    @abstractmethod
    def silence_s(self) -> float:
        """After so many seconds without a call its session has surely ended."""

    @abstractmethod
    async def connect(self) -> None:
        """Says hello, as a process that has just started and holds nothing."""

    @abstractmethod
    async def come_back(self, holding: Collection[Job]) -> None:
        """Says hello as a new process of the same bot, which still runs `holding` and has forgotten the rest."""

    @abstractmethod
    async def intrude(self) -> bool:
        """Another process under the same id, which cannot prove to be this bot, says hello. Whether it was let in;
        if so, it is this adapter from now on, holding nothing.
        """

    @abstractmethod
    async def take(self) -> Job | None:
        """Asks for one task, as a bot with a free slot, and is not held; None when there is none. With `HOLD_BACK`
        nothing says that it was started.
        """

    @abstractmethod
    async def start(self, job: Job) -> None:
        """Gives the first sign that the task runs. Must do no harm for a job that is not the bot's any more."""

    @abstractmethod
    async def live(self) -> None:
        """Gives a sign of life that names all that it runs."""

    @abstractmethod
    async def write(self, job: Job, data: bytes) -> None:
        """Sends what the task printed to standard output, behind what it printed before."""

    @abstractmethod
    async def finish(self, job: Job, exit_code: int) -> None:
        """Reports the end. For a job that is not the bot's any more it reports all the same, and ignores a refusal
        that its protocol has for that.
        """

    @abstractmethod
    async def time_out(self, job: Job) -> None:
        """Reports that it ended the task at its hard limit."""

    @abstractmethod
    async def is_told_to_stop(self, job: Job) -> bool:
        """Makes the call whose answer would tell it to stop the task, and says whether it did."""

    @abstractmethod
    async def report_stopped(self, job: Job) -> None:
        """Reports that it has stopped the task because it was told to."""

    @abstractmethod
    async def is_told_to_end(self) -> bool:
        """Asks for work while it runs nothing, and says whether it was told to end instead."""

    @abstractmethod
    async def end(self) -> None:
        """Ends, as it was told to, and says so."""


class ClientAdapter(ABC):
    """One client, on the wire of its protocol. Its ids are the protocol's own."""

    protocol: ClassVar[str]
    cannot: ClassVar[Mapping[ClientCan, str]] = {}

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @abstractmethod
    async def submit(self, wish: Wish) -> str:
        """Submits one task for any bot and gives its id."""

    @abstractmethod
    async def operation(self, id: str) -> str:
        """The id of the operation behind it, in the native form."""

    @abstractmethod
    async def state(self, id: str) -> str:
        """The state, in the protocol's own word."""

    @abstractmethod
    def word_for(self, state: str, ok: bool | None) -> str:
        """What the protocol calls a task in this state (the core's names), which ended `ok` or not."""

    @abstractmethod
    async def cancel(self, id: str, *, kill: bool) -> None:
        """Cancels one task; without `kill` only when it does not run yet (`SPARE_RUNNING`)."""

    @abstractmethod
    async def output(self, id: str) -> bytes:
        """All that the newest attempt has printed to standard output."""

    @abstractmethod
    async def exit_code(self, id: str) -> int | None:
        """The exit code of a final task."""
