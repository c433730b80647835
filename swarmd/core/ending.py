"""How a task ends, and what follows from it: retries, dependents, shared operations, children, graphs."""

from __future__ import annotations

from collections import deque

from swarmd.core.changes import FinalRecord, OpChange
from swarmd.core.model import (
    NO_GRAPH,
    Attempt,
    AttemptState,
    Condition,
    Graph,
    GraphId,
    Op,
    OpId,
    Outcome,
    Share,
    Stop,
    StopReason,
    Task,
    TaskId,
    TaskState,
    is_own,
)
from swarmd.core.placing import Placing
from swarmd.core.states import ATTEMPT_STEPS, final_state
from swarmd.core.world import Lookup, Settings

_RETRIED_FOR_THE_TASK = (TaskState.COMPLETED, TaskState.TIMED_OUT)


def meets(condition: Condition, ok: bool) -> bool:
    return condition is Condition.ANY or (condition is Condition.SUCCEEDED) == ok


class Ending(Placing):
    """Ends tasks. What follows is worked off from a list, so that a chain of any length takes no deep
    recursion."""

    def __init__(self, settings: Settings, now: float, last_id: int = 0) -> None:
        super().__init__(settings, now, last_id)
        self._done: deque[tuple[OpId, bool, bool, GraphId]] = deque()  # op, ok, failed, graph
        self._following = False

    # ------------------------------------------------------------- attempts

    def step_attempt(
        self, now: float, attempt: Attempt, state: AttemptState, outcome: Outcome | None
    ) -> None:
        """Takes the last step of an attempt and forgets it."""
        assert (attempt.state, state) in ATTEMPT_STEPS, (
            f"attempt {attempt.id}: {attempt.state.name} to {state.name}"
        )
        attempt.state = state
        attempt.outcome = outcome
        attempt.outcome_at = now
        del self.attempts[attempt.id]
        session = self.sessions.get(attempt.session)
        if session is not None:
            session.attempts.pop(attempt.id, None)
            if attempt.ends_bot or (not session.attempts and self.bots[session.bot].is_to_end):
                self.wake_session(session)  # it takes work again; or now it can be told to end
        task = self.tasks[attempt.task]
        assert task.attempt is attempt
        task.attempt = None
        self.touch_attempt(attempt)

    def drop(self, now: float, attempt: Attempt, reason: str, counted: bool = True) -> None:
        """An offer was never started: the task returns to the queue, at most `max_drops` times. It has the expiration
        left that it had when it was offered, but what passed while it was queued in a bot has passed."""
        task = self.tasks[attempt.task]
        blameless = attempt.queued and not counted
        outcome = Outcome(ok=False, canceled=blameless, reason=reason)
        self.step_attempt(now, attempt, AttemptState.DROPPED, outcome)
        self.emit(
            now,
            "offer.dropped",
            op=OpId(task.id),
            attempt=attempt.id,
            bot=attempt.bot,
            detail={"reason": reason},
        )
        if counted:
            task.drops += 1
        if task.drops > self.settings.max_drops:
            sentence = f"{task.drops} offers were never started; the last by bot {attempt.bot}: {reason}"
            self.finish_task(
                now, task, TaskState.BOT_DIED, Outcome(ok=False, died=True, reason=sentence), attempt
            )
        elif not attempt.queued:
            self.enqueue(now, task, now + attempt.remaining_s)
        elif now < attempt.expires_at:
            self.enqueue(now, task, attempt.expires_at)
        else:
            self.slice_over(now, task)

    def lose(self, now: float, attempt: Attempt, reason: str, counted: bool = True) -> None:
        """An accepted attempt's bot is gone or no longer knows it. Not `counted`: it is tried again in any case."""
        self.conclude(now, attempt, self.lost_outcome(reason), AttemptState.LOST, counted)

    def conclude(
        self,
        now: float,
        attempt: Attempt,
        outcome: Outcome,
        step: AttemptState = AttemptState.ENDED,
        counted: bool = True,
    ) -> None:
        """An accepted attempt ended with `outcome`: its task is final, or gets a new attempt."""
        task = self.tasks[attempt.task]
        stop = attempt.stop.reason if attempt.stop else None
        state = final_state(outcome, stop)
        self.step_attempt(now, attempt, step, outcome)
        if state is TaskState.COMPLETED and outcome.ok:
            self.finish_task(now, task, state, outcome, attempt)
            return
        again = not counted and state is TaskState.BOT_DIED
        if stop is not StopReason.CANCELED and (again or self._may_retry(task, state)):
            self.move(task, TaskState.PENDING)
            self.tell_state(now, task, attempt, outcome.reason or "it did not end ok")
            if task.plan.retry_wait_s > 0:
                self.set_task_due(task, now + task.plan.retry_wait_s)
            else:
                self.start_slice(now, task)
            return
        self.finish_task(now, task, state, outcome, attempt)

    def _may_retry(self, task: Task, state: TaskState) -> bool:
        if state is TaskState.BOT_DIED:
            task.bot_faults += 1
            return task.bot_faults <= task.plan.bot_retries
        if state in _RETRIED_FOR_THE_TASK:
            task.task_faults += 1
            return task.task_faults <= task.plan.retries
        return False

    def begin_stop(self, now: float, attempt: Attempt, reason: StopReason) -> bool:
        """Orders the stop of an accepted attempt; False when one is in progress already."""
        if attempt.stop is not None:
            return False
        session = self.sessions[attempt.session]
        grace_s = self.tasks[attempt.task].facts.grace_s
        patience_s = 3 * grace_s + self.settings.stop_margin_s if session.enforces_limits else grace_s
        attempt.stop = Stop(reason, now, now + patience_s, grace_s)
        self.touch_attempt(attempt)
        task = self.tasks[attempt.task]
        self.emit(
            now,
            "task.stopping",
            op=OpId(task.id),
            attempt=attempt.id,
            bot=attempt.bot,
            detail={"reason": reason.value},
        )
        self.moved.add(session.id)
        self.wake_session(session)
        return True

    # ------------------------------------------------------------- tasks

    def slice_over(self, now: float, task: Task) -> None:
        """Nobody has started it within the expiration of its slice: it goes on to the next one, or is EXPIRED."""
        if not self.next_slice(now, task, 0.0):
            reason = f"no bot started it within {sum(s.expiration_s for s in task.plan.slices):g} s"
            self.finish_task(now, task, TaskState.EXPIRED, Outcome(ok=False, reason=reason))

    def finish_task(
        self, now: float, task: Task, state: TaskState, outcome: Outcome, attempt: Attempt | None = None
    ) -> None:
        """Makes a task final, for ever, and lets everything follow that follows from it."""
        assert task.attempt is None, f"task {task.id} ends with a live attempt"
        if task.queued is not None:
            self.unqueue(task)
        if task.facts.requires.ends_bot:
            self.termination_changed(now, task.facts.requires)
        self.move(task, state)
        ok = outcome.ok and state is TaskState.COMPLETED
        self.changes.finals[task.id] = FinalRecord(task.id, state, ok, outcome.exit_code, outcome.reason, now)
        self.tell_state(now, task, attempt, outcome.reason)
        self._forget(task)
        for op in self.ops_of(task):
            graph = task.graph if task.ops is None else task.ops[op].graph
            # What was skipped did not fail: either something before it did, or it was not needed.
            self._done.append((op, ok, not ok and state is not TaskState.SKIPPED, graph))
            self.joined.pop(op, None)
        self._follow(now)

    def _forget(self, task: Task) -> None:
        del self.tasks[task.id]
        self.not_joined_any_more(task)
        if task.waits:
            self._drop_waits(task)
        self.release_plan(task.plan)

    def _drop_waits(self, task: Task) -> None:
        for op in task.waits or ():
            waiting = self.dependents.get(op)
            if waiting is not None and task.id in waiting:  # not when the operation was final before
                waiting.remove(task.id)
                if not waiting:
                    del self.dependents[op]
        task.waits = None
        graph = self.graphs.get(task.graph)
        if graph is not None:
            graph.doomed.discard(task.id)

    # ------------------------------------------------------------- what follows

    def op_is_done(self, now: float, op: OpId, ok: bool, graph: GraphId) -> None:
        self._done.append((op, ok, not ok, graph))
        self._follow(now)

    def _follow(self, now: float) -> None:
        if self._following:
            return
        self._following = True
        try:
            while self._done:
                op, ok, failed, graph_id = self._done.popleft()
                for task_id in self.dependents.pop(op, ()):
                    self._dependency_done(now, self.tasks[task_id], op, ok)
                for child in sorted(self.children.pop(op, ())):
                    self.withdraw(now, child, "its parent ended", kill=True)
                if graph_id != NO_GRAPH:
                    self._graph_op_done(now, self.graphs[graph_id], op, failed)
        finally:
            self._following = False

    def _dependency_done(self, now: float, task: Task, op: OpId, ok: bool) -> None:
        assert task.waits is not None
        condition = task.waits[op]
        if meets(condition, ok):
            del task.waits[op]
            self.changes.edges_met.append((task.id, op))
            self.changed()
            if not task.waits:
                self.ready(now, task)
            return
        graph = self.graphs.get(task.graph)
        if graph is not None and graph.is_open:
            graph.doomed.add(task.id)
        else:
            self.skip(now, task)

    def skip(self, now: float, task: Task) -> None:
        """What this task waits for can no longer come."""
        reason = "something it depends on did not end as required"
        self.finish_task(now, task, TaskState.SKIPPED, Outcome(ok=False, reason=reason))

    def ready(self, now: float, task: Task) -> None:
        """Everything that a BLOCKED task waited for is done."""
        assert task.state is TaskState.BLOCKED and not task.waits
        task.waits = None
        if task.facts.marker:
            self.finish_task(now, task, TaskState.COMPLETED, Outcome(ok=True, reason="marker"))
            return
        if task.sameness is not None:
            shares = task.share is not Share.NONE and not task.tries
            other = self.joinable(task.sameness) if task.share is Share.JOIN else None
            if shares and other is not None and other is not task and task.ops is None:
                self.become_part_of(now, task, other)
                return
            self.may_be_joined(task)
            if shares:
                self.lookups.append(Lookup(task.id, task.sameness))
                return
        self.release_to_queue(now, task)

    def joinable(self, sameness: str) -> Task | None:
        """The unfinished task of this sameness key that an operation may join: one that is ready (who joined
        a waiting one could wait for itself) and not on its way out."""
        id = self.by_sameness.get(sameness)
        task = None if id is None else self.tasks[id]
        return None if task is None or (task.attempt is not None and task.attempt.stop is not None) else task

    def may_be_joined(self, task: Task) -> None:
        """A ready task is found by its sameness key, unless there is such a one already."""
        if task.sameness is not None and self.joinable(task.sameness) is None:
            self.by_sameness[task.sameness] = task.id

    def not_joined_any_more(self, task: Task) -> None:
        if task.sameness is not None and self.by_sameness.get(task.sameness) == task.id:
            del self.by_sameness[task.sameness]

    def release_to_queue(self, now: float, task: Task) -> None:
        self.move(task, TaskState.PENDING)
        self.tell_state(now, task)
        self.start_slice(now, task)

    def looked_up(self, now: float, task_id: TaskId, found: TaskId | None) -> None:
        """The file was searched for a finished task with the same sameness key as this ready one."""
        task = self.tasks.get(task_id)
        if task is None or task.state is not TaskState.BLOCKED or task.waits:
            return
        if found is None or task.ops is not None:
            self.release_to_queue(now, task)
            return
        op, graph = OpId(task.id), task.graph
        self._leave_for(task, found)
        self.emit(
            now,
            "task",
            op=op,
            graph=graph,
            state=TaskState.COMPLETED,
            detail={"reason": "a finished task was the same"},
        )
        self.op_is_done(now, op, True, graph)

    def become_part_of(self, now: float, task: Task, other: Task) -> None:
        """The operation of a task that has not begun joins `other`; its own task leaves."""
        op = OpId(task.id)
        priority, graph = task.priority, task.graph
        self._leave_for(task, other.id)
        self.attach(other, Op(op, other.id, priority, graph))
        self.emit(
            now,
            "task",
            op=op,
            graph=graph,
            state=other.state,
            detail={"reason": "joined a task that is the same"},
        )

    def _leave_for(self, task: Task, other: TaskId) -> None:
        self._forget(task)
        self.changes.tasks_gone.append((task.id, other))
        self.changes.tasks.pop(task.id, None)
        self.changes.ops_changed[OpId(task.id)] = OpChange(OpId(task.id), other, None)
        self.changed()

    def attach(self, task: Task, op: Op) -> None:
        """Adds an operation to a task that is not its own."""
        if task.ops is None:
            own = OpId(task.id)
            task.ops = {own: Op(own, task.id, task.priority, task.graph)}
        task.ops[op.id] = op
        self.joined[op.id] = op
        self.reprioritise(task, min(o.priority for o in task.ops.values()))

    # ------------------------------------------------------------- withdrawing

    def withdraw(self, now: float, op: OpId, reason: str, kill: bool) -> bool:
        """Takes one operation back; the task is canceled with its last one. False when nothing changed."""
        task = self.task_of(op)
        if task is None:
            return False
        if task.ops is not None and len(task.ops) > 1:
            leaving = task.ops.pop(op)
            self.joined.pop(op, None)
            task.own_withdrawn = task.own_withdrawn or is_own(op, task.id)
            self.changes.ops_changed[op] = OpChange(op, task.id, TaskState.CANCELED)
            self.emit(
                now, "task", op=op, graph=leaving.graph, state=TaskState.CANCELED, detail={"reason": reason}
            )
            self.reprioritise(task, min(o.priority for o in task.ops.values()))
            if len(task.ops) == 1 and not task.own_withdrawn:
                task.ops = None  # alone again
            self.touch(task)
            self.op_is_done(now, op, False, leaving.graph)
            return True
        attempt = task.attempt
        if attempt is not None and attempt.state is AttemptState.RUNNING:
            return kill and (self.begin_stop(now, attempt, StopReason.CANCELED) or self._end_tries(task))
        if attempt is not None:
            session = self.sessions[attempt.session]
            self.step_attempt(
                now, attempt, AttemptState.DROPPED, Outcome(ok=False, canceled=True, reason=reason)
            )
            self.wake_session(session)
        self.finish_task(now, task, TaskState.CANCELED, Outcome(ok=False, canceled=True, reason=reason))
        return True

    def _end_tries(self, task: Task) -> bool:
        """A stop in progress for another reason names the final state, but no retry follows it. False when none
        would have."""
        plan = task.plan
        assert task.attempt is not None and task.attempt.stop is not None
        if task.attempt.stop.reason is StopReason.CANCELED:
            return False
        if task.task_faults >= plan.retries and task.bot_faults >= plan.bot_retries:
            return False
        task.task_faults = max(task.task_faults, plan.retries)
        task.bot_faults = max(task.bot_faults, plan.bot_retries)
        self.touch(task)
        return True

    # ------------------------------------------------------------- graphs

    def _graph_op_done(self, now: float, graph: Graph, op: OpId, failed: bool) -> None:
        graph.alive.discard(op)
        graph.touched_at = now
        if failed:
            graph.failed += 1
        self.touch_graph(graph)
        self.graph_maybe_done(now, graph)

    def graph_maybe_done(self, now: float, graph: Graph) -> None:
        if not graph.is_open and not graph.alive and graph.id in self.graphs:
            del self.graphs[graph.id]
            self.touch_graph(graph)
            self.emit(now, "graph.done", graph=graph.id, detail={"ok": graph.failed == 0})
