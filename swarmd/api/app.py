"""The application: the routes of all packages behind one edge."""

from __future__ import annotations

from swarmd.api import native, remoteworkers, swarming
from swarmd.api.edge import Edge
from swarmd.daemon.daemon import Daemon


async def open_app(daemon: Daemon) -> Edge:
    """Raises `ConfigError` for a token file, a bot's code or hooks that cannot be used."""
    return Edge(
        daemon, (native.package(daemon), *await swarming.packages(daemon), remoteworkers.package(daemon))
    )
