"""One daemon per file, also after a crash."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from swarmd.store.errors import StoreError
from swarmd.store.lock import FileLock, lock_path

HOLD = """
import sys, time
from pathlib import Path
from swarmd.store.lock import FileLock
lock = FileLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_has_it(tmp_path):
    first = FileLock.acquire(tmp_path / "a.db")
    with pytest.raises(
        StoreError, match=rf"a\.db is in use by another swarmd \(pid {os.getpid()}, started 2"
    ) as caught:
        FileLock.acquire(tmp_path / "a.db")
    assert caught.value.code == "file_in_use"
    first.release()
    first.release()
    FileLock.acquire(tmp_path / "a.db").release()


def test_the_database_itself_is_not_opened_and_the_lock_is_private(tmp_path):
    lock = FileLock.acquire(tmp_path / "a.db")
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.lock"]
    assert stat.S_IMODE(lock_path(tmp_path / "a.db").stat().st_mode) == 0o600


def test_a_dead_holder_is_no_holder(tmp_path):
    path = tmp_path / "a.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"pid {holder.pid},"):
            FileLock.acquire(path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert f"pid {holder.pid}," in lock_path(path).read_text()
    FileLock.acquire(path).release()


def test_text_of_an_older_holder_is_replaced(tmp_path):
    lock_path(tmp_path / "a.db").write_text("pid 1, started long ago, " + "x" * 500)
    lock = FileLock.acquire(tmp_path / "a.db")
    assert lock_path(tmp_path / "a.db").read_text().startswith(f"pid {os.getpid()}, started ")
    assert "x" not in lock_path(tmp_path / "a.db").read_text()
    lock.release()


def test_no_folder_no_lock(tmp_path):
    with pytest.raises(StoreError, match="No such file") as caught:
        FileLock.acquire(tmp_path / "nowhere" / "a.db")
    assert caught.value.code == "lock_failed"


def test_a_link_in_place_of_the_lock_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock_path(tmp_path / "a.db").symlink_to(victim)
    with pytest.raises(StoreError):
        FileLock.acquire(tmp_path / "a.db")
    assert victim.read_text() == "precious"
