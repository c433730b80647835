"""What a client is told of a task that ran, runs or waits: an operation of the core, from any client, on any bot.

Source: protocol reference, result fields by state; docs/swarming-clients.md, "Results".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import trio

from swarmd import __version__
from swarmd.api.swarming.ids import run_id_of, task_id
from swarmd.api.swarming.proto import common_pb2, tasks_pb2
from swarmd.api.swarming.services.common import moment
from swarmd.api.swarming.services.performance import cost_of, performance_of, pins_of, report_of
from swarmd.api.swarming.services.tags import tags_of, user_of
from swarmd.core.dimensions import FEATURE
from swarmd.core.model import Bot, BotId, Outcome, TaskState, is_own
from swarmd.store.runs import RunRow
from swarmd.store.selecting import OpRow

STATES: Mapping[TaskState, common_pb2.TaskState] = {
    TaskState.BLOCKED: common_pb2.PENDING,
    TaskState.PENDING: common_pb2.PENDING,
    TaskState.RUNNING: common_pb2.RUNNING,
    TaskState.COMPLETED: common_pb2.COMPLETED,
    TaskState.TIMED_OUT: common_pb2.TIMED_OUT,
    TaskState.KILLED: common_pb2.KILLED,
    TaskState.CANCELED: common_pb2.CANCELED,
    TaskState.EXPIRED: common_pb2.EXPIRED,
    TaskState.NO_RESOURCE: common_pb2.NO_RESOURCE,
    TaskState.BOT_DIED: common_pb2.BOT_DIED,
    TaskState.CLIENT_ERROR: common_pb2.CLIENT_ERROR,
    TaskState.SKIPPED: common_pb2.CANCELED,  # what it waited for did not come: Swarming has no word for that
}
RAN = frozenset(
    {TaskState.RUNNING, TaskState.COMPLETED, TaskState.TIMED_OUT, TaskState.KILLED, TaskState.BOT_DIED,
     TaskState.CLIENT_ERROR}
)  # fmt: skip
MEASURED = frozenset({TaskState.COMPLETED, TaskState.TIMED_OUT, TaskState.KILLED, TaskState.CLIENT_ERROR})
UNKNOWN_EXIT = -1
AT_ONCE = 50  # results that are made in one go

_outcome = msgspec.json.Decoder(Outcome)


def is_deduped(op: OpRow) -> bool:
    """Whether it never ran itself: another one of the same properties had ended well."""
    return not is_own(op.id, op.task) and op.state is TaskState.COMPLETED


class Results:
    """Makes the results of one answer: what its tasks have in common is made once.

    `slices`: of deduplicated tasks, which slice was the one that had been run.
    """

    def __init__(
        self,
        bots: Mapping[BotId, Bot],
        slices: Mapping[int, int] | None = None,
        *,
        with_performance: bool = False,
        always_with_cost: bool = False,
    ) -> None:
        self._bots = bots
        self._slices = slices or {}
        self._with_performance = with_performance
        self._always_with_cost = always_with_cost
        self._told: dict[str, bytes] = {}

    async def put(self, runs: Iterable[RunRow], items: Any) -> None:
        """Adds the results of `runs`, and lets others have a turn in between: each may have 300 KiB of tags."""
        for number, run in enumerate(runs):
            if number % AT_ONCE == AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            items.append(self.of(run))

    def of(self, run: RunRow) -> tasks_pb2.TaskResultResponse:
        op = run.op
        told = tasks_pb2.TaskResultResponse(
            task_id=task_id(op.id), name=op.name, tags=tags_of(op), user=user_of(op), state=STATES[op.state],
            server_versions=(__version__,), created_ts=moment(op.created_wall), current_task_slice=run.slice,
            modified_ts=moment(_changed_wall(run)),
        )  # fmt: skip
        if op.state in RAN and op.attempt is not None:
            self._tell_run(run, told)
        if op.state.is_final:
            self._tell_end(run, told)
        elif self._always_with_cost:
            told.costs_usd.append(0.0)
        if op.state is TaskState.RUNNING and run.stop_since_wall is not None:
            told.abandoned_ts.CopyFrom(moment(run.stop_since_wall))
        return told

    def _tell_run(self, run: RunRow, told: tasks_pb2.TaskResultResponse) -> None:
        op = run.op
        assert op.attempt is not None and op.bot is not None
        told.MergeFromString(self._bot(op.bot))
        told.run_id = run_id_of(op.task, op.number, op.attempt)
        if op.started_wall is not None:
            told.started_ts.CopyFrom(moment(op.started_wall))

    def _tell_end(self, run: RunRow, told: tasks_pb2.TaskResultResponse) -> None:
        state = run.op.state
        ended = moment(run.op.ended_wall if run.op.ended_wall is not None else run.op.created_wall)
        told.completed_ts.CopyFrom(ended)
        outcome = outcome_of(run)
        if state in (TaskState.COMPLETED, TaskState.TIMED_OUT, TaskState.KILLED):
            told.failure = state is TaskState.TIMED_OUT or (state is TaskState.COMPLETED and not run.op.ok)
            told.duration = _duration_s(run, outcome)
            told.exit_code = run.op.exit_code if run.op.exit_code is not None else -1 if told.failure else 0
            if state is TaskState.KILLED:
                told.abandoned_ts.CopyFrom(
                    ended if run.stop_since_wall is None else moment(run.stop_since_wall)
                )
        else:
            told.abandoned_ts.CopyFrom(ended if run.stop_since_wall is None else moment(run.stop_since_wall))
            if state in (TaskState.BOT_DIED, TaskState.CLIENT_ERROR):
                told.internal_failure = True
                told.exit_code = UNKNOWN_EXIT
        self._tell_report(run, outcome, told)

    def _tell_report(self, run: RunRow, outcome: Outcome | None, told: tasks_pb2.TaskResultResponse) -> None:
        report = report_of(outcome)
        cost = cost_of(report)
        if is_deduped(run.op):
            told.deduped_from = told.run_id
            told.cost_saved_usd = cost
            told.current_task_slice = self._slices.get(run.op.id, 0)
        elif cost or self._always_with_cost:
            told.costs_usd.append(cost)
        if not report:
            return
        pins = pins_of(report)
        if pins is not None:
            told.cipd_pins.CopyFrom(pins)
        performance = performance_of(report) if self._with_performance and run.op.state in MEASURED else None
        if performance is not None:
            told.performance_stats.CopyFrom(performance)

    def _bot(self, id: str) -> bytes:
        """The part of a result that says what the bot is, now: in binary, which is the quickest to put into many."""
        found = self._told.get(id)
        if found is None:
            bot = self._bots.get(BotId(id))
            dimensions = {"id": (id,)} if bot is None else {**bot.dimensions, **bot.assigned}
            found = self._told[id] = tasks_pb2.TaskResultResponse(
                bot_id=id,
                bot_version="" if bot is None else bot.version,
                bot_dimensions=[
                    common_pb2.StringListPair(key=key, value=sorted(dimensions[key]))
                    for key in sorted(dimensions)
                    if key != FEATURE
                ],
            ).SerializeToString()
        return found


def outcome_of(run: RunRow) -> Outcome | None:
    """What its bot reported of the attempt, or the daemon of a bot that did not."""
    return None if run.outcome is None else _outcome.decode(run.outcome)


def _changed_wall(run: RunRow) -> float:
    """When something of it last changed."""
    moments = (
        run.op.created_wall,
        run.offered_wall,
        run.op.started_wall,
        run.stop_since_wall,
        run.op.ended_wall,
    )
    return max(m for m in moments if m is not None)


def _duration_s(run: RunRow, outcome: Outcome | None) -> float:
    """Of the command, by the bot's own clock where it tells."""
    if outcome is not None and outcome.duration_s is not None:
        return outcome.duration_s
    if run.op.started_wall is None or run.op.ended_wall is None:
        return 0.0
    return max(0.0, run.op.ended_wall - run.op.started_wall)
