"""Places where a test lets the daemon fail, and what is known of such a failure."""

from __future__ import annotations

from typing import Literal

import trio

Failpoint = Literal["before_commit", "after_commit"]
FAILPOINTS: tuple[Failpoint, ...] = ("before_commit", "after_commit")  # those of `store.writer`


class FailpointReached(Exception):
    """The daemon ends here, as if it had been killed. Never reaches a test."""


class Failure:
    """One failure to come: the daemon ends at `name`, the `nth` time that it gets there."""

    def __init__(self, name: Failpoint, nth: int, back_after_s: float | None) -> None:
        self.name = name
        self.left = nth  # times until it happens
        self.back_after_s = back_after_s
        self._event = trio.Event()

    @property
    def has_happened(self) -> bool:
        return self._event.is_set()

    async def happened(self) -> None:
        """Returns when the daemon has ended there."""
        await self._event.wait()

    def reached(self) -> bool:
        """Counts; True when it is time to fail."""
        self.left -= 1
        if self.left > 0 or self.has_happened:
            return False
        self._event.set()
        return True
