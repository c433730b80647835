"""A small world of Swarming bots: one that behaves well, and one in whose name everything wrong is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from swarmd.api.swarming.routes import API
from swarmd.testing import Lab, SwarmingBot, SwarmingTask
from tests.api.wire import Answer, send

CONFIG = {"swarming": {"pools": {"default": {"mode": "hybrid"}}}}  # every route is of use
JSON = ("Content-Type", "application/json; charset=UTF-8")
OWN = ("handshake", "poll", "claim", "event", "task_update", "task_update/{task}", "task_error", "task_error/{task}",
       "oauth_token", "id_token", "rbe/session/create", "rbe/session/update")  # fmt: skip


@dataclass
class World:
    """`bad` runs the task `id` and has a session for leases; `good` runs another, and must never notice."""

    lab: Lab
    bad: SwarmingBot
    task: SwarmingTask
    id: str
    good: SwarmingBot
    its_task: SwarmingTask
    its_id: str

    async def post(
        self, path: str, body: bytes | object, headers: tuple[tuple[str, str], ...] = (JSON,)
    ) -> Answer:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await send(self.lab.url, "POST", f"{API}/{path.format(task=self.task.id)}", raw, headers)

    def good_body(self, path: str) -> dict[str, Any]:
        """What the bot `bad` would say there."""
        bot, task = self.bad, self.task
        who = {"id": bot.id, "session": task.session}
        about = {**who, "task_id": task.id}
        attributes = {"dimensions": bot.dimensions, "state": bot.state, "version": bot.version}
        bodies: dict[str, dict[str, Any]] = {
            "handshake": {**attributes, "session_id": bot.session_id},
            "poll": {**attributes, "session": bot.session, "request_uuid": "00000000-0000-0000-0000-000000000000"},
            "claim": {
                **attributes, "session": bot.session, "claim_id": "0000000000001", "task_id": task.id[:-1] + "0",
                "task_to_run_shard": 0, "task_to_run_id": 1,
            },
            "event": {**attributes, "session": bot.session, "event": "bot_log", "message": "hello"},
            "task_update": {**about, "cost_usd": 0.1},
            "task_error": {**about, "message": "it broke", "client_error": {"missing_cas": [], "missing_cipd": []}},
            "oauth_token": {**about, "account_id": "task", "scopes": ["a"]},
            "id_token": {**about, "account_id": "task", "audience": "a"},
            "rbe/session/create": {"session": bot.session, "bot_version": "x"},
            "rbe/session/update": {
                "session": bot.session, "bot_version": "x", "status": "MAINTENANCE", "nonblocking": True,
            },
        }  # fmt: skip
        return bodies[path.removesuffix("/{task}")]

    async def check_the_good_bot(self, *, ends: bool = False) -> None:
        """It goes on as if nothing had happened."""
        answer = await self.its_task.write(b".")
        assert (answer["must_stop"], answer["ok"]) == (False, True)
        await self.lab.check_state(self.its_id, "RUNNING")
        if ends:
            await self.its_task.end(0)
            await self.lab.check_state(self.its_id, "COMPLETED")
            await self.lab.check_output(self.its_id, b"." * self.its_task.written)
        self.lab.daemon.engine.check()


async def small_world(lab: Lab) -> World:
    bots, tasks, ids = [], [], []
    for name in ("bad", "good"):
        bot = lab.swarming_bot(name)
        await bot.handshake()
        await bot.open_rbe()
        ids.append(await lab.submit(name, dimensions={"id": name}, bot_retries=0))
        task = await bot.take(force=True)
        assert task is not None
        await task.start()
        bots.append(bot)
        tasks.append(task)
    return World(lab, bots[0], tasks[0], ids[0], bots[1], tasks[1], ids[1])


# ------------------------------------------------------------------ one bot


async def greeted(lab: Lab, id: str = "s1") -> SwarmingBot:
    """A bot that has shaken hands."""
    bot = lab.swarming_bot(id)
    await bot.handshake()
    return bot


async def polling(lab: Lab, id: str = "s1", **fields: Any) -> SwarmingBot:
    """A bot that has shaken hands and polled once."""
    bot = lab.swarming_bot(id, **fields)
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "sleep"
    return bot


async def events_of(lab: Lab, bot: str = "s1") -> list[tuple[str, dict[str, Any]]]:
    """Kind and details of what happened to a bot, oldest first."""
    found = [event async for event in lab.client.bot_events(bot)]
    return [(event.kind, event.detail) for event in reversed(found)]


async def kinds_of(lab: Lab, bot: str = "s1") -> list[str]:
    return [kind for kind, _ in await events_of(lab, bot)]


async def dimensions_of(lab: Lab, bot: str = "s1") -> dict[str, list[str]]:
    """All but what its protocol can express."""
    known = (await lab.client.bot(bot)).dimensions
    return {key: values for key, values in known.items() if key != "feature"}


def stranger(lab: Lab, id: str = "s1") -> SwarmingBot:
    """Another process under the same id, on another machine."""
    bot = SwarmingBot(lab.url, id)
    bot.session_id = "f" * 32 + "/9"
    return bot


async def reconfigure(lab: Lab, **changes: Any) -> None:
    """A new configuration, as after SIGHUP."""
    app = lab._running.app
    swarming = msgspec.structs.replace(app.daemon.config.swarming, **changes)
    await app.reconfigure(msgspec.structs.replace(app.daemon.config, swarming=swarming))


async def taking(bot: SwarmingBot) -> SwarmingTask:
    """The task that its poll gives."""
    task = await bot.take()
    assert task is not None
    return task


async def one(
    lab: Lab, *argv: str, started: bool = True, **fields: Any
) -> tuple[SwarmingBot, str, SwarmingTask]:
    """A bot, a task of it, and the bot's side of that task."""
    bot = await greeted(lab)
    id = await lab.submit(*(argv or ("make",)), **fields)
    task = await taking(bot)
    if started:
        await task.start()
    return bot, id, task


def without_token(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "session"}
