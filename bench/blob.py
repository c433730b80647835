"""Memory and time of the daemon while a blob of 1 GiB goes in and out."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator

import trio

from bench.processes import Process, daemon, folder
from swarmd.client import open_client

SIZE = 1 << 30
PIECE = os.urandom(1 << 20)


def main() -> None:
    with folder() as place, daemon(place) as (server, url):
        before = server.peak_mib()
        put_s, get_s = trio.run(_there_and_back, url, server)
        grown = server.peak_mib() - before
    print(f"blob of {SIZE >> 20:,} MiB: the daemon grew by {grown:.0f} MiB at its peak (limit 32)")
    print(f"  in: {put_s:.1f} s, out: {get_s:.1f} s")


async def _there_and_back(url: str, server: Process) -> tuple[float, float]:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(SIZE // len(PIECE)):
            yield PIECE

    async with open_client(url) as client:
        started = time.perf_counter()
        blob = await client.upload(pieces(), SIZE)
        put = time.perf_counter()
        received = 0
        async with client.blob(blob.sha256) as response:
            async for data in response:
                received += len(data)
        assert received == SIZE
        return put - started, time.perf_counter() - put
