"""A year of a small lab, in a moment: bots that restart every week, tasks that fail, expire, are canceled."""

from __future__ import annotations

import random

from swarmd.core.model import TaskState

from .builders import DIED, FAILED, OK, FakeBot, World, spec
from .dumps import check_deeply, differences, dump

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
DAYS = 365
SEED = 1


class Lab:
    """Two bots, each with its own habits, and people who submit every few hours."""

    def __init__(self) -> None:
        self.world = World(session_deadline_s=2 * DAY_S)
        self.chance = random.Random(SEED)
        self.ops: list[int] = []
        self.bots = {name: self.start(name, 0) for name in ("steady", "weekly")}

    def start(self, name: str, number: int) -> FakeBot:
        return self.world.bot(name, key=f"start-{number}", os="linux")

    def submit(self) -> None:
        roll, world = self.chance.random(), self.world
        if roll < 0.5:
            made = [spec(os="linux", retries=2, retry_wait_s=HOUR_S, priority=self.chance.randrange(3))]
        elif roll < 0.7:
            made = [spec(os="amiga", expiration_s=5 * DAY_S)]
        elif roll < 0.8:
            made = [spec(os="amiga", wait_for_capacity=False)]
        else:
            made = [spec(os="linux"), spec(os="linux", after=[0]), spec(marker=True, after=[0, 1])]
        self.ops += [one.id for one in world.submit_all(made, world.graph() if len(made) > 1 else None)]

    def work(self, bot: FakeBot) -> None:
        for attempt in bot.poll(limit=2):
            self.world.pass_time(self.chance.uniform(1.0, 20.0))
            roll = self.chance.random()
            if roll < 0.9:
                bot.finish(attempt, self.chance.choice((OK, OK, OK, FAILED, DIED)))
            elif roll < 0.95:
                bot.start(attempt)
                self.world.cancel(attempt.task)  # type: ignore[arg-type]


def test_a_year_of_a_small_lab() -> None:
    lab = Lab()
    world = lab.world
    for day in range(DAYS):
        for _ in range(4):
            lab.submit()
            for bot in lab.bots.values():
                lab.work(bot)
            world.pass_time(6 * HOUR_S)
        if day % 7 == 6:
            lab.bots["weekly"] = lab.start("weekly", day)
            check_deeply(world.engine)
            if day % 28 == 27:
                assert not differences(dump(world.loaded()), dump(world.engine))
                world.restart(down_s=HOUR_S)
    world.pass_time(10 * DAY_S)
    check_deeply(world.engine)
    engine = world.engine
    assert not engine.tasks and not engine.attempts and not engine.graphs and not engine.plans
    assert len(engine.task_timers) <= 1_024 and len(engine.other_timers) <= 2
    ends = {world.state(op) for op in lab.ops}  # type: ignore[arg-type]
    assert ends >= {
        TaskState.COMPLETED,
        TaskState.EXPIRED,
        TaskState.NO_RESOURCE,
        TaskState.KILLED,
        TaskState.SKIPPED,
    }
    assert len(lab.ops) > 4 * DAYS
