"""Scripted bots with seeded faults: they crash, fall silent, lie, come back under the same or another key."""

from __future__ import annotations

import random
from collections import Counter

import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Client, StrangeAnswer, Unreachable
from swarmd.testing.bots import NativeBot

from .history import History, Told
from .people import LATER

LIE = 66  # the exit code that only a stranger reports
DOUBLE = 67  # the exit code of a second report
HELD_S = 20.0


class Robot:
    """A bot that keeps running its work over lost answers, and repeats a request until it is answered."""

    def __init__(
        self,
        name: str,
        client: Client,
        history: History,
        rng: random.Random,
        injected: Counter[str],
        liar: bool,
    ) -> None:
        self.name = name
        self.history = history
        self.rng = rng
        self.honest = False  # no more faults
        self._liar = liar
        self._injected = injected
        self._keys = 1
        dimensions = {"os": ["linux"]} | ({"gpu": [rng.choice("abc")]} if rng.random() < 0.5 else {})
        self.bot = NativeBot(client, name, slots=rng.randint(1, 3), dimensions=dimensions)
        self._asked: m.SyncRequest | None = None  # not answered yet: it must be repeated word for word
        self._ends_at: dict[str, float] = {}
        self._written: dict[str, bytes] = {}

    async def live(self) -> None:
        await trio.sleep(self.rng.uniform(0, 20))
        is_open = False
        while True:
            try:
                if not is_open:
                    await self.bot.open()
                    is_open = True
                await self._round()
                if self._may_end:
                    is_open = await self._obey()
                elif not self.honest:
                    is_open = await self._misfortune()
            except (Unreachable, StrangeAnswer):
                self.history.called("bot", "unknown")
                await trio.sleep(self.rng.uniform(0.1, 5))
            except ApiError as error:
                self.history.called("bot", error.code)
                is_open = await self._refused(error)

    async def _refused(self, error: ApiError) -> bool:
        if error.code in ("unknown_session", "stale_seq"):
            self._asked = None
            self._new_session_key()
            return False
        if error.code not in (*LATER, "bot_in_use"):
            self.history.faults.append(f"bot {self.name} was answered {error.code}: {error.message}")
        await trio.sleep(self.rng.uniform(1, 15))
        return error.code in LATER and bool(self.bot.session)

    # ------------------------------------------------------------- one round

    async def _round(self) -> None:
        self._work()
        if self._asked is None:
            self._ends_at = {a: at for a, at in self._ends_at.items() if a in self.bot.running}
            soonest = min(self._ends_at.values(), default=float("inf"))
            wait_s = max(0.0, min(HELD_S, soonest - trio.current_time()))
            self._asked = (
                self._lies(self.bot.request(None, wait_s)) if self._lying else self.bot.request(None, wait_s)
            )
        request = self._asked
        answer = await self.bot.client.sync(self.bot.session, request)
        self._asked = None
        self.bot.took(request, answer)
        for finished in request.finished:
            told = self.history.told.get(finished.attempt)
            if told is not None and told.bot == self.name:
                told.whole = True
        if self._lying:
            await trio.sleep(self.rng.uniform(0, 3))  # the answer to a stranger's name is never held
        for order in answer.orders:
            if order.kind == "stop" and order.attempt in {*self.bot.running, *self.bot.queued}:
                started = order.attempt in self.bot.running
                self._end(order.attempt, None, canceled=not started)

    @property
    def _may_end(self) -> bool:
        is_told = any(order.kind == "terminate" for order in self.bot.orders)
        request = self.bot.request(0)
        return is_told and not (request.running or request.queued or request.finished or request.output)

    async def _obey(self) -> bool:
        """Ends, as it was told to, and comes back as a new process. It has no session then."""
        self._injected["bots ended"] += 1
        if self.honest or self.rng.random() < 0.8:
            self.history.goodbyes[self.name] += 1
            await self.bot.close()
        self._forget()
        await trio.sleep(self.rng.choice((0.0, 5.0, 90.0)))
        self._new_session_key()
        return False

    def _work(self) -> None:
        """Starts what was offered, ends what is over."""
        bot, rng = self.bot, self.rng
        for attempt, offer in list(bot.queued.items()):
            if offer is not None:
                self.history.told.setdefault(attempt, Told(self.name, offer.task))
            if len(bot.running) >= bot.slots:
                continue
            if not self.honest and rng.random() < 0.05:
                self._injected["offer declined"] += 1
                bot.decline(attempt)
                continue
            bot.start(attempt)
            self._ends_at[attempt] = trio.current_time() + rng.choice((0.0, 1.0, 8.0, 60.0))
        for attempt in list(bot.running):
            if rng.random() < 0.7:
                self._write(attempt)
            if self._ends_at.get(attempt, 0.0) <= trio.current_time():
                self._end(attempt, 0 if self.honest or rng.random() < 0.7 else 1)

    def _write(self, attempt: str) -> None:
        told = self.history.told.get(attempt)
        if told is None:
            return
        data = f"{attempt} says {len(told.output)}\n".encode() * self.rng.choice((1, 1, 1, 50))
        self.bot.write(attempt, data)
        told.output += data

    def _end(self, attempt: str, exit_code: int | None, canceled: bool = False) -> None:
        told = self.history.told.get(attempt)
        if told is not None:
            told.outcomes.append((exit_code == 0, exit_code, canceled))
        self._ends_at.pop(attempt, None)
        self.bot.finish(attempt, exit_code, canceled=canceled)

    # ------------------------------------------------------------- faults

    @property
    def _lying(self) -> bool:
        return self._liar and not self.honest

    def _lies(self, request: m.SyncRequest) -> m.SyncRequest:
        """Names attempts of others as its own, and reports on its own a second time."""
        others = [a for a, told in self.history.told.items() if told.bot != self.name][-4:]
        mine = self.bot.done[-2:]
        self._injected["lies"] += len(others) + len(mine)
        self.history.lies.update(others)
        lies = [m.FinishedAttempt(attempt=a, ok=True, exit_code=LIE) for a in others]
        lies += [m.FinishedAttempt(attempt=a, ok=False, exit_code=DOUBLE) for a in mine]
        output = [
            m.OutputPiece(attempt=a, stream="stdout", offset=0, data=b"a lie\n" * 30)
            for a in (*others, *mine)
        ]
        request.finished = [*request.finished, *lies]
        request.output = [*request.output, *output]
        request.running = [*request.running, *others[:1]]
        return request

    async def _misfortune(self) -> bool:
        """Perhaps something happens to the bot itself; returns whether it still has a session."""
        rng = self.rng
        kind = rng.choices(("", "silent", "crash", "other key", "restart", "goodbye"), (40, 1, 1, 1, 1, 0.5))[
            0
        ]
        if not kind:
            return True
        self._injected[f"bot: {kind}"] += 1
        if kind == "silent":
            await trio.sleep(rng.choice((1.0, 20.0, 70.0, 600.0)))
            return True
        if kind == "goodbye":
            self.history.goodbyes[self.name] += 1
            await self.bot.close()
        elif kind == "restart":  # in place: what runs goes on
            self._asked = None
            self._new_session_key()
            return False
        self._forget()
        await trio.sleep(rng.choice((0.0, 5.0, 90.0)))
        self._new_session_key()
        if kind == "other key":
            self.bot.bot_key = f"key {self._keys} of bot {self.name}".ljust(16, ".")
        return False

    def _new_session_key(self) -> None:
        self._keys += 1
        self.bot.session_key = f"start {self._keys} of {self.name}".ljust(8, ".")

    def _forget(self) -> None:
        """The process died, and all it held in memory."""
        self._asked = None
        self._ends_at.clear()
        old = self.bot
        self.bot = NativeBot(
            old.client, self.name, slots=old.slots, dimensions=old.dimensions, bot_key=old.bot_key,
        )  # fmt: skip
