"""A network in memory between the real client and the real server, with seeded faults on each piece sent.

Nothing but the sockets is replaced: requests pass the client's transport, h11 on both sides, and the
daemon's own connection class.
"""

from __future__ import annotations

import random
import socket
from collections import Counter, deque
from typing import Any

import trio

from swarmd.client import Client
from swarmd.client.address import parse_address
from swarmd.client.connection import Connection, Lost
from swarmd.client.transport import FRESH_S, IDLE_S, Transport

ADDRESS = ("127.0.0.1", 8710)
URL = f"http://{ADDRESS[0]}:{ADDRESS[1]}"
MAX_PIPE_BYTES = 256 << 10  # on the way in one direction; above it the sender waits
MAX_DELAY_S = 20.0
MAX_REPLAY_S = 120.0
MAX_REPLAYS = 64
CHANGING = (b"POST ", b"PUT ", b"DELETE ", b"PATCH ")


class _Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.broken = False
        self._stir = trio.Event()

    def stir(self) -> None:
        self._stir.set()
        self._stir = trio.Event()

    async def moved(self) -> None:
        await self._stir.wait()


class _Socket:
    """As much of a socket as the server and the client ask for."""

    family = socket.AF_INET

    def __init__(self, port: int, stream: SimStream | None = None) -> None:
        self._port = port
        self._stream = stream

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    def getsockname(self) -> tuple[str, int]:
        return ADDRESS

    def close(self) -> None:
        if self._stream is not None:
            self._stream.link.cut()

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if name == socket.SO_LINGER and self._stream is not None:
            self._stream.link.cut()

    def is_readable(self) -> bool:
        assert self._stream is not None
        pipe = self._stream.inbound
        return bool(pipe.data) or pipe.ended or pipe.broken


class Link:
    """A connection: two pipes."""

    def __init__(self, net: Network, port: int) -> None:
        self.net = net
        to_server, to_client = _Pipe(), _Pipe()
        self.pipes = (to_server, to_client)
        self.client = SimStream(self, to_client, to_server, port, from_client=True)
        self.server = SimStream(self, to_server, to_client, port, from_client=False)

    def cut(self) -> None:
        """Both ends find the connection reset; what was under way is lost."""
        for pipe in self.pipes:
            pipe.broken = True
            pipe.data.clear()
            pipe.stir()
        self.net.links.discard(self)


class SimStream(trio.abc.HalfCloseableStream):
    """One end of a link."""

    def __init__(self, link: Link, inbound: _Pipe, outbound: _Pipe, port: int, from_client: bool) -> None:
        self.link = link
        self.inbound = inbound
        self.outbound = outbound
        self.from_client = from_client
        self.socket: Any = _Socket(port, self)
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raw = bytes(data)
        if self._closed:
            raise trio.ClosedResourceError
        kept = await self.link.net.disturb(self, raw)
        if self.outbound.broken or self.outbound.ended:
            raise trio.BrokenResourceError
        while len(self.outbound.data) > MAX_PIPE_BYTES:
            await self.outbound.moved()
            if self.outbound.broken:
                raise trio.BrokenResourceError
        self.outbound.data += raw[:kept]
        self.outbound.stir()
        if kept < len(raw):
            self.outbound.ended = True  # what came before the reset is still read
            self.inbound.broken = True
            self.inbound.stir()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self.inbound
        while not (pipe.data or pipe.ended or pipe.broken or self._closed):
            await pipe.moved()
        if self._closed:
            raise trio.ClosedResourceError
        if pipe.broken:
            raise trio.BrokenResourceError
        size = self.link.net.read_size(min(max_bytes or 65_536, len(pipe.data)))
        data = bytes(pipe.data[:size])
        del pipe.data[:size]
        pipe.stir()
        return data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.outbound.broken:
            raise trio.BrokenResourceError
        self.outbound.ended = True
        self.outbound.stir()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.outbound.ended = True
            self.outbound.stir()
            self.inbound.stir()
            if self.inbound.ended or self.inbound.broken:
                self.link.net.links.discard(self.link)
            elif not self.from_client:
                self.inbound.broken = True  # the other side's next write fails
        await trio.lowlevel.checkpoint()


class Listener:
    """What `daemon.server.serve` listens on."""

    def __init__(self) -> None:
        self.socket: Any = _Socket(ADDRESS[1])
        self.open = True
        self._waiting: deque[SimStream] = deque()
        self._news = trio.Event()

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            self._news = trio.Event()
            await self._news.wait()

    def take(self) -> SimStream | None:
        return self._waiting.popleft() if self._waiting else None

    def has_left(self, stream: SimStream) -> bool:
        return stream.inbound.ended or stream.inbound.broken

    def add(self, stream: SimStream) -> None:
        """A client has connected."""
        self._waiting.append(stream)
        self._news.set()

    async def aclose(self) -> None:
        self.open = False
        await trio.lowlevel.checkpoint()


class Network:
    """All links. `rate`: the chance of a fault for each piece sent; 0 ends the faults."""

    def __init__(self, rng: random.Random, nursery: trio.Nursery, injected: Counter[str]) -> None:
        self.rng = rng
        self.rate = 0.0
        self.links: set[Link] = set()
        self.listener: Listener | None = None
        self._nursery = nursery
        self._injected = injected
        self._ports = iter(range(20_000, 10_000_000))
        self._replays = 0

    def listen(self) -> Listener:
        self.listener = Listener()
        return self.listener

    def connect(self) -> SimStream:
        """The client's end of a new link. Raises `Lost` while nobody listens."""
        if self.listener is None or not self.listener.open:
            raise Lost("connection refused", sent=False)
        link = Link(self, next(self._ports))
        self.links.add(link)
        self.listener.add(link.server)
        return link.client

    def cut_all(self) -> None:
        """The daemon's process is gone: no byte leaves it any more."""
        self.listener = None
        for link in sorted(self.links, key=lambda link: link.client.socket.getpeername()[1]):
            link.cut()

    def read_size(self, most: int) -> int:
        if most > 1 and self.rate and self.rng.random() < 0.2:
            return self.rng.randint(1, most)
        return most

    async def disturb(self, stream: SimStream, data: bytes) -> int:
        """Perhaps something happens to what is sent now; returns how many bytes of it arrive."""
        rng = self.rng
        if not data or rng.random() >= self.rate:
            return len(data)
        if stream.from_client:
            kind = rng.choice(
                ("request delayed", "request duplicated", "reset before request", "reset in request")
            )
        else:
            kind = rng.choice(("slow reader", "answer lost", "reset in answer"))
        if kind == "request duplicated" and not (data.startswith(CHANGING) and self._replays < MAX_REPLAYS):
            return len(data)
        self._injected[kind] += 1
        if kind == "request duplicated":
            self._replays += 1
            self._nursery.start_soon(self._replay, data, rng.uniform(0, rng.choice((1.0, MAX_REPLAY_S))))
        elif kind in ("request delayed", "slow reader"):
            await trio.sleep(rng.uniform(0, MAX_DELAY_S))
        elif kind in ("reset in request", "reset in answer"):
            return rng.randint(0, len(data) - 1)
        else:
            stream.link.cut()
        return len(data)

    async def _replay(self, data: bytes, after_s: float) -> None:
        """The network delivers a request a second time; the answer goes nowhere."""
        await trio.sleep(after_s)
        try:
            stream = self.connect()
        except Lost:
            return
        try:
            with trio.move_on_after(60):
                await stream.send_all(data)
                await stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()


class SimTransport(Transport):
    """The client's transport over the simulated network."""

    def __init__(self, net: Network, patience_s: float) -> None:
        super().__init__(parse_address(URL), "", patience_s)
        self._net = net

    async def _connection(self, repeatable: bool) -> Connection:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            usable_s = IDLE_S if repeatable else FRESH_S
            if now - connection.idle_since <= usable_s and not connection.is_gone():
                return connection
            await connection.close()
        await trio.lowlevel.checkpoint()
        return Connection(self._net.connect())  # type: ignore[arg-type]


def sim_client(net: Network, patience_s: float = 10.0) -> Client:
    """A client of its own, with its own connections."""
    transport = SimTransport(net, patience_s)
    transport.reached = True
    return Client(transport)
