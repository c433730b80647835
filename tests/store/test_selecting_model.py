"""Lists and counts against a filter in Python, over small files in which anything happened, and twins in memory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmd.core.model import Share, TaskState
from swarmd.store import selecting
from swarmd.store.selecting import OpFilter, count_ops, list_ops, matching_ops
from tests.store.builders import NOW, WALL, Lab, new_database, spec

T = TaskState
TAGS = ("pool:lab", "os:a", "os:b", "user:x", "rare:1")
JUMPS = (-3_600.0, -3.0, 0.5, 3.0, 86_400.0)

tag_sets = st.lists(st.sampled_from(TAGS), max_size=4, unique=True).map(tuple)
SHARES = (Share.NONE, Share.FINISHED, Share.JOIN, Share.JOIN)
submits = st.tuples(st.just("submit"), tag_sets, st.sampled_from(["", "k", "k"]), st.sampled_from(SHARES))
runs = st.tuples(st.just("run"), st.integers(1, 4), st.sampled_from([True, True, False]))
withdrawals = st.tuples(st.just("withdraw"), st.integers(0, 9))
others = st.one_of(
    st.tuples(st.just("start"), st.integers(1, 2)),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 1.0, 60.0])),
    st.tuples(st.just("jump"), st.sampled_from(JUMPS)),
    st.tuples(st.just("commit")),
)
parts = st.tuples(st.just("part"), tag_sets, st.integers(0, 1))
kinds = st.sampled_from([submits, submits, submits, parts, runs, withdrawals, others])
steps = st.lists(kinds.flatmap(lambda kind: kind), min_size=8, max_size=30)
# A moment is the creation of one of the operations, or near it.
moments = st.none() | st.tuples(st.integers(0, 30), st.sampled_from([-2.0, 0.0, 0.4]))
choices = st.lists(
    st.lists(st.sampled_from((*TAGS, "none:1")), min_size=1, max_size=3).map(tuple), max_size=3
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(list(T)), min_size=1, max_size=4, unique=True).map(tuple),
        "tags": choices.map(tuple),
        "failed": st.booleans(),
        "shared": st.booleans(),
        "created_from": moments,
        "created_before": moments,
        "pool": st.sampled_from(["default", "lab"]),
    },
)


@contextmanager
def database(kind: str) -> Iterator:
    if kind == "memory":
        yield new_database()
        return
    with tempfile.TemporaryDirectory() as folder:
        conn = new_database(Path(folder) / "a.db")
        conn.execute("PRAGMA synchronous = OFF")
        yield conn
        conn.close()


def live(lab, told):
    """Does what the steps say; what cannot be done is left out."""
    engine = lab.engine
    lab.bot(slots=100)
    ops = []
    for what, *rest in told:
        if what == "submit":
            tags, key, share = rest
            pool = "lab" if "pool:lab" in tags else "default"
            ops.append(
                lab.submit(
                    spec(tags=tags, pool=pool, sameness=key or None, share=share if key else Share.NONE)
                )
            )
            lab.commit()
            lab.look_up()
        elif what == "part":  # two operations share a task, and one of them is withdrawn
            both = [lab.submit(spec(tags=rest[0], sameness="p", share=Share.JOIN)) for _ in range(2)]
            engine.withdraw(lab.now, both[rest[1]], "no more", kill=True)
            ops += both
        elif what == "start":
            for attempt in lab.offer(limit=rest[0]):
                engine.accept(lab.now, attempt)
        elif what == "run":
            lab.offer(limit=rest[0])
            for attempt in list(engine.attempts.values())[: rest[0]]:
                lab.finish(attempt, ok=rest[1])
        elif what == "withdraw" and ops:
            engine.withdraw(lab.now, ops[-1 - rest[0] % len(ops)], "no more", kill=True)
        elif what == "wait":
            lab.now += rest[0]
        elif what == "jump":
            lab.commit()
            lab.wall += rest[0]
        elif what == "commit":
            lab.commit()
    lab.commit()


def facts(conn):
    """What a filter may ask of each operation, newest first, by plain statements."""
    tags = {}
    for tag, op in conn.execute("SELECT tag, op FROM tags"):
        tags.setdefault(op, set()).add(tag)
    rows = conn.execute(
        "SELECT o.id, o.task, o.ended, t.state, t.ok, o.created_wall, o.pool FROM ops o, tasks t WHERE t.id = o.task "
        "ORDER BY o.id DESC"
    )
    return [
        {
            "id": id, "state": T(ended or state), "failed": ended is not None or ok == 0, "shared": task != id,
            "created": created, "pool": pool, "tags": tags.get(id, set()),
        }
        for id, task, ended, state, ok, created, pool in rows
    ]  # fmt: skip


def agrees(fact, wanted):
    return (
        (not wanted.states or fact["state"] in wanted.states)
        and all(set(choice) & fact["tags"] for choice in wanted.tag_choices)
        and wanted.failed in (None, fact["failed"])
        and wanted.shared in (None, fact["shared"])
        and (wanted.created_from is None or fact["created"] >= wanted.created_from)
        and (wanted.created_before is None or fact["created"] < wanted.created_before)
        and wanted.pool in ("", fact["pool"])
    )


def filter_of(asked, every):
    """Moments stand for the creation of some operation."""
    known = dict(asked)
    for name in ("created_from", "created_before"):
        if known.get(name) is not None:
            place, apart = known[name]
            known[name] = (every[place % len(every)]["created"] if every else NOW + WALL) + apart
    return OpFilter(**known)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_lists_and_counts_are_those_of_a_plain_filter(kind, monkeypatch):
    @settings(max_examples=150 if kind == "memory" else 40)
    @given(
        steps,
        st.lists(filters, min_size=1, max_size=8),
        st.sampled_from([1, 3, 2_000]),
        st.sampled_from([1, 4]),
    )
    def holds(told, asked, window, few):
        monkeypatch.setattr(selecting, "WINDOW", window)
        monkeypatch.setattr(selecting, "FEW", few)
        monkeypatch.setattr(selecting, "COUNTED", (2 * few, 50))
        monkeypatch.setattr(selecting, "MAX_IDS_PER_QUERY", 2 * few)
        with database(kind) as conn:
            live(Lab(conn), told)
            every = facts(conn)
            for wanted in (filter_of(one, every) for one in asked):
                expected = [fact["id"] for fact in every if agrees(fact, wanted)]
                assert matching_ops(conn, wanted, 100) == expected, wanted
                assert matching_ops(conn, wanted, 2) == expected[:2], wanted
                assert count_ops(conn, wanted) == len(expected), wanted
                if expected:
                    below = [row.id for row in list_ops(conn, wanted, expected[0], 3)]
                    assert below == expected[1:4], wanted

    holds()
