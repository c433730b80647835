"""No-op tasks end to end: server, bot and submitter are three processes over TCP, FULL durability."""

from __future__ import annotations

import sqlite3
import time

import trio

from bench.limits import bare_request_us, full_commits
from bench.processes import bot, daemon, folder
from swarmd.api.native import messages as m
from swarmd.client import Client, array, open_client, task

TASKS = 20_000
SLOTS = 512
WRITERS = 64
SINGLES = 3_000


def main() -> None:
    with folder() as place:
        raw = full_commits(place)
        bare = bare_request_us(place)
        with daemon(place) as (server, url), bot(place, url, "b1", SLOTS) as worker:
            trio.run(_ready, url)
            before, bot_before, started = server.cpu_s(), worker.cpu_s(), time.perf_counter()
            trio.run(_batch, url)
            wall = time.perf_counter() - started
            server_us = (server.cpu_s() - before) / TASKS * 1e6
            bot_us = (worker.cpu_s() - bot_before) / TASKS * 1e6
            commits = trio.run(_commits, url)
            singles_started, cpu = time.perf_counter(), server.cpu_s()
            trio.run(_singles, url)
            singles_wall = time.perf_counter() - singles_started
            singles_us = (server.cpu_s() - cpu) / SINGLES * 1e6
            per_commit = SINGLES / max(1, trio.run(_commits, url) - commits)
        conn = sqlite3.connect(place / "swarmd.db")
        final = conn.execute("SELECT COUNT(*) FROM tasks WHERE state = 10 AND ok = 1").fetchone()[0]
        conn.close()
        assert final == TASKS + SINGLES, f"{final} final rows"
    print(f"noop: {TASKS / wall:,.0f} tasks/s end to end ({final:,} final rows counted)")
    print(f"  server CPU {server_us:.0f} µs/task, bot CPU {bot_us:.0f} µs/task, {SLOTS} slots")
    print(f"  raw FULL commits of 64 rows: {raw:,.0f} rows/s; tasks/s are {TASKS / wall / raw:.2f} of it")
    print(
        f"single submits, {WRITERS} writers: {SINGLES / singles_wall:,.0f}/s, server CPU {singles_us:.0f} µs each,"
    )
    print(
        f"  {per_commit:.1f} operations a commit; a bare request costs {bare:.0f} µs: ratio {singles_us / bare:.1f}"
    )


async def _ready(url: str) -> None:
    async with open_client(url, patience_s=10) as client:
        with trio.fail_after(20):
            while not [b async for b in client.bots() if b.status == "idle"]:
                await trio.sleep(0.05)


async def _batch(url: str) -> None:
    async with open_client(url) as client:
        for _ in range(TASKS // 5_000):
            ids = await client.submit([task(noop=True, array=array(first=1, last=5_000))])
        await _until_done(client, ids[-1])


async def _until_done(client: Client, last: str) -> None:
    """Waits for the task that was submitted last, then looks until none is left."""
    await client.wait([last])
    while True:
        counts = await client.counts()
        if not counts.tasks["PENDING"] and not counts.tasks["RUNNING"]:
            return
        await trio.sleep(0.02)


async def _singles(url: str) -> None:
    """One task a request, each waited for until it is durable."""

    last = ""

    async def writer(client: Client, count: int) -> None:
        nonlocal last
        for _ in range(count):
            last = (await client.call("POST", "/api/v1/tasks", REQUEST, m.SubmitAnswer)).ids[0]

    async with open_client(url) as client:
        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(writer, client, SINGLES // WRITERS + (number < SINGLES % WRITERS))
        await _until_done(client, last)


REQUEST = m.SubmitRequest(tasks=[task(noop=True)])


async def _commits(url: str) -> int:
    from prometheus_client.parser import text_string_to_metric_families

    async with open_client(url) as client:
        text = await client.metrics()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "swarmd_commits_total":
                return int(sample.value)
    raise LookupError("swarmd_commits_total")
