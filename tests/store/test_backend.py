"""The backend: both kinds pass the same tests; what only a file can do comes after."""

import errno
import math
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
import trio
import trio_asyncio

from swarmd.store.backend import APPLICATION_ID, READERS, FileBackend, open_backend
from swarmd.store.errors import StoreBroken, StoreError
from swarmd.store.migrate import Migration
from swarmd.testing.clock import ClockHold, install_hold

TABLE = {"core": [Migration(1, "start", ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",))]}
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


@pytest.fixture
async def loop():
    async with trio_asyncio.open_loop():
        yield


@pytest.fixture(params=["file", "memory"])
async def backend(request, tmp_path, loop):
    backend = await open_backend(tmp_path / "a.db" if request.param == "file" else None, migrations=TABLE)
    yield backend
    await backend.close()


@pytest.fixture
async def file(tmp_path, loop):
    backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
    assert isinstance(backend, FileBackend)
    yield backend
    await backend.close()


def insert(*values):
    return lambda conn: (
        conn.executemany("INSERT INTO t (b) VALUES (?)", [(value,) for value in values]).rowcount
    )


def contents(conn):
    return [row[0] for row in conn.execute("SELECT b FROM t ORDER BY a")]


async def test_a_transaction_is_seen_by_the_next_read(backend):
    assert await backend.transact(insert("x", "y")) == 2
    assert await backend.read(contents) == ["x", "y"]


@pytest.mark.parametrize("cause", [ValueError("no"), sqlite3.IntegrityError("made up")])
async def test_a_failure_rolls_all_back_and_arrives_unchanged(backend, cause):
    def fail(conn):
        insert("gone")(conn)
        raise cause

    with pytest.raises(type(cause)) as caught:
        await backend.transact(fail)
    assert caught.value is cause
    assert await backend.read(contents) == []
    await backend.transact(insert("after"))
    assert await backend.read(contents) == ["after"]


async def test_a_stray_stop_iteration_does_not_hang(backend):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await backend.transact(lambda conn: next(iter(())))


async def test_a_failing_statement_rolls_back_what_stood_before_it(backend):
    def fail(conn):
        insert("gone")(conn)
        conn.execute("INSERT INTO missing VALUES (1)")

    with pytest.raises(sqlite3.OperationalError, match="missing"):
        await backend.transact(fail)
    assert await backend.read(contents) == []


async def test_a_function_that_ends_the_transaction_is_our_bug(backend):
    with pytest.raises(AssertionError, match="must not end it"):
        await backend.transact(lambda conn: conn.execute("COMMIT"))


async def test_a_read_cannot_write(backend):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await backend.read(insert("x"))
    await backend.transact(insert("y"))
    assert await backend.read(contents) == ["y"]


async def test_a_failing_read_leaves_its_connection_usable(backend):
    for _ in range(READERS + 1):
        with pytest.raises(ZeroDivisionError):
            await backend.read(lambda conn: 1 / 0)
    assert await backend.read(contents) == []


async def test_a_transaction_ignores_a_cancel(backend):
    with trio.CancelScope() as scope:
        scope.cancel()
        await backend.transact(insert("x"))
    assert await backend.read(contents) == ["x"]


async def test_the_file_names_its_program(backend):
    assert (
        await backend.read(lambda conn: conn.execute("PRAGMA application_id").fetchone()[0]) == APPLICATION_ID
    )


# A file only.


async def test_reads_go_on_beside_each_other_and_beside_a_write(file):
    import threading

    started, go = threading.Semaphore(0), threading.Event()

    def slow_read(conn):
        before = contents(conn)
        started.release()
        assert go.wait(10)
        return before, contents(conn)

    results = []

    async def read():
        results.append(await file.read(slow_read))

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(read)
        for _ in range(READERS):
            assert await trio.to_thread.run_sync(lambda: started.acquire(timeout=10))
        await file.transact(insert("new"))  # does not wait for the readers
        go.set()
    assert results == [([], [])] * READERS  # one snapshot each
    assert await file.read(contents) == ["new"]


async def test_a_cancelled_read_stops_and_leaves_its_connection_usable(file):
    for _ in range(READERS + 1):
        with trio.move_on_after(0.02) as scope:
            await file.read(lambda conn: conn.execute(ENDLESS).fetchone())
        assert scope.cancelled_caught
    with trio.fail_after(5):
        assert await file.read(contents) == []


async def test_a_cancelled_read_stops_between_statements_too(file):
    def many(conn):
        while not conn.cancelled:
            conn.execute("SELECT 1").fetchone()
        conn.execute(ENDLESS).fetchone()

    with trio.move_on_after(0.02) as scope:
        await file.read(many)
    assert scope.cancelled_caught
    assert await file.read(contents) == []


async def test_settings(file):
    def settings(conn):
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size", "temp_store", "query_only")
        found = {name: conn.execute(f"PRAGMA {name}").fetchone() for name in names}
        return {name: row and row[0] for name, row in found.items()}

    write, read = await file.transact(settings), await file.read(settings)
    assert write["journal_mode"] == read["journal_mode"] == "wal"
    assert (write["synchronous"], write["query_only"], read["query_only"]) == (2, 0, 1)
    assert write["wal_autocheckpoint"] > 0 and read["wal_autocheckpoint"] == 0  # one connection checkpoints
    assert write["temp_store"] == read["temp_store"] == 2
    assert not write["mmap_size"] and not read["mmap_size"]


async def test_durability_process_does_not_sync_each_commit(tmp_path, loop):
    backend = await open_backend(tmp_path / "a.db", durability="process")
    assert await backend.transact(lambda conn: conn.execute("PRAGMA synchronous").fetchone()[0]) == 1
    await backend.close()


async def test_a_new_file_is_private_and_alone_after_close(tmp_path, loop):
    backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
    await backend.transact(insert("x"))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    await backend.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.db.lock"]
    again = await open_backend(tmp_path / "a.db", migrations=TABLE)
    assert await again.read(contents) == ["x"]
    await again.close()


async def test_an_empty_file_is_a_new_one_and_keeps_its_mode(tmp_path, loop):
    (tmp_path / "a.db").touch()
    (tmp_path / "a.db").chmod(0o640)
    backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
    await backend.transact(insert("x"))
    await backend.close()
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o640


async def test_what_a_cut_off_start_left_is_removed(tmp_path, loop):
    (tmp_path / "a.db.new").write_bytes(b"half a page")
    (tmp_path / "a.db.new-journal").write_bytes(b"half a journal")
    backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
    await backend.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.db.lock"]


async def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path, loop, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError) as caught:
        await open_backend(tmp_path / "a.db", migrations=TABLE)
    assert caught.value.code == "not_writable"
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.lock"]


async def test_a_second_opening_is_refused_also_through_a_link(file, tmp_path):
    (tmp_path / "link.db").symlink_to(file.path)
    for path in (file.path, tmp_path / "link.db"):
        with pytest.raises(StoreError, match=f"pid {os.getpid()}") as caught:
            await open_backend(path)
        assert caught.value.code == "file_in_use"
    await file.transact(insert("still works"))


def foreign(path):
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE other (a)")
    conn.close()


def truncated(path):
    foreign(path)
    path.write_bytes(path.read_bytes()[:4096][:60] + b"\0" * 40)


def newer(path):
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    conn.execute("PRAGMA user_version = 7")
    conn.close()


@pytest.mark.parametrize(
    "make, code",
    [
        (lambda path: path.write_bytes(b"hello, I am a text\n" * 100), "not_swarmd"),
        (lambda path: path.write_bytes(b"short"), "not_swarmd"),
        (foreign, "not_swarmd"),
        (truncated, "not_swarmd"),
        (newer, "newer_file"),
        (lambda path: path.mkdir(), "not_a_file"),
        (lambda path: os.mkfifo(path), "not_a_file"),
    ],
)
async def test_what_is_not_ours_is_refused_and_not_touched(tmp_path, loop, make, code):
    path = tmp_path / "given.db"
    make(path)
    before = (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
    with pytest.raises(StoreError, match=r"given\.db") as caught:
        await open_backend(path, migrations=TABLE)
    assert caught.value.code == code
    assert (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) == before
    assert [found.name for found in tmp_path.iterdir()] == ["given.db"]


async def test_a_newer_version_that_is_only_in_the_wal_is_seen(tmp_path, loop):
    path, crashed = tmp_path / "a.db", tmp_path / "crashed.db"
    backend = await open_backend(path, migrations=TABLE)
    await backend.transact(lambda conn: conn.execute("PRAGMA user_version = 9"))
    for suffix in ("", "-wal"):  # as after a power failure
        (tmp_path / f"crashed.db{suffix}").write_bytes((tmp_path / f"a.db{suffix}").read_bytes())
    await backend.close()
    before = crashed.read_bytes(), (tmp_path / "crashed.db-wal").read_bytes()
    with pytest.raises(StoreError, match="version 9") as caught:
        await open_backend(crashed, migrations=TABLE)
    assert caught.value.code == "newer_file"
    assert (crashed.read_bytes(), (tmp_path / "crashed.db-wal").read_bytes()) == before


async def test_a_missing_folder(tmp_path, loop):
    with pytest.raises(StoreError, match=r"no folder .*/nowhere") as caught:
        await open_backend(tmp_path / "nowhere" / "a.db")
    assert caught.value.code == "folder_missing"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode, code", [(0o000, "not_readable"), (0o444, "not_writable")])
async def test_a_file_without_rights(loop, mode, code):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "a.db"
        foreign(path)
        path.chmod(mode)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)  # rights do not bind root
        try:
            with pytest.raises(StoreError, match=r"a\.db") as caught:
                await open_backend(path)
        finally:
            if root:
                os.seteuid(0)
    assert caught.value.code == code


@pytest.mark.parametrize("replace", [False, True])
async def test_a_removed_or_replaced_file_ends_commits(file, replace):
    await file.transact(insert("x"))
    file.path.unlink()
    if replace:
        foreign(file.path)
    with pytest.raises(StoreBroken, match="replaced" if replace else "removed"):
        await file.transact(insert("y"))


async def test_a_failed_opening_gives_the_file_free(tmp_path, loop):
    broken = {"core": [Migration(1, "bad", ("CREATE TABLE t (a)", "no SQL"))]}
    with pytest.raises(StoreError, match="bad") as caught:
        await open_backend(tmp_path / "a.db", migrations=broken)
    assert caught.value.code == "migration_failed"
    backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
    await backend.close()


async def test_virtual_time_stands_while_a_thread_works(file, autojump_clock):
    hold = install_hold(autojump_clock)
    with trio.fail_after(300):  # virtual: without the hold it passes during the first commit
        for number in range(20):
            await file.transact(insert(str(number)))
            assert len(await file.read(contents)) == number + 1
    assert trio.current_time() == pytest.approx(0)
    assert hold.held == 0
    await trio.sleep(300)
    assert trio.current_time() == pytest.approx(300)


def test_overlapping_holds_give_the_threshold_back():
    clock = trio.testing.MockClock(autojump_threshold=0.5)
    hold = ClockHold(clock)
    with hold:
        with hold:
            pass
        assert clock.autojump_threshold == math.inf
    assert clock.autojump_threshold == 0.5
