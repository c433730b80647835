"""A world for schemathesis to look at and disturb: bots that start no process, and things whose ids are real."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from contextlib import suppress
from itertools import count
from pathlib import Path

import trio

from swarmd.api.native.messages import BotOrderRequest
from swarmd.client import ApiError, Client, GraphRequest, task
from swarmd.testing.bots import NativeBot

STAGES = 3  # copies of each thing at the start
LIVING = 2
PAUSE_S = 0.5  # between two rounds of the people who keep the world going
FRESH_S = (
    2.0  # between two new copies of everything: the old ones were canceled, closed and deleted meanwhile
)
FRESH_BOTS = 5

Ids = dict[str, list[str]]


async def stage(client: Client) -> Ids:
    """Makes things in all states; the ids of each kind."""
    ids: Ids = defaultdict(list)
    for number in range(STAGES):
        for kind, more in (await _one_of_each(client, f"still-{number}", "first")).items():
            ids[kind] += more
    ids["bot"] += [f"living-{number}" for number in range(LIVING)]
    return dict(ids)


async def keep_alive(client: Client, fresh: Path) -> None:
    """Keeps the world going until it is cancelled.

    Bots take every task and end it at once, people give them more; the file `fresh` has the ids of the newest things.
    """
    async with trio.open_nursery() as nursery:
        for number in range(LIVING):
            nursery.start_soon(_live, client, f"living-{number}")
        nursery.start_soon(_submit, client)
        nursery.start_soon(_renew, client, fresh)


async def _one_of_each(client: Client, name: str, start: str) -> Ids:
    """A task in each state, two graphs, a blob, a session of the bot `name`, which never calls again, and a bot
    without a session.
    """
    here = {"stage": [name]}
    bot = NativeBot(client, name, slots=4, dimensions=here, session_key=f"{start} start of {name}")
    await bot.open()
    [done] = await client.submit([task(argv=["true"], name="done", tags=["old"], dimensions=here)])
    ended = await bot.run_one()
    bot.write(ended.attempt, b"all good\n")
    bot.write(ended.attempt, b"\x1b[1mno\x00thing\xff\n", "stderr")
    bot.finish(ended.attempt)
    await bot.sync()
    [running] = await client.submit([task(argv=["sleep", "9"], name="running", dimensions=here)])
    live = await bot.run_one()
    [waiting] = await client.submit([task(argv=["true"], dimensions={"gpu": ["h200"]})])
    [blocked] = await client.submit([task(argv=["true"], after=[waiting])])
    tasks = [task(key="a", argv=["x"], after=[waiting])]
    open_graph = await client.submit_graph(GraphRequest(tasks=tasks, open=True))
    closed = await client.submit_graph(GraphRequest(tasks=tasks))
    blob = await client.upload_bytes(f"blob of {name}".encode())
    gone = NativeBot(client, f"{name}-gone")
    await gone.open()
    await gone.close()
    return {
        "session": [bot.session], "bot": [bot.id, gone.id], "attempt": [live.attempt, ended.attempt],
        "task": [waiting, blocked, running, done, *open_graph.ids, *closed.ids],
        "graph": [open_graph.id, closed.id], "digest": [blob.sha256],
    }  # fmt: skip


async def _renew(client: Client, fresh: Path) -> None:
    for number in count():
        # What a stranger does to the bot on the way may end a round; the next one has another bot.
        with suppress(ApiError, ValueError):
            ids = await _one_of_each(client, f"fresh-{number % FRESH_BOTS}", str(number))
            beside = fresh.with_suffix(".new")
            beside.write_text(json.dumps(ids))
            os.replace(beside, fresh)
        await trio.sleep(FRESH_S)


async def _live(client: Client, name: str) -> None:
    """Comes back as a new process whatever is done to it."""
    for start in count():
        key = f"start {start} of {name}"
        bot = NativeBot(client, name, slots=4, dimensions={"os": ["Linux"]}, session_key=key)
        with suppress(ApiError):
            await bot.live(wait_s=2.0)
        await trio.sleep(PAUSE_S)


async def _submit(client: Client) -> None:
    back_to_work = BotOrderRequest(drain=False, quarantine=None, maintenance=None, order=None)
    while True:
        with suppress(ApiError):
            await client.submit([task(noop=True), task(argv=["true"], name="done"), task(marker=True)])
            for number in range(LIVING):  # what a stranger has ordered is taken back
                await client.order_bot(f"living-{number}", back_to_work)
        await trio.sleep(PAUSE_S)
