"""The application: the routes of all packages behind one edge."""

from __future__ import annotations

from swarmd.api import native
from swarmd.api.edge import Edge
from swarmd.api.guard import Guard
from swarmd.api.native.routes import ROUTES
from swarmd.daemon.daemon import Daemon


def make_app(daemon: Daemon) -> Edge:
    """Raises `ConfigError` for a token file that cannot be used."""
    return Edge(daemon, Guard(daemon.config), ROUTES, native.handlers(daemon))
