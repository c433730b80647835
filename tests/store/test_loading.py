"""A start brings back what is alive, only that, and through the named indexes."""

import pytest

from swarmd.core.model import NEVER, AttemptState, Share, TaskState
from swarmd.core.submitting import After, Known
from tests.store.builders import Lab, busy_lab, dump, new_database, spec


@pytest.fixture
def conn():
    return new_database()


def test_everything_alive_comes_back_as_it_was(conn):
    lab = busy_lab(conn)
    back = lab.restarted()
    back.check()
    before, after = dump(lab.engine), dump(back)
    for part in before:
        assert after[part] == before[part], part
    assert len(before["tasks"]) >= 10 and before["joined"] and before["children"] and before["queued"]
    assert back.ids.last == lab.engine.ids.last


def test_a_lab_at_rest_comes_back_empty(conn):
    lab = Lab(conn)
    lab.bot()
    lab.run(spec(), spec(), spec())
    lab.engine.close_session(lab.now, lab.sessions["bot1"], "bye")
    lab.commit()
    back = lab.restarted()
    assert (back.tasks, back.attempts, back.sessions, back.graphs, back.plans) == ({}, {}, {}, {}, {})
    assert list(back.bots) == ["bot1"]


def test_downtime_counts_for_expirations_and_not_for_limits(conn):
    lab = Lab(conn)
    lab.bot()
    waiting = lab.submit(spec(requires={"os": ["none"]}))
    lab.submit(spec())
    attempt = lab.start()
    lab.submit(spec())
    (offered,) = lab.offer()
    lab.commit()
    back = lab.restarted(down_s=100.0)
    assert back.tasks[waiting].due_at == lab.engine.tasks[waiting].due_at
    assert back.attempts[attempt.id].limit_due_at == attempt.limit_due_at + 100
    assert back.attempts[offered.id].accept_due_at == offered.accept_due_at + 100
    assert back.sessions[attempt.session].due_at == lab.now + 100 + 60


def test_a_stop_in_progress_goes_on(conn):
    lab = busy_lab(conn)
    back = lab.restarted(down_s=7.0)
    (stop,) = [a.stop for a in back.attempts.values() if a.stop is not None]
    (before,) = [a.stop for a in lab.engine.attempts.values() if a.stop is not None]
    assert (stop.reason, stop.since_at, stop.due_at) == (before.reason, before.since_at, before.due_at + 7)


def test_edges_that_were_replaced_before_the_commit_do_not_come_back(conn):
    lab = Lab(conn)
    first, second = lab.submit(spec(requires={"os": ["a"]}), spec(requires={"os": ["b"]}))
    waiting = lab.submit(spec(after=(first,)))
    lab.engine.set_after(lab.now, waiting, [After(on=second)], known=Known())
    lab.commit()
    assert list(lab.restarted().tasks[waiting].waits) == [second]


def test_a_bot_that_was_deleted_and_came_back_in_one_commit_is_there(conn):
    lab = Lab(conn)
    lab.bot()
    lab.engine.close_session(lab.now, lab.sessions["bot1"], "bye")
    lab.commit()
    lab.engine.delete_bot(lab.now, "bot1")
    lab.bot(key="k2")
    lab.commit()
    back = lab.restarted()
    assert back.bots["bot1"].session.id == lab.sessions["bot1"]


def test_a_ready_task_that_waits_for_its_lookup_is_looked_up_again(conn):
    lab = Lab(conn)
    id = lab.submit(spec(sameness="s", share=Share.FINISHED))
    lab.commit()
    assert lab.engine.tasks[id].state is TaskState.BLOCKED
    assert [one.task for one in lab.restarted().lookups] == [id]


def test_an_offer_asked_for_again_after_a_restart_is_the_same(conn):
    lab = busy_lab(conn)
    back = lab.restarted()
    (again,) = back.offer(lab.now, lab.sessions["bot2"], "again", 1)
    assert again.state is AttemptState.OFFERED and again.limit_due_at == NEVER
    assert again.id in lab.engine.attempts


def plans_of(conn, action):
    """The query plans of all statements that `action` runs."""
    seen = []
    conn.set_trace_callback(seen.append)
    try:
        action()
    finally:
        conn.set_trace_callback(None)
    return {
        sql: [row[3] for row in conn.execute("EXPLAIN QUERY PLAN " + sql)]
        for sql in seen
        if sql.lstrip().upper().startswith(("SELECT", "WITH"))
    }


def test_loading_reads_only_what_is_alive(conn):
    lab = busy_lab(conn)
    plans = plans_of(conn, lab.restarted)
    steps = "\n".join(step for plan in plans.values() for step in plan)
    for index in ("tasks_alive", "attempts_task", "sessions_alive", "graphs_alive", "ops_shared"):
        assert index in steps, index
    scans = {
        step for plan in plans.values() for step in plan if step.startswith("SCAN") and "USING" not in step
    }
    assert scans == {"SCAN clock", "SCAN bots"}  # all bots are alive
