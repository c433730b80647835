"""What tasks run, for offers: a bounded cache of what was just submitted; the rest is read from the file by key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from swarmd.core.changes import Changes
from swarmd.core.model import Attempt, Work
from swarmd.store import queries
from swarmd.store.backend import Backend

if TYPE_CHECKING:
    from swarmd.daemon.daemon import Daemon

MAX_CACHED = 20_000
MAX_CACHED_BYTES = 32 << 20

_raws = msgspec.json.Decoder(list[msgspec.Raw])


class WorkText(Struct, frozen=True):
    """`works` is a JSON array: one entry, or one for each slice."""

    works: bytes
    index: int | None
    line: str | None
    name: str

    def of_slice(self, number: int) -> msgspec.Raw:
        raws = _raws.decode(self.works)
        return raws[number if len(raws) > 1 else 0]


class Works:
    """Oldest first in, first out: when it is full, new ones are not cached, for the oldest are offered first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._cached: dict[int, WorkText] = {}
        self._bytes = 0

    def note(self, changes: Changes) -> None:
        """Takes in what was submitted, forgets what is final."""
        names = None
        for task, record in changes.tasks_added:
            if len(self._cached) >= MAX_CACHED or self._bytes >= MAX_CACHED_BYTES:
                break
            if task.state.is_final:
                continue
            if names is None:
                names = {op.id: op.name for op in changes.ops_added}
            text = WorkText(record.work, record.index, record.line, names.get(task.id, ""))
            self._cached[task.id] = text
            self._bytes += len(text.works)
        for task_id in changes.finals:
            self._forget(task_id)

    def _forget(self, task_id: int) -> None:
        text = self._cached.pop(task_id, None)
        if text is not None:
            self._bytes -= len(text.works)

    def has_all(self, tasks: Iterable[int]) -> bool:
        return all(id in self._cached for id in tasks)

    async def get(self, tasks: Iterable[int]) -> dict[int, WorkText]:
        """What each of `tasks` runs. Their rows must be committed."""
        wanted = list(tasks)
        found = {id: self._cached[id] for id in wanted if id in self._cached}
        missing = [id for id in wanted if id not in found]
        if missing:
            rows = await self._backend.read(lambda conn: queries.works_of(conn, missing))
            found.update((id, WorkText(*row)) for id, row in rows.items())
        return found


async def work_of(daemon: Daemon, attempt: Attempt, slice: int) -> tuple[WorkText, Work] | None:
    """What an attempt runs, which is that slice of its task; None when the task has been removed meanwhile."""
    if not daemon.works.has_all([attempt.task]):
        await daemon.settled()
    text = (await daemon.works.get([attempt.task])).get(attempt.task)
    return None if text is None else (text, msgspec.json.decode(text.of_slice(slice), type=Work))
