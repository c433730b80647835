"""The native protocol: docs/http-api.md. It can express everything."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from swarmd.api.native import messages as m
from swarmd.client import ApiError, task
from swarmd.core.model import Work
from swarmd.testing import Lab
from swarmd.testing.bots import NativeBot
from tests.conformance.adapters import BotAdapter, ClientAdapter, Job, Wish


class NativeBotAdapter(BotAdapter):
    protocol = "native"

    def __init__(self, lab: Lab, id: str) -> None:
        super().__init__(lab, id)
        self._bot = NativeBot(lab.client, id, slots=4)

    @property
    def silence_s(self) -> float:
        return self._bot.deadline_s + 1

    async def connect(self) -> None:
        if self.loses_answers:
            await self._bot.open()
        await self._bot.open()

    async def come_back(self, holding: Collection[Job]) -> None:
        held = {job.id for job in holding}
        bot = self._bot
        bot.queued = {id: offer for id, offer in bot.queued.items() if id in held}
        bot.running = {id: offer for id, offer in bot.running.items() if id in held}
        await bot.restart()

    async def intrude(self) -> bool:
        stranger = NativeBot(
            self.lab.client, self.id, slots=4, bot_key="another key".ljust(16, "."), session_key="intruder"
        )
        try:
            await stranger.open()
        except ApiError as error:
            assert error.code == "bot_in_use", error
            return False
        self._bot = stranger
        return True

    async def take(self) -> Job | None:
        answer = await self._say(free=1)
        if not answer.offers:
            return None
        [offer] = answer.offers
        work = msgspec.json.decode(offer.work, type=Work)
        return Job(offer.attempt, work.commands[0].argv, offer)

    async def start(self, job: Job) -> None:
        if job.id in self._bot.queued:
            self._bot.start(job.id)
        await self._say()

    async def live(self) -> None:
        await self._say()

    async def write(self, job: Job, data: bytes) -> None:
        self._bot.write(job.id, data)
        await self._say()

    async def finish(self, job: Job, exit_code: int) -> None:
        self._bot.finish(job.id, exit_code)
        await self._say()

    async def time_out(self, job: Job) -> None:
        self._bot.finish(job.id, -9, timed_out="hard_limit")
        await self._say()

    async def is_told_to_stop(self, job: Job) -> bool:
        answer = await self._say()
        return any(order.kind == "stop" and order.attempt == job.id for order in answer.orders)

    async def report_stopped(self, job: Job) -> None:
        self._bot.finish(job.id, -15)
        await self._say()

    async def is_told_to_end(self) -> bool:
        answer = await self._say(free=1)
        assert not answer.offers
        return any(order.kind == "terminate" for order in answer.orders)

    async def end(self) -> None:
        if self.loses_answers:
            await self._bot.close()
        await self._bot.close()

    async def _say(self, free: int = 0) -> m.SyncAnswer:
        """One call; a session that has ended is opened anew, and everything said to the new one."""
        bot = self._bot
        try:
            request = bot.request(free)
            answer = await self.lab.client.sync(bot.session, request)
        except ApiError as error:
            if error.code != "unknown_session":
                raise
            await bot.restart()
            request = bot.request(free)
            answer = await self.lab.client.sync(bot.session, request)
        if self.loses_answers:
            answer = await self.lab.client.sync(bot.session, request)
        return bot.took(request, answer)


class NativeClientAdapter(ClientAdapter):
    protocol = "native"

    async def submit(self, wish: Wish) -> str:
        [id] = await self.lab.client.submit(
            [
                task(
                    argv=list(wish.argv), hard_limit_s=wish.hard_limit_s, grace_s=wish.grace_s,
                    bot_retries=wish.bot_retries,
                )
            ]
        )  # fmt: skip
        return id

    async def operation(self, id: str) -> str:
        return id

    async def state(self, id: str) -> str:
        [found] = [info async for info in self.lab.client.tasks() if info.id == id]
        return found.state if found.ok is None else f"{found.state} {'ok' if found.ok else 'not ok'}"

    def word_for(self, state: str, ok: bool | None) -> str:
        return state if ok is None else f"{state} {'ok' if ok else 'not ok'}"

    async def cancel(self, id: str, *, kill: bool) -> None:
        await self.lab.client.cancel([id], kill=kill)

    async def output(self, id: str) -> bytes:
        return b"".join([data async for data in self.lab.client.output(id)])

    async def exit_code(self, id: str) -> int | None:
        return (await self.lab.client.get(id)).exit_code
