"""A daemon that goes away and comes back on the same address, inside one test."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from functools import partial

import trio
import trio_asyncio

from swarmd.api.app import open_app
from swarmd.api.migrations import MIGRATIONS
from swarmd.config import Config
from swarmd.daemon.daemon import open_daemon
from swarmd.daemon.listeners import open_listeners
from swarmd.daemon.server import ServerSettings, serve
from swarmd.store.backend import open_backend
from swarmd.testing.clock import install_hold
from swarmd.testing.harness import YEAR_S, virtual_wall


class Restarting:
    """`async with Restarting(path) as daemons`: `daemons.url` stays the same over `await daemons.restart()`."""

    def __init__(self, path) -> None:
        self.path = path
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.daemon = None

    async def __aenter__(self) -> Restarting:
        install_hold(trio.lowlevel.current_clock())
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(trio_asyncio.open_loop())
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        await self._nursery.start(self._live)
        return self

    async def __aexit__(self, *exc) -> None:
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        await self._stack.aclose()

    async def restart(self, away_s: float = 0.0) -> None:
        self._stop.set()
        await self._ended.wait()
        await trio.sleep(away_s)
        await self._nursery.start(self._live)

    async def _live(self, task_status) -> None:
        self._stop, self._ended = trio.Event(), trio.Event()
        config = Config(db=str(self.path))
        settings = ServerSettings(idle_s=YEAR_S, header_s=YEAR_S, graceful_s=5.0)
        backend = await open_backend(self.path, migrations=MIGRATIONS)
        try:
            self.daemon = daemon = await open_daemon(config, backend, wall=virtual_wall)
            listeners = await open_listeners([("127.0.0.1", self.port)], None)
            shutdown = trio.Event()
            async with trio.open_nursery() as nursery:
                await nursery.start(daemon.run)
                async with trio.open_nursery() as serving:
                    app = await open_app(daemon)
                    await serving.start(partial(serve, app, listeners, shutdown=shutdown, settings=settings))
                    task_status.started()
                    await self._stop.wait()
                    daemon.stop_soon()
                    shutdown.set()
                await daemon.writer.drain()
                nursery.cancel_scope.cancel()
        finally:
            await backend.close()
            self._ended.set()
