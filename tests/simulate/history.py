"""What clients and bots did and were told: the log that the file is compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from swarmd.api.native import messages as m


@dataclass
class Submitted:
    """One submission: it was acknowledged when `ids` is set, else it may have taken effect or not."""

    names: list[str]  # of its tasks, each unique in the run
    ids: list[str] | None = None
    graph: str = ""


@dataclass
class Canceled:
    ids: list[str]
    kill: bool
    acknowledged_at: float | None = None  # engine time
    finals: dict[str, str] = field(default_factory=dict)


@dataclass
class Retried:
    ids: list[str]
    new_ids: list[str] | None = None


@dataclass
class Ended:
    """A bot was to be ended by a task: a new one of this name, or one that there was."""

    bot: str
    name: str
    id: str | None = None  # when it was acknowledged


@dataclass
class Told:
    """What bots said of one attempt."""

    bot: str
    op: str
    outcomes: list[tuple[bool, int | None, bool]] = field(default_factory=list)  # ok, exit code, canceled
    output: bytes = b""  # all that it wrote
    whole: bool = False  # and its end was reported together with all of it, and that was acknowledged


class History:
    def __init__(self) -> None:
        self.submits: list[Submitted] = []
        self.cancels: list[Canceled] = []
        self.retries: list[Retried] = []
        self.ends: list[Ended] = []
        self.goodbyes: Counter[str] = Counter()  # of bots that closed their session, or tried to
        self.told: dict[str, Told] = {}
        self.lies: set[str] = set()  # attempts that a stranger reported on
        self.events: list[m.EventInfo] = []
        self.calls: Counter[str] = Counter()
        self.faults: list[str] = []

    @property
    def acknowledged(self) -> list[str]:
        """Ids of everything that was accepted, as far as the clients know."""
        known = [id for s in self.submits for id in s.ids or ()]
        known += dict.fromkeys(ended.id for ended in self.ends if ended.id is not None)
        return known + [id for r in self.retries for id in r.new_ids or ()]

    def called(self, kind: str, outcome: str) -> None:
        self.calls[f"{kind}: {outcome}"] += 1
