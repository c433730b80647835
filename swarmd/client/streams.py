"""Live streams as typed events: a task's output, and the daemon's events."""

from __future__ import annotations

from types import TracebackType

import msgspec

from swarmd.api.native.messages import EventInfo
from swarmd.client.errors import StrangeAnswer
from swarmd.client.reading import FollowEvent, OutputEvent, StateEvent
from swarmd.client.sse import ServerEvents


class _Live:
    def __init__(self, events: ServerEvents) -> None:
        self._events = events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.__aexit__(kind, error, trace)


class Follow(_Live):
    """`async with client.follow(id) as events: async for event in events`: each byte once, then the end.

    After an `end` event (a `StateEvent` with `final`) the iteration stops.
    """

    def __init__(self, events: ServerEvents) -> None:
        super().__init__(events)
        self._ends: dict[tuple[str, str], int] = {}

    async def __aenter__(self) -> Follow:
        await self._events.__aenter__()
        return self

    def __aiter__(self) -> Follow:
        return self

    async def __anext__(self) -> FollowEvent:
        while True:
            event = await anext(self._events)
            try:
                if event.kind == "output":
                    output = self._new_part(msgspec.json.decode(event.data, type=OutputEvent))
                    if output is not None:
                        return output
                elif event.kind in ("state", "end"):
                    state = msgspec.json.decode(event.data, type=StateEvent)
                    state.final = event.kind == "end"
                    return state
            except msgspec.DecodeError as error:
                raise StrangeAnswer(f"an event of kind {event.kind} cannot be read: {error}") from None

    def _new_part(self, output: OutputEvent) -> OutputEvent | None:
        """What of `output` was not seen yet: after a reconnect a piece may come cut in another way."""
        key = (output.attempt, output.stream)
        seen = self._ends.get(key, 0) if output.attempt else 0
        end = output.offset + len(output.data)
        self._ends[key] = max(seen, end)
        if end <= seen:
            return None
        skip = max(0, seen - output.offset)
        output.data = output.data[skip:]
        output.offset += skip
        return output


class EventStream(_Live):
    """`async with client.stream_events() as events: async for event in events`: never ends by itself."""

    async def __aenter__(self) -> EventStream:
        await self._events.__aenter__()
        return self

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> EventInfo:
        event = await anext(self._events)
        try:
            return msgspec.json.decode(event.data, type=EventInfo)
        except msgspec.DecodeError as error:
            raise StrangeAnswer(f"an event cannot be read: {error}") from None
