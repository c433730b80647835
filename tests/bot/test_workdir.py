import contextlib
import os
import subprocess
import sys

import pytest
import trio

from swarmd.bot import workdir
from swarmd.bot.process import LeaderRecord, write_record
from swarmd.bot.subreaper import all_pids, boot_id, read_marker, read_stat
from swarmd.bot.workdir import WorkFolder, WorkFolderError

PATIENCE_S = 30


@pytest.fixture
def folder(tmp_path):
    with WorkFolder(tmp_path / "bot") as folder:
        yield folder


@contextlib.contextmanager
def sleeping(**more):
    """A process that only sleeps, and is gone at the end of the test, also of a failing one."""
    with subprocess.Popen(["sleep", "60"], **more) as process:
        try:
            yield process
        finally:
            process.kill()


def lives(pid: int) -> bool:
    found = read_stat(pid)
    return found is not None and not found.is_dead


def test_two_bots_never_share_a_folder(folder):
    with pytest.raises(WorkFolderError, match=f"in use by the bot with process {os.getpid()};.*--work-dir"):
        WorkFolder(folder.path)
    folder_again = None
    folder.close()
    try:
        folder_again = WorkFolder(folder.path)
    finally:
        folder._lock = folder_again._lock  # the fixture closes it


def test_the_key_is_private_and_stays(tmp_path):
    with WorkFolder(tmp_path / "a" / "bot") as first:
        key = first.bot_key
        path = first.path / "bot_key"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    with WorkFolder(tmp_path / "a" / "bot") as second:
        assert second.bot_key == key and len(key) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    with WorkFolder(tmp_path / "b") as other:
        assert other.bot_key != key


def test_a_torn_key_is_refused(tmp_path):
    with WorkFolder(tmp_path) as folder:
        path = folder.path / "bot_key"
    path.write_text("")
    with pytest.raises(WorkFolderError, match="does not hold a key; remove it"):
        WorkFolder(tmp_path)
    path.unlink()
    (tmp_path / "bot_key.new").write_text("of a bot that crashed")
    with WorkFolder(tmp_path) as folder:  # the refusal above gave the lock back
        assert len(folder.bot_key) >= 32


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkFolderError, match="choose another with --work-dir"):
        WorkFolder(tmp_path / "file" / "bot")


def test_attempts(folder):
    made = folder.add_attempt("t1-1")
    assert made.work.is_dir() and folder.attempts() == ["t1-1"]
    with pytest.raises(FileExistsError):
        folder.add_attempt("t1-1")
    for bad in ("", "..", ".hidden", "a/b", "a\0", "x" * 129):
        with pytest.raises(ValueError, match="attempt"):
            folder.attempt(bad)


def test_free_mib(folder):
    found = os.statvfs(folder.path)
    assert abs(folder.free_mib() - found.f_bavail * found.f_frsize / (1 << 20)) < 1024


# Deleting


async def test_remove_deletes_all_and_follows_no_link(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    work = folder.add_attempt("t1-1").work
    (work / "a" / "b").mkdir(parents=True)
    (work / "a" / "b" / "file").write_text("x")
    (work / "empty").mkdir()
    (work / "link").symlink_to(outside)
    (work / "dead").symlink_to("nowhere")
    os.mkfifo(work / "fifo")
    folder.add_attempt("t2-1")
    assert await folder.remove("t1-1") == []
    assert folder.attempts() == ["t2-1"] and os.listdir(folder.path / "trash") == []
    assert (outside / "file").read_text() == "stays"
    assert await folder.remove("t1-1") == []  # it is gone already


async def test_remove_of_a_very_deep_tree(folder):
    here = os.open(folder.add_attempt("t1-1").work, os.O_RDONLY)
    for _ in range(3000):  # deeper than PATH_MAX, the recursion limit and the descriptors of a process
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert await folder.remove("t1-1") == []
    assert os.listdir(folder.path / "trash") == []


def test_remove_of_read_only_folders(tmp_path):
    """As an ordinary user, who may not write to a folder without the w permission (root may)."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    program = (
        "import os, sys, trio\n"
        "from swarmd.bot.workdir import WorkFolder\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "folder = WorkFolder(__import__('pathlib').Path(sys.argv[1]) / 'bot')\n"
        "work = folder.add_attempt('t1-1').work\n"
        "(work / 'a' / 'b').mkdir(parents=True); (work / 'a' / 'b' / 'file').touch()\n"
        "for path in (work / 'a' / 'b', work / 'a', work, work.parent): path.chmod(0)\n"
        "print(trio.run(folder.remove, 't1-1'), os.listdir(folder.path / 'trash'), folder.attempts())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[] [] []\n", "")


async def test_what_cannot_be_deleted_is_a_sentence_and_stays_in_the_trash(folder, monkeypatch):
    folder.add_attempt("t1-1")

    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        problems = await folder.remove("t1-1")
    assert problems and all("Operation not permitted" in problem for problem in problems)
    assert folder.attempts() == []
    assert await folder.empty_trash() == [] and os.listdir(folder.path / "trash") == []


async def test_deleting_takes_a_bounded_time_and_gives_others_their_turn(folder, autojump_clock, monkeypatch):
    monkeypatch.setattr(workdir, "ENTRIES_PER_STEP", 10)
    work = folder.add_attempt("t1-1").work
    for number in range(100):
        (work / str(number)).touch()
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert await folder.remove("t1-1") == []
        nursery.cancel_scope.cancel()
    assert turns >= 10
    monkeypatch.setattr(workdir, "REMOVE_S", 0)
    (folder.add_attempt("t2-1").work / "file").touch()
    assert "could not be emptied" in (await folder.remove("t2-1"))[0]


# After a crash. Other tests on this machine may look for marks at the same time: ours are our own.

PREFIX = f"t{os.getpid()}"
ONE, TWO = f"{PREFIX}-1", f"{PREFIX}-2"

BOT = """
import os, sys, trio
from pathlib import Path
from swarmd.bot.process import PosixRunner, Start, StopSignal
from swarmd.bot.workdir import WorkFolder
folder, runner = WorkFolder(Path(sys.argv[1])), PosixRunner()
async def one(attempt, script):
    f = folder.add_attempt(attempt)
    await runner.run(Start(attempt=attempt, argv=('sh', '-c', script), env=dict(os.environ), cwd=f.work,
        stdout=f.stdout, stderr=f.stderr, state=f.state), stop=StopSignal())
async def main():
    async with trio.open_nursery() as nursery:
        for n, script in enumerate(sys.argv[3:], 1):
            nursery.start_soon(one, f'{sys.argv[2]}-{n}', script)
trio.run(main)
"""
SCRIPTS = (
    "trap '' TERM; (setsid sh -c 'echo $$; exec sleep 60' &) & echo $$; sleep 60; sleep 60",
    "env -i sleep 60 & echo $!; exec sleep 60",
)


async def test_leftovers_of_a_bot_that_crashed_are_killed(tmp_path):
    bot = subprocess.Popen([sys.executable, "-c", BOT, str(tmp_path / "bot"), PREFIX, *SCRIPTS])
    try:
        with trio.fail_after(PATIENCE_S):
            while len(pids := _printed(tmp_path / "bot")) < 3:
                await trio.sleep(0.01)
    finally:
        bot.kill()
        bot.wait()
    assert all(lives(pid) for pid in pids)
    with WorkFolder(tmp_path / "bot") as folder:
        assert await folder.kill_leftovers() == [ONE, TWO]
        assert not any(lives(pid) for pid in pids)
        assert [pid for pid in all_pids() if read_marker(pid) in (ONE, TWO)] == []
        for attempt in folder.attempts():
            assert await folder.remove(attempt) == []
        assert await folder.kill_leftovers() == []


def _printed(path) -> list[int]:
    found = []
    for name in (ONE, TWO):
        with contextlib.suppress(FileNotFoundError):
            text = (path / "attempts" / name / "stdout").read_text()
            found += [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return found


@pytest.mark.parametrize(("shift", "boot"), [(1, None), (0, "another boot")])
async def test_a_process_that_reuses_a_number_is_never_killed(folder, shift, boot):
    with sleeping(start_new_session=True) as other:
        born, state = read_stat(other.pid).started + shift, folder.add_attempt(ONE).state
        boot = boot or boot_id()
        record = LeaderRecord(attempt=ONE, pid=other.pid, born_from=born, born_to=born, boot_id=boot)
        write_record(state, record)
        assert await folder.kill_leftovers() == [ONE]
        assert other.poll() is None


async def test_an_attempt_without_or_with_a_torn_record_is_known(folder):
    folder.add_attempt(ONE)
    folder.add_attempt(TWO).state.write_text('{"attempt": "t2')
    with sleeping(env={"PATH": os.environ["PATH"], "SWARMD_ATTEMPT": ONE}) as marked:
        assert await folder.kill_leftovers() == [ONE, TWO]
        assert marked.wait() == -9


async def test_leftovers_that_do_not_die_are_named(folder, monkeypatch, autojump_clock):
    folder.add_attempt(ONE)
    with sleeping(env={"PATH": os.environ["PATH"], "SWARMD_ATTEMPT": ONE}) as marked:
        monkeypatch.setattr(workdir, "kill_process", lambda stat: False)
        monkeypatch.setattr(workdir, "KILL_PAUSE_S", 5)
        while read_marker(marked.pid) != ONE:
            await trio.lowlevel.checkpoint()
        with pytest.raises(WorkFolderError, match=f"processes {marked.pid} of the last bot"):
            await folder.kill_leftovers()
