"""The page behind the link that clients print."""

from __future__ import annotations

import pytest

from swarmd.testing import Lab
from tests.api.swarming.services.client import native, new
from tests.api.wire import send


async def page(lab: Lab, id: str):
    return await send(lab.url, "GET", f"/task?id={id}")


async def test_a_task_is_told_in_a_few_lines(swarmd: Lab):
    id = await new(swarmd, name="build\x1b[2J it")
    waiting = await page(swarmd, id)
    assert waiting.status == 200 and waiting.headers["content-type"] == "text/plain; charset=utf-8"
    assert waiting.body.decode().splitlines()[0].endswith(": PENDING") and b"\x1b" not in waiting.body
    bot = swarmd.bot("b1")
    await bot.open()
    [offer] = await bot.take()
    bot.start(offer.attempt)
    bot.finish(offer.attempt, 3)
    await bot.sync()
    told = (await page(swarmd, id[:-1] + "1")).body.decode()
    assert (
        "COMPLETED" in told
        and "bot: b1" in told
        and "exit code: 3" in told
        and f"swarmd show {native(id)}" in told
    )


@pytest.mark.parametrize(("id", "status"), [("", 400), ("x", 400), ("7b24c0ea00ffff10", 404)])
async def test_a_link_to_nothing(swarmd: Lab, id: str, status: int):
    assert (await page(swarmd, id)).status == status
