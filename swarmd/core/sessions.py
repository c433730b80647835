"""How bots come and go: opening, replacing, expiring sessions; what a person may ask of a bot."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from swarmd.core.dimensions import FEATURE, check_bot, values_of
from swarmd.core.errors import Conflict, Refused
from swarmd.core.ids import to_text
from swarmd.core.model import (
    AttemptId,
    AttemptState,
    Bot,
    BotId,
    BotOrder,
    Outcome,
    Session,
    SessionId,
    TaskState,
)
from swarmd.core.reporting import Reporting
from swarmd.core.states import final_state

UNCHANGED = "\0unchanged"  # for a reason that is not touched
MAX_REASON = 1_000
MAX_MESSAGE = 10_000


class Newcomer(Struct, frozen=True):
    """A bot that asks for a session."""

    bot: BotId
    protocol: str
    session_key: str
    key_hash: str  # of the bot's own key; "" where the protocol has none
    dimensions: Mapping[str, Sequence[str]]
    features: tuple[str, ...]
    slots: int
    version: str = ""
    state: bytes = b"{}"
    keeps: tuple[AttemptId, ...] = ()
    assigned: Mapping[str, tuple[str, ...]] = {}
    deadline_s: float | None = None
    enforces_limits: bool = True
    always_wins: bool = False  # Swarming and RWAPI: the newcomer ends the older session whoever it is


class Opened(Struct, frozen=True):
    session: SessionId
    deadline_s: float
    lost: list[AttemptId]  # of those it keeps: not its own any more
    is_new: bool


class Sessions(Reporting):
    """Sessions of bots, and the bots themselves."""

    # ------------------------------------------------------------- opening and ending

    def open_session(self, now: float, newcomer: Newcomer) -> Opened:
        """Opens a session, or finds the one of the same session key (a handshake retried).

        A new session ends the older one of that bot where the newcomer proves to be the same bot (or its
        protocol lets it
        win); attempts named in `keeps` move over, of the rest accepted ones are lost and offered ones
        dropped.
        Raises `Conflict` (`bot_in_use`) when another bot holds the name, `Refused` for bad dimensions.
        """
        dimensions = check_bot(newcomer.bot, newcomer.dimensions)
        bot = self.bots.get(newcomer.bot)
        if bot is None:
            bot = self._new_bot(now, newcomer)
        old = bot.session
        if old is not None and old.key == newcomer.session_key and bot.protocol == newcomer.protocol:
            self._describe(now, bot, newcomer, dimensions)
            self.touch_bot(bot)
            self.seen(now, old.id)
            return Opened(
                old.id, old.deadline_s, [id for id in newcomer.keeps if id not in old.attempts], False
            )
        if old is not None:
            self._may_replace(bot, old, newcomer)
        session = Session(
            SessionId(self.ids.next(now)), bot.id, newcomer.protocol, newcomer.session_key, newcomer.slots,
            newcomer.deadline_s or self.settings.session_deadline_s, newcomer.enforces_limits, now,
        )  # fmt: skip
        self.sessions[session.id] = session
        if old is not None:
            self._hand_over(now, old, session, newcomer.keeps)
        bot.session = session
        bot.key_hash = newcomer.key_hash
        bot.protocol = newcomer.protocol
        if bot.order in (BotOrder.RESTART, BotOrder.UPDATE):
            bot.order = None  # it has come back: the order was carried out
        self._describe(now, bot, newcomer, dimensions)
        self.touch_bot(bot)
        self.touch_session(session)
        self.moved.add(session.id)
        self.emit(
            now,
            "bot.connected",
            bot=bot.id,
            detail={"session": to_text(session.id), "version": newcomer.version},
        )
        lost = [id for id in newcomer.keeps if id not in session.attempts]
        return Opened(session.id, session.deadline_s, lost, True)

    def _new_bot(self, now: float, newcomer: Newcomer) -> Bot:
        if len(self.bots) >= self.settings.max_bots:
            raise Refused(
                "too_many_bots",
                f"{len(self.bots)} bots are known",
                "delete those that are gone: swarmd delete-bot",
            )
        bot = self.bots[newcomer.bot] = Bot(newcomer.bot, newcomer.protocol, now)
        if bot.id in self.changes.deleted_bots:  # and back before that was written
            self.changes.deleted_bots.remove(bot.id)
        return bot

    def _may_replace(self, bot: Bot, old: Session, newcomer: Newcomer) -> None:
        same = bot.protocol == newcomer.protocol and (
            newcomer.always_wins or bot.key_hash == newcomer.key_hash
        )
        if not same:
            raise Conflict(
                "bot_in_use",
                f"bot {bot.id} has an open {bot.protocol} session that began under another key",
                f"give this bot another id, or stop the other one; its session ends after {old.deadline_s:g} s",
            )

    def _hand_over(self, now: float, old: Session, new: Session, keeps: Collection[AttemptId]) -> None:
        kept = set(keeps)
        for attempt in [a for a in old.attempts.values() if a.id in kept]:
            del old.attempts[attempt.id]
            attempt.session = new.id
            attempt.offer_key = ""
            new.attempts[attempt.id] = attempt
            self.touch_attempt(attempt)
        # A bot that ends when a call of it fails comes back with a new session after each restart of the daemon: what
        # it lost by that is nobody's fault.
        reason = "replaced by a new session of the same bot"
        self._end(now, old, reason, goodbye=False, counted=old.heard)

    def describe(self, now: float, newcomer: Newcomer) -> None:
        """A bot with an open session says anew what it is. Nothing is written when that is what it said before, but
        for its `state`, which is memory only. Raises `Refused` for bad dimensions, `Unknown`.
        """
        bot = self.bot_named(newcomer.bot)
        assert bot.session is not None, f"bot {bot.id} has no session"
        dimensions = check_bot(newcomer.bot, newcomer.dimensions)
        assigned = {**newcomer.assigned, FEATURE: newcomer.features}
        if (bot.version, bot.dimensions, bot.assigned) == (newcomer.version, dimensions, assigned):
            bot.state = newcomer.state
            return
        self._describe(now, bot, newcomer, dimensions)
        self.touch_bot(bot)

    def _describe(
        self, now: float, bot: Bot, newcomer: Newcomer, dimensions: dict[str, tuple[str, ...]]
    ) -> None:
        bot.version = newcomer.version
        bot.state = newcomer.state
        bot.last_seen_at = now
        assigned = {**newcomer.assigned, FEATURE: newcomer.features}
        values = values_of(dimensions, assigned)
        if values != bot.values or bot.dimensions != dimensions or bot.assigned != assigned:
            self.capacity_changed(now, bot)
            if bot.session is not None and bot.session.free:  # a call of it waits
                self.hand_wakes_on(bot.session)
                self.wake_session(bot.session)  # what it matches now may be queued already
            self.matching.leave(bot)
            bot.dimensions, bot.assigned, bot.values = dimensions, assigned, values
        self.matching.enter(bot)

    def bots_can(self, protocol: str, features: tuple[str, ...]) -> None:
        """At the start: what all bots of a protocol can do, which an older version may not have known. For protocols
        whose sessions outlive a restart of the daemon without a word of what the bot is."""
        for bot in self.bots.values():
            if bot.protocol == protocol and bot.assigned.get(FEATURE) != features:
                is_present = bot.session is not None
                self.matching.leave(bot)
                bot.assigned = {**bot.assigned, FEATURE: features}
                bot.values = values_of(bot.dimensions, bot.assigned)
                if is_present:
                    self.matching.enter(bot)
                self.touch_bot(bot)

    def seen(self, now: float, session_id: SessionId) -> Session:
        """A sign of life: the session's deadline moves. Memory only; raises `Unknown` when it is not open."""
        session = self.session_named(session_id)
        session.due_at = now + self.patience_s(session)
        session.heard = True
        self.bots[session.bot].last_seen_at = now
        return session

    def patience_s(self, session: Session) -> float:
        """How long a session may be silent: its deadline, or what a task that it has was submitted with."""
        own = [self.tasks[a.task].facts.ping_tolerance_s for a in session.attempts.values()]
        return max(own, default=0.0) or session.deadline_s

    def bot_tells(self, now: float, bot_id: BotId, kind: str, message: str) -> None:
        """An entry in the history of a bot that the bot itself asked for. Raises `Unknown`."""
        self.emit(now, kind, bot=self.bot_named(bot_id).id, detail={"message": message[:MAX_MESSAGE]})

    def close_session(self, now: float, session_id: SessionId, reason: str) -> None:
        """The bot says goodbye: offers go back uncounted, accepted attempts are lost, but for one that told it to
        end: that was obeyed."""
        self._end(now, self.session_named(session_id), reason, goodbye=True)

    def finish(self, now: float, session_id: SessionId, attempt_id: AttemptId, outcome: Outcome) -> bool:
        """See `Reporting.finish`. Who confirms that it ends itself, as a task told it, has said goodbye."""
        attempt = self.attempts.get(attempt_id)
        taken = super().finish(now, session_id, attempt_id, outcome)
        confirmed = outcome.ok and final_state(outcome, None) is TaskState.COMPLETED
        if taken and confirmed and attempt is not None and attempt.ends_bot:
            self._end(now, self.session_named(session_id), "it ended itself, as a task told it", goodbye=True)
        return taken

    def deadline_passed(self, now: float, session_id: SessionId) -> None:
        """The moment that `session_due` named has come: ends what is due, perhaps the session."""
        session = self.sessions.get(session_id)
        if session is None:
            return
        if not session.held and session.due_at <= now:
            self._end(now, session, f"silent for {self.patience_s(session):g} s", goodbye=False)
        else:
            self.attempts_due(now, session)

    def _end(self, now: float, session: Session, reason: str, *, goodbye: bool, counted: bool = True) -> None:
        """Ends a session; `goodbye`: by the bot's own word. Not `counted`: what it loses counts against no limit."""
        bot = self.bots[session.bot]
        self.hand_wakes_on(session)
        for attempt in list(session.attempts.values()):
            if attempt.id not in session.attempts:
                continue  # a child of one that ended before it in this loop
            if attempt.state is AttemptState.RUNNING and attempt.ends_bot and goodbye:
                self.conclude(now, attempt, Outcome(ok=True, exit_code=0))
            elif attempt.state is AttemptState.RUNNING:
                gone = f"its bot {bot.id} is gone: {reason}"
                self.lose(now, attempt, gone, counted=counted or attempt.ends_bot)  # its next life is spared
            else:
                self.drop(now, attempt, reason, counted=counted and not goodbye)
        assert not session.attempts
        del self.sessions[session.id]
        session.ended_at, session.end_reason = now, reason
        self.touch_session(session)
        self.wake_session(session)
        self.moved.add(session.id)
        if bot.session is session:
            bot.session = None
            bot.back_until = now + self.settings.bot_back_s
            self.set_other_due(bot.back_until, "bot", bot.id)
            if bot.order is BotOrder.TERMINATE:
                bot.order = None
            self.touch_bot(bot)
        self.emit(
            now, "bot.disconnected", bot=bot.id, detail={"session": to_text(session.id), "reason": reason}
        )

    # ------------------------------------------------------------- what a person asks of a bot

    def change_bot(
        self,
        now: float,
        bot_id: BotId,
        *,
        drain: bool | None = None,
        quarantine: str | None = UNCHANGED,
        maintenance: str | None = UNCHANGED,
        order: str | None = UNCHANGED,
    ) -> Bot:
        """Drains, quarantines, maintains or orders a bot, or takes that back (None). Idempotent. Raises
        `Unknown`."""
        bot = self.bot_named(bot_id)
        before = (bot.draining, bot.quarantined, bot.maintenance, bot.order)
        if drain is not None:
            bot.draining = drain
        if quarantine != UNCHANGED:
            bot.quarantined = None if quarantine is None else quarantine[:MAX_REASON]
            bot.quarantined_by_person = quarantine is not None
        if maintenance != UNCHANGED:
            bot.maintenance = None if maintenance is None else maintenance[:MAX_REASON]
        if order != UNCHANGED:
            if order is not None and bot.session is None:
                raise Conflict(
                    "bot_dead", f"bot {bot_id} has no open session: it cannot be told anything", "start it"
                )
            bot.order = None if order is None else BotOrder(order)
        if before != (bot.draining, bot.quarantined, bot.maintenance, bot.order):
            self._bot_changed(now, bot)
        return bot

    def bot_says(self, now: float, bot_id: BotId, quarantined: str | None, maintenance: str | None) -> None:
        """The bot's own word about its health. What a person ordered stays."""
        bot = self.bot_named(bot_id)
        before = (bot.quarantined, bot.maintenance)
        if not bot.quarantined_by_person:
            bot.quarantined = quarantined[:MAX_REASON] if quarantined else None
            bot.maintenance = maintenance[:MAX_REASON] if maintenance else None
        if before != (bot.quarantined, bot.maintenance):
            self._bot_changed(now, bot)

    def _bot_changed(self, now: float, bot: Bot) -> None:
        self.touch_bot(bot)
        detail = {
            "draining": bot.draining,
            "quarantined": bot.quarantined,
            "maintenance": bot.maintenance,
            "order": bot.order.value if bot.order else None,
        }
        self.emit(now, "bot.changed", bot=bot.id, detail=detail)
        if not bot.takes_work:
            self.capacity_changed(now, bot)
        if bot.session is not None:
            if bot.session.woken:
                self.hand_wakes_on(bot.session)
            self.wake_session(bot.session)

    def delete_bot(self, now: float, bot_id: BotId) -> None:
        """Forgets a bot without a session. Raises `Unknown`, or `Conflict` while it is connected."""
        bot = self.bot_named(bot_id)
        if bot.session is not None:
            raise Conflict(
                "bot_connected",
                f"bot {bot_id} is connected",
                "terminate it first: swarmd terminate " + bot_id,
            )
        while (task := self.termination_of(bot_id)) is not None:  # another bot of that name is not meant
            for op in self.ops_of(task):
                self.withdraw(now, op, "its bot was deleted", kill=False)
        self.capacity_changed(now, bot)
        self.matching.leave(bot)
        del self.bots[bot_id]
        self.changes.bots.pop(bot_id, None)
        self.changes.deleted_bots.append(bot_id)
        self.emit(now, "bot.deleted", bot=bot_id)

    # ------------------------------------------------------------- time

    def bot_may_be_gone(self, now: float, bot_id: BotId) -> None:
        """`bot_back_s` after a session ended: the bot is no capacity any more, unless it came back."""
        bot = self.bots.get(bot_id)
        if bot is not None and bot.session is None and bot.back_until <= now:
            self.capacity_changed(now, bot)
            self.matching.leave(bot)

    def pop_other_due(self, now: float) -> tuple[str, object] | None:
        if self.other_timers and self.other_timers[0][0] <= now:
            _, kind, id = heapq.heappop(self.other_timers)
            return kind, id
        return None
