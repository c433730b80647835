"""Dependencies, markers, open graphs."""

from __future__ import annotations

import pytest

from swarmd.core.errors import Conflict, Refused, Unknown
from swarmd.core.model import Outcome, TaskState
from swarmd.core.submitting import Known

from .builders import FAILED, OK, World, ended, failed, spec, succeeded

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("edge", "outcome", "state"),
    [
        (succeeded, OK, "PENDING"),
        (succeeded, FAILED, "SKIPPED"),
        (failed, OK, "SKIPPED"),
        (failed, FAILED, "PENDING"),
        (ended, OK, "PENDING"),
        (ended, FAILED, "PENDING"),
        (ended, Outcome(ok=False, client_error=True), "PENDING"),
    ],
)
def test_conditions(edge: object, outcome: Outcome, state: str) -> None:
    world = World()
    first, second = world.submit_all([spec(), spec(after=[edge(0)])])  # type: ignore[operator]
    bot = world.bot()
    assert [a.task for a in bot.poll(limit=2, key="one")] == [first.task]
    (attempt,) = bot.poll(key="one")
    bot.finish(attempt, outcome)
    assert world.state(second.id).name == state


def test_all_dependencies_must_be_met() -> None:
    world = World()
    a, b = world.submit(), world.submit()
    both = world.submit(after=[a, b])
    bot = world.bot()
    bot.finish(bot.take())
    assert world.state(both) is TaskState.BLOCKED
    world.restart()
    bot.finish(bot.take())
    assert world.state(both) is TaskState.PENDING


def test_a_failure_skips_everything_behind_it() -> None:
    world = World()
    ops = [s.id for s in world.submit_all([spec(), spec(after=[0]), spec(after=[1]), spec(after=[ended(1)])])]
    world.cancel(ops[0])
    assert world.states(*ops) == ["CANCELED", "SKIPPED", "SKIPPED", "PENDING"]
    assert world.reason(ops[1]) == "something it depends on did not end as required"


def test_markers_are_completed_by_the_engine() -> None:
    world = World()
    ops = [s.id for s in world.submit_all([spec(), spec(marker=True, after=[0]), spec(after=[1])])]
    bot = world.bot()
    assert world.states(*ops) == ["PENDING", "BLOCKED", "BLOCKED"]
    bot.finish(bot.take())
    assert world.states(*ops) == ["COMPLETED", "COMPLETED", "PENDING"]


def test_a_graph_is_done_with_its_last_operation() -> None:
    world = World()
    graph = world.graph()
    world.submit_all([spec(), spec(after=[0])], graph)
    bot = world.bot()
    bot.finish(bot.take())
    assert graph.id in world.engine.graphs
    bot.finish(bot.take(), FAILED)
    assert graph.id not in world.engine.graphs and graph.failed == 1
    world.write()
    rows = world.file.execute(
        "SELECT kind, detail FROM events WHERE graph = ? AND op IS NULL ORDER BY id", (graph.id,)
    )
    assert rows.fetchall()[-1] == ("graph.done", '{"ok":false}')


def test_a_graph_without_tasks_is_done_at_once() -> None:
    world = World()
    graph = world.graph()
    world.submit_all([], graph)
    assert graph.id not in world.engine.graphs


# ------------------------------------------------------------------ open graphs


def test_in_an_open_graph_a_failure_skips_nothing_until_it_is_closed() -> None:
    world = World()
    graph = world.graph(is_open=True)
    first, second, third = (s.id for s in world.submit_all([spec(), spec(after=[0]), spec(after=[1])], graph))
    world.cancel(first)
    assert world.states(second, third) == ["BLOCKED", "BLOCKED"]
    world.restart()
    assert world.states(second, third) == ["BLOCKED", "BLOCKED"]
    graph = world.engine.open_graph_named(graph.id)
    world.engine.close_graph(world.now, graph)
    world.engine.close_graph(world.now, graph)
    assert world.states(second, third) == ["SKIPPED", "SKIPPED"]
    assert graph.id not in world.engine.graphs


def test_a_doomed_task_is_saved_by_other_dependencies() -> None:
    world = World()
    graph = world.graph(is_open=True)
    first, second = (s.id for s in world.submit_all([spec(), spec(after=[0])], graph))
    world.cancel(first)
    again = world.submit(graph=graph)
    world.set_after(second, again)
    bot = world.bot()
    bot.finish(bot.take())
    assert world.state(second) is TaskState.PENDING
    world.engine.close_graph(world.now, graph)
    assert world.state(second) is TaskState.PENDING


def test_a_doomed_task_of_several_with_the_same_lost_dependency_gets_others() -> None:
    """A final operation may get new dependents, while an old one is not among them any more."""
    world = World()
    graph = world.graph(is_open=True)
    lost, doomed = (s.id for s in world.submit_all([spec(), spec(after=[0])], graph))
    world.cancel(lost)
    also = world.submit(after=[lost], graph=graph)
    world.set_after(doomed)
    assert world.states(doomed, also) == ["PENDING", "BLOCKED"]


def test_nothing_is_added_to_a_closed_graph() -> None:
    world = World()
    graph = world.graph(is_open=True)
    world.submit(graph=graph)
    world.engine.close_graph(world.now, graph)
    with pytest.raises(Conflict) as conflict:
        world.engine.open_graph_named(graph.id)
    assert conflict.value.code == "graph_closed"
    bot = world.bot()
    bot.finish(bot.take())
    with pytest.raises(Unknown):
        world.engine.open_graph_named(graph.id)


def test_an_open_graph_is_closed_after_a_day_without_a_change() -> None:
    world = World()
    graph = world.graph(is_open=True)
    world.pass_time(DAY_S - 1)
    op = world.submit(graph=graph, expiration_s=10 * DAY_S)
    world.pass_time(DAY_S - 1)
    world.set_after(op)
    world.restart()
    world.pass_time(DAY_S - 1)
    graph = world.engine.graphs[graph.id]
    assert graph.is_open
    world.pass_time(1)
    assert not graph.is_open and world.state(op) is TaskState.PENDING


# ------------------------------------------------------------------ edges that change


def test_a_producer_must_run_again_so_its_consumer_is_blocked_again() -> None:
    world = World()
    consumer = world.submit(expiration_s=100.0)
    producer = world.submit(os="x", expiration_s=1e6)
    world.set_after(consumer, producer)
    assert world.state(consumer) is TaskState.BLOCKED
    assert world.bot().poll() == []
    world.pass_time(1_000.0)
    assert world.state(consumer) is TaskState.BLOCKED, "what is blocked does not expire"
    bot = world.bot("x", os="x")
    bot.finish(bot.take())
    assert world.task(consumer).due_at == world.now + 100.0


def test_changed_edges_are_those_that_the_file_has() -> None:
    """Also when they changed before the first ones were written."""
    world = World()
    first, second = world.submit(os="x"), world.submit(os="y")
    op = world.submit(after=[first])
    world.set_after(op, second)
    world.restart()
    assert dict(world.task(op).waits or {}) == dict.fromkeys([second], "succeeded")
    world.cancel(first)
    assert world.state(op) is TaskState.BLOCKED


def test_an_edge_that_was_met_may_be_asked_for_again() -> None:
    world = World()
    graph = world.graph(is_open=True)
    op, first, other = (s.id for s in world.submit_all([spec(after=[1, 2]), spec(), spec(os="x")], graph))
    world.write()
    bot = world.bot()
    bot.finish(bot.take())
    world.engine.set_after(world.now, op, [failed(first)], Known({first: True}))
    world.restart()
    assert world.state(op) is TaskState.BLOCKED and world.explain(op)[0] == "doomed"
    assert world.state(other) is TaskState.PENDING


def test_once_offered_edges_are_fixed() -> None:
    world = World()
    op, other = world.submit(), world.submit(os="x")
    bot = world.bot()
    bot.poll()
    with pytest.raises(Conflict) as conflict:
        world.set_after(op, other)
    assert conflict.value.code == "task_started"
    world.cancel(op)
    with pytest.raises(Conflict) as conflict:
        world.set_after(op, other)
    assert conflict.value.code == "task_final"


def test_a_circle_is_refused() -> None:
    world = World()
    a = world.submit()
    b = world.submit(after=[a])
    c = world.submit(after=[b])
    for on in (a, b, c):
        with pytest.raises(Refused) as refused:
            world.set_after(a, on)
        assert refused.value.code == "cycle"
    assert world.states(a, b, c) == ["PENDING", "BLOCKED", "BLOCKED"]


@pytest.mark.parametrize(("outcome", "ok"), [(OK, True), (FAILED, False)])
def test_a_step_that_was_not_needed_does_not_make_a_graph_failed(outcome: Outcome, ok: bool) -> None:
    world = World()
    graph = world.graph(is_open=True)
    world.submit_all([spec(), spec(after=[failed(0)])], graph)
    world.engine.close_graph(world.now, graph)
    bot = world.bot()
    bot.finish(bot.take(), outcome)
    if not ok:
        bot.finish(bot.take())
    assert graph.id not in world.engine.graphs and (graph.failed == 0) == ok
