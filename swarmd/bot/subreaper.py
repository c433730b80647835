"""Who is whose child: the bot as child subreaper, /proc reading, and whose an escaped process is.

Linux hands a process whose parent died to its nearest subreaper. With the bot as one, whatever a command
starts stays below the bot, however it detaches (`setsid`, double fork), and can be found, killed and
reaped.

How an adopted process is given to an attempt, first match wins:

1. Its session or process group is the one of a command. Every command leads a session of its own.
2. It was given to it before (an adopted process keeps its number until the bot reaps it).
3. It was seen below a process of the attempt when that one was signalled.
4. `SWARMD_ATTEMPT` in its environment names the attempt.
5. It is in the session of a process that was found by 2, 3 or 4.
6. Its environment is cleared and its session is its own: it can only come from a command that runs since
   before it was born. If only one such command runs, it is that one's; else it waits until the others have
   ended. So it never outlives the last command that could have started it, and the wrong command is never
   touched.

A process in the bot's own session is not a task's (a process cannot join another session) and is left alone.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

MARKER = "SWARMD_ATTEMPT"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MAX_ENVIRON = 8 << 20  # bytes; the kernel allows about 6 MiB of arguments and environment
MAX_DESCENDANTS = 20_000  # processes followed below one; half of the usual pid_max
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """From /proc/PID/stat; `started` counts ticks since boot, so (pid, started) names a process for good."""

    pid: int
    state: str
    ppid: int
    pgid: int
    sid: int
    started: int

    @property
    def is_dead(self) -> bool:
        return self.state in "ZX"


class Leader(NamedTuple):
    """The first process of a command: it leads its session and process group, so both have its number.

    Its start time lies between two ticks since boot. The exact one is not read: /proc/PID/stat of a process
    that is still in exec makes the reader wait (0.6 ms a command), and no number is reused within 20 ms.
    """

    attempt: str
    pid: int
    born_from: int
    born_to: int

    def is_it(self, stat: Stat | None) -> bool:
        """Whether this is the process, and not another one that got its number later."""
        return stat is not None and stat.pid == self.pid and self.born_from <= stat.started <= self.born_to


def become_subreaper() -> None:
    """From now on this process adopts its orphaned descendants. Survives exec; children do not inherit it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        why = f"cannot become a child subreaper: {os.strerror(code)} (Linux 3.4 or newer is needed)"
        raise OSError(code, why)


def read_proc(path: str, limit: int = MAX_ENVIRON) -> bytes | None:
    """The bytes of a file in /proc, or None if it is gone or may not be read. Cheaper than `open`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts: list[bytes] = []
        got = 0
        while got < limit and (part := os.read(fd, 65_536)):
            parts.append(part)
            got += len(part)
        return b"".join(parts)
    except OSError:  # ESRCH: it ended between open and read
        return None
    finally:
        os.close(fd)


def read_stat(pid: int) -> Stat | None:
    """State and family of a process (zombies included), or None if there is none with this number."""
    text = read_proc(f"/proc/{pid}/stat", 4096)
    if not text:
        return None
    rest = text[text.rindex(b")") + 2 :].split(b" ", 20)  # the name before it may contain blanks and brackets
    return Stat(pid, rest[0].decode(), int(rest[1]), int(rest[2]), int(rest[3]), int(rest[19]))


def read_marker(pid: int) -> str | None:
    """The attempt named in the environment of a process, None without one; "" if it shows no environment.

    The last happens for a zombie, for a process in the middle of exec, and for one that emptied it.
    """
    block = read_proc(f"/proc/{pid}/environ")
    if not block:
        return "" if block == b"" else None
    block = b"\0" + block + b"\0"
    key = f"\0{MARKER}=".encode()
    at = block.find(key)
    if at < 0:
        return None
    at += len(key)
    return os.fsdecode(block[at : block.index(b"\0", at)])


def children_of_thread(pid: int, tid: int) -> list[int]:
    """Numbers of the children that this thread started or adopted, zombies included."""
    text = read_proc(f"/proc/{pid}/task/{tid}/children")
    if text is None and not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return _children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
    return [int(number) for number in text.split()] if text else []


def _children_by_scan(pid: int) -> list[int]:
    stats = (read_stat(number) for number in all_pids())
    return [stat.pid for stat in stats if stat is not None and stat.ppid == pid]


def all_pids() -> list[int]:
    """Every process in /proc."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(pid: int) -> Iterator[Stat]:
    """What lives below a process, parents first, at most MAX_DESCENDANTS. Changes meanwhile may be missed."""
    seen = {pid}
    todo = [pid]
    while todo and len(seen) < MAX_DESCENDANTS:
        parent = todo.pop()
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{parent}/task")]
        except OSError:
            continue
        for child in {c for tid in threads for c in children_of_thread(parent, tid)} - seen:
            seen.add(child)
            stat = read_stat(child)
            if stat is not None:
                todo.append(child)
                yield stat


def boot_id() -> str:
    """Differs after each start of the machine: process numbers and start ticks mean nothing beyond it."""
    return (read_proc("/proc/sys/kernel/random/boot_id", 64) or b"").decode().strip()


def ticks() -> int:
    """Now, on the clock of `Stat.started`."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * TICKS_PER_S // 1_000_000_000


def kill_process(stat: Stat, number: int = signal.SIGKILL) -> bool:
    """Signals this process, never one that reuses its number. False if it is gone or may not be signalled."""
    try:
        pidfd = os.pidfd_open(stat.pid)
    except OSError:
        return False
    try:
        now = read_stat(stat.pid)
        if now is None or now.started != stat.started:
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def kill_group(pgid: int, number: int) -> None:
    """Signals a process group; a group without a process that may be signalled is no error."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        pass


class Family:
    """The running commands of this process, and the processes that it adopted from them.

    Only the thread that starts the commands may use it.
    """

    def __init__(self) -> None:
        self.leaders: dict[int, Leader] = {}
        self._owners: dict[int, int] = {}  # number of an adopted process -> number of its leader
        self._sessions: dict[int, int] = {}  # session of an adopted process -> number of its leader
        self._below: dict[tuple[int, int], int] = {}  # (number, started) -> number of its leader
        self._abandoned: set[int] = set()  # leaders that did not die of SIGKILL in time

    def add(self, leader: Leader) -> None:
        """Call without an await after the start, so that a leader is never taken for an adopted process."""
        assert leader.pid not in self.leaders
        self.leaders[leader.pid] = leader

    def take_status(self, leader: Leader) -> os.waitid_result | None:
        """Reaps a leader and forgets it. None if it still lives: then it is reaped whenever it dies."""
        assert self.leaders[leader.pid] is leader
        info = os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOHANG)
        if info is None:
            self._abandoned.add(leader.pid)
        del self.leaders[leader.pid]
        self._owners = {key: owner for key, owner in self._owners.items() if owner != leader.pid}
        self._sessions = {key: owner for key, owner in self._sessions.items() if owner != leader.pid}
        self._below = {key: owner for key, owner in self._below.items() if owner != leader.pid}
        return info

    def is_alone(self) -> bool:
        """Whether the bot has no children but leaders: the usual case, one read of 10 us."""
        return not any(True for _ in self._adopted())

    def remember_below(self, leader: Leader, pid: int) -> None:
        """Notes what lives below a process of `leader`, because a signal to it may orphan that."""
        for stat in descendants(pid):
            if len(self._below) < MAX_DESCENDANTS:
                self._below[stat.pid, stat.started] = leader.pid

    def adopted_from(self, leader: Leader) -> tuple[list[Stat], bool]:
        """Living processes that the bot adopted from this leader; reaps the dead ones of all leaders.

        The second value is true if some process could not be judged (in the middle of exec): ask again soon.
        """
        found: list[Stat] = []
        unclear = False
        for stat, owner, sure in self._judged():
            unclear = unclear or not sure
            if owner is leader:
                found.append(stat)
        return found, unclear

    def group_of(self, leader: Leader) -> list[Stat]:
        """Living members of the process group of a leader that is dead."""
        roots, _ = self.adopted_from(leader)
        tree = [*roots, *(stat for root in roots for stat in descendants(root.pid))]
        return [stat for stat in tree if stat.pgid == leader.pid and not stat.is_dead]

    def sweep(self) -> None:
        """Reaps what was adopted and died, and learns whose the rest is while that can still be seen."""
        for _ in self._judged():
            pass

    def _judged(self) -> Iterator[tuple[Stat, Leader | None, bool]]:
        """Each living adopted process, its leader if known, and whether that is final; reaps the dead."""
        own_sid = os.getsid(0)
        for pid in self._adopted():
            stat = read_stat(pid)
            if stat is None:
                continue
            if pid in self._abandoned:
                if stat.is_dead and self._reap(pid):
                    self._abandoned.discard(pid)
            elif stat.sid != own_sid:
                owner, sure = self._owner(stat)
                if owner is None or not (stat.is_dead and self._reap(pid)):
                    yield stat, owner, sure

    def _adopted(self) -> Iterator[int]:
        # Orphans go to the first living thread (the main one), own children to the thread that spawned them.
        own = os.getpid()
        for tid in {own, threading.get_native_id()}:
            for pid in children_of_thread(own, tid):
                if pid not in self.leaders:
                    yield pid

    def _owner(self, stat: Stat) -> tuple[Leader | None, bool]:
        """The leader of an adopted process, and whether that answer is final. The rules stand at the top."""
        by_session = self.leaders.get(stat.sid) or self.leaders.get(stat.pgid)
        number = by_session.pid if by_session else self._owners.get(stat.pid)
        if number is None:
            number = self._below.get((stat.pid, stat.started))
        marker: str | None = None
        if number is None and not stat.is_dead:
            marker = read_marker(stat.pid)
            number = next((pid for pid, leader in self.leaders.items() if leader.attempt == marker), None)
        if number is not None and not by_session:
            self._sessions[stat.sid] = number
        if number is None:
            number = self._sessions.get(stat.sid)
        if number is not None:
            self._owners[stat.pid] = number
            return self.leaders[number], True
        possible = [leader for leader in self.leaders.values() if leader.born_from <= stat.started]
        return possible[0] if len(possible) == 1 else None, marker != ""

    def _reap(self, pid: int) -> bool:
        """Takes the exit status of an adopted process; False if some thread of it still lives."""
        assert pid not in self.leaders
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                return False
        except ChildProcessError:
            pass
        self._owners.pop(pid, None)
        return True


FAMILY = Family()  # a process has one set of children, however many runners look after them
