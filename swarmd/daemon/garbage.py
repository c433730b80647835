"""When Python looks for cycles of dead objects: not by itself.

Hardly any are made here, since objects are freed when nobody refers to them any more. But Python looks through the
young objects when so many more were made than freed, and through all when there are a quarter more. Ten thousand held
calls that end and begin again are that much in half a minute, and each look lasted from a quarter of a second to more
than one second, in which nobody was answered. So it looks when the memory has doubled, whatever made it grow.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

App = Callable[..., Awaitable[None]]

CALLS = 16  # between two looks at the memory
GROWTH = 2.0  # of the memory since the last look for cycles
LEAST_BYTES = 64 << 20  # of growth: below that it does not matter
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class Collector:
    """Looks for cycles when there is so much more memory than after the last time."""

    def __init__(self, memory: Callable[[], int] = resident_bytes) -> None:
        self.looks = 0
        self._memory = memory
        self._calls = 0
        self._learn()

    def _learn(self) -> None:
        now = self._memory()
        self._enough = max(int(now * GROWTH), now + LEAST_BYTES)

    def around(self, app: App) -> App:
        """`app`, whose calls are counted."""

        def counted(*call: Any) -> Awaitable[None]:
            self._calls += 1
            if self._calls >= CALLS:
                self._calls = 0
                self._look()
            return app(*call)

        return counted

    def _look(self) -> None:
        if self._memory() > self._enough:
            gc.collect()
            self.looks += 1
            self._learn()


@contextmanager
def quiet_collector() -> Iterator[Collector]:
    """Until the block is left only this collector looks for cycles, and not among what lives now."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield Collector()
    finally:
        gc.enable()
