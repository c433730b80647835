"""How tasks end: retries, both kinds of faults, stops, cancelling, parents and children."""

from __future__ import annotations

import pytest

from swarmd.core.model import Outcome, Share, StopReason, TaskState

from .builders import DIED, FAILED, OK, World, spec

TIMED_OUT = Outcome(ok=False, timed_out=True)


@pytest.mark.parametrize(
    ("retries", "bot_retries", "outcomes", "state"),
    [
        (0, 0, [OK], "COMPLETED"),
        (0, 0, [FAILED], "COMPLETED"),
        (1, 0, [FAILED, OK], "COMPLETED"),
        (1, 0, [FAILED, FAILED], "COMPLETED"),
        (2, 0, [FAILED, TIMED_OUT, TIMED_OUT], "TIMED_OUT"),
        (5, 0, [DIED], "BOT_DIED"),
        (0, 2, [DIED, DIED, DIED], "BOT_DIED"),
        (0, 5, [FAILED], "COMPLETED"),
        (1, 1, [DIED, FAILED, DIED], "BOT_DIED"),
        (1, 1, [DIED, FAILED, FAILED], "COMPLETED"),
        (5, 5, [Outcome(ok=False, client_error=True)], "CLIENT_ERROR"),
        (5, 5, [Outcome(ok=False, canceled=True)], "CANCELED"),
    ],
)
def test_each_kind_of_fault_has_its_own_limit(
    retries: int, bot_retries: int, outcomes: list[Outcome], state: str
) -> None:
    world = World()
    op = world.submit(retries=retries, bot_retries=bot_retries)
    bot = world.bot()
    for number, outcome in enumerate(outcomes, 1):
        attempt = bot.take()
        assert attempt.number == number
        bot.finish(attempt, outcome)
    assert world.state(op).name == state
    final = world.final(op)
    assert final is not None and final[1] == outcomes[-1].ok


def test_a_retry_waits() -> None:
    world = World()
    op = world.submit(retries=1, retry_wait_s=10.0)
    bot = world.bot()
    bot.finish(bot.take(), FAILED)
    assert world.state(op) is TaskState.PENDING and bot.poll() == []
    world.pass_time(9.99)
    assert bot.poll() == []
    bot.wait()
    world.pass_time(0.01)
    assert bot.woken()
    assert [a.number for a in bot.poll()] == [2]


def test_a_retry_wait_goes_on_over_a_restart() -> None:
    world = World()
    op = world.submit(retries=1, retry_wait_s=10.0)
    bot = world.bot()
    bot.finish(bot.take(), FAILED)
    world.pass_time(4.0)
    world.restart(down_s=5.0)
    assert world.task(op).queued is None
    world.pass_time(1.0)
    assert world.task(op).queued is not None


def test_the_loss_of_its_bot_is_a_fault_of_the_bot() -> None:
    world = World()
    op = world.submit(bot_retries=1, retries=0)
    for name in "ab":
        bot = world.bot(name)
        bot.take()
        world.pass_time(60.0)
    assert world.final(op) == (TaskState.BOT_DIED, False, "its bot b is gone: silent for 60 s")


# ------------------------------------------------------------------ stops


def test_canceled_while_it_runs_it_is_killed_when_the_bot_says_so() -> None:
    world = World()
    op = world.submit(retries=3, bot_retries=3)
    bot = world.bot()
    attempt = bot.take()
    bot.wait()
    assert world.cancel(op) and bot.woken()
    (order,) = bot.orders()
    assert (order.kind, order.attempt, order.reason, order.grace_s) == ("stop", attempt.id, "canceled", 30.0)
    assert world.state(op) is TaskState.RUNNING
    assert not world.cancel(op), "twice is one effect"
    bot.finish(attempt, OK)
    final = world.final(op)
    assert final is not None and final[:2] == (TaskState.KILLED, False)


def test_a_stop_that_the_bot_never_confirms_ends_all_the_same() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(grace_s=10.0)
    bot = world.bot()
    bot.take()
    world.cancel(op)
    world.pass_time(3 * 10.0 + 60.0 - 0.1)
    assert world.state(op) is TaskState.RUNNING
    world.pass_time(0.1)
    assert world.final(op) == (TaskState.KILLED, False, "its bot did not report the end of the stop")


def test_a_bot_that_cannot_enforce_limits_gets_just_the_grace() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(grace_s=10.0, hard_limit_s=100.0)
    bot = world.bot(enforces_limits=False)
    bot.take()
    world.pass_time(99.9)
    assert not bot.orders()
    world.pass_time(0.1)
    assert [(o.kind, o.reason) for o in bot.orders()] == [("stop", "hard_limit")]
    world.pass_time(10.0)
    assert world.state(op) is TaskState.TIMED_OUT


def test_the_backstop_fires_only_when_a_bot_does_not_enforce_its_limit() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(grace_s=10.0, hard_limit_s=100.0)
    bot = world.bot()
    bot.take()
    world.pass_time(100.0 + 30.0 + 60.0 - 0.1)
    assert world.state(op) is TaskState.RUNNING and not bot.orders()
    world.pass_time(0.1)
    assert world.final(op) == (TaskState.TIMED_OUT, False, "hard limit, and its bot did not report")


@pytest.mark.parametrize(
    ("first", "state"), [(StopReason.CANCELED, "KILLED"), (StopReason.HARD_LIMIT, "TIMED_OUT")]
)
@pytest.mark.parametrize("end", ["reports", "dies", "silent"])
def test_the_first_reason_names_the_state_even_when_the_bot_dies(
    first: StopReason, state: str, end: str
) -> None:
    world = World()
    op = world.submit(bot_retries=5)
    bot = world.bot()
    attempt = bot.take()
    engine = world.engine
    assert engine.begin_stop(world.now, attempt, first)
    assert not engine.begin_stop(world.now, attempt, StopReason.IO_LIMIT)
    if end == "reports":
        bot.finish(attempt, OK)
    elif end == "dies":
        bot.finish(attempt, DIED)
    else:
        world.pass_time(60.0)
    assert world.state(op).name == state


def test_a_stop_is_not_forgotten_by_a_restart() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(grace_s=10.0)
    bot = world.bot()
    attempt = bot.take()
    world.cancel(op)
    world.pass_time(80.0)
    world.restart(down_s=1_000.0)
    assert [(o.kind, o.attempt, o.reason) for o in bot.orders()] == [("stop", attempt.id, "canceled")]
    world.pass_time(9.9)
    assert world.state(op) is TaskState.RUNNING
    world.pass_time(0.1)
    assert world.state(op) is TaskState.KILLED


def test_limits_do_not_count_the_downtime_of_either_of_two_restarts() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(grace_s=0.0, hard_limit_s=100.0)
    world.bot().take()
    for _ in range(2):
        world.restart(down_s=1_000.0)
        world.submit()  # something is written: the time in the file moves on
        world.write()
    world.pass_time(100.0 + 60.0 - 0.1)
    assert world.state(op) is TaskState.RUNNING
    world.pass_time(0.1)
    assert world.state(op) is TaskState.TIMED_OUT


# ------------------------------------------------------------------ cancelling


def test_canceled_before_it_was_offered() -> None:
    world = World()
    op = world.submit()
    assert world.cancel(op)
    assert world.final(op) == (TaskState.CANCELED, False, "somebody wished so")
    assert not world.cancel(op) and world.bot().poll() == []


def test_canceled_while_it_is_offered() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    (attempt,) = bot.poll()
    assert world.cancel(op)
    assert world.state(op) is TaskState.CANCELED and bot.attempts == []
    assert bot.holds(running=[attempt]) == [attempt.id]
    assert not bot.finish(attempt)


def test_without_kill_what_runs_runs_on() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    attempt = bot.take()
    assert not world.cancel(op, kill=False)
    bot.finish(attempt)
    assert world.state(op) is TaskState.COMPLETED


def test_one_of_two_operations_is_withdrawn_the_task_goes_on() -> None:
    world = World()
    first = world.submit(sameness="k", share=Share.JOIN, priority=5)
    world.look_up()
    second = world.submit(sameness="k", share=Share.JOIN, priority=1)
    assert world.task(second) is world.task(first)
    assert world.task(first).priority == 1
    world.cancel(second)
    assert world.task(first).priority == 5 and world.task(first).ops is None
    bot = world.bot()
    bot.finish(bot.take())
    assert world.states(first, second) == ["COMPLETED", "CANCELED"]


def test_the_first_operation_leaves_and_the_task_ends_with_its_last() -> None:
    world = World()
    first = world.submit(sameness="k", share=Share.JOIN)
    world.look_up()
    second = world.submit(sameness="k", share=Share.JOIN)
    bot = world.bot()
    attempt = bot.take()
    world.cancel(first)
    assert world.state(first) is TaskState.CANCELED and world.state(second) is TaskState.RUNNING
    assert world.engine.op_name(attempt) == second
    world.restart()
    assert world.state(second) is TaskState.RUNNING and world.engine.task_of(first) is None
    world.cancel(second)
    bot.finish(attempt)
    assert world.states(first, second) == ["CANCELED", "KILLED"]


# ------------------------------------------------------------------ parents


@pytest.mark.parametrize("how", ["finishes", "is canceled", "loses its bot"])
def test_children_end_with_their_parent(how: str) -> None:
    world = World()
    parent = world.submit(bot_retries=0)
    bot = world.bot("p", slots=2)
    attempt = bot.take()
    waiting, running = world.submit(parent=parent, x="y"), world.submit(parent=parent)
    child = bot.take()
    grandchild = world.submit(parent=waiting, x="y")
    if how == "finishes":
        bot.finish(attempt)
    elif how == "is canceled":
        world.cancel(parent)
        bot.finish(attempt)
    else:
        bot.holds(running=[child])
    assert world.states(waiting, grandchild) == ["CANCELED", "CANCELED"]
    assert world.reason(waiting) == "its parent ended"
    assert child.stop is not None and world.state(running) is TaskState.RUNNING
    bot.finish(child)
    assert world.state(running) is TaskState.KILLED


@pytest.mark.parametrize("how", ["replaced", "silent", "forgetful", "past its limit"])
def test_a_child_offered_to_the_bot_of_its_parent_goes_with_it(how: str) -> None:
    """The bot loses both at one moment: the end of the parent has canceled the child by the time it is its turn."""
    world = World(accept_s=201, session_deadline_s=60 if how == "silent" else 500)
    parent = world.submit(bot_retries=0, hard_limit_s=200.0, grace_s=1.0)
    bot = world.bot("p", slots=2, enforces_limits=False)
    bot.take()
    child = world.submit(parent=parent)
    assert [a.task for a in bot.poll()] == [child]
    if how == "replaced":
        world.bot("p", key="another start")
    elif how == "silent":
        world.pass_time(60)
    elif how == "forgetful":
        bot.holds()
    else:
        world.pass_time(201)
    assert world.state(parent).is_final and world.states(child) == ["CANCELED"]
    world.engine.check()


def test_a_child_that_would_not_wait_ends_with_a_parent_that_would_not_either() -> None:
    """Both are passed over at one moment: the end of the parent has canceled the child by the time it is its turn."""
    world = World()
    bot = world.bot(os="linux")
    parent = world.submit(os="linux", wait_for_capacity=False)
    child = world.submit(parent=parent, os="linux", wait_for_capacity=False)
    bot.change(quarantine="the disk is full")
    world.pass_time(world.settings.bot_back_s + 1)
    assert world.states(parent, child) == ["NO_RESOURCE", "CANCELED"]
    world.engine.check()


def test_children_live_through_a_retry_of_their_parent() -> None:
    world = World()
    parent = world.submit(retries=1)
    bot = world.bot()
    attempt = bot.take()
    child = world.submit(parent=parent, x="y")
    bot.finish(attempt, FAILED)
    assert world.states(parent, child) == ["PENDING", "PENDING"]


def test_after_a_restart_children_still_end_with_their_parent() -> None:
    world = World()
    parent = world.submit()
    child = world.submit(parent=parent, x="y")
    world.restart()
    bot = world.bot()
    bot.finish(bot.take())
    assert world.states(parent, child) == ["COMPLETED", "CANCELED"]


def test_a_chain_of_any_length_ends_without_deep_recursion() -> None:
    world = World()
    chain = [spec(after=[n - 1] if n else []) for n in range(20_000)]
    ops = [s.id for s in world.submit_all(chain)]
    world.cancel(ops[0])
    assert not world.engine.tasks
    assert world.states(ops[0], ops[1], ops[-1]) == ["CANCELED", "SKIPPED", "SKIPPED"]
