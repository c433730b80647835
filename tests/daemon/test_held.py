"""Many idle bots at once: all are held, work reaches one of them, and all come back after a restart and a crash.

The large dose, with figures, is `python -m bench held`.
"""

from __future__ import annotations

import logging

import pytest
import trio

from bench.held import measure
from bench.idle_bots import IdleBots
from swarmd.bot import events
from swarmd.bot.session import HELD_S
from swarmd.daemon.listeners import raise_open_files_limit
from swarmd.testing import Lab

BOTS = 200
AWAY_S = 2.0
TRIES = 7  # the bundled bot's pauses, 0.1 s doubled each time, last longer than AWAY_S after so many


@pytest.fixture(autouse=True)
def silent_bots():
    before = events.LOGGER.level
    events.LOGGER.setLevel(logging.CRITICAL)  # failures are counted instead
    yield
    events.LOGGER.setLevel(before)


async def held_again(swarmd: Lab, within_s: float) -> None:
    with trio.fail_after(within_s):
        while len(swarmd.daemon.held) < BOTS:
            await swarmd.sleep(0.1)


async def test_all_are_held_one_is_offered_and_all_are_back_after_a_restart(swarmd: Lab, nursery):
    bots = IdleBots(swarmd.url, 0, BOTS, swarmd.seed)
    nursery.start_soon(bots.run)
    await held_again(swarmd, 5)
    await swarmd.sleep(2 * HELD_S)
    await held_again(swarmd, 1)
    told = bots.report()
    assert (told.sessions, dict(told.failures), told.offers) == (BOTS, {}, {})
    assert told.calls >= 3 * BOTS, "the holds have ended and begun again"

    id = await swarmd.submit()
    await swarmd.until(id, "COMPLETED")
    assert list(bots.report().offers) == [id]
    assert len(swarmd.daemon.engine.sessions) == BOTS

    for end in (swarmd.stop, swarmd.crash):
        await swarmd.sleep(HELD_S)  # all calls are new ones, with the shortest pause before them
        sessions = set(swarmd.daemon.engine.sessions)
        await end()
        await swarmd.sleep(AWAY_S)
        await swarmd.start()
        await held_again(swarmd, 5)
        told = bots.report()
        assert set(swarmd.daemon.engine.sessions) == sessions and told.sessions == 0
        assert told.worst <= TRIES
    nursery.cancel_scope.cancel()


@pytest.mark.nightly
def test_a_thousand_bots_of_real_processes_come_back_after_a_kill():
    raise_open_files_limit()
    found = measure(1_000, held_s=35.0, tasks=50)
    assert not found.connect_failures and not found.held_failures
    assert found.holds >= 1_000
    assert len(found.offer_ms) == 50
    assert found.descriptors < 1_000 + 100
    assert found.killed.sessions_lost == found.stopped.sessions_lost == 0
