"""From what a client looks for to a filter of operations. Source: protocol reference, reading tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.ids import EPOCH_S
from swarmd.api.swarming.proto import common_pb2
from swarmd.api.swarming.services.common import since
from swarmd.core.dimensions import POOL
from swarmd.core.model import TaskState
from swarmd.store.selecting import OpFilter

MAX_ALTERNATIVES = 64
MAX_VALUES = 64  # of all tags together: each may be looked up for each task that matches the others
_WAITING = (TaskState.BLOCKED, TaskState.PENDING)
QUERIES: Mapping[int, OpFilter] = {
    common_pb2.QUERY_PENDING: OpFilter(states=_WAITING),
    common_pb2.QUERY_RUNNING: OpFilter(states=(TaskState.RUNNING,)),
    common_pb2.QUERY_PENDING_RUNNING: OpFilter(states=(*_WAITING, TaskState.RUNNING)),
    common_pb2.QUERY_COMPLETED: OpFilter(states=(TaskState.COMPLETED,)),
    common_pb2.QUERY_COMPLETED_SUCCESS: OpFilter(states=(TaskState.COMPLETED,), failed=False),
    common_pb2.QUERY_COMPLETED_FAILURE: OpFilter(states=(TaskState.COMPLETED,), failed=True),
    common_pb2.QUERY_EXPIRED: OpFilter(states=(TaskState.EXPIRED,)),
    common_pb2.QUERY_TIMED_OUT: OpFilter(states=(TaskState.TIMED_OUT,)),
    common_pb2.QUERY_BOT_DIED: OpFilter(states=(TaskState.BOT_DIED,)),
    common_pb2.QUERY_CANCELED: OpFilter(states=(TaskState.CANCELED, TaskState.SKIPPED)),
    common_pb2.QUERY_ALL: OpFilter(),
    common_pb2.QUERY_DEDUPED: OpFilter(states=(TaskState.COMPLETED,), shared=True),
    common_pb2.QUERY_KILLED: OpFilter(states=(TaskState.KILLED,)),
    common_pb2.QUERY_NO_RESOURCE: OpFilter(states=(TaskState.NO_RESOURCE,)),
    common_pb2.QUERY_CLIENT_ERROR: OpFilter(states=(TaskState.CLIENT_ERROR,)),
}


def of_state(state: int) -> OpFilter:
    """Raises `RpcError` (INVALID_ARGUMENT)."""
    found = QUERIES.get(state)
    if found is None:
        raise RpcError(Code.INVALID_ARGUMENT, f"state {state} is none of StateQuery")
    return found


def with_tags(wanted: OpFilter, tags: Iterable[str]) -> OpFilter:
    """Each of `tags` is `key:value`, or `key:a|b` for alternatives. All must match.

    A pool is found by the task's own pool, also where whoever submitted it wrote no such tag.
    """
    entries, pools, left = [], set[str](), MAX_VALUES
    for text in dict.fromkeys(tags):
        alternatives = _alternatives(text)
        left -= len(alternatives)
        if left < 0:
            raise RpcError(Code.INVALID_ARGUMENT, f"tags has more than {MAX_VALUES} values in all")
        if text.startswith(POOL + ":") and len(alternatives) == 1:
            pools.add(text.partition(":")[2])
        entries.append(alternatives)
    if len(pools) == 1:
        [pool] = pools
        own = (f"{POOL}:{pool}",)
        entries = [entry for entry in entries if entry != own]
        wanted = msgspec.structs.replace(wanted, pool=pool)
    return msgspec.structs.replace(wanted, tags=tuple(entries))


def _alternatives(text: str) -> tuple[str, ...]:
    key, colon, values = text.partition(":")
    found = tuple(dict.fromkeys(values.split("|")))
    if not colon or not key or key != key.strip() or not all(v and v == v.strip() for v in found):
        raise RpcError(
            Code.INVALID_ARGUMENT, f"bad tag {text[:80]!r}: expected key:value, or key:a|b for alternatives"
        )
    if len(found) > MAX_ALTERNATIVES:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"tag {key[:80]!r} has more than {MAX_ALTERNATIVES} alternatives"
        )
    return tuple(f"{key}:{value}" for value in found)


def within(wanted: OpFilter, start: float | None, end: float | None) -> OpFilter:
    return msgspec.structs.replace(wanted, created_from=start, created_before=end)


def span(request: Any) -> tuple[float | None, float | None]:
    """`start` (inclusive) and `end` (exclusive) of a request, in seconds since 1970. Raises `RpcError`
    (INVALID_ARGUMENT)."""
    start, end = (_wall(getattr(request, n), n) if request.HasField(n) else None for n in ("start", "end"))
    if start is not None and end is not None and start >= end:
        raise RpcError(Code.INVALID_ARGUMENT, "start must be before end")
    return start, end


def _wall(given: Timestamp, name: str) -> float:
    if given.seconds < EPOCH_S:
        raise RpcError(Code.INVALID_ARGUMENT, f"{name} is before 2010")
    return since(given)


def check_sort(sort: int) -> None:
    """Tasks are listed newest first."""
    if sort != common_pb2.QUERY_CREATED_TS:
        raise RpcError(Code.INVALID_ARGUMENT, "sort: only QUERY_CREATED_TS is supported, newest first")
