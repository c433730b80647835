"""Who waits for news of what. Everybody is woken after the commit, never before: news are facts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

import trio

EVENTS = "events"  # the key of those who follow everything


class News:
    """Wakes those who wait for a key: an operation's id, an attempt's id, `EVENTS`."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, dict[trio.Event, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def waiting_for(self, keys: Iterable[Hashable]) -> Iterator[trio.Event]:
        """An event that is set at the next news of any of `keys`. Enter it before you look at the facts."""
        event = trio.Event()
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            self._waiting.setdefault(key, {})[event] = None
        try:
            yield event
        finally:
            for key in wanted:
                events = self._waiting.get(key)
                if events is not None:
                    events.pop(event, None)
                    if not events:
                        del self._waiting[key]

    def publish(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()

    def publish_all(self) -> None:
        """The daemon is stopping: nobody is left waiting."""
        for events in self._waiting.values():
            for event in events:
                event.set()
