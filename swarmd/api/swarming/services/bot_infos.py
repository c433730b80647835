"""A bot of any protocol as Swarming clients are told it. Source: docs/swarming-clients.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.ids import run_id
from swarmd.api.swarming.proto import bots_pb2, common_pb2
from swarmd.api.swarming.services.common import moment
from swarmd.core.dimensions import FEATURE, ID
from swarmd.core.ids import to_text
from swarmd.core.model import Attempt, AttemptState, Bot

MAX_PAIRS = 10_000  # kept; a lab's bots have some hundreds between them
MAX_TOLD_ID = 256  # characters of a bot's id that an error repeats

Dimensions = Mapping[str, tuple[str, ...]]


def no_such_bot(id: str) -> RpcError:
    return RpcError(Code.NOT_FOUND, f"no such bot: {id[:MAX_TOLD_ID]}")


def check_bot_id(id: str) -> None:
    """Raises `RpcError` for the one that is none."""
    if not id:
        raise RpcError(Code.INVALID_ARGUMENT, "bot_id is required")


def dimensions_of(bot: Bot) -> dict[str, tuple[str, ...]]:
    """What the bot has; what the server assigned replaces. What its protocol can express is our own affair."""
    return {key: values for key, values in {**bot.dimensions, **bot.assigned}.items() if key != FEATURE}


def is_busy(bot: Bot) -> bool:
    """Not idle: it runs something, or would not take anything."""
    return not bot.takes_work or (bot.session is not None and bool(bot.session.attempts))


def current_attempt(bot: Bot) -> Attempt | None:
    """Of all that a bot with several slots holds, the one that has been running longest; else the oldest offer."""
    if bot.session is None or not bot.session.attempts:
        return None
    return min(
        bot.session.attempts.values(), key=lambda a: (a.state is not AttemptState.RUNNING, a.started_at, a.id)
    )


def identity(bot: str) -> str:
    """Whom a bot's calls are from: no bot of this daemon has another name than its own."""
    return f"bot:{bot}"


class BotInfos:
    """Makes the messages."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, tuple[str, ...]], common_pb2.StringListPair] = {}

    def of(self, bot: Bot, offset: float) -> bots_pb2.BotInfo:
        """All but `task_name` and `termination_task_id`, which only the file knows. `offset`: wall time minus engine
        time."""
        attempt = current_attempt(bot)
        return bots_pb2.BotInfo(
            bot_id=bot.id,
            task_id="" if attempt is None else run_id(attempt),
            authenticated_as=identity(bot.id),
            first_seen_ts=moment(bot.first_seen_at + offset),
            is_dead=bot.session is None,
            last_seen_ts=moment(bot.last_seen_at + offset),
            quarantined=bot.quarantined is not None,
            maintenance_msg=maintenance_text(bot.maintenance),
            dimensions=self.pairs(dimensions_of(bot)),
            version=bot.version,
            state=bot.state.decode("utf-8", "replace"),
            session_id="" if bot.session is None else to_text(bot.session.id),
        )

    def pairs(self, dimensions: Dimensions) -> Iterable[common_pb2.StringListPair]:
        """Keys sorted, and the values of each. Bots are much alike, so equal pairs are made once: that halves the time
        of a large page."""
        if len(self._pairs) > MAX_PAIRS:
            self._pairs.clear()
        found = []
        for item in sorted(dimensions.items()):
            pair = self._pairs.get(item)
            if pair is None:
                key, values = item
                pair = common_pb2.StringListPair(key=key, value=sorted(values))
                if key != ID:
                    self._pairs[item] = pair
            found.append(pair)
        return found


def maintenance_text(reason: str | None) -> str:
    """Not empty for a bot under maintenance, which is how clients see it."""
    return "" if reason is None else reason or "under maintenance"
