"""Order, and the index that knows who could take what."""

from __future__ import annotations

from swarmd.core.dimensions import canonical
from swarmd.core.queue import KEPT, Matching, RequirementSet

from .builders import World


def test_priority_first_then_age() -> None:
    world = World()
    late, early, urgent = world.submit(priority=5), world.submit(priority=5), world.submit(priority=-1)
    bot = world.bot()
    assert [a.task for a in bot.poll(limit=9)] == [urgent, late, early]


def test_order_holds_over_several_requirement_sets() -> None:
    world = World()
    tasks = [
        world.submit(**needs)
        for needs in ({"os": "linux"}, {}, {"gpu": "a10"}, {"os": "linux", "gpu": "a10"})
    ]
    bot = world.bot(os="linux", gpu="a10")
    assert [a.task for a in bot.poll(limit=9)] == tasks


def test_a_bot_gets_only_what_it_satisfies() -> None:
    world = World()
    world.submit(os="mac")
    either = world.submit(os="linux|mac")
    assert [a.task for a in world.bot(os="linux").poll(limit=9)] == [either]


def test_a_set_that_appears_later_finds_the_bots_there_are() -> None:
    world = World()
    linux, mac = world.bot("l", os="linux"), world.bot("m", os="mac")
    task = world.submit(os="amiga|mac")
    assert linux.poll() == [] and [a.task for a in mac.poll()] == [task]


def test_a_bot_whose_dimensions_change_matches_other_tasks() -> None:
    world = World()
    task = world.submit(os="mac")
    bot = world.bot(os="linux")
    assert bot.poll() == []
    bot.dimensions = {"os": ["mac"]}
    bot.open()
    assert [a.task for a in bot.poll()] == [task]
    bot.dimensions = {"os": ["linux"]}
    bot.open()
    world.submit(os="mac")
    assert bot.poll() == []


def test_plans_go_with_their_last_task() -> None:
    world = World()
    bot = world.bot(os="linux")
    world.submit(os="linux"), world.submit(os="linux")
    engine = world.engine
    assert len(engine.matching.sets) == len(engine.plans) == 1
    bot.finish(bot.take())
    assert len(engine.plans) == 1 and not engine.matching.unused
    bot.finish(bot.take())
    assert not engine.plans
    assert [s.requirements for s in engine.matching.unused.values()] == list(engine.matching.sets)


def test_a_task_like_the_last_one_is_not_compared_with_all_bots_again(monkeypatch) -> None:
    """It cost 45 ms with 10,000 bots, for each task that came to an empty queue."""
    compared = []
    pair = Matching._pair
    monkeypatch.setattr(Matching, "_pair", staticmethod(lambda s, bot: (compared.append(bot), pair(s, bot))))
    world = World()
    bots = [world.bot(f"b{n}", os="linux") for n in range(20)]
    for bot in bots[:3]:
        world.submit(os="linux")
        bot.finish(bot.take())
    assert len(compared) == 20
    late = world.bot("late", os="linux")
    world.submit(os="linux")
    late.finish(late.take())
    bots[0].close()
    world.engine.check()


def test_unused_sets_are_forgotten_when_they_are_many() -> None:
    world = World()
    bot = world.bot()
    bot.dimensions = {"build": [str(n) for n in range(2 * KEPT)]}
    bot.open()
    for n in range(2 * KEPT):
        world.submit(build=str(n))
        bot.finish(bot.take())
    matching = world.engine.matching
    assert len(matching.unused) == len(matching.sets) == len(bot.it.satisfies) == KEPT
    assert len(matching.sets_by_pivot) == KEPT
    assert [dict(requirements)["build"] for requirements in matching.unused] == [
        (str(n),) for n in range(KEPT, 2 * KEPT)
    ]
    world.submit(build=str(KEPT))  # the oldest of those that are left: it is in use again
    world.submit(build="0")
    assert len(matching.sets) == KEPT + 1


def test_position_counts_those_before() -> None:
    world = World()
    ops = [world.submit(priority=p) for p in (1, 0, 1)]
    found = world.task(ops[0]).queued
    assert found is not None
    assert [found.position(world.task(op), world.engine.tasks) for op in ops] == [1, 0, 2]


def test_stale_entries_are_dropped_when_they_are_many() -> None:
    world = World()
    ops = [world.submit() for _ in range(1_000)]
    found = world.task(ops[0]).queued
    assert found is not None
    for op in ops[1:]:
        world.cancel(op)
    assert found.count == 1 and found.entries <= 256 + 4 + 1
    assert sum(map(len, found.heaps.values())) == found.entries
    world.engine.check()


def test_a_task_that_comes_back_keeps_its_age() -> None:
    world = World()
    first, second = world.submit(), world.submit()
    bot = world.bot()
    (attempt,) = bot.poll()
    bot.holds()
    assert attempt.task == first
    assert [a.task for a in bot.poll(limit=2)] == [first, second]


def test_a_set_is_found_by_what_fewest_bots_have() -> None:
    def pivot(**dimensions: str) -> tuple[str, tuple[str, ...]]:
        needs = canonical({key: [value] for key, value in dimensions.items()}, "lab", ["command"])
        return RequirementSet(needs).pivot

    assert pivot() == ("pool", ("lab",)), "a command is what nearly all bots can run, in whatever pool"
    assert pivot(zone="1") == ("zone", ("1",))
    assert pivot(cpu="a|b", gpu="a10") == ("gpu", ("a10",))
    assert pivot(arm="x", id="b7") == ("id", ("b7",))
