"""LUCI Swarming: its bots, which get work by poll or by lease. They have one slot, and no key to be known by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from swarmd.testing import Lab, SwarmingBot, SwarmingTask
from tests.conformance.adapters import BotAdapter, BotCan, Job

DEATH_S = 60.0
NO_KEEPING = "its main process holds nothing when it comes up, and a handshake cannot name a task"
NO_KEY = "its processes are told apart by a session id only: the newcomer wins"
ONE_SLOT = "it runs one task and polls when that has ended: a poll says that it holds nothing"


class SwarmingBotAdapter(BotAdapter):
    """A bot in native mode: poll gives the task."""

    protocol = "swarming"
    config: ClassVar[Mapping[str, Any]] = {"swarming": {"death_timeout_s": DEATH_S}}
    cannot: ClassVar[Mapping[BotCan, str]] = {
        BotCan.KEEP_TASKS: NO_KEEPING, BotCan.PROVE_ITSELF: NO_KEY, BotCan.ASK_WHILE_BUSY: ONE_SLOT,
    }  # fmt: skip

    def __init__(self, lab: Lab, id: str) -> None:
        super().__init__(lab, id)
        self._bot = SwarmingBot(lab.url, id)
        self._runs: SwarmingTask | None = None
        self._ends = ""  # the task by which it was told to end

    @property
    def silence_s(self) -> float:
        return DEATH_S + 1

    @property
    def bot(self) -> SwarmingBot:
        self._bot.loses_answers = self.loses_answers
        return self._bot

    async def connect(self) -> None:
        await self.bot.handshake()

    async def come_back(self, holding: Collection[Job]) -> None:
        assert not holding, NO_KEEPING
        await self.bot.restart()

    async def intrude(self) -> bool:
        self._bot = SwarmingBot(self.lab.url, self.id)
        self._bot.session_id = "f" * 32 + "/7"
        await self.bot.handshake()
        return True

    async def take(self) -> Job | None:
        task = await self.bot.take()
        return None if task is None else self._job(task)

    def _job(self, task: SwarmingTask) -> Job:
        self._runs = task
        return Job(task.id, tuple(task.command), task)

    async def start(self, job: Job) -> None:
        await self._task(job).start()

    async def live(self) -> None:
        assert self._runs is not None, "an idle bot polls"
        await self._task(Job("", (), self._runs)).update()

    async def write(self, job: Job, data: bytes) -> None:
        await self._task(job).write(data)

    async def finish(self, job: Job, exit_code: int) -> None:
        await self._task(job).end(exit_code)

    async def time_out(self, job: Job) -> None:
        await self._task(job).time_out()

    async def is_told_to_stop(self, job: Job) -> bool:
        return bool((await self._task(job).update())["must_stop"])

    async def report_stopped(self, job: Job) -> None:
        await self._task(job).end(-15)

    async def is_told_to_end(self) -> bool:
        answer = await self.bot.poll()
        assert answer["cmd"] in ("sleep", "terminate"), answer
        self._ends = answer.get("task_id", "")
        return bool(self._ends)

    async def end(self) -> None:
        await self.bot.confirm_end(self._ends)
        await self.bot.event("bot_shutdown", "Signal was received")

    def _task(self, job: Job) -> SwarmingTask:
        task: Any = job.raw
        assert isinstance(task, SwarmingTask)
        task.bot.loses_answers = self.loses_answers
        return task


class LeasingBotAdapter(SwarmingBotAdapter):
    """A bot in RBE mode: it gets a lease, and a claim gives the task."""

    protocol = "swarming-rbe"
    config: ClassVar[Mapping[str, Any]] = {
        "swarming": {"death_timeout_s": DEATH_S, "pools": {"default": {"mode": "rbe"}}}
    }
    cannot: ClassVar[Mapping[BotCan, str]] = {
        **SwarmingBotAdapter.cannot,
        BotCan.HOLD_BACK: "it learns what the task is by a claim, and who claims a task has started it",
    }

    _lease: dict[str, Any] | None = None  # by which it was told to end

    async def take(self) -> Job | None:
        task = await self.bot.take_lease()
        return None if task is None else self._job(task)

    async def finish(self, job: Job, exit_code: int) -> None:
        await super().finish(job, exit_code)
        await self._close(job)

    async def time_out(self, job: Job) -> None:
        await super().time_out(job)
        await self._close(job)

    async def report_stopped(self, job: Job) -> None:
        await super().report_stopped(job)
        await self._close(job)

    async def is_told_to_end(self) -> bool:
        if not self.bot.rbe_session:
            await self.bot.open_rbe()
        self._lease = (await self.bot.update_rbe()).get("lease")
        if self._lease is None:
            return False
        answer = await self.bot.claim(self._lease)
        assert answer["cmd"] == "terminate", answer
        self._ends = answer["task_id"]
        return True

    async def end(self) -> None:
        await super().end()
        assert self._lease is not None
        await self.bot.close_lease(self._lease["id"], "BOT_TERMINATING")

    async def _close(self, job: Job) -> None:
        await self.bot.close_lease(self._task(job).lease)
