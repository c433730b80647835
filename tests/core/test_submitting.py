"""How work comes in: everything or nothing, sharing, lookups."""

from __future__ import annotations

import pytest

from swarmd.core.errors import Conflict, Refused
from swarmd.core.model import OpId, Share, TaskState
from swarmd.core.submitting import After, Known, LookAgain
from swarmd.store.selecting import ops_by_id

from .builders import FAILED, World, ended, spec

SHARED = {"sameness": "k", "share": Share.JOIN}


def test_all_or_nothing() -> None:
    world = World()
    version = world.engine.version
    bad = [
        ([spec(), spec(dimensions={"1": ["x"]})], "bad_dimension"),
        ([spec(after=[1]), spec(after=[0])], "cycle"),
        ([spec(after=[0])], "cycle"),
        ([spec(), spec(after=[7])], "unknown_dependency"),
    ]
    for specs, code in bad:
        with pytest.raises(Refused) as refused:
            world.submit_all(specs)
        assert refused.value.code == code
    assert world.engine.version == version and not world.engine.tasks and not world.engine.plans


def test_the_engine_asks_to_look_again_for_what_it_does_not_know() -> None:
    world = World()
    gone = world.submit()
    world.cancel(gone)
    with pytest.raises(LookAgain) as again:
        world.engine.submit(world.now, [spec(after=[gone])], None, Known())
    assert again.value.ops == [gone]


def test_a_parent_must_be_alive() -> None:
    world = World()
    with pytest.raises(Conflict) as conflict:
        world.submit(parent=OpId(5))
    assert conflict.value.code == "parent_final"


# ------------------------------------------------------------------ sharing


def test_a_finished_task_that_is_the_same_answers_at_once() -> None:
    world = World()
    first = world.submit(sameness="k")
    bot = world.bot()
    bot.finish(bot.take())
    (second,) = world.submit_all([spec(sameness="k", share=Share.FINISHED)])
    assert (second.task, second.state) == (first, TaskState.COMPLETED)
    assert world.state(second.id) is TaskState.COMPLETED and world.engine.task_of(second.id) is None


def test_a_failed_one_answers_nobody() -> None:
    world = World()
    world.submit(sameness="k")
    bot = world.bot()
    bot.finish(bot.take(), FAILED)
    op = world.submit(**SHARED)
    world.look_up()
    assert world.state(op) is TaskState.PENDING


@pytest.mark.parametrize(("share", "joins"), [("none", False), ("finished", False), ("join", True)])
def test_who_joins_one_that_is_not_finished(share: str, joins: bool) -> None:
    world = World()
    first = world.submit(sameness="k")
    second = world.submit(sameness="k", share=Share(share), priority=-5)
    assert (world.task(second) is world.task(first)) == joins
    assert world.task(first).priority == (-5 if joins else 0)


def test_joining_tells_the_state_of_the_task() -> None:
    world = World()
    first = world.submit(sameness="k")
    world.bot().take()
    (second,) = world.submit_all([spec(**SHARED)])
    assert (second.task, second.state) == (first, TaskState.RUNNING)


def test_all_operations_of_a_task_end_together() -> None:
    world = World()
    first = world.submit(sameness="k")
    others = [world.submit(**SHARED) for _ in range(3)]
    follower = world.submit(after=[others[1]])
    bot = world.bot()
    bot.finish(bot.take())
    assert set(world.states(first, *others)) == {"COMPLETED"}
    assert world.state(follower) is TaskState.PENDING
    assert not world.engine.joined and not world.engine.by_sameness


def test_a_task_on_its_way_out_is_not_joined() -> None:
    world = World()
    first = world.submit(sameness="k")
    world.bot().take()
    world.cancel(first)
    second = world.submit(**SHARED)
    assert world.task(second) is not world.task(first)
    world.look_up()
    third = world.submit(**SHARED)
    assert world.task(third) is world.task(second), "the new one can be joined"


def test_a_blocked_operation_joins_when_it_is_ready() -> None:
    world = World()
    dependency = world.submit(os="x")
    running = world.submit(sameness="k")
    blocked = world.submit(after=[ended(dependency)], **SHARED)
    assert world.task(blocked) is not world.task(running)
    world.write()
    world.cancel(dependency)
    assert world.task(blocked) is world.task(running)
    world.restart()
    assert world.task(blocked) is world.task(running)


def test_a_blocked_operation_finds_a_finished_one_when_it_is_ready() -> None:
    world = World()
    dependency = world.submit(os="x")
    same = world.submit(sameness="k")
    blocked = world.submit(after=[ended(dependency)], sameness="k", share=Share.FINISHED)
    after = world.submit(after=[blocked], os="x")
    bot = world.bot()
    bot.finish(bot.take())
    world.cancel(dependency)
    assert world.state(blocked) is TaskState.BLOCKED and world.explain(blocked)[0] == "lookup"
    assert world.look_up() == 1
    assert world.states(blocked, after) == ["COMPLETED", "PENDING"]
    world.restart()
    assert world.states(same, blocked, after) == ["COMPLETED", "COMPLETED", "PENDING"]


def test_a_lookup_goes_on_after_a_restart() -> None:
    world = World()
    op = world.submit(**SHARED)
    assert world.state(op) is TaskState.BLOCKED
    world.restart()
    assert world.look_up() == 1 and world.state(op) is TaskState.PENDING


def test_a_late_answer_to_a_lookup_changes_nothing() -> None:
    world = World()
    op = world.submit(**SHARED)
    (lookup,) = world.engine.lookups
    world.look_up()
    world.engine.looked_up(world.now, lookup.task, None)
    assert world.state(op) is TaskState.PENDING
    world.cancel(op)
    world.engine.looked_up(world.now, lookup.task, None)
    assert world.state(op) is TaskState.CANCELED


def test_an_operation_withdrawn_from_a_task_that_leaves_later_stays_in_the_file() -> None:
    """It is found with the state it ended in, though the task that it had joined is gone."""
    world = World()
    before = world.submit(x="y")
    first = world.submit(sameness="k", after=[ended(before)])
    leaving = world.submit(sameness="k", share=Share.JOIN)  # `first` waits and cannot be joined yet
    joined = world.submit(sameness="k", share=Share.JOIN)
    assert world.engine.task_of(joined) is world.engine.task_of(leaving)
    world.cancel(joined)
    world.cancel(before)
    world.restart()  # `first` is found by its key now
    assert world.engine.task_of(leaving) is world.engine.task_of(first)
    world.write()
    assert ops_by_id(world.file, [joined])[joined].state is TaskState.CANCELED


def test_who_waits_for_others_is_not_joined_by_one_that_does_not() -> None:
    """It would wait for dependencies that it never had, and fail with them."""
    world = World()
    dependency = world.submit(os="x")
    waiting = world.submit(sameness="k", after=[dependency])
    free = world.submit(**SHARED)
    world.look_up()
    assert world.state(free) is TaskState.PENDING
    world.cancel(dependency)
    assert world.states(waiting, free) == ["SKIPPED", "PENDING"]


def test_who_would_wait_for_itself_by_joining_does_not_join() -> None:
    world = World()
    free = world.submit(os="x")
    second = world.submit(after=[free], sameness="k")
    first = world.submit(after=[free], **SHARED)
    world.set_after(second, first)
    world.set_after(first)  # `first` is ready: the only other one of its key waits for it
    world.look_up()
    assert world.states(first, second) == ["PENDING", "BLOCKED"]
    bot = world.bot()
    bot.finish(bot.take())
    assert world.states(first, second) == ["COMPLETED", "PENDING"]


def test_what_was_tried_once_does_not_join_another_later() -> None:
    """Its attempts are its own: it cannot leave them."""
    world = World()
    op = world.submit(retries=1, retry_wait_s=10.0, **SHARED)
    world.look_up()
    bot = world.bot()
    bot.finish(bot.take(), FAILED)
    dependency = world.submit(os="x")
    world.set_after(op, dependency)
    other = world.submit(**SHARED)
    world.look_up()
    world.set_after(op)
    assert world.look_up() == 0 and world.task(op) is not world.task(other)
    assert world.states(op, other) == ["PENDING", "PENDING"]


def test_a_task_whose_edges_change_is_not_joined_while_it_waits() -> None:
    world = World()
    producer = world.submit(os="x")
    task = world.submit(sameness="k")
    world.set_after(task, producer)
    other = world.submit(**SHARED)
    world.look_up()
    assert world.states(task, other) == ["BLOCKED", "PENDING"]


def test_a_marker_that_is_joined_in_its_own_submission_ends_both_once() -> None:
    world = World()
    graph = world.graph()
    ops = world.submit_all([spec(marker=True, sameness="k"), spec(marker=True, **SHARED)], graph)
    assert [one.state for one in ops] == [TaskState.COMPLETED] * 2
    assert graph.id not in world.engine.graphs and graph.failed == 0


def test_the_answer_names_the_task_that_was_joined_on_the_way() -> None:
    world = World()
    running = world.submit(sameness="k")
    marker, joined = world.submit_all([spec(marker=True), spec(after=[0], **SHARED)])
    assert marker.state is TaskState.COMPLETED
    assert (joined.task, joined.state) == (running, TaskState.PENDING)


def test_a_withdrawn_joiner_leaves_its_graph() -> None:
    world = World()
    world.submit(sameness="k")
    graph = world.graph()
    (joined,) = world.submit_all([spec(**SHARED)], graph)
    world.cancel(joined.id)
    assert graph.id not in world.engine.graphs and graph.failed == 1


# ------------------------------------------------------------------ edges of the future


def test_a_dependency_that_is_final_already_counts_at_once() -> None:
    world = World()
    bot = world.bot()
    good, bad = world.submit(), world.submit()
    bot.finish(bot.take())
    bot.finish(bot.take(), FAILED)
    assert world.states(good, bad) == ["COMPLETED", "COMPLETED"]
    runs = world.submit(after=[good])
    skipped = world.submit(after=[bad])
    anyway = world.submit(after=[ended(bad), After(good)])
    assert world.states(runs, skipped, anyway) == ["PENDING", "SKIPPED", "PENDING"]
