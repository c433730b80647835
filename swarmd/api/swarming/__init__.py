"""LUCI Swarming: the API of its bots, and that of its clients. Source: docs/swarming.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarmd.api.problems import Handler, Package
    from swarmd.daemon.daemon import Daemon

PREFIXES = ("/swarming/", "/bot_code", "/bootstrap", "/.well-known/")


async def packages(daemon: Daemon) -> tuple[Package, Package]:
    """Raises `ConfigError` for bot code, groups or hooks that cannot be used."""
    from swarmd.api.problems import Package
    from swarmd.api.swarming import methods
    from swarmd.api.swarming.accounts import AccountHandlers
    from swarmd.api.swarming.bootstrap import BootstrapHandlers
    from swarmd.api.swarming.bot_code import BotCode, CodeHandlers
    from swarmd.api.swarming.bots import BotHandlers
    from swarmd.api.swarming.context import Context
    from swarmd.api.swarming.errors import form
    from swarmd.api.swarming.groups import Groups
    from swarmd.api.swarming.id_keys import IdKeys
    from swarmd.api.swarming.links import LinkHandlers
    from swarmd.api.swarming.prpc import errors as prpc_errors
    from swarmd.api.swarming.prpc.layer import Layer
    from swarmd.api.swarming.rbe import RbeHandlers
    from swarmd.api.swarming.routes import ROUTES
    from swarmd.api.swarming.tasks import TaskHandlers
    from swarmd.config import Config
    from swarmd.offthread import in_thread

    context = Context(daemon)
    id_keys = IdKeys(daemon)
    await context.signer.load()
    await id_keys.load()
    # Only what takes a while goes to a thread: else a start would depend on when a thread has its turn.
    code = await in_thread(BotCode, context.config) if context.config.bot_code else BotCode(context.config)
    bootstrap = BootstrapHandlers(context, code)
    parts = (
        BotHandlers(context, code), TaskHandlers(context), RbeHandlers(context), AccountHandlers(context, id_keys),
        CodeHandlers(context, code), bootstrap, LinkHandlers(context),
    )  # fmt: skip
    handlers: dict[str, Handler] = {}
    for route in ROUTES:
        owners = [part for part in parts if hasattr(part, route.handler)]
        assert len(owners) == 1, f"{route.handler} has {len(owners)} owners"
        handlers[route.handler] = getattr(owners[0], route.handler)
    handlers["mint_bootstrap"] = bootstrap.mint_bootstrap  # of a route of the native API

    async def prepare(config: Config) -> Callable[[], None]:
        groups = await in_thread(Groups, config.swarming)
        newer = await in_thread(BotCode, config.swarming)
        await newer.prepare_as(code)

        def take() -> None:
            context.become(config.swarming, groups)
            code.become(newer)

        return take

    def load() -> Iterable[object]:
        from swarmd.api.swarming.services import parts  # brings protobuf: only who is called needs it

        return parts(context, code)

    calls = Layer(methods.METHODS, load)
    bots = Package(
        "swarming", ROUTES, handlers, PREFIXES, form, prepare, context.lesser, bootstrap.check_ticket
    )
    return bots, Package("prpc", methods.ROUTES, calls.handlers, methods.PREFIXES, prpc_errors.form)
