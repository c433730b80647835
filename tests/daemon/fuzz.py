"""Odd clients next to a well-behaved one that must never notice, for a time or a number of connections.

Two targets: the server with a toy application, in this process, and the whole of `swarmd serve` in one of its own.
Real clock and loopback sockets.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import trio

from swarmd.api.native import messages as m
from swarmd.client import Client, open_client, task
from swarmd.daemon.listeners import open_listeners
from swarmd.daemon.server import ServerSettings, serve
from swarmd.store.check import check_file
from swarmd.testing.bots import NativeBot
from tests.faults.served import Served, served

from .odd_calls import ODD_CALLS
from .odd_clients import ODD, Ask, OddClient, Target

AT_ONCE = 16  # odd clients
ODD_S = 5.0  # for one of them
ANSWER_S = 20.0  # for an answer to the well-behaved client
SETTLE_S = 10.0  # in which the last connections must have gone
MOST_FAULTS = 10  # then the run ends: it is broken enough
MOST_MIB = 1_000  # of the daemon's memory, at its peak
LONG_BYTES = 2_000_000
KINDS = (*ODD, *ODD_CALLS)


@dataclass
class Counts:
    """What a run did: odd connections, the well-behaved client's requests, how many of these failed, and leaks."""

    connections: int = 0
    requests: int = 0
    failed: int = 0
    leaked: int = 0
    slowest_s: float = 0.0
    peak_mib: float = 0.0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return len(self.faults) >= MOST_FAULTS


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def until_no_more_than(idle: int, pid: int | str = "self") -> int:
    """How many descriptors are open above `idle` when there was time for them to go."""
    ends = time.monotonic() + SETTLE_S
    while descriptors(pid) > idle and time.monotonic() < ends:
        await trio.sleep(0.05)
    return max(0, descriptors(pid) - idle)


# ------------------------------------------------------------------ both kinds of clients


async def odd_clients(
    port: int,
    to: Target,
    counts: Counts,
    *,
    seed: int,
    seconds: float,
    connections: float,
    kinds: Sequence[OddClient],
) -> None:
    """`AT_ONCE` at a time, each with a seed of its own, until one of the limits is reached."""
    ends = time.monotonic() + seconds

    async def one_after_another() -> None:
        while time.monotonic() < ends and counts.connections < connections and not counts.broken:
            number = counts.connections
            counts.connections += 1
            rng = random.Random(seed * 1_000_000 + number)
            kind = kinds[number % len(kinds)]
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError as error:
                counts.faults.append(f"connection {number}: {error}")
                continue
            async with stream:
                with suppress(trio.BrokenResourceError), trio.move_on_after(ODD_S):
                    await kind(stream, rng, to)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one_after_another)


async def well_behaved(ask: Callable[[int], Awaitable[int]], over: trio.Event, counts: Counts) -> None:
    """Asks until `over`. Every answer must be right and come in time; `ask` tells how many requests it made."""
    number = 0
    while not over.is_set() and not counts.broken:
        number += 1
        began = time.monotonic()
        try:
            with trio.fail_after(ANSWER_S):
                counts.requests += await ask(number)
        except Exception as error:
            counts.failed += 1
            counts.faults.append(f"the well-behaved client, round {number}: {error!r}")
        counts.slowest_s = max(counts.slowest_s, time.monotonic() - began)
        await trio.sleep(0.002)


async def side_by_side(
    ask: Callable[[int], Awaitable[int]], counts: Counts, odd: Callable[[], Awaitable[None]]
) -> None:
    over, began = trio.Event(), time.monotonic()
    async with trio.open_nursery() as clients:
        clients.start_soon(well_behaved, ask, over, counts)
        await odd()
        over.set()
    counts.seconds = time.monotonic() - began
    if not counts.requests:
        counts.faults.append("the well-behaved client had no answer at all")


# ------------------------------------------------------------------ the server alone


async def toy(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/stream":
        await send(start)
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 5000, "more_body": True})
            await trio.sleep(0.001)
        await send({"type": "http.response.body", "body": b"end"})
        return
    if scope["path"] == "/raise":
        raise RuntimeError("broken app")
    if scope["path"] == "/hold":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"hello"
    if scope["path"] == "/echo":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    if scope["path"] == "/big":
        body = b"b" * LONG_BYTES
    start["headers"] = [(b"content-length", b"%d" % len(body))]
    await send(start)
    await send({"type": "http.response.body", "body": body})


TOY = Target(
    host=b"a",
    short=(Ask(b"/hello"), Ask(b"/raise")),
    long=(Ask(b"/big"),),
    streams=(Ask(b"/stream"),),
    held=(Ask(b"/hold"),),
    posts=(Ask(b"/echo", b"POST", b"what is sent comes back"),),
)


class Echo:
    """Asks the toy on one kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None

    async def __call__(self, number: int) -> int:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        body = b"%d " % number + os.urandom(30).hex().encode()
        try:
            await self._stream.send_all(TOY.request(Ask(b"/echo", b"POST", body)))
            got = b""
            while not got.endswith(body):
                part = await self._stream.receive_some(2**16)
                assert part, f"closed after {got!r}"
                got += part
            assert got.startswith(b"HTTP/1.1 200"), got
        except BaseException:
            await self.close()
            raise
        return 1

    async def close(self) -> None:
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)
            self._stream = None


async def fuzz_server(
    *,
    seed: int,
    seconds: float = math.inf,
    connections: float = math.inf,
    kinds: Sequence[OddClient] = KINDS,
) -> Counts:
    """The server with the toy application. Raises when the server ends by itself."""
    with quiet():
        return await _fuzz_server(seed, seconds, connections, kinds)


@contextmanager
def quiet() -> Iterator[None]:
    """The toy fails on purpose, thousands of times, and odd clients are complained about."""
    log = logging.getLogger("swarmd.server")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


async def _fuzz_server(seed: int, seconds: float, connections: float, kinds: Sequence[OddClient]) -> Counts:
    counts = Counts()
    settings = ServerSettings(idle_s=2, header_s=2, send_timeout_s=2, graceful_s=1)
    before, shutdown = descriptors(), trio.Event()
    listeners = await open_listeners([("127.0.0.1", 0)], None)
    port = listeners[0].socket.getsockname()[1]

    async def server(task_status: trio.TaskStatus[None]) -> None:
        await serve(toy, listeners, shutdown=shutdown, settings=settings, task_status=task_status)
        assert shutdown.is_set(), "the server ended by itself"

    async def odd() -> None:
        await odd_clients(port, TOY, counts, seed=seed, seconds=seconds, connections=connections, kinds=kinds)

    async with trio.open_nursery() as nursery:
        await nursery.start(server)
        idle = descriptors()
        echo = Echo(port)
        await side_by_side(echo, counts, odd)
        await echo.close()
        counts.leaked = await until_no_more_than(idle)
        if counts.leaked:
            counts.faults.append(f"{counts.leaked} descriptors leaked")
        with trio.move_on_after(settings.graceful_s + settings.send_timeout_s + 5) as ending:
            shutdown.set()
            while descriptors() > before + counts.leaked:
                await trio.sleep(0.01)
        if ending.cancelled_caught:
            counts.faults.append("the shutdown did not come to an end")
            nursery.cancel_scope.cancel()
    return counts


# ------------------------------------------------------------------ the whole daemon


async def furnish(client: Client, host: str) -> Target:
    """A daemon with something to show: output, a blob, tasks that wait, a session that is held."""
    blob = os.urandom(LONG_BYTES)
    digest = (await client.upload_bytes(blob)).sha256
    bot = NativeBot(client, "b1", dimensions={"os": ["linux"]}, slots=4)
    await bot.open()
    done, runs = await client.submit([task(argv=["a"], dimensions={"os": ["linux"]}) for _ in range(2)])
    for offer in await bot.take(2):
        bot.start(offer.attempt)
    await bot.sync()
    first, second = bot.running
    await client.append_output(first, "stdout", 0, b"o" * LONG_BYTES)
    bot.finish(first)
    await bot.sync()
    [waits] = await client.submit([task(argv=["a"], dimensions={"os": ["none"]})])

    def api(path: str, method: str = "GET", body: object = b"", type: str = "application/json") -> Ask:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return Ask(f"/api/v1{path}".encode(), method.encode(), data, type.encode())

    raw = "application/octet-stream"
    small = b"a blob of few bytes"
    sync = m.SyncRequest(seq=bot.seq + 1, running=[second], wait_s=5.0)
    return Target(
        host=host.encode(),
        short=(
            api("/health"), api("/counts"), api("/tasks?limit=3"), api(f"/tasks/{done}"), api("/bots"),
            api(f"/tasks/{waits}/explain"), api("/nothing"), api(f"/blobs/{digest}", "HEAD"), api("/tasks", "PUT"),
        ),
        long=(
            api("/tasks?limit=1000"), api("/openapi.json"), api(f"/blobs/{digest}"),
            api(f"/tasks/{done}/output/stdout?limit=2000000"), Ask(b"/metrics"),
        ),
        streams=(
            api("/events/stream"), api(f"/tasks/{runs}/follow"), api(f"/tasks/{done}/follow"),
        ),
        held=(
            api(f"/tasks/{waits}/output/stdout?wait_s=5"),
            api("/tasks/wait", "POST", m.WaitRequest(ids=[waits], wait_s=5.0)),
            api(f"/sessions/{bot.session}/sync", "POST", sync),
        ),
        posts=(
            api("/tasks", "POST", m.SubmitRequest(tasks=[task(argv=["a"], tags=["odd"])] * 3)),
            api("/graphs", "POST", m.GraphRequest(tasks=[task(argv=["a"], key="a"), task(noop=True, after=["a"])])),
            api("/blobs", "POST", small, raw),
            api("/blobs", "POST", blob, raw),
            api(f"/blobs/{sha256(small).hexdigest()}", "PUT", small, raw),
            api("/blobs/missing", "POST", m.BlobQuery(digests=[digest])),
            api(f"/attempts/{second}/output/stderr?offset=0", "POST", b"e" * 5_000, raw),
            api("/tasks/wait", "POST", m.WaitRequest(ids=[done], wait_s=5.0)),
            api(f"/sessions/{bot.session}/sync", "POST", sync),
            api("/bots/b2/sessions", "POST", m.SessionRequest(
                session_key="k" * 8, bot_key="b" * 16, dimensions={"os": ["mac"]})),
        ),
    )  # fmt: skip


class Submitter:
    """Submits a task, reads it, cancels it, reads it again."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, number: int) -> int:
        name = f"well-behaved {number}"
        [id] = await self._client.submit([task(argv=["a"], name=name, dimensions={"os": ["none"]})])
        details = await self._client.get(id)
        assert (details.state, details.name) == ("PENDING", name), details
        answer = await self._client.cancel([id])
        assert answer.matched == 1, answer
        assert (await self._client.get(id)).state == "CANCELED"
        return 4


async def fuzz_daemon(
    folder: Path, *, seed: int, seconds: float = math.inf, connections: float = math.inf,
    kinds: Sequence[OddClient] = KINDS,
) -> Counts:  # fmt: skip
    """`swarmd serve`, with its file and log in `folder`."""
    counts = Counts()
    with served(folder / "swarmd.db", log=folder / "log") as daemon:
        host = daemon.url.removeprefix("http://")
        async with open_client(daemon.url, patience_s=0) as client:
            to = await furnish(client, host)

            async def odd() -> None:
                await odd_clients(
                    int(host.rpartition(":")[2]), to, counts,
                    seed=seed, seconds=seconds, connections=connections, kinds=kinds,
                )  # fmt: skip

            idle = descriptors(daemon.process.pid)
            await side_by_side(Submitter(client), counts, odd)
            if daemon.process.poll() is None:
                counts.leaked = await until_no_more_than(idle, daemon.process.pid)
                counts.peak_mib = _peak_mib(daemon.process.pid)
        counts.faults += _end(daemon, counts)
    counts.faults += [f"log: {line}" for line in (folder / "log").read_text().splitlines()[:MOST_FAULTS]]
    counts.faults += [f"check: {f.name}: {f.sentence}" for f in check_file(folder / "swarmd.db")]
    return counts


def _end(daemon: Served, counts: Counts) -> list[str]:
    """Stops the daemon; what was wrong with it."""
    faults = []
    if daemon.process.poll() is not None:
        faults.append(f"the daemon ended by itself with code {daemon.process.returncode}")
    if counts.leaked:
        faults.append(f"{counts.leaked} descriptors leaked")
    if counts.peak_mib > MOST_MIB:
        faults.append(f"the daemon took {counts.peak_mib:.0f} MiB")
    daemon.stop()
    if not faults and daemon.process.returncode != 0:
        faults.append(f"told to stop, the daemon ended with code {daemon.process.returncode}")
    return faults


def _peak_mib(pid: int) -> float:
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024
