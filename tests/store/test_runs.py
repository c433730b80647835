"""Operations as runs: what their newest attempt was."""

import msgspec
import pytest

from swarmd.core.model import AttemptState, Outcome, TaskState
from swarmd.store.runs import list_runs, runs_by_id
from swarmd.store.selecting import MAX_IDS_PER_QUERY, OpFilter, list_ops
from tests.store.builders import NOW, WALL, Lab, busy_lab, new_database, spec
from tests.store.test_loading import plans_of


@pytest.fixture
def conn():
    return new_database()


@pytest.fixture
def lab(conn):
    lab = Lab(conn)
    lab.bot(slots=1_000)
    return lab


def runs(conn):
    return {run.op.name: run for run in list_runs(conn, OpFilter(), None, 1_000)}


def test_a_run_is_the_operation_and_its_newest_attempt(conn):
    busy_lab(conn)
    listed = list_runs(conn, OpFilter(), None, 1_000)
    assert [run.op for run in listed] == list_ops(conn, OpFilter(), None, 1_000)
    assert runs_by_id(conn, [run.op.id for run in listed] + [7]) == {run.op.id: run for run in listed}
    assert list_runs(conn, OpFilter(name="ok"), listed[2].op.id, 5) == [runs(conn)["ok"]]
    named = runs(conn)
    ok, waits, offered, lost = named["ok"], named["waits"], named["offered"], named["lost"]
    assert (ok.state, ok.slice, ok.offered_at, ok.offered_wall, ok.ended_wall, ok.stop_reason) == (
        AttemptState.ENDED, 0, NOW, NOW + WALL, NOW + WALL, None,
    )  # fmt: skip
    assert msgspec.json.decode(ok.outcome, type=Outcome).outputs[0].size == 7
    assert (waits.state, waits.offered_at, waits.outcome, waits.op.attempt) == (None, None, None, None)
    assert (offered.state, offered.op.started_wall, offered.op.state) == (1, None, TaskState.PENDING)
    assert lost.state is AttemptState.LOST and lost.op.state is TaskState.BOT_DIED


def test_the_operation_that_shares_shows_the_run_of_the_other(conn):
    busy_lab(conn)
    named = runs(conn)
    assert named["reuses"].op.task == named["finished"].op.id
    assert named["reuses"].outcome == named["finished"].outcome is not None
    assert named["reuses"].op.attempt == named["finished"].op.attempt


def test_why_and_when_it_was_stopped_stays_when_it_is_over(conn, lab):
    id = lab.submit(spec())
    attempt = lab.start()
    lab.now += 5
    lab.engine.withdraw(lab.now, id, "no longer wanted", kill=True)
    lab.commit()
    alive = runs_by_id(conn, [id])[id]
    assert (alive.stop_reason, alive.stop_since_wall, alive.op.stop_reason) == ("canceled", NOW + WALL + 5, "canceled")
    lab.now += 5
    lab.finish(attempt, ok=False)
    lab.commit()
    over = runs_by_id(conn, [id])[id]
    assert (over.op.state, over.op.stop_reason) == (TaskState.KILLED, None)
    assert (over.stop_reason, over.stop_since_wall, over.ended_wall) == ("canceled", NOW + WALL + 5, NOW + WALL + 10)


def test_the_slice_that_the_task_is_at(conn):
    lab = Lab(conn)
    id = lab.submit(spec(slices=3, requires={"os": ["none"]}))
    lab.engine.tasks[id].slice = 2
    lab.commit()
    assert runs_by_id(conn, [id])[id].slice == 2


def test_a_thousand_are_read_in_two_statements(conn, lab):
    ids = lab.submit(*(spec() for _ in range(2 * MAX_IDS_PER_QUERY)))
    lab.commit()
    found = {}
    plans = plans_of(conn, lambda: found.update(runs_by_id(conn, ids)))
    assert list(found) == ids and len(plans) == 2
    for plan in plans.values():
        assert [step.split(" ")[0] for step in plan] == ["SEARCH"] * 3, plan
