"""How many offers a bot holds beyond its slots. No I/O, no clock.

The work of LOOKAHEAD_S is kept at hand, so that slots do not wait for round trips, each of which costs the daemon a
commit. What a task takes is estimated by a moving average of the wall times of those that ended: each counts for WEIGHT
of it, but a task longer than the lookahead replaces it, because holding on to others behind that one keeps them from
idle bots. The average begins at LOOKAHEAD_S, so about 20 short tasks pass before the most is held.
"""

from __future__ import annotations

import math

LOOKAHEAD_S = 0.25  # of work in the queue of a bot
MAX_PREFETCH = 128  # offers beyond the slots; a bot with more slots holds as many again
GIVE_BACK_S = 0.5  # what waited this long in the bot, and is more than `slots`, is given back
GATHER_S = 0.025  # while enough is queued, what ended is reported this often
WEIGHT = 0.25


class Lookahead:
    """The estimate, and what follows from it."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
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
        """Offers to hold beyond the slots, at least as many as slots, at most MAX_PREFETCH.

        `moving` is the number of slots that are free or have been busy with one task for less than GIVE_BACK_S: from
        the others nothing can be foretold.
        """
        return min(self._most, max(self._slots, math.ceil(LOOKAHEAD_S * moving / max(self.task_s, 1e-6))))
