"""Calls of gRPC: what one costs the daemon, how many a second on one channel, and held ones that end together.

The client is Google's, in a process of its own. The limit is a server that does nothing but echo, on the same h2 and
trio. `python -m bench.grpc SERVER` runs one of the servers, `python -m bench.grpc calls URL` is the client.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import trio

from bench.processes import Process, folder, parts, tell

LONE, MANY, AT_ONCE, HELD = 1_500, 8_000, 32, 800
SAY = "/swarmd.tests.Echo/Say"


def main() -> None:
    found = {}
    for server in ("bare", "daemon"):
        with serving(server) as (process, url):
            client = [sys.executable, "-m", "bench.grpc", "calls", url, str(int(server == "daemon"))]
            found[server] = parts(process, client)
    bare, daemon = found["bare"], found["daemon"]
    for name, what in (("lone", "1 at a time"), ("many", f"{AT_ONCE} in flight on one channel")):
        cpu, limit = daemon[name]["cpu_us"], bare[name]["cpu_us"]
        print(f"grpc: unary calls, {what}: {daemon[name]['rate']:,.0f} /s, server CPU {cpu:.0f} µs each;")
        print(
            f"  a bare echo on h2 and trio: {bare[name]['rate']:,.0f} /s, {limit:.0f} µs: ratio {cpu / limit:.2f}"
        )
    held = daemon["held"]
    print(
        f"grpc: {HELD} held calls on one channel: begun in {held['begin_s']:.2f} s, ended in {held['end_s']:.3f} s"
    )
    print(f"  memory {held['kib']:.1f} KiB each")


@contextmanager
def serving(name: str) -> Iterator[tuple[Process, str]]:
    """One of the servers below, and its URL."""
    with folder() as place:
        process = Process([sys.executable, "-m", "bench.grpc", name], place / "server.log", subprocess.PIPE)
        try:
            assert process.popen.stdout is not None
            yield process, process.popen.stdout.readline().decode().strip()
        finally:
            process.popen.kill()
            process.popen.wait()


# ------------------------------------------------------------------ the client's process


def _calls(url: str, held: bool) -> None:
    import grpc.aio

    from tests.api.grpc.echo_pb2 import Text

    async def run() -> None:
        async with grpc.aio.insecure_channel(url.removeprefix("http://")) as channel:
            say = channel.unary_unary(
                SAY, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
            )

            async def some(count: int) -> None:
                for n in range(count):
                    answer = await say(Text(text="a call of gRPC", number=n))
                    assert answer.number == n

            await some(200)
            for name, tasks, count in (("lone", 1, LONE), ("many", AT_ONCE, MANY)):
                tell(name)
                began = time.perf_counter()
                await asyncio.gather(*(some(count // tasks) for _ in range(tasks)))
                tell({"name": name, "count": count, "rate": count / (time.perf_counter() - began)})
            if held:
                tell("held")
                began = time.perf_counter()
                waiting = [say(Text(text="hold", number=n)) for n in range(HELD)]
                while (await say(Text(text="begun"))).number < HELD:
                    await asyncio.sleep(0.01)
                begun = time.perf_counter()
                await say(Text(text="release"))
                answers = await asyncio.gather(*waiting)
                ended = time.perf_counter()
                assert [a.number for a in answers] == list(range(HELD))
                tell({"name": "held", "count": HELD, "begin_s": begun - began, "end_s": ended - begun})

    asyncio.run(run())


# ------------------------------------------------------------------ the servers' processes


async def _daemon() -> None:
    from tests.api.grpc.echo import echoing

    async with echoing() as (world, _):
        print(world.url, flush=True)
        await trio.sleep_forever()


async def _bare() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(_echo, listeners)


async def _echo(stream: trio.SocketStream) -> None:
    """What cannot be left out: frames, fields, windows; nothing is checked."""
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    conn.initiate_connection()
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    while True:
        if data := conn.data_to_send():
            await stream.send_all(data)
        for event in conn.receive_data(bytes(await stream.receive_some(65_536))):
            match event:
                case h2.events.RequestReceived():
                    conn.send_headers(event.stream_id, head)
                case h2.events.DataReceived():
                    conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    conn.send_data(event.stream_id, event.data)
                case h2.events.StreamEnded():
                    conn.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)
                case h2.events.ConnectionTerminated():
                    return


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["daemon"]:
            trio.run(_daemon)
        case ["bare"]:
            trio.run(_bare)
        case ["calls", url, held]:
            _calls(url, held == "1")
