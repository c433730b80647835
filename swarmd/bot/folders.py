"""Folders of attempts, used again when a task left nothing in them.

Making and removing a folder with its files takes about 4 ms on ext4, several times what a short command takes; renaming
one takes 20 us. So a folder that is as good as new goes to `spare/` of the work folder and is renamed for the next
attempt. All others are deleted.
"""

from __future__ import annotations

import os
import stat

import trio

from swarmd.bot import events
from swarmd.bot.workdir import AttemptFolder, WorkFolder

NEW_MODE = stat.S_IFDIR | 0o700
EMPTY_MODE = stat.S_IFREG | 0o600
FILES = frozenset(("work", "stdout", "stderr", "state.json"))


class Folders:
    """Gives each attempt a folder of its own, at most `most_spare` of them kept for the next ones."""

    def __init__(self, folder: WorkFolder, most_spare: int) -> None:
        self._folder = folder
        self._most_spare = most_spare
        self._spare: list[str] = []
        self._made = 0
        self._base = f"{folder.path}/spare"
        os.makedirs(self._base, mode=0o700, exist_ok=True)

    def take(self, attempt: str) -> AttemptFolder:
        """An empty folder for a new attempt. Raises `ValueError` for a strange id, `OSError`."""
        if not self._spare:
            return self._folder.add_attempt(attempt)
        folder = self._folder.attempt(attempt)
        os.rename(self._spare.pop(), folder.path)  # refused if there is one already: it cannot be empty
        return folder

    async def put_back(self, folder: AttemptFolder, attempt: str) -> None:
        """The attempt has ended, and so have all its processes: keeps the folder for another one, or deletes it."""
        try:
            if len(self._spare) < self._most_spare and _is_as_new(str(folder.path)):
                self._made += 1
                spare = f"{self._base}/{self._made}"
                os.rename(folder.path, spare)
                self._spare.append(spare)
                return
        except OSError as error:
            events.warning("folder.not_kept", attempt=attempt, reason=str(error))
        with trio.CancelScope(shield=True):  # bounded by `remove`
            for sentence in await self._folder.remove(attempt):
                events.warning("folder.stays", attempt=attempt, reason=sentence)

    def clear(self) -> None:
        """Deletes the spare ones, also those of an earlier bot that crashed."""
        self._spare.clear()
        for name in os.listdir(self._base):
            path = f"{self._base}/{name}"
            for file in ("stdout", "stderr", "state.json"):
                try:
                    os.unlink(f"{path}/{file}")
                except FileNotFoundError:
                    pass
            os.rmdir(f"{path}/work")
            os.rmdir(path)


def _is_as_new(path: str) -> bool:
    """Whether nothing of the attempt is left in its folder; removes what it printed."""
    work = path + "/work"
    if os.lstat(work).st_mode != NEW_MODE or os.listdir(work):
        return False
    names = os.listdir(path)
    if not FILES.issuperset(names):
        return False
    for name in names:
        if name == "work":
            continue
        file = os.lstat(f"{path}/{name}")
        if not stat.S_ISREG(file.st_mode) or file.st_nlink != 1:  # a command's doing
            return False
        if name != "state.json" and (file.st_size or file.st_mode != EMPTY_MODE):
            os.unlink(f"{path}/{name}")
    return True
