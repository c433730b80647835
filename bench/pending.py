"""Cost of an offer, memory and the longest pause with many tasks pending; and how long a start takes with them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.processes import daemon, folder

SIZES = (1_000, 100_000, 1_000_000)
CHILD = """
import gc, sys, time, resource
from swarmd.core.engine import Engine
from swarmd.core.features import NATIVE
from swarmd.core.model import BotId, Command, Outcome, Work
from swarmd.core.sessions import Newcomer
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.core.world import Settings
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
base = rss()
engine, now, count = Engine(Settings(), 1e9), 1e9, int(sys.argv[1])
work = (Work(commands=(Command(argv=("true",)),)),)
kinds = [(SliceSpec({"os": [name]}),) for name in ("Linux", "Mac", "Windows", "BSD")]
started = time.perf_counter()
for start in range(0, count, 1000):
    engine.submit(now, [TaskSpec(work, kinds[n % 4], priority=n % 3) for n in range(min(1000, count - start))])
    engine.take_changes()
submit_us = (time.perf_counter() - started) / count * 1e6
gc.collect(); gc.freeze()
memory = rss() - base
newcomer = Newcomer(BotId("b"), "native", "k", "h", {"os": ["Linux", "BSD"]}, NATIVE, 4)
session = engine.open_session(now, newcomer).session
times, pauses = [], []
for number in range(450):
    t, cpu = time.perf_counter(), time.thread_time()
    [attempt] = engine.offer(now, session, str(number), 1)
    times.append(time.thread_time() - cpu)
    pauses.append(time.perf_counter() - t)
    engine.finish(now, session, attempt.id, Outcome(ok=True))
    engine.take_changes()
times = sorted(times[100:])
print(submit_us, memory, times[len(times) // 2] * 1e6, max(pauses) * 1e3)
"""


def main() -> None:
    offers = {}
    for size in SIZES:
        out = subprocess.run(
            [sys.executable, "-c", CHILD, str(size)], capture_output=True, check=True, text=True
        )
        submit_us, memory, offer_us, pause_ms = map(float, out.stdout.split())
        offers[size] = offer_us
        print(
            f"pending {size:>9,}: offer {offer_us:.0f} µs, longest pause {pause_ms:.1f} ms, "
            f"{memory:.0f} MiB, submit {submit_us:.0f} µs/task"
        )
    print(
        f"  offer cost at {SIZES[-1]:,} is {offers[SIZES[-1]] / offers[SIZES[0]]:.1f} times that at {SIZES[0]:,}"
    )
    _start_with(SIZES[-1])


def _start_with(count: int) -> None:
    with folder() as place:
        fill(place / "swarmd.db", count)
        started = time.perf_counter()
        with daemon(place) as (server, _):
            wall = time.perf_counter() - started
            memory = server.memory_mib()
    print(f"start with {count:,} pending tasks: {wall:.1f} s, daemon's memory {memory:.0f} MiB")


def fill(path: Path, count: int) -> None:
    """Writes a file with `count` pending tasks, the way the daemon does."""
    code = f"""
import sqlite3, trio, trio_asyncio
from pathlib import Path
from swarmd.core.engine import Engine
from swarmd.core.model import Command, Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.core.world import Settings
from swarmd.store.backend import open_backend
from swarmd.store.rows import batch_of
from swarmd.api.migrations import MIGRATIONS
import time
async def main():
    async with trio_asyncio.open_loop():
        backend = await open_backend(Path({str(path)!r}), durability="process", migrations=MIGRATIONS)
        now = time.time()
        engine = Engine(Settings(), now)
        work, slices = (Work(commands=(Command(argv=("true",)),)),), (SliceSpec({{}}),)
        for start in range(0, {count}, 10_000):
            engine.submit(now, [TaskSpec(work, slices)] * min(10_000, {count} - start))
            batch = batch_of(engine.take_changes(), engine.version, now, now, engine.ids.last)
            await backend.transact(batch.write)
            engine.tasks.clear()
            engine.plans.clear(); engine.matching.__init__(); engine.task_timers.__init__()
        await backend.close()
trio.run(main)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
