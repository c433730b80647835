"""A heap of due moments for many small numbers, as packed integers: 48 bytes an entry where a tuple takes
88."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from math import ceil, inf

_ID_BITS = 63
_ID_MASK = (1 << _ID_BITS) - 1
_COMPACT_FLOOR = 1_024


class Timers:
    """Who is due when. Entries are not removed: the owner of a popped id checks whether it is really due."""

    __slots__ = ("_heap", "_limit")

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._limit = _COMPACT_FLOOR

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due_at: float, id: int) -> None:
        if due_at != inf:
            heapq.heappush(self._heap, ceil(due_at * 1e6) << _ID_BITS | id)

    def next_due(self) -> float:
        """The earliest moment, or infinity."""
        return (self._heap[0] >> _ID_BITS) / 1e6 if self._heap else inf

    def pop_due(self, now: float) -> int | None:
        """Takes out the earliest id that is due at `now`, or None."""
        heap = self._heap
        if not heap or (heap[0] >> _ID_BITS) / 1e6 > now:
            return None
        return heapq.heappop(heap) & _ID_MASK

    @property
    def is_bloated(self) -> bool:
        """Whether stale entries may outnumber the live ones: the owner should `rebuild`."""
        return len(self._heap) > self._limit

    def rebuild(self, live: Iterable[tuple[float, int]]) -> None:
        """Keeps only the live entries (due_at, id). O(n)."""
        self._heap = [ceil(due_at * 1e6) << _ID_BITS | id for due_at, id in live if due_at != inf]
        heapq.heapify(self._heap)
        self._limit = max(_COMPACT_FLOOR, 4 * len(self._heap))
