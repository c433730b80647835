"""How many offers a bot holds beyond its slots. No I/O, no clock.

The work of LOOKAHEAD_S is kept at hand, so that slots do not wait for round trips, each of which costs the daemon a
commit. What a task takes is estimated by a moving average of the wall times of those that ended: each counts for WEIGHT
of it, but a task longer than the lookahead replaces it, because holding on to others behind that one keeps them from
idle bots. The average begins at LOOKAHEAD_S: as many again as slots are held, and about 20 short tasks pass before the
most is.

Nothing waits in a bot for longer than GIVE_BACK_S, and nothing is taken that is expected to: behind tasks that take
that long a round trip is cheap, and another bot may be idle.
"""

from __future__ import annotations

LOOKAHEAD_S = 0.25  # of work in the queue of a bot
MAX_PREFETCH = 128  # offers beyond the slots; a bot with more slots holds as many again
GIVE_BACK_S = (
    0.5  # what waited this long in the bot is given back; a slot busy for this long with one task is stuck
)
GATHER_S = 0.025  # while enough is queued, what ended is reported this often
WEIGHT = 0.25


class Lookahead:
    """The estimate, and what follows from it."""

    def __init__(self, slots: int) -> None:
        self._most = max(slots, MAX_PREFETCH)
        self.task_s = LOOKAHEAD_S

    def ended(self, took_s: float) -> None:
        """A task ended that had a slot for `took_s`."""
        if took_s > LOOKAHEAD_S:
            self.task_s = took_s
        else:
            self.task_s += (took_s - self.task_s) * WEIGHT

    def waited(self) -> None:
        """The estimate was wrong: something has waited GIVE_BACK_S for a slot."""
        self.task_s = max(self.task_s, GIVE_BACK_S)

    def prefetch(self, moving: int) -> int:
        """Offers to hold beyond the slots: as many as will find a slot within LOOKAHEAD_S, at most MAX_PREFETCH.

        `moving` is the number of slots that are free or have been busy with one task for less than GIVE_BACK_S: of
        the others, which are stuck, nothing can be foretold.
        """
        if self.task_s >= GIVE_BACK_S:
            return 0
        return min(self._most, round(LOOKAHEAD_S * moving / max(self.task_s, 1e-6)))
