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
