"""What the bot holds: attempts that wait for a slot, that run, and that ended but are not acknowledged. No I/O.

Everything taken is named in each request until its end was acknowledged by an answer; what is given back is named
nowhere from then on, and the daemon puts it back into its queue.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import islice

import trio

from swarmd.api.native.messages import MAX_SLOTS, FinishedAttempt, OutputPiece
from swarmd.bot.lookahead import GIVE_BACK_S, Lookahead
from swarmd.bot.process import StopSignal
from swarmd.core.model import Work

MAX_REPORTS = 8 * MAX_SLOTS  # in one request


class Held:
    """One attempt that this bot took."""

    __slots__ = ("attempt", "index", "line", "since", "stop", "task", "unwanted", "work")

    def __init__(self, attempt: str, task: str, work: Work, index: int | None, line: str | None) -> None:
        self.attempt = attempt
        self.task = task
        self.work = work
        self.index = index
        self.line = line
        self.since = 0.0  # when it was taken, then when it got a slot
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
    """The books. More offers than slots are held, see `lookahead`, so that a slot never waits for a round trip."""

    def __init__(self, slots: int, clock: Callable[[], float] = trio.current_time) -> None:
        assert 1 <= slots <= MAX_SLOTS
        self.slots = slots
        self._clock = clock
        self._looked_at = -math.inf
        self._lookahead = Lookahead(slots)
        self._busier = trio.Event()  # something was queued or got a slot
        self.queued: dict[str, Held] = {}
        self.running: dict[str, Held] = {}
        self.reports: dict[str, Report] = {}  # not acknowledged yet, oldest first
        self.takes = True
        self.asked = 0  # how many more offers the last request said that fit
        self.has_all = False  # the daemon had fewer offers than fitted when it was asked last
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
        held = len(self.running) + len(self.queued) + kept_back
        return max(0, self.slots + self._prefetch() - held)

    @property
    def is_well_stocked(self) -> bool:
        """Whether more is queued than there are slots, and at least half of what should be if there is more."""
        queued = len(self.queued)
        return queued > self.slots and (self.has_all or 2 * queued >= self._prefetch())

    def _prefetch(self) -> int:
        now = self._clock()
        stuck = sum(held.since + GIVE_BACK_S <= now for held in self.running.values())
        return self._lookahead.prefetch(self.slots - stuck)

    def take(self, held: Held) -> None:
        """Takes an offer: it starts at once if a slot is free."""
        assert self.takes and not self.holds(held.attempt)
        held.since = self._clock()
        self.queued[held.attempt] = held
        self._busier.set()
        self.fill()

    def fill(self) -> None:
        """Lets what is queued start, oldest first, as far as slots are free."""
        while self.queued and len(self.running) < self.slots:
            attempt = next(iter(self.queued))
            held = self.running[attempt] = self.queued.pop(attempt)
            held.since = self._clock()
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
        self._lookahead.ended(self._clock() - held.since)
        if report is not None and not held.unwanted:
            self.reports[held.attempt] = report
        self.changed = True
        self.fill()

    def report(self, report: Report) -> None:
        """Books the end of an attempt that never had a slot, as one stopped while it was queued."""
        self.queued.pop(report.finished.attempt, None)
        self.reports[report.finished.attempt] = report
        self.changed = True

    def report_noop(self, attempt: str) -> None:
        """Books the end of a task that runs nothing."""
        self._lookahead.ended(0.0)
        self.report(Report(FinishedAttempt(attempt=attempt, ok=True)))

    async def until_stuck(self) -> None:
        """Waits until something has been queued, or a slot has been busy with one task, for GIVE_BACK_S."""
        while True:
            self._busier = trio.Event()
            due_at = self._stuck_at()
            if due_at <= self._clock():
                return
            if due_at == math.inf:
                await self._busier.wait()
            else:  # what comes meanwhile is due later
                await trio.sleep_until(due_at)

    def _stuck_at(self) -> float:
        """The next moment at which something will have been queued, or a slot busy, for GIVE_BACK_S; a slot that was
        seen to be so does not count again. Both books are in order of age."""
        moments = [held.since + GIVE_BACK_S for held in islice(self.queued.values(), 1)]
        for held in self.running.values():
            if held.since + GIVE_BACK_S > self._looked_at:
                moments.append(held.since + GIVE_BACK_S)
                break
        return min(moments, default=math.inf)

    def look_ahead_again(self) -> None:
        """Slots may be busier than was foreseen: forgets what has waited for GIVE_BACK_S, and the newest of what is
        not expected to start soon any more; sees whether less fits than the daemon was told."""
        self._looked_at = self._clock()
        oldest = next(iter(self.queued.values()), None)
        if oldest is not None and oldest.since + GIVE_BACK_S <= self._looked_at:
            self._lookahead.waited()
        for attempt in list(self.queued)[self._prefetch() :]:
            del self.queued[attempt]
            self.changed = True
        if self.free(0) < self.asked:
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
