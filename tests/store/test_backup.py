"""A backup is one moment, in one file, made while the daemon writes."""

import os
import sqlite3
import stat

import pytest
import trio
import trio_asyncio

from swarmd.store import backup as backup_module
from swarmd.store.backend import open_backend
from swarmd.store.backup import backup
from swarmd.store.errors import StoreError
from swarmd.store.migrate import Migration

TABLES = {
    "core": [Migration(1, "start", ("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", "CREATE TABLE u (a)"))]
}


@pytest.fixture(params=["file", "memory"])
async def backend(request, tmp_path):
    async with trio_asyncio.open_loop():
        backend = await open_backend(
            tmp_path / "a.db" if request.param == "file" else None, migrations=TABLES
        )
        yield backend
        await backend.close()


@pytest.fixture
def target(tmp_path):
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "b.db"


def fill(count, size=1000):
    return lambda conn: conn.executemany(
        "INSERT INTO t (b) VALUES (?)", [(os.urandom(size),) for _ in range(count)]
    )


def pair(conn):
    conn.execute("INSERT INTO t (b) VALUES (1)")
    conn.execute("INSERT INTO u VALUES (1)")


def ask(path, query):
    conn = sqlite3.connect(path)
    try:
        return conn.execute(query).fetchone()[0]
    finally:
        conn.close()


async def test_a_backup_has_everything_in_one_private_file(backend, target):
    await backend.transact(fill(100))
    size = await backup(backend, target)
    assert [path.name for path in target.parent.iterdir()] == ["b.db"]
    assert size == target.stat().st_size and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (
        target.read_bytes()[18:20] == b"\x01\x01"
    )  # no WAL: the file stands alone, also on a read-only disk
    read_only = f"file:{target}?mode=ro&immutable=1"
    conn = sqlite3.connect(read_only, uri=True)
    assert conn.execute("SELECT COUNT(*) FROM t").fetchone() == (100,)
    assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    conn.close()


async def test_the_daemon_opens_a_backup_as_its_file(backend, target):
    await backend.transact(fill(3))
    await backup(backend, target)
    again = await open_backend(target, migrations=TABLES)
    assert await again.read(lambda conn: conn.execute("SELECT COUNT(*) FROM t").fetchone()) == (3,)
    await again.close()


async def test_commits_go_on_and_the_copy_is_one_moment(backend, target, monkeypatch):
    monkeypatch.setattr(backup_module, "STEP_PAGES", 1)  # as often interrupted as possible
    await backend.transact(fill(2000))
    done = trio.Event()
    commits = 0

    async def commit():
        nonlocal commits
        while not done.is_set():
            await backend.transact(pair)
            commits += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await backup(backend, target)
        done.set()
    assert commits >= 1
    assert ask(target, "SELECT COUNT(*) FROM t") - 2000 == ask(target, "SELECT COUNT(*) FROM u") <= commits
    assert ask(target, "PRAGMA integrity_check") == "ok"


async def test_an_existing_target_is_refused(backend, target):
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists already") as caught:
        await backup(backend, target)
    assert caught.value.code == "target_exists" and target.read_text() == "precious"


async def test_a_target_in_a_missing_folder_is_refused(backend, tmp_path):
    with pytest.raises(StoreError, match="existing folder") as caught:
        await backup(backend, tmp_path / "nowhere" / "b.db")
    assert caught.value.code == "target_unusable"


async def test_a_failed_copy_is_removed(backend, target, monkeypatch):
    def no_sync(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "_sync", no_sync)
    with pytest.raises(StoreError, match="No space left") as caught:
        await backup(backend, target)
    assert caught.value.code == "copy_failed" and list(target.parent.iterdir()) == []
    monkeypatch.undo()
    await backup(backend, target)


async def test_a_cancelled_copy_stops_early_and_is_removed(tmp_path, target, monkeypatch):
    import threading

    monkeypatch.setattr(backup_module, "STEP_PAGES", 1)
    stop_if_cancelled, steps, begun = backup_module._stop_if_cancelled, [], threading.Event()

    def step(conn):
        steps.append(None)
        begun.set()
        while not conn.cancelled:  # wait for the cancel in the first step
            pass
        stop_if_cancelled(conn)

    monkeypatch.setattr(backup_module, "_stop_if_cancelled", step)
    async with trio_asyncio.open_loop():
        backend = await open_backend(tmp_path / "a.db", migrations=TABLES)
        await backend.transact(fill(100))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backup, backend, target)
            assert await trio.to_thread.run_sync(begun.wait, 10)
            nursery.cancel_scope.cancel()
        assert len(steps) == 1 and list(target.parent.iterdir()) == []
        monkeypatch.undo()
        await backup(backend, target)  # the reader is usable
        await backend.close()
