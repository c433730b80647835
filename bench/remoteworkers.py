"""Tasks over the Remote Workers API: how soon a lease reaches a bot that waits, what a task and an idle update cost.

The bots are Google's client of gRPC, in a process of its own, against a daemon with full durability. The limit of a
lease is one bare commit and one call of a server that only echoes, one after the other; the limit of an update is such
a call. `python -m bench.remoteworkers ROLE URL …` is one of the processes.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from bench.grpc import LONE, MANY, SAY, serving
from bench.processes import daemon, folder, parts, tell
from swarmd.client import array, open_client, task

SAMPLES = 200
TASKS = {1: 400, 64: 6_400}  # by how many leases the bot holds
IDLE_BOTS = 32
SERVICE = "/google.devtools.remoteworkers.v1test2.Bots/"
SEED = 7


def main() -> None:
    with folder() as place:
        with serving("bare") as (process, bare):
            echo = parts(process, [sys.executable, "-m", "bench.grpc", "calls", bare, "0"])
            limit = _limit(bare, place / "limit.db")
        with daemon(place) as (_, url):
            leases = trio.run(_leases, url)
        found = {}
        for capacity, tasks in TASKS.items():
            (place / "swarmd.db").unlink()
            with daemon(place) as (server, url):
                trio.run(_submit, url, tasks)
                found |= parts(server, _role("tasks", url, str(capacity), str(tasks)))
        with daemon(place) as (server, url):
            found |= parts(server, _role("idle", url))
    (p50, p99), (limit_p50, limit_p99) = _quantiles(leases), _quantiles(limit)
    print(f"remoteworkers: {SAMPLES} submits, each to its lease in the hand of a bot that waits:")
    print(
        f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms; a bare commit and a bare call: {limit_p50:.1f} and {limit_p99:.1f} ms"
    )
    print(f"  ratios {p50 / limit_p50:.1f} and {p99 / limit_p99:.1f}")
    bare_us = echo["lone"]["cpu_us"]
    for capacity in TASKS:
        it = found[f"capacity {capacity}"]
        cpu, ends = it["cpu_us"], it["count"] / it["updates"]
        print(
            f"remoteworkers: a bot of capacity {capacity}: {it['rate']:,.0f} tasks/s, server CPU {cpu:.0f} µs a task"
        )
        print(f"  {ends:.1f} ends in an update of {cpu * ends:,.0f} µs; a bare call: {bare_us:.0f} µs")
    for name, peer, what in (
        ("idle lone", "lone", "1 at a time"),
        ("idle many", "many", f"{IDLE_BOTS} bots"),
    ):
        cpu, bare_us = found[name]["cpu_us"], echo[peer]["cpu_us"]
        print(
            f"remoteworkers: idle updates, {what}: {found[name]['rate']:,.0f} /s, server CPU {cpu:.0f} µs each;"
        )
        print(f"  a bare echo: {echo[peer]['rate']:,.0f} /s, {bare_us:.0f} µs: ratio {cpu / bare_us:.2f}")


def _role(role: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "bench.remoteworkers", role, *args]


def _quantiles(samples: list[float]) -> tuple[float, float]:
    """p50 and p99, in ms."""
    ordered = sorted(samples)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(0.99 * len(ordered)) - 1] * 1e3


async def _submit(url: str, tasks: int) -> None:
    async with open_client(url, patience_s=10) as client:
        await client.submit([task(argv=["true"], array=array(first=1, last=tasks))])


@contextmanager
def _told(*args: str) -> Iterator[Any]:
    """A process that tells, line by line."""
    process = subprocess.Popen(_role(*args), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        yield process.stdout
    finally:
        process.kill()
        process.wait()


async def _leases(url: str) -> list[float]:
    """Seconds from before a submit until its lease is in the bot's hand."""
    found, pauses = [], random.Random(SEED)
    with _told("leases", url) as lines:
        async with open_client(url, patience_s=10) as client:
            await client.health()
            for _ in range(SAMPLES):
                await trio.to_thread.run_sync(lines.readline)  # it is about to wait
                await trio.sleep(pauses.uniform(0.02, 0.08))
                began = time.monotonic()  # one clock for all processes of a machine
                await client.submit([task(argv=["true"])])
                found.append(float(await trio.to_thread.run_sync(lines.readline)) - began)
    return found


def _limit(url: str, path: Path) -> list[float]:
    """Seconds that a durable commit and a bare call take, one after the other, with pauses as in `_leases`."""
    with _told("limit", url, os.fspath(path)) as lines:
        return [float(lines.readline()) for _ in range(SAMPLES)]


# ------------------------------------------------------------------ the bots' process


class Bot:
    def __init__(self, channel: Any, id: str, capacity: int = 1) -> None:
        from swarmd.api.remoteworkers.proto import bots_pb2

        self._bots = bots_pb2
        how = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": bots_pb2.BotSession.FromString,
        }
        self._create = channel.unary_unary(SERVICE + "CreateBotSession", **how)
        self._update = channel.unary_unary(SERVICE + "UpdateBotSession", **how)
        self.session = bots_pb2.BotSession(bot_id=id, status=bots_pb2.OK)
        device = self.session.worker.devices.add(handle="primary")
        for key, value in (("OSFamily", "linux"), ("ISA", "x86-64"), ("pool", "default")):
            device.properties.add(key=key, value=value)
        self.session.worker.configs.add(key="capacity", value=str(capacity))

    async def open(self) -> None:
        request = self._bots.CreateBotSessionRequest(bot_session=self.session)
        self.session = await self._create(request, timeout=3)

    async def update(self, deadline_s: float = 3) -> None:
        """With 3 s it is not held."""
        request = self._bots.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        self.session = await self._update(request, timeout=deadline_s)

    def complete(self) -> None:
        """All leases."""
        for lease in self.session.leases:
            lease.state = self._bots.COMPLETED


async def _wait_for_leases(channel: Any) -> None:
    bot = Bot(channel, "waits")
    await bot.open()
    while True:
        print("waits", flush=True)
        await bot.update(60)
        [_] = bot.session.leases
        print(time.monotonic(), flush=True)
        bot.complete()
        await bot.update()


async def _run_tasks(channel: Any, capacity: int, tasks: int) -> None:
    bot = Bot(channel, "works", capacity)
    name = f"capacity {capacity}"
    tell(name)
    began, updates, count = time.perf_counter(), 1, 0
    await bot.open()
    while bot.session.leases:
        bot.complete()
        count += len(bot.session.leases)
        await bot.update()
        updates += 1
    assert count == tasks
    tell({"name": name, "count": count, "updates": updates, "rate": count / (time.perf_counter() - began)})


async def _update_idle(channel: Any) -> None:
    bots = [Bot(channel, f"idle-{n}") for n in range(IDLE_BOTS)]
    for bot in bots:
        await bot.open()

    async def some(bot: Bot, count: int) -> None:
        for _ in range(count):
            await bot.update()

    await some(bots[0], 200)
    for name, callers, count in (("idle lone", 1, LONE), ("idle many", IDLE_BOTS, MANY)):
        tell(name)
        began = time.perf_counter()
        await asyncio.gather(*(some(bot, count // callers) for bot in bots[:callers]))
        tell({"name": name, "count": count, "rate": count / (time.perf_counter() - began)})


async def _commit_and_call(channel: Any, path: str) -> None:
    from tests.api.grpc.echo_pb2 import Text

    say = channel.unary_unary(
        SAY, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    conn = sqlite3.connect(path, isolation_level=None)
    for sql in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "CREATE TABLE t (a INTEGER, b TEXT)",
    ):
        conn.execute(sql)
    pauses = random.Random(SEED)
    for n in range(SAMPLES):
        await asyncio.sleep(pauses.uniform(0.02, 0.08))
        began = time.monotonic()
        conn.execute("INSERT INTO t VALUES (?, ?)", (n, "x" * 1_000))
        await say(Text(text="a call of gRPC", number=n))
        print(time.monotonic() - began, flush=True)


async def _be(role: str, url: str, *args: str) -> None:
    import grpc.aio

    async with grpc.aio.insecure_channel(url.removeprefix("http://")) as channel:
        match role, *args:
            case ["leases"]:
                await _wait_for_leases(channel)
            case ["tasks", capacity, tasks]:
                await _run_tasks(channel, int(capacity), int(tasks))
            case ["idle"]:
                await _update_idle(channel)
            case ["limit", path]:
                await _commit_and_call(channel, path)


if __name__ == "__main__":
    asyncio.run(_be(*sys.argv[1:]))
