"""Bots that misbehave and a daemon that stops, dies and comes back, by chance: each task ends, and the file is well.

A failed one is repeated by its number, which is the seed.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from swarmd.testing import Fault, Lab, open_lab
from swarmd.testing.faults import FAILPOINTS

EXPIRATION_S = 3_000


async def a_bad_day(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with open_lab(path, seed=seed) as lab:
        for number, fault in enumerate(chance.sample(sorted(Fault), 3)):
            lab.living_bot(
                f"bad-{number}", fault=fault, chance=chance.random(), runs_s=chance.choice([0, 1, 30]),
                slots=chance.choice([1, 3]), outcome=lambda offer: int(chance.random() < 0.2),
            )  # fmt: skip
        ids = await lab.submit_many(
            chance.randrange(1, 15), bot_retries=chance.randrange(4), retries=chance.randrange(3),
            hard_limit_s=50, grace_s=1, expiration_s=EXPIRATION_S,
        )  # fmt: skip
        for _ in range(chance.randrange(4)):
            await lab.sleep(chance.random() * 100)
            await something_happens(lab, ids, chance)
        if chance.random() < 0.5:
            lab.living_bot("good", runs_s=1)
        for id in ids:
            await lab.until(id)
        await lab.sleep(400)  # what comes late comes
        await lab.check_file()


async def something_happens(lab: Lab, ids: list[str], chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            await lab.restart(away_s=chance.random() * 100)
        case 1:
            await lab.crash()
            await lab.sleep(chance.random() * 200)
            await lab.start()
        case 2:
            lab.fail_at(chance.choice(FAILPOINTS), nth=chance.randrange(1, 4))
        case 3:
            await lab.start()
            await lab.client.cancel([chance.choice(ids)])


@pytest.mark.parametrize("seed", range(8))
async def test_every_task_ends(tmp_path: Path, autojump_clock, seed: int):
    await a_bad_day(tmp_path / "swarmd.db", seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(8, 508))
async def test_every_task_ends_on_many_days(tmp_path: Path, autojump_clock, seed: int):
    await a_bad_day(tmp_path / "swarmd.db", seed)
