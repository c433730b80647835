"""The native API: `/api/v1`, JSON over HTTP. Source: docs/http-api.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarmd.api.calls import Reply
    from swarmd.api.problems import Handler, Package, Problem
    from swarmd.daemon.daemon import Daemon

# About one other protocol, whose package has it.
ANSWERED_ELSEWHERE = frozenset({"list_instances", "mint_bootstrap"})


def package(daemon: Daemon) -> Package:
    from swarmd.api.native.routes import ROUTES
    from swarmd.api.problems import Package
    from swarmd.core.features import NATIVE

    with daemon.step() as (engine, _):
        engine.bots_can("native", NATIVE)
    return Package("native", ROUTES, _handlers(daemon), ("/api/v1/",), form)


def form(problem: Problem) -> Reply:
    """An error as the native API tells it."""
    from swarmd.api.calls import json_reply
    from swarmd.api.native.messages import ErrorAnswer, ErrorBody

    body = ErrorBody(
        code=problem.code, message=problem.message, remedy=problem.remedy, details=problem.details
    )
    return json_reply(ErrorAnswer(error=body), problem.status, problem.headers)


def _handlers(daemon: Daemon) -> dict[str, Handler]:
    """The handler of each name that `routes.ROUTES` uses."""
    from swarmd.api.native.blobs import BlobHandlers
    from swarmd.api.native.bots import BotHandlers
    from swarmd.api.native.events import EventHandlers
    from swarmd.api.native.graphs import GraphHandlers
    from swarmd.api.native.output import OutputHandlers
    from swarmd.api.native.routes import ROUTES
    from swarmd.api.native.sync import BotCallHandlers
    from swarmd.api.native.system import SystemHandlers
    from swarmd.api.native.tasks import TaskHandlers

    parts = [
        kind(daemon)
        for kind in (
            TaskHandlers, GraphHandlers, OutputHandlers, EventHandlers, BotHandlers, BlobHandlers, BotCallHandlers,
            SystemHandlers,
        )
    ]  # fmt: skip
    found: dict[str, Handler] = {}
    for route in ROUTES:
        if route.handler in ANSWERED_ELSEWHERE:
            continue
        owners = [part for part in parts if hasattr(part, route.handler)]
        assert len(owners) == 1, f"{route.handler} has {len(owners)} owners"
        found[route.handler] = getattr(owners[0], route.handler)
    return found
