"""Pending tasks by requirement set and priority, and which bots and sets belong together.

A bot knows the sets it satisfies; an offer looks only at the heads of those sets: O(k), k = sets that this bot
satisfies and that have something queued (and a glance at up to KEPT that are empty), whatever is pending.

Source: docs/architecture.md, "Matching".
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterable, Mapping

from swarmd.core.dimensions import FEATURE, ID, POOL, Requirement, Requirements, missing
from swarmd.core.features import COMMAND, TERMINATE
from swarmd.core.model import Bot, BotId, Task, TaskId

_COMPACT_FLOOR = 256
COMMON: Requirement = (FEATURE, (COMMAND,))  # nearly all bots have it
KEPT = 32  # sets that nothing refers to: the next task finds their bots, which are sought once only


class RequirementSet:
    """One canonical set of requirements: what is queued under it and who could take it."""

    __slots__ = (
        "bots", "count", "ends_bot", "entries", "heaps", "impatient", "priorities", "requirements", "users",
    )  # fmt: skip

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
        self.ends_bot = (FEATURE, (TERMINATE,)) in requirements  # its tasks are termination tasks, of one bot
        self.users = 0  # plans that refer to it
        self.bots: dict[BotId, Bot] = {}  # present bots that satisfy it
        self.heaps: dict[int, list[TaskId]] = {}  # task ids by priority; may hold stale ones
        self.priorities: list[int] = []  # sorted keys of heaps
        self.count = 0  # tasks that are really queued
        self.entries = 0  # in all heaps, stale ones included
        self.impatient: set[TaskId] = set()  # queued tasks whose slice does not wait for capacity

    @property
    def pool(self) -> str:
        return next((alternatives[0] for key, alternatives in self.requirements if key == POOL), "")

    @property
    def pivot(self) -> Requirement:
        """The requirement that probably fewest bots meet: the set is found by it."""
        if not self.requirements:
            return ("", ("",))
        return min(self.requirements, key=lambda r: (r == COMMON, r[0] == POOL, r[0] != ID, len(r[1]), r))

    def push(self, task: Task) -> None:
        """Queues `task` by its priority and age."""
        assert task.queued is None, f"task {task.id} is queued twice"
        heap = self.heaps.get(task.priority)
        if heap is None:
            heap = self.heaps[task.priority] = []
            insort(self.priorities, task.priority)
        heapq.heappush(heap, task.id)
        self.entries += 1
        task.queued = self
        self.count += 1
        if not task.facts.wait_for_capacity:
            self.impatient.add(task.id)
        self.tell_bots()

    def leave(self, task: Task) -> None:
        """Takes `task` out; its entry in the heap becomes stale."""
        assert task.queued is self
        task.queued = None
        self.count -= 1
        self.impatient.discard(task.id)
        self.tell_bots()

    def tell_bots(self) -> None:
        """A bot knows whether a task that ends it is queued."""
        if self.ends_bot:
            for bot in self.bots.values():
                bot.is_to_end = any(s.ends_bot and s.count for s in bot.satisfies)

    def head(self, tasks: Mapping[TaskId, Task]) -> Task | None:
        """The task that comes first, still queued. Stale entries met on the way are removed."""
        while self.priorities:
            priority = self.priorities[0]
            heap = self.heaps[priority]
            while heap:
                task = tasks.get(heap[0])
                if task is not None and task.queued is self and task.priority == priority:
                    return task
                heapq.heappop(heap)
                self.entries -= 1
            del self.heaps[priority], self.priorities[0]
        return None

    def queued_tasks(self, tasks: Mapping[TaskId, Task]) -> set[TaskId]:
        """All tasks queued here. O(n), for explanations."""
        return {
            TaskId(id)
            for priority, heap in self.heaps.items()
            for id in heap
            if (task := tasks.get(TaskId(id))) is not None
            and task.queued is self
            and task.priority == priority
        }

    def position(self, task: Task, tasks: Mapping[TaskId, Task]) -> int:
        """How many tasks stand before `task` in this set. O(n)."""
        mine = (task.priority, task.id)
        return sum(1 for id in self.queued_tasks(tasks) if (tasks[id].priority, id) < mine)

    def compact(self, tasks: Mapping[TaskId, Task]) -> None:
        """Drops stale entries when they outnumber the live ones by far."""
        if self.entries > _COMPACT_FLOOR + 4 * self.count:
            live = self.queued_tasks(tasks)
            self.entries = len(live)
            self.heaps = {}
            for id in live:
                self.heaps.setdefault(tasks[id].priority, []).append(id)
            for heap in self.heaps.values():
                heapq.heapify(heap)
            self.priorities = sorted(self.heaps)


class Matching:
    """Which present bots satisfy which requirement sets, kept by an index of `key:value`.

    A set that no plan refers to any more stays for a while. On an idle lab with thousands of bots each single task
    would else make its set anew, and compare it with all of them.
    """

    __slots__ = ("bots_by_value", "sets", "sets_by_pivot", "unused")

    def __init__(self) -> None:
        self.sets: dict[Requirements, RequirementSet] = {}
        self.unused: dict[Requirements, RequirementSet] = {}  # without users, at most KEPT, oldest first
        self.sets_by_pivot: dict[str, set[RequirementSet]] = {}
        self.bots_by_value: dict[str, dict[BotId, Bot]] = {}

    def set_of(self, requirements: Requirements) -> RequirementSet:
        """The set of these requirements, made when it is new."""
        found = self.sets.get(requirements)
        if found is None:
            found = self.sets[requirements] = RequirementSet(requirements)
            key, alternatives = found.pivot
            candidates: dict[BotId, Bot] = {}
            for value in alternatives:
                self.sets_by_pivot.setdefault(f"{key}:{value}", set()).add(found)
                candidates.update(self.bots_by_value.get(f"{key}:{value}", {}))
            for bot in candidates.values():
                self._pair(found, bot)
        self.unused.pop(requirements, None)
        return found

    def release(self, requirement_set: RequirementSet) -> None:
        """One plan less refers to it."""
        requirement_set.users -= 1
        if requirement_set.users > 0:
            return
        assert requirement_set.count == 0, "a set with queued tasks lost its last user"
        self.unused[requirement_set.requirements] = requirement_set
        if len(self.unused) > KEPT:
            self._drop(next(iter(self.unused.values())))

    def _drop(self, requirement_set: RequirementSet) -> None:
        del self.unused[requirement_set.requirements], self.sets[requirement_set.requirements]
        key, alternatives = requirement_set.pivot
        for value in alternatives:
            sets = self.sets_by_pivot[f"{key}:{value}"]
            sets.discard(requirement_set)
            if not sets:
                del self.sets_by_pivot[f"{key}:{value}"]
        for bot in requirement_set.bots.values():
            bot.satisfies.discard(requirement_set)

    def enter(self, bot: Bot) -> None:
        """Counts `bot` as present, with its values as they are now."""
        for value in bot.values:
            self.bots_by_value.setdefault(value, {})[bot.id] = bot
            for requirement_set in self.sets_by_pivot.get(value, ()):
                self._pair(requirement_set, bot)

    def leave(self, bot: Bot) -> None:
        """Forgets `bot`; call before its values change."""
        for value in bot.values:
            bots = self.bots_by_value.get(value)
            if bots is not None:
                bots.pop(bot.id, None)
                if not bots:
                    del self.bots_by_value[value]
        for requirement_set in bot.satisfies:
            requirement_set.bots.pop(bot.id, None)
        bot.satisfies = set()
        bot.is_to_end = False

    @staticmethod
    def _pair(requirement_set: RequirementSet, bot: Bot) -> None:
        if not missing(requirement_set.requirements, bot.values):
            requirement_set.bots[bot.id] = bot
            bot.satisfies.add(requirement_set)
            requirement_set.tell_bots()


def requirements_to_end(bot: BotId) -> Requirements:
    """What a termination task of `bot` requires, in canonical form."""
    return ((FEATURE, (TERMINATE,)), (ID, (bot,)))


def best_head(sets: Iterable[RequirementSet], tasks: Mapping[TaskId, Task]) -> Task | None:
    """The task that comes first over all `sets`: lowest priority, then oldest."""
    best: Task | None = None
    for requirement_set in sets:
        if requirement_set.count:
            task = requirement_set.head(tasks)
            if task is not None and (best is None or (task.priority, task.id) < (best.priority, best.id)):
                best = task
    return best
