"""Termination tasks: a bot that has one gets nothing else, ends when nothing runs there, and that is its outcome."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.core.errors import Refused
from swarmd.core.features import NATIVE, TERMINATE
from swarmd.core.model import BotId, OpId, Outcome, TaskState, Work
from swarmd.core.submitting import SliceSpec
from swarmd.store.queries import ops_by_id

from .builders import FAILED, FakeBot, World

END = Work(terminate=True, hard_limit_s=100.0, grace_s=0.0)


def terminate(world: World, bot: str = "b", **fields: Any) -> OpId:
    """Submits a termination task for a bot."""
    fields = {"bot_retries": 0, "expiration_s": 1_000.0, **fields}
    return world.submit(work=END, pool="", dimensions={"id": [bot]}, **fields)


def ended_bot(world: World, bot: FakeBot) -> OpId:
    """A termination task that its bot was handed and has started."""
    op = terminate(world)
    bot.take()
    assert world.state(op) is TaskState.RUNNING
    return op


# ------------------------------------------------------------------ when it is handed out


def test_it_comes_before_everything_whatever_its_priority() -> None:
    world = World()
    bot = world.bot(slots=4)
    other = world.submit(priority=-100)
    op = terminate(world, priority=100)
    (attempt,) = bot.poll(4)
    assert attempt.task == op and attempt.ends_bot
    assert bot.poll(4) == [] and world.state(other) is TaskState.PENDING


def test_a_busy_bot_is_drained_first() -> None:
    world = World()
    bot = world.bot(slots=3)
    runs, queued = world.submit(), world.submit()
    first, _ = bot.poll(2)
    bot.start(first)
    op = terminate(world)
    assert bot.poll() == [] and [o.kind for o in bot.orders()] == ["drain"]
    world.submit(priority=-5)
    assert bot.poll() == []
    bot.holds([first])  # gives back what waits there
    assert world.state(queued) is TaskState.PENDING and bot.poll() == []
    bot.finish(first)
    (attempt,) = bot.poll()
    assert attempt.task == op and world.states(runs, queued) == ["COMPLETED", "PENDING"]


@pytest.mark.parametrize(
    "why",
    [
        {"drain": True},
        {"quarantine": "bad disk"},
        {"maintenance": "new disk"},
        {"order": "restart"},
        {"order": "terminate"},
    ],
)
def test_a_bot_that_takes_no_work_can_end_all_the_same(why: dict[str, Any]) -> None:
    world = World()
    bot = world.bot()
    bot.change(**why)
    op = terminate(world)
    (attempt,) = bot.poll()
    assert attempt.task == op


def test_it_needs_no_free_slot() -> None:
    world = World()
    bot = world.bot()
    terminate(world)
    assert bot.wait(free=0)
    assert len(bot.poll(limit=0)) == 1


def test_only_its_own_bot_gets_it() -> None:
    world = World()
    other = world.bot("other")
    op = terminate(world)
    assert other.poll() == [] and not other.wait()
    assert world.explain(op)[0] == "no_bot_matches"


def test_it_waits_for_a_bot_that_is_not_connected_and_ends_its_next_life() -> None:
    world = World()
    world.bot().close()
    op = terminate(world)
    world.pass_time(500.0)
    bot = world.bot(key="start-2")
    bot.take()
    bot.close()
    assert world.final(op) == (TaskState.COMPLETED, True, "")


def test_nobody_takes_it() -> None:
    world = World()
    op = terminate(world)
    world.pass_time(1_000.0)
    assert world.state(op) is TaskState.EXPIRED


def test_the_bots_are_told_when_it_comes_and_when_it_goes() -> None:
    world = World()
    bot = world.bot()
    assert not bot.wait()
    op = terminate(world)
    assert bot.woken() and not world.engine.waiting
    world.engine.unwait(bot.session)
    world.cancel(op)
    assert bot.woken() and bot.it.takes_work


def test_what_a_bot_was_woken_for_goes_to_another_one() -> None:
    world = World()
    first, second = world.bot("b"), world.bot("c")
    assert not first.wait() and not second.wait()
    world.submit()
    assert (first.open_session.woken, second.open_session.woken) == (1, 0)
    terminate(world)
    assert (first.open_session.woken, second.open_session.woken) == (0, 1)


def test_a_held_call_is_woken_when_the_last_task_of_a_draining_bot_is_gone() -> None:
    world = World()
    bot = world.bot(slots=2)
    world.submit()
    bot.poll()
    terminate(world)
    assert not bot.wait()
    world.engine.take_woken()
    world.pass_time(30.0)  # it never started what it was offered
    assert bot.woken() and bot.wait()


def test_a_bot_that_is_to_end_is_no_capacity() -> None:
    world = World()
    world.pass_time(61.0)
    bot = world.bot(slots=2)
    world.submit()
    first = bot.take()
    op = terminate(world)
    impatient = world.submit(wait_for_capacity=False)
    world.pass_time(0.0)
    assert world.state(impatient) is TaskState.NO_RESOURCE
    bot.finish(first)
    bot.take()
    impatient = world.submit(wait_for_capacity=False)
    world.pass_time(0.0)
    assert world.states(op, impatient) == ["RUNNING", "NO_RESOURCE"]


def test_an_impatient_task_is_passed_over_when_its_bot_is_to_end() -> None:
    world = World()
    world.pass_time(61.0)
    bot = world.bot()
    world.submit()
    bot.take()
    impatient = world.submit(wait_for_capacity=False)
    world.pass_time(0.0)
    assert world.state(impatient) is TaskState.PENDING
    terminate(world)
    world.pass_time(0.0)
    assert world.state(impatient) is TaskState.NO_RESOURCE


def test_an_impatient_termination_has_its_bot() -> None:
    world = World()
    world.pass_time(61.0)
    bot = world.bot()
    world.submit()
    first = bot.take()
    op = terminate(world, wait_for_capacity=False)
    world.pass_time(0.0)
    bot.finish(first)
    bot.take()
    assert world.state(op) is TaskState.RUNNING


# ------------------------------------------------------------------ how it ends


def test_a_goodbye_completes_it() -> None:
    world = World()
    bot = world.bot()
    op = ended_bot(world, bot)
    assert [o.kind for o in bot.orders()] == ["terminate"]
    bot.close()
    assert world.final(op) == (TaskState.COMPLETED, True, "")
    row = ops_by_id(world.file, [op])[op]
    assert (row.exit_code, row.bot, row.pool) == (0, "b", "")
    assert bot.it.status == "dead"


def test_a_confirmation_completes_it_and_is_a_goodbye() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    (attempt,) = bot.poll()
    assert bot.finish(attempt)
    assert world.state(op) is TaskState.COMPLETED and bot.session not in world.engine.sessions
    assert bot.it.status == "dead" and not bot.finish(attempt)
    other = world.submit()
    assert world.bot(key="start-2").take().task == other


def test_a_bot_that_refuses_to_end_goes_on() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    (attempt,) = bot.poll()
    bot.finish(attempt, FAILED)
    assert world.final(op) == (TaskState.COMPLETED, False, "") and bot.it.takes_work


def test_a_bot_that_vanishes_when_it_was_told_has_died_and_its_next_life_is_spared() -> None:
    world = World()
    bot = world.bot()
    op = ended_bot(world, bot)
    world.pass_time(61.0)
    assert world.final(op) == (TaskState.BOT_DIED, False, "its bot b is gone: silent for 60 s")
    other = world.submit()
    assert world.bot(key="start-2").take().task == other


def test_a_bot_that_comes_back_when_it_was_told_has_not_ended() -> None:
    world = World()
    op = ended_bot(world, world.bot())
    again = world.bot(key="start-2")
    assert world.state(op) is TaskState.BOT_DIED and again.it.takes_work


def test_a_restart_of_the_daemon_meanwhile_does_not_end_the_next_life() -> None:
    """What else a bot lost by a restart is tried again in any case."""
    world = World()
    op = ended_bot(world, world.bot())
    world.restart()
    again = world.bot(key="start-2")
    assert world.state(op) is TaskState.BOT_DIED and again.it.takes_work


def test_a_bot_that_vanishes_before_it_was_told_is_told_when_it_comes_back() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    bot.poll()
    bot.close("it was stopped by a person")
    assert world.state(op) is TaskState.PENDING
    again = world.bot(key="start-2")
    assert again.take().task == op


def test_a_bot_that_lives_and_does_not_end_is_given_up_and_gets_work_again() -> None:
    world = World()
    bot = world.bot()
    other = world.submit()
    op = terminate(world)
    attempt = bot.take()
    assert attempt.limit_due_at == world.now + 100.0 + world.settings.stop_margin_s
    for _ in range(4):
        world.pass_time(40.0)
        bot.seen()
        bot.holds([attempt] if world.engine.attempts else [])
    assert world.state(op) is TaskState.TIMED_OUT and bot.woken()
    assert bot.take().task == other


# ------------------------------------------------------------------ canceled


@pytest.mark.parametrize("handed_out", [False, True])
def test_it_is_canceled_before_the_bot_was_told(handed_out: bool) -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    if handed_out:
        bot.poll()
    world.cancel(op, kill=False)
    other = world.submit()
    assert world.state(op) is TaskState.CANCELED and bot.take().task == other


def test_killed_when_the_bot_was_told_and_the_bot_ends_all_the_same() -> None:
    world = World()
    bot = world.bot()
    op = ended_bot(world, bot)
    assert not world.cancel(op, kill=False) and world.cancel(op)
    assert bot.orders() == [], "the order is taken back; the attempt means nothing to a native bot"
    bot.close()
    assert world.state(op) is TaskState.KILLED


def test_killed_when_the_bot_was_told_and_the_bot_goes_on() -> None:
    world = World()
    bot = world.bot()
    op = ended_bot(world, bot)
    attempt = world.task(op).attempt
    assert attempt is not None
    world.cancel(op)
    for _ in range(2):
        world.pass_time(30.0)
        bot.seen()
    assert world.state(op) is TaskState.KILLED and bot.it.takes_work


def test_children_of_a_termination_task_end_with_it() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    child = world.submit(parent=op)
    bot.take()
    bot.close()
    assert world.states(op, child) == ["COMPLETED", "CANCELED"]


# ------------------------------------------------------------------ which one there is


def test_the_unfinished_one_is_found() -> None:
    world = World()
    bot = world.bot()
    named = world.engine.termination_of
    assert named(BotId("b")) is None and named(BotId("nobody")) is None
    op = terminate(world)
    assert named(BotId("b")) is world.task(op)
    (attempt,) = bot.poll()
    assert named(BotId("b")) is world.task(op)
    bot.start(attempt)
    assert named(BotId("b")) is world.task(op)
    world.cancel(op)
    assert named(BotId("b")) is None, "what is being killed may not be waited for"
    bot.close()
    assert named(BotId("b")) is None


def test_one_is_found_for_a_bot_that_is_away_and_after_a_restart() -> None:
    world = World()
    world.bot().close()
    op = terminate(world)
    world.restart()
    found = world.engine.termination_of(BotId("b"))
    assert found is not None and found.id == op


@pytest.mark.parametrize("down_s", [0.0, 1_000.0])
@pytest.mark.parametrize("moment", ["queued", "offered", "told", "draining"])
def test_a_restart_of_the_daemon_changes_nothing(moment: str, down_s: float) -> None:
    world = World()
    bot = world.bot(slots=2)
    busy = world.submit() if moment == "draining" else None
    runs = bot.take() if busy is not None else None
    op = terminate(world, expiration_s=86_400.0)
    attempt = bot.poll(key="p")[0] if moment in ("offered", "told") else None
    if moment == "told" and attempt is not None:
        bot.start(attempt)
    world.restart(down_s)
    assert [o.kind for o in bot.orders()] == {
        "queued": ["drain"], "offered": [], "told": ["terminate"], "draining": ["drain"],
    }[moment]  # fmt: skip
    assert not bot.it.takes_work
    if runs is not None:
        assert bot.poll() == []
        bot.finish(world.engine.attempts[runs.id])
    if moment in ("queued", "draining"):
        (attempt,) = bot.poll()
    elif moment == "offered":
        (attempt,) = bot.poll(key="p")
    if attempt is not None:
        bot.start(world.engine.attempts[attempt.id])
    bot.close()
    assert world.state(op) is TaskState.COMPLETED


# ------------------------------------------------------------------ what one may be


@pytest.mark.parametrize(
    ("dimensions", "pool"),
    [({"id": ["b"]}, "default"), ({}, ""), ({"os": ["linux"]}, ""), ({"id": ["b"], "os": ["linux"]}, "")],
)
def test_it_requires_its_bot_and_nothing_else(dimensions: dict[str, list[str]], pool: str) -> None:
    world = World()
    with pytest.raises(Refused, match="termination task") as refused:
        world.submit(work=END, pool=pool, slices=[SliceSpec(dimensions)])
    assert refused.value.code == "bad_task" and not world.engine.tasks


def test_a_bot_whose_protocol_cannot_be_told_to_end_does_not_get_it() -> None:
    world = World()
    bot = world.bot(features=tuple(f for f in NATIVE if f != TERMINATE))
    op = terminate(world)
    assert bot.poll() == [] and bot.it.takes_work
    assert world.explain(op)[0] == "no_bot_matches"


def test_a_bot_of_another_protocol_now_is_not_told_any_more() -> None:
    world = World()
    bot = world.bot()
    op, other = terminate(world), world.submit()
    bot.describe(features=("noop",))
    assert bot.take().task == other and world.state(op) is TaskState.PENDING


# ------------------------------------------------------------------ explained


def test_explained_while_it_waits_and_while_others_wait_for_it() -> None:
    world = World()
    bot = world.bot()
    world.submit()
    bot.take()
    op, other = terminate(world), world.submit()
    assert world.explain(op) == (
        "bots_busy", "bot b is told to end as soon as nothing runs there; it gets no other task before",
    )  # fmt: skip
    reason, sentence = world.explain(other)
    assert reason == "bots_refuse" and "is to end by task" in sentence and "swarmd cancel" in sentence
    bot.close()
    assert world.explain(op) == (
        "bots_away", "bot b is not connected; it is told to end when it comes back",
    )  # fmt: skip


def test_a_bot_that_ended_is_told_nothing_of_an_earlier_life() -> None:
    """The death of the bot that was told, and its order, are over with its session."""
    world = World()
    bot = world.bot()
    bot.change(order="terminate")
    op = terminate(world)
    bot.take()
    assert [o.kind for o in bot.orders()] == ["terminate"]
    bot.close()
    again = world.bot(key="start-2")
    assert world.state(op) is TaskState.COMPLETED and again.orders() == [] and again.it.takes_work
    assert again.it.order is None


def test_outcomes_that_say_more_than_ok_do_not_end_the_session() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world)
    (attempt,) = bot.poll()
    bot.finish(attempt, Outcome(ok=False, died=True, reason="could not"))
    assert world.final(op) == (TaskState.BOT_DIED, False, "could not")
    assert bot.session in world.engine.sessions


# ------------------------------------------------------------------ taken back in other ways


def test_a_bot_is_woken_when_its_termination_task_waits_for_something_now() -> None:
    world = World()
    bot = world.bot()
    op, first = terminate(world), world.submit(os="amiga")
    other = world.submit()
    world.engine.take_woken()
    world.set_after(op, first)
    assert bot.woken() and bot.take().task == other


def test_a_bot_is_woken_when_its_termination_task_waits_to_be_tried_again() -> None:
    world = World()
    bot = world.bot()
    op = terminate(world, retries=1, retry_wait_s=50.0)
    attempt = bot.take()
    for _ in range(4):
        world.pass_time(39.9)
        bot.seen()
        bot.holds([attempt])
    world.engine.take_woken()
    world.pass_time(0.5)
    assert world.state(op) is TaskState.PENDING and bot.woken() and bot.it.takes_work
    world.pass_time(50.0)
    assert bot.it.is_to_end and bot.woken()


def test_a_task_that_would_end_a_deleted_bot_is_canceled() -> None:
    """Else it would wait for days, and end another bot that takes the name."""
    world = World()
    bot = world.bot("b")
    bot.close()
    op, others, later = terminate(world), terminate(world, "c"), terminate(world)
    world.engine.delete_bot(world.now, bot.name)
    assert world.states(op, later, others) == ["CANCELED", "CANCELED", "PENDING"]
    world.engine.check()
