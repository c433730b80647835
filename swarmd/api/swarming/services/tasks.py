"""The service `Tasks`, one task at a time: made, read, canceled. `listing.py` has those that look for tasks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import msgspec
import trio

from swarmd import __version__
from swarmd.api.aside import Aside
from swarmd.api.calls import Call, Caller
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming import tables
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.proto import common_pb2, tasks_pb2
from swarmd.api.swarming.services.common import moment
from swarmd.api.swarming.services.finding import NO_SUCH_TASK, Named, find_runs, named, unknown
from swarmd.api.swarming.services.requests import Checked, Parent, checked
from swarmd.api.swarming.services.requests_told import ANONYMOUS, request_of
from swarmd.api.swarming.services.results import AT_ONCE, STATES, Results, is_deduped
from swarmd.api.swarming.services.tags import tags_of, user_of
from swarmd.core.changes import RequestRecord
from swarmd.core.ids import made_at
from swarmd.core.model import OpId, Share, TaskState
from swarmd.core.submitting import Known, TaskSpec
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.submitting import find_same, reserved
from swarmd.store import queries
from swarmd.store.runs import RunRow

MAX_BATCH = 1_000
PAGE_BYTES = 16_384_000  # of output: a client takes a shorter page for the end
SAME_FOR_S = 7 * 86_400.0  # how long a finished task answers for others of its properties
SAMENESS = "swarming "  # in front of the hash of properties
UUID = "swarming uuid "  # in front of a `request_uuid`: other protocols have request ids of their own


class TaskMethods:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon: Daemon = context.daemon
        self._aside = Aside()

    # ------------------------------------------------------------- making

    async def new_task(
        self, call: Call, request: tasks_pb2.NewTaskRequest
    ) -> tasks_pb2.TaskRequestMetadataResponse:
        caller = identity(call.caller)
        if request.evaluate_only:
            made, _ = await self._checked(request, caller)
            return tasks_pb2.TaskRequestMetadataResponse(request=made.record)
        self._daemon.check_space()
        if not request.request_uuid:
            return await self._make(*await self._checked(request, caller), None)
        key = (call.caller.name, UUID + request.request_uuid)
        async with reserved(self._daemon, ("request", *key)):
            earlier = await self._daemon.earlier_answer(key)
            if earlier is not None:
                return await self._metadata(OpId(msgspec.json.decode(earlier[1], type=int)))
            return await self._make(*await self._checked(request, caller), key)

    async def _checked(self, request: tasks_pb2.NewTaskRequest, caller: str) -> tuple[Checked, bytes]:
        """What was asked for, and what the file keeps of it. Raises `RpcError`."""
        parent = await self._parent(request.parent_task_id)

        def look() -> tuple[Checked, bytes]:
            made = checked(
                request, caller=caller, pool_realm=self._context.realm_of, parent=parent,
                cipd=self._context.config.cipd,
            )  # fmt: skip
            return made, _kept(made.record)

        return await self._aside(request.ByteSize(), look)

    async def _parent(self, text: str) -> Parent | None:
        """Raises `RpcError` for a parent that has ended, and one that cannot have children."""
        if not text:
            return None
        id = named(text, "parent_task_id")
        run = await self._run(id, f'parent task "{text}"')
        if not run.op.pool:
            raise RpcError(Code.INVALID_ARGUMENT, f'"{text}" is a termination task: it cannot be a parent')
        if self._daemon.engine.task_of(run.op.id) is None:
            raise RpcError(Code.FAILED_PRECONDITION, f'parent task "{text}" has ended')
        return Parent(run.op.id, user_of(run.op))

    async def _make(
        self, made: Checked, kept: bytes, key: tuple[str, str] | None
    ) -> tasks_pb2.TaskRequestMetadataResponse:
        slice, spec, known = await self._same(made)
        with self._daemon.step() as (engine, now):
            [one] = engine.submit(now, [spec], known=known)
            if key is not None:
                engine.remember_request(RequestRecord(*key, b"", msgspec.json.encode(one.id), now))
            # In the same transaction as the operation: nothing may come between.
            walls: list[float] = []
            self._daemon.writer.submit(lambda c: walls.append(tables.keep_request(c, one.id, slice, kept)))
        with trio.CancelScope(shield=key is not None):  # the key stays reserved until the file knows it
            await self._daemon.settled()
        if one.state not in (TaskState.PENDING, TaskState.BLOCKED):
            return await self._metadata(one.id)
        return await self._aside(len(kept), _fresh, made.record, one.id, walls[-1])

    async def _same(self, made: Checked) -> tuple[int, TaskSpec, Known]:
        """The slice that a finished task has run already, and what is to be submitted.

        One that was not found may be found by others, when it has run: that of a single slice, for of several nobody
        knows beforehand which one will run.
        """
        spec = made.spec
        if not any(made.hashes):
            return 0, spec, Known()
        keys = [None if digest is None else SAMENESS + digest for digest in made.hashes]
        found = await find_same(self._daemon, {key for key in keys if key is not None})
        since = self._daemon.clock.now() - SAME_FOR_S
        for slice, key in enumerate(keys):
            if key in found and made_at(found[key]) >= since:
                shares = msgspec.structs.replace(spec, sameness=key, share=Share.FINISHED)
                return slice, shares, Known(same={key: found[key]})
        return 0, msgspec.structs.replace(spec, sameness=keys[0] if len(keys) == 1 else None), Known()

    async def _metadata(self, op: OpId) -> tasks_pb2.TaskRequestMetadataResponse:
        """A task that was made before, as it is now."""
        id = Named(task_id(op), op, False)
        run, request = await self._request(id)
        return tasks_pb2.TaskRequestMetadataResponse(
            task_id=request.task_id, request=request, task_result=(await self._results([run])).of(run)
        )

    # ------------------------------------------------------------- reading

    async def _run(self, id: Named, what: str = "") -> RunRow:
        """Raises `RpcError` (NOT_FOUND); `what` it is, where that is not plain from the call."""
        runs = await self._daemon.read(find_runs([id]))
        if id.text not in runs:
            raise unknown(what)
        return runs[id.text]

    async def _results(self, runs: Sequence[RunRow], with_performance: bool = False) -> Results:
        deduped = [run.op.id for run in runs if is_deduped(run.op)]
        kept = await self._daemon.backend.read(lambda c: tables.requests(c, deduped)) if deduped else {}
        slices = {op: slice for op, (slice, _) in kept.items()}
        return Results(self._daemon.engine.bots, slices, with_performance=with_performance)

    async def get_result(
        self, call: Call, request: tasks_pb2.TaskIdWithPerfRequest
    ) -> tasks_pb2.TaskResultResponse:
        run = await self._run(named(request.task_id))
        return (await self._results([run], request.include_performance_stats)).of(run)

    async def batch_get_result(
        self, call: Call, request: tasks_pb2.BatchGetResultRequest
    ) -> tasks_pb2.BatchGetResultResponse:
        ids = _batch(request.task_ids, "task_ids")
        runs = await self._daemon.read(find_runs(ids))
        results = await self._results(list(runs.values()), request.include_performance_stats)
        answer = tasks_pb2.BatchGetResultResponse()
        for number, id in enumerate(ids):
            if number % AT_ONCE == AT_ONCE - 1:  # as in a list
                await trio.lowlevel.checkpoint()
            one = answer.results.add(task_id=id.text)
            if id.text in runs:
                one.result.CopyFrom(results.of(runs[id.text]))
            else:
                one.error.code, one.error.message = Code.NOT_FOUND, NO_SUCH_TASK
        return answer

    async def list_task_states(
        self, call: Call, request: tasks_pb2.TaskStatesRequest
    ) -> tasks_pb2.TaskStates:
        ids = _batch(request.task_id, "task_id")
        runs = await self._daemon.read(find_runs(ids))
        for id in ids:
            if id.text not in runs:
                raise unknown(id.text)
        return tasks_pb2.TaskStates(states=[STATES[runs[id.text].op.state] for id in ids])

    async def get_request(
        self, call: Call, request: tasks_pb2.TaskIdRequest
    ) -> tasks_pb2.TaskRequestResponse:
        return (await self._request(named(request.task_id)))[1]

    async def _request(self, id: Named) -> tuple[RunRow, tasks_pb2.TaskRequestResponse]:
        def read(conn: sqlite3.Connection) -> tuple[RunRow, tasks_pb2.TaskRequestResponse] | None:
            run = find_runs([id])(conn).get(id.text)
            return None if run is None else (run, requests_of(conn, [run], self._context.realm_of)[0])

        found = await self._daemon.read(read)
        if found is None:
            raise unknown()
        return found

    async def get_stdout(
        self, call: Call, request: tasks_pb2.TaskIdWithOffsetRequest
    ) -> tasks_pb2.TaskOutputResponse:
        """Both streams of the newest attempt as one, in the order in which they came."""
        start, length = request.offset, request.length
        if start < 0 or length < 0:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"offset is {start}, length {length}: neither may be negative"
            )
        id = named(request.task_id)
        size = length if 0 < length <= PAGE_BYTES else PAGE_BYTES

        def read(conn: sqlite3.Connection) -> tuple[RunRow | None, bytes]:
            run = find_runs([id])(conn).get(id.text)
            state = None if run is None else queries.output_state(conn, run.op.task, None)
            if state is None or start >= state.merged_end:
                return run, b""
            stop = min(start + size, state.merged_end)
            return run, queries.read_merged(conn, state.attempt, start, stop)

        run, output = await self._daemon.read(read)
        if run is None:
            raise unknown()
        return tasks_pb2.TaskOutputResponse(output=output, state=STATES[run.op.state])

    # ------------------------------------------------------------- canceling

    async def cancel_task(self, call: Call, request: tasks_pb2.TaskCancelRequest) -> tasks_pb2.CancelResponse:
        run = await self._run(named(request.task_id))
        with self._daemon.step() as (engine, now):
            task = engine.task_of(run.op.id)
            is_running = task is not None and task.state is TaskState.RUNNING
            canceled = engine.withdraw(now, run.op.id, "canceled by its submitter", request.kill_running)
        await self._daemon.settled()
        return tasks_pb2.CancelResponse(canceled=canceled, was_running=is_running)


def identity(caller: Caller) -> str:
    """Who calls, in Swarming's words: `kind:name`."""
    if caller.name.startswith("task:"):
        return f"bot:{caller.name}"
    return f"user:{caller.name}" if caller.name else ANONYMOUS


def requests_of(
    conn: sqlite3.Connection, runs: Sequence[RunRow], realm_of: Callable[[str], str]
) -> list[tasks_pb2.TaskRequestResponse]:
    """What was asked for, in order: as it was sent, or, where another client submitted it, in Swarming's words."""
    kept = tables.requests(conn, [run.op.id for run in runs])
    found = []
    for run in runs:
        if run.op.id in kept:
            record = tasks_pb2.TaskRequestResponse.FromString(kept[run.op.id][1])
            record.name = run.op.name
            record.tags.extend(tags_of(run.op))
            if record.task_slices:
                record.properties.CopyFrom(record.task_slices[0].properties)
        else:
            text = queries.task_text(conn, run.op.task, run.op.id)
            assert text is not None, f"operation {run.op.id} has no task"
            record = request_of(run.op, text, pools_realm=realm_of(run.op.pool) if run.op.pool else "")
        record.task_id = task_id(run.op.id)
        record.created_ts.CopyFrom(moment(run.op.created_wall))
        found.append(record)
    return found


def _kept(record: tasks_pb2.TaskRequestResponse) -> bytes:
    """For the file: without what the operation's own row says, and what is there twice."""
    kept = tasks_pb2.TaskRequestResponse()
    kept.CopyFrom(record)
    for field in ("name", "tags", "properties"):
        kept.ClearField(field)
    return kept.SerializeToString()


def _fresh(
    record: tasks_pb2.TaskRequestResponse, op: OpId, wall: float
) -> tasks_pb2.TaskRequestMetadataResponse:
    """The answer about a task that waits, without a look into the file."""
    id, created = task_id(op), moment(wall)
    record.task_id = id
    record.created_ts.CopyFrom(created)
    result = tasks_pb2.TaskResultResponse(
        task_id=id, name=record.name, tags=record.tags, user=record.user, state=common_pb2.PENDING, created_ts=created,
        modified_ts=created, server_versions=(__version__,),
    )  # fmt: skip
    return tasks_pb2.TaskRequestMetadataResponse(task_id=id, request=record, task_result=result)


def _batch(texts: Sequence[str], field: str) -> list[Named]:
    """Raises `RpcError` (INVALID_ARGUMENT) for a list that is empty or too long, names a task twice, or names none."""
    if not 1 <= len(texts) <= MAX_BATCH:
        raise RpcError(Code.INVALID_ARGUMENT, f"{field} has {len(texts)} ids: give 1 to {MAX_BATCH}")
    ids = [named(text, field) for text in texts]
    seen: dict[OpId, str] = {}
    for id in ids:
        if (other := seen.setdefault(id.op, id.text)) is not id.text:
            raise RpcError(Code.INVALID_ARGUMENT, f"{field}: {other} and {id.text} are the same task")
    return ids
