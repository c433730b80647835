"""Has this request been accepted before? One look into the file is for all who ask while another look is under way.

A look costs a hop to a reader's thread and back, far more than the search itself, and clients that give each submission
an id would pay it for each.
"""

from __future__ import annotations

import trio

from swarmd.store import queries
from swarmd.store.backend import Backend

Key = tuple[str, str]  # owner, request id
Answer = tuple[bytes, bytes]  # hash of the body, JSON of what was answered


class _Look:
    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.found: dict[Key, Answer] | None = None


class Earlier:
    """Answers to earlier requests, as committed. Who asks about a request id keeps others from using it meanwhile,
    until what it did is in the file: so nothing that is under way matters."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._next = _Look()
        self._turn = trio.Lock()

    async def find(self, key: Key) -> Answer | None:
        look = self._next
        look.keys.append(key)
        async with self._turn:  # who has it first makes the look, for all who came by then; or the next one
            if look.found is None:
                if self._next is look:
                    self._next = _Look()
                look.found = await self._backend.read(lambda conn: queries.requests(conn, look.keys))
        return look.found.get(key)
