"""Virtual time that waits for threads."""

from __future__ import annotations

import math

import trio.testing

from swarmd.offthread import hold_clock


class ClockHold:
    """Keeps a `MockClock` from jumping while at least one `with` block on this object is open. Blocks may
    overlap.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.clock = clock
        self.held = 0
        self._threshold = clock.autojump_threshold

    def __enter__(self) -> None:
        self.held += 1
        if self.held == 1:
            self._threshold, self.clock.autojump_threshold = self.clock.autojump_threshold, math.inf

    def __exit__(self, *exc: object) -> None:
        self.held -= 1
        assert self.held >= 0
        if self.held == 0:
            self.clock.autojump_threshold = self._threshold


_installed: trio.lowlevel.RunVar[ClockHold | None] = trio.lowlevel.RunVar("swarmd.testing.hold", default=None)


def install_hold(clock: trio.testing.MockClock) -> ClockHold:
    """Makes every trip out of the trio thread, in this `trio.run`, hold `clock`. Call it inside the run;
    again for the same clock it gives the same hold (two of them could leave the clock stopped for ever).

    Without it a test with `autojump_clock` and a database file fails practically always: the clock jumps past
    the next deadline while the first commit is in its thread.
    """
    hold = _installed.get()
    if hold is None or hold.clock is not clock:
        hold = ClockHold(clock)
        _installed.set(hold)
    made = hold
    hold_clock(lambda: made)
    return made
