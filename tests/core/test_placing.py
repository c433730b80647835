"""Slices, capacity, and who is woken."""

from __future__ import annotations

import pytest

from swarmd.core.model import TaskState
from swarmd.core.submitting import SliceSpec

from .builders import FAILED, START, World

# ------------------------------------------------------------------ slices


def slices(*expirations: float, patient: bool = True) -> list[SliceSpec]:
    return [SliceSpec({"os": [f"os{n}"]}, e, patient) for n, e in enumerate(expirations)]


def test_nobody_takes_it_in_time() -> None:
    world = World()
    task = world.submit(expiration_s=10.0)
    world.pass_time(9.999)
    assert world.state(task) is TaskState.PENDING
    world.pass_time(0.001)
    assert world.final(task) == (TaskState.EXPIRED, False, "no bot started it within 10 s")


@pytest.mark.parametrize(("carry", "second_due"), [(False, START + 30.0), (True, START + 30.0)])
def test_each_slice_has_its_own_expiration(carry: bool, second_due: float) -> None:
    """A slice that ran out has nothing left to carry."""
    world = World()
    op = world.submit(slices=slices(10.0, 20.0), carry_time=carry)
    world.pass_time(10.0)
    assert (world.task(op).slice, world.task(op).due_at) == (1, second_due)
    world.pass_time(20.0)
    assert world.reason(op) == "no bot started it within 30 s"


@pytest.mark.parametrize(
    ("carry", "due_at"), [(False, START + 60.0 + 20.0), (True, START + 60.0 + 20.0 + 40.0)]
)
def test_time_that_a_skipped_slice_did_not_use_goes_to_the_next(carry: bool, due_at: float) -> None:
    world = World()
    parts = [SliceSpec({"os": ["none"]}, 100.0, wait_for_capacity=False), SliceSpec({}, 20.0)]
    op = world.submit(slices=parts, carry_time=carry)
    world.pass_time(60.0)  # bot_back_s after the start
    assert (world.task(op).slice, world.task(op).due_at) == (1, due_at)


def test_the_expiration_stands_still_while_it_is_offered() -> None:
    world = World()
    op = world.submit(expiration_s=20.0)
    bot = world.bot()
    world.pass_time(15.0)
    (attempt,) = bot.poll()
    assert attempt.remaining_s == 5.0
    world.pass_time(29.0)
    bot.seen()
    bot.holds()  # declined
    world.pass_time(4.9)
    assert world.state(op) is TaskState.PENDING
    world.pass_time(0.1)
    assert world.state(op) is TaskState.EXPIRED


def test_a_retry_begins_its_slice_anew() -> None:
    world = World()
    op = world.submit(expiration_s=20.0, retries=1)
    bot = world.bot()
    world.pass_time(15.0)
    attempt = bot.take()
    bot.finish(attempt, FAILED)
    assert world.task(op).due_at == world.now + 20.0


# ------------------------------------------------------------------ capacity


def test_without_capacity_an_impatient_task_ends_but_not_right_after_the_start() -> None:
    world = World()
    op = world.submit(os="mac", wait_for_capacity=False)
    world.pass_time(59.9)
    assert world.state(op) is TaskState.PENDING
    world.pass_time(0.1)
    assert world.final(op) == (
        TaskState.NO_RESOURCE, False, "no bot has ever connected: start one with swarmd bot"
    )  # fmt: skip
    later = world.submit(os="mac", wait_for_capacity=False)
    world.act()
    assert world.state(later) is TaskState.NO_RESOURCE


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "PENDING"),
        ({"maintenance": "new fan"}, "PENDING"),
        ({"order": "restart"}, "PENDING"),
        ({"order": "update"}, "PENDING"),
        ({"order": "terminate"}, "NO_RESOURCE"),
        ({"drain": True}, "NO_RESOURCE"),
        ({"quarantine": "bad disk"}, "NO_RESOURCE"),
    ],
)
def test_which_bots_are_capacity(change: dict[str, object], state: str) -> None:
    """One that is told to restart or update comes back: it is capacity."""
    world = World()
    bot = world.bot()
    world.pass_time(59.0)
    bot.seen()
    world.pass_time(2.0)
    if change:
        bot.change(**change)
    op = world.submit(wait_for_capacity=False)
    world.act()
    assert world.state(op).name == state


def test_a_busy_bot_is_capacity() -> None:
    world = World()
    bot = world.bot()
    world.submit()
    bot.take()
    op = world.submit(wait_for_capacity=False)
    world.pass_time(59.0)
    bot.seen()
    world.pass_time(5.0)
    assert world.state(op) is TaskState.PENDING


def test_a_bot_is_capacity_for_a_while_after_its_session_ended() -> None:
    world = World(bot_back_s=100.0, session_deadline_s=1_000.0)
    bot = world.bot()
    world.pass_time(200.0)
    bot.close()
    op = world.submit(wait_for_capacity=False)
    world.pass_time(99.9)
    assert world.state(op) is TaskState.PENDING
    world.pass_time(0.1)
    assert world.state(op) is TaskState.NO_RESOURCE


def test_a_bot_that_comes_back_in_time_stays_capacity() -> None:
    world = World(bot_back_s=100.0, session_deadline_s=1_000.0)
    bot = world.bot()
    world.pass_time(200.0)
    bot.close()
    op = world.submit(wait_for_capacity=False)
    world.pass_time(50.0)
    bot.open()
    world.pass_time(500.0)
    assert world.state(op) is TaskState.PENDING


def test_a_bot_that_loses_a_dimension_takes_its_capacity_along() -> None:
    world = World(session_deadline_s=1_000.0)
    bot = world.bot(os="mac")
    world.pass_time(100.0)
    op = world.submit(os="mac", wait_for_capacity=False)
    bot.dimensions = {"os": ["linux"]}
    bot.open()
    world.act()
    assert world.state(op) is TaskState.NO_RESOURCE


def test_a_deleted_bot_is_no_capacity() -> None:
    world = World()
    bot = world.bot()
    world.pass_time(61.0)
    bot.it.back_until = world.now + 1_000
    op = world.submit(wait_for_capacity=False)
    world.engine.delete_bot(world.now, bot.name)
    world.act()
    assert world.state(op) is TaskState.NO_RESOURCE


def test_the_next_slice_is_tried_when_there_is_no_capacity() -> None:
    world = World(session_deadline_s=1_000.0)
    bot = world.bot(os="linux")
    world.pass_time(100.0)
    parts = [SliceSpec({"os": [os]}, 50.0, wait_for_capacity=False) for os in ("amiga", "mac", "linux")]
    op = world.submit(slices=parts)
    world.act()
    assert world.task(op).slice == 2
    assert [a.task for a in bot.poll()] == [op]


# ------------------------------------------------------------------ waking


def test_a_new_task_wakes_exactly_one() -> None:
    world = World()
    bots = [world.bot(name) for name in "abc"]
    assert not any(bot.wait() for bot in bots)
    world.submit()
    assert world.engine.take_woken() == [bots[0].session]


def test_who_runs_least_is_woken_then_who_waits_longest() -> None:
    world = World()
    busy, late, later = (world.bot(name) for name in "abc")
    world.submit()
    busy.take()
    busy.wait()
    for bot in (late, later):
        world.now += 1.0
        bot.wait()
    woken = []
    for _ in range(3):
        world.submit()
        woken += world.engine.take_woken()
    assert woken == [late.session, later.session, busy.session]


def test_a_bot_that_cannot_take_it_sleeps_on() -> None:
    world = World()
    linux, mac = world.bot("l", os="linux"), world.bot("m", os="mac")
    linux.wait(), mac.wait()
    world.submit(os="mac")
    assert world.engine.take_woken() == [mac.session]


def test_a_session_is_woken_for_as_many_as_it_would_take() -> None:
    world = World()
    wide, narrow = world.bot("w"), world.bot("n")
    wide.wait(free=2), narrow.wait(free=1)
    for _ in range(3):
        world.submit()
    assert wide.open_session.woken == 2 and narrow.open_session.woken == 1
    assert world.engine.take_woken() == [wide.session, narrow.session]
    assert world.engine.unwait(wide.session) == 2
    assert len(wide.poll(limit=2)) == 2


def test_when_a_handler_is_gone_the_next_is_woken() -> None:
    world = World()
    first, second = world.bot("a"), world.bot("b")
    first.wait(), second.wait()
    world.submit()
    assert first.woken()
    assert world.engine.unwait(first.session) == 1
    world.engine.pass_on(first.session)
    assert second.woken()


def test_a_woken_session_that_ends_passes_its_wake_on() -> None:
    world = World()
    first, second = world.bot("a"), world.bot("b")
    first.wait(), second.wait()
    world.submit()
    assert first.woken()
    first.close()
    assert second.woken()


def test_a_woken_session_whose_bot_changes_its_dimensions_passes_its_wake_on() -> None:
    world = World()
    first, second = world.bot("a", os="mac"), world.bot("b", os="mac")
    first.wait(), second.wait()
    world.submit(os="mac")
    assert first.woken()
    first.dimensions = {"os": ["linux"]}
    first.open()
    assert second.woken()


def test_a_waiting_bot_that_gets_new_dimensions_is_woken_for_what_is_queued() -> None:
    world = World()
    bot = world.bot(os="linux")
    task = world.submit(os="mac")
    assert not bot.wait()
    bot.dimensions = {"os": ["mac"]}
    bot.open()
    assert bot.woken()
    world.engine.unwait(bot.session)
    assert [a.task for a in bot.poll()] == [task]


def test_a_woken_bot_that_is_drained_passes_its_wake_on() -> None:
    world = World()
    first, second = world.bot("a"), world.bot("b")
    first.wait(), second.wait()
    world.submit()
    assert first.woken()
    first.change(drain=True)
    assert set(world.engine.take_woken()) == {first.session, second.session}


def test_who_comes_when_work_is_there_does_not_wait() -> None:
    world = World()
    world.submit()
    bot = world.bot()
    assert bot.wait() is True
    assert bot.wait(free=0) is False
    assert bot.open_session.bucket == -1


def test_who_finds_its_task_taken_waits_again() -> None:
    world = World()
    sleeper = world.bot("a")
    sleeper.wait()
    world.submit()
    assert len(world.bot("b").poll()) == 1
    assert sleeper.woken()
    world.engine.unwait(sleeper.session)
    assert sleeper.poll() == [] and sleeper.wait() is False
    world.submit()
    assert sleeper.woken()


def test_a_task_that_comes_back_wakes_somebody() -> None:
    world = World()
    holder, waiter = world.bot("a"), world.bot("b")
    op = world.submit()
    holder.take()
    waiter.wait()
    holder.close()
    assert waiter.woken()
    world.engine.unwait(waiter.session)
    assert [a.number for a in waiter.poll()] == [2]
    assert world.state(op) is TaskState.PENDING


def test_few_able_bots_among_many_waiting_are_found() -> None:
    """Both ways of looking for a session give one that can take the task."""
    world = World()
    many = [world.bot(f"l{n}", os="linux") for n in range(5)]
    mac = world.bot("m", os="mac")
    for bot in (*many, mac):
        bot.wait()
    world.submit(os="mac")
    assert world.engine.take_woken() == [mac.session]
    world.submit(os="linux|mac")
    assert world.engine.take_woken() == [many[0].session]
