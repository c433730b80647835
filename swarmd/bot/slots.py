"""What the bot holds: attempts that wait for a slot, that run, and that ended but are not acknowledged. No I/O.

Everything taken is named in each request until its end was acknowledged by an answer; what is given back is named
nowhere from then on, and the daemon puts it back into its queue.
"""

from __future__ import annotations

from collections import deque

import trio

from swarmd.api.native.messages import MAX_SLOTS, FinishedAttempt, OutputPiece
from swarmd.bot.process import StopSignal
from swarmd.core.model import Work

MAX_REPORTS = 8 * MAX_SLOTS  # in one request


class Held:
    """One attempt that this bot took."""

    __slots__ = ("attempt", "index", "line", "stop", "task", "unwanted", "work")

    def __init__(self, attempt: str, task: str, work: Work, index: int | None, line: str | None) -> None:
        self.attempt = attempt
        self.task = task
        self.work = work
        self.index = index
        self.line = line
        self.stop = StopSignal()
        self.unwanted = False  # the daemon gave it up: end it, report nothing


class Report:
    """How an attempt ended, with the last bytes that it printed: both travel in one request."""

    __slots__ = ("finished", "size", "tail")

    def __init__(self, finished: FinishedAttempt, tail: tuple[OutputPiece, ...] = ()) -> None:
        self.finished = finished
        self.tail = tail
        self.size = sum(len(piece.data) for piece in tail)


class Slots:
    """The books. `prefetch` offers more than slots are held, so that a slot never waits for a round trip."""

    def __init__(self, slots: int, prefetch: int | None = None) -> None:
        assert 1 <= slots <= MAX_SLOTS
        self.slots = slots
        self.prefetch = slots if prefetch is None else prefetch
        self.queued: dict[str, Held] = {}
        self.running: dict[str, Held] = {}
        self.reports: dict[str, Report] = {}  # not acknowledged yet, oldest first
        self.takes = True
        self.changed = True  # something differs from what the last request said
        self._ready: deque[Held] = deque()
        self._idle = trio.lowlevel.ParkingLot()

    @property
    def is_empty(self) -> bool:
        """Nothing runs and nothing waits for an acknowledgement (what is queued can be given back)."""
        return not self.running and not self.reports

    def holds(self, attempt: str) -> bool:
        return attempt in self.running or attempt in self.queued or attempt in self.reports

    def all_held(self) -> list[str]:
        """Every attempt that has to go on in a new session."""
        return [*self.running, *self.queued, *self.reports]

    def free(self, kept_back: int) -> int:
        """How many more offers fit, with `kept_back` reports that do not travel yet."""
        if not self.takes:
            return 0
        return max(0, self.slots + self.prefetch - len(self.running) - len(self.queued) - kept_back)

    def take(self, held: Held) -> None:
        """Takes an offer: it starts at once if a slot is free."""
        assert self.takes and not self.holds(held.attempt)
        self.queued[held.attempt] = held
        self.fill()

    def fill(self) -> None:
        """Lets what is queued start, oldest first, as far as slots are free."""
        while self.queued and len(self.running) < self.slots:
            attempt = next(iter(self.queued))
            held = self.running[attempt] = self.queued.pop(attempt)
            self._ready.append(held)
            self._idle.unpark()
            self.changed = True

    async def next(self) -> Held:
        """The next attempt to run; waits for one. For the tasks behind the slots."""
        while not self._ready:
            await self._idle.park()
        return self._ready.popleft()

    def end(self, held: Held, report: Report | None) -> None:
        """A slot is done with `held`. Without a report nobody will hear of it."""
        assert self.running[held.attempt] is held
        del self.running[held.attempt]
        if report is not None and not held.unwanted:
            self.reports[held.attempt] = report
        self.changed = True
        self.fill()

    def report(self, report: Report) -> None:
        """Books the end of an attempt that never had a slot: a noop, or one stopped while it was queued."""
        self.queued.pop(report.finished.attempt, None)
        self.reports[report.finished.attempt] = report
        self.changed = True

    def give_back(self) -> None:
        """Forgets what did not start."""
        self.changed = self.changed or bool(self.queued)
        self.queued.clear()

    def give_up(self, attempt: str) -> None:
        """The daemon does not want `attempt` any more: it is ended without grace, and not reported."""
        self.queued.pop(attempt, None)
        self.reports.pop(attempt, None)
        held = self.running.get(attempt)
        if held is not None:
            held.unwanted = True
            held.stop.request("the daemon gave this attempt up", 0.0)
        self.changed = True
