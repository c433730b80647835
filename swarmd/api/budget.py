"""How much of large requests may be in memory at once, over all connections.

Each route and method bounds one request; without this, many at once could take all the memory that there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from swarmd.core.errors import Busy

MOST = 256 << 20  # bytes
COUNTED_ABOVE = (
    64 << 10
)  # of one request: what is smaller does not count, so that no bot is ever in the way of a large one
RETRY_S = 5.0


class Share:
    """What one call holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def hold(self, size: int) -> None:
        """The call holds `size` bytes now, or held more already. Raises `Busy` when all together is too much."""
        more = size - self.held
        if more > 0 and size > COUNTED_ABOVE:
            self._budget.take(more)
            self.held = size


class Budget:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.used = 0

    def take(self, size: int) -> None:
        if self.used + size > self._most:
            raise Busy(
                "too_many_large_requests",
                f"the large requests in work have {self.used >> 20} MiB together; {self._most >> 20} are allowed",
                RETRY_S,
                "send it again in a few seconds",
            )
        self.used += size

    @contextmanager
    def share(self) -> Iterator[Share]:
        """For one call; given back at its end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.held
