"""Swarming clients: durable `NewTask` calls from 16 connections, and the results of 1,000 tasks.

The client is a process of its own, so that the server's CPU is its own. What is sent is what the `swarming` command
sends: binary, with a UUID for each call.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import trio

from bench.limits import bare_request_us, full_commits
from bench.processes import Process, daemon, folder
from swarmd.client import open_client

CONNECTIONS = 16
TASKS = 4_000
WARM = 400
BATCH = 1_000
REPEATS = 20
HEAD = (
    "POST /prpc/swarming.v2.Tasks/{method} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: swarming 0.5.3\r\n"
    "Content-Type: application/prpc; encoding=binary\r\nAccept: application/prpc; encoding=binary\r\n"
    "X-Prpc-Grpc-Timeout: 90000000u\r\nX-Prpc-Max-Response-Size: 33521664\r\nContent-Length: {length}\r\n\r\n"
)


def main() -> None:
    with folder() as place:
        bare, raw = bare_request_us(place), full_commits(place)
        with daemon(place) as (server, url):
            _client(place, url, "new", WARM)
            cpu = server.cpu_s()
            made = _client(place, url, "new", TASKS)
            new_us = (server.cpu_s() - cpu) / TASKS * 1e6
            bots = Process([sys.executable, "-m", "bench.swarming", url, "16", "b"], place / "bots.log")
            trio.run(_ended, url, BATCH)
            bots.end()
            cpu = server.cpu_s()
            batch = _client(place, url, "batch", REPEATS)
            batch_ms = (server.cpu_s() - cpu) / (REPEATS + 1) * 1e3
    rate = TASKS / made["wall_s"]
    print(f"prpc: NewTask from {CONNECTIONS} connections: {rate:,.0f}/s, server CPU {new_us:.0f} µs each;")
    print(
        f"  a bare request costs {bare:.0f} µs: ratio {new_us / bare:.1f}; raw FULL commits {raw:,.0f} rows/s"
    )
    print(
        f"prpc: BatchGetResult of {BATCH:,} ended tasks in binary: p50 {batch['p50_ms']:.0f} ms, "
        f"server CPU {batch_ms:.0f} ms, {batch['bytes'] / 1024:,.0f} KiB"
    )


async def _ended(url: str, count: int) -> None:
    """Returns when so many tasks have ended."""
    async with open_client(url, patience_s=10) as client:
        with trio.fail_after(60):
            while (await client.counts()).tasks["PENDING"] > WARM + TASKS - count:
                await trio.sleep(0.2)


def _client(place: Path, url: str, what: str, count: int) -> dict[str, Any]:
    process = Process(
        [sys.executable, "-m", "bench.prpc", what, url, str(count)], place / "client.log", subprocess.PIPE
    )
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline()
    process.end()
    return msgspec.json.decode(line, type=dict[str, Any])


# --------------------------------------------------------------------- the client's process


class Connection:
    """A kept connection that waits for each answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def call(self, method: str, message: Any) -> bytes:
        body = message.SerializeToString()
        await self._stream.send_all(HEAD.format(method=method, length=len(body)).encode() + body)
        data = bytearray()
        head_end = -1
        while head_end < 0:
            data += await self._stream.receive_some(65_536)
            head_end = data.find(b"\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 200"), bytes(data)
        length = int(data[:head_end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(data) < head_end + 4 + length:
            data += await self._stream.receive_some(1 << 20)
        return bytes(data[head_end + 4 :])


def _request(number: int) -> Any:
    from swarmd.api.swarming.proto import common_pb2, tasks_pb2

    properties = tasks_pb2.TaskProperties(
        command=["/bin/sh", "-c", f"echo {number}"],
        dimensions=[
            common_pb2.StringPair(key="os", value="Linux"), common_pb2.StringPair(key="pool", value="default"),
        ],
        env=[common_pb2.StringPair(key="FOO", value="bar")],
        execution_timeout_secs=3600, grace_period_secs=30, io_timeout_secs=1200,
        containment=tasks_pb2.Containment(containment_type=tasks_pb2.Containment.NONE),
    )  # fmt: skip
    return tasks_pb2.NewTaskRequest(
        name="alice/os=Linux_pool=default", priority=200, tags=["purpose:bench"], user="alice",
        request_uuid=str(uuid.uuid4()), resultdb=tasks_pb2.ResultDBCfg(),
        task_slices=[
            tasks_pb2.TaskSlice(properties=properties, expiration_secs=21_600, wait_for_capacity=True)
        ],
    )  # fmt: skip


async def _connect(url: str) -> trio.SocketStream:
    host, port = url.removeprefix("http://").split(":")
    return await trio.open_tcp_stream(host, int(port))


async def _new(url: str, count: int) -> dict[str, Any]:
    requests = [_request(number) for number in range(count)]

    async def one(share: list[Any]) -> None:
        async with await _connect(url) as stream:
            connection = Connection(stream)
            for request in share:
                await connection.call("NewTask", request)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(CONNECTIONS):
            nursery.start_soon(one, requests[number::CONNECTIONS])
    return {"wall_s": time.perf_counter() - started}


async def _batch(url: str, count: int) -> dict[str, Any]:
    from swarmd.api.swarming.proto import common_pb2, tasks_pb2

    async with await _connect(url) as stream:
        connection = Connection(stream)
        query = tasks_pb2.TasksWithPerfRequest(limit=BATCH, state=common_pb2.QUERY_COMPLETED)
        listed = tasks_pb2.TaskListResponse.FromString(await connection.call("ListTasks", query))
        request = tasks_pb2.BatchGetResultRequest(task_ids=[item.task_id for item in listed.items])
        assert len(request.task_ids) == BATCH
        times, size = [], 0
        for _ in range(count):
            started = time.perf_counter()
            size = len(await connection.call("BatchGetResult", request))
            times.append((time.perf_counter() - started) * 1e3)
    return {"p50_ms": statistics.median(times), "bytes": size}


if __name__ == "__main__":
    what, url, count = sys.argv[1:]
    print(
        msgspec.json.encode(trio.run({"new": _new, "batch": _batch}[what], url, int(count))).decode(),
        flush=True,
    )
