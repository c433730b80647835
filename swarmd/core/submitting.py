"""How work comes in: tasks, operations that share tasks, edges, graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Struct

from swarmd.core.changes import OpRecord, RequestRecord, TaskRecord
from swarmd.core.dimensions import ID, MAX_SLICES, canonical
from swarmd.core.ending import meets
from swarmd.core.errors import Conflict, Refused, Unknown
from swarmd.core.features import features_of
from swarmd.core.ids import to_text
from swarmd.core.model import (
    DEFAULT_BOT_RETRIES,
    DEFAULT_EXPIRATION_S,
    DEFAULT_POOL,
    NO_GRAPH,
    BotId,
    Condition,
    Graph,
    GraphId,
    Op,
    OpId,
    Share,
    Task,
    TaskId,
    TaskState,
    Work,
    is_own,
)
from swarmd.core.placing import SliceKey
from swarmd.core.queue import requirements_to_end
from swarmd.core.sessions import Sessions

MAX_EDGES = 1_000_000  # of one submission


class SliceSpec(Struct, frozen=True, omit_defaults=True):
    """One alternative of what a task requires."""

    dimensions: dict[str, list[str]]
    expiration_s: float = DEFAULT_EXPIRATION_S
    wait_for_capacity: bool = True


class After(Struct, frozen=True):
    """A dependency: on the operation `on`, or on number `index` of the same submission."""

    on: OpId | None = None
    index: int | None = None
    condition: Condition = Condition.SUCCEEDED


class TaskSpec(Struct, frozen=True):
    """One task as it is submitted. `work` has one entry, or one for each slice."""

    work: tuple[Work, ...]
    slices: tuple[SliceSpec, ...]
    pool: str = DEFAULT_POOL
    name: str = ""
    key: str = ""
    priority: int = 0
    retries: int = 0
    bot_retries: int = DEFAULT_BOT_RETRIES
    retry_wait_s: float = 0.0
    carry_time: bool = False
    after: tuple[After, ...] = ()
    tags: tuple[str, ...] = ()
    parent: OpId | None = None
    retry_of: OpId | None = None
    sameness: str | None = None
    share: Share = Share.NONE
    index: int | None = None
    line: str | None = None
    owner: str = ""


class Known(Struct, frozen=True):
    """What was found in the file before a submission.

    `done`: final operations that it names, and whether they ended ok. `same`: finished tasks by sameness key.
    """

    done: Mapping[OpId, bool] = {}
    same: Mapping[str, TaskId] = {}


class LookAgain(Exception):
    """Operations that were alive when the file was searched are final now: search again for these."""

    def __init__(self, ops: list[OpId]) -> None:
        super().__init__(ops)
        self.ops = ops


class Submitted(Struct, frozen=True, gc=False):
    id: OpId
    task: TaskId
    state: TaskState


class Submitting(Sessions):
    """Accepts work: everything of one submission, or nothing."""

    def submit(
        self,
        now: float,
        specs: Sequence[TaskSpec],
        graph: Graph | None = None,
        known: Known = Known(),
        make_graph: Callable[[], Graph] | None = None,
    ) -> list[Submitted]:
        """Adds operations and tasks, in the order given. All checks come before the first change.

        `make_graph` is called when all checks have passed, for a submission that begins a graph.
        Raises `Refused` (bad dimensions, a cycle), `Conflict` (a parent that is final), `LookAgain`.
        """
        self._check(specs, known)
        memo: dict[tuple[int, int, str], tuple[SliceKey, ...]] = {}
        plans = [self._requirements(spec, memo) for spec in specs]
        if make_graph is not None:
            graph = make_graph()
        ids = [OpId(self.ids.next(now)) for _ in specs]
        encoded: dict[int, bytes] = {}
        result = []
        for spec, slices, op in zip(specs, plans, ids, strict=True):
            result.append(self._add(now, spec, slices, op, ids, graph, known, encoded))
        self._settle_added(now, result, graph.id if graph is not None else NO_GRAPH)
        if graph is not None:
            graph.touched_at = now
            self.touch_graph(graph)
            self.graph_maybe_done(now, graph)
        return [self._as_it_stands(one) for one in result]

    # ------------------------------------------------------------- checks

    def _check(self, specs: Sequence[TaskSpec], known: Known) -> None:
        edges = sum(len(spec.after) for spec in specs)
        if edges > MAX_EDGES:
            raise Refused(
                "too_many_edges",
                f"the tasks have {edges} dependencies; at most {MAX_EDGES} in one request",
                "use markers",
            )
        vanished = []
        for spec in specs:
            if not 1 <= len(spec.slices) <= MAX_SLICES:
                raise Refused(
                    "bad_slices", f"a task has {len(spec.slices)} slices", f"give 1 to {MAX_SLICES}"
                )
            for after in spec.after:
                if after.on is not None and after.on not in known.done and self.task_of(after.on) is None:
                    vanished.append(after.on)
            if spec.parent is not None and self.task_of(spec.parent) is None:
                raise Conflict(
                    "parent_final",
                    f"parent {to_text(spec.parent)} is not running (any more): its children end with it",
                    "submit without a parent",
                )
        if vanished:
            raise LookAgain(vanished)
        _check_cycles(specs)

    @staticmethod
    def _requirements(
        spec: TaskSpec, memo: dict[tuple[int, int, str], tuple[SliceKey, ...]]
    ) -> tuple[SliceKey, ...]:
        """The scheduling facts of a spec; tasks of one array share the same objects, which are read once."""
        key = (id(spec.work), id(spec.slices), spec.pool)
        found = memo.get(key)
        if found is None:
            works = spec.work if len(spec.work) > 1 else spec.work * len(spec.slices)
            found = memo[key] = tuple(
                slice_key(work, part, spec.pool) for work, part in zip(works, spec.slices, strict=True)
            )
        return found

    # ------------------------------------------------------------- adding

    def _add(
        self,
        now: float,
        spec: TaskSpec,
        slices: tuple[SliceKey, ...],
        op: OpId,
        ids: list[OpId],
        graph: Graph | None,
        known: Known,
        encoded: dict[int, bytes],
    ) -> Submitted:
        waits = self._waits(spec, ids, known)
        graph_id = graph.id if graph is not None else NO_GRAPH
        shared = self._share(now, spec, op, graph_id, known) if not waits else None
        task_id = shared if shared is not None else TaskId(op)
        self.changes.ops_added.append(
            OpRecord(
                op, task_id, graph_id, spec.name, spec.key, spec.pool, spec.owner, spec.priority, spec.tags,
                spec.parent, spec.retry_of, now,
            )
        )  # fmt: skip
        if graph is not None:
            graph.alive.add(op)
        if spec.parent is not None:
            self.children.setdefault(spec.parent, set()).add(op)
        if shared is not None:
            self.changed()
            return Submitted(op, task_id, TaskState.PENDING if shared in self.tasks else TaskState.COMPLETED)
        plan = self.plan_of(slices, spec.retries, spec.bot_retries, spec.retry_wait_s, spec.carry_time)

        task = Task(task_id, plan, spec.priority)
        task.graph = graph_id
        task.sameness, task.share = spec.sameness, spec.share
        task.state = TaskState.BLOCKED
        task.waits = waits
        self.tasks[task_id] = task
        if spec.sameness is not None and not waits:
            self.may_be_joined(task)
        for on, condition in (waits or {}).items():
            self.dependents.setdefault(on, []).append(task_id)
            self.changes.edges_added.append((task_id, on, condition))
        record = TaskRecord(
            task_id, _encode(spec.work, encoded), _encode(spec.slices, encoded), spec.index, spec.line
        )
        self.changes.tasks_added.append((task, record))
        self.changed()
        return Submitted(op, task_id, TaskState.BLOCKED)

    def _waits(self, spec: TaskSpec, ids: list[OpId], known: Known) -> dict[OpId, Condition] | None:
        """What the task waits for. Final dependencies that are met are left out; unmet ones stay and doom
        it."""
        if not spec.after:
            return None
        waits: dict[OpId, Condition] = {}
        for after in spec.after:
            on = after.on if after.on is not None else ids[after.index or 0]
            if (
                after.on is None
                or after.on not in known.done
                or not meets(after.condition, known.done[after.on])
            ):
                waits[on] = after.condition
        return waits or None

    def _share(self, now: float, spec: TaskSpec, op: OpId, graph: GraphId, known: Known) -> TaskId | None:
        """The task of the same sameness key that answers this operation, or None."""
        if spec.sameness is None or spec.share is Share.NONE:
            return None
        found = known.same.get(spec.sameness)
        if found is not None:
            return found
        task = self.joinable(spec.sameness)
        if spec.share is not Share.JOIN or task is None:
            return None
        self.attach(task, Op(op, task.id, spec.priority, graph))
        return task.id

    def _settle_added(self, now: float, added: list[Submitted], graph: GraphId) -> None:
        """Lets each new operation begin: queue it, complete it, or skip it."""
        for one in added:
            task = self.tasks.get(one.task)
            if not is_own(one.id, one.task):
                state = self._as_it_stands(one).state
                detail = {"shares": to_text(one.task)}
                self.emit(now, "task", op=one.id, graph=graph, state=state, detail=detail)
                if one.state is TaskState.COMPLETED:  # found finished
                    self.op_is_done(now, one.id, True, graph)
            elif task is not None and task.state is TaskState.BLOCKED:
                if task.waits:
                    self.tell_state(now, task)
                    self._doom_if_unmet(now, task)
                else:
                    self.ready(now, task)

    def _doom_if_unmet(self, now: float, task: Task) -> None:
        """A dependency that is final already and did not end as required."""
        if task.waits and any(self.task_of(on) is None for on in task.waits):
            graph = self.graphs.get(task.graph)
            if graph is not None and graph.is_open:
                graph.doomed.add(task.id)
            else:
                self.skip(now, task)

    def _as_it_stands(self, one: Submitted) -> Submitted:
        """What became of a new operation by the end of its submission: it may have joined another task."""
        change = self.changes.ops_changed.get(one.id) if self.changes.ops_changed else None
        task_id = one.task if change is None else change.task
        task = self.tasks.get(task_id)
        final = self.changes.finals.get(task_id)
        if change is not None and change.ended is not None:
            state = change.ended
        elif task is not None:
            state = task.state
        else:
            state = TaskState.COMPLETED if final is None else final.state
        return Submitted(one.id, task_id, state)

    def remember_request(self, record: RequestRecord) -> None:
        self.changes.requests.append(record)
        self.changed()

    # ------------------------------------------------------------- edges

    def set_after(self, now: float, op: OpId, after: Sequence[After], known: Known) -> None:
        """Replaces what an operation waits for, until its task is offered.

        Raises `Unknown`, `Conflict` (offered already, final, or shared), `Refused` (a cycle), `LookAgain`.
        """
        task = self.task_of(op)
        if task is None:
            raise Conflict(
                "task_final",
                f"task {to_text(op)} is final: its dependencies cannot change",
                "submit it anew: swarmd retry",
            )
        if (
            task.attempt is not None
            or task.state not in (TaskState.BLOCKED, TaskState.PENDING)
            or task.ops is not None
        ):
            raise Conflict(
                "task_started",
                f"task {to_text(op)} was offered or is shared: its dependencies cannot change",
                "cancel it",
            )
        vanished = [
            a.on for a in after if a.on is not None and a.on not in known.done and self.task_of(a.on) is None
        ]
        if vanished:
            raise LookAgain(vanished)
        waits = {
            a.on: a.condition
            for a in after
            if a.on is not None and not (a.on in known.done and meets(a.condition, known.done[a.on]))
        }
        if any(on == op or self._depends_on(on, op) for on in waits):
            raise Refused(
                "cycle",
                f"task {to_text(op)} would wait for itself",
                "leave out the dependency that closes the circle",
            )
        self._drop_waits(task)
        self._forget_edges(task.id)
        task.waits = waits or None
        for on, condition in waits.items():
            self.dependents.setdefault(on, []).append(task.id)
            self.changes.edges_added.append((task.id, on, condition))
        self._edges_changed(now, task)

    def _forget_edges(self, task: TaskId) -> None:
        """Neither those in the file nor those not yet written stand any more."""
        changes = self.changes
        changes.edges_gone.append(task)
        changes.edges_added = [edge for edge in changes.edges_added if edge[0] != task]
        changes.edges_met = [edge for edge in changes.edges_met if edge[0] != task]

    def _edges_changed(self, now: float, task: Task) -> None:
        if task.waits:
            self.not_joined_any_more(task)
        if task.waits and task.state is TaskState.PENDING:
            if task.queued is not None:
                self.unqueue(task)
            if task.facts.requires.ends_bot:
                self.termination_changed(now, task.facts.requires)
            self.set_task_due(task, float("inf"))
            self.move(task, TaskState.BLOCKED)
            self.tell_state(now, task)
        graph = self.graphs.get(task.graph)
        if graph is not None:
            graph.touched_at = now
            self.touch_graph(graph)
        self.touch(task)
        if task.waits:
            self._doom_if_unmet(now, task)
        elif task.state is TaskState.BLOCKED:
            self.ready(now, task)

    def _depends_on(self, op: OpId, target: OpId) -> bool:
        """Whether `op` waits for `target`, directly or through others. O(edges)."""
        seen: set[OpId] = set()
        todo = [op]
        while todo:
            task = self.task_of(todo.pop())
            for on in (task.waits or ()) if task is not None else ():
                if on == target:
                    return True
                if on not in seen:
                    seen.add(on)
                    todo.append(on)
        return False

    # ------------------------------------------------------------- graphs

    def new_graph(self, now: float, name: str, owner: str, is_open: bool) -> Graph:
        graph = Graph(GraphId(self.ids.next(now)), name, owner, is_open, now)
        self.graphs[graph.id] = graph
        self.touch_graph(graph)
        self.emit(now, "graph.opened", graph=graph.id, detail={"name": name, "open": is_open})
        if is_open:
            self.set_other_due(now + self.settings.open_graph_idle_s, "graph", graph.id)
        return graph

    def open_graph_named(self, id: GraphId) -> Graph:
        """Raises `Conflict` when it is closed, `Unknown` when it is final or never was."""
        graph = self.graphs.get(id)
        if graph is None:
            raise Unknown(
                "unknown_graph", f"there is no unfinished graph {to_text(id)}", "swarmd graphs lists them"
            )
        if not graph.is_open:
            raise Conflict(
                "graph_closed",
                f"graph {to_text(id)} is closed",
                "submit a new graph, or name tasks with 'after'",
            )
        return graph

    def close_graph(self, now: float, graph: Graph, reason: str = "") -> None:
        """Nothing more is added: failures take effect. Twice is one effect."""
        if not graph.is_open:
            return
        graph.is_open = False
        graph.closed_at = now
        self.touch_graph(graph)
        self.emit(now, "graph.closed", graph=graph.id, detail={"reason": reason} if reason else None)
        for task_id in sorted(graph.doomed):
            task = self.tasks.get(task_id)
            if task is not None and task.state is TaskState.BLOCKED:
                self.skip(now, task)
        self.graph_maybe_done(now, graph)

    def graph_idle(self, now: float, id: GraphId) -> None:
        """An open graph is closed after `open_graph_idle_s` without a change."""
        graph = self.graphs.get(id)
        if graph is None or not graph.is_open:
            return
        idle_until = graph.touched_at + self.settings.open_graph_idle_s
        if idle_until > now:
            self.set_other_due(idle_until, "graph", id)
        else:
            self.close_graph(now, graph, f"nothing changed for {self.settings.open_graph_idle_s:g} s")


def slice_key(work: Work, part: SliceSpec, pool: str) -> SliceKey:
    """The scheduling facts of one slice. Raises `Refused` for dimensions that no bot could have."""
    requirements = () if work.marker else canonical(part.dimensions, pool, features_of(work))
    if work.terminate and requirements != requirements_to_end(BotId(part.dimensions.get(ID, [""])[0])):
        raise Refused(
            "bad_task",
            "a termination task requires something else than its bot",
            "give dimension id alone, and no pool",
        )
    return (
        requirements, part.expiration_s, part.wait_for_capacity, work.hard_limit_s, work.io_limit_s, work.grace_s,
        work.marker, work.ping_tolerance_s,
    )  # fmt: skip


def _encode(value: object, encoded: dict[int, bytes]) -> bytes:
    """JSON of a spec's part; tasks of one array share the same object, which is encoded once."""
    found = encoded.get(id(value))
    if found is None:
        found = encoded[id(value)] = msgspec.json.encode(value)
    return found


def _check_cycles(specs: Sequence[TaskSpec]) -> None:
    """Raises `Refused` when tasks of one submission wait for each other in a circle, or name a number that
    is not there."""
    if not any(spec.after for spec in specs):
        return
    waiting = [0] * len(specs)
    followers: list[list[int]] = [[] for _ in specs]
    for number, spec in enumerate(specs):
        for after in spec.after:
            if after.index is not None:
                if not 0 <= after.index < len(specs):
                    raise Refused(
                        "unknown_dependency",
                        f"task {number} waits for task {after.index}, which is not in this request",
                        f"give 0 to {len(specs) - 1}",
                    )
                waiting[number] += 1
                followers[after.index].append(number)
    free = deque(number for number, count in enumerate(waiting) if count == 0)
    seen = 0
    while free:
        seen += 1
        for follower in followers[free.popleft()]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                free.append(follower)
    if seen < len(specs):
        names = [specs[n].key or specs[n].name or f"number {n}" for n, count in enumerate(waiting) if count][
            :5
        ]
        raise Refused(
            "cycle",
            f"these tasks wait for each other in a circle: {', '.join(names)}",
            "remove one of the dependencies",
        )
