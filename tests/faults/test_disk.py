"""A disk that is full, fails, tears writes, loses files or flips bits, under a real daemon."""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from swarmd.client import ApiError, Client, Unreachable, task
from swarmd.store.check import check_file
from swarmd.store.errors import StoreError
from tests.faults.served import Served, refused, served, talk, until

KIB, MIB = 1 << 10, 1 << 20
TEXT = "x" * 60_000
SIDES = ("-wal", "-shm")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the library that makes calls on a file fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler (cc) to make system calls fail")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return str(library)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "swarmd.db"


def stored(path: Path) -> set[str]:
    """The request ids in the file."""
    conn = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return {row[0] for row in conn.execute("SELECT request_id FROM requests")}
    finally:
        conn.close()


async def submit_until_it_ends(client: Client, *, most: int = 400, size: int = 1) -> list[str]:
    """Submits until no answer comes; the request ids that were acknowledged."""
    acknowledged = []
    for number in range(most):
        try:
            await client.submit([task(argv=["a", TEXT]) for _ in range(size)], request_id=f"r{number}")
        except (Unreachable, ApiError):
            break
        acknowledged.append(f"r{number}")
    return acknowledged


def fill(daemon: Served, count: int = 5, size: int = 1) -> list[str]:
    return talk(daemon, partial(submit_until_it_ends, most=count, size=size))  # type: ignore[return-value]


def check_acknowledged(path: Path, acknowledged: list[str], more: int = 1, size: int = 1) -> None:
    """Each acknowledged submission is there, at most `more` others, each whole; a new daemon goes on with it."""
    with served(path) as daemon:
        known = stored(path)
        assert known >= set(acknowledged) and len(known) <= len(acknowledged) + more
        assert fill(daemon, len(acknowledged) + 2, size)[: len(acknowledged)] == acknowledged
    assert check_file(path) == []


# ------------------------------------------------------------- no space


def limit_size(daemon: Served, size: int) -> None:
    """No file of the daemon may grow above `size` bytes."""
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_on_a_full_disk_submissions_are_refused_reads_go_on_and_held_answers_leave_later(path):
    """docs/architecture.md, "When a commit fails": nothing acknowledged is lost, nobody need start anything again."""

    async def story(client: Client) -> None:
        before = await client.submit([task(argv=["a"])])
        limit_size(daemon, path.with_name("swarmd.db-wal").stat().st_size)
        answers: list[list[str]] = []
        async with trio.open_nursery() as nursery:

            async def held() -> None:
                answers.append(
                    await client.submit([task(argv=["b", TEXT]) for _ in range(8)], request_id="held")
                )

            nursery.start_soon(held)
            await until(lambda c: is_full(c), client)
            started = time.monotonic()
            with pytest.raises(ApiError) as refusal:
                await client.submit([task(argv=["c"])])
            assert refusal.value.status == 507 and refusal.value.code == "no_space"
            assert (await client.get(before[0])).state == "PENDING"
            assert time.monotonic() - started < 2 and not answers
            limit_size(daemon, resource.RLIM_INFINITY)
            with trio.fail_after(5):
                while not answers:
                    await trio.sleep(0.05)
        assert (
            await client.submit([task(argv=["b", TEXT]) for _ in range(8)], request_id="held") == answers[0]
        )
        assert await client.submit([task(argv=["c"])])

    async def is_full(client: Client) -> bool:
        return (await client.health()).out_of_space

    with served(path) as daemon:
        talk(daemon, story)
    assert check_file(path) == []


def test_a_daemon_stopped_on_a_full_disk_says_so_and_loses_nothing_acknowledged(path):
    """Told to stop while there is no space, it ends with a sentence, not with silence."""

    async def story(client: Client) -> None:
        limit_size(daemon, path.with_name("swarmd.db-wal").stat().st_size)
        async with trio.open_nursery() as nursery:

            async def held() -> None:
                with pytest.raises((Unreachable, ApiError)):
                    await client.submit([task(argv=["b", TEXT])], request_id="held")

            nursery.start_soon(held)
            await until(lambda c: is_full(c), client)
            daemon.process.terminate()

    async def is_full(client: Client) -> bool:
        return (await client.health()).out_of_space

    with served(path) as daemon:
        acknowledged = fill(daemon)
        talk(daemon, story)
        code, errors = daemon.ended()
    assert code == 1 and "no space" in errors and "Traceback" not in errors.splitlines()[-1]
    assert stored(path) == set(acknowledged)


def test_a_backup_without_room_fails_alone(path, tmp_path):
    """The caller is told; the daemon and what it holds go on; nothing is left behind."""
    with served(path) as daemon:
        fill(daemon, 20)
        limit_size(daemon, 256 * KIB)
        with pytest.raises((ApiError, Unreachable)):
            talk(daemon, backup_of)
        limit_size(daemon, resource.RLIM_INFINITY)
        assert len(fill(daemon, 25)) == 25
        assert talk(daemon, backup_of) > 20 * len(TEXT)  # type: ignore[operator]
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".swarmd-backup")]
    assert check_file(path) == []


async def backup_of(client: Client) -> int:
    async with client.backup() as response:
        return len(await response.read(100 * MIB))


# ------------------------------------------------------------- a failing disk


def faulty(shim: str, tmp_path: Path, call: str, file: str, at: int, do: str) -> dict[str, str]:
    return {
        "LD_PRELOAD": shim, "FAULT_CALL": call, "FAULT_FILE": file, "FAULT_AT": str(at), "FAULT_DO": do,
        "FAULT_ARMED": str(tmp_path / "armed"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "call, do, at",
    [
        ("sync", "EIO", 1),
        pytest.param("sync", "EIO", 4, marks=pytest.mark.nightly),
        pytest.param("write", "EIO", 3, marks=pytest.mark.nightly),
        ("write", "EROFS", 1),
    ],
)
def test_a_failing_disk_stops_the_daemon_and_nothing_acknowledged_is_lost(shim, path, tmp_path, call, do, at):
    """A failed fsync is never tried again and believed: the daemon says so and ends with exit code 1. A file system
    that became read-only is the same."""
    with served(path, **faulty(shim, tmp_path, call, ".db-wal", at, do)) as daemon:
        before = fill(daemon, 3)
        (tmp_path / "armed").touch()
        after = talk(daemon, submit_until_it_ends)
        code, errors = daemon.ended()
    assert len(before) == 3 and code == 1, errors
    assert any(line.startswith("swarmd: ") and "commit failed" in line for line in errors.splitlines()), (
        errors
    )
    check_acknowledged(path, sorted({*before, *after}, key=lambda r: int(r[1:])))  # type: ignore[misc]


def test_a_stop_waits_for_what_was_not_committed_yet(shim, path, tmp_path):
    """A commit is under way when the stop comes; the moment of the stop goes into the next one."""
    with served(path, **faulty(shim, tmp_path, "sync", ".db-wal", 1, "slow")) as daemon:
        place = urlsplit(daemon.url)
        (tmp_path / "armed").touch()
        body = b'{"tasks": [{"noop": true}]}'
        with socket.create_connection((place.hostname, place.port)) as sock:  # who asked does not wait for it
            sock.sendall(
                b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            end = time.monotonic() + 20
            while not (tmp_path / "armed.now").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
        time.sleep(0.2)  # of the second that the commit takes; it makes the two moments different
        daemon.process.terminate()
        assert daemon.ended()[0] == 0
    with closing(sqlite3.connect(path)) as conn:
        created, noted = conn.execute("SELECT created_wall, wall FROM ops, clock").fetchone()
    assert noted >= created + 0.2


@pytest.mark.parametrize(
    "do, call, at",
    [
        ("tear", "write", 2),
        ("kill", "sync", 1),
        *(pytest.param("kill", "write", at, marks=pytest.mark.nightly) for at in (1, 2, 5, 40)),
        *(pytest.param("tear", "write", at, marks=pytest.mark.nightly) for at in (1, 3, 5, 17, 33, 40, 65)),
        pytest.param("kill", "sync", 3, marks=pytest.mark.nightly),
    ],
)
def test_a_kill_between_any_two_writes_of_a_commit(shim, path, tmp_path, do, call, at):
    """The process ends in the middle of a commit, also in the middle of a frame of the WAL."""
    with served(path, **faulty(shim, tmp_path, call, ".db-wal", at, do)) as daemon:
        fill(daemon, 3)
        (tmp_path / "armed").touch()
        acknowledged = ["r0", "r1", "r2", *talk(daemon, submit_until_it_ends)]  # type: ignore[misc]
        assert daemon.ended()[0] == 9
    check_acknowledged(path, sorted(set(acknowledged), key=lambda r: int(r[1:])))


@pytest.mark.parametrize(
    "call, at, do",
    [
        ("write", 700, "tear"),
        pytest.param("write", 1, "tear", marks=pytest.mark.nightly),
        pytest.param("write", 100, "kill", marks=pytest.mark.nightly),
        pytest.param("sync", 1, "kill", marks=pytest.mark.nightly),
    ],
)
def test_a_kill_in_a_checkpoint(shim, path, tmp_path, call, at, do):
    """The process ends while pages go from the WAL to the file: the WAL still has them all."""
    with served(path, **faulty(shim, tmp_path, call, "swarmd.db", at, do)) as daemon:
        (tmp_path / "armed").touch()
        acknowledged = talk(daemon, partial(submit_until_it_ends, size=40))
        assert daemon.ended()[0] == 9
    assert 4 < len(acknowledged) < 30  # type: ignore[arg-type]
    check_acknowledged(path, acknowledged, size=40)  # type: ignore[arg-type]


# ------------------------------------------------------------- files that are not what they were


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_taken_away_under_the_daemon_ends_it(path, tmp_path, how):
    """Nothing is acknowledged into a file that nobody will find again."""
    with served(path) as daemon:
        fill(daemon, 3)
        if how == "removed":
            path.rename(tmp_path / "elsewhere")
        else:
            shutil.copy(path, tmp_path / "copy")
            os.replace(tmp_path / "copy", path)
        assert talk(daemon, partial(submit_until_it_ends, most=50)) == [
            "r0",
            "r1",
            "r2",
        ]  # repeated, no change
        code, errors = daemon.ended()
    assert code == 1 and f"was {how}" in errors


def test_a_second_daemon_on_the_file_is_refused_and_the_first_goes_on(path, tmp_path):
    """One writer, also by another name of the file; the refusal names the holder."""
    (tmp_path / "link.db").symlink_to(path)
    with served(path) as daemon:
        for name in (path, tmp_path / "link.db"):
            assert str(daemon.process.pid) in refused(name)
        assert fill(daemon, 2) == ["r0", "r1"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """A file system that is read-only from the start: a sentence, nothing made."""
    assert "no folder" in refused(tmp_path / "missing" / "swarmd.db")
    (tmp_path / "a.db").mkdir()
    assert "not a regular file" in refused(tmp_path / "a.db")
    (tmp_path / "b.db").write_bytes(b"something else" * 100)
    assert "not an SQLite database" in refused(tmp_path / "b.db")


# ------------------------------------------------------------- bytes that are not what they were


def killed_with(path: Path, count: int = 6) -> list[str]:
    """A file with its WAL, as `kill -9` leaves them."""
    with served(path) as daemon:
        acknowledged = fill(daemon, count)
        daemon.kill()
    assert path.with_name("swarmd.db-wal").stat().st_size
    return acknowledged


@pytest.mark.parametrize("tail", [b"\0" * 8192, random.Random(1).randbytes(20_000)])
def test_bytes_behind_the_end_of_the_wal_are_ignored(path, tail):
    """Zeros or garbage that a crash left behind the last commit change nothing."""
    acknowledged = killed_with(path)
    with path.with_name("swarmd.db-wal").open("ab") as wal:
        wal.write(tail)
    check_acknowledged(path, acknowledged, more=0)


def test_a_wal_cut_in_its_last_frame_loses_that_commit_and_no_other(path):
    """A disk that lost its end: what remains is a moment that was, never half a commit."""
    acknowledged = killed_with(path)
    wal = path.with_name("swarmd.db-wal")
    os.truncate(wal, wal.stat().st_size - 2_000)
    check_acknowledged(path, acknowledged[:-1], more=0)


def test_flipped_bits_are_named_by_check_and_never_end_in_a_traceback(path, tmp_path):
    """`check` names page damage that can be seen; a daemon that reads such a page does not start looking healthy."""
    with served(path) as daemon:
        fill(daemon, 5)
    good = path.read_bytes()
    rng = random.Random(4)
    pages = range(1, len(good) // 4096)
    refusals = 0
    for page in rng.sample(pages, 6):
        bad = bytearray(good)
        for place in range(8):  # the page's header: what kind it is and where its cells are
            bad[page * 4096 + place] ^= 0xFF
        path.write_bytes(bad)
        try:
            found = {fault.name for fault in check_file(path)}
        except StoreError as error:
            found = {error.code}
        overflow = (
            good[page * 4096 + 4 : page * 4096 + 12].count(b"x") == 8
        )  # text alone: no check of pages sees it
        assert overflow or found & {"page_damage", "damaged_file"}, (page, found)
    for name in ("tasks", "ops", "clock"):
        root = root_of(good, tmp_path, name)
        bad = bytearray(good)
        bad[(root - 1) * 4096 : (root - 1) * 4096 + 8] = b"\xff" * 8
        path.write_bytes(bad)
        errors = refused(path)
        refusals += "malformed" in errors or "damaged" in errors or "cannot be read" in errors
    assert refusals == 3


def root_of(raw: bytes, folder: Path, table: str) -> int:
    copy = folder / "copy.db"
    copy.write_bytes(raw)
    conn = sqlite3.connect(copy)
    try:
        return int(conn.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0])
    finally:
        conn.close()
        for side in SIDES:
            copy.with_name(copy.name + side).unlink(missing_ok=True)


# ------------------------------------------------------------- migrations


STEPS = """
import os, sqlite3, sys
from pathlib import Path
from swarmd.store.migrate import Migration, migrate
from swarmd.store.schema import CORE_MIGRATIONS, MIGRATIONS
path, point = Path(sys.argv[1]), sys.argv[2]
more = Migration(len(CORE_MIGRATIONS) + 1, "more", ("CREATE TABLE more (a)", "ALTER TABLE ops ADD COLUMN more"))
conn = sqlite3.connect(path, isolation_level=None)
migrate(conn, path, {"core": (*CORE_MIGRATIONS, more)}, failpoint=lambda name: name == point and os._exit(9))
"""


@pytest.mark.parametrize("step", [pytest.param("1", marks=pytest.mark.nightly), "commit"])
def test_a_kill_in_a_migration_leaves_the_version_before_it_and_a_copy(path, tmp_path, step):
    """The released program opens the file again, with everything in it; the copy taken first is whole."""
    acknowledged = killed_with(path)
    version = sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0]
    ended = subprocess.run(
        [sys.executable, "-c", STEPS, str(path), f"core-{version + 1}-{step}"], check=False
    )
    assert ended.returncode == 9
    [copy] = tmp_path.glob("*.bak")
    assert stored(copy) == set(acknowledged)
    check_acknowledged(path, acknowledged, more=0)
