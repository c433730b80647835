"""The one place where swarmd may leave the trio thread, or wait for another process.

Everything else runs on trio's thread and moves with trio's clock. A thread does not: under a virtual clock
that jumps when all trio tasks sleep, the clock would jump past every deadline while a commit is still in its
thread. So all functions here work under a *hold*, which tests use to stop the clock
(`swarmd.testing.clock`). Production holds nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import trio
from trio_asyncio import aio_as_trio

T = TypeVar("T")
HoldFactory = Callable[[], AbstractContextManager[Any]]

_hold: trio.lowlevel.RunVar[HoldFactory] = trio.lowlevel.RunVar("swarmd.offthread.hold", default=nullcontext)


def hold_clock(factory: HoldFactory) -> None:
    """Lets each later trip out of the trio thread, in this `trio.run`, enter a context made by `factory`."""
    _hold.set(factory)


@contextmanager
def clock_held() -> Iterator[None]:
    """For what a process of its own does: while the block is open, a virtual clock does not jump."""
    with _hold.get()():
        yield


async def outside(make: Callable[[], Awaitable[T]], *, loop: Any = None) -> T:
    """Awaits `make()` in the asyncio `loop` (default: the one of the surrounding `trio_asyncio.open_loop()`).

    Exceptions arrive unchanged. A cancel returns at once; what a thread was doing for `make` goes on, so the
    caller must know how to end it (`FileBackend.read` does).
    """
    with _hold.get()():
        return cast(T, await aio_as_trio(make, loop=loop)())


async def in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Runs `fn(*args)` in a worker thread. A cancel takes effect when `fn` is done; its exceptions arrive
    unchanged.
    """

    # An exception that trio itself brings over is in a cycle of references, and with it all that `fn` held: when a
    # large body was refused, a hundred megabytes would stay until the next search for cycles.
    failed: list[BaseException] = []

    def run() -> T | None:
        try:
            return fn(*args)
        except BaseException as error:
            failed.append(error)
            return None

    with _hold.get()():
        done = await trio.to_thread.run_sync(run)
    if failed:
        raise failed.pop()
    return cast(T, done)


async def finished(event: trio.Event) -> None:
    """Waits for `event`, which another thread sets through trio's token."""
    with _hold.get()():
        await event.wait()
