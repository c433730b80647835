"""Scripted bots of the native API for tests: they do exactly what the test says, well or badly.

Step by step:

    bot = NativeBot(world.client, "b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    bot.write(offer.attempt, b"hello\\n")
    bot.finish(offer.attempt, exit_code=0)
    await bot.sync()

or by itself, in a nursery, until it is cancelled or told to end:

    nursery.start_soon(bot.live)
    nursery.start_soon(partial(other.live, Fault.SILENT))

A bot starts no process. See docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from random import Random
from typing import Any

import msgspec
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Client, ClientError, Unreachable

MAX_ROUNDS = 1_000_000  # of one `live`: a test that needs more is lost
AWAY_S = 15.0  # between two tries of a living bot to reach a daemon that is away, as the bundled bot does
STRANGER = "7zzzzzzzzzzzz"  # an id that no daemon has given


class Fault(StrEnum):
    """What a bot does wrong while it lives by itself."""

    NONE = "none"
    LATE = "late"  # reports each end only after it was told to stop, or never if it is not told
    SILENT = "silent"  # takes work, then never calls again
    DUPLICATE = "duplicate"  # sends every call twice, and every report in the next call again
    LYING = "lying"  # names attempts that it does not hold, and reports their ends and output
    CRASHING = "crashing"  # forgets what it took and comes back as a new process


class NativeBot:
    """One bot of the native API. What it holds is in `running`, `queued` and `finished`; change it as you like."""

    def __init__(
        self,
        client: Client,
        id: str = "b1",
        *,
        slots: int = 1,
        dimensions: Mapping[str, Sequence[str]] | None = None,
        bot_key: str = "",
        session_key: str = "",
    ) -> None:
        self.client = client
        self.id = id
        self.slots = slots
        self.dimensions = {key: list(values) for key, values in (dimensions or {}).items()}
        self.bot_key = bot_key or f"key of bot {id}".ljust(16, ".")
        self.session_key = session_key or f"first {id}".ljust(8, ".")
        self.session = ""
        self.deadline_s = 0.0
        self.seq = 0
        self.running: dict[str, m.Offer | None] = {}
        self.queued: dict[str, m.Offer | None] = {}
        self.orders: list[m.Order] = []  # of the last answer
        self.done: list[str] = []  # attempts whose end was reported and taken
        self.lost: list[str] = []  # attempts that the daemon no longer counts as ours
        self._finished: list[m.FinishedAttempt] = []
        self._output: list[m.OutputPiece] = []
        self._ends: dict[tuple[str, str], int] = {}
        self._starts = 1

    # ------------------------------------------------------------- one step each

    async def open(self, **changes: Any) -> m.SessionAnswer:
        """Opens a session; what it runs is kept. `changes` replace fields of `messages.SessionRequest`."""
        request = m.SessionRequest(
            session_key=self.session_key, bot_key=self.bot_key, dimensions=self.dimensions, slots=self.slots,
            keeps=[*self.running, *self.queued],
        )  # fmt: skip
        opened = await self.client.open_session(self.id, msgspec.structs.replace(request, **changes))
        if opened.session != self.session:
            self.session, self.seq = opened.session, 0
        self.deadline_s = opened.deadline_s
        self._forget(opened.lost)
        return opened

    async def restart(self, *, keeps: bool = True) -> m.SessionAnswer:
        """Comes back as a new process of the same bot; without `keeps` it has forgotten everything."""
        self._starts += 1
        self.session_key = f"start {self._starts} of {self.id}".ljust(8, ".")
        if not keeps:
            self.running.clear()
            self.queued.clear()
            self._finished.clear()
            self._output.clear()
        return await self.open()

    def request(self, free: int | None = None, wait_s: float = 0.0) -> m.SyncRequest:
        """What the next `sync` would say; its `seq` is one higher than that of the last answer."""
        if free is None:
            free = max(0, self.slots - len(self.running) - len(self.queued))
        return m.SyncRequest(
            seq=self.seq + 1, running=list(self.running), queued=list(self.queued),
            finished=list(self._finished), output=list(self._output), free=free, wait_s=wait_s,
        )  # fmt: skip

    async def sync(self, free: int | None = 0, wait_s: float = 0.0, **changes: Any) -> m.SyncAnswer:
        """One round: tells everything, takes the answer. `free=None`: as many offers as slots are free."""
        request = msgspec.structs.replace(self.request(free, wait_s), **changes)
        return self.took(request, await self.client.sync(self.session, request))

    def took(self, request: m.SyncRequest, answer: m.SyncAnswer) -> m.SyncAnswer:
        """Notes that `request` was answered: what it reported is not told again, offers wait in `queued`."""
        self.seq = request.seq
        for finished in request.finished:
            self.done.append(finished.attempt)
        self._finished = [f for f in self._finished if f not in request.finished]
        self._output = [o for o in self._output if o not in request.output]
        self.queued.update((offer.attempt, offer) for offer in answer.offers)
        self.orders = answer.orders
        self._forget([o.attempt for o in answer.orders if o.attempt and o.reason == "not_yours"])
        return answer

    async def take(self, free: int | None = None, wait_s: float = 0.0) -> list[m.Offer]:
        """The offers of one round; they wait in `queued` until `start`."""
        return (await self.sync(free, wait_s)).offers

    async def run_one(self, *, wait_s: float = 0.0) -> m.Offer:
        """Takes one offer and tells that it runs."""
        [offer] = await self.take(1, wait_s)
        self.start(offer.attempt)
        await self.sync()
        return offer

    def start(self, attempt: str) -> None:
        """The next `sync` names it as running."""
        self.running[attempt] = self.queued.pop(attempt, None)

    def decline(self, attempt: str) -> None:
        """The next `sync` names it nowhere."""
        del self.queued[attempt]

    def write(self, attempt: str, data: bytes, stream: str = "stdout", offset: int | None = None) -> None:
        """The next `sync` carries `data`, by default behind what was written before."""
        key = (attempt, stream)
        at = self._ends.get(key, 0) if offset is None else offset
        self._output.append(m.OutputPiece(attempt=attempt, stream=stream, offset=at, data=data))  # type: ignore[arg-type]
        self._ends[key] = at + len(data)

    def finish(self, attempt: str, exit_code: int | None = 0, **fields: Any) -> None:
        """The next `sync` reports its end; `fields` are those of `messages.FinishedAttempt`."""
        self.running.pop(attempt, None)
        self.queued.pop(attempt, None)
        fields.setdefault("ok", exit_code == 0)
        self._finished.append(m.FinishedAttempt(attempt=attempt, exit_code=exit_code, **fields))

    @property
    def _may_end(self) -> bool:
        """Whether it was told to end, and has nothing left to run or to report."""
        is_told = any(order.kind == "terminate" for order in self.orders)
        return is_told and not (self.running or self.queued or self._finished or self._output)

    async def close(self) -> None:
        """Ends the session."""
        await self.client.close_session(self.session)

    def _forget(self, attempts: Sequence[str]) -> None:
        for attempt in attempts:
            self.lost.append(attempt)
            self.running.pop(attempt, None)
            self.queued.pop(attempt, None)

    # ------------------------------------------------------------- by itself

    async def live(
        self,
        fault: Fault = Fault.NONE,
        *,
        runs_s: float = 0.0,
        wait_s: float = 30.0,
        outcome: Callable[[m.Offer], int] = lambda offer: 0,
        chance: float = 1.0,
        random: Random | None = None,
    ) -> None:
        """Opens a session and works until it is cancelled, or told to end: then it says goodbye when nothing runs.

        Each task runs for `runs_s` and ends with the exit code that `outcome` gives. A stop that is
        ordered is obeyed at once. After a lost session it opens another one; while the daemon is away it
        tries again. In each round it does wrong with probability `chance`, drawn from `random`.
        """
        usual, random = fault, random or Random(0)
        ends_at: dict[str, float] = {}
        for _ in range(MAX_ROUNDS):
            fault = usual if random.random() < chance else Fault.NONE
            try:
                if not self.session:
                    await self.open()
                await self._round(fault, wait_s, ends_at)
                if self._may_end:
                    await self.close()
                    return
            except ApiError as error:
                if error.code not in ("unknown_session", "stopping", "store_broken"):
                    raise
                if error.code == "unknown_session":
                    self.orders = []
                    await self._again(keeps=True)
            except Unreachable:
                await trio.sleep(AWAY_S)
            if fault is Fault.SILENT and self.queued:
                await trio.sleep_forever()
            if fault is Fault.CRASHING and self.queued:
                ends_at.clear()
                await self._again(keeps=False)
            for attempt in list(self.queued):
                self.start(attempt)
                late = fault is Fault.LATE
                ends_at[attempt] = float("inf") if late else trio.current_time() + runs_s
            for order in self.orders:
                if order.kind == "stop" and order.attempt in self.running:
                    self.finish(order.attempt, -15)
            for attempt, offer in list(self.running.items()):
                if ends_at.get(attempt, 0.0) <= trio.current_time():
                    self.finish(attempt, 0 if offer is None else outcome(offer))

    async def _again(self, keeps: bool) -> None:
        """Opens another session; when the daemon is away, the next round does so."""
        try:
            await self.restart(keeps=keeps)
        except Unreachable:
            self.session = ""

    async def _round(self, fault: Fault, wait_s: float, ends_at: Mapping[str, float]) -> None:
        until = min((ends_at.get(a, float("inf")) for a in self.running), default=float("inf"))
        wait_s = max(0.0, min(wait_s, until - trio.current_time()))
        if fault is Fault.LYING:
            lie = m.FinishedAttempt(attempt=STRANGER, ok=True, exit_code=0)
            piece = m.OutputPiece(attempt=STRANGER, stream="stdout", offset=0, data=b"a lie\n")
            request = self.request(None, wait_s)
            await self.sync(
                None, wait_s,
                finished=[*request.finished, lie], output=[*request.output, piece],
                running=[*request.running, "0" * 12 + "1"],
            )  # fmt: skip
            self._finished = [f for f in self._finished if f not in request.finished]
            await trio.sleep(min(1.0, wait_s))  # the answer to a stranger's name is never held
        elif fault is Fault.DUPLICATE:
            request = self.request(None, wait_s)

            async def send() -> None:
                with suppress(ClientError):  # the third one tells
                    await self.client.sync(self.session, request)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                nursery.start_soon(send)
            again = [f for f in request.finished if f.attempt not in self.done]
            self.took(request, await self.client.sync(self.session, request))
            self._finished = again  # told once more in the next round
        else:
            await self.sync(None, wait_s)
