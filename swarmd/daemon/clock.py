"""Engine time: it runs with trio's clock, goes on after a restart where it was, and ignores jumps of the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

MAX_DOWN_S = 3_600.0  # of the time the daemon was down, this much counts at most
SAME_MOMENT_S = 2e-6  # a deadline in trio's time is this much later, so that the moment has surely come


class EngineClock:
    """`now()` is engine time in seconds. Made at the start of the daemon, inside `trio.run`."""

    def __init__(
        self, last_now: float | None, last_wall: float | None, wall: Callable[[], float] = time.time
    ) -> None:
        self.wall = wall
        started = wall()
        if last_now is None or last_wall is None:
            base = started
        else:
            base = last_now + min(max(0.0, started - last_wall), MAX_DOWN_S)
        self._offset = base - trio.current_time()

    def now(self) -> float:
        return self._offset + trio.current_time()

    def offset(self) -> float:
        """What makes wall time of engine time, now."""
        return self.wall() - self.now()

    def trio_time(self, moment: float) -> float:
        """The deadline for trio at which `moment` has come."""
        return moment - self._offset + SAME_MOMENT_S
