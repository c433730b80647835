"""Moments of creation are found among ids, also when the wall clock jumps and engine time lags behind."""

import random
import sqlite3

import pytest

from swarmd.core.changes import OpRecord
from swarmd.core.ids import COUNTER_BITS
from swarmd.store.check import check_file
from swarmd.store.creation import MAX_OP, NOTE_OFFSET, Span, forget_unused, has_unused, offset_of, span_of
from swarmd.store.migrate import migrate, versions
from swarmd.store.schema import CORE_MIGRATIONS, MIGRATIONS
from swarmd.store.selecting import OpFilter, count_ops, list_ops
from tests.store.builders import NOW, WALL, Lab, new_database, spec

HOUR = 3_600.0


@pytest.fixture
def conn():
    return new_database()


def offsets(conn):
    return conn.execute("SELECT first, low, high FROM wall_offsets ORDER BY first").fetchall()


def op(id, created_at):
    return OpRecord(id, id, 0, "", "", "default", "me", 0, (), None, None, created_at)


def jumpy(conn):
    """A lab whose clocks go apart and together again; ids of operations in the order of their submission."""
    lab = Lab(conn)
    ids = []
    for wall, pause in (
        (WALL, 10),
        (WALL + 0.4, 10),
        (WALL + HOUR, 10),
        (WALL - HOUR, 1),
        (WALL, 20),
        (WALL, 1),
    ):
        lab.wall = wall
        for _ in range(3):
            lab.now += pause
            ids.append(lab.submit(spec()))
        lab.commit()
    return ids


def test_a_row_is_made_where_the_clocks_went_apart_and_not_for_less(conn):
    ids = jumpy(conn)
    found = offsets(conn)
    assert [first for first, _, _ in found] == [ids[0], ids[6], ids[9], ids[12]]
    assert [(round(low, 3), round(high, 3)) for _, low, high in found] == [
        (WALL + apart - 1, WALL + apart + 1) for apart in (0, HOUR, -HOUR, 0)
    ]


def test_the_offset_of_ids_that_ran_ahead_of_engine_time_is_noted_too(conn):
    ahead = [op(9_000 << COUNTER_BITS, 8.0), op((9_000 << COUNTER_BITS) + 1, 9.0)]
    assert offset_of(ahead, 100.0) == (9_000 << COUNTER_BITS, 99.0, 100.0, 1.0)
    conn.execute(NOTE_OFFSET, offset_of(ahead, 100.0))
    assert offsets(conn) == [(9_000 << COUNTER_BITS, 98.0, 101.0)]
    conn.execute(NOTE_OFFSET, offset_of([op(9_001 << COUNTER_BITS, 9.001)], 101.0))
    assert len(offsets(conn)) == 1
    conn.execute(NOTE_OFFSET, offset_of([op(9_002 << COUNTER_BITS, 9.002)], 101.5))
    assert len(offsets(conn)) == 2


def test_a_span_has_every_operation_of_a_range_and_its_sure_part_no_other(conn):
    ids = jumpy(conn)
    made = dict(conn.execute("SELECT id, created_wall FROM ops"))
    moments = [None, *sorted({moment + d for moment in made.values() for d in (-1.5, -0.5, 0, 0.5, 1.5)})]
    for begin in moments:
        for end in moments:
            span = span_of(conn, begin, end)
            for id in ids:
                within = (begin is None or made[id] >= begin) and (end is None or made[id] < end)
                if within:
                    assert span.start <= id < span.stop, (begin, end)
                if span.sure_start <= id < span.sure_stop and span.start <= id < span.stop:
                    assert within, (begin, end)


def test_spans_are_narrow(conn):
    ids = jumpy(conn)
    made = dict(conn.execute("SELECT id, created_wall FROM ops"))
    early = span_of(conn, made[ids[9]], made[ids[11]] + 1)  # by the wall clock these are among the first
    assert [id for id in ids if early.start <= id < early.stop] == ids[9:12]
    span = span_of(conn, None, made[ids[1]] + 5)
    assert span.stop <= ids[12] and span.sure_start == 0
    assert span_of(conn, made[ids[-1]] + HOUR * 3, None).start > ids[-1]  # there may be some one day
    assert span_of(conn, None, 5.0) == Span(0, 0, 0, 0)
    assert span_of(conn, None, None) == Span(0, MAX_OP, 0, MAX_OP)


def test_nothing_is_found_in_an_empty_file(conn):
    assert span_of(conn, 1.0, None) == Span(0, 0, 0, 0)
    wanted = OpFilter(created_from=1.0)
    assert list_ops(conn, wanted, None, 10) == [] and count_ops(conn, wanted) == 0


def test_rows_that_only_forgotten_operations_needed_go(conn):
    ids = jumpy(conn)
    assert not has_unused(conn)
    conn.execute("DELETE FROM ops WHERE id < ?", (ids[8],))
    assert has_unused(conn)
    forget_unused(conn)
    assert [first for first, _, _ in offsets(conn)] == [ids[6], ids[9], ids[12]] and not has_unused(conn)
    conn.execute("DELETE FROM ops")
    forget_unused(conn)
    assert len(offsets(conn)) == 3  # the next operation may need the last one


def test_an_older_file_gets_its_offsets_from_its_operations(tmp_path):
    path = tmp_path / "a.db"
    conn = new_database(path)
    ids = jumpy(conn)
    before = offsets(conn)
    for statement in (
        "DROP TABLE wall_offsets",
        "DROP INDEX ops_sharing",
        "DROP INDEX ops_ended",
        "DELETE FROM migrations WHERE number = 2",
        "PRAGMA user_version = 1",
    ):
        conn.execute(statement)
    assert versions(conn) == {"core": 1}
    migrate(conn, path, MIGRATIONS)
    found = offsets(conn)
    assert [first for first, _, _ in found] == [first for first, _, _ in before]
    for (_, low, high), (_, known_low, known_high) in zip(found, before, strict=True):
        assert abs(low - known_low) < 0.5 and abs(high - known_high) < 0.5
    assert [row.id for row in list_ops(conn, OpFilter(created_before=NOW + WALL + 25), None, 10)] == [
        *ids[11:8:-1], *ids[1::-1],
    ]  # fmt: skip
    fresh = new_database()
    shape = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert conn.execute(shape).fetchall() == fresh.execute(shape).fetchall()
    conn.close()
    assert check_file(path) == []


def test_an_older_file_without_operations_is_migrated(tmp_path):
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn, None, {"core": CORE_MIGRATIONS[:1]})
    migrate(conn, None, MIGRATIONS)
    assert offsets(conn) == []


def test_random_clocks(conn):
    rng = random.Random(7)
    lab = Lab(conn)
    for _ in range(60):
        if rng.random() < 0.4:
            lab.wall += rng.choice((-86_400, -HOUR, -2, -0.7, 0.7, 2, HOUR, 86_400))
        lab.now += rng.choice((0, 0.001, 1, 60, HOUR))
        lab.submit(spec())
        lab.commit()
    made = dict(conn.execute("SELECT id, created_wall FROM ops"))
    moments = sorted(made.values())
    for begin in moments[::5]:
        for end in moments[::7]:
            wanted = OpFilter(created_from=begin, created_before=end)
            expected = sorted((id for id, moment in made.items() if begin <= moment < end), reverse=True)
            assert [row.id for row in list_ops(conn, wanted, None, 100)] == expected
            assert count_ops(conn, wanted) == len(expected)
