"""The bot's side of a session: one request at a time, a held one that is called back, and what is said again.

A request that says something new asks for an answer at once; when all has been said, one is sent that the daemon may
hold. If there is news while it is held, the next request goes out on a second connection and ends the hold. So a
request with news is never overtaken, results pile up while it is being answered, and there are never more than two.

While short tasks are queued for all slots, news are gathered for GATHER_S: a request costs the daemon as much as some
twenty tasks in it do, and no slot waits for the answer.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import trio

from swarmd.api.native.messages import (
    MAX_SLOTS,
    FinishedAttempt,
    Offer,
    Order,
    OutputPiece,
    SessionRequest,
    SyncAnswer,
    SyncRequest,
)
from swarmd.bot import events
from swarmd.bot.lookahead import GATHER_S
from swarmd.bot.slots import Held, Report, Slots
from swarmd.bot.uploads import PIECES_BYTES, Outputs
from swarmd.bot.wire import Backoff, Wire, WireError
from swarmd.core.model import Work

HELD_S = 30.0  # how long the daemon may hold an answer, at most
SPREAD = 0.25  # of it that is left to chance: bots that came at once shall not come at once for ever
RECALL_S = 5.0  # a held answer that was called back and did not come within this is given up
SHORT_HOLD_S = 0.5  # a hold that ends sooner, without news, is followed by a pause
LAST_PAUSE_S = 1.0
MAX_REFUSALS = 5  # of one request, before a new session is tried
MAX_REPORTS = 8 * MAX_SLOTS  # in one request
MAX_PIECES = 4 * MAX_SLOTS
ENDS = ("restart", "update", "terminate")  # orders to the bot itself, in rising order of weight

_work = msgspec.json.Decoder(Work)
_encoder = msgspec.json.Encoder()


class Denied(Exception):
    """The daemon does not let this bot in; the sentence says why."""


class SessionGone(Exception):
    """The daemon does not know the session any more."""


class Over(Exception):
    """There is nothing left to say, and somebody wants the bot to end: the daemon need not be waited for."""


class Overtaken(Exception):
    """A held request failed after a newer one was answered: the daemon knows better, its answer is of no use."""


class Introduction(NamedTuple):
    """What the bot tells about itself when it opens a session."""

    bot: str
    bot_key: str
    dimensions: dict[str, list[str]]
    version: str
    state: dict[str, Any]


class Said(NamedTuple):
    """A request on its way: its bytes, and what an answer to it acknowledges."""

    seq: int
    free: int
    body: bytes
    reports: tuple[str, ...]
    pieces: tuple[OutputPiece, ...]


class Conversation:
    """Talks to the daemon for one bot until it `wants_end` and nothing is left to report, in session after session."""

    def __init__(
        self,
        introduction: Introduction,
        wire: Wire,
        slots: Slots,
        rng: random.Random,
        new_key: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._introduction = introduction
        self._wire = wire
        self._slots = slots
        self._rng = rng
        self._new_key = new_key
        self.outputs: Outputs | None = None  # set before `run`
        self.is_open = False
        self.wants_end = False  # a person's wish, or an order: see `leave`
        self.end_order: str | None = None  # one of ENDS, while the daemon repeats it
        self._drained = False
        self._session = ""
        self._seq = 0
        self._seen = 0
        self._again: tuple[OutputPiece, ...] = ()  # pieces that the last session did not acknowledge
        self._news = trio.Event()
        self._leaving = trio.Event()
        self._failing = 0  # the request that was not answered and waits for its next try
        self._short_holds = 0  # in a row
        self._answered_at = -math.inf

    def news(self) -> None:
        """There is something for the next request. A held answer is called back for it."""
        self._news.set()

    def leave(self) -> None:
        """Takes nothing more, gives back what is queued; the conversation ends when nothing runs."""
        self.wants_end = True
        self._leaving.set()
        self._set_takes()
        self.news()

    @property
    def may_end(self) -> bool:
        return (self.wants_end or self.end_order is not None) and self._slots.is_empty

    @property
    def is_cut_off(self) -> bool:
        """Whether the last try of the request that is on its way failed, or there is no session."""
        return bool(self._failing) or not self.is_open

    async def run(self) -> None:
        """Talks until it may end. Raises `Denied`."""
        while not self.may_end:
            try:
                if not self.is_open:
                    await self._open()
                while not self.may_end:
                    await self._say_or_hold()
            except SessionGone as gone:
                self.is_open = False
                events.warning("session.gone", session=self._session, reason=str(gone))
            except Over:
                return

    async def close(self, within_s: float, ordered_s: float) -> None:
        """Ends the session, so that the daemon need not wait for its deadline. Tried once within `within_s`: it is a
        courtesy. When it was the daemon that told the bot to end, and no person, it is tried again for `ordered_s`: a
        task may wait for the goodbye.
        """
        if not self.is_open:
            return
        self.is_open = False
        ordered = self.end_order == "terminate" and not self.wants_end
        backoff = Backoff(self._rng)
        with trio.move_on_after(ordered_s if ordered else within_s):
            while True:
                try:
                    await self._wire.close_session(self._session)
                    events.info("session.closed", session=self._session)
                    return
                except WireError as failure:
                    events.warning("session.not_closed", session=self._session, reason=failure.message)
                    if not (ordered and failure.is_passing):
                        return
                with trio.move_on_after(backoff.next_s()):
                    await self._leaving.wait()
                    return

    # Opening

    async def _open(self) -> None:
        """Opens a session that keeps what is held; tries until there is one. Raises `Denied`."""
        me = self._introduction
        body = _encoder.encode(
            SessionRequest(
                session_key=self._new_key(),
                bot_key=me.bot_key,
                dimensions=me.dimensions,
                slots=self._slots.slots,
                version=me.version,
                state=me.state,
                keeps=self._slots.all_held(),
            )
        )
        backoff = Backoff(self._rng)
        while True:
            try:
                answer = await self._wire.open_session(me.bot, body)
                break
            except WireError as failure:
                if not failure.is_passing and failure.status != 409:
                    raise Denied(f"the server refused bot {me.bot}: {failure.message}") from None
                pause_s = backoff.next_s()
                say = events.error if failure.status == 409 else events.warning
                say("session.refused", bot=me.bot, reason=failure.message, again_in_s=round(pause_s, 1))
            await self._rest(pause_s)
        self._session, self._seq, self._seen, self.is_open = answer.session, 0, 0, True
        lost = set(answer.lost)
        for attempt in lost:
            self._slots.give_up(attempt)
        self._again = tuple(piece for piece in self._again if piece.attempt not in lost)
        self._slots.changed = True
        events.info(
            "session.opened",
            bot=me.bot,
            session=answer.session,
            keeps=len(self._slots.all_held()),
            lost=len(lost),
        )

    # Saying

    async def _say_or_hold(self) -> None:
        if self._slots.is_well_stocked:
            await self._gather()
        if self._has_news():
            said = self._compose(0.0)
            self._take(said, await self._deliver(said, 0.0))
        else:
            await self._hold()

    def _has_news(self) -> bool:
        assert self.outputs is not None
        return self._slots.changed or bool(self._slots.reports) or bool(self._again) or self.outputs.has_news

    async def _gather(self) -> None:
        """Lets news pile up until GATHER_S after the last answer, or until offers run short, or the bot is to end."""
        with trio.move_on_at(self._answered_at + GATHER_S):
            while self._slots.is_well_stocked and not self._leaving.is_set():
                self._news = trio.Event()
                await self._news.wait()

    def _compose(self, held_s: float) -> Said:
        """The next request. What it carries must not be in another one that is on its way."""
        assert self.outputs is not None
        slots = self._slots
        self._news = trio.Event()
        pieces, self._again = list(self._again), ()
        room = PIECES_BYTES - sum(len(piece.data) for piece in pieces)
        finished: list[FinishedAttempt] = []
        for report in slots.reports.values():
            if len(finished) == MAX_REPORTS or (report.size > room and finished):
                break
            finished.append(report.finished)
            pieces += report.tail
            room -= report.size
        if not held_s and room > 0 and len(pieces) < MAX_PIECES:
            pieces += self.outputs.pieces(room)
        kept_back = list(slots.reports)[len(finished) :]
        slots.asked = slots.free(len(kept_back))
        slots.changed = False
        self._seq += 1
        request = SyncRequest(
            seq=self._seq,
            seen=None if self._seen == self._seq - 1 else self._seen,
            running=[*slots.running, *kept_back],
            queued=list(slots.queued),
            finished=finished,
            output=pieces,
            free=slots.asked,
            wait_s=held_s,
        )
        return Said(
            self._seq,
            request.free,
            _encoder.encode(request),
            tuple(f.attempt for f in finished),
            tuple(pieces),
        )

    async def _deliver(self, said: Said, held_s: float) -> SyncAnswer:
        """Sends the same bytes until there is an answer. Raises `SessionGone`, `Denied`."""
        backoff = Backoff(self._rng)
        refusals = 0
        try:
            while True:
                try:
                    answer = await self._wire.sync(self._session, said.body, held_s=held_s)
                    break
                except WireError as failure:
                    if said.seq < self._seen or (held_s and failure.code == "stale_seq"):
                        raise Overtaken from None
                    if failure.is_gone:
                        raise SessionGone(failure.message) from None
                    if failure.is_denied:
                        raise Denied(f"the server refused the bot: {failure.message}") from None
                    refusals += not failure.is_passing
                    if refusals == MAX_REFUSALS:
                        raise SessionGone(f"request {said.seq} was refused: {failure.message}") from None
                    pause_s = backoff.next_s()
                    events.warning(
                        "sync.failed",
                        seq=said.seq,
                        reason=failure.message,
                        tries=backoff.tries,
                        again_in_s=round(pause_s, 2),
                    )
                self._failing = said.seq
                await self._rest(pause_s)
        except SessionGone:
            self._again += said.pieces  # the next session gets them; the daemon ignores what it has
            raise
        finally:
            if self._failing == said.seq:
                self._failing = 0
        self._acknowledge(said)
        return answer

    async def _rest(self, pause_s: float) -> None:
        """Waits between two tries; raises `Over` if the daemon need not be waited for."""
        if self._leaving.is_set():
            await trio.sleep(pause_s)
        else:
            with trio.move_on_after(pause_s):
                await self._leaving.wait()
        if self.may_end:
            raise Over

    def _acknowledge(self, said: Said) -> None:
        assert self.outputs is not None
        for attempt in said.reports:
            self._slots.reports.pop(attempt, None)
        if said.pieces:
            self.outputs.answered()

    # Holding

    async def _hold(self) -> None:
        """Lets the daemon hold a request until it or we have news."""
        held_s = HELD_S * (1 - SPREAD * self._rng.random())
        held = self._compose(held_s)
        self._slots.changed = False
        began_at = trio.current_time()
        over = False
        failure: SessionGone | Denied | Over | None = None

        async def hold() -> None:
            nonlocal over, failure
            try:
                self._take(held, await self._deliver(held, held_s))
            except (SessionGone, Denied, Over) as error:
                failure = failure or error
            except Overtaken:
                pass
            over = True
            self.news()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await self._news.wait()
            if not over and not self.may_end:
                said = self._compose(0.0)
                try:
                    self._take(said, await self._deliver(said, 0.0))
                except (SessionGone, Denied, Over) as error:
                    failure = failure or error
            if failure or self.may_end or self._failing == held.seq:
                nursery.cancel_scope.cancel()
            else:
                nursery.cancel_scope.deadline = trio.current_time() + RECALL_S
        if failure is not None:
            raise failure
        if over and trio.current_time() < began_at + SHORT_HOLD_S and not self._has_news():
            await self._pause()
        else:
            self._short_holds = 0

    async def _pause(self) -> None:
        """Keeps a daemon that does not hold (an order it repeats, an overload) from being asked without end."""
        self._short_holds = min(self._short_holds + 1, 10)
        self._news = trio.Event()
        with trio.move_on_after(min(0.001 * 2**self._short_holds, LAST_PAUSE_S)):
            await self._news.wait()

    # Taking

    def _take(self, said: Said, answer: SyncAnswer) -> None:
        """Does what an answer says. An answer that was overtaken gives no orders to the bot itself."""
        self._answered_at = trio.current_time()
        if said.seq > self._seen:
            self._seen = said.seq
            self._slots.has_all = len(answer.offers) < said.free
            self._drained = any(order.kind == "drain" for order in answer.orders)
            kinds = {order.kind for order in answer.orders}
            end_order = next((kind for kind in reversed(ENDS) if kind in kinds), None)
            if end_order != self.end_order:
                events.info("bot.ordered", order=end_order or "none")
            self.end_order = end_order
            self._set_takes()
        for order in answer.orders:
            if order.kind == "stop":
                self._stop(order)
        for offer in answer.offers:
            self._take_offer(offer)

    def _set_takes(self) -> None:
        slots = self._slots
        takes = not (self.wants_end or self.end_order is not None or self._drained)
        if takes != slots.takes:
            slots.takes = takes
            slots.changed = True
        if not takes:
            slots.give_back()

    def _take_offer(self, offer: Offer) -> None:
        slots = self._slots
        if not slots.takes or slots.holds(offer.attempt):
            return  # named nowhere: declined; or known: an answer that came twice
        try:
            work = _work.decode(offer.work)
        except msgspec.MsgspecError as error:
            reason = f"this bot does not understand the task: {error}; update the bot"
            slots.report(
                Report(FinishedAttempt(attempt=offer.attempt, ok=False, client_error=True, reason=reason))
            )
            return
        if work.noop:
            slots.report_noop(offer.attempt)
        else:
            slots.take(Held(offer.attempt, offer.task, work, offer.index, offer.line))

    def _stop(self, order: Order) -> None:
        attempt, reason = order.attempt, order.reason or "canceled"
        if attempt is None:
            return
        held = self._slots.running.get(attempt)
        if held is not None:
            if held.stop.request(reason, order.grace_s):
                events.info("attempt.stopping", attempt=attempt, reason=reason)
        elif attempt in self._slots.queued:
            finished = FinishedAttempt(
                attempt=attempt, ok=False, canceled=True, reason=f"stopped before it started: {reason}"
            )
            self._slots.report(Report(finished))
