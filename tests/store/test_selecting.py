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
               (T.CANCELED,), (T.EXPIRED,), (T.CANCELED, T.BLOCKED, T.CANCELED)],
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
    for wanted in (
        OpFilter(),
        OpFilter(failed=True),
        OpFilter(states=(T.PENDING, T.BLOCKED)),
        OpFilter(bot="bot1"),
    ):
        whole = [row.id for row in list_ops(busy, wanted, None, 1_000)]
        paged, before = [], None
        while page := list_ops(busy, wanted, before, 3):
            paged += [row.id for row in page]
            assert len(paged) <= len(whole)
            before = page[-1].id
        assert paged == whole and len(whole) > 3


def test_a_cursor_is_stable_while_rows_arrive(conn, lab):
    lab.submit(*(spec(name=f"t{n}") for n in range(10)))
    lab.commit()
    first = list_ops(conn, OpFilter(), None, 4)
    lab.submit(*(spec(name="new") for _ in range(5)))
    lab.commit()
    assert names(conn, OpFilter(), first[-1].id) == [f"t{n}" for n in range(5, -1, -1)]


def steps_of(conn, action):
    return [text for plan in plans_of(conn, action).values() for text in plan]


def test_filters_use_their_indexes(busy, monkeypatch):
    monkeypatch.setattr(selecting, "WINDOW", 1)
    expected = {
        "tag": (OpFilter(tag="nightly"), "SEARCH tags USING PRIMARY KEY (tag=? AND op>? AND op<?)"),
        "graph": (OpFilter(graph=5), "ops USING COVERING INDEX ops_graph"),
        "name": (OpFilter(name="ok"), "ops USING COVERING INDEX ops_name"),
        "pool": (OpFilter(pool="lab"), "ops USING COVERING INDEX ops_pool"),
        "bot": (OpFilter(bot="bot1"), "attempts USING INDEX attempts_bot (bot=?)"),
        "alive": (OpFilter(states=(T.RUNNING,)), "tasks USING COVERING INDEX tasks_alive"),
        "final": (OpFilter(states=(T.EXPIRED,)), "tasks USING COVERING INDEX tasks_final"),
        "failed": (OpFilter(failed=True), "tasks USING COVERING INDEX tasks_final"),
        "ok": (OpFilter(failed=False), "tasks USING COVERING INDEX tasks_final"),
        "shared": (OpFilter(shared=True), "ops USING COVERING INDEX ops_sharing (id>? AND id<?)"),
        "of shared tasks": (
            OpFilter(states=(T.COMPLETED,)),
            "ops USING COVERING INDEX ops_sharing (id>? AND id<?)",
        ),
        "sharing": (
            OpFilter(states=(T.EXPIRED,)),
            "ops USING COVERING INDEX ops_shared (task=? AND ended=? AND",
        ),
        "ended apart": (
            OpFilter(states=(T.CANCELED,)),
            "ops USING COVERING INDEX ops_ended (ended=? AND rowid>?",
        ),
        "created": (OpFilter(created_from=5.0), "SEARCH o USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    }
    for name, (wanted, step) in expected.items():
        steps = steps_of(busy, lambda wanted=wanted: list_ops(busy, wanted, None, 3))
        assert any(step in text for text in steps), (name, steps)
        for text in steps:
            assert not text.startswith("SCAN") or "(subquery" in text or text == "SCAN wall_offsets", (
                name,
                text,
            )


def test_counts_read_indexes_alone(busy, monkeypatch):
    """But for the few rows of which it must be looked up when they were created, and tasks that are shared."""
    monkeypatch.setattr(selecting, "ROW_COST", 1_000)  # else so few are counted row by row
    lab = (("nightly",), ("x", "none"))
    lookups = ("SEARCH g USING PRIMARY KEY (tag=? AND op=?)", "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)")
    for wanted in (
        OpFilter(),
        OpFilter(tags=lab),
        OpFilter(tags=lab, created_from=5.0),
        OpFilter(states=(T.PENDING, T.RUNNING)),
        OpFilter(states=(T.COMPLETED, T.EXPIRED), tags=lab, created_before=5e9),
        OpFilter(failed=True, shared=False),
        OpFilter(states=(T.KILLED, T.BOT_DIED), shared=True),
    ):
        steps = steps_of(busy, lambda wanted=wanted: count_ops(busy, wanted))
        for text in steps:
            own = text.startswith(("CORRELATED", "CO-ROUTINE"))
            covered = (
                "COVERING INDEX" in text
                or text.startswith("SEARCH tags USING PRIMARY KEY")
                or text in lookups
            )
            few = (
                text == "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"
            )  # of those that share or ended apart
            apart = text.startswith("SEARCH ops USING INDEX ops_ended")
            scans = text == "SCAN wall_offsets" or "(subquery" in text
            assert own or covered or few or apart or scans, (wanted, text)


def driven_by(conn, wanted):
    """The tags and states through which the operations of a page were found."""
    seen = []
    conn.set_trace_callback(seen.append)
    list_ops(conn, wanted, None, 5)
    conn.set_trace_callback(None)
    found = [sql for sql in seen if sql.startswith(("SELECT tags.op", "SELECT tasks.id"))]
    return {sql.split("WHERE ")[1].split(" AND ")[0] for sql in found}


@pytest.mark.parametrize("few", [1, 4, 1_000])
def test_the_rarest_filter_finds_the_page(conn, lab, monkeypatch, few):
    monkeypatch.setattr(selecting, "FEW", few)
    monkeypatch.setattr(selecting, "WINDOW", 5)
    for number in range(40):
        lab.submit(
            spec(
                name=f"t{number}", tags=("lab", "even") if number % 2 else ("lab",), requires={"os": ["none"]}
            )
        )
    lab.submit(spec(name="rare", tags=("lab", "odd")))
    lab.start()
    lab.submit(*(spec(name="new", tags=("lab",)) for _ in range(10)))
    lab.commit()
    both = OpFilter(tags=(("lab",), ("odd", "none")))
    assert driven_by(conn, both) == {"tags.tag = 'odd'", "tags.tag = 'none'"} and names(conn, both) == [
        "rare"
    ]
    turned = OpFilter(tags=both.tags[::-1])
    assert driven_by(conn, turned) == {"tags.tag = 'odd'", "tags.tag = 'none'"}
    running = OpFilter(tags=(("lab",),), states=(T.RUNNING,))
    assert driven_by(conn, running) == {"tasks.state = 3"} and names(conn, running) == ["rare"]
    waiting = OpFilter(tags=(("odd",),), states=(T.PENDING,))
    assert driven_by(conn, waiting) == {"tags.tag = 'odd'"} and names(conn, waiting) == []


def test_what_is_common_is_found_among_the_newest(conn, lab, monkeypatch):
    monkeypatch.setattr(selecting, "FEW", 4)
    lab.submit(*(spec(name="t", tags=("lab", "x")) for _ in range(20)))
    lab.commit()
    assert driven_by(conn, OpFilter(tags=(("lab",), ("x",)))) == set()
    assert driven_by(conn, OpFilter(tags=(("lab",), ("x",)), states=(T.PENDING,))) == set()
    assert driven_by(conn, OpFilter(tags=(("lab",),))) == {
        "tags.tag = 'lab'"
    }  # one that is exact needs no search
