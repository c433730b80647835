"""The Remote Workers API, as BuildGrid speaks it: bots that come by gRPC. Source: docs/remoteworkers.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarmd.api.grpc import Service
    from swarmd.api.problems import Handler, Package
    from swarmd.config import Config
    from swarmd.daemon.daemon import Daemon


def package(daemon: Daemon) -> Package:
    from swarmd.api import native
    from swarmd.api.problems import Package
    from swarmd.api.remoteworkers.context import Context
    from swarmd.api.remoteworkers.insight import InsightHandlers

    context = Context(daemon)
    insight = InsightHandlers(context)
    daemon.meters.append(insight.gauges)

    async def prepare(config: Config) -> Callable[[], None]:
        return lambda: context.become(config.remoteworkers)

    def load() -> tuple[Service, ...]:
        from swarmd.api.remoteworkers.service import service  # brings protobuf: only who is called needs it

        return (service(context),)

    handlers: dict[str, Handler] = {"list_instances": insight.list_instances}  # of a route of the native API
    return Package("remoteworkers", (), handlers, (), native.form, prepare, grpc=load)
