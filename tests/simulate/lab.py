"""One daemon that is started, stopped and killed at named points, on one disk and one network."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import trio

from swarmd.api.app import open_app
from swarmd.config import Config
from swarmd.core.engine import Engine
from swarmd.daemon.daemon import Daemon, open_daemon
from swarmd.daemon.server import ServerSettings, serve
from swarmd.store.backend import Backend
from swarmd.store.blobs import drop_incomplete
from swarmd.store.check import check_file
from swarmd.store.errors import StoreBroken
from swarmd.store.loading import load, read_clock
from swarmd.testing.harness import WALL, YEAR_S
from tests.core.dumps import check_deeply, differences, dump

from .disk import Disk
from .network import Network

COMMIT_POINTS = ("before_commit", "after_commit")
MAX_STARTS = 200


class Lab:
    """`run` keeps a daemon alive. `stop` and `kill` end the present one; after `down_s` the next begins."""

    def __init__(self, disk: Disk, net: Network, rng: random.Random, injected: Counter[str]) -> None:
        self.disk = disk
        self.net = net
        self.daemon: Daemon | None = None
        self.faults: list[str] = []
        self.starts = 0
        self.down_s = 0.0
        self._rng = rng
        self._injected = injected
        self._wall_jump_s = 0.0
        self._kill_at: tuple[str, int] | None = None
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self._up = trio.Event()
        self._killed = False

    # ------------------------------------------------------------- what is done to it

    def stop(self) -> None:
        """As SIGTERM."""
        self._injected["stopped and started"] += 1
        self._stop.set()

    def kill(self) -> None:
        """As `kill -9`: no byte leaves, nothing more is written, memory is gone."""
        self._injected["killed"] += 1
        self._die()

    def kill_at(self, point: str, commits: int) -> None:
        """Kills at `point` of the commit after the next `commits`."""
        assert point in COMMIT_POINTS
        self._kill_at = (point, commits)

    def jump_wall(self, seconds: float) -> None:
        self._injected["wall clock jumped"] += 1
        self._wall_jump_s += seconds

    def forget_kill(self) -> None:
        self._kill_at = None

    async def up(self) -> Daemon:
        """The running daemon, as soon as there is one."""
        while self.daemon is None:
            await self._up.wait()
        return self.daemon

    def _die(self) -> None:
        self._killed = True
        self.disk.dead = True
        self.net.cut_all()
        self._scope.cancel()

    def _failpoint(self, name: str) -> None:
        if self._kill_at is None or self._kill_at[0] != name:
            return
        point, left = self._kill_at
        if left:
            self._kill_at = (point, left - 1)
            return
        self._kill_at = None
        self._injected[f"killed {name.replace('_', ' ')}"] += 1
        self._die()
        raise StoreBroken("killed")

    def _wall(self) -> float:
        return WALL + trio.current_time() + self._wall_jump_s

    # ------------------------------------------------------------- its life

    async def run(self) -> None:
        """Starts daemons until cancelled."""
        while self.starts < MAX_STARTS:
            self.starts += 1
            self._stop, self._killed = trio.Event(), False
            with trio.CancelScope() as self._scope:
                try:
                    await self._one_life()
                except* StoreBroken:
                    if not self._killed:
                        raise
            self.daemon = None
            self.net.listener = None
            if self.disk.path is not None:
                self.faults += [
                    f"check after a stop: {f.name}: {f.sentence}" for f in check_file(self.disk.path)
                ]
            await trio.sleep(self.down_s)
        raise AssertionError(f"{MAX_STARTS} starts")

    async def _one_life(self) -> None:
        backend = await self.disk.open()
        try:
            daemon = await open_daemon(
                Config(db=str(self.disk.path or ":memory:"), bot_back_s=20.0),
                backend,
                wall=self._wall,
                failpoint=self._failpoint,
            )
            check_deeply(daemon.engine)
            async with trio.open_nursery() as nursery:
                await nursery.start(daemon.run)
                await drop_incomplete(backend, daemon.writer)
                await self._serve(daemon)
                if not daemon.writer.out_of_space:
                    await daemon.writer.drain()
                    await self.compare(daemon, backend)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await backend.close()

    async def _serve(self, daemon: Daemon) -> None:
        settings = ServerSettings(idle_s=YEAR_S, header_s=YEAR_S, graceful_s=5.0)
        shutdown = trio.Event()
        listening = self.net.listen()
        async with trio.open_nursery() as serving:
            app = await open_app(daemon)
            listeners: Any = [listening]
            await serving.start(partial(serve, app, listeners, shutdown=shutdown, settings=settings))
            self.daemon = daemon
            self._up.set()
            self._up = trio.Event()
            await self._stop.wait()
            daemon.stop_soon()
            shutdown.set()

    # ------------------------------------------------------------- what must hold at rest

    async def compare(self, daemon: Daemon, backend: Backend) -> None:
        """Memory says what the file says: an engine loaded from the file is the same."""
        check_deeply(daemon.engine)
        clock = await backend.read(read_clock)
        if clock is None or daemon.engine.changes.attempts or daemon.engine.lookups:
            return  # deadlines moved by the last start are written with the next change
        now = clock.now
        loaded = Engine(daemon.engine.settings, now, clock.last_id)
        await backend.read(lambda conn: load(conn, loaded, clock, now, clock.wall))
        if daemon.writer.version != daemon.engine.version:
            return  # something happened meanwhile
        for line in differences(dump(daemon.engine), dump(loaded)):
            self.faults.append(f"memory and file differ: {line}")
