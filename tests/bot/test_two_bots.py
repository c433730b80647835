"""Two bundled bots and a whole daemon, on virtual time: no task waits in one bot while the other is idle."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from swarmd.bot.lookahead import GIVE_BACK_S
from swarmd.bot.main import BotConfig, run_bot
from swarmd.bot.wire import ClientWire
from swarmd.bot.workdir import WorkFolder
from swarmd.client.address import parse_address
from swarmd.testing import Lab
from swarmd.testing.fake_runner import FakeRunner, Script

SCRIPTS = {
    "hour": Script(after_s=3600.0),
    "minute": Script(after_s=60.0),
    "six": Script(after_s=6.0),
    "tiny": Script(after_s=0.01),
}


@asynccontextmanager
async def bots(swarmd: Lab, path: Path, *slots: int) -> AsyncIterator[None]:
    """Bots b1, b2, ... with so many slots each; they are killed in the end."""
    async with trio.open_nursery() as nursery:
        for number, count in enumerate(slots, start=1):
            name = f"b{number}"
            config = BotConfig(name, swarmd.url, count, {"os": ["Linux"]})
            wire = ClientWire(parse_address(swarmd.url), None)
            nursery.start_soon(partial(one_bot, config, path / name, wire, number))
        while len([b async for b in swarmd.client.bots() if b.status == "idle"]) < len(slots):
            await swarmd.sleep(0.1)
        yield
        nursery.cancel_scope.cancel()


async def one_bot(config: BotConfig, path: Path, wire: ClientWire, seed: int) -> None:
    with WorkFolder(path) as folder:
        await run_bot(config, folder=folder, runner=FakeRunner(SCRIPTS), wire=wire, rng=random.Random(seed))


async def where(swarmd: Lab, id: str) -> str:
    """The bot of its newest attempt."""
    return (await swarmd.client.get(id)).attempts[-1].bot


async def dropped(swarmd: Lab, *ids: str) -> list[int]:
    """How often each was given back."""
    found = [await swarmd.client.get(id) for id in ids]
    return [sum(attempt.state == "DROPPED" for attempt in details.attempts) for details in found]


async def test_a_short_task_does_not_wait_behind_a_long_one_while_another_bot_is_idle(swarmd: Lab, tmp_path):
    async with bots(swarmd, tmp_path, 1, 1):
        long, six = await swarmd.submit("hour"), await swarmd.submit("six")
        for id in (long, six):
            await swarmd.until(id, "RUNNING")
        short = [await swarmd.submit("tiny") for _ in range(4)]
        for id in short:
            await swarmd.until(id, within_s=7)
        assert {await where(swarmd, id) for id in short} == {await where(swarmd, six)}
        assert (await swarmd.client.get(long)).state == "RUNNING"


async def test_while_all_bots_are_busy_for_long_what_is_pending_stays_with_the_daemon(swarmd: Lab, tmp_path):
    async with bots(swarmd, tmp_path, 2, 2, 2):
        for id in [await swarmd.submit("minute") for _ in range(6)]:
            await swarmd.until(id, "RUNNING")
        short = [await swarmd.submit("tiny") for _ in range(12)]
        await swarmd.sleep(GIVE_BACK_S * 4)
        before = await dropped(swarmd, *short)
        assert max(before) <= 3, "each bot gives it back once at most"
        await swarmd.sleep(50)
        assert await dropped(swarmd, *short) == before
        assert {(await swarmd.client.explain(id)).reason for id in short} == {"bots_busy"}
        for id in short:
            await swarmd.until(id, "COMPLETED", within_s=20)


async def test_a_task_behind_a_long_one_expires_in_time(swarmd: Lab, tmp_path):
    async with bots(swarmd, tmp_path, 1):
        await swarmd.until(await swarmd.submit("minute"), "RUNNING")
        began_at = trio.current_time()
        await swarmd.until(await swarmd.submit("tiny", expiration_s=30), "EXPIRED")
        assert trio.current_time() - began_at == pytest.approx(30, abs=0.1)


async def test_long_tasks_are_run_by_all_bots_at_once(swarmd: Lab, tmp_path):
    async with bots(swarmd, tmp_path, 1, 1, 1):
        began_at = trio.current_time()
        ids = [await swarmd.submit("minute") for _ in range(9)]
        for id in ids:
            await swarmd.until(id, "COMPLETED", within_s=300)
        assert trio.current_time() - began_at < 3 * 60 + 5
        assert sum(await dropped(swarmd, *ids)) <= 3 * 3
