"""The history of everything, as a list and live."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import trio

from swarmd.api.calls import Call, Reply, id_of
from swarmd.api.native import messages as m
from swarmd.api.native import translate
from swarmd.api.native.tasks import events
from swarmd.api.sse import FIRST, HEARTBEAT, HEARTBEAT_S, ServerEvent
from swarmd.core.ids import to_text
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.news import EVENTS
from swarmd.store import queries

PAGE = 500


class EventHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def list_events(self, call: Call) -> m.EventList:
        return await events(self.daemon, call)

    async def stream_events(self, call: Call) -> Reply:
        """Each event once, in order; after `Last-Event-ID` (or `after`), else from now on."""
        texts = (call.headers.get("last-event-id", ""), call.query["after"])
        given = [id_of(text, "event") for text in texts if text]
        after = given[0] if given else await self.daemon.read(queries.last_event)
        return Reply(content_type="text/event-stream", stream=self._stream(after))

    async def _stream(self, after: int) -> AsyncIterator[bytes]:
        yield FIRST
        while True:
            with self.daemon.news.waiting_for([EVENTS]) as news:
                rows = await self.daemon.read(
                    lambda conn, after=after: queries.events_after(conn, after, PAGE)
                )
                for row in rows:
                    after = row.id
                    data = msgspec.json.encode(translate.event_info(row))
                    yield ServerEvent(to_text(row.id), row.kind, data).encode()
                if len(rows) == PAGE:
                    continue
                if self.daemon.stopping.is_set():
                    return
                with trio.move_on_after(HEARTBEAT_S) as scope:
                    await news.wait()
            if scope.cancelled_caught:
                yield HEARTBEAT
