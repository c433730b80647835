"""The daemon about itself: counts, health, metrics, the OpenAPI file, backup."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import trio

from swarmd import __version__
from swarmd.api.calls import Call, Reply
from swarmd.api.native import messages as m
from swarmd.api.native.metrics import metrics_text
from swarmd.api.openapi import document
from swarmd.daemon.daemon import Daemon
from swarmd.offthread import in_thread
from swarmd.store.backup import backup

COPY_BYTES = 1 << 20


class SystemHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._backing_up = trio.Lock()

    async def counts(self, call: Call) -> m.CountsAnswer:
        engine = self.daemon.engine
        tasks, bots = engine.counts()
        answer = m.CountsAnswer(
            tasks=tasks, bots=bots, sessions=len(engine.sessions), graphs=len(engine.graphs)
        )
        await self.daemon.tellable()
        return answer

    async def health(self, call: Call) -> m.HealthAnswer:
        daemon = self.daemon
        full = daemon.writer.out_of_space
        return m.HealthAnswer(
            status="stopping" if daemon.stopping.is_set() else "no_space" if full else "ok",
            version=__version__,
            uptime_s=round(daemon.clock.now() - daemon.started_at, 3),
            database=daemon.config.db,
            out_of_space=full,
        )

    async def openapi(self, call: Call) -> Reply:
        return Reply(msgspec.json.encode(document()))

    async def metrics(self, call: Call) -> Reply:
        if not self.daemon.writer.out_of_space:  # a full disk is what they are looked at for
            await self.daemon.tellable()
        return Reply(metrics_text(self.daemon), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def backup(self, call: Call) -> Reply:
        """A consistent copy, made in a folder of its own beside the database, then sent and removed."""
        folder = await in_thread(_make_folder, Path(self.daemon.config.db))
        target = Path(folder.name) / "backup.db"
        try:
            async with self._backing_up:
                size = await backup(self.daemon.backend, target)
        except BaseException:
            with trio.CancelScope(shield=True):
                await in_thread(folder.cleanup)
            raise
        return Reply(
            content_type="application/octet-stream",
            headers=((b"content-length", str(size).encode()),),
            stream=_send_file(target, folder),
        )


def _make_folder(database: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=".swarmd-backup-", dir=database.resolve().parent)


async def _send_file(path: Path, folder: tempfile.TemporaryDirectory[str]) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := await in_thread(file.read, COPY_BYTES):
                yield data
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(folder.cleanup)
