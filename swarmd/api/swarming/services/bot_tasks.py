"""The service `Bots`, where it is about tasks: those that ran on a bot, and the one that ends it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from swarmd.api.calls import Call
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.proto import bots_pb2, common_pb2, tasks_pb2
from swarmd.api.swarming.services import filters
from swarmd.api.swarming.services.bot_infos import check_bot_id, no_such_bot
from swarmd.api.swarming.services.common import bad_cursor, cursor_key, cursor_text, moment, page_limit
from swarmd.api.swarming.services.requests import core_priority
from swarmd.api.swarming.services.results import Results, outcome_of
from swarmd.api.swarming.services.tasks import identity
from swarmd.core.errors import Unknown
from swarmd.core.model import BotId
from swarmd.daemon.terminating import terminate_bot
from swarmd.store.runs import BotFilter, BotRun, Place, RunRow, Sort, runs_of_bot

MAX_REASON = 1_000
CURSOR = "botTasks"
ALL = common_pb2.QUERY_ALL
NEVER_RAN = (
    common_pb2.QUERY_PENDING, common_pb2.QUERY_PENDING_RUNNING, common_pb2.QUERY_EXPIRED, common_pb2.QUERY_DEDUPED,
    common_pb2.QUERY_NO_RESOURCE, common_pb2.QUERY_CANCELED,
)  # fmt: skip
SORTS: dict[int, Sort] = {
    common_pb2.QUERY_CREATED_TS: "created",
    common_pb2.QUERY_STARTED_TS: "started",
    common_pb2.QUERY_COMPLETED_TS: "ended",
}


class BotTaskMethods:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon

    async def list_bot_tasks(
        self, call: Call, request: bots_pb2.BotTasksRequest
    ) -> tasks_pb2.TaskListResponse:
        """Each attempt that a bot has started, as it went there: another bot may have ended its task since."""
        check_bot_id(request.bot_id)
        limit, after = page_limit(request.limit), _place(request.cursor)
        wanted = _wanted(request)
        runs = await self._daemon.read(lambda conn: runs_of_bot(conn, wanted, after, limit))
        results = Results(
            self._daemon.engine.bots,
            with_performance=request.include_performance_stats,
            always_with_cost=True,
        )
        cursor = ""
        if len(runs) == limit:
            cursor = cursor_text(CURSOR, msgspec.json.encode(runs[-1].place).decode())
        answer = tasks_pb2.TaskListResponse(cursor=cursor, now=moment(self._daemon.clock.wall()))
        await results.put((_as_it_went(run) for run in runs), answer.items)
        return answer

    async def terminate_bot(
        self, call: Call, request: bots_pb2.TerminateRequest
    ) -> bots_pb2.TerminateResponse:
        """The task that ends a bot; the one that waits or runs already, if there is one."""
        bot, reason = request.bot_id, request.reason
        check_bot_id(bot)
        if len(reason) > MAX_REASON:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"reason has {len(reason)} characters: give at most {MAX_REASON}"
            )
        name = f"Terminate {bot}: {reason}" if reason else f"Terminate {bot}"
        caller = identity(call.caller)
        tags = (
            f"authenticated:{caller}", f"id:{bot}", "priority:0", "realm:none", "service_account:none",
            "swarming.pool.template:no_pool", "swarming.terminate:1", "user:none",
        )  # fmt: skip
        try:
            op = await terminate_bot(
                self._daemon, BotId(bot), name=name, tags=tags, owner=caller, priority=core_priority(0)
            )
        except Unknown:
            raise no_such_bot(bot) from None
        return bots_pb2.TerminateResponse(task_id=task_id(op))


def _wanted(request: bots_pb2.BotTasksRequest) -> BotFilter:
    """Raises `RpcError` (INVALID_ARGUMENT)."""
    found = filters.of_state(request.state)
    if request.state in NEVER_RAN:
        name = common_pb2.StateQuery.Name(request.state)
        raise RpcError(Code.INVALID_ARGUMENT, f"state {name}: such a task ran on no bot; give QUERY_ALL")
    sort = SORTS.get(request.sort)
    if sort is None or (sort != "created" and request.state != ALL):
        raise RpcError(
            Code.INVALID_ARGUMENT,
            "sort: give QUERY_CREATED_TS, or, with QUERY_ALL, QUERY_STARTED_TS or QUERY_COMPLETED_TS",
        )
    begin, end = filters.span(request)
    return BotFilter(request.bot_id, sort, begin, end, found.states, found.failed)


def _place(cursor: str) -> Place | None:
    key = cursor_key(CURSOR, cursor)
    if key is None:
        return None
    try:
        value, id = msgspec.json.decode(key, type=tuple[int | float, int])
    except msgspec.MsgspecError:
        raise bad_cursor() from None
    if not (math.isfinite(value) and abs(value) < 1 << 63 and 0 <= id < 1 << 63):
        raise bad_cursor()
    return value, id


def _as_it_went(run: BotRun) -> RunRow:
    told: dict[str, Any] = {"state": run.state, "ok": run.ok, "ended_wall": run.run.ended_wall}
    outcome = outcome_of(run.run)
    if outcome is not None:
        told["exit_code"] = outcome.exit_code
    return msgspec.structs.replace(run.run, op=msgspec.structs.replace(run.run.op, **told))
