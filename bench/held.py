"""Idle bots: sessions that the daemon holds calls of, what they cost, and how they come back after `kill -9`.

    python -m bench held                     10,000 bots
    python -m bench.held 1000 30             so many, held for so many seconds

The bots are conversations of the bundled bot in a few processes (`bench.idle_bots`): pauses between tries are its own.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from bench.idle_bots import Tally
from bench.limits import bare_held_kib, bare_request_us
from bench.processes import Process, folder, start_daemon
from swarmd.bot.session import HELD_S, SPREAD
from swarmd.client import Client, open_client, task
from swarmd.daemon.listeners import raise_open_files_limit

SESSIONS = 10_000
PROCESSES = 4
TIME_S = 30.0  # that they are held
TASKS = 200
PAUSE_S = 0.1  # between two tasks
SETTLE_S = 3.0  # after the last bot has come, before the daemon counts as idle
ALL_S = 120.0  # for all to be held
LOOK_S = 0.25  # between two looks at how many calls are held
WINDOW_S = 0.5  # for the peak of CPU
BARE_HELD = 2_000  # connections of the bare server
SLACK = 1_000  # one of so many sessions may be between two calls when one looks


@dataclass
class Comeback:
    """How all came back after the daemon had ended; times from its end on."""

    down_s: float = 0.0  # from the signal to the end of the process
    down_cpu_s: float = 0.0  # of the old daemon in that time
    ready_s: float = 0.0
    back_s: float = 0.0
    cpu_s: float = 0.0  # of the new daemon, with its start
    peak_share: float = 0.0  # of one core, over WINDOW_S
    peak_mib: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    worst: int = 0  # failed calls of one bot
    sessions_lost: int = 0  # opened anew


@dataclass
class Figures:
    """What one run measured; times in seconds, memory in MiB, CPU in seconds of the daemon's process."""

    sessions: int
    connect_s: float = 0.0
    connect_cpu_s: float = 0.0
    connect_failures: Counter[str] = field(default_factory=Counter)
    base_mib: float = 0.0
    held_mib: float = 0.0
    descriptors: int = 0
    held_s: float = 0.0
    held_cpu_s: float = 0.0
    held_failures: Counter[str] = field(default_factory=Counter)
    holds: int = 0  # calls that were answered in that time
    offer_ms: list[float] = field(default_factory=list)
    killed: Comeback = field(default_factory=Comeback)
    stopped: Comeback = field(default_factory=Comeback)


class Herd:
    """The processes of the bots."""

    def __init__(self, place: Path, url: str, sessions: int, processes: int) -> None:
        share = -(-sessions // processes)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.idle_bots", url, str(first), str(min(share, sessions - first))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(place / "bots.log").open("ab"),
            )
            for first in range(0, sessions, share)
        ]

    def report(self) -> Tally:
        """What all bots saw since the last report."""
        whole, failures = Tally(), Counter[str]()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            told = msgspec.json.decode(process.stdout.readline(), type=Tally)
            whole.sessions += told.sessions
            whole.calls += told.calls
            failures += Counter(told.failures)
            whole.offers |= told.offers
            whole.worst = max(whole.worst, told.worst)
            whole.cpu_s += told.cpu_s
        whole.failures = failures
        return whole

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def measure(sessions: int = SESSIONS, held_s: float = TIME_S, tasks: int = TASKS) -> Figures:
    """Connects, holds, offers, kills, and waits for all to be back."""
    found = Figures(sessions)
    with folder() as place, ExitStack() as ending:
        server, url = start_daemon(place)
        current = [server]
        ending.callback(lambda: current[0].end())
        trio.run(_held_calls, url)  # what the first look at the metrics imports is not the bots'
        found.base_mib = server.memory_mib()
        began, cpu = time.monotonic(), server.cpu_s()
        herd = Herd(place, url, sessions, PROCESSES)
        ending.callback(herd.end)
        _until_held(url, sessions, herd)
        found.connect_s, found.connect_cpu_s = time.monotonic() - began, server.cpu_s() - cpu
        found.connect_failures = Counter(herd.report().failures)
        _hold(server, herd, held_s, found)
        found.offer_ms = _offers(url, herd, tasks, found)
        current[0] = _restart(signal.SIGKILL, place, url, current[0], herd, found.killed, sessions)
        current[0] = _restart(signal.SIGTERM, place, url, current[0], herd, found.stopped, sessions)
    return found


def _until_held(url: str, sessions: int, herd: Herd) -> None:
    """Returns when the daemon holds a call of every session. Raises RuntimeError when that takes too long."""
    began = time.monotonic()

    async def look() -> None:
        async with open_client(url) as client:
            while True:
                held, took_s = await _metric(client, "swarmd_held_calls"), time.monotonic() - began
                # Later the first holds have ended, and there is always one between two calls.
                if held >= sessions - (sessions // SLACK if took_s > HELD_S * (1 - SPREAD) else 0):
                    return
                if took_s > ALL_S:
                    raise RuntimeError(f"{held:,.0f} of {sessions:,} calls are held; {herd.report()}")
                await trio.sleep(LOOK_S)

    trio.run(look)


async def _held_calls(url: str) -> float:
    async with open_client(url) as client:
        return await _metric(client, "swarmd_held_calls")


async def _metric(client: Client, name: str) -> float:
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(await client.metrics()):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    raise LookupError(name)


def _hold(server: Process, herd: Herd, seconds: float, found: Figures) -> None:
    """Nothing happens but that holds end and begin again."""
    time.sleep(SETTLE_S)
    herd.report()
    cpu, began = server.cpu_s(), time.monotonic()
    time.sleep(seconds)
    found.held_cpu_s, found.held_s = server.cpu_s() - cpu, time.monotonic() - began
    told = herd.report()
    found.holds, found.held_failures = told.calls, Counter(told.failures)
    found.held_mib, found.descriptors = server.memory_mib(), server.descriptors()


def _offers(url: str, herd: Herd, tasks: int, found: Figures) -> list[float]:
    """Milliseconds from the submit of a no-op task to the moment when a bot has read its offer, sorted."""
    submitted: dict[str, float] = {}

    async def submit() -> None:
        async with open_client(url) as client:
            await client.health()
            for _ in range(tasks):
                began = time.monotonic()
                [id] = await client.submit([task(noop=True)])
                submitted[id] = began
                await trio.sleep(PAUSE_S)
            await client.wait(list(submitted), 30)

    trio.run(submit)
    told = herd.report()
    found.held_failures += Counter(told.failures)
    missing = submitted.keys() - told.offers.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} of {tasks} tasks were offered to nobody")
    return sorted((told.offers[id] - began) * 1e3 for id, began in submitted.items())


def _restart(
    how: int, place: Path, url: str, server: Process, herd: Herd, found: Comeback, sessions: int
) -> Process:
    """Ends the daemon by a signal and starts a new one at the same address; waits for everybody to be back."""
    herd.report()
    told_at, cpu = time.monotonic(), server.cpu_s()
    server.popen.send_signal(how)
    found.down_cpu_s = max(0.0, server.end_cpu_s() - cpu)
    ended_at = time.monotonic()
    fresh, _ = start_daemon(place, listen=url.removeprefix("http://"))
    found.down_s, found.ready_s = ended_at - told_at, time.monotonic() - ended_at
    with _Peak(fresh) as peak:
        _until_held(url, sessions, herd)
    found.back_s = time.monotonic() - ended_at
    found.cpu_s, found.peak_mib, found.peak_share = fresh.cpu_s(), fresh.peak_mib(), peak.share
    told = herd.report()
    found.failures, found.worst, found.sessions_lost = Counter(told.failures), told.worst, told.sessions
    return fresh


class _Peak:
    """The largest share of a core that a process took over `WINDOW_S`, looked at from a thread."""

    def __init__(self, process: Process) -> None:
        self.share = 0.0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        cpu, at = self._process.cpu_s(), time.monotonic()
        while not self._over.wait(WINDOW_S):
            cpu_now, now = self._process.cpu_s(), time.monotonic()
            self.share = max(self.share, (cpu_now - cpu) / (now - at))
            cpu, at = cpu_now, now


def main(sessions: int = SESSIONS, held_s: float = TIME_S) -> None:
    raise_open_files_limit()
    with folder() as place:
        request_us = bare_request_us(place)
        bare_kib = bare_held_kib(place, min(sessions, BARE_HELD))
    tell(measure(sessions, held_s), request_us, bare_kib)


def tell(found: Figures, request_us: float, bare_kib: float) -> None:
    """Prints what was measured. `request_us`, `bare_kib`: CPU of a bare request, memory of a bare held one."""
    n = found.sessions
    kib = (found.held_mib - found.base_mib) * 1024 / n
    share = found.held_cpu_s / found.held_s
    hold_us = found.held_cpu_s / max(1, found.holds) * 1e6
    p50, p99 = statistics.median(found.offer_ms), found.offer_ms[int(0.99 * len(found.offer_ms)) - 1]
    print(f"held: {n:,} sessions, all held after {found.connect_s:.1f} s ({found.connect_cpu_s:.1f} s CPU)")
    print(f"  failed calls meanwhile: {_counted(found.connect_failures)}")
    print(f"  memory {found.held_mib:.0f} MiB, {kib:.1f} KiB a session; {found.descriptors:,} descriptors")
    print(f"  a bare held connection of the same server: {bare_kib:.1f} KiB: ratio {kib / bare_kib:.2f}")
    print(
        f"  CPU while held {found.held_s:.0f} s: {share:.1%} of one core, {hold_us:.0f} µs for each of {found.holds:,}"
    )
    print(f"  a bare request costs {request_us:.0f} µs: ratio {hold_us / request_us:.1f}")
    print(f"  submit to offer meanwhile, {len(found.offer_ms)} tasks: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"  failed calls meanwhile: {_counted(found.held_failures)}")
    _tell_comeback("killed", found.killed, n)
    _tell_comeback("stopped", found.stopped, n)


def _tell_comeback(how: str, found: Comeback, n: int) -> None:
    print(
        f"{how}: down after {found.down_s:.1f} s ({found.down_cpu_s:.1f} s CPU), "
        f"ready again {found.ready_s:.1f} s later, all {n:,} held {found.back_s:.1f} s later"
    )
    print(
        f"  {found.cpu_s:.1f} s CPU, at most {found.peak_share:.0%} of a core, "
        f"memory at most {found.peak_mib:.0f} MiB; {found.sessions_lost} sessions opened anew"
    )
    failed = sum(found.failures.values()) / n
    print(f"  failed calls: {failed:.1f} a session, at most {found.worst} of one: {_counted(found.failures)}")


def _counted(failures: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in failures.most_common()) or "none"


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
