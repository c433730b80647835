"""Runs one command of an attempt to its end: start, limits, ordered stop, and nothing left behind.

`Runner` is what the bot's session sees; `PosixRunner` runs real processes, `swarmd.testing.fake_runner`
scripted ones. Both decide by the same `Watch`, which has no I/O and no clock.

How a stop goes: SIGTERM (and SIGCONT, so that a stopped process can follow it) to the command's group;
after the grace SIGKILL to the group and to everything that escaped from it. If the first process ends
within the grace, the rest of its group keeps what is left of it. If it ends by itself, what it left behind
is killed at once.
"""

import contextlib
import errno
import math
import os
import signal
import stat as stat_bits
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from swarmd.bot.subreaper import (
    FAMILY,
    MARKER,
    TICKS_PER_S,
    Leader,
    become_subreaper,
    boot_id,
    kill_group,
    read_stat,
    ticks,
)

DEFAULT_GRACE_S = 30.0
REAP_S = 10.0  # how long SIGKILL may take (a process that waits for a broken disk ignores it)
SWEEP_S = 5.0  # how often adopted zombies are reaped while a command runs
IO_CHECK_MIN_S = 1.0  # the output files are looked at this often at most, and only under an I/O limit
IO_CHECK_PART = 20  # else this often per limit: a stop by the I/O limit comes at most 5 % (or 1 s) late
KILL_PASSES = 100  # passes over the adopted processes without a pause, against one that forks meanwhile
UNCLEAR_TRIES = 3  # a process in the middle of exec shows no environment: look again, this often
UNCLEAR_WAIT_S = 0.005
RECORD_SIZE = 512  # bytes; more than an id of 128, a boot id and four numbers can take
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One command to run. The three files are made or appended to; their folder must exist."""

    attempt: str
    argv: tuple[str, ...]
    env: Mapping[str, str]  # complete: nothing is added but the marker SWARMD_ATTEMPT
    cwd: Path
    stdout: Path
    stderr: Path  # may be the same as stdout: then the two are merged
    state: Path  # gets a `LeaderRecord`
    hard_limit_s: float | None = None
    io_limit_s: float | None = None  # longest time without growth of either output file
    grace_s: float = DEFAULT_GRACE_S


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended: an exit code, or a signal, or neither (`error` says why)."""

    exit_code: int | None = None
    signal: int | None = None
    duration_s: float = 0.0  # until the first process ended; 0 if it was not started
    stopped_by: str | None = None  # "hard_limit", "io_limit", or the reason given to `StopSignal.request`
    started: bool = True
    error: str | None = None
    left: tuple[int, ...] = ()  # processes that did not die of SIGKILL within REAP_S


class LeaderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is written beside the output, so that the next bot kills this process and no other."""

    attempt: str
    pid: int
    born_from: int  # its start time in /proc/PID/stat is between these ticks since boot
    born_to: int
    boot_id: str

    def leader(self) -> Leader:
        """The process that it names."""
        return Leader(self.attempt, self.pid, self.born_from, self.born_to)


class StopSignal:
    """Lets the owner of a running command ask for its end, once or more often: the first request counts."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.grace_s: float | None = None
        self._scope: trio.CancelScope | None = None

    def request(self, reason: str, grace_s: float | None = None) -> bool:
        """Asks for the end; `grace_s` None means the command's own. True if this was the first request."""
        if self.reason is not None:
            return False
        self.reason, self.grace_s = reason, grace_s
        if self._scope is not None:
            self._scope.cancel()
        return True

    @contextlib.contextmanager
    def wait_until(self, deadline: float, *, noticed: bool) -> Iterator[trio.CancelScope]:
        """Ends the block at `deadline` (trio's clock), or, unless it was `noticed` already, at a request."""
        with trio.CancelScope(deadline=deadline) as scope:
            if not noticed:
                if self.reason is not None:
                    scope.cancel()
                self._scope = scope
            try:
                yield scope
            finally:
                self._scope = None


class Action(Enum):
    """What `Watch.look` wants done now."""

    NOTHING = "nothing"
    TERMINATE = "terminate"
    KILL = "kill"
    GIVE_UP = "give up"


class Watch:
    """Decides when a running command is to be stopped. Moments are on the caller's clock, in seconds."""

    def __init__(self, start: Start, began_at: float, now: float, size: int = 0) -> None:
        self._grace_s = start.grace_s
        self._hard_at = math.inf if start.hard_limit_s is None else began_at + start.hard_limit_s
        self._io_limit_s = start.io_limit_s
        self._io_at = math.inf if start.io_limit_s is None else now + start.io_limit_s
        self._io_look_at = math.inf
        self._size = size
        self.stopped_by: str | None = None
        self.kill_at = math.inf
        self.give_up_at = math.inf
        self._plan_io_look(now)

    def wake_at(self) -> float:
        """When `look` must be called at the latest."""
        if self.stopped_by is None:
            return min(self._hard_at, self._io_look_at)
        return min(self.kill_at, self.give_up_at)

    def look(self, now: float, stop: StopSignal, size: Callable[[], int]) -> Action:
        """What to do now; `size` gives the length of all output, asked for only under an I/O limit."""
        if self.stopped_by is None:
            if stop.reason is not None:
                return self._stop(stop.reason, now, self._grace_s if stop.grace_s is None else stop.grace_s)
            if now >= self._hard_at:
                return self._stop("hard_limit", now, self._grace_s)
            if now >= self._io_look_at and self._is_silent(now, size()):
                return self._stop("io_limit", now, self._grace_s)
            return Action.NOTHING
        if now >= self.kill_at:
            self.kill_at, self.give_up_at = math.inf, now + REAP_S
            return Action.KILL
        return Action.GIVE_UP if now >= self.give_up_at else Action.NOTHING

    def _stop(self, reason: str, now: float, grace_s: float) -> Action:
        assert self.stopped_by is None
        self.stopped_by, self.kill_at = reason, now + grace_s
        return Action.TERMINATE

    def _is_silent(self, now: float, size: int) -> bool:
        # By size at our own moments, not by mtime: that is wall time, and a jump of it must change nothing.
        assert self._io_limit_s is not None
        if size != self._size:
            self._size, self._io_at = size, now + self._io_limit_s
        self._plan_io_look(now)
        return now >= self._io_at

    def _plan_io_look(self, now: float) -> None:
        if self._io_limit_s is not None:
            pause_s = max(IO_CHECK_MIN_S, self._io_limit_s / IO_CHECK_PART)
            self._io_look_at = min(self._io_at, now + pause_s)


class Runner(Protocol):
    """Runs commands. Several may run at the same time, with different attempts."""

    async def run(self, start: Start, *, stop: StopSignal) -> Ended:
        """Runs a command to its end; when this returns or raises, no process of it is left.

        A command that cannot be started gives `started=False` and a sentence; one whose stop was asked for
        before gives `started=False` and `stopped_by`. Canceled by trio: kills without grace, then raises.
        """
        ...

    async def resume(self, start: Start, *, stop: StopSignal) -> Ended:
        """Goes on with a command that this process started before it replaced itself by exec."""
        ...


class NotStarted(Exception):
    """A command could not be started: the sentence says what, which, and what to do."""


class PosixRunner:
    """Starts processes with `posix_spawn` and waits for them with a pidfd. Linux 5.4 or newer.

    For one process and one thread: makes the process a child subreaper, opens its descriptors 0 to 2 if
    they are closed, keeps its other descriptors from the commands, and moves its working folder for the
    length of each start (so no other thread may use relative paths). Its other children must stay in its
    own session, or they count as escaped from a command.
    """

    def __init__(self) -> None:
        become_subreaper()
        self._null = _tidy_descriptors()
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # inherited: no exit status would be kept
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Python ignores SIGPIPE and SIGXFSZ, a shell's `&` ignores SIGINT: children would inherit that.
        self._defaults = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
        self._boot_id = boot_id()
        self._swept_at = -math.inf

    def close(self) -> None:
        """Gives its two descriptors back; call it when it runs no command."""
        os.close(self._null)
        os.close(self._home)

    async def run(self, start: Start, *, stop: StopSignal) -> Ended:
        await trio.lowlevel.checkpoint_if_cancelled()
        if stop.reason is not None:
            return Ended(started=False, stopped_by=stop.reason)
        try:
            with contextlib.ExitStack() as files:
                outputs = [_open_output(path, files) for path in dict.fromkeys((start.stdout, start.stderr))]
                born_from = ticks()
                pid = self._spawn(start, outputs[0], outputs[-1])
                leader = Leader(start.attempt, pid, born_from, ticks())
                self._welcome(start, leader)
                if start.io_limit_s is None:
                    files.close()
                    outputs = []
                return await self._follow(start, leader, stop, outputs, ran_s=0.0)
        except NotStarted as error:
            return Ended(started=False, error=str(error))

    async def resume(self, start: Start, *, stop: StopSignal) -> Ended:
        record = read_record(start.state)
        found = read_stat(record.pid) if record is not None and record.boot_id == self._boot_id else None
        if record is None or found is None or not record.leader().is_it(found) or found.ppid != os.getpid():
            return Ended(error="the command ended while nobody watched it; its exit code is lost")
        leader = record.leader()
        FAMILY.add(leader)
        try:
            with contextlib.ExitStack() as files:
                outputs = [_open_output(path, files) for path in dict.fromkeys((start.stdout, start.stderr))]
                return await self._follow(
                    start, leader, stop, outputs, ran_s=(ticks() - found.started) / TICKS_PER_S
                )
        except NotStarted as error:
            return Ended(error=str(error))

    # Starting

    def _spawn(self, start: Start, stdout: int, stderr: int) -> int:
        """Starts the process in its folder; no await, because the working folder is the whole process's."""
        try:
            folder = os.open(start.cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fchdir(folder)
            finally:
                os.close(folder)
        except (OSError, ValueError) as error:
            raise NotStarted(_folder_sentence(start.cwd, error)) from None
        try:
            return os.posix_spawn(
                find_program(start.argv, start.env),
                start.argv,
                {**start.env, MARKER: start.attempt},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, self._null, 0),
                    (os.POSIX_SPAWN_DUP2, stdout, 1),
                    (os.POSIX_SPAWN_DUP2, stderr, 2),
                ],
                setsid=True,  # a session has its own group, and no terminal
                setsigmask=[],
                setsigdef=self._defaults,
            )
        except (OSError, ValueError) as error:
            raise NotStarted(_spawn_sentence(start, error)) from None
        finally:
            os.fchdir(self._home)

    def _welcome(self, start: Start, leader: Leader) -> None:
        """Makes a new process known to the family and to the next bot. A failure ends the process."""
        FAMILY.add(leader)
        record = LeaderRecord(
            attempt=leader.attempt,
            pid=leader.pid,
            born_from=leader.born_from,
            born_to=leader.born_to,
            boot_id=self._boot_id,
        )
        try:
            write_record(start.state, record)
        except OSError as error:
            kill_group(leader.pid, signal.SIGKILL)  # reaped by a later sweep
            FAMILY.take_status(leader)
            raise NotStarted(
                f"could not write {start.state}: {error.strerror}; make room in the work folder of the bot"
            ) from None

    # Watching and ending

    async def _follow(
        self, start: Start, leader: Leader, stop: StopSignal, outputs: list[int], *, ran_s: float
    ) -> Ended:
        now = trio.current_time()
        began_at = now - ran_s
        pidfd = -1
        try:
            watch = Watch(start, began_at, now, _total_size(outputs))
            pidfd = os.pidfd_open(leader.pid)
            gave_up = await self._watch(leader, pidfd, watch, stop, outputs)
            duration_s = trio.current_time() - began_at
            if not gave_up and watch.stopped_by is not None and watch.kill_at < math.inf:
                await self._rest_of_group(leader, watch.kill_at)
        except BaseException as error:  # canceled, or no descriptor left: never leave without our processes
            with trio.CancelScope(shield=True):
                self._signal(leader, signal.SIGKILL)
                await self._await_end(leader.pid, trio.current_time() + REAP_S)
                await self._clear(leader)
            if isinstance(error, OSError):
                why = f"could not watch {start.argv[0]!r}: {error.strerror}; it was killed"
                raise NotStarted(why) from None
            raise
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        with trio.CancelScope(shield=True):
            ended = await self._clear(leader)
        return msgspec.structs.replace(ended, duration_s=duration_s, stopped_by=watch.stopped_by)

    async def _watch(
        self, leader: Leader, pidfd: int, watch: Watch, stop: StopSignal, outputs: list[int]
    ) -> bool:
        """Returns when the first process has ended, False, or did not die in time, True."""
        while True:
            now = trio.current_time()
            action = watch.look(now, stop, lambda: _total_size(outputs))
            if action is Action.TERMINATE:
                self._signal(leader, signal.SIGTERM)
                kill_group(leader.pid, signal.SIGCONT)
            elif action is Action.KILL:
                self._signal(leader, signal.SIGKILL)
            elif action is Action.GIVE_UP:
                return True
            if now >= self._swept_at + SWEEP_S:
                self._swept_at = now
                FAMILY.sweep()
            until = min(watch.wake_at(), now + SWEEP_S)
            with stop.wait_until(until, noticed=watch.stopped_by is not None):
                await trio.lowlevel.wait_readable(pidfd)
                return False

    def _signal(self, leader: Leader, number: int) -> None:
        """Signals the group of a leader that is not reaped yet (its number is its own until then)."""
        FAMILY.remember_below(leader, leader.pid)
        kill_group(leader.pid, number)

    async def _rest_of_group(self, leader: Leader, until: float) -> None:
        """Waits for the group of a leader that died within its grace."""
        while trio.current_time() < until and (members := FAMILY.group_of(leader)):
            await self._await_end(members[0].pid, until)

    async def _clear(self, leader: Leader) -> Ended:
        """Kills and reaps what is left of a command, the leader last: till then its number is its own."""
        kill_group(leader.pid, signal.SIGKILL)
        left = () if FAMILY.is_alone() else await self._kill_adopted(leader)
        info = FAMILY.take_status(leader)
        if info is None:
            left = (leader.pid, *left)
        error = f"processes {_listed(left)} did not end {REAP_S:.0f} s after SIGKILL" if left else None
        if info is None:
            return Ended(error=error, left=left)
        if info.si_code == os.CLD_EXITED:
            return Ended(exit_code=info.si_status, error=error, left=left)
        return Ended(signal=info.si_status, error=error, left=left)

    async def _kill_adopted(self, leader: Leader) -> tuple[int, ...]:
        """Kills what was adopted from this leader, in rounds (each orphans a layer). Gives survivors."""
        give_up_at = trio.current_time() + REAP_S
        tries = 0
        while True:
            found, unclear = self._kill_round(leader)
            if found:
                if trio.current_time() >= give_up_at:
                    return tuple(found)
                for pid in found:
                    await self._await_end(pid, give_up_at)
            elif unclear and tries < UNCLEAR_TRIES:
                tries += 1
                await trio.sleep(UNCLEAR_WAIT_S)
            else:
                return ()

    def _kill_round(self, leader: Leader) -> tuple[list[int], bool]:
        killed: list[int] = []
        unclear = False
        for _ in range(KILL_PASSES):
            found, unclear = FAMILY.adopted_from(leader)
            fresh = [stat.pid for stat in found if stat.pid not in killed]
            for pid in fresh:
                FAMILY.remember_below(leader, pid)
                with contextlib.suppress(OSError):  # our own child: the number cannot be another's
                    os.kill(pid, signal.SIGKILL)
            killed += fresh
            if not fresh:
                break
        return killed, unclear

    async def _await_end(self, pid: int, until: float) -> None:
        """Waits until this process has ended (it need not be reaped), at most until `until`."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # no descriptor left: look again soon, the caller counts the time
            await trio.sleep(UNCLEAR_WAIT_S)
            return
        try:
            with trio.CancelScope(deadline=until):
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)


def _listed(pids: tuple[int, ...]) -> str:
    shown = ", ".join(str(pid) for pid in pids[:10])
    return shown if len(pids) <= 10 else f"{shown} and {len(pids) - 10} more"


def _tidy_descriptors() -> int:
    """Opens 0 to 2 if closed, hides all others from children; returns a descriptor of /dev/null."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while null <= 2:
        os.set_inheritable(null, True)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the one that lists the folder is closed by now
                os.set_inheritable(int(name), False)
    return null


def _total_size(outputs: list[int]) -> int:
    return sum(os.fstat(fd).st_size for fd in outputs)


def _open_output(path: Path, files: contextlib.ExitStack) -> int:
    """Opens an output file for appending and has it closed with `files`."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise NotStarted(
            f"could not open the output file {path}: {error.strerror}; look at the work folder of the bot"
        ) from None
    files.callback(os.close, fd)
    os.set_blocking(fd, True)  # not blocking was for the open only: the command must not inherit it
    return fd


def find_program(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """The path that argv[0] names in the current folder and with the command's own PATH.

    Raises `FileNotFoundError` or `PermissionError` without one, `ValueError` for an empty argv or name.
    """
    if not argv or not argv[0]:
        raise ValueError("the command is empty")
    name = argv[0]
    if "/" in name:
        return name
    denied = False
    for folder in env.get("PATH", DEFAULT_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        try:
            is_file = stat_bits.S_ISREG(os.stat(path).st_mode)
        except OSError:
            continue
        if is_file and os.access(path, os.X_OK):
            return path
        denied = denied or is_file
    if denied:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _folder_sentence(cwd: Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        why = "does not exist; let an input or an earlier command make it"
    elif isinstance(error, NotADirectoryError):
        why = "is not a folder"
    elif isinstance(error, OSError):
        why = f"cannot be entered ({error.strerror}); the user of the bot needs the x permission"
    else:
        why = f"is not a usable name ({error})"
    return f"working folder {str(cwd)!r} {why}"


def _spawn_sentence(start: Start, error: OSError | ValueError) -> str:
    """What could not be started, why, and what to do. Called in the folder of the command."""
    if not isinstance(error, OSError):
        return f"command {list(start.argv)[:3]} cannot be started: {error}"
    name = start.argv[0]
    if error.errno == errno.ENOENT and "/" in name and os.path.exists(name):
        return f"program {name!r} needs an interpreter that does not exist; look at its first line"
    if error.errno == errno.ENOENT:
        path = start.env.get("PATH", DEFAULT_PATH)
        where = f"in {str(start.cwd)!r}" if "/" in name else f"in PATH={path!r}"
        return f"program {name!r} was not found {where}; install it on this bot or require a dimension for it"
    if error.errno == errno.EACCES:
        return f"program {name!r} is not executable; give it the x permission (inputs: executable)"
    if error.errno == errno.ENOEXEC:
        return f"program {name!r} is neither a binary for this machine nor a script that begins with '#!'"
    if error.errno == errno.E2BIG:
        return f"arguments and environment of {name!r} are too long for this machine; pass them in a file"
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"program {name!r} could not be started: {error.strerror}; the machine is out of resources"
    return f"program {name!r} could not be started: {error.strerror}"


def write_record(path: Path, record: LeaderRecord) -> None:
    """Replaces the record. Not synced: it is of no use after a crash of the machine."""
    # Padded to one length, not truncated: ext4 flushes a file that was emptied and written again.
    # The command before it may have put a FIFO there: not blocking, and for the reader, too.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record).ljust(RECORD_SIZE))
    finally:
        os.close(fd)


def read_record(path: Path) -> LeaderRecord | None:
    """The record, or None if there is none or it was torn by a crash."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return msgspec.json.decode(os.read(fd, 2 * RECORD_SIZE), type=LeaderRecord)
        finally:
            os.close(fd)
    except (OSError, msgspec.MsgspecError):
        return None
