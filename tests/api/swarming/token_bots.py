"""A scripted bot for tests of tokens: it says no more than a test tells it to, with the headers that the test gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swarmd.testing.harness import RunningDaemon
from tests.api.wire import Answer, send

API = "/swarming/api/v1/bot"
DAEMON_TOKEN = "the-daemons-own-token"


def token_file(path: Path, token: str = DAEMON_TOKEN) -> str:
    path.write_text(token + "\n")
    path.chmod(0o600)
    return str(path)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {token}"),)


class TokenBot:
    """`session` is the newest token it was given; `task` the run id of what it runs."""

    def __init__(self, url: str, id: str = "b1", *, headers=(), process: str = "p/1") -> None:
        self.url = url
        self.id = id
        self.headers = tuple(headers)
        self.process = process
        self.session: str | None = None
        self.task = ""
        self.manifest: dict[str, Any] = {}
        self.polls = 0

    @property
    def dimensions(self) -> dict[str, list[str]]:
        return {"id": [self.id], "os": ["Linux"]}

    async def call(self, route: str, body: dict[str, Any], headers=None) -> Answer:
        """One call as it is; nothing of the answer is taken in."""
        host = urlsplit(self.url).netloc or "localhost"
        shown = (("X-Luci-Swarming-Bot-ID", self.id), *(self.headers if headers is None else headers))
        return await send(self.url, "POST", f"{API}/{route}", body, shown, host=host)

    async def ask(self, route: str, **body: Any) -> dict[str, Any]:
        """A call with the session that must be answered 200."""
        answer = await self.call(route, {"session": self.session, **body})
        assert answer.status == 200, (route, answer)
        told = answer.json()
        self.session = told.get("session", self.session)
        return told

    async def handshake(self) -> TokenBot:
        await self.ask(
            "handshake", dimensions=self.dimensions, state={}, version="v1", session_id=self.process
        )
        return self

    async def poll(self) -> dict[str, Any]:
        self.polls += 1
        uuid = f"{self.process}-{self.polls}"
        return await self.ask("poll", dimensions=self.dimensions, state={}, version="v1", request_uuid=uuid)

    async def run_one(self) -> TokenBot:
        """Takes a task and says that it has begun."""
        told = await self.poll()
        assert told["cmd"] == "run", told
        self.manifest = told["manifest"]
        self.task = self.manifest["task_id"]
        await self.update()
        return self

    async def update(self, **body: Any) -> dict[str, Any]:
        return await self.ask("task_update", id=self.id, task_id=self.task, cost_usd=0, **body)

    async def finish(self) -> None:
        await self.update(exit_code=0, duration=1.0)

    async def token(self, kind: str = "oauth", **body: Any) -> Answer:
        """Asks for a token of the running task; what is given as None is left out."""
        asked = {"account_id": "task", "id": self.id, "task_id": self.task, "session": self.session}
        asked |= {"scopes": ["s"]} if kind == "oauth" else {"audience": "https://x.example"}
        asked |= body
        return await self.call(f"{kind}_token", {k: v for k, v in asked.items() if v is not None})


async def working(daemon: RunningDaemon, id: str = "b1", *, headers=()) -> TokenBot:
    """A bot that has connected and runs the task that waits."""
    bot = TokenBot(daemon.url, id, headers=headers)
    await bot.handshake()
    return await bot.run_one()
