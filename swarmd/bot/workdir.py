"""The work folder of one bot: its lock, its key, and a folder for each attempt.

    lock               held by the bot that uses the folder, with its process number
    bot_key            proves to the daemon that a bot is the one it was before
    attempts/ID/       work/ (where the commands run), stdout, stderr, state.json (the running process)
    trash/             attempts being deleted

A folder below `attempts` means that commands of this attempt may run, also before its state.json is written.
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat as stat_bits
from collections.abc import Iterator
from pathlib import Path

import trio

from swarmd.bot.process import LeaderRecord, read_record
from swarmd.bot.subreaper import Stat, all_pids, boot_id, kill_process, read_marker, read_stat

ATTEMPT_ID = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.\-]{0,127}")
BOT_KEY = re.compile(r"[0-9A-Za-z_\-]{32,128}")
KILL_S = 10.0  # how long leftovers may take to die
KILL_PAUSE_S = 0.01
REMOVE_S = 60.0  # how long one `remove` may take; the rest is deleted by the next one
ENTRIES_PER_STEP = 200  # deleted before other tasks get their turn: a few milliseconds


class WorkFolderError(Exception):
    """The work folder cannot be used: the sentence says why, and what to do."""


class AttemptFolder:
    """Paths of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.stdout = path / "stdout"
        self.stderr = path / "stderr"
        self.state = path / "state.json"


class WorkFolder:
    """The work folder, locked for this process. `with WorkFolder(path) as folder:`, or `close()` at the end.

    Makes the folder if it does not exist (only its user may enter it). Raises `WorkFolderError` if another
    bot uses it, or if it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._attempts = self.path / "attempts"
        self._trash = self.path / "trash"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise WorkFolderError(
                f"work folder {self.path} cannot be used: {error.strerror}; choose another with --work-dir"
            ) from None
        try:
            self._take_lock()
            self._attempts.mkdir(mode=0o700, exist_ok=True)
            self._trash.mkdir(mode=0o700, exist_ok=True)
            self.bot_key = self._read_or_make_key()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise WorkFolderError(
                    f"work folder {self.path} cannot be written: {error.strerror}; choose another with --work-dir"
                ) from None
            raise

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._lock)

    def add_attempt(self, attempt: str) -> AttemptFolder:
        """Makes the folder of an attempt. Raises `FileExistsError` if there is one, or `OSError`."""
        folder = self.attempt(attempt)
        folder.path.mkdir(mode=0o700)
        folder.work.mkdir(mode=0o700)
        return folder

    def attempt(self, attempt: str) -> AttemptFolder:
        """The paths of an attempt, there or not. Raises `ValueError` for an id that is no file name."""
        if not ATTEMPT_ID.fullmatch(attempt):
            raise ValueError(f"attempt {attempt[:80]!r}: at most 128 letters, digits, '_', '-', '.' expected")
        return AttemptFolder(self._attempts / attempt)

    def attempts(self) -> list[str]:
        """Ids of the attempts that have a folder, sorted."""
        return sorted(name for name in os.listdir(self._attempts) if ATTEMPT_ID.fullmatch(name))

    def free_mib(self) -> int:
        """Room for output and work of an ordinary user on this disk, in MiB."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize >> 20

    async def kill_leftovers(self) -> list[str]:
        """Kills what a bot that crashed left running; returns all attempts that have a folder, sorted.

        For the start of a bot, before it runs anything. Kills what the folders name (same process number,
        start time and boot), its session and group, every process whose environment names one of these
        attempts, and what lives below any of them. Raises `WorkFolderError` if something is left after
        KILL_S.
        """
        attempts = self.attempts()
        boot = boot_id()
        records = [record for a in attempts if (record := read_record(self.attempt(a).state)) is not None]
        records = [record for record in records if record.boot_id == boot]
        give_up_at = trio.current_time() + KILL_S
        while attempts and (found := _leftovers(frozenset(attempts), records)):
            if trio.current_time() >= give_up_at:
                pids = ", ".join(str(stat.pid) for stat in found[:10])
                raise WorkFolderError(
                    f"processes {pids} of the last bot in {self.path} do not end; end them, start again"
                )
            for stat in found:
                kill_process(stat)
            await trio.sleep(KILL_PAUSE_S)
        return attempts

    async def remove(self, attempt: str) -> list[str]:
        """Deletes the folder of an attempt and what earlier calls left; a sentence for each thing that stays.

        The folder is out of the way at once; deleting lets other tasks have their turns and takes at most
        REMOVE_S.
        """
        path = self.attempt(attempt).path
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o700)  # moving a folder writes to its '..'
            os.rename(path, self._trash / f"{attempt}.{secrets.token_hex(4)}")
        return await self.empty_trash()

    async def empty_trash(self) -> list[str]:
        """Deletes what `remove` could not finish, also of an earlier bot; gives sentences as it does."""
        trash = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with trio.CancelScope(deadline=trio.current_time() + REMOVE_S):
                return await _empty(trash, str(self._trash))
            return [f"{self._trash} could not be emptied within {REMOVE_S:.0f} s; it is tried again later"]
        finally:
            os.close(trash)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise WorkFolderError(
                f"work folder {self.path} is in use by the bot with process {holder}; "
                "stop that bot, or choose another folder with --work-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _read_or_make_key(self) -> str:
        path = self.path / "bot_key"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return _make_key(path)
        try:
            os.fchmod(fd, 0o600)
            key = os.read(fd, 1024).decode(errors="replace").strip()
        finally:
            os.close(fd)
        if not BOT_KEY.fullmatch(key):
            raise WorkFolderError(f"{path} does not hold a key; remove it, and the bot makes a new one")
        return key


def _make_key(path: Path) -> str:
    """Writes a new key, whole or not at all: a crash leaves at most the file beside it."""
    key, beside = secrets.token_urlsafe(32), path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{key}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(beside, path)
    return key


def _leftovers(attempts: frozenset[str], records: list[LeaderRecord]) -> list[Stat]:
    """Living processes of these attempts. This process and its ancestors are never among them."""
    stats = {stat.pid: stat for pid in all_pids() if (stat := read_stat(pid)) is not None}
    spared, pid = set(), os.getpid()
    while pid in stats and pid not in spared:
        spared.add(pid)
        pid = stats[pid].ppid
    marked = {pid for pid in stats if pid not in spared and read_marker(pid) in attempts}
    # A session or group counts while its leader is there, or a marked process proves it to be the task's.
    families: set[int] = set()
    for record in records:
        leader = stats.get(record.pid)
        if record.leader().is_it(leader) or any(stats[pid].sid == record.pid for pid in marked):
            families.add(record.pid)
    found = {
        s.pid for s in stats.values() if s.pid in marked or s.sid in families or s.pgid in families
    } - spared
    grew = True
    while grew:
        below = {s.pid for s in stats.values() if s.ppid in found} - found - spared
        found |= below
        grew = bool(below)
    return [stats[pid] for pid in sorted(found) if not stats[pid].is_dead]


async def _empty(root: int, name: str) -> list[str]:
    """Deletes everything in an open folder; symlinks are deleted, not followed.

    A subfolder that is not empty is moved up into `root` and dealt with there, so neither depth nor
    descriptors grow.
    """
    problems: list[str] = []
    kept: set[str] = set()
    deleted = 0
    while todo := [entry for entry in os.listdir(root) if entry not in kept]:
        for entry in todo:
            try:
                for _ in _delete(root, entry):
                    deleted += 1
                    if deleted % ENTRIES_PER_STEP == 0:
                        await trio.lowlevel.checkpoint()
            except OSError as error:
                kept.add(entry)
                problems.append(f"{name}/{entry} could not be deleted: {error.strerror}; tried again later")
    await trio.lowlevel.checkpoint()
    return problems


def _delete(root: int, entry: str) -> Iterator[None]:
    """Deletes one entry of `root`, moving full subfolders up into `root`. Yields per entry that is gone."""
    if not stat_bits.S_ISDIR(os.lstat(entry, dir_fd=root).st_mode):
        os.unlink(entry, dir_fd=root)
        yield
        return
    folder = _open_own_folder(root, entry)
    try:
        for child in os.listdir(folder):
            if stat_bits.S_ISDIR(os.lstat(child, dir_fd=folder).st_mode):
                os.close(_open_own_folder(folder, child))  # moving a folder writes to its '..'
                try:
                    os.rmdir(child, dir_fd=folder)
                except OSError:
                    os.rename(child, f"d{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=root)
            else:
                os.unlink(child, dir_fd=folder)
            yield
    finally:
        os.close(folder)
    os.rmdir(entry, dir_fd=root)
    yield


def _open_own_folder(parent: int, name: str) -> int:
    """Opens a folder that is no symlink, after giving its owner all permissions on it."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    pinned = os.open(name, os.O_PATH | flags, dir_fd=parent)
    try:
        path = f"/proc/self/fd/{pinned}"
        with contextlib.suppress(PermissionError):  # another user's: the deletion says what does not work
            os.chmod(path, 0o700)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(pinned)
