"""Each fault is found by its name, and legal data by none."""

import hashlib
import os
import sqlite3

import pytest
import trio
import trio_asyncio

from swarmd.store.backend import open_backend
from swarmd.store.check import MAX_EACH, OUTPUT_FAULTS, check_file
from swarmd.store.errors import StoreError
from swarmd.store.schema import MIGRATIONS
from swarmd.store.writer import Writer
from swarmd.testing.clock import install_hold
from tests.store.builders import DIGEST, Lab, busy_lab, new_database, spec

LIVE = "(SELECT id FROM attempts WHERE state = 2 AND stop_reason IS NULL LIMIT 1)"
LIVE_TASK = "(SELECT task FROM attempts WHERE state = 2 AND stop_reason IS NULL LIMIT 1)"
FINAL = "(SELECT id FROM tasks WHERE state = 10 AND ok = 1 AND attempt IS NOT NULL ORDER BY id LIMIT 1)"
COPY = (
    "INSERT INTO attempts SELECT (SELECT MAX(id) + 1 FROM attempts), {task}, number + 1, bot, session, offer_key, "
    "state, offered_at, offered_wall, started_at, started_wall, accept_due_at, limit_due_at, queued, remaining_s, "
    "stop_reason, stop_since_at, stop_due_at, stop_grace_s, '{{}}', 0, outcome, ended_wall FROM attempts WHERE {which}"
)
FUTURE = "UPDATE clock SET last_id = last_id + 100"
WITH_TWO_STREAMS = (
    "(SELECT attempt FROM output GROUP BY attempt HAVING COUNT(*) = 3 ORDER BY attempt LIMIT 1)"
)

FAULTS = {
    "two_live_attempts": [FUTURE, COPY.format(task="task", which=f"id = {LIVE}")],
    "two_final_attempts": [FUTURE, COPY.format(task="task", which=f"task = {FINAL}")],
    "final_task_with_live_attempt": [f"UPDATE attempts SET task = {FINAL} WHERE state = 1"],
    "running_without_attempt": [
        "UPDATE tasks SET state = 3 WHERE id = (SELECT id FROM tasks WHERE state = 2 AND attempt IS NULL LIMIT 1)"
    ],
    "running_without_session": ["UPDATE sessions SET ended_wall = 1 WHERE bot = 'bot1'"],
    "attempt_of_unknown_task": ["UPDATE attempts SET task = 77 WHERE state = 12 OR state = 11"],
    "operation_without_task": ["UPDATE ops SET task = 77 WHERE name = 'reuses'"],
    "task_without_operation": ["DELETE FROM ops WHERE name = 'ok'"],
    "operation_without_graph": ["UPDATE ops SET graph = 77 WHERE name = 'ok'"],
    "final_without_end": ["UPDATE tasks SET ended_wall = NULL WHERE state = 13"],
    "gap_in_output": [f"DELETE FROM output WHERE attempt = {WITH_TWO_STREAMS} AND stream = 'stderr'"],
    "overlapping_output": [
        "INSERT INTO output (attempt, stream, offset, merged, size, data) SELECT attempt, stream, offset, merged, "
        f"size, data FROM output WHERE attempt = {WITH_TWO_STREAMS} AND offset = 300"
    ],
    "damaged_output": [f"UPDATE output SET data = x'0102' WHERE attempt = {WITH_TWO_STREAMS} AND offset = 300"],
    "output_of_unknown_attempt": ["UPDATE output SET attempt = 77 WHERE attempt = (SELECT MIN(attempt) FROM output)",
                                  "UPDATE attempts SET streams = '{}', merged_end = 0"],
    "missing_blob": ["UPDATE blobs SET complete = 0, sha256 = NULL"],
    "damaged_blob": ["UPDATE blob_parts SET data = x'01'"],
    "edge_to_nowhere": [
        "UPDATE edges SET on_op = 77 WHERE task = (SELECT id FROM ops WHERE name = 'later')"
    ],
    "graph_count_wrong": ["UPDATE graphs SET alive = alive + 1 WHERE name = 'build'"],
    "tag_of_nothing": ["INSERT INTO tags VALUES ('x', 77)"],
    "creation_out_of_place": ["UPDATE ops SET created_wall = created_wall + 2 WHERE name = 'ok'"],
    "id_from_the_future": ["UPDATE clock SET last_id = last_id - 100"],
    "two_open_sessions": ["UPDATE sessions SET ended_wall = NULL, end_reason = NULL, bot = 'bot1' WHERE bot = 'gone'"],
    "session_without_bot": ["DELETE FROM bots WHERE id = 'bot2'"],
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.db"
    conn = new_database(path)
    busy_lab(conn)
    conn.execute("UPDATE blobs SET sha256 = ?", (DIGEST,))
    conn.close()
    return path.read_bytes()


@pytest.fixture
def path(good, tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(good)
    return path


def plant(path, *statements):
    conn = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        assert conn.execute(statement).rowcount != 0, statement
    conn.close()


def names(path, **options):
    return {fault.name for fault in check_file(path, **options)}


def test_a_good_file_has_no_fault(path):
    assert check_file(path) == []
    assert os.listdir(path.parent) == ["a.db"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_by_its_name(path, name):
    plant(path, *FAULTS[name])
    assert names(path) == {name}
    assert all(fault.sentence.endswith(".") for fault in check_file(path))


def test_every_fault_is_planted(path):
    seen = []
    check_file(path, progress=seen.append)
    assert set(seen) == {*FAULTS, "page_damage"} and set(FAULTS) >= set(OUTPUT_FAULTS)


def test_a_lost_tail_of_a_stream_is_a_gap(path):
    plant(path, f"DELETE FROM output WHERE attempt = {WITH_TWO_STREAMS} AND offset = 300")
    assert names(path) == {"gap_in_output"}


def test_content_that_differs_from_its_digest_is_found_by_a_deep_check(path):
    assert names(path, deep=True) == {"damaged_blob"}  # the builder's digest is made up
    plant(
        path, f"UPDATE blobs SET sha256 = '{hashlib.sha256(b'content').hexdigest()}'", "DELETE FROM blob_uses"
    )
    assert names(path, deep=True) == set()


def test_a_damaged_page_is_told_and_the_rest_is_looked_at(path):
    plant(path, FUTURE, "UPDATE clock SET last_id = 1")
    conn = sqlite3.connect(path)
    root = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()[0]
    conn.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096 - 2048] = b"\x99" * 2048
    path.write_bytes(data)
    found = names(path)
    assert "page_damage" in found and found <= {"page_damage", "id_from_the_future"}


def test_many_faults_of_a_name_are_counted(path):
    plant(path, *(f"INSERT INTO tags VALUES ('t{number}', 77)" for number in range(MAX_EACH + 5)))
    faults = check_file(path)
    assert len(faults) == MAX_EACH + 1 and faults[-1].sentence == "And 5 more of these."


@pytest.mark.parametrize("second_stream", [False, True])
def test_output_that_a_bot_skipped_or_that_was_cut_is_no_fault(tmp_path, second_stream):
    conn = new_database(tmp_path / "a.db")
    lab = Lab(conn, output_limit=100)
    lab.bot()
    lab.submit(spec())
    attempt = lab.start()
    lab.write(attempt, "stdout", 10, b"skipped ten")
    lab.write(attempt, "stdout", 30, b"more")
    lab.write(attempt, "stdout", 150, b"all of it behind the limit")
    if second_stream:
        lab.write(attempt, "stderr", 5, b"later")
        lab.write(attempt, "stderr", 200, b"cut too")
        lab.write(attempt, "other", 0, b"z" * 300)
    lab.write(attempt, "stdout", 20, b"an old piece, told twice")
    lab.commit()
    assert attempt.streams["stdout"].dropped and check_file(tmp_path / "a.db") == []
    conn.close()


async def test_beside_an_open_writer(tmp_path, autojump_clock):
    install_hold(autojump_clock)
    path = tmp_path / "a.db"
    async with trio_asyncio.open_loop():
        backend = await open_backend(path, migrations=MIGRATIONS)
        writer = Writer(backend, lambda: None)
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            await writer.submit(lambda conn: conn.execute("INSERT INTO clock VALUES (1, 1, 1, 5)")).wait()
            assert check_file(path) == []
            await writer.submit(lambda conn: conn.execute("INSERT INTO tags VALUES ('x', 7)")).wait()
            assert names(path) == {"tag_of_nothing"}  # what is only in the WAL is seen
            # The locks of this process still stand: another connection cannot take the file for itself.
            other = sqlite3.connect(path, timeout=0)
            with pytest.raises(sqlite3.OperationalError):
                other.execute("PRAGMA journal_mode = DELETE")
            other.close()
            await writer.submit(lambda conn: conn.execute("DELETE FROM tags")).wait()
            assert check_file(path) == []
            writer.stop()
        await backend.close()


def test_what_cannot_be_checked_is_told(tmp_path):
    other = tmp_path / "other.db"
    conn = sqlite3.connect(other)
    conn.execute("CREATE TABLE t (a)")
    conn.close()
    (tmp_path / "text").write_text("a text that is no database" * 100)
    (tmp_path / "empty").touch()
    newer = tmp_path / "newer.db"
    for name, version in (("newer.db", 99), ("older.db", 0)):
        conn = new_database(tmp_path / name)
        conn.execute(f"PRAGMA user_version = {version}")
        if version == 0:
            conn.execute("DELETE FROM migrations")
        conn.close()
    cases = {
        tmp_path: "not_a_file", tmp_path / "none": "not_a_file", tmp_path / "empty": "not_swarmd",
        tmp_path / "text": "not_swarmd", other: "not_swarmd", newer: "newer_file", tmp_path / "older.db": "older_file",
    }  # fmt: skip
    for path, code in cases.items():
        with pytest.raises(StoreError) as caught:
            check_file(path)
        assert caught.value.code == code, path
