"""Each question to the file gives what was committed, through an index."""

import itertools

import pytest

from swarmd.core.model import Condition, Share, TaskState
from swarmd.core.submitting import After
from swarmd.store import queries
from swarmd.store.queries import (
    attempts_of,
    events,
    events_after,
    graph,
    graph_counts,
    graph_keys,
    last_event,
    list_graphs,
    ops_done,
    output_state,
    read_merged,
    read_output,
    requests,
    same_tasks,
    specs_for_retry,
    task_text,
    works_of,
)
from swarmd.store.selecting import MAX_IDS_PER_QUERY, OpFilter, list_ops, matching_ops, ops_by_id
from tests.store.builders import DIGEST, Lab, busy_lab, new_database, spec
from tests.store.test_loading import plans_of

T = TaskState


@pytest.fixture
def conn():
    return new_database()


@pytest.fixture
def lab(conn):
    lab = Lab(conn)
    lab.bot(slots=1_000)
    return lab


@pytest.fixture(scope="module")
def busy():
    conn = new_database()
    lab = busy_lab(conn)
    lab.submit(*(spec(name=f"pool{n}", pool="lab", tags=("nightly",)) for n in range(3)))
    lab.commit()
    return conn


def test_hot_lookups_use_their_indexes(busy):
    hot = {
        "tasks_same": lambda: same_tasks(busy, ["old"]),
        "ops_graph": lambda: graph_counts(busy, 5),
        "events_op": lambda: events(busy, op=5, limit=10),
        "events_bot": lambda: events(busy, bot="bot1", limit=10),
        "events_graph": lambda: events(busy, graph=5, limit=10),
        "output_stream": lambda: read_output(busy, 5, "stdout", 0, 10),
        "output_merged": lambda: read_merged(busy, 5, 0, 10),
        "attempts_task": lambda: attempts_of(busy, 5),
        "ops USING INTEGER PRIMARY KEY|o USING INTEGER PRIMARY KEY": lambda: ops_by_id(busy, [5]),
    }
    for index, action in hot.items():
        steps = [text for plan in plans_of(busy, action).values() for text in plan]
        assert any(part in text for text in steps for part in index.split("|")), (index, steps)
        assert not any(text.startswith("SCAN") for text in steps), (index, steps)


# ------------------------------------------------------------- single things


def test_more_ids_than_a_statement_takes(conn, lab):
    ids = lab.submit(*(spec() for _ in range(2 * MAX_IDS_PER_QUERY + 3)))
    lab.commit()
    assert set(ops_by_id(conn, [*ids, 7, ids[0]])) == set(ids)
    assert set(works_of(conn, ids)) == set(ids)
    assert matching_ops(conn, OpFilter(ids=tuple(ids)), 10_000) == ids[::-1]
    assert ops_by_id(conn, iter(ids)).keys() == set(ids)


def test_an_operation_tells_its_own_end_and_else_its_task_s(conn):
    lab = busy_lab(conn)
    every = {row.name: row for row in list_ops(conn, OpFilter(), None, 100)}
    assert (every["joins"].state, every["joins"].ok, every["joins"].task) == (
        T.RUNNING,
        None,
        every["original"].task,
    )
    assert (every["original"].state, every["original"].ok) == (T.CANCELED, False)
    assert every["original"].reason.startswith("withdrawn")
    assert (every["reuses"].state, every["reuses"].ok) == (T.COMPLETED, True)
    assert every["stopping"].stop_reason == "canceled" and every["stopping"].bot == "bot1"
    assert (every["bad"].exit_code, every["bad"].reason, every["bad"].number) == (1, "as told", 1)
    done = ops_done(conn, [row.id for row in every.values()])
    assert (
        done[every["reuses"].id] is True and done[every["bad"].id] is False and every["joins"].id not in done
    )
    assert lab.engine.tasks


def test_what_was_submitted_is_told_and_can_be_submitted_again(conn, lab):
    first = lab.submit(spec(name="first"))
    id = lab.submit(
        spec(name="n", key="k", tags=("a",), priority=3, retries=2, retry_wait_s=1.5, inputs=(DIGEST,), index=4,
             line="l", sameness="s", after=(After(on=first, condition=Condition.ANY),))
    )  # fmt: skip
    lab.finish(lab.start())
    lab.finish(lab.start())
    lab.commit()
    text = task_text(conn, id, id)
    assert text.after == ((first, "any"),) and text.work[0].inputs[0].blob == DIGEST and text.sameness == "s"
    ((row, again),) = specs_for_retry(conn, [id])
    assert row.id == id and again.retry_of == id
    assert (again.name, again.key, again.tags, again.priority, again.retries) == ("n", "k", ("a",), 3, 2)
    assert (again.retry_wait_s, again.index, again.line, again.owner) == (1.5, 4, "l", "me")
    assert task_text(conn, 77, 77) is None and specs_for_retry(conn, [77]) == []


def test_the_newest_good_task_of_a_key_is_found(conn, lab):
    lab.run(spec(sameness="s"))
    newest = lab.run(spec(sameness="s"))
    lab.run(spec(sameness="s"), ok=False)
    lab.submit(spec(sameness="s"), spec(sameness="only alive", share=Share.JOIN))
    lab.commit()
    assert same_tasks(conn, ["s", "only alive", "none"]) == {"s": newest}


def test_graphs(conn):
    lab = busy_lab(conn)
    build, done = list_graphs(conn, None, 10)
    assert (build.name, build.is_open, build.failed) == ("build", True, 1)
    assert (done.name, done.is_open, done.alive) == ("done", False, 0)
    assert (
        list_graphs(conn, build.id, 10) == [done]
        and graph(conn, build.id) == build
        and graph(conn, 7) is None
    )
    counts = graph_counts(conn, build.id)
    assert sum(counts.values()) == build.alive + 1 and counts["COMPLETED"] == 1
    assert list(graph_keys(conn, build.id, ["f", "none"])) == ["f"]
    assert build.alive == len(lab.engine.graphs[build.id].alive)


def test_events_newest_first_and_in_order_for_streams(conn, lab):
    id = lab.run(spec())
    told = events(conn, op=id, limit=10)
    assert [e.state for e in told] == [T.COMPLETED, T.RUNNING, T.PENDING]
    assert events(conn, op=id, before=told[0].id, limit=1) == [told[1]]
    assert [e.kind for e in events(conn, bot="bot1", limit=10)] == ["bot.connected"]
    assert [e.id for e in events_after(conn, told[2].id, 10)] == [told[1].id, told[0].id]
    assert last_event(conn) == told[0].id


def test_a_request_is_found_by_its_owner_and_id(conn, lab):
    conn.execute("INSERT INTO requests VALUES ('me', 'r', x'01', x'02', 1)")
    assert requests(conn, [("me", "r"), ("me", "s"), ("you", "r")]) == {("me", "r"): (b"\1", b"\2")}


# ------------------------------------------------------------- output


def test_output_reads_across_pieces_and_gaps(conn, lab):
    lab.submit(spec())
    attempt = lab.start()
    whole = bytearray()
    for number, size in enumerate((1, 127, 128, 5_000, 3)):
        gap = 10 * (number % 2)
        data = bytes([65 + number]) * size  # shorter ones are kept plain, longer ones packed
        whole += b"\0" * gap + data
        lab.write(attempt, "stdout", len(whole) - size, data)
        lab.write(attempt, "stderr", number, b"!")
    lab.commit()
    edges = sorted({0, 1, 10, 11, 12, 137, 138, 139, 266, 276, 277, 5_000, len(whole) - 1, len(whole)})
    for start, stop in itertools.combinations(edges, 2):
        assert read_output(conn, attempt.id, "stdout", start, stop) == whole[start:stop], (start, stop)
    assert read_output(conn, attempt.id, "stderr", 0, 5) == b"!!!!!"
    assert read_output(conn, attempt.id, "stdout", 5, 5) == b""
    state = output_state(conn, attempt.task, None)
    assert state.streams == {"stdout": (len(whole), 0), "stderr": (5, 0)} and not state.over


def test_all_output_as_one_stream_in_the_order_of_arrival(conn, lab):
    lab.submit(spec())
    attempt = lab.start()
    whole = bytearray()
    ends = {"stdout": 0, "stderr": 0}
    for number, size in enumerate((300, 1, 128, 5_000, 3)):
        stream = ("stdout", "stderr")[number % 2]
        gap = 4 * (number == 2)
        data = bytes([65 + number]) * size
        whole += b"\0" * gap + data
        lab.write(attempt, stream, ends[stream] + gap, data)
        ends[stream] += gap + size
        if number == 2:
            lab.commit()
    lab.commit()
    edges = sorted({0, 1, 299, 300, 301, 305, 306, 432, 433, 434, len(whole) - 4, len(whole) - 1, len(whole)})
    for start, stop in itertools.combinations(edges, 2):
        assert read_merged(conn, attempt.id, start, stop) == whole[start:stop], (start, stop)
    assert read_merged(conn, attempt.id, 5, 5) == read_merged(conn, attempt.id, 5, 1) == b""
    assert output_state(conn, attempt.task, None).merged_end == len(whole)
    assert read_merged(conn, attempt.id + 1, 0, 3) == b"\0\0\0"  # the caller keeps to what there is


def test_a_read_of_output_is_bounded(conn, lab, monkeypatch):
    monkeypatch.setattr(queries, "MAX_READ_BYTES", 10)
    lab.submit(spec())
    attempt = lab.start()
    lab.write(attempt, "stdout", 0, b"0123456789abcdef")
    lab.commit()
    assert read_output(conn, attempt.id, "stdout", 2, 16) == b"23456789ab"
    assert read_merged(conn, attempt.id, 2, 16) == b"23456789ab"


def test_output_of_one_attempt_or_the_newest(conn, lab):
    id = lab.submit(spec(retries=1))
    first = lab.start()
    lab.finish(first, ok=False)
    second = lab.start()
    lab.finish(second)
    lab.commit()
    assert output_state(conn, id, None).attempt == second.id and output_state(conn, id, None).over
    assert output_state(conn, id, first.id).attempt == first.id
    assert output_state(conn, id + 1, first.id) is None
    assert [(row.number, row.outcome.ok) for row in attempts_of(conn, id)] == [(1, False), (2, True)]
