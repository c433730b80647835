"""Lists and counts give what matches, through an index."""

import itertools

import pytest

from swarmd.core.model import TaskState
from swarmd.store import selecting
from swarmd.store.selecting import OpFilter, count_ops, list_ops, matching_ops
from tests.store.builders import NOW, WALL, Lab, busy_lab, new_database, spec
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


def names(conn, wanted, before=None, limit=100):
    return [row.name for row in list_ops(conn, wanted, before, limit)]


# ------------------------------------------------------------- lists

FILTERS = {
    "states": [(T.PENDING,), (T.BLOCKED, T.RUNNING), (T.COMPLETED,),
               (T.CANCELED,), (T.EXPIRED,), (T.CANCELED, T.BLOCKED)],
    "pool": ["default", "lab", "none"],
    "tag": ["nightly", "none"],
    "tags": [(("none", "x"),), (("nightly",), ("x",)), (("nightly", "x", "x"), ("none",)), ((),)],
    "created_from": [NOW + WALL, NOW + WALL + 10, NOW + WALL + 11, NOW + WALL + 12],
    "created_before": [NOW + WALL, NOW + WALL + 10, NOW + WALL + 11, NOW + WALL + 12],
    "shared": [True, False],
    "name": ["ok", "reuses", "none"],
    "bot": ["bot1", "bot2", "gone", "none"],
    "failed": [True, False],
}  # fmt: skip


def agrees(row, wanted):
    """The filter, spelled out on a whole row."""
    return (
        (not wanted.states or row.state in wanted.states)
        and (not wanted.pool or row.pool == wanted.pool)
        and (not wanted.tag or wanted.tag in row.tags)
        and all(set(choice) & set(row.tags) for choice in wanted.tags)
        and (wanted.created_from is None or row.created_wall >= wanted.created_from)
        and (wanted.created_before is None or row.created_wall < wanted.created_before)
        and (wanted.shared is None or (row.task != row.id) == wanted.shared)
        and (not wanted.name or row.name == wanted.name)
        and (wanted.graph is None or row.graph == wanted.graph)
        and (not wanted.bot or row.bot == wanted.bot)
        and (wanted.failed is None or (row.state.is_final and not row.ok) == wanted.failed)
        and (not wanted.ids or row.id in wanted.ids)
    )


@pytest.fixture(scope="module")
def busy():
    conn = new_database()
    lab = busy_lab(conn)
    lab.submit(*(spec(name=f"pool{n}", pool="lab", tags=("nightly",)) for n in range(3)))
    lab.commit()
    return conn


def filters(busy):
    every = list_ops(busy, OpFilter(), None, 1_000)
    options = {
        **FILTERS,
        "graph": [next(row.graph for row in every if row.graph), 77],
        "ids": [tuple(row.id for row in every[::2]), (5,)],
    }
    single = [{name: value} for name, values in options.items() for value in values]
    pairs = [
        {a: x, b: y} for a, b in itertools.combinations(options, 2) for x in options[a] for y in options[b]
    ]
    return every, [OpFilter(**one) for one in [{}, *single, *pairs]]


@pytest.mark.parametrize("window", [1, 7, 2_000])
def test_each_filter_and_each_pair_gives_the_rows_that_agree(busy, monkeypatch, window):
    monkeypatch.setattr(selecting, "WINDOW", window)
    every, wanted = filters(busy)
    assert len(every) >= 25
    for one in wanted:
        expected = [row.id for row in every if agrees(row, one)]
        assert [row.id for row in list_ops(busy, one, None, 1_000)] == expected, one
        assert matching_ops(busy, one, 1_000) == expected, one
        assert matching_ops(busy, one, 2) == expected[:2], one
        assert count_ops(busy, one) == len(expected), one


@pytest.mark.parametrize("window", [1, 2_000])
def test_pages_give_each_row_once(busy, monkeypatch, window):
    monkeypatch.setattr(selecting, "WINDOW", window)
    for wanted in (OpFilter(), OpFilter(failed=True), OpFilter(states=(T.PENDING, T.BLOCKED)), OpFilter(bot="bot1")):
        whole = [row.id for row in list_ops(busy, wanted, None, 1_000)]
        paged, before = [], None
        while page := list_ops(busy, wanted, before, 3):
            paged += [row.id for row in page]
            before = page[-1].id
        assert paged == whole and len(whole) > 3


def test_a_cursor_is_stable_while_rows_arrive(conn, lab):
    lab.submit(*(spec(name=f"t{n}") for n in range(10)))
    lab.commit()
    first = list_ops(conn, OpFilter(), None, 4)
    lab.submit(*(spec(name="new") for _ in range(5)))
    lab.commit()
    assert names(conn, OpFilter(), first[-1].id) == [f"t{n}" for n in range(5, -1, -1)]


def test_filters_use_their_indexes(busy, monkeypatch):
    monkeypatch.setattr(selecting, "WINDOW", 1)
    expected = {
        "tag": (OpFilter(tag="nightly"), "SEARCH tags USING PRIMARY KEY"),
        "graph": (OpFilter(graph=5), "ops USING COVERING INDEX ops_graph"),
        "name": (OpFilter(name="ok"), "ops USING COVERING INDEX ops_name"),
        "pool": (OpFilter(pool="lab"), "ops USING COVERING INDEX ops_pool"),
        "bot": (OpFilter(bot="bot1"), "attempts USING INDEX attempts_bot"),
        "alive": (OpFilter(states=(T.RUNNING,)), "tasks USING COVERING INDEX tasks_alive"),
        "final": (OpFilter(states=(T.EXPIRED,)), "tasks USING COVERING INDEX tasks_final"),
        "failed": (OpFilter(failed=True), "tasks USING COVERING INDEX tasks_final"),
        "ok": (OpFilter(failed=False), "tasks USING COVERING INDEX tasks_final"),
    }
    for name, (wanted, step) in expected.items():
        plans = plans_of(busy, lambda wanted=wanted: list_ops(busy, wanted, None, 3))
        steps = [text for plan in plans.values() for text in plan]
        assert any(step in text for text in steps), (name, steps)
        for text in steps:  # the only scan is that of the operations that share a task, in an index of just these
            assert not text.startswith("SCAN") or "INDEX ops_shared" in text or "(subquery" in text, (name, text)
