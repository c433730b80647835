"""Where a task waits and who takes it: plans, slices, queueing, capacity, waking of waiting sessions."""

from __future__ import annotations

from swarmd.core.dimensions import Requirements
from swarmd.core.model import (
    NEVER,
    Bot,
    BotId,
    Outcome,
    Plan,
    Session,
    SessionId,
    SliceFacts,
    Task,
    TaskState,
)
from swarmd.core.queue import RequirementSet, best_head, requirements_to_end
from swarmd.core.world import World

SliceKey = tuple[Requirements, float, bool, float, float, float, bool, float]


class Placing(World):
    """Puts tasks into queues and takes them out."""

    # ------------------------------------------------------------- plans

    def plan_of(
        self, slices: tuple[SliceKey, ...], retries: int, bot_retries: int, retry_wait_s: float, carry: bool
    ) -> Plan:
        """The plan of these facts: equal tasks share one. The caller becomes a user of it."""
        key = (slices, retries, bot_retries, retry_wait_s, carry)
        plan = self.plans.get(key)
        if plan is None:
            facts = []
            for requirements, expiration_s, waits, hard_s, io_s, grace_s, marker, ping_s in slices:
                requirement_set = self.matching.set_of(requirements)
                requirement_set.users += 1
                facts.append(
                    SliceFacts(requirement_set, expiration_s, waits, hard_s, io_s, grace_s, marker, ping_s)
                )
            plan = self.plans[key] = Plan(tuple(facts), retries, bot_retries, retry_wait_s, carry)
            plan.key = key
        plan.users += 1
        return plan

    def release_plan(self, plan: Plan) -> None:
        plan.users -= 1
        if plan.users == 0:
            del self.plans[plan.key]
            for facts in plan.slices:
                self.matching.release(facts.requires)

    # ------------------------------------------------------------- queueing

    def enqueue(self, now: float, task: Task, expires_at: float) -> None:
        """Queues a PENDING task under its current slice and wakes a session for it."""
        assert task.state is TaskState.PENDING and task.attempt is None
        requirement_set = task.facts.requires
        requirement_set.push(task)
        self.set_task_due(task, expires_at)
        self.touch(task)
        if not task.facts.wait_for_capacity and not self.has_capacity(requirement_set):
            self._pass_over_soon(now)
        if requirement_set.ends_bot:
            self.termination_changed(now, requirement_set)
        else:
            self.wake_for(requirement_set)

    def unqueue(self, task: Task) -> None:
        if task.queued is not None:
            requirement_set = task.queued
            requirement_set.leave(task)
            requirement_set.compact(self.tasks)
        task.due_at = NEVER

    def start_slice(self, now: float, task: Task) -> None:
        """Queues a task that became PENDING, with the full expiration of its current slice."""
        self.enqueue(now, task, now + task.facts.expiration_s)

    def next_slice(self, now: float, task: Task, left_s: float) -> bool:
        """Goes on to the next slice; False when there is none. `left_s`: what the present one did not use."""
        self.unqueue(task)
        if task.slice + 1 >= len(task.plan.slices):
            return False
        task.slice += 1
        carried = max(0.0, left_s) if task.plan.carry_time else 0.0
        self.enqueue(now, task, now + task.facts.expiration_s + carried)
        return True

    def reprioritise(self, task: Task, priority: int) -> None:
        if priority != task.priority:
            queued = task.queued
            if queued is not None:
                queued.leave(task)
            task.priority = priority
            if queued is not None:
                queued.push(task)
            self.touch(task)

    # ------------------------------------------------------------- capacity

    @staticmethod
    def has_capacity(requirement_set: RequirementSet) -> bool:
        """Whether any present bot could run it some day: busy ones, those under maintenance and those told to
        restart or update count. Every bot can end."""
        if requirement_set.ends_bot:
            return bool(requirement_set.bots)
        return any(
            b.quarantined is None and not b.draining and not b.is_leaving
            for b in requirement_set.bots.values()
        )

    def _pass_over_soon(self, now: float) -> None:
        """Impatient tasks are looked at again at once, but never within `bot_back_s` of the start."""
        if not self.impatience_due:
            self.impatience_due = True
            self.set_other_due(max(now, self.started_at + self.settings.bot_back_s), "impatient", 0)

    def capacity_changed(self, now: float, bot: Bot) -> None:
        """Call when a bot left or stopped taking work."""
        if any(s.impatient for s in bot.satisfies):
            self._pass_over_soon(now)

    def impatient_without_capacity(self) -> list[Task]:
        """Queued tasks whose slice does not wait for capacity and has none, oldest first."""
        found = [
            self.tasks[id]
            for requirement_set in self.matching.sets.values()
            if requirement_set.impatient and not self.has_capacity(requirement_set)
            for id in requirement_set.impatient
        ]
        return sorted(found, key=lambda task: task.id)

    # ------------------------------------------------------------- termination tasks

    def termination_of(self, bot_id: BotId) -> Task | None:
        """The unfinished termination task of a bot that may be waited for: handed out, or the first that is queued.
        None also for one that is being stopped."""
        bot = self.bots.get(bot_id)
        ending = bot.session.ending if bot is not None and bot.session is not None else None
        if ending is not None and ending.stop is None:
            return self.tasks[ending.task]
        requirement_set = self.matching.sets.get(requirements_to_end(bot_id))
        return None if requirement_set is None else requirement_set.head(self.tasks)

    def next_termination(self, session: Session) -> Task | None:
        """The termination task that a session is to be given now: its bot has one, and holds nothing."""
        bot = self.bots[session.bot]
        if not bot.is_to_end or session.attempts or bot.session is not session:
            return None
        return best_head((s for s in bot.satisfies if s.ends_bot), self.tasks)

    def termination_changed(self, now: float, requirement_set: RequirementSet) -> None:
        """A termination task was queued, or ended: its bot takes nothing else from now on, or takes work again."""
        for bot in requirement_set.bots.values():
            self.capacity_changed(now, bot)
            if bot.session is not None:
                self.hand_wakes_on(bot.session)
                self.wake_session(bot.session)

    # ------------------------------------------------------------- waiting sessions

    @staticmethod
    def _load(session: Session) -> int:
        return len(session.attempts) + session.woken

    def wait(self, now: float, session_id: SessionId, free: int) -> bool:
        """Lets a session wait for up to `free` offers; True when there is something for it already."""
        session = self.session_named(session_id)
        bot = self.bots[session.bot]
        assert session.bucket == -1, "a session waits twice"
        if self.next_termination(session) is not None:
            return True
        if free <= 0 or not bot.takes_work:
            return False
        if best_head(bot.satisfies, self.tasks) is not None:
            return True
        session.free = free
        session.waiting_since = now
        self._add_waiting(session)
        return False

    def unwait(self, session_id: SessionId) -> int:
        """Ends the wait of a session; returns for how many tasks it was woken.

        A caller that does not go on to take them must call `pass_on`.
        """
        session = self.sessions.get(session_id)
        if session is None:
            return 0
        woken = session.woken
        self._remove_waiting(session)
        session.free = session.woken = 0
        return woken

    def pass_on(self, session_id: SessionId) -> None:
        """The woken session does not take its tasks: others are woken for them."""
        session = self.sessions.get(session_id)
        if session is not None:
            for requirement_set in sorted(self.bots[session.bot].satisfies, key=lambda s: s.requirements):
                self.wake_for_all(requirement_set)

    def hand_wakes_on(self, session: Session) -> None:
        """Ends the wait of a session; what it was woken for goes to others."""
        if self.unwait(session.id):
            self.pass_on(session.id)

    def _add_waiting(self, session: Session) -> None:
        session.bucket = self._load(session)
        self.waiting.setdefault(session.bucket, {})[session.id] = session

    def _remove_waiting(self, session: Session) -> None:
        if session.bucket >= 0:
            sessions = self.waiting[session.bucket]
            del sessions[session.id]
            if not sessions:
                del self.waiting[session.bucket]
            session.bucket = -1

    def wake_for(self, requirement_set: RequirementSet) -> bool:
        """Wakes the waiting session that suits best: the one running least, then waiting longest."""
        best = self._best_waiting(requirement_set) if self.waiting else None
        if best is None:
            return False
        self._remove_waiting(best)
        best.woken += 1
        if best.woken == 1:
            self.woken.append(best.id)
        if best.woken < best.free:
            self._add_waiting(best)
        return True

    def wake_for_all(self, requirement_set: RequirementSet) -> None:
        """Wakes as many waiting sessions as there are tasks queued."""
        for _ in range(requirement_set.count):
            if not self.wake_for(requirement_set):
                return

    def _best_waiting(self, requirement_set: RequirementSet) -> Session | None:
        """Cost: the smaller of the bots that satisfy the set and the waiting sessions passed on the way."""
        if len(requirement_set.bots) < sum(map(len, self.waiting.values())):
            able = [
                session
                for bot in requirement_set.bots.values()
                if (session := bot.session) is not None and session.bucket >= 0 and bot.takes_work
            ]
            return min(able, key=lambda s: (s.bucket, s.waiting_since, s.id), default=None)
        for load in sorted(self.waiting):
            for session in self.waiting[load].values():
                bot = self.bots[session.bot]
                if requirement_set in bot.satisfies and bot.takes_work:
                    return session
        return None

    def wake_session(self, session: Session) -> None:
        """The held call of a session has something to say: an order, or its end."""
        self.woken.append(session.id)

    @staticmethod
    def lost_outcome(reason: str) -> Outcome:
        return Outcome(ok=False, died=True, reason=reason)
