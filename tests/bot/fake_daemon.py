"""A scripted daemon for the bot's tests: the rules of a session in memory, on virtual time, with faults on demand."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from swarmd.api.native.messages import (
    FinishedAttempt,
    Offer,
    Order,
    OutputAnswer,
    SessionAnswer,
    SessionRequest,
    SyncAnswer,
    SyncRequest,
)
from swarmd.bot.main import Bot, BotConfig, Ending, run_bot
from swarmd.bot.process import Runner
from swarmd.bot.wire import WireError
from swarmd.bot.workdir import WorkFolder
from swarmd.core.ids import to_text
from swarmd.core.model import Work

MAX_CALLS = 2  # of `sync` at the same time
ANSWER_S = 0.001  # what a call takes


def lost() -> WireError:
    return WireError(None, "no_answer", "the connection was reset")


@dataclass
class Call:
    """One `sync` as it arrived."""

    at: float
    session: str
    body: bytes
    request: SyncRequest


@dataclass
class FakeDaemon:
    """Offers `pending` in order; keeps what it is told. Asserts the rules that every bot must follow.

    What the bot gives back is offered again, as the same attempt so that stories can name it. Others may take it
    meanwhile (`others_take`).
    """

    pending: list[Offer] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    opened: list[SessionRequest] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finished: dict[str, FinishedAttempt] = field(default_factory=dict)
    output: dict[tuple[str, str], bytes] = field(default_factory=dict)
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)  # bytes above `output_limit`
    output_at: dict[tuple[str, str], float] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    raw_calls: int = 0
    closed: list[str] = field(default_factory=list)
    held: dict[str, Offer] = field(default_factory=dict)  # offered, not ended
    accepted: set[str] = field(default_factory=set)
    declined: list[str] = field(default_factory=list)
    lost_attempts: list[str] = field(default_factory=list)
    not_yours: list[str] = field(default_factory=list)  # said to be lost when a session is opened
    refuse_open: list[WireError] = field(default_factory=list)
    fail_before: list[WireError] = field(default_factory=list)  # the next calls do not arrive
    fail_after: list[WireError] = field(
        default_factory=list
    )  # the next calls take effect, their answers are lost
    fail_close: list[WireError] = field(default_factory=list)  # the next goodbyes do not arrive
    is_away: bool = False
    late_s: list[float] = field(
        default_factory=list
    )  # how much later the next requests that may be held arrive
    output_limit: int = 1 << 40
    get_s: float = 0.0  # how long a blob takes
    session: str = ""
    next_id: int = 1 << 40
    _seq: int = 0
    _answers: dict[int, SyncAnswer] = field(default_factory=dict)
    _bodies: dict[int, bytes] = field(default_factory=dict)
    _in_call: int = 0
    _offered_in: dict[str, int] = field(default_factory=dict)
    _news: trio.Event = field(default_factory=trio.Event)

    # For the story of a test

    def add(
        self, work: Work | None = None, *, index: int | None = None, line: str | None = None, **works: Any
    ) -> str:
        """Adds a task; gives the id of its attempt."""
        self.next_id += 1
        attempt, task = to_text(self.next_id), to_text(self.next_id + (1 << 30))
        raw = msgspec.Raw(msgspec.json.encode(work or Work(**works)))
        self.pending.append(
            Offer(attempt=attempt, number=1, task=task, name="", work=raw, index=index, line=line)
        )
        self.wake()
        return attempt

    def order(
        self, kind: str, attempt: str | None = None, grace_s: float | None = None, reason: str = ""
    ) -> None:
        self.orders.append(Order(kind=kind, attempt=attempt, grace_s=grace_s, reason=reason))  # type: ignore[arg-type]
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def forget_session(self) -> None:
        """As a daemon that was started with an older file."""
        self.session = ""
        self.wake()

    async def until(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Waits, in steps of virtual time, until something is so."""
        with trio.fail_after(within_s):
            while not condition():
                await trio.sleep(0.005)

    # The wire

    async def open_session(self, bot: str, body: bytes) -> SessionAnswer:
        await self._travel()
        if self.refuse_open:
            raise self.refuse_open.pop(0)
        request = msgspec.json.decode(body, type=SessionRequest)
        self.opened.append(request)
        self.session = f"s{len(self.opened)}"
        self._seq, self._answers, self._bodies, self._offered_in = 0, {}, {}, {}
        for attempt in [a for a in self.held if a not in request.keeps]:
            if attempt in self.accepted:
                self.lost_attempts.append(attempt)
                del self.held[attempt]
            else:
                self._put_back(attempt)
        gone = [a for a in request.keeps if a in self.not_yours]
        return SessionAnswer(session=self.session, deadline_s=60.0, lost=gone)

    async def sync(self, session: str, body: bytes, *, held_s: float) -> SyncAnswer:
        self._in_call += 1
        assert self._in_call <= MAX_CALLS, "more calls at the same time than two"
        try:
            return await self._sync(session, body)
        finally:
            self._in_call -= 1

    async def _sync(self, session: str, body: bytes) -> SyncAnswer:
        await trio.sleep(self.late_s.pop(0) if self.late_s and b'"wait_s":0.0' not in body else 0.0)
        await self._travel()
        if self.fail_before:
            raise self.fail_before.pop(0)
        request = msgspec.json.decode(body, type=SyncRequest)
        self.calls.append(Call(trio.current_time(), session, body, request))
        if session != self.session:
            raise WireError(404, "unknown_session", f"there is no session {session}")
        seq = request.seq
        assert self._bodies.setdefault(seq, body) == body, f"request {seq} came again with another body"
        if seq < self._seq:
            raise WireError(409, "stale_seq", f"{self._seq} is the last")
        if seq > self._seq:
            self._take(request)
        if self.fail_after:
            raise self.fail_after.pop(0)
        if seq not in self._answers:
            await self._hold(session, request)
        return self._answers[seq]

    def _take(self, request: SyncRequest) -> None:
        assert request.seq == self._seq + 1 or request.seq > self._seq, "a gap"
        self._seq = request.seq
        for piece in request.output:
            self._append(piece.attempt, piece.stream, piece.offset, piece.data)
        for report in request.finished:
            if report.attempt in self.held:
                del self.held[report.attempt]
                assert report.attempt not in self.finished, "an end came twice"
                self.finished[report.attempt] = report
        named = {*request.running, *request.queued}
        self.accepted.update(request.running)
        seen = request.seq - 1 if request.seen is None else request.seen
        for attempt in [a for a in self.held if a not in named]:
            if attempt in self.accepted:
                self.lost_attempts.append(attempt)
                del self.held[attempt]
            elif self._offered_in.get(attempt, 0) <= seen:
                self._put_back(attempt)
        self.wake()

    def _put_back(self, attempt: str) -> None:
        self.declined.append(attempt)
        self.pending = sorted([*self.pending, self.held.pop(attempt)], key=lambda offer: offer.attempt)

    def others_take(self, attempts: Iterable[str]) -> None:
        """Other bots take these, as far as they are pending."""
        taken = set(attempts)
        self.pending = [offer for offer in self.pending if offer.attempt not in taken]

    async def _hold(self, session: str, request: SyncRequest) -> None:
        until = trio.current_time() + request.wait_s
        while True:
            if session != self.session:
                raise WireError(410, "session_ended", f"session {session} has ended")
            if self.is_away:
                raise lost()
            is_last = request.seq == self._seq
            offers = self._offer(request) if is_last else []
            orders = list(self.orders) if is_last else []
            if offers or orders or not is_last or trio.current_time() >= until:
                self._answers[request.seq] = SyncAnswer(
                    seq=request.seq, offers=offers, orders=orders, deadline_s=60.0
                )
                return
            news = self._news
            with trio.move_on_at(until):
                await news.wait()

    def _offer(self, request: SyncRequest) -> list[Offer]:
        taken, self.pending = self.pending[: request.free], self.pending[request.free :]
        for offer in taken:
            self.held[offer.attempt] = offer
            self._offered_in[offer.attempt] = request.seq
        return taken

    def _append(self, attempt: str, stream: str, offset: int, data: bytes) -> None:
        key = (attempt, stream)
        assert attempt not in self.finished, "output after its attempt had ended"
        known = self.output.get(key, b"")
        end = offset + len(data)
        if end > self.output_limit:
            self.dropped[key] = max(self.dropped.get(key, 0), end - self.output_limit)
            data = data[: max(0, self.output_limit - offset)]
        assert offset <= len(known) or not data, f"a gap in the output of {attempt}"
        self.output[key] = known + data[len(known) - offset :]
        self.output_at.setdefault(key, trio.current_time())

    async def close_session(self, session: str) -> None:
        await self._travel()
        if self.fail_close:
            raise self.fail_close.pop()
        self.closed.append(session)

    async def append_output(self, attempt: str, stream: str, offset: int, data: bytes) -> OutputAnswer:
        await self._travel()
        self.raw_calls += 1
        self._append(attempt, stream, offset, data)
        return OutputAnswer(end=len(self.output[attempt, stream]), limit=self.output_limit)

    async def missing_blobs(self, digests: list[str]) -> list[str]:
        await self._travel()
        return [digest for digest in digests if digest not in self.blobs]

    @asynccontextmanager
    async def get_blob(self, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._travel()
        self.gets.append(digest)
        await trio.sleep(self.get_s)
        if digest not in self.blobs:
            raise WireError(404, "unknown_blob", f"blob {digest} is not here")

        async def pieces() -> AsyncIterator[bytes]:
            data = self.blobs[digest]
            for at in range(0, len(data), 1000):
                await trio.lowlevel.checkpoint()
                yield data[at : at + 1000]

        yield pieces()

    async def put_blob(self, digest: str, size: int, chunks: Callable[[], Iterable[bytes]]) -> None:
        await self._travel()
        data = b"".join(chunks())
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
        self.blobs[digest] = data

    def keep(self, data: bytes) -> str:
        """Stores a blob; gives its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def _travel(self) -> None:
        await trio.sleep(ANSWER_S)
        if self.is_away:
            raise lost()


class Lab:
    """A daemon, and one bot at a time that works for it."""

    def __init__(self, daemon: FakeDaemon, runner: Runner, path: Path, nursery: trio.Nursery) -> None:
        self.daemon = daemon
        self.runner = runner
        self.path = path
        self.nursery = nursery
        self.ending: Ending | None = None
        self.ended = trio.Event()

    async def start_bot(self, slots: int = 1, **settings: Any) -> Bot:
        """Starts a bot; it is not connected yet."""
        self.ended = trio.Event()
        config = BotConfig("bot1", "http://127.0.0.1:8710", slots, {"os": ["Linux"]}, **settings)

        async def run(task_status: trio.TaskStatus[Bot]) -> None:
            with WorkFolder(self.path) as folder:
                self.ending = await run_bot(
                    config,
                    folder=folder,
                    runner=self.runner,
                    wire=self.daemon,
                    rng=random.Random(1),
                    task_status=task_status,
                )
            self.ended.set()

        return await self.nursery.start(run)


@asynccontextmanager
async def open_lab(path: Path, runner: Runner) -> AsyncIterator[Lab]:
    """A lab without a bot; what still runs at the end is canceled."""
    async with trio.open_nursery() as nursery:
        yield Lab(FakeDaemon(), runner, path, nursery)
        nursery.cancel_scope.cancel()
