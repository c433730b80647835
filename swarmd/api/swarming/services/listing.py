"""The service `Tasks`, many at a time: found by tags, states and times; counted, canceled."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from swarmd.api.calls import Call
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming import tables
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.proto import common_pb2, tasks_pb2
from swarmd.api.swarming.services import filters
from swarmd.api.swarming.services.common import cursor_key, cursor_text, moment, page_limit
from swarmd.api.swarming.services.results import Results, is_deduped
from swarmd.api.swarming.services.tasks import requests_of
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import OpId
from swarmd.store.runs import RunRow, list_runs
from swarmd.store.selecting import OpFilter, count_ops, matching_ops

TASKS, REQUESTS, CANCELS = "tasks", "requests", "cancels"  # what a cursor goes on with
MAX_COUNT = (1 << 31) - 1
PAGE_BYTES = (
    8 << 20
)  # of requests, or a single one: each may have 64 MiB, and a thousand of them no place anywhere


class ListingMethods:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon
        self._realm_of = context.realm_of

    async def list_tasks(
        self, call: Call, request: tasks_pb2.TasksWithPerfRequest
    ) -> tasks_pb2.TaskListResponse:
        limit, before = page_limit(request.limit), _before(TASKS, request.cursor)
        wanted = _wanted(request)

        def read(conn: sqlite3.Connection) -> tuple[list[RunRow], dict[int, int]]:
            runs = list_runs(conn, wanted, before, limit)
            return runs, slices_of(conn, runs)

        runs, slices = await self._daemon.read(read)
        results = Results(
            self._daemon.engine.bots, slices, with_performance=request.include_performance_stats
        )
        answer = tasks_pb2.TaskListResponse(cursor=_cursor(TASKS, runs, limit), now=self._now())
        await results.put(runs, answer.items)
        return answer

    async def list_task_requests(
        self, call: Call, request: tasks_pb2.TasksRequest
    ) -> tasks_pb2.TaskRequestsResponse:
        limit, before = page_limit(request.limit), _before(REQUESTS, request.cursor)
        wanted = _wanted(request)

        def read(conn: sqlite3.Connection) -> tuple[str, list[tasks_pb2.TaskRequestResponse]]:
            runs = list_runs(conn, wanted, before, limit)
            some = _some(runs, tables.request_sizes(conn, [run.op.id for run in runs]))
            full = len(some) if len(some) < len(runs) else limit
            return _cursor(REQUESTS, some, full), requests_of(conn, some, self._realm_of)

        cursor, items = await self._daemon.read(read)
        return tasks_pb2.TaskRequestsResponse(items=items, cursor=cursor, now=self._now())

    async def count_tasks(self, call: Call, request: tasks_pb2.TasksCountRequest) -> tasks_pb2.TasksCount:
        if not request.HasField("start"):
            raise RpcError(Code.INVALID_ARGUMENT, "start is required")
        wanted = _matching(request, filters.of_state(request.state))
        count = await self._daemon.read(lambda conn: count_ops(conn, wanted))
        return tasks_pb2.TasksCount(count=min(count, MAX_COUNT), now=self._now())

    async def cancel_tasks(
        self, call: Call, request: tasks_pb2.TasksCancelRequest
    ) -> tasks_pb2.TasksCancelResponse:
        """Those that wait, and with `kill_running` those that run. The next page begins below this one."""
        if not request.tags:
            raise RpcError(Code.INVALID_ARGUMENT, "tags is required: without it everything would be canceled")
        limit, before = page_limit(request.limit), _before(CANCELS, request.cursor)
        query = common_pb2.QUERY_PENDING_RUNNING if request.kill_running else common_pb2.QUERY_PENDING
        wanted = _matching(request, filters.of_state(query))
        ops = await self._daemon.read(lambda conn: matching_ops(conn, wanted, limit, before))
        with self._daemon.step() as (engine, now):
            for op in ops:
                engine.withdraw(now, OpId(op), "canceled by its submitter", request.kill_running)
        await self._daemon.settled()
        cursor = cursor_text(CANCELS, to_text(ops[-1])) if len(ops) == limit else ""
        return tasks_pb2.TasksCancelResponse(matched=len(ops), cursor=cursor, now=self._now())

    def _now(self) -> Any:
        return moment(self._daemon.clock.wall())


def slices_of(conn: sqlite3.Connection, runs: Sequence[RunRow]) -> dict[int, int]:
    """Of those that were found finished, which slice it was."""
    deduped = [run.op.id for run in runs if is_deduped(run.op)]
    return {op: slice for op, (slice, _) in tables.requests(conn, deduped).items()}


def _wanted(request: tasks_pb2.TasksWithPerfRequest | tasks_pb2.TasksRequest) -> OpFilter:
    filters.check_sort(request.sort)
    return _matching(request, filters.of_state(request.state))


def _matching(request: Any, wanted: OpFilter) -> OpFilter:
    return filters.within(filters.with_tags(wanted, request.tags), *filters.span(request))


def _before(kind: str, cursor: str) -> int | None:
    """The operation that the page before ended with."""
    key = cursor_key(kind, cursor)
    if key is None:
        return None
    id = from_text(key)
    if id is None:
        raise RpcError(Code.INVALID_ARGUMENT, "bad pagination cursor")
    return id


def _some(runs: Sequence[RunRow], sizes: Mapping[int, int]) -> Sequence[RunRow]:
    """The first ones, as many as go into a page."""
    size = 0
    for number, run in enumerate(runs):
        size += sizes[run.op.id]
        if size > PAGE_BYTES and number:
            return runs[:number]
    return runs


def _cursor(kind: str, runs: Sequence[RunRow], limit: int) -> str:
    return cursor_text(kind, to_text(runs[-1].op.id)) if len(runs) == limit else ""
