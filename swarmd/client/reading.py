"""Reading long things piece by piece: lists over their cursors, and output streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

Item = TypeVar("Item")
PAGE = 1000
HELD_S = 30.0  # how long one call for more output is held


class Page(Protocol[Item]):
    """An answer with `items` and the cursor of the next page."""

    items: list[Item]
    next: str | None


class Pages(Generic[Item]):
    """`async for item in …` over all pages of a list, newest first, at most `limit` items."""

    def __init__(self, fetch: Callable[[int, str], Awaitable[Page[Item]]], limit: int | None = None) -> None:
        self._fetch = fetch
        self._left = limit
        self._ready: list[Item] = []  # reversed
        self._cursor: str | None = ""

    def __aiter__(self) -> Pages[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._ready:
            if self._cursor is None or self._left == 0:
                raise StopAsyncIteration
            page = await self._fetch(PAGE if self._left is None else min(self._left, PAGE), self._cursor)
            self._cursor = page.next
            self._ready = page.items[::-1]
        if self._left is not None:
            if self._left == 0:
                raise StopAsyncIteration
            self._left -= 1
        return self._ready.pop()

    async def all(self) -> list[Item]:
        """All items as a list."""
        return [item async for item in self]


class OutputSlice(Struct, frozen=True):
    """Bytes of one output stream. `end`: its length now; `final`: it will not grow any more."""

    data: bytes
    offset: int
    end: int
    final: bool
    attempt: str


class OutputBytes:
    """`async for data in …` over one output stream of one attempt, from `offset` on.

    Without `follow` it ends where the stream ends now, with it when the attempt has ended.
    """

    def __init__(
        self,
        read: Callable[[int, str, float], Awaitable[OutputSlice]],
        offset: int,
        attempt: str,
        follow: bool,
    ) -> None:
        self._read = read
        self._offset = offset
        self._attempt = attempt
        self._follow = follow
        self._ended = False

    def __aiter__(self) -> OutputBytes:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            piece = await self._read(self._offset, self._attempt, HELD_S if self._follow else 0.0)
            self._attempt = (
                self._attempt or piece.attempt
            )  # a retry must not change the stream under the reader
            self._offset = piece.offset + len(piece.data)
            caught_up = self._offset >= piece.end or not piece.data
            self._ended = caught_up and (piece.final or not self._follow)
            if piece.data:
                return piece.data
        raise StopAsyncIteration


class OutputEvent(Struct):
    """A piece of output as `follow` tells it; `offset` is its first byte's place in the stream."""

    stream: str
    offset: int
    data: bytes
    attempt: str = ""


class StateEvent(Struct):
    """The task changed its state; `final` for the last one."""

    state: str = ""
    attempt: str | None = None
    final: bool = False


FollowEvent = OutputEvent | StateEvent
__all__ = ["FollowEvent", "OutputBytes", "OutputEvent", "OutputSlice", "Pages", "StateEvent"]
