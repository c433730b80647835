"""Work on large messages, off the trio thread, so that everybody else is answered meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from swarmd.offthread import in_thread

BIG = 256 << 10  # bytes above which a message is read or written in a thread
MAX_AT_ONCE = 2

T = TypeVar("T")


class Aside:
    """`await aside(size, fn, *args)`: `fn(*args)`, in a thread when `size` says that it has much to do."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_AT_ONCE)

    async def __call__(self, size: int, fn: Callable[..., T], *args: Any) -> T:
        if size <= BIG:
            return fn(*args)
        async with self._limiter:
            return await in_thread(fn, *args)
