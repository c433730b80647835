"""The service `Bots`, but for the history of a bot (`bot_events.py`): bots of all protocols, told, counted, deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from swarmd.api.calls import Call
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.proto import bots_pb2, common_pb2
from swarmd.api.swarming.services.bot_events import last_known
from swarmd.api.swarming.services.bot_infos import (
    BotInfos,
    check_bot_id,
    current_attempt,
    is_busy,
    no_such_bot,
)
from swarmd.api.swarming.services.common import cursor_key, cursor_text, moment, page_limit
from swarmd.api.swarming.services.filters import MAX_ALTERNATIVES
from swarmd.core.dimensions import FEATURE, ID, MAX_TASK_KEYS, MAX_TASK_VALUES, POOL, check_key, check_value
from swarmd.core.errors import Refused, Unknown
from swarmd.core.model import Bot, BotId, OpId
from swarmd.store.bot_history import op_names, terminations

CURSOR = "bots"
MAX_GIVEN = (
    MAX_TASK_KEYS * MAX_TASK_VALUES
)  # dimensions of a filter, repeated ones too; what is more costs the daemon

Filter = list[frozenset[str]]  # of each, a bot has at least one `key:value`


class BotMethods:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon
        self._infos = BotInfos()

    # ------------------------------------------------------------- bots

    async def get_bot(self, call: Call, request: bots_pb2.BotRequest) -> bots_pb2.BotInfo:
        check_bot_id(request.bot_id)
        bot = self._daemon.engine.bots.get(BotId(request.bot_id))
        if bot is None:
            return await self._deleted(request.bot_id)
        [info] = await self._told([bot])
        return info

    async def _deleted(self, id: str) -> bots_pb2.BotInfo:
        info = await self._daemon.read(lambda conn: last_known(conn, id))
        if info is None:
            raise no_such_bot(id)
        return info

    async def list_bots(self, call: Call, request: bots_pb2.BotsRequest) -> bots_pb2.BotInfoListResponse:
        limit = page_limit(request.limit)
        after = cursor_key(CURSOR, request.cursor) or ""
        wanted = _filter(request.dimensions)
        _check_states(request)
        wall = self._daemon.clock.wall()
        page: list[Bot] = []
        for bot in _matching(self._in_order(after), wanted):
            if _is_in_state(bot, request):
                page.append(bot)
                if len(page) == limit:
                    break
        return bots_pb2.BotInfoListResponse(
            cursor=cursor_text(CURSOR, page[-1].id) if len(page) == limit else "",
            items=await self._told(page),
            now=moment(wall),
            death_timeout=int(self._context.config.death_timeout_s),
        )

    def _in_order(self, after: str) -> Iterator[Bot]:
        bots = self._daemon.engine.bots
        return (bots[id] for id in sorted(id for id in bots if id > after))

    async def _told(self, bots: list[Bot]) -> list[bots_pb2.BotInfo]:
        """As they are now, once the file knows it too."""
        offset = self._daemon.clock.offset()
        infos = [self._infos.of(bot, offset) for bot in bots]
        ops = [self._current_op(bot) for bot in bots]
        running = [op for op in ops if op is not None]
        dead = [info.bot_id for info in infos if info.is_dead]
        await self._daemon.tellable()
        if not running and not dead:
            return infos
        names, ended = await self._daemon.read(
            lambda conn: (op_names(conn, running), terminations(conn, dead))
        )
        for info, op in zip(infos, ops, strict=True):
            if op is not None:
                info.task_name = names.get(op, "")
            if (run := ended.get(info.bot_id)) is not None:
                info.termination_task_id = task_id(OpId(run.task))
        return infos

    def _current_op(self, bot: Bot) -> OpId | None:
        attempt = current_attempt(bot)
        return None if attempt is None else self._daemon.engine.op_name(attempt)

    async def delete_bot(self, call: Call, request: bots_pb2.BotRequest) -> bots_pb2.DeleteResponse:
        """Raises `Conflict` for one that is connected: it would be back with its next call, and what it runs lost."""
        check_bot_id(request.bot_id)
        try:
            with self._daemon.step() as (engine, now):
                engine.delete_bot(now, BotId(request.bot_id))
        except Unknown:
            await self._daemon.tellable()
            raise no_such_bot(request.bot_id) from None
        await self._daemon.settled()
        return bots_pb2.DeleteResponse(deleted=True)

    # ------------------------------------------------------------- all together

    async def count_bots(self, call: Call, request: bots_pb2.BotsCountRequest) -> bots_pb2.BotsCount:
        wanted = _filter(request.dimensions)
        now = moment(self._daemon.clock.wall())
        count = quarantined = maintenance = dead = busy = 0
        for bot in _matching(self._daemon.engine.bots.values(), wanted):
            count += 1
            quarantined += bot.quarantined is not None
            maintenance += bot.maintenance is not None
            dead += bot.session is None
            busy += is_busy(bot)
        await self._daemon.tellable()
        return bots_pb2.BotsCount(
            now=now, count=count, quarantined=quarantined, maintenance=maintenance, dead=dead, busy=busy
        )

    async def get_bot_dimensions(
        self, call: Call, request: bots_pb2.BotsDimensionsRequest
    ) -> bots_pb2.BotsDimensions:
        """Of all bots in the pool, dead ones too. Not their ids: each is another one, and `ListBots` tells them."""
        ts = moment(self._daemon.clock.wall())
        bots = self._daemon.engine.bots.values()
        inside = f"{POOL}:{request.pool}"
        every = frozenset().union(*(b.values for b in bots if not request.pool or inside in b.values))
        found: dict[str, list[str]] = {}
        for key, _, value in (text.partition(":") for text in sorted(every)):
            if key not in (ID, FEATURE):
                found.setdefault(key, []).append(value)
        await self._daemon.tellable()
        pairs = [common_pb2.StringListPair(key=key, value=found[key]) for key in sorted(found)]
        return bots_pb2.BotsDimensions(bots_dimensions=pairs, ts=ts)


# --------------------------------------------------------------------- filters


def _filter(dimensions: Sequence[common_pb2.StringPair]) -> Filter:
    """Raises `RpcError` for what no task could require; the same may be asked for twice, and in several ways."""
    if len(dimensions) > MAX_GIVEN:
        raise _too_many(len(dimensions), "dimensions", MAX_GIVEN)
    found: dict[frozenset[str], None] = {}
    try:
        for pair in dimensions:
            check_key(pair.key)
            if pair.key == FEATURE:
                raise Refused("bad_dimension", "dimension 'feature' is not told", "leave it out")
            alternatives = pair.value.split("|")
            if len(alternatives) > MAX_ALTERNATIVES:
                raise _too_many(len(alternatives), f"alternatives for dimension {pair.key}", MAX_ALTERNATIVES)
            for value in alternatives:
                check_value(pair.key, value)
            found[frozenset(f"{pair.key}:{value}" for value in alternatives)] = None
    except Refused as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"dimensions: {error.message}; {error.remedy}") from None
    if len(found) > MAX_TASK_KEYS:
        raise _too_many(len(found), "different dimensions", MAX_TASK_KEYS)
    return list(found)


def _too_many(count: int, what: str, most: int) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"{count} {what}; at most {most} are allowed")


def _matching(bots: Iterable[Bot], wanted: Filter) -> Iterable[Bot]:
    if not wanted:
        return bots
    return (bot for bot in bots if not any(one.isdisjoint(bot.values) for one in wanted))


def _check_states(request: bots_pb2.BotsRequest) -> None:
    """Raises `RpcError` for a number that has no meaning: it must not mean all bots, who knows what for."""
    for name in ("quarantined", "in_maintenance", "is_dead", "is_busy"):
        value = getattr(request, name)
        if value not in (common_pb2.NULL, common_pb2.FALSE, common_pb2.TRUE):
            raise RpcError(Code.INVALID_ARGUMENT, f"{name} is {value}, expected NULL, FALSE or TRUE")


def _is_in_state(bot: Bot, request: bots_pb2.BotsRequest) -> bool:
    return (
        _agrees(request.quarantined, bot.quarantined is not None)
        and _agrees(request.in_maintenance, bot.maintenance is not None)
        and _agrees(request.is_dead, bot.session is None)
        and _agrees(request.is_busy, is_busy(bot))
    )


def _agrees(wanted: int, is_so: bool) -> bool:
    return wanted == common_pb2.NULL or is_so == (wanted == common_pb2.TRUE)
