"""A small world for tests of the API: one bot, and a task in each interesting state."""

from __future__ import annotations

from dataclasses import dataclass

from swarmd.client import GraphRequest, task
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import RunningDaemon

NOBODY = "0" * 12 + "1"  # an id in the right form that names nothing
DIGEST = "0" * 64


@dataclass
class World:
    daemon: RunningDaemon
    bot: NativeBot
    done: str  # a task that ended ok
    stale: str  # the attempt that ended
    running: str
    attempt: str  # the live attempt
    waiting: str  # PENDING, nobody can take it
    blocked: str  # after `waiting`
    open_graph: str
    closed_graph: str
    blob: str

    @property
    def url(self) -> str:
        return self.daemon.url

    @property
    def client(self):
        return self.daemon.client


async def small_world(daemon: RunningDaemon) -> World:
    client = daemon.client
    bot = NativeBot(client, "b1", slots=4, dimensions={"os": ["Linux"], "pool": ["default"]})
    await bot.open()
    [done] = await client.submit([task(argv=["true"], name="done", tags=["old"])])
    ended = await bot.run_one()
    bot.write(ended.attempt, b"all good\n")
    bot.finish(ended.attempt)
    await bot.sync()
    [running] = await client.submit([task(argv=["sleep", "9"], name="running")])
    live = await bot.run_one()
    [waiting] = await client.submit([task(argv=["true"], name="waiting", dimensions={"gpu": ["h200"]})])
    [blocked] = await client.submit([task(argv=["true"], name="blocked", after=[waiting])])
    opened = await client.submit_graph(
        GraphRequest(tasks=[task(key="a", argv=["x"], after=[waiting])], open=True)
    )
    closed = await client.submit_graph(GraphRequest(tasks=[task(key="a", argv=["x"], after=[waiting])]))
    blob = (await client.upload_bytes(b"some bytes")).sha256
    return World(
        daemon, bot, done, ended.attempt, running, live.attempt, waiting, blocked, opened.id, closed.id, blob
    )
