"""Submit to first instruction on an idle daemon: the task prints its clock; minus the client's clock
before the POST.
"""

from __future__ import annotations

import statistics
import subprocess
import time

import trio

from bench.noop import _ready
from bench.processes import bot, daemon, folder
from swarmd.client import open_client, task

TASKS = 100


def main() -> None:
    with folder() as place, daemon(place) as (_, url), bot(place, url, "b1", 2):
        trio.run(_ready, url)
        found = sorted(trio.run(_run, url))
    spawn = sorted(_spawn_ms() for _ in range(TASKS))
    p50, p99 = statistics.median(found), found[int(0.99 * len(found)) - 1]
    base = statistics.median(spawn)
    print(f"latency: submit to first instruction p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"  a bare spawn of the same command: p50 {base:.1f} ms; ratio {p50 / base:.1f}")


def _spawn_ms() -> float:
    started = time.time_ns()
    return (int(subprocess.run(["date", "+%s%N"], capture_output=True, check=True).stdout) - started) / 1e6


async def _run(url: str) -> list[float]:
    found = []
    async with open_client(url) as client:
        for number in range(TASKS + 5):
            started = time.time_ns()
            [id] = await client.submit([task(argv=["date", "+%s%N"])])
            await client.wait([id])
            data = b"".join([piece async for piece in client.output(id, "stdout")])
            if number >= 5:
                found.append((int(data) - started) / 1e6)
            await trio.sleep(0.02)
    return found
