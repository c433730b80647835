"""What the methods of the client API do. Imported at the first call of one of them, with protobuf."""

from __future__ import annotations

from collections.abc import Iterable

from swarmd.api.swarming.bot_code import BotCode
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.methods import METHODS
from swarmd.api.swarming.prpc.discovery import Discovery
from swarmd.api.swarming.services.bot_events import BotEventMethods
from swarmd.api.swarming.services.bot_tasks import BotTaskMethods
from swarmd.api.swarming.services.bots import BotMethods
from swarmd.api.swarming.services.listing import ListingMethods
from swarmd.api.swarming.services.server import ServerMethods
from swarmd.api.swarming.services.tasks import TaskMethods


def parts(context: Context, code: BotCode) -> Iterable[object]:
    """Each method of `METHODS` is an attribute of exactly one of these."""
    return (
        TaskMethods(context),
        ListingMethods(context),
        BotMethods(context),
        BotEventMethods(context),
        BotTaskMethods(context),
        ServerMethods(context, code),
        Discovery(METHODS),
    )
