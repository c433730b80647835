"""Changes become rows, once, in an order that stands."""

import msgspec
import pytest

from swarmd.core.changes import RequestRecord
from swarmd.core.model import AttemptState, Condition, Outcome, Share, TaskState
from swarmd.core.submitting import After, Known
from tests.store.builders import DIGEST, NOW, WALL, Lab, busy_lab, dump, new_database, spec


@pytest.fixture
def conn():
    return new_database()


@pytest.fixture
def lab(conn):
    lab = Lab(conn)
    lab.bot()
    return lab


def rows(conn, sql, *values):
    return conn.execute(sql, values).fetchall()


def test_a_batch_written_again_after_a_rollback_is_one_effect(conn):
    lab = Lab(conn)
    lab.bot()
    lab.submit(spec(tags=("a",)))
    lab.write(lab.start(), "stdout", 0, b"text")
    batch = lab.batch()
    for ending in ("ROLLBACK", "COMMIT"):
        conn.execute("BEGIN")
        batch.write(conn)
        conn.execute(ending)
    assert rows(conn, "SELECT COUNT(*) FROM output") == [(1,)]
    assert dump(lab.restarted()) == dump(lab.engine)


def test_many_commits_or_one_give_the_same_file():
    """What is alive does not depend on when it was written."""
    one, many = new_database(), new_database()
    drive(Lab(one), lambda lab: None).commit()
    drive(Lab(many), Lab.commit).commit()
    for table in (
        "tasks",
        "ops",
        "attempts",
        "sessions",
        "graphs",
        "edges",
        "tags",
        "clock",
        "blob_uses",
        "events",
    ):
        assert rows(one, f"SELECT * FROM {table}") == rows(many, f"SELECT * FROM {table}"), table


def drive(lab, step):
    lab.bot()
    step(lab)
    graph = lab.engine.new_graph(lab.now, "g", "me", False)
    first, second = lab.submit(
        spec(name="a", tags=("x",), inputs=(DIGEST,)), spec(name="b", after=(After(index=0),)), graph=graph
    )
    step(lab)
    attempt = lab.start()
    step(lab)
    lab.finish(attempt, exit_code=0)
    step(lab)
    lab.submit(spec(name="waits", requires={"os": ["none"]}))
    lab.finish(lab.start(), ok=False, exit_code=1)
    assert (first, second) == (attempt.task, attempt.task + 1)
    return lab


def test_an_end_is_written_with_its_wall_time(conn, lab):
    lab.now += 5
    id = lab.run(spec(name="t"), ok=False, exit_code=7, reason="it broke")
    assert rows(conn, "SELECT state, ok, exit_code, reason, ended_wall FROM tasks WHERE id = ?", id) == [
        (TaskState.COMPLETED, 0, 7, "it broke", WALL + NOW + 5)
    ]
    ((state, streams, outcome, ended),) = rows(
        conn, "SELECT state, streams, outcome, ended_wall FROM attempts"
    )
    assert (state, streams, ended) == (AttemptState.ENDED, "{}", WALL + NOW + 5)
    assert msgspec.json.decode(outcome)["exit_code"] == 7


def test_a_task_that_left_in_the_commit_it_came_in_leaves_no_row(conn, lab):
    lab.submit(spec(name="first", sameness="s"))
    attempt = lab.start()
    blocker = lab.submit(spec(name="blocker"))
    lab.commit()
    joining = lab.submit(
        spec(name="joins", sameness="s", share=Share.JOIN, after=(blocker,), inputs=(DIGEST,))
    )
    lab.finish(lab.start())
    lab.commit()
    assert rows(conn, "SELECT task FROM ops WHERE id = ?", joining) == [(attempt.task,)]
    assert rows(conn, "SELECT id FROM tasks WHERE id = ?", joining) == []
    assert rows(conn, "SELECT * FROM blob_uses") == [], "nothing would ever let go of that blob"


def test_a_task_that_leaves_later_lets_go_of_its_blobs(conn, lab):
    lab.submit(spec(name="first", sameness="s"))
    lab.start()
    blocker = lab.submit(spec(name="blocker"))
    lab.submit(spec(name="joins", sameness="s", share=Share.JOIN, after=(blocker,), inputs=(DIGEST,)))
    lab.commit()
    assert len(rows(conn, "SELECT * FROM blob_uses")) == 1
    lab.finish(lab.start())
    lab.commit()
    assert rows(conn, "SELECT * FROM blob_uses") == []


def test_edges_are_those_that_stand(conn, lab):
    old, met, new = lab.submit(*(spec(requires={"os": [name]}) for name in ("a", "b", "c")))
    waits = lab.submit(spec(after=(old,)))
    lab.engine.set_after(lab.now, waits, [After(on=met, condition=Condition.ANY), After(on=new)], Known())
    lab.engine.finish_task(lab.now, lab.engine.tasks[met], TaskState.CANCELED, Outcome(ok=False))
    lab.commit()
    assert rows(conn, "SELECT task, on_op FROM edges WHERE on_op = ?", old) == []
    lab.engine.set_after(lab.now, waits, [], Known())
    lab.commit()
    assert rows(conn, "SELECT * FROM edges") == []


def test_requests_are_kept_with_what_was_answered(conn, lab):
    lab.engine.remember_request(RequestRecord("me", "r", b"hash", b"{}", lab.now))
    lab.commit()
    assert rows(conn, "SELECT * FROM requests") == [("me", "r", b"hash", b"{}", WALL + NOW)]


def test_every_table_of_the_core_gets_rows(conn):
    busy_lab(conn).engine.remember_request(RequestRecord("me", "r", b"", b"", 1.0))
    empty = {
        table
        for (table,) in rows(conn, "SELECT name FROM sqlite_master WHERE type = 'table'")
        if rows(conn, f"SELECT COUNT(*) FROM {table}") == [(0,)]
    }
    assert empty == {"requests"}
