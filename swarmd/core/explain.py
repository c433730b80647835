"""Why does this task wait? One code and one sentence for each reason, naming what would help."""

from __future__ import annotations

from msgspec import Struct

from swarmd.core.dimensions import FEATURE, POOL, as_text, missing
from swarmd.core.ids import to_text
from swarmd.core.model import AttemptState, Bot, OpId, Task, TaskState
from swarmd.core.queue import RequirementSet
from swarmd.core.submitting import Submitting

MAX_NAMED = 3  # tasks, bots or dimensions named in one sentence


class Explanation(Struct, frozen=True):
    state: TaskState
    reason: str
    sentence: str


class Explaining(Submitting):
    """Answers in words; changes nothing."""

    def explain(self, now: float, op: OpId) -> Explanation | None:
        """Why the operation waits, or what it does; None when it is final or unknown (then the file
        knows)."""
        task = self.task_of(op)
        if task is None:
            return None
        attempt = task.attempt
        if task.state is TaskState.BLOCKED:
            reason, sentence = self._blocked(task)
        elif attempt is not None and attempt.stop is not None:
            left_s = max(0.0, attempt.stop.due_at - now)
            reason = "stopping"
            sentence = (
                f"it is being stopped on bot {attempt.bot} ({attempt.stop.reason.value}); "
                f"it ends in {left_s:.0f} s even if the bot says nothing"
            )
        elif attempt is not None and attempt.state is AttemptState.RUNNING:
            reason = "running"
            for_s = now - attempt.started_at
            sentence = (
                f"it has been running on bot {attempt.bot} (attempt {attempt.number}) for {for_s:.0f} s"
            )
        elif attempt is not None and attempt.queued:
            reason = "queued_in_bot"
            sentence = f"bot {attempt.bot} has taken it and will start it as soon as one of its slots is free"
        elif attempt is not None:
            reason, sentence = (
                "offered",
                f"it was offered to bot {attempt.bot}, which has not said yet that it started it",
            )
        elif task.queued is None:
            left_s = max(0.0, task.due_at - now)
            reason, sentence = (
                "retry_wait",
                f"its last attempt did not end ok; the next one may begin in {left_s:.0f} s",
            )
        else:
            reason, sentence = self._queued(now, task, task.queued)
        return Explanation(task.state, reason, sentence)

    def _blocked(self, task: Task) -> tuple[str, str]:
        waits = list(task.waits or ())
        if not waits:
            return (
                "lookup",
                "everything it depends on is done; a finished task that is the same is being looked for",
            )
        graph = self.graphs.get(task.graph)
        if graph is not None and task.id in graph.doomed:
            return "doomed", (
                "something it depends on did not end as required; it is skipped when its graph is closed, "
                "unless its dependencies are changed before"
            )
        named = ", ".join(f"{to_text(on)} ({self._state_name(on)})" for on in waits[:MAX_NAMED])
        more = f" and {len(waits) - MAX_NAMED} more" if len(waits) > MAX_NAMED else ""
        return "blocked", f"it waits for {named}{more}"

    def _state_name(self, op: OpId) -> str:
        task = self.task_of(op)
        return "final" if task is None else task.state.name

    # ------------------------------------------------------------- queued

    def _queued(self, now: float, task: Task, requires: RequirementSet) -> tuple[str, str]:
        if not requires.bots:
            return self.no_match(requires)
        if requires.ends_bot:
            return self._ends_later(requires)
        able = [bot for bot in requires.bots.values() if bot.takes_work]
        connected = [bot for bot in able if bot.session is not None]
        if connected:
            before = requires.position(task, self.tasks)
            are = "is" if len(connected) == 1 else "are"
            busy = f"{_bots(len(connected))} can run it and {are} busy or about to take it"
            first = "1 task" if before == 1 else f"{before} tasks"
            return "bots_busy", f"{busy}; " + (
                f"{first} with the same requirements come{'s' * (before == 1)} first"
                if before
                else "it is next"
            )
        if able:
            return "bots_away", f"bot {able[0].id} could run it but is not connected; start it again"
        return "bots_refuse", self._why_refused(requires)

    @staticmethod
    def _ends_later(requires: RequirementSet) -> tuple[str, str]:
        bot = min(requires.bots.values(), key=lambda b: b.id)
        if bot.session is None:
            return "bots_away", f"bot {bot.id} is not connected; it is told to end when it comes back"
        return (
            "bots_busy",
            f"bot {bot.id} is told to end as soon as nothing runs there; it gets no other task before",
        )

    def _why_refused(self, requires: RequirementSet) -> str:
        bot = min(requires.bots.values(), key=lambda b: b.id)
        if bot.quarantined is not None:
            why, remedy = f"is quarantined ({bot.quarantined})", f"swarmd quarantine {bot.id} --undo"
        elif bot.maintenance is not None:
            why, remedy = f"is under maintenance ({bot.maintenance})", "it takes work again when that ends"
        elif bot.draining:
            why, remedy = "is draining", f"swarmd drain {bot.id} --undo"
        elif (ending := self.termination_of(bot.id)) is not None and bot.is_leaving:
            why, remedy = f"is to end by task {to_text(ending.id)}", f"swarmd cancel {to_text(ending.id)}"
        else:
            why, remedy = f"is about to {bot.order.value if bot.order else 'leave'}", "wait until it is back"
        more = f", and none of {len(requires.bots)} such bots takes work" if len(requires.bots) > 1 else ""
        return f"bot {bot.id} could run it but {why}{more}: {remedy}"

    def no_match(self, requires: RequirementSet) -> tuple[str, str]:
        """No present bot satisfies `requires`: names the nearest one, or says that there is none."""
        text = ", ".join(as_text(r) for r in requires.requirements if r[0] not in (POOL, FEATURE))
        pool = requires.pool
        inside = [b for b in self.bots.values() if not pool or f"{POOL}:{pool}" in b.values]
        if not self.bots:
            return "no_bots", "no bot has ever connected: start one with swarmd bot"
        if not inside:
            pools = sorted({v for b in self.bots.values() for v in _pools(b)})[:MAX_NAMED]
            return "no_pool", f"no bot is in pool {pool}; there are bots in {', '.join(pools)}"
        nearest = min(
            inside, key=lambda b: (len(missing(requires.requirements, b.values)), b.session is None, b.id)
        )
        lacks = missing(requires.requirements, nearest.values)
        if not lacks:
            return "bots_away", f"bot {nearest.id} could run it but is not connected; start it again"
        named = ", ".join(_lack(r, nearest) for r in lacks[:MAX_NAMED])
        where = f"no bot in pool {pool}" if pool else "no bot"
        has = f"has {text}" if text else "can run it"
        return "no_bot_matches", f"{where} {has}; nearest: {nearest.id} lacks {named}"


def _lack(requirement: tuple[str, tuple[str, ...]], bot: Bot) -> str:
    """What `bot` lacks, and what it has instead."""
    key = requirement[0]
    if key == FEATURE:
        return f"the feature {requirement[1][0]} (its protocol, {bot.protocol}, cannot express it)"
    has = {**bot.dimensions, **bot.assigned}.get(key)
    return f"{as_text(requirement)}" + (f" (it has {key}={','.join(has[:MAX_NAMED])})" if has else "")


def _pools(bot: Bot) -> tuple[str, ...]:
    return {**bot.dimensions, **bot.assigned}.get(POOL, ())


def _bots(count: int) -> str:
    return f"{count} bot{'' if count == 1 else 's'}"
