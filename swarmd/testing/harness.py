"""A whole daemon inside a test: in the test's own nursery, on its clock, over a real socket.

    async def test_something(autojump_clock, tmp_path):
        async with running(tmp_path / "swarmd.db") as world:
            [id] = await world.client.submit([task(argv=["true"])])

Nothing is replaced but time: the same engine, store, server, edge and handlers as in production. `path=None` keeps the
database in memory. See docs/testing.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio_asyncio

from swarmd.api.app import open_app
from swarmd.api.edge import Edge
from swarmd.api.migrations import MIGRATIONS
from swarmd.client import Client, open_client
from swarmd.config import Config
from swarmd.daemon.daemon import Daemon, open_daemon
from swarmd.daemon.http2 import Fields, ServeStream, Stream
from swarmd.daemon.listeners import Listener, listener_url, open_listeners, remove_unix_socket
from swarmd.daemon.retention import keep_within
from swarmd.daemon.server import Context, ServerSettings, serve
from swarmd.store.backend import open_backend
from swarmd.store.blobs import drop_incomplete
from swarmd.testing.clock import install_hold

WALL = 1_790_000_000.0  # the wall clock of a test starts here: 21 September 2026
YEAR_S = 366 * 86_400.0
# Idle limits must not become the next deadline that a virtual clock jumps to.
LIMITS = ServerSettings(idle_s=YEAR_S, header_s=YEAR_S, graceful_s=5.0)

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class RunningDaemon:
    """A daemon that lives in a test. `url` is for programs outside, `client` is a typed client of it."""

    def __init__(self, daemon: Daemon, app: Edge, url: str, client: Client, path: Path | None) -> None:
        self.daemon = daemon
        self.app = app
        self.url = url
        self.client = client
        self.path = path

    @property
    def now(self) -> float:
        """Engine time."""
        return self.daemon.clock.now()


def virtual_wall() -> float:
    """A wall clock that moves with trio's."""
    return WALL + trio.current_time()


@asynccontextmanager
async def running(
    path: Path | None = None,
    *,
    config: Config = Config(),
    tcp: bool = False,
    at: str = "",
    retention: bool = False,
    wall: Callable[[], float] = virtual_wall,
    failpoint: Callable[[str], None] = lambda name: None,
    is_dead: Callable[[], bool] = lambda: False,
    limits: ServerSettings = LIMITS,
    tls: Context | None = None,
) -> AsyncIterator[RunningDaemon]:
    """A daemon with its server, until the block is left; then it stops as on SIGTERM.

    `tcp`: listens on a free port of 127.0.0.1 instead of a Unix socket. `at`: the URL of an earlier daemon, to
    listen there again. `retention`: also removes what is old. `limits` and `tls`: of the server. Cancelled, it ends at
    once and commits nothing more; where `is_dead` is true by then, it says nothing more either, as after
    `kill -9`. Under a virtual clock the clock stands still while SQLite works.
    """
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        install_hold(clock)
    config = msgspec.structs.replace(config, db=str(path) if path is not None else ":memory:")
    with tempfile.TemporaryDirectory(prefix="swarmd-test-") as folder:
        addresses, socket = _where(tcp, at, Path(folder))
        async with trio_asyncio.open_loop():
            backend = await open_backend(path, durability=config.durability, migrations=MIGRATIONS)
            try:
                daemon = await open_daemon(config, backend, wall=wall, failpoint=failpoint)
                app = await open_app(daemon)
                listeners = await open_listeners(addresses, socket)
                served = _silent_when(is_dead, app), _silent_calls_when(is_dead, app.grpc)
                async with (
                    _serving(daemon, served, listeners, retention, limits, tls) as url,
                    open_client(url) as client,
                ):
                    yield RunningDaemon(daemon, app, url, client, path)
            finally:
                await backend.close()
                if socket is not None:
                    remove_unix_socket(socket)


def _where(tcp: bool, at: str, folder: Path) -> tuple[list[tuple[str, int]], Path | None]:
    """What to listen on: TCP addresses, and the path of a Unix socket."""
    if at.startswith("unix:"):
        return [], Path(at.removeprefix("unix:"))
    if at:
        return [("127.0.0.1", int(at.rpartition(":")[2]))], None
    return ([("127.0.0.1", 0)], None) if tcp else ([], folder / "s")


def _silent_when(is_dead: Callable[[], bool], app: Asgi) -> Asgi:
    """`app`, whose answers stay unsent once `is_dead`: a handler that shields itself would still answer."""

    async def silenced(scope: Any, receive: Any, send: Any) -> None:
        async def send_alive(message: Any) -> None:
            if is_dead():
                await trio.sleep_forever()  # until it is cancelled, with everything else
            await send(message)

        await app(scope, receive, send_alive)

    return silenced


def _silent_calls_when(is_dead: Callable[[], bool], serve_stream: ServeStream) -> ServeStream:
    """The same for calls of gRPC."""

    class Silenced(Stream):
        __slots__ = ()

        async def head(self, fields: Fields, end: bool = False) -> None:
            await self._if_alive()
            await super().head(fields, end)

        async def send(self, data: bytes) -> None:
            await self._if_alive()
            await super().send(data)

        async def end(self, trailers: Fields | None = None) -> None:
            await self._if_alive()
            await super().end(trailers)

        async def _if_alive(self) -> None:
            if is_dead():
                await trio.sleep_forever()

    async def silenced(stream: Stream) -> None:
        stream.__class__ = Silenced
        await serve_stream(stream)

    return silenced


@asynccontextmanager
async def _serving(
    daemon: Daemon,
    served: tuple[Asgi, ServeStream],
    listeners: list[Listener],
    retention: bool,
    settings: ServerSettings,
    tls: Context | None,
) -> AsyncIterator[str]:
    shutdown = trio.Event()
    url = listener_url(listeners[0], tls=tls is not None)
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        await drop_incomplete(daemon.backend, daemon.writer)
        if retention:
            nursery.start_soon(keep_within, daemon)
        try:
            async with trio.open_nursery() as serving:
                app, grpc = served
                await serving.start(
                    partial(serve, app, listeners, shutdown=shutdown, settings=settings, grpc=grpc, tls=tls)
                )
                try:
                    yield url
                finally:
                    daemon.stop_soon()
                    shutdown.set()
            with trio.move_on_after(settings.graceful_s):
                await daemon.writer.drain()
        finally:
            nursery.cancel_scope.cancel()
