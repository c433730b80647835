"""Offers, acceptance, what a bot says it holds, output, late and repeated reports."""

from __future__ import annotations

import pytest

from swarmd.core.errors import Unknown
from swarmd.core.model import AttemptState, Share, TaskState
from swarmd.core.submitting import SliceSpec

from .builders import OK, World

# ------------------------------------------------------------------ offers


def test_the_same_poll_again_gets_the_same_attempt() -> None:
    world = World()
    world.submit(), world.submit()
    bot = world.bot()
    (attempt,) = bot.poll(key="p1")
    assert bot.poll(key="p1") == [attempt]
    (other,) = bot.poll(key="p2")
    assert other is not attempt
    bot.start(attempt)
    assert bot.poll(key="p1") == [], "those started are not offered again, and nothing new"


def test_the_same_poll_again_after_a_restart() -> None:
    world = World()
    world.submit(), world.submit()
    bot = world.bot()
    (attempt,) = bot.poll(key="p1")
    world.restart(down_s=10.0)
    assert [a.id for a in bot.poll(key="p1")] == [attempt.id]


def test_until_it_is_accepted_everybody_sees_it_pending() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    (attempt,) = bot.poll()
    assert world.state(op) is TaskState.PENDING and attempt.limit_due_at == float("inf")
    bot.start(attempt)
    assert world.state(op) is TaskState.RUNNING and attempt.limit_due_at < float("inf")
    before = world.engine.version
    bot.start(attempt)
    assert world.engine.version == before, "twice is one effect"


def test_an_offer_that_nobody_starts_goes_back() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit()
    bot = world.bot()
    (attempt,) = bot.poll()
    world.pass_time(29.9)
    assert world.task(op).attempt is attempt
    world.pass_time(0.1)
    assert attempt.state is AttemptState.DROPPED and world.task(op).drops == 1
    assert [a.number for a in bot.poll()] == [2]


@pytest.mark.parametrize("accept_s", [0.0, 5.0, 500.0])
def test_an_offer_may_have_a_time_of_its_own_to_be_started(accept_s: float) -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit()
    bot = world.bot()
    (attempt,) = bot.poll(key="p1", accept_s=accept_s)
    world.pass_time(accept_s - 0.1)
    assert world.task(op).attempt is attempt
    assert bot.poll(key="p1", accept_s=9_999.0) == [attempt], "asked for again it gets no more time"
    world.pass_time(0.1)
    assert attempt.state is AttemptState.DROPPED
    assert attempt.outcome is not None and attempt.outcome.reason == f"not started within {accept_s:g} s"


def test_the_time_of_an_offer_goes_on_after_a_restart() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit()
    bot = world.bot()
    bot.poll(accept_s=500.0)
    world.pass_time(400.0)
    world.restart(down_s=100.0)
    assert world.task(op).attempt is not None, "no downtime counts"
    world.pass_time(99.0)
    assert world.task(op).attempt is not None
    world.pass_time(2.0)
    assert world.task(op).attempt is None


def test_a_bot_that_queues_says_so_and_may_take_its_time() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=3_601.0)
    bot = world.bot()
    (attempt,) = bot.poll()
    bot.holds(queued=[attempt])
    world.pass_time(3_600.0)
    assert world.task(op).attempt is attempt and world.state(op) is TaskState.PENDING
    bot.holds(running=[attempt])
    assert world.state(op) is TaskState.RUNNING


def test_a_task_expires_in_time_while_it_is_queued_in_a_bot() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=100.0)
    bot = world.bot()
    world.pass_time(40.0)
    (attempt,) = bot.poll()
    world.pass_time(10.0)
    bot.holds(queued=[attempt])
    world.pass_time(49.9)
    assert world.task(op).attempt is attempt
    world.pass_time(0.1)
    assert world.final(op) == (TaskState.EXPIRED, False, "no bot started it within 100 s")
    assert attempt.state is AttemptState.DROPPED and attempt.outcome is not None
    assert attempt.outcome.reason == "its bot had not started it when its time was over"
    assert bot.woken(), "its held call can tell it"
    assert bot.holds(running=[attempt]) == [attempt.id], "started at that moment: not its own any more"


def test_an_offer_whose_time_is_over_before_it_was_received_expires_when_it_is() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=10.0)
    bot = world.bot()
    world.pass_time(9.0)
    (attempt,) = bot.poll()
    world.pass_time(5.0)
    assert world.task(op).attempt is attempt, "it may be on its way, or running: it has `accept_s`"
    bot.holds(queued=[attempt])
    assert bot.session in world.engine.moved, "the session's deadline is an earlier one now"
    world.pass_time(0.0)
    assert world.state(op) is TaskState.EXPIRED


def test_a_slice_that_is_over_while_it_is_queued_in_a_bot_gives_way_to_the_next() -> None:
    world = World(session_deadline_s=1e6)
    slices = [SliceSpec({"os": ["linux"]}, 10.0), SliceSpec({"gpu": ["c"]}, 20.0)]
    op = world.submit(slices=slices)
    bot, other = world.bot(os="linux"), world.bot("g", gpu="c")
    (attempt,) = bot.poll()
    bot.holds(queued=[attempt])
    world.pass_time(10.0)
    assert (world.state(op), world.task(op).slice, bot.attempts) == (TaskState.PENDING, 1, [])
    (second,) = other.poll()
    other.holds(queued=[second])
    world.pass_time(20.0)
    assert world.state(op) is TaskState.EXPIRED


def test_the_expiration_goes_on_while_bots_take_a_task_and_give_it_back() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=100.0)
    bot = world.bot()
    for _ in range(9):
        (attempt,) = bot.poll()
        bot.holds(queued=[attempt])
        world.pass_time(11.0)
        bot.holds()
    assert world.task(op).due_at == pytest.approx(world.now + 1.0)
    world.pass_time(1.0)
    assert world.state(op) is TaskState.EXPIRED


def test_what_is_given_back_after_its_time_is_not_offered_again() -> None:
    world = World(session_deadline_s=1e6, accept_s=30.0)
    op = world.submit(expiration_s=10.0)
    bot = world.bot()
    (attempt,) = bot.poll()
    bot.holds(queued=[attempt])
    world.restart(down_s=60.0)
    assert world.task(op).attempt is not None, "it may have been started meanwhile"
    bot.holds()
    assert world.state(op) is TaskState.EXPIRED


@pytest.mark.parametrize(("down_s", "left_s"), [(0.0, 50.0), (20.0, 30.0), (40.0, 30.0), (900.0, 30.0)])
def test_downtime_counts_for_what_is_queued_in_a_bot_but_there_is_time_to_say_that_it_was_started(
    down_s: float, left_s: float
) -> None:
    world = World(session_deadline_s=1e6, accept_s=30.0)
    op = world.submit(expiration_s=50.0)
    bot = world.bot()
    (attempt,) = bot.poll()
    bot.holds(queued=[attempt])
    world.restart(down_s=down_s)
    world.pass_time(left_s - 0.1)
    assert world.state(op) is TaskState.PENDING and world.task(op).attempt is not None
    world.pass_time(0.1)
    assert world.state(op) is TaskState.EXPIRED


def test_what_was_started_while_the_daemon_was_down_goes_on() -> None:
    world = World(session_deadline_s=1e6)
    op = world.submit(expiration_s=50.0)
    bot = world.bot()
    (attempt,) = bot.poll()
    bot.holds(queued=[attempt])
    world.restart(down_s=600.0)
    (attempt,) = world.engine.attempts.values()
    assert bot.holds(running=[attempt]) == []
    world.pass_time(600.0)
    assert world.state(op) is TaskState.RUNNING


def test_dropped_again_and_again_it_is_given_up() -> None:
    world = World(max_drops=3)
    op = world.submit(bot_retries=9)
    bot = world.bot()
    for _ in range(3):
        bot.poll()
        bot.holds()
    assert world.state(op) is TaskState.PENDING
    bot.poll()
    bot.holds()
    assert world.final(op) == (
        TaskState.BOT_DIED, False, "4 offers were never started; the last by bot b: declined by its bot"
    )  # fmt: skip


def test_a_goodbye_drops_offers_without_counting_them() -> None:
    world = World(max_drops=0)
    op = world.submit()
    for _ in range(3):
        bot = world.bot()
        bot.poll()
        bot.close()
    assert world.state(op) is TaskState.PENDING and world.task(op).drops == 0


def test_who_takes_no_work_gets_none() -> None:
    world = World()
    world.submit()
    bot = world.bot()
    bot.change(drain=True)
    assert bot.poll() == [] and not bot.wait()


# ------------------------------------------------------------------ holds


def test_what_a_bot_names_nowhere_is_lost_or_declined() -> None:
    world = World()
    ran, offered = world.submit(), world.submit()
    bot = world.bot(slots=3)
    bot.take()
    bot.poll()
    bot.holds(judged=False)
    assert world.engine.tasks[ran].attempt is None, "accepted and named nowhere: lost"
    assert world.engine.tasks[offered].attempt is not None, "it may not have seen this one yet"
    bot.holds(judged=True)
    assert world.task(offered).drops == 1 and world.task(ran).bot_faults == 1


def test_holds_says_what_a_bot_should_not_have() -> None:
    world = World()
    world.submit()
    mine, other = world.bot("a"), world.bot("b")
    attempt = mine.take()
    assert other.holds(running=[attempt]) == [attempt.id]
    assert mine.holds(running=[attempt]) == []
    mine.finish(attempt)
    assert mine.holds(running=[attempt]) == [attempt.id]


def test_a_queued_attempt_that_is_named_no_more_goes_back_and_that_counts_against_nothing() -> None:
    world = World(max_drops=0)
    op = world.submit()
    bot = world.bot()
    for _ in range(40):
        (attempt,) = bot.poll()
        bot.holds(queued=[attempt])
        bot.holds(judged=False)
        assert attempt.state is AttemptState.DROPPED
    assert world.state(op) is TaskState.PENDING and world.task(op).drops == 0
    bot.take()


# ------------------------------------------------------------------ outcomes


def test_a_late_result_of_a_lost_attempt_changes_nothing() -> None:
    world = World()
    op = world.submit()
    late = world.bot("a")
    first = late.take()
    world.pass_time(60.0)
    second = world.bot("b").take()
    assert (second.task, second.number) == (first.task, 2)
    version = world.engine.version
    assert not late.finish(first, OK)
    assert world.engine.version == version and world.state(op) is TaskState.RUNNING


def test_a_result_is_taken_once_and_only_from_its_holder() -> None:
    world = World()
    op = world.submit()
    bot, other = world.bot("a"), world.bot("b")
    attempt = bot.take()
    assert not other.finish(attempt)
    assert bot.finish(attempt) and not bot.finish(attempt)
    assert world.state(op) is TaskState.COMPLETED


def test_a_result_may_be_the_first_sign() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    (attempt,) = bot.poll()
    assert bot.finish(attempt)
    assert world.state(op) is TaskState.COMPLETED and attempt.started_at == world.now


def test_an_ended_session_can_report_nothing() -> None:
    world = World()
    world.submit()
    bot = world.bot()
    attempt = bot.take()
    bot.close()
    assert not bot.finish(attempt)
    for call in (bot.poll, bot.holds, bot.orders, bot.wait):
        with pytest.raises(Unknown) as unknown:
            call()
        assert unknown.value.code == "unknown_session"


# ------------------------------------------------------------------ output


@pytest.mark.parametrize(
    ("writes", "ends", "end", "dropped", "merged"),
    [
        ([(0, b"abc"), (3, b"de")], [3, 5], 5, 0, 5),
        ([(0, b"abc"), (0, b"abc")], [3, 3], 3, 0, 3),
        ([(0, b"abc"), (1, b"bcde")], [3, 5], 5, 0, 5),
        ([(2, b"cd")], [4], 4, 0, 4),
        ([(0, b"12345678"), (8, b"90ab")], [8, 10], 10, 2, 10),
        ([(0, b"12345678"), (8, b"90ab"), (8, b"90ab"), (12, b"c")], [8, 10, 10, 10], 10, 3, 10),
        ([(0, b"ab"), (12, b"x")], [2, 10], 10, 3, 10),
        ([(0, b"0123456789"), (10, b"")], [10, 10], 10, 0, 10),
    ],
)
def test_a_stream_only_grows(
    writes: list[tuple[int, bytes]], ends: list[int], end: int, dropped: int, merged: int
) -> None:
    world = World(output_limit=10)
    world.submit()
    attempt = world.bot().take()
    told = [world.engine.report_output(world.now, attempt, "out", offset, data) for offset, data in writes]
    stream = attempt.streams["out"]
    assert told == ends
    assert (stream.end, stream.dropped, attempt.merged_end) == (end, dropped, merged)


def test_nothing_begins_no_stream() -> None:
    world = World()
    world.submit()
    bot = world.bot()
    attempt = bot.take()
    assert world.engine.report_output(world.now, attempt, "out", 5, b"") == 0
    world.restart()
    assert attempt.streams == world.engine.attempts[attempt.id].streams == {}


def test_streams_are_merged_in_order_of_arrival() -> None:
    world = World()
    world.submit()
    attempt = world.bot().take()
    world.engine.take_changes()
    for stream, offset, data in (("out", 0, b"ab"), ("err", 0, b"x"), ("out", 4, b"ef"), ("out", 0, b"ab")):
        world.engine.report_output(world.now, attempt, stream, offset, data)
    chunks = [(c.stream, c.offset, c.merged, c.data) for c in world.engine.take_changes().chunks]
    assert chunks == [("out", 0, 0, b"ab"), ("err", 0, 2, b"x"), ("out", 4, 5, b"ef")]


def test_output_goes_on_where_it_was_after_a_restart() -> None:
    world = World(output_limit=4)
    world.submit()
    bot = world.bot()
    attempt = bot.take()
    world.engine.report_output(world.now, attempt, "out", 0, b"abcdef")
    world.restart()
    loaded = world.engine.attempts[attempt.id]
    stream = loaded.streams["out"]
    assert (stream.end, stream.dropped, loaded.merged_end) == (4, 2, 4)
    assert world.engine.report_output(world.now, loaded, "out", 0, b"abcdef") == 4


def test_what_an_attempt_tells_stands_in_the_history_of_all_who_share_it() -> None:
    world = World()
    first = world.submit(sameness="k", share=Share.JOIN)
    world.look_up()
    bot = world.bot()
    attempt = bot.take()

    def told() -> list[object]:
        world.engine.take_changes()
        world.engine.attempt_tells(world.now, attempt, "task.said", "hello")
        events = world.engine.take_changes().events
        assert {(e.kind, e.attempt, e.bot) for e in events} == {("task.said", attempt.id, bot.it.id)}
        assert all(e.detail == {"message": "hello"} for e in events)
        return [e.op for e in events]

    assert told() == [first]
    second = world.submit(sameness="k", share=Share.JOIN)
    assert told() == [first, second]
    world.cancel(first)
    assert told() == [second]
    bot.finish(attempt)
    with pytest.raises(AssertionError):
        told()
