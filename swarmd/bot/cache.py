"""Inputs by their SHA-256 in a folder of bounded size, shared by all tasks of a bot.

A task gets a copy (by reference where the file system can), never a link: whoever owns a file can write to it whatever
its mode says, and all commands run as the bot's own user. An entry is hashed before its first use in a bot's life, and
again if its inode says that it was touched since, so a damaged one is fetched anew. So is one that is no regular file:
it is never opened, as a FIFO would stop the whole bot.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from swarmd.bot import events
from swarmd.bot.outputs import create_input
from swarmd.bot.wire import Backoff, Wire, WireError
from swarmd.core.model import Input

STEP_BYTES = 1 << 20  # hashed or copied before other tasks get their turn: about 1 ms
MAX_WRONG = 3  # answers with other bytes than those asked for
NAME = re.compile(r"[0-9a-f]{64}")
PART = ".part"


class InputFailed(Exception):
    """An input cannot be had: the sentence says which, and why."""


class Entry:
    """A file of the cache. `seal` is what its inode said after its bytes were checked; None: not checked yet."""

    __slots__ = ("seal", "size", "users")

    def __init__(self, size: int) -> None:
        self.size = size
        self.seal: tuple[int, int, int, int] | None = None
        self.users = 0


class Cache:
    """Inputs of at most `limit_bytes` in all (what is in use may exceed it). Makes `folder`; one bot may use it.

    What was used longest ago goes first; this order is kept over restarts by the files' times.
    """

    def __init__(self, folder: Path, limit_bytes: int, wire: Wire, rng: random.Random) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._wire = wire
        self._rng = rng
        self._entries: dict[str, Entry] = {}  # used longest ago first
        self._fetching: dict[str, trio.Lock] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, size, _ in sorted(_files(folder), key=lambda file: file[2]):
            if NAME.fullmatch(name):
                self._entries[name] = Entry(size)
            elif NAME.fullmatch(name.removesuffix(PART)):  # a download that a crash cut off
                _remove(folder / name)
        self._shrink()

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    async def place(self, root: int, wanted: Input) -> None:
        """Puts an input into the open work folder `root`; fetches it if it is not here.

        Waits while the daemon is away. Raises `InputFailed`, or `OSError` for a full disk.
        """
        async with self._use(wanted.blob) as path:
            try:
                target = create_input(root, wanted.path, executable=wanted.executable)
            except ValueError as error:
                raise InputFailed(str(error)) from None
            try:
                await _copy(path, target)
            finally:
                os.close(target)

    @asynccontextmanager
    async def _use(self, digest: str) -> AsyncIterator[Path]:
        """The path of an entry with the right bytes, which stays while the block runs."""
        lock = self._fetching.setdefault(digest, trio.Lock())
        try:
            async with lock:
                entry = self._entries.get(digest)
                if entry is None or not await self._is_sound(digest, entry):
                    entry = await self._fetch(digest)
                entry.users += 1
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._fetching.pop(digest, None)
        try:
            yield self.folder / digest
        finally:
            entry.users -= 1
            self._touch(digest, entry)
            self._shrink()

    def _touch(self, digest: str, entry: Entry) -> None:
        """Marks an entry as used now."""
        if self._entries.get(digest) is entry:
            self._entries[digest] = self._entries.pop(digest)
            path = self.folder / digest
            was_sound = entry.seal == _seal(path)
            try:
                os.utime(path, follow_symlinks=False)
            except FileNotFoundError:
                return
            if was_sound:
                entry.seal = _seal(path)

    async def _is_sound(self, digest: str, entry: Entry) -> bool:
        path = self.folder / digest
        seal = _seal(path)
        if seal is not None and seal != entry.seal:
            entry.seal = seal if await _sha256(path) == digest and _seal(path) == seal else None
        if seal is None or entry.seal is None:
            events.warning("cache.damaged", blob=digest)
            del self._entries[digest]
            _remove(path)
            return False
        return True

    async def _fetch(self, digest: str) -> Entry:
        """Downloads a blob; tries again while the daemon is away, and a few times if the bytes are wrong."""
        backoff, wrong = Backoff(self._rng), 0
        while True:
            try:
                if (entry := await self._download(digest)) is not None:
                    return entry
                wrong += 1
                if wrong == MAX_WRONG:
                    raise InputFailed(
                        f"blob {digest} arrived {MAX_WRONG} times with other bytes than its digest says"
                    )
            except WireError as failure:
                if not failure.is_passing:
                    raise InputFailed(f"blob {digest} cannot be had: {failure.message}") from None
            await trio.sleep(backoff.next_s())

    async def _download(self, digest: str) -> Entry | None:
        """One try: the entry, or None if other bytes came."""
        part = self.folder / f"{digest}{PART}"
        found = hashlib.sha256()
        size = 0
        try:
            _remove(part)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(part, flags, 0o600), "wb", buffering=0) as file:
                async with self._wire.get_blob(digest) as chunks:
                    async for chunk in chunks:
                        found.update(chunk)
                        _write_all(file.fileno(), chunk)
                        size += len(chunk)
            if found.hexdigest() != digest:
                return None
            path = self.folder / digest
            os.chmod(part, 0o400)
            os.rename(part, path)
        finally:
            _remove(part)
        entry = self._entries[digest] = Entry(size)
        entry.seal = _seal(path)
        return entry

    def _shrink(self) -> None:
        excess = self.size_bytes - self.limit_bytes
        for digest, entry in list(self._entries.items()):
            if excess <= 0:
                break
            if not entry.users and not (digest in self._fetching and self._fetching[digest].locked()):
                _remove(self.folder / digest)
                del self._entries[digest]
                excess -= entry.size


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            found.append((entry.name, info.st_size, info.st_mtime_ns))
    return found


def _seal(path: Path) -> tuple[int, int, int, int] | None:
    """Changes with every write to a file, also with one that sets its times back; None if no file is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _remove(path: Path) -> None:
    """Takes what is there out of the way. A folder was made by somebody else, and is only renamed."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.not-mine"))


def _open(path: Path) -> int:
    """Opens an entry for reading, or raises `OSError`; waits for nobody, whatever has been put there meanwhile."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


async def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with os.fdopen(_open(path), "rb", buffering=0) as file:
        while chunk := file.read(STEP_BYTES):
            found.update(chunk)
            await trio.lowlevel.checkpoint()
    return found.hexdigest()


async def _copy(path: Path, target: int) -> None:
    """Copies into an open file; `copy_file_range` shares the blocks on btrfs and xfs."""
    source = _open(path)
    try:
        while True:
            try:
                copied = os.copy_file_range(source, target, 16 * STEP_BYTES)
            except (
                OSError
            ):  # across file systems on old kernels, or not supported: by hand from where it stands
                data = os.read(source, STEP_BYTES)
                copied = len(data)
                _write_all(target, data)
            await trio.lowlevel.checkpoint()
            if not copied:
                return
    finally:
        os.close(source)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
