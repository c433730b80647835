"""Google's client of gRPC, in a process of its own, against a daemon with a service for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from google.rpc import status_pb2

from swarmd.api.rpc import Code

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
        assert await client(world.url, "many") == sum(range(1_500))


async def test_statuses_with_messages_and_details():
    async with echoing() as (world, _):
        *found, missing, garbled = await client(world.url, "statuses")
        for code, one in zip(list(Code)[1:], found, strict=True):
            assert one["code"] == code.name
            assert one["message"] == f"100% größer {code:d}\\n"  # a terminal must not obey it
            details = status_pb2.Status.FromString(bytes.fromhex(one["trailers"]["grpc-status-details-bin"]))
            assert details.code == code and details.details[0].type_url.endswith("swarmd.tests.Text")
        assert (missing["code"], garbled["code"]) == ("UNIMPLEMENTED", "INVALID_ARGUMENT")


async def test_errors_of_the_core_and_of_handlers():
    async with echoing() as (world, _):
        unknown, busy, broken = await client(world.url, "core_errors")
        assert (unknown["code"], unknown["trailers"]["x-swarmd-code"]) == ("NOT_FOUND", "unknown_task")
        assert (busy["code"], busy["message"]) == ("UNAVAILABLE", "not now; later")
        assert (broken["code"], broken["trailers"]["x-swarmd-code"]) == ("INTERNAL", "internal")


async def test_metadata_goes_both_ways():
    async with echoing() as (world, _):
        text, data, fields = await client(world.url, "metadata")
        assert (text, data) == ("a text", "00ff")
        assert fields == {"first": "1", "first-bin": "0001", "last": "2", "last-bin": "ff"}


async def test_deadlines_and_cancels_end_the_handlers():
    async with echoing() as (world, echo):
        assert [e["code"] for e in await client(world.url, "deadlines")] == ["DEADLINE_EXCEEDED"] * 2
        assert echo.cancelled == ["hold", "hold"]
        assert [e["code"] for e in await client(world.url, "cancels")] == ["CANCELLED"] * 2
        with trio.fail_after(10):
            while len(echo.cancelled) < 4:
                await trio.sleep(0.01)
        assert not echo.ended


async def test_large_messages_and_long_streams():
    async with echoing() as (world, _):
        mib = 1 << 20
        big, uploaded, count, size, down, over = await client(world.url, "sizes")
        assert (big, uploaded, count, size) == (6 * mib, 6 * mib, 64, str(64 * mib))
        assert (down, over) == (50 * mib, "RESOURCE_EXHAUSTED")


async def test_all_kinds_of_streams():
    async with echoing() as (world, _):
        down, up, both, turns, rest, seen, code, early = await client(world.url, "streams")
        assert (down, up, both) == ([0, 1, 2, 3], 10, list("012345"))
        assert (turns, rest, seen, code, early) == ([0, 1, 2], [], [0, 1], "ABORTED", "enough")


async def test_compressed_calls():
    async with echoing() as (world, _):
        assert await client(world.url, "compressed") == [100_000, "15000"] * 2


@asynccontextmanager
async def holding(world: Any, count: int) -> AsyncIterator[list[Any]]:
    """A client with held calls; its result is in the list when the block is left."""
    result: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            result.append(await client(world.url, "held", str(count)))

        nursery.start_soon(ask)
        yield result


@pytest.mark.parametrize("count", [800, 900])
async def test_many_held_calls_end_together(count):
    async with echoing() as (world, echo), holding(world, count) as result:
        with trio.fail_after(60):
            while len(echo.begun) < count:
                await trio.sleep(0.01)
        echo.release.set()
        with trio.fail_after(60):
            while not result:
                await trio.sleep(0.01)
    assert result == [[{"OK": count}, "OK"]]


async def test_a_stop_answers_held_calls_and_takes_no_more():
    async with trio.open_nursery() as nursery, echoing() as (world, echo):
        result: list[Any] = []

        async def ask() -> None:
            result.append(await client(world.url, "held", "50"))

        async def stop_after_a_while() -> None:
            await world.daemon.stopping.wait()
            await trio.sleep(0.5)  # the client has learned that the daemon leaves
            echo.release.set()

        nursery.start_soon(ask)
        nursery.start_soon(stop_after_a_while)
        with trio.fail_after(60):
            while len(echo.begun) < 50:
                await trio.sleep(0.01)
    assert result == [[{"OK": 50}, "UNAVAILABLE"]]
    assert "after" not in echo.begun


async def test_a_unix_socket(tmp_path):
    async with echoing(tcp=False) as (world, _):
        assert await client(world.url, "unary") == ["hello 0", "hello 1", "hello 2"]
