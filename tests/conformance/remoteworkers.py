"""The Remote Workers API: bots with leases. They have no key, and say nothing of a task until its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from swarmd.api.rpc import Code, RpcError
from swarmd.testing import Lab
from swarmd.testing.remote_bots import MAINTENANCE, RemoteBot, command_of
from tests.conformance.adapters import BotAdapter, BotCan, Job

KEEP_ALIVE_S = 60.0
CONFIG = {"keep_alive_s": KEEP_ALIVE_S}
NO_OUTPUT = "a lease carries no output while it is active"
NO_KEY = "its processes are told apart by the name of a session only: the newcomer wins"
NO_ORDERS = "nothing on this wire tells a bot to end"
ONE_LEASE = "this one holds one lease, and its server gives it no more than it said that it can hold"


class RemoteBotAdapter(BotAdapter):
    """A bot that gets its leases as active. It is in MAINTENANCE but when it asks for work: each answer may give some
    to one that is not, also the one to its hello."""

    protocol = "remoteworkers"
    config: ClassVar[Mapping[str, Any]] = {"remoteworkers": CONFIG}
    cannot: ClassVar[Mapping[BotCan, str]] = {
        BotCan.WRITE_PIECES: NO_OUTPUT, BotCan.PROVE_ITSELF: NO_KEY, BotCan.ASK_WHILE_BUSY: ONE_LEASE,
        BotCan.BE_ENDED: NO_ORDERS,
    }  # fmt: skip
    stop_unheard = "ENDED"  # the daemon enforces the limits of these bots, and waits for the grace only

    def __init__(self, lab: Lab, id: str) -> None:
        super().__init__(lab, id)
        self._bot = lab.remote_bot(id)

    @property
    def silence_s(self) -> float:
        return KEEP_ALIVE_S + 1

    @property
    def bot(self) -> RemoteBot:
        self._bot.loses_answers = self.loses_answers
        return self._bot

    async def connect(self) -> None:
        await self.bot.create(status=MAINTENANCE)

    async def come_back(self, holding: Collection[Job]) -> None:
        for lease in self._bot.leases:
            if lease.id not in {job.id for job in holding}:
                self._bot.drop(lease.id)
        await self.connect()

    async def intrude(self) -> bool:
        self._bot = self.lab.remote_bot(self.id)
        await self.connect()
        return True

    async def take(self) -> Job | None:
        try:
            await self.bot.update()
        except RpcError as error:
            assert error.code is Code.INVALID_ARGUMENT, error
            await self.come_back([])
            return None
        if not self._bot.leases:
            return None
        [lease] = self._bot.leases
        return Job(
            lease.id,
            tuple(command_of(lease).inputs.arguments),
            type(lease).FromString(lease.SerializeToString()),
        )

    async def start(self, job: Job) -> None:
        self._hold(job)
        self._bot.begin(job.id)
        await self._say()

    async def live(self) -> None:
        await self._say()

    async def write(self, job: Job, data: bytes) -> None:
        raise AssertionError(NO_OUTPUT)

    async def finish(self, job: Job, exit_code: int) -> None:
        self._hold(job)
        self._bot.complete(job.id, exit_code)
        await self._say()

    async def time_out(self, job: Job) -> None:
        self._hold(job)
        self._bot.complete(job.id, code=int(Code.DEADLINE_EXCEEDED))
        await self._say()

    async def is_told_to_stop(self, job: Job) -> bool:
        self._hold(job)
        await self._say()
        return job.id not in {lease.id for lease in self._bot.leases}

    async def report_stopped(self, job: Job) -> None:
        await self._say()

    async def is_told_to_end(self) -> bool:
        raise AssertionError(NO_ORDERS)

    async def end(self) -> None:
        raise AssertionError(NO_ORDERS)

    def _hold(self, job: Job) -> None:
        """It still has the lease, whatever it was told."""
        if job.id not in {lease.id for lease in self._bot.leases}:
            self._bot.session.leases.add().CopyFrom(job.raw)

    async def _say(self) -> None:
        """A session that has ended is told so; what this call would have said is lost."""
        with suppress(RpcError):
            await self.bot.update(status=MAINTENANCE)


class PendingBotAdapter(RemoteBotAdapter):
    """A bot of a pool whose leases are given as pending."""

    protocol = "remoteworkers-pending"
    config: ClassVar[Mapping[str, Any]] = {
        "remoteworkers": {**CONFIG, "instances": {"": {"leases": "pending"}}}
    }
