"""The collector of cycles: how rarely it looks at everything, and that it may be so rare."""

from __future__ import annotations

import gc
from collections import Counter

import msgspec
import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.daemon.garbage import CALLS, GROWTH, LEAST_BYTES, Collector, quiet_collector
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.grpc.echo import echoing
from tests.api.grpc.echo_pb2 import Text
from tests.api.grpc.raw_client import SAY, RawClient

MIB = 1 << 20


@pytest.mark.parametrize(
    "start_mib, enough_mib",
    [(30, 30 + LEAST_BYTES // MIB), (500, int(500 * GROWTH))],
    ids=["little memory: by as much as matters", "much memory: by its share"],
)
async def test_cycles_are_sought_when_there_is_so_much_more_memory(start_mib, enough_mib):
    memory, served = [start_mib * MIB], []

    async def app(scope, receive, send):
        served.append(scope)

    collector = Collector(lambda: memory[0])
    counted = collector.around(app)

    async def calls(count: int) -> None:
        for number in range(count):
            await counted(number, None, None)

    memory[0] = enough_mib * MIB
    await calls(CALLS)
    assert collector.looks == 0, "there was not enough more"
    memory[0] += 1
    await calls(CALLS - 1)
    assert collector.looks == 0, "the memory is looked at after so many calls"
    await calls(1)
    assert collector.looks == 1
    await calls(CALLS)
    assert collector.looks == 1, "cycles were sought for the growth before"
    assert len(served) == 3 * CALLS


def test_python_does_not_look_by_itself_until_the_end():
    with quiet_collector():
        assert not gc.isenabled()
        assert gc.get_freeze_count()
    assert gc.isenabled()
    gc.unfreeze()


async def test_a_connection_of_http2_leaves_nothing_for_the_collector():
    """With calls that were answered, refused, and held until the client went."""
    count = 20
    async with echoing() as (world, echo):

        async def come_and_go() -> None:
            clients = []
            for _ in range(count):
                client = RawClient(
                    await trio.open_tcp_stream("127.0.0.1", int(world.url.rpartition(":")[2])), b"localhost"
                )
                assert (await client.say("a")).status == 0
                assert (await client.answer(await client.call(b"/no/Method"))).status == 12
                assert await client.status(await client.ask(b"/api/v1/health")) == 200
                await client.call(SAY, Text(text="hold"))
                clients.append(client)
            while len(echo.begun) < 2 * count:
                await trio.sleep(0.01)
            for client in clients:
                client.stream.socket.close()
            while len(echo.cancelled) < count:
                await trio.sleep(0.01)
            echo.begun.clear(), echo.cancelled.clear(), echo.calls.clear(), clients.clear()
            await trio.testing.wait_all_tasks_blocked()

        await come_and_go()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await come_and_go()
            gc.collect()
            left = [
                type(o).__qualname__ for o in gc.garbage if type(o).__module__.startswith(("swarmd", "trio"))
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert len(left) < count, (
            f"{len(left)} objects were left by {count} connections: {Counter(left).most_common(9)}"
        )


async def test_a_held_connection_leaves_nothing_for_the_collector(tmp_path):
    """What would be left by each of ten thousand bots could not wait until the memory has doubled."""
    count = 20
    async with running(tmp_path / "swarmd.db", tcp=True) as world:
        bots = [NativeBot(world.client, f"b{number}") for number in range(count)]
        for bot in bots:
            await bot.open()
        port = int(world.url.rpartition(":")[2])
        body = msgspec.json.encode(m.SyncRequest(seq=1, free=1, wait_s=50))

        async def come_and_go() -> None:
            streams = []
            for bot in bots:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(
                    f"POST /api/v1/sessions/{bot.session}/sync HTTP/1.1\r\nHost: localhost\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                streams.append(stream)
            while len(world.daemon.held) < count:
                await trio.sleep(0.01)
            for stream in streams:
                stream.socket.close()
            while world.daemon.held:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()

        await come_and_go()
        gc.collect()
        gc.disable()
        try:
            await come_and_go()
            left = gc.collect()
        finally:
            gc.enable()
        assert left < 5 * count, f"{left} objects were left by {count} connections"
