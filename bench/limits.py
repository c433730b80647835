"""The limits beside which figures stand, measured in the same run."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from bench.processes import Process

ROWS = 64
BARE_APP = """
import sys, trio
from swarmd.daemon.listeners import open_listeners, listener_url, raise_open_files_limit
from swarmd.daemon.server import serve
async def app(scope, receive, send):
    if scope["type"] != "http": return
    while (await receive()).get("more_body"): pass
    if scope["path"] == "/held": await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
async def main():
    raise_open_files_limit()
    listeners = await open_listeners([("127.0.0.1", 0)], None)
    print(listener_url(listeners[0]), flush=True)
    await serve(app, listeners, shutdown=trio.Event())
trio.run(main)
"""


def full_commits(place: Path, seconds: float = 1.5) -> float:
    """Rows a second that a bare loop of durable transactions of 64 rows writes to the same disk."""
    conn = sqlite3.connect(place / "raw.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT)")
    rows, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        conn.execute("BEGIN IMMEDIATE")
        conn.executemany("INSERT INTO t (a, b) VALUES (?, ?)", [(n, "x" * 120) for n in range(ROWS)])
        conn.execute("COMMIT")
        rows += ROWS
    rate = rows / (time.perf_counter() - started)
    conn.close()
    return rate


def bare_request_us(place: Path, count: int = 2_000) -> float:
    """CPU µs that the guarded server takes for one bare request, with 16 kept connections."""
    with _bare_server(place) as (process, host, port):
        before = process.cpu_s()
        trio.run(_hammer, host, port, count)
        return (process.cpu_s() - before) / count * 1e6


def bare_held_kib(place: Path, count: int) -> float:
    """KiB of the guarded server's memory for one connection whose request the app does not answer."""
    request = b"POST /held HTTP/1.1\r\nHost: localhost\r\nContent-Length: 120\r\n\r\n" + b"x" * 120
    with _bare_server(place) as (process, host, port), ExitStack() as sockets:
        trio.run(_hammer, host, port, 200)  # what only the first requests need
        before = process.memory_mib()
        for _ in range(count):
            sock = sockets.enter_context(socket.create_connection((host, port)))
            sock.sendall(request)
        cpu = -1.0
        while cpu != (cpu := process.cpu_s()):
            time.sleep(0.3)  # until it has taken them all
        return (process.memory_mib() - before) * 1024 / count


@contextmanager
def _bare_server(place: Path) -> Iterator[tuple[Process, str, int]]:
    process = Process([sys.executable, "-c", BARE_APP], place / "bare.log", subprocess.PIPE)
    try:
        assert process.popen.stdout is not None
        host, port = process.popen.stdout.readline().decode().strip().removeprefix("http://").split(":")
        yield process, host, int(port)
    finally:
        process.popen.kill()
        process.popen.wait()


async def _hammer(host: str, port: int, count: int) -> None:
    body = b"x" * 495
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def one(share: int) -> None:
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            for _ in range(share):
                await stream.send_all(request)
                data = b""
                while not data.endswith(b"{}"):
                    data += await stream.receive_some(4096)

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(one, count // 16)


def xargs_rate(count: int, slots: int) -> float:
    """Processes a second of `xargs -n1 -P<slots> /bin/true`."""
    text = "\n".join(str(n) for n in range(count)).encode()
    started = time.perf_counter()
    subprocess.run(["xargs", "-n1", f"-P{slots}", "/bin/true"], input=text, check=True)
    return count / (time.perf_counter() - started)
