"""A bot's own calls: sessions, and `sync`, which carries everything else in one request.

Source: docs/http-api.md, "A bot's calls".
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import msgspec
import trio

from swarmd.api.calls import Call, Reply, kept_json
from swarmd.api.native import messages as m
from swarmd.core.engine import Engine
from swarmd.core.errors import Conflict, Refused
from swarmd.core.features import NATIVE
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Attempt, AttemptId, BotId, Outcome, Session, SessionId
from swarmd.core.reporting import Ordered
from swarmd.core.sessions import Newcomer
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.sessions import Hold, Holds, held
from swarmd.daemon.works import WorkText

log = logging.getLogger("swarmd.native")

MAX_STATE_BYTES = 64 << 10


class _Told(msgspec.Struct):
    """What a session was answered last. In memory only: after a restart it is told again."""

    seq: int = 0
    answer: bytes = b""
    orders: frozenset[tuple[str, int | None]] = frozenset()


class BotCallHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._holds = Holds(daemon)
        self._told: dict[SessionId, _Told] = {}

    # ------------------------------------------------------------- sessions

    async def open_session(self, call: Call) -> m.SessionAnswer:
        body: m.SessionRequest = call.body
        self.daemon.check_space()
        name = call.params["bot"]
        try:
            msgspec.convert(name, m.BotName)
        except msgspec.ValidationError:
            raise Refused(
                "bad_bot_name",
                f"{name[:80]!r} cannot be a bot's id",
                "use 1 to 128 letters, digits, '.', '_', '-'",
            ) from None
        state = _state_bytes(body.state)
        with self.daemon.step() as (engine, now):
            opened = engine.open_session(
                now,
                Newcomer(
                    bot=BotId(name),
                    protocol="native",
                    session_key=body.session_key,
                    key_hash=hashlib.sha256(body.bot_key.encode()).hexdigest(),
                    dimensions=body.dimensions,
                    features=NATIVE,
                    slots=body.slots,
                    version=body.version,
                    state=state,
                    keeps=tuple(AttemptId(id) for text in body.keeps if (id := from_text(text)) is not None),
                ),
            )
            self._health(engine, now, BotId(name), body.state, state)
        if opened.is_new:
            log.info("session.opened", extra={"bot": name, "session": to_text(opened.session)})
        await self.daemon.settled()
        return m.SessionAnswer(
            session=to_text(opened.session),
            deadline_s=opened.deadline_s,
            lost=[to_text(id) for id in opened.lost],
        )

    async def close_session(self, call: Call) -> m.Empty:
        """Twice is one effect."""
        id = SessionId(call.id_param("session", "session"))
        if id in self.daemon.engine.sessions:
            with self.daemon.step() as (engine, now):
                engine.close_session(now, id, "closed by its bot")
        self._told.pop(id, None)
        await self.daemon.settled()
        return m.Empty()

    # ------------------------------------------------------------- sync

    async def sync(self, call: Call) -> Reply:
        body: m.SyncRequest = call.body
        id = SessionId(call.id_param("session", "session"))
        session = self.daemon.engine.session_named(id)
        self._forget_ended()
        told = self._told.setdefault(id, _Told())
        if body.seq == told.seq:
            await self.daemon.settled()
            return Reply(told.answer)
        if body.seq < told.seq:
            raise Conflict(
                "stale_seq", f"seq {body.seq} was answered before; {told.seq} is the last", "go on from there"
            )
        with self._holds.take_over(id) as hold, held(self.daemon, session):
            said_something, strangers = self._take_in(session, body)
            wait_s = 0.0 if said_something or strangers else body.wait_s
            offers, orders = await self._something(hold, session, body, told, wait_s, strangers)
            answer = await self._answer(session, body.seq, offers, orders)
        if body.seq >= told.seq and not hold.called_back:
            told.seq, told.answer = body.seq, answer
            told.orders = frozenset((o.kind, o.attempt) for o in orders)
        await self.daemon.settled()
        return Reply(answer)

    def _forget_ended(self) -> None:
        if len(self._told) > 2 * len(self.daemon.engine.sessions) + 64:
            self._told = {id: t for id, t in self._told.items() if id in self.daemon.engine.sessions}

    def _take_in(self, session: Session, body: m.SyncRequest) -> tuple[bool, list[AttemptId]]:
        """Takes what the bot reports. Returns whether that was more than its presence, and what it holds in error."""
        seen = body.seq - 1 if body.seen is None else body.seen
        state = b"" if body.state is None else _state_bytes(body.state)
        self.daemon.note_life()
        with self.daemon.step() as (engine, now):
            engine.seen(now, session.id)
            for piece in body.output:
                attempt = session.attempts.get(AttemptId(from_text(piece.attempt) or 0))
                if attempt is not None:  # else stale: its bytes belong to nobody any more
                    engine.accept(now, attempt)
                    engine.report_output(now, attempt, piece.stream, piece.offset, piece.data)
            for finished in body.finished:
                engine.finish(
                    now, session.id, AttemptId(from_text(finished.attempt) or 0), outcome_of(finished)
                )
            running, queued = [*_ids(body.running), *_told_to_end(session)], _ids(body.queued)
            strangers = engine.holds(now, session.id, running, queued, lambda a: _offered_in(a) <= seen)
            if body.state is not None:
                self._health(engine, now, session.bot, body.state, state)
        return bool(body.finished or body.output), strangers

    def _health(self, engine: Engine, now: float, bot: BotId, state: dict[str, object], raw: bytes) -> None:
        engine.bots[bot].state = raw
        quarantined, maintenance = state.get("quarantined"), state.get("maintenance")
        engine.bot_says(
            now, bot, _reason(quarantined, "quarantined"), _reason(maintenance, "under maintenance")
        )

    async def _something(
        self,
        hold: Hold,
        session: Session,
        body: m.SyncRequest,
        told: _Told,
        wait_s: float,
        strangers: list[AttemptId],
    ) -> tuple[list[Attempt], list[Ordered]]:
        """Offers and orders; waits up to `wait_s` for some when there are none, or until something that the bot holds
        is its own no more: a task that is queued there was canceled, or expired."""
        id = session.id
        until = trio.current_time() + wait_s
        take = body.free
        while True:
            with self.daemon.step() as (engine, now):
                if id not in engine.sessions:
                    return [], []
                asks = take or engine.bots[engine.sessions[id].bot].is_to_end
                offers = engine.offer(now, id, str(body.seq), take) if asks and not hold.called_back else []
                for ending in [a for a in offers if a.ends_bot]:
                    engine.accept(now, ending)  # who is told to end may say nothing more than goodbye
                offers = [a for a in offers if not a.ends_bot]
                orders = [*engine.orders(id), *(Ordered("stop", s, "not_yours", 0.0) for s in strangers)]
            news = {(o.kind, o.attempt) for o in orders} - told.orders
            if offers or news or hold.called_back or self.daemon.stopping.is_set():
                return offers, orders
            if trio.current_time() >= until:
                return offers, orders
            take = await hold.wait(body.free, until)
            if not hold.called_back:  # else a newer request says what the bot holds
                strangers = _strangers(session, body)

    async def _answer(
        self, session: Session, seq: int, offers: Sequence[Attempt], orders: Sequence[Ordered]
    ) -> bytes:
        engine = self.daemon.engine
        # What is said of a task is fixed now: it may be canceled while its text is read.
        named = [(a, engine.op_name(a), engine.tasks[a.task].slice) for a in offers if a.task in engine.tasks]
        texts = await self._texts([a for a, _, _ in named])
        made = []
        for attempt, op, number in named:
            text = texts[attempt.task]
            made.append(
                m.Offer(
                    attempt=to_text(attempt.id), number=attempt.number, task=to_text(op), name=text.name,
                    work=text.of_slice(number), index=text.index, line=text.line,
                )
            )  # fmt: skip
        answer = m.SyncAnswer(
            seq=seq,
            offers=made,
            orders=[
                m.Order(
                    kind=o.kind,  # type: ignore[arg-type]
                    attempt=to_text(o.attempt) if o.attempt is not None else None,
                    reason=o.reason,
                    grace_s=o.grace_s,
                )
                for o in orders
            ],
            deadline_s=session.deadline_s,
        )
        return msgspec.json.encode(answer)

    async def _texts(self, offers: Sequence[Attempt]) -> dict[int, WorkText]:
        if not offers:
            return {}
        wanted = [a.task for a in offers]
        if not self.daemon.works.has_all(wanted):
            await self.daemon.settled()
        return await self.daemon.works.get(wanted)


def outcome_of(finished: m.FinishedAttempt) -> Outcome:
    return Outcome(
        ok=finished.ok
        and not (finished.timed_out or finished.canceled or finished.client_error or finished.died),
        exit_code=finished.exit_code,
        duration_s=finished.duration_s,
        timed_out=finished.timed_out is not None,
        canceled=finished.canceled,
        client_error=finished.client_error,
        died=finished.died,
        reason=finished.reason or (finished.timed_out or ""),
        outputs=tuple(finished.outputs),
        payload=finished.payload,
    )


def _strangers(session: Session, body: m.SyncRequest) -> list[AttemptId]:
    """What the bot said it holds and is not, or not any more, its own."""
    return sorted({*_ids(body.running), *_ids(body.queued)} - session.attempts.keys())


def _told_to_end(session: Session) -> list[AttemptId]:
    """A termination task reaches a native bot as an order: it never hears of the attempt, and names it nowhere."""
    return [] if session.ending is None else [session.ending.id]


def _ids(texts: Sequence[str]) -> list[AttemptId]:
    return [AttemptId(id) for text in texts if (id := from_text(text)) is not None]


def _offered_in(attempt: Attempt) -> int:
    return int(attempt.offer_key) if attempt.offer_key.isdigit() else 0


def _reason(said: object, generic: str) -> str | None:
    if isinstance(said, str) and said:
        return said
    return generic if said is True else None


def _state_bytes(state: dict[str, object]) -> bytes:
    raw = kept_json(state, "state")
    if len(raw) > MAX_STATE_BYTES:
        raise Refused(
            "too_large", f"the bot's state has {len(raw)} bytes; at most {MAX_STATE_BYTES}", "send less"
        )
    return raw
