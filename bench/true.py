"""Real processes: `/bin/true` with 2 slots against `xargs -n1 -P2 /bin/true` in the same run."""

from __future__ import annotations

import time

import trio

from bench.limits import xargs_rate
from bench.noop import _ready, _until_done
from bench.processes import bot, daemon, folder
from swarmd.client import array, open_client, task

TASKS = 2_000
SLOTS = 2


def main() -> None:
    with folder() as place, daemon(place) as (server, url), bot(place, url, "b1", SLOTS) as worker:
        trio.run(_ready, url)
        trio.run(_run, url, 200)
        limit = xargs_rate(TASKS, SLOTS)
        before, bot_before, started = server.cpu_s(), worker.cpu_s(), time.perf_counter()
        trio.run(_run, url, TASKS)
        rate = TASKS / (time.perf_counter() - started)
        server_us = (server.cpu_s() - before) / TASKS * 1e6
        bot_us = (worker.cpu_s() - bot_before) / TASKS * 1e6
        limit = (limit + xargs_rate(TASKS, SLOTS)) / 2
    print(f"true: {rate:,.0f} tasks/s with {SLOTS} slots; xargs {limit:,.0f}/s: ratio {rate / limit:.2f}")
    print(f"  server CPU {server_us:.0f} µs/task, bot CPU {bot_us:.0f} µs/task")


async def _run(url: str, count: int) -> None:
    async with open_client(url) as client:
        ids = await client.submit([task(argv=["/bin/true"], array=array(first=1, last=count))])
        await _until_done(client, ids[-1])
