"""A session expires at exactly its moment, on virtual time with a real file and a real socket: each time.

Virtual time and threads do not mix by themselves: without the hold of `swarmd.testing.clock` this fails practically
always, and with a cushion instead of the hold about once in twenty times. So once is no proof.
"""

from __future__ import annotations

import pytest
import trio

from swarmd.client import ApiError
from swarmd.testing import Lab

pytestmark = pytest.mark.swarmd(config={"session_deadline_s": 300})


async def expire_once(swarmd: Lab) -> None:
    began = trio.current_time()

    async def at(moment_s: float) -> None:
        await trio.sleep(began + moment_s - trio.current_time())

    async def lasted_s() -> float | None:
        """How long the session was open, as the file says; None while it is."""
        [(seconds,)] = await swarmd.daemon.read(
            lambda conn: conn.execute("SELECT ended_wall - opened_wall FROM sessions").fetchall()
        )
        return seconds

    bot = swarmd.bot()
    await bot.open()
    await at(200)
    await bot.sync()
    for moment_s in (450, 499, 499.999):
        await at(moment_s)
        assert await lasted_s() is None
        assert trio.current_time() == pytest.approx(began + moment_s, abs=1e-6), "the clock ran away"
    await at(500.001)
    assert await lasted_s() == pytest.approx(500, abs=1e-4)
    await at(501)
    with pytest.raises(ApiError) as refused:
        await bot.sync()
    assert refused.value.code == "unknown_session"
    assert trio.current_time() == pytest.approx(began + 501, abs=1e-6)


@pytest.mark.parametrize("time", range(25))
async def test_a_session_expires_at_its_moment(swarmd: Lab, time: int):
    await expire_once(swarmd)


@pytest.mark.nightly
@pytest.mark.parametrize("time", range(1_000))
async def test_a_session_expires_at_its_moment_a_thousand_times(swarmd: Lab, time: int):
    await expire_once(swarmd)
