"""A world for schemathesis to look at and disturb: bots that start no process, and things whose ids are real."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from itertools import count

import trio

from swarmd.api.native.messages import BotOrderRequest
from swarmd.client import ApiError, Client, GraphRequest, task
from swarmd.testing.bots import NativeBot

STAGES = 3  # copies of each still thing; some will be canceled, closed and deleted on the way
LIVING = 2
PAUSE_S = 0.5  # between two rounds of the people who keep the world going

Ids = dict[str, list[str]]


async def stage(client: Client) -> Ids:
    """Makes things in all states; the ids of each kind. The bots of these sessions never call again."""
    ids: Ids = defaultdict(list)
    for number in range(STAGES):
        bot = NativeBot(client, f"still-{number}", slots=4, dimensions={"os": ["Linux"]})
        await bot.open()
        ids["session"].append(bot.session)
        ids["bot"].append(bot.id)
        [done] = await client.submit([task(argv=["true"], name="done", tags=["old"], outputs=["*"])])
        ended = await bot.run_one()
        bot.write(ended.attempt, b"all good\n")
        bot.write(ended.attempt, b"\x1b[1mno\x00thing\xff\n", "stderr")
        bot.finish(ended.attempt)
        await bot.sync()
        [running] = await client.submit([task(argv=["sleep", "9"], name="running")])
        live = await bot.run_one()
        ids["attempt"] += [live.attempt, ended.attempt]
        [waiting] = await client.submit([task(argv=["true"], dimensions={"gpu": ["h200"]})])
        [blocked] = await client.submit([task(argv=["true"], after=[waiting])])
        ids["task"] += [done, running, waiting, blocked]
        for is_open in (True, False):
            tasks = [task(key="a", argv=["x"], after=[waiting])]
            graph = await client.submit_graph(GraphRequest(tasks=tasks, open=is_open))
            ids["graph"].append(graph.id)
            ids["task"] += graph.ids
        ids["digest"].append((await client.upload_bytes(b"blob %d" % number)).sha256)
    ids["bot"] += [f"living-{number}" for number in range(LIVING)]
    return dict(ids)


async def keep_alive(client: Client) -> None:
    """Bots that take every task and end it at once, and a person who gives them more; until it is cancelled."""
    async with trio.open_nursery() as nursery:
        for number in range(LIVING):
            nursery.start_soon(_live, client, f"living-{number}")
        nursery.start_soon(_submit, client)


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
