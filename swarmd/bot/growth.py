"""Tells when output files grow, by inotify, so that a bot whose commands are silent does nothing.

Cost: a command that ends within ARM_S costs nothing here; a longer one two system calls, and one wake-up each PAUSE_S
while it prints. A machine whose inotify limits are used up gets a look at each such folder every LOOK_S instead.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable

import trio

from swarmd.bot import events

IN_MODIFY = 0x2  # linux/inotify.h
IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
HEADER = struct.Struct("iIII")  # wd, mask, cookie, length of the name
ARM_S = 0.02  # younger commands are not watched: most short ones are over by then
PAUSE_S = 0.02  # between two looks at what grew
LOOK_S = 0.05
READ_BYTES = 65_536


class Growth:
    """Calls `grown(key)` soon after a file directly in a watched folder grew: at most ARM_S + PAUSE_S later."""

    def __init__(self, grown: Callable[[str], None]) -> None:
        self._grown = grown
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(IN_NONBLOCK_CLOEXEC)
        self._young: dict[str, tuple[str, float]] = {}  # key -> folder, when to watch it; oldest first
        self._keys: dict[int, str] = {}  # watch -> key
        self._watches: dict[str, int] = {}
        self._looked_at: dict[str, str] = {}  # those that inotify would not take
        self._wake = trio.Event()

    def add(self, key: str, folder: str) -> None:
        """Watches `folder` from ARM_S on; what grew before is told then."""
        self._young[key] = (folder, trio.current_time() + ARM_S)
        self._wake.set()

    def remove(self, key: str) -> None:
        """Stops watching; a key that is not watched is no error."""
        if self._young.pop(key, None) is None and self._looked_at.pop(key, None) is None:
            watch = self._watches.pop(key, None)
            if watch is not None:
                del self._keys[watch]
                self._libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    async def run(self) -> None:
        """Watches until it is canceled."""
        async with trio.open_nursery() as nursery:
            if self._fd >= 0:
                nursery.start_soon(self._read)
            while True:
                if not self._young and not self._looked_at:
                    self._wake = trio.Event()
                    await self._wake.wait()
                oldest = next(iter(self._young.values()), None)
                await trio.sleep_until(oldest[1] if oldest else trio.current_time() + LOOK_S)
                self._arm(trio.current_time())
                for key in self._looked_at:
                    self._grown(key)

    def _arm(self, now: float) -> None:
        """Watches those whose time has come."""
        while self._young:
            key, (folder, at) = next(iter(self._young.items()))
            if at > now:
                return
            del self._young[key]
            watch = (
                self._libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_MODIFY)
                if self._fd >= 0
                else -1
            )
            if watch >= 0:
                self._keys[watch] = key
                self._watches[key] = watch
            else:
                if not self._looked_at:
                    reason = (
                        os.strerror(ctypes.get_errno()) if self._fd >= 0 else "no inotify instance was left"
                    )
                    events.warning("output.looked_at", folder=folder, every_s=LOOK_S, reason=reason)
                self._looked_at[key] = folder
            self._grown(key)

    async def _read(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                continue
            told = False
            for key in self._changed(data):
                told = True
                self._grown(key)
            if told:
                await trio.sleep(PAUSE_S)  # equal changes in this time come as one

    def _changed(self, data: bytes) -> set[str]:
        found: set[str] = set()
        at = 0
        while at < len(data):
            watch, mask, _, length = HEADER.unpack_from(data, at)
            at += HEADER.size + length
            if watch < 0:  # the kernel's queue ran over: anything may have grown
                found.update(self._watches)
            elif mask & IN_MODIFY and watch in self._keys:
                found.add(self._keys[watch])
        return found
