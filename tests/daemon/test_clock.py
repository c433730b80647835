"""Engine time: with a virtual clock and a real file, everything ends at its exact moment, every time.

Each trip to SQLite's thread holds the clock; a hole in that shows here as a moment that was jumped over.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

import swarmd
from swarmd.api.native import messages as m
from swarmd.client import task
from swarmd.config import Config
from swarmd.core.features import NATIVE
from swarmd.core.ids import to_text
from swarmd.core.model import BotId
from swarmd.core.sessions import Newcomer
from swarmd.daemon.clock import MAX_DOWN_S, EngineClock
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import WALL, RunningDaemon, running

EXACT_S = 0.001  # ids and answers count milliseconds
FIVE_MINUTES = Config(session_deadline_s=300.0)


async def ends_after(world: RunningDaemon, id: str, state: str, seconds: float) -> None:
    """The task becomes final `seconds` from now, not a millisecond earlier or later."""
    began = trio.current_time()
    [item] = await world.client.wait([id])
    assert item.state == state, item
    assert trio.current_time() - began == pytest.approx(seconds, abs=EXACT_S)


async def a_session_expires(world: RunningDaemon) -> None:
    bot = NativeBot(world.client, "expires", dimensions={"for": ["expires"]})
    opened = await bot.open()
    assert opened.deadline_s == 300
    [id] = await world.client.submit([task(argv=["x"], dimensions={"for": ["expires"]}, bot_retries=0)])
    await bot.run_one()
    await ends_after(world, id, "BOT_DIED", 300)


async def _keeps_calling(bot: NativeBot) -> None:
    while True:
        await bot.sync(wait_s=30)


async def the_backstop_of_a_hard_limit(world: RunningDaemon) -> None:
    """The bot calls, but never reports the end: limit + 3 × grace + 60 s."""
    bot = NativeBot(world.client, "backstop", dimensions={"for": ["backstop"]})
    await bot.open()
    [id] = await world.client.submit(
        [task(argv=["x"], dimensions={"for": ["backstop"]}, hard_limit_s=100, grace_s=10, bot_retries=0)]
    )
    await bot.run_one()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keeps_calling, bot)
        await ends_after(world, id, "TIMED_OUT", 100 + 3 * 10 + 60)
        nursery.cancel_scope.cancel()


async def the_order_of_a_hard_limit(world: RunningDaemon) -> None:
    """A bot that cannot enforce limits is told at the limit; after the grace the attempt ends, heard or not."""
    bot = NativeBot(world.client, "order", dimensions={"for": ["order"]})
    with world.daemon.step() as (engine, now):
        opened = engine.open_session(
            now,
            Newcomer(
                bot=BotId("order"), protocol="native", session_key="a key", key_hash="", slots=1, features=NATIVE,
                dimensions={"for": ["order"]}, enforces_limits=False,
            ),
        )  # fmt: skip
    bot.session = to_text(opened.session)
    [id] = await world.client.submit(
        [task(argv=["x"], dimensions={"for": ["order"]}, hard_limit_s=100, grace_s=10, bot_retries=0)]
    )
    offer = await bot.run_one()
    began = trio.current_time()
    while not bot.orders:
        await bot.sync(wait_s=50)
    assert trio.current_time() - began == pytest.approx(100, abs=EXACT_S)
    [order] = bot.orders
    assert (order.kind, order.attempt, order.reason, order.grace_s) == (
        "stop",
        offer.attempt,
        "hard_limit",
        10,
    )
    await ends_after(world, id, "TIMED_OUT", 10)


async def the_backstop_of_a_cancel(world: RunningDaemon) -> None:
    """A bot that enforces the grace itself has 3 × grace + 60 s to report."""
    bot = NativeBot(world.client, "grace", dimensions={"for": ["grace"]})
    await bot.open()
    [id] = await world.client.submit(
        [task(argv=["x"], dimensions={"for": ["grace"]}, grace_s=20, bot_retries=0)]
    )
    await bot.run_one()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keeps_calling, bot)
        await trio.sleep(5)
        await world.client.cancel([id])
        await ends_after(world, id, "KILLED", 3 * 20 + 60)
        nursery.cancel_scope.cancel()


async def an_expiration(world: RunningDaemon) -> None:
    [id] = await world.client.submit([task(argv=["x"], dimensions={"for": ["nobody"]}, expiration_s=120)])
    await ends_after(world, id, "EXPIRED", 120)


async def a_retry_wait(world: RunningDaemon) -> None:
    bot = NativeBot(world.client, "retry", dimensions={"for": ["retry"]})
    await bot.open()
    await world.client.submit([task(argv=["x"], dimensions={"for": ["retry"]}, retries=1, retry_wait_s=77)])
    first = await bot.run_one()
    bot.finish(first.attempt, 1)
    await bot.sync()
    began = trio.current_time()
    while not (offers := await bot.take(1, 50)):
        pass
    assert trio.current_time() - began == pytest.approx(77, abs=EXACT_S)
    assert (offers[0].task, offers[0].number) == (first.task, 2)


async def an_offer_that_nobody_takes(world: RunningDaemon) -> None:
    deaf, other = (NativeBot(world.client, name, dimensions={"for": ["offer"]}) for name in ("deaf", "other"))
    await deaf.open()
    [id] = await world.client.submit([task(argv=["x"], dimensions={"for": ["offer"]})])
    [_] = await deaf.take(1)
    await other.open()
    began = trio.current_time()
    while not (offers := await other.take(1, 50)):
        pass
    assert offers[0].task == id
    assert trio.current_time() - began == pytest.approx(30, abs=EXACT_S)


SCENARIOS = (
    a_session_expires, the_backstop_of_a_hard_limit, the_order_of_a_hard_limit, the_backstop_of_a_cancel, an_expiration,
    a_retry_wait, an_offer_that_nobody_takes,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
async def test_it_happens_at_its_exact_moment(scenario, autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db", config=FIVE_MINUTES) as world:
        await scenario(world)
        world.daemon.engine.check()


async def _all_at_once(path, times: int) -> None:
    for number in range(times):
        async with (
            running(path / f"{number}.db", config=FIVE_MINUTES) as world,
            trio.open_nursery() as nursery,
        ):
            for scenario in SCENARIOS:
                nursery.start_soon(scenario, world)


async def test_it_does_so_every_time(autojump_clock, tmp_path):
    await _all_at_once(tmp_path, 15)


@pytest.mark.nightly
async def test_it_does_so_200_times_in_a_row(autojump_clock, tmp_path):
    await _all_at_once(tmp_path, 200)


# --------------------------------------------------------------------- idle


class Waits(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_an_idle_daemon_does_nothing(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        await world.client.submit([task(argv=["x"])])
        await world.daemon.writer.drain()
        waits = Waits()
        trio.lowlevel.add_instrument(waits)
        await trio.sleep(300)
        trio.lowlevel.remove_instrument(waits)
        assert waits.count < 50, waits.count
        assert world.daemon.writer.commits < 20


async def test_a_held_call_costs_nothing_while_it_is_held(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db", config=FIVE_MINUTES) as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        nursery.start_soon(_keeps_calling, bot)
        await trio.sleep(1)
        commits, waits = world.daemon.writer.commits, Waits()
        trio.lowlevel.add_instrument(waits)
        await trio.sleep(300)
        trio.lowlevel.remove_instrument(waits)
        nursery.cancel_scope.cancel()
        assert waits.count < 200, waits.count  # ten calls
        assert world.daemon.writer.commits - commits <= 6  # signs of life are written once a minute


# --------------------------------------------------------------------- the clock itself


async def test_engine_time_runs_with_the_monotonic_clock_whatever_the_wall_does(autojump_clock):
    wall = [WALL]
    clock = EngineClock(None, None, wall=lambda: wall[0])
    began = clock.now()
    assert began == WALL
    wall[0] += 1e6
    await trio.sleep(10)
    assert clock.now() - began == pytest.approx(10)
    wall[0] -= 2e6
    assert clock.now() - began == pytest.approx(10)


@pytest.mark.parametrize(
    ("down_s", "counted_s"), [(0, 0), (200, 200), (MAX_DOWN_S + 5_000, MAX_DOWN_S), (-9_999, 0)]
)
async def test_what_counts_of_the_time_the_daemon_was_down(down_s, counted_s, autojump_clock):
    clock = EngineClock(1_000.0, WALL, wall=lambda: WALL + down_s)
    assert clock.now() == pytest.approx(1_000 + counted_s)


async def test_a_deadline_in_trios_time_is_never_early(autojump_clock):
    clock = EngineClock(None, None, wall=lambda: WALL)
    for span_s in (0.001, 0.1, 1 / 3, 59.999, 86_399.7):
        moment = clock.now() + span_s
        await trio.sleep_until(clock.trio_time(moment))
        assert moment <= clock.now() < moment + EXACT_S


async def test_moments_are_wall_time_for_people(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        [id] = await world.client.submit([task(argv=["x"])])
        assert (await world.client.get(id)).created_at.startswith("2026-09-21T")
        stream = [e async for e in world.client.events()]
        assert all(isinstance(e, m.EventInfo) and e.at.endswith("Z") for e in stream)


def test_no_other_module_leaves_the_trio_thread():
    """A trip without a hold lets a virtual clock jump once in some dozen times; the size of a backup was read so."""
    ways = re.compile(r"\b(trio\.Path|trio\.open_file|trio\.wrap_file|to_thread\.run_sync)\b")
    root = Path(swarmd.__file__).parent
    found = [str(path.relative_to(root)) for path in root.rglob("*.py") if ways.search(path.read_text())]
    assert found == ["offthread.py"]
