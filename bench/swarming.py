"""Tasks over the Swarming bot API: what one costs the daemon, how many a second, how soon one starts.

The bots are scripted, many in one process, each on a kept connection of its own: poll, first update, last update.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import msgspec
import trio

from bench.limits import bare_request_us, full_commits
from bench.processes import Process, daemon, folder
from swarmd.client import Client, array, open_client, task

BOTS = (16, 64)
TASKS = 3_000
LONE_TASKS = 500  # with one bot: nothing shares a commit
STARTS = 40
API = "/swarming/api/v1/bot/"
# What a real bot says of itself is as large as this.
DIMENSIONS = {
    "cores": ["2"], "cpu": ["x86", "x86-64", "x86-64-avx2"], "display_attached": ["0"], "gpu": ["none"], "kvm": ["1"],
    "inside_docker": ["0"], "kernel": ["6.1.0"], "locale": ["en_US.UTF-8"], "machine_type": ["n1-highmem-2"],
    "os": ["Debian", "Debian-12", "Debian-12.11", "Linux"], "pool": ["default"], "python": ["3", "3.11", "3.11.7"],
    "ssd": ["1"],
}  # fmt: skip
STATE = {
    "cpu_name": "a processor", "cwd": "/srv/bot", "disks": {"/": {"free_mb": 76119.3, "size_mb": 258019.6}},
    "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "hostname": "labhost", "pid": 8, "ram": 24106, "ssd": ["sda"],
    "python": {"executable": "/usr/bin/python3", "packages": ["six==1.16.0"] * 10, "version": "3.11.7 (main)"},
    "running_time": 2, "sleep_streak": 0, "started_ts": 1795352230, "uptime": 1246, "user": "bot",
}  # fmt: skip


def main() -> None:
    with folder() as place:
        bare, raw = bare_request_us(place), full_commits(place)
        with daemon(place) as (server, url):
            lone = trio.run(_measure, place, server, url, 1, LONE_TASKS)
        many = {}
        for bots in BOTS:
            (place / "swarmd.db").unlink()
            with daemon(place) as (server, url):
                many[f"{bots} bots"] = trio.run(_measure, place, server, url, bots, TASKS)
        for hold_s in (0.0, 30.0):
            (place / "swarmd.db").unlink(missing_ok=True)
            config = place / f"hold-{hold_s:g}.toml"
            config.write_text(f"[swarming]\npoll_hold_s = {hold_s}\n")
            with daemon(place, "--config", str(config)) as (_, url):
                starts = sorted(trio.run(_starts, place, url))
            p50, p99 = statistics.median(starts), starts[int(0.99 * len(starts)) - 1]
            how = f"poll held up to {hold_s:g} s" if hold_s else "poll every 1 s"
            print(f"swarming: submit to first update, {how}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    for name, (rate, cpu_us) in {"1 bot": lone, **many}.items():
        print(
            f"swarming: {name}: {rate:,.0f} tasks/s, server CPU {cpu_us:.0f} µs a task (poll, first and last update);"
        )
        print(f"  three bare requests cost {3 * bare:.0f} µs: ratio {cpu_us / 3 / bare:.2f}")
    print(f"  raw FULL commits of 64 rows: {raw:,.0f} rows/s")


async def _measure(place: Path, server: Process, url: str, bots: int, tasks: int) -> tuple[float, float]:
    """Tasks a second, and the server's CPU for each, with what the submitting cost taken off."""
    async with open_client(url, patience_s=10) as client:
        await client.health()
        ids = await client.submit([task(argv=["true"], array=array(first=1, last=tasks))])
        worker = Process([sys.executable, "-m", "bench.swarming", url, str(bots), "b"], place / "bots.log")
        try:
            await client.wait(ids[:bots])  # all are at it
            done = await _done(client, tasks)
            cpu, started = server.cpu_s(), time.perf_counter()
            while (left := tasks - await _done(client, tasks)) > tasks // 10:
                await trio.sleep(0.5)  # each look costs the daemon a step over all tasks
            wall, cpu = time.perf_counter() - started, server.cpu_s() - cpu
            count = tasks - left - done
            return count / wall, cpu / count * 1e6
        finally:
            worker.end()


async def _done(client: Client, tasks: int) -> int:
    counts = (await client.counts()).tasks
    return tasks - counts["PENDING"] - counts["RUNNING"]


async def _starts(place: Path, url: str) -> list[float]:
    worker = Process([sys.executable, "-m", "bench.swarming", url, "1", "b"], place / "bots.log")
    found = []
    try:
        async with open_client(url, patience_s=10) as client:
            with trio.fail_after(20):
                while not [b async for b in client.bots() if b.status == "idle"]:
                    await trio.sleep(0.05)
            for number in range(STARTS):
                await trio.sleep(0.05 + number % 7 * 0.13)
                started = time.time()
                [id] = await client.submit([task(argv=["true"])])
                await client.wait([id])
                found.append((time.time() - started) * 1e3)
    finally:
        worker.end()
    return found


# --------------------------------------------------------------------- the bots' process


class _Connection:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        raw = msgspec.json.encode(body)
        head = (
            f"POST {API}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=UTF-8\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n"
        )
        await self._stream.send_all(head.encode() + raw)
        data = b""
        while True:
            data += await self._stream.receive_some(65_536)
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                continue
            length = int(data[:head_end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(data) >= head_end + 4 + length:
                break
        assert data.startswith(b"HTTP/1.1 200"), data
        return msgspec.json.decode(data[head_end + 4 :])


async def _bot(url: str, name: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        calls = _Connection(stream)
        what = {"dimensions": {**DIMENSIONS, "id": [name]}, "state": STATE, "version": "0" * 64}
        session = (await calls.post("handshake", {**what, "session_id": f"{name}/1"}))["session"]
        number = 0
        while True:
            number += 1
            answer = await calls.post(
                "poll", {**what, "session": session, "request_uuid": f"{name}-{number}"}
            )
            session = answer["session"]
            if answer["cmd"] != "run":
                await trio.sleep(float(answer["duration"]))
                continue
            run = answer["manifest"]["task_id"]
            told = {"id": name, "task_id": run, "session": session, "cost_usd": 0.001}
            await calls.post(f"task_update/{run}", told)
            told |= {
                "exit_code": 0,
                "duration": 0.01,
                "bot_overhead": 0.1,
                "output": "aGVsbG8K",
                "output_chunk_start": 0,
            }
            await calls.post(f"task_update/{run}", told)


async def _bots(url: str, count: int, prefix: str) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(_bot, url, f"{prefix}{number}")


if __name__ == "__main__":
    trio.run(_bots, sys.argv[1], int(sys.argv[2]), sys.argv[3])
