"""Google's client of gRPC, in a process of its own, against a daemon with a service for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from .echo import echoing

ROOT = Path(__file__).parents[3]


async def client(url: str, scenario: str, *args: str) -> Any:
    command = [
        sys.executable,
        "-m",
        "tests.api.grpc.grpcio_client",
        url.removeprefix("http://"),
        scenario,
        *args,
    ]
    with trio.fail_after(60):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=ROOT
        )
    assert done.returncode == 0, done.stdout.decode()
    return json.loads(done.stdout.splitlines()[-1])


async def test_unary_calls():
    async with echoing() as (world, echo):
        assert await client(world.url, "unary") == ["hello 0", "hello 1", "hello 2"]
        assert echo.calls[0].method == "/swarmd.tests.Echo/Say"
        assert echo.calls[0].deadline - trio.current_time() < 10


async def test_many_calls_on_one_channel():
    async with echoing() as (world, _):
        assert await client(world.url, "many") == sum(range(1_000))
