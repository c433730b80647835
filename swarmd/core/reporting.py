"""What a bot's session takes and tells: offers, acceptance, output, outcomes, and what it says it holds."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import Struct

from swarmd.core.changes import OutputChunk
from swarmd.core.ending import Ending
from swarmd.core.model import (
    NEVER,
    Attempt,
    AttemptId,
    AttemptState,
    BotOrder,
    OpId,
    Outcome,
    Session,
    SessionId,
    StopReason,
    Stream,
    Task,
    TaskState,
)
from swarmd.core.queue import best_head

MAX_OFFERS = 2_048  # in one answer


class Ordered(Struct, frozen=True):
    """Something that a session is told to do."""

    kind: str  # stop, drain, restart, update, terminate
    attempt: AttemptId | None = None
    reason: str = ""
    grace_s: float | None = None


class Reporting(Ending):
    """Everything between an offer and an outcome."""

    # ------------------------------------------------------------- offers

    def offer(
        self, now: float, session_id: SessionId, key: str, limit: int, accept_s: float | None = None
    ) -> list[Attempt]:
        """Up to `limit` new attempts for a session, in order of priority, then age. They go back after `accept_s`
        (None: that of the settings) without a sign that they were started.

        The same `key` again gives the same attempts (those not yet started), also after a restart, and no
        new ones.
        While a termination task of the bot is queued there is nothing else for it: as soon as it holds nothing it gets
        that, whatever its health and `limit`, and nothing more until that has ended.
        Cost: O(limit × k), k = requirement sets with something queued that the bot satisfies.
        Raises `Unknown` for a session that is not open.
        """
        session = self.session_named(session_id)
        again = [a for a in session.attempts.values() if a.offer_key == key]
        if again:
            return [a for a in again if a.state is AttemptState.OFFERED]
        bot = self.bots[session.bot]
        offered = []
        if (termination := self.next_termination(session)) is not None:
            offered.append(self._offer_one(now, session, termination, key, accept_s))
            self.moved.add(session.id)
            return offered
        if not bot.takes_work:
            return []
        for _ in range(min(limit, MAX_OFFERS)):
            task = best_head(bot.satisfies, self.tasks)
            if task is None:
                break
            offered.append(self._offer_one(now, session, task, key, accept_s))
        if offered:
            self.moved.add(session.id)
        return offered

    def _offer_one(
        self, now: float, session: Session, task: Task, key: str, accept_s: float | None
    ) -> Attempt:
        assert task.state is TaskState.PENDING and task.attempt is None
        left_s = max(0.0, task.due_at - now)
        self.unqueue(task)
        task.tries += 1
        attempt = Attempt(
            AttemptId(self.ids.next(now)), task.id, task.tries, session.bot, session.id, key, now,
            task.facts.requires.ends_bot,
        )  # fmt: skip
        attempt.accept_due_at = now + (self.settings.accept_s if accept_s is None else accept_s)
        attempt.remaining_s = left_s
        task.attempt = attempt
        task.last_attempt = attempt.id
        self.attempts[attempt.id] = attempt
        session.attempts[attempt.id] = attempt
        self.touch_attempt(attempt)  # the task's own row need not change: it stays PENDING
        return attempt

    def accept(self, now: float, attempt: Attempt, tell: bool = True) -> None:
        """The first sign that the bot has started it: the task is RUNNING and its limits run. Twice is one
        effect. `tell` False: its end is told at the same moment."""
        if attempt.state is not AttemptState.OFFERED:
            return
        task = self.tasks[attempt.task]
        session = self.sessions[attempt.session]
        facts = task.facts
        attempt.state = AttemptState.RUNNING
        attempt.started_at = now
        attempt.accept_due_at = NEVER
        margin_s = 3 * facts.grace_s + self.settings.stop_margin_s if session.enforces_limits else 0.0
        attempt.limit_due_at = now + facts.hard_limit_s + margin_s
        self.move(task, TaskState.RUNNING)
        self.touch_attempt(attempt)
        if tell:
            self.tell_state(now, task, attempt)
            self.moved.add(session.id)

    def received(self, attempt: Attempt) -> None:
        """The bot says that it has it and has not started it yet: it may wait there until its task expires. Twice is
        one effect."""
        if not attempt.queued and attempt.state is AttemptState.OFFERED:
            attempt.queued = True
            if attempt.expires_at < attempt.accept_due_at:
                self.moved.add(attempt.session)
            attempt.accept_due_at = attempt.expires_at
            self.touch_attempt(attempt)

    def attempt_tells(self, now: float, attempt: Attempt, kind: str, message: str) -> None:
        """An entry in the history of the operations that a live attempt runs for."""
        assert attempt.id in self.attempts, f"attempt {attempt.id} has ended"
        task = self.tasks[attempt.task]
        graphs = {op.id: op.graph for op in task.ops.values()} if task.ops else {OpId(task.id): task.graph}
        for op, graph in graphs.items():
            self.emit(
                now,
                kind,
                op=op,
                attempt=attempt.id,
                bot=attempt.bot,
                graph=graph,
                detail={"message": message},
            )

    def holds(
        self,
        now: float,
        session_id: SessionId,
        running: Collection[AttemptId],
        queued: Collection[AttemptId],
        judged: Callable[[Attempt], bool],
    ) -> list[AttemptId]:
        """Compares what a bot says it holds, the whole truth, with what we think.

        Named in `running`: accepted. Named in `queued`: received. Accepted and named nowhere: lost. Received and
        named nowhere: given back, which counts against nothing, because its slots were busier than it thought.
        Offered, `judged` (the bot must have seen the offer) and named nowhere: declined. Returns those named that
        this session does not hold.
        """
        session = self.session_named(session_id)
        named = set(running)
        for id in running:
            attempt = session.attempts.get(id)
            if attempt is not None and attempt.state is AttemptState.OFFERED:
                self.accept(now, attempt)
        for id in queued:
            attempt = session.attempts.get(id)
            if attempt is not None:
                self.received(attempt)
        named.update(queued)
        if len(named) != len(session.attempts) or not named.issuperset(session.attempts):
            for attempt in [a for id, a in session.attempts.items() if id not in named]:
                if attempt.id not in session.attempts:
                    continue  # a child of one that was lost before it in this loop
                if attempt.state is AttemptState.RUNNING:
                    self.lose(now, attempt, "its bot no longer knows it")
                elif attempt.queued:
                    self.drop(now, attempt, "given back by its bot", counted=False)
                elif judged(attempt):
                    self.drop(now, attempt, "declined by its bot")
            return sorted(id for id in named if id not in session.attempts)
        return []

    # ------------------------------------------------------------- output

    def report_output(self, now: float, attempt: Attempt, stream: str, offset: int, data: bytes) -> int:
        """Appends bytes to a stream; returns where the stream ends now.

        A stream only grows: bytes below its end are ignored; a gap reads as NULs; above `output_limit` bytes
        are dropped
        and counted.
        """
        known = attempt.streams.get(stream)
        if known is None:
            if not data:
                return 0  # a stream begins with its first byte, in memory as in the file
            known = attempt.streams[stream] = Stream()
        if offset < known.end + known.dropped:
            data = data[known.end + known.dropped - offset :]
            offset = known.end + known.dropped
        limit = self.settings.output_limit
        kept = data[: max(0, limit - offset)]
        if len(data) > len(kept):
            known.dropped = offset + len(data) - limit
            self.touch_attempt(attempt)
        if kept:
            # The gap counts in the merged stream too, so that both tell the same.
            attempt.merged_end += offset - known.end
            self.changes.chunks.append(OutputChunk(attempt.id, stream, offset, attempt.merged_end, kept))
            attempt.merged_end += len(kept)
            known.end = offset + len(kept)
            self.touch_attempt(attempt)
        elif len(data) > len(kept) and known.end < limit:
            attempt.merged_end += limit - known.end
            known.end = limit
        return known.end

    # ------------------------------------------------------------- outcomes and orders

    def finish(self, now: float, session_id: SessionId, attempt_id: AttemptId, outcome: Outcome) -> bool:
        """The bot reports how an attempt ended. False, and nothing changed, when it is not this session's
        any more."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.session != session_id:
            return False
        self.accept(now, attempt, tell=False)
        self.conclude(now, attempt, outcome)
        return True

    def orders(self, session_id: SessionId) -> list[Ordered]:
        """What a session is told now; repeated until its effect is seen.

        A termination task reads as orders here: to drain while it is queued, and to end once it was started.
        """
        session = self.session_named(session_id)
        bot = self.bots[session.bot]
        found = [
            Ordered("stop", a.id, a.stop.reason.value, a.stop.grace_s)
            for a in session.attempts.values()
            if a.stop is not None and not a.ends_bot
        ]
        if bot.draining or bot.is_to_end:
            found.append(Ordered("drain"))
        if bot.order is not None:
            found.append(Ordered(bot.order.value))
        ending = session.ending
        is_told = ending is not None and ending.state is AttemptState.RUNNING and ending.stop is None
        if is_told and bot.order is not BotOrder.TERMINATE:
            found.append(Ordered(BotOrder.TERMINATE.value))
        return found

    # ------------------------------------------------------------- deadlines of a session

    def session_due(self, session: Session) -> float:
        """The earliest of all that hangs on a session: its own expiry (never while a call of it is held),
        and the
        acceptance, limits and stops of its attempts."""
        due = NEVER if session.held else session.due_at
        for a in session.attempts.values():
            attempt_due = a.stop.due_at if a.stop is not None else min(a.accept_due_at, a.limit_due_at)
            due = min(due, attempt_due)
        return due

    def attempts_due(self, now: float, session: Session) -> None:
        """Acts on the attempts of a session whose deadlines have passed."""
        for attempt in list(session.attempts.values()):
            if attempt.id not in session.attempts:
                continue  # a child of one that ended before it in this loop
            if attempt.stop is not None:
                if attempt.stop.due_at <= now:
                    self.conclude(
                        now, attempt, Outcome(ok=False, reason="its bot did not report the end of the stop")
                    )
            elif attempt.accept_due_at <= now and attempt.queued:
                self.drop(now, attempt, "its bot had not started it when its time was over", counted=False)
                self.wake_session(session)  # to be told that it is not its own any more
            elif attempt.accept_due_at <= now:
                self.drop(now, attempt, f"not started within {now - attempt.offered_at:g} s")
            elif attempt.limit_due_at <= now:
                self._limit_passed(now, session, attempt)

    def _limit_passed(self, now: float, session: Session, attempt: Attempt) -> None:
        attempt.limit_due_at = NEVER
        if session.enforces_limits:  # it should have reported long ago: this was the backstop
            self.conclude(
                now,
                attempt,
                Outcome(ok=False, timed_out=True, reason="hard limit, and its bot did not report"),
            )
        else:
            self.begin_stop(now, attempt, StopReason.HARD_LIMIT)

    def op_name(self, attempt: Attempt) -> OpId:
        """The operation that a bot is told as its task: the first one still standing."""
        task = self.tasks[attempt.task]
        return OpId(task.id) if task.ops is None else next(iter(task.ops))
