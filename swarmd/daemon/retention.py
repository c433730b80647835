"""Keeps the file within its limits of age and size, without a sweep: it sleeps until something will be due."""

from __future__ import annotations

import logging

import trio

from swarmd.daemon.daemon import Daemon
from swarmd.store.retention import Retention, next_due, run_once

log = logging.getLogger("swarmd.retention")

SHORTEST_S = 600.0
LONGEST_S = 86_400.0


def settings_of(daemon: Daemon) -> Retention:
    config = daemon.config
    return Retention(days=config.retention_days, bytes=int(config.retention_gib * (1 << 30)))


async def keep_within(daemon: Daemon) -> None:
    """Removes what is due, then sleeps until the next thing will be: at least 10 minutes, at most a day."""
    while True:
        if not daemon.writer.out_of_space:
            removed = await run_once(daemon.backend, daemon.writer, daemon.clock.wall(), settings_of(daemon))
            if removed.tasks or removed.blobs:
                log.info("removed", extra={"tasks": removed.tasks, "blobs": removed.blobs})
        due = await next_due(daemon.backend, daemon.clock.wall(), settings_of(daemon))
        await trio.sleep(min(LONGEST_S, max(SHORTEST_S, due - daemon.clock.wall())))
