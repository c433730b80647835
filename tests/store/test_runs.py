"""Operations as runs: what their newest attempt was."""

import itertools
import random

import msgspec
import pytest

from swarmd.core.model import AttemptState, Outcome, TaskState
from swarmd.store.runs import BotFilter, list_runs, runs_by_id, runs_of_bot
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
    assert (alive.stop_reason, alive.stop_since_wall, alive.op.stop_reason) == (
        "canceled",
        NOW + WALL + 5,
        "canceled",
    )
    lab.now += 5
    lab.finish(attempt, ok=False)
    lab.commit()
    over = runs_by_id(conn, [id])[id]
    assert (over.op.state, over.op.stop_reason) == (TaskState.KILLED, None)
    assert (over.stop_reason, over.stop_since_wall, over.ended_wall) == (
        "canceled",
        NOW + WALL + 5,
        NOW + WALL + 10,
    )


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


# ------------------------------------------------------------- what ran on a bot

T = TaskState


@pytest.fixture(scope="module")
def worked():
    """A bot with runs that were created, started and ended in different orders; two of them of one task."""
    conn = new_database()
    lab = Lab(conn)
    lab.bot(slots=9)
    lab.bot("other")
    first, second, third, _ = lab.submit(
        spec(name="a", requires={"id": ["bot1"]}),
        spec(name="b", retries=1, retry_wait_s=5, requires={"id": ["bot1"]}),
        spec(name="c", priority=-1, requires={"id": ["bot1"]}),
        spec(name="d", requires={"id": ["other"]}),
    )
    lab.start("other")
    attempts = {}
    for name in "cab":  # by priority
        lab.now += 1
        attempts[name] = lab.start()
    assert [attempts[n].task for n in "abc"] == [first, second, third]
    lab.commit()
    for name, ok, died in (("b", False, False), ("c", True, False), ("a", False, True)):
        lab.now += 10
        lab.finish(attempts[name], ok=ok, died=died)
        lab.commit()
    assert lab.engine.tasks[first].bot_faults == 1
    (again,) = lab.offer()  # the lost one
    lab.engine.accept(lab.now, again)
    lab.now += 1
    lab.engine.withdraw(lab.now, first, "no more", kill=True)
    lab.finish(again, ok=False)
    lab.engine.withdraw(lab.now, second, "no more", kill=True)  # while it waits for its retry
    lab.submit(spec(name="e"), spec(name="f"))
    lab.start()
    lab.offer()  # not started
    lab.commit()
    return conn


def ran(conn, after=None, limit=10, **wanted):
    found = runs_of_bot(conn, BotFilter("bot1", **wanted), after, limit)
    return [(one.run.op.name, one.run.op.number) for one in found]


def test_runs_of_a_bot_by_creation_start_and_end(worked):
    assert ran(worked) == [("e", 1), ("c", 1), ("b", 1), ("a", 2), ("a", 1)]
    assert ran(worked, sort="started") == [("e", 1), ("a", 2), ("b", 1), ("a", 1), ("c", 1)]
    assert ran(worked, sort="ended") == [("a", 2), ("a", 1), ("c", 1), ("b", 1)]
    assert runs_of_bot(worked, BotFilter("none"), None, 10) == []


def test_a_run_of_a_bot_is_the_attempt_and_not_what_the_task_came_to(worked):
    found = {(r.run.op.name, r.run.op.number): r for r in runs_of_bot(worked, BotFilter("bot1"), None, 10)}
    assert {name: (r.state, r.ok) for name, r in found.items()} == {
        ("e", 1): (T.RUNNING, False), ("c", 1): (T.COMPLETED, True), ("b", 1): (T.COMPLETED, False),
        ("a", 2): (T.KILLED, False), ("a", 1): (T.BOT_DIED, False),
    }  # fmt: skip
    lost, killed = found["a", 1].run, found["a", 2].run
    assert lost.op.state is killed.op.state is T.KILLED and found["b", 1].run.op.state is T.CANCELED
    assert (lost.ended_wall, lost.stop_reason) == (NOW + WALL + 33, None)
    assert (killed.op.started_wall, killed.ended_wall) == (NOW + WALL + 33, NOW + WALL + 34)
    assert killed.stop_reason == "canceled"


def test_runs_of_a_bot_by_how_they_ended(worked):
    assert ran(worked, states=(T.RUNNING, T.KILLED)) == [("e", 1), ("a", 2)]
    assert ran(worked, states=(T.COMPLETED,), failed=True) == [("b", 1)]
    assert ran(worked, failed=False) == [("e", 1), ("c", 1)]
    assert ran(worked, failed=True, limit=2) == [("b", 1), ("a", 2)]
    assert ran(worked, sort="ended", failed=True) == [("a", 2), ("a", 1), ("b", 1)]
    assert ran(worked, states=(T.EXPIRED,)) == []


def test_runs_of_a_bot_within_a_range_of_the_moment_they_are_sorted_by(worked):
    at = NOW + WALL
    assert ran(worked, begin=at + 1) == [("e", 1)]
    assert ran(worked, end=at + 34) == [("c", 1), ("b", 1), ("a", 2), ("a", 1)]
    assert ran(worked, sort="started", begin=at + 2, end=at + 33) == [("b", 1), ("a", 1)]
    assert ran(worked, sort="ended", begin=at + 13, end=at + 33) == [("c", 1), ("b", 1)]


@pytest.mark.parametrize("sort", ["created", "started", "ended"])
@pytest.mark.parametrize("failed", [None, True])
def test_pages_of_runs_of_a_bot_give_each_once(worked, sort, failed):
    wanted = BotFilter("bot1", sort, failed=failed)
    whole = runs_of_bot(worked, wanted, None, 10)
    paged, after = [], None
    while page := runs_of_bot(worked, wanted, after, 2):
        paged += page
        assert len(paged) <= len(whole)
        after = page[-1].place
    assert paged == whole and len(whole) > 2


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_a_bot_against_a_plain_sort(conn, seed):
    """Old tasks run last or first, some twice; the clock jumps."""
    rng = random.Random(seed)
    lab = Lab(conn)
    lab.bot(slots=5)
    for _ in range(80):
        for _ in range(rng.choice((0, 0, 1, 3))):
            lab.submit(spec(priority=rng.randrange(5), retries=rng.randrange(3)))
        for attempt in lab.offer(limit=rng.randrange(3) or 1):
            if rng.random() < 0.9:
                lab.engine.accept(lab.now, attempt)
        for attempt in list(lab.engine.attempts.values()):
            if rng.random() < 0.4:
                lab.finish(attempt, ok=rng.random() < 0.6, timed_out=rng.random() < 0.1)
        lab.now += rng.choice((0, 1, 60))
        lab.commit()
        lab.wall += rng.choice((0, 0, 0, 0, -100, 0.3, 100))
    rows = conn.execute(
        "SELECT a.id, a.task, a.started_wall, a.ended_wall, o.created_wall, a.outcome "
        "FROM attempts a, ops o WHERE o.id = a.task AND a.started_wall IS NOT NULL"
    ).fetchall()
    assert len(rows) > 30
    by = {"created": (1, 4), "started": (2, 2), "ended": (3, 3)}
    for sort, failed in itertools.product(by, (None, True, False)):
        order, moment = by[sort]
        known = sorted(row[moment] for row in rows if row[moment] is not None)
        for begin, end in ((None, None), (known[9], None), (None, known[-5]), (known[7], known[-7])):
            expected = [
                row[0]
                for row in sorted(rows, key=lambda row: (row[order] or 0, row[0]), reverse=True)
                if row[moment] is not None
                and (begin is None or row[moment] >= begin)
                and (end is None or row[moment] < end)
                and failed in (None, row[5] is not None and row[5] != b'{"ok":true}')
            ]
            wanted = BotFilter("bot1", sort, begin, end, failed=failed)
            found, after = [], None
            while page := runs_of_bot(conn, wanted, after, 7):
                found += [one.run.op.attempt for one in page]
                assert len(found) <= len(rows)
                after = page[-1].place
            assert found == expected, wanted


def test_runs_that_started_at_one_moment_have_an_order(conn, lab):
    lab.submit(*(spec(name=f"t{n}") for n in range(5)))
    for _ in range(5):
        lab.start()
    lab.commit()
    assert ran(conn, sort="started") == [(f"t{n}", 1) for n in (4, 3, 2, 1, 0)]
    second = runs_of_bot(conn, BotFilter("bot1", "started"), None, 10)[1]
    assert ran(conn, second.place, sort="started", limit=2) == [("t2", 1), ("t1", 1)]


def test_runs_of_a_bot_use_its_index_and_by_creation_no_sort(worked):
    for sort in ("created", "started", "ended"):
        for states in ((), (T.RUNNING,)):
            wanted = BotFilter("bot1", sort, begin=1.0, states=states)
            plans = plans_of(worked, lambda wanted=wanted: runs_of_bot(worked, wanted, (2, 2), 5))
            steps = [step for plan in plans.values() for step in plan]
            assert any("a USING INDEX attempts_bot" in step for step in steps), steps
            assert not any(step.startswith("SCAN a") for step in steps)
            assert any("TEMP B-TREE" in step for step in steps) == (sort != "created"), steps
