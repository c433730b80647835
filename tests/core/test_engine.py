"""The engine as a whole: time, changes, counts, and coming back from the file."""

from __future__ import annotations

from swarmd.core.model import BotId, Share, TaskState

from .builders import FAILED, OK, START, World, ended, spec
from .dumps import check_deeply, differences, dump


def test_next_due_is_the_moment_at_which_something_happens() -> None:
    world = World()
    assert world.engine.next_due() == float("inf")
    op = world.submit(expiration_s=12.345678)
    due = world.engine.next_due()
    assert due == START + 12.345678
    world.engine.due(due - 1e-5)
    assert world.state(op) is TaskState.PENDING
    world.engine.due(due)
    assert world.state(op) is TaskState.EXPIRED
    assert world.engine.next_due() == float("inf")


def test_what_is_due_together_happens_oldest_first() -> None:
    world = World()
    ops = [world.submit(expiration_s=10.0) for _ in range(5)]
    world.write()
    world.pass_time(10.0)
    assert list(world.engine.take_changes().finals) == ops


def test_timers_of_what_has_moved_on_mean_nothing() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=10.0)
    world.bot().take()
    world.pass_time(1_000.0)
    assert world.state(op) is TaskState.RUNNING


def test_timers_are_bounded_by_what_is_alive() -> None:
    world = World(max_drops=10**6, session_deadline_s=1e6)
    world.submit()
    bot = world.bot()
    for _ in range(3_000):
        bot.poll()
        bot.holds()
    assert len(world.engine.task_timers) <= 1_025


def test_each_change_is_handed_over_once() -> None:
    world = World()
    world.submit()
    version = world.engine.version
    changes = world.engine.take_changes()
    assert changes and len(changes.tasks_added) == 1 and version > 0
    assert not world.engine.take_changes()
    assert world.engine.version == version


def test_everything_that_changes_the_file_changes_the_version() -> None:
    world = World()
    bot = world.bot()
    op = world.submit()
    steps = [
        lambda: bot.poll(),
        lambda: bot.start(world.engine.attempts[bot.attempts[0]]),
        lambda: world.engine.report_output(world.now, world.engine.attempts[bot.attempts[0]], "out", 0, b"x"),
        lambda: world.submit(os="x", after=[op]),
        lambda: world.graph(is_open=True),
        lambda: bot.change(drain=True),
        lambda: bot.finish(world.engine.attempts[bot.attempts[0]]),
        lambda: bot.close(),
        lambda: world.engine.delete_bot(world.now, bot.name),
    ]
    for number, step in enumerate(steps):
        before = world.engine.version
        world.engine.take_changes()
        step()
        assert world.engine.version > before, number
        assert world.engine.take_changes(), number


def test_counts() -> None:
    world = World()
    world.submit(), world.submit(after=[world.submit()]), world.submit()
    world.bot("a").take()
    world.bot("b").change(drain=True)
    world.bot("c").close()
    world.bot("d")
    assert world.engine.counts() == (
        {"BLOCKED": 1, "PENDING": 2, "RUNNING": 1}, {"busy": 1, "draining": 1, "dead": 1, "idle": 1}
    )  # fmt: skip


def test_a_world_with_a_bit_of_everything_comes_back_from_the_file() -> None:
    world = World()
    bot = world.bot("a", slots=5, os="linux")
    world.bot("q").change(quarantine="bad disk")
    world.bot("gone").close()
    running, retried, stopped = (world.submit(os="linux", retries=1, retry_wait_s=50.0) for _ in range(3))
    attempts = [bot.take() for _ in range(3)]
    bot.finish(attempts[1], FAILED)
    world.cancel(stopped)
    world.engine.report_output(world.now, attempts[0], "out", 0, b"hello")
    world.submit(os="linux")
    bot.poll(key="offered")
    graph = world.graph(is_open=True)
    world.submit_all([spec(os="x"), spec(after=[ended(0)]), spec(after=[0, 1], sameness="k")], graph)
    first = world.submit(sameness="s", os="y")
    world.submit(sameness="s", share=Share.JOIN, priority=-3, os="y")
    world.submit(parent=running, os="z")
    world.cancel(first)
    assert not differences(dump(world.loaded()), dump(world.engine))
    world.restart(down_s=30.0)
    check_deeply(world.engine)
    assert world.states(running, retried, stopped) == ["RUNNING", "PENDING", "RUNNING"]
    assert world.task(retried).due_at == START + 50.0, "retry waits count the time the daemon was down"
    left = world.engine.attempts[attempts[0].id]
    assert left.limit_due_at == attempts[0].limit_due_at + 30.0, "limits do not"
    assert world.engine.bots[BotId("q")].quarantined == "bad disk"


def test_the_same_calls_give_the_same_state() -> None:
    def story() -> World:
        world = World()
        bots = [world.bot(name) for name in "abc"]
        for bot in bots:
            bot.wait()
        world.submit_all([spec(priority=n % 3, after=[n - 1] if n % 4 == 3 else []) for n in range(20)])
        for bot in bots:
            world.engine.unwait(bot.session)
            for attempt in bot.poll(limit=4):
                bot.finish(attempt, FAILED if attempt.id % 2 else OK)
        world.pass_time(100.0)
        return world

    one, other = story(), story()
    assert dump(one.engine) == dump(other.engine)
    assert one.engine.take_woken() == other.engine.take_woken()
