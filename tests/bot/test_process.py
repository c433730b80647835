"""Real processes on the real clock, and scripted ones on virtual time."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from swarmd.bot.process import Action, Ended, PosixRunner, Start, StopSignal, Watch, read_record
from swarmd.bot.subreaper import all_pids, read_marker, read_stat
from swarmd.bot.workdir import AttemptFolder
from swarmd.testing.fake_runner import FakeRunner, Script

# Other tests on this machine may look for marks at the same time: ours are our own.
ONE, TWO = f"t{os.getpid()}-1", f"t{os.getpid()}-2"
PATIENCE_S = 30  # a loaded machine may take long; a quick one never waits for it
PYTHON = sys.executable
# A process of its own session, twice orphaned, that ignores SIGTERM and keeps its marker.
ESCAPE = "(setsid sh -c 'trap \"\" TERM; echo escaped $$; exec sleep 60' &) &"
# The same with an empty environment.
CLEARED = "(setsid env -i PATH=$PATH sh -c 'echo cleared $$; exec sleep 60' &) &"


class World:
    """A runner and folders for its attempts; `at_end` fails the test if a marked process is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runner = PosixRunner()
        self.names: list[str] = []

    def folder(self, attempt: str = ONE) -> AttemptFolder:
        return AttemptFolder(self.path / attempt)

    def start(self, *argv: str, attempt: str = ONE, cwd: Path | None = None, **more) -> Start:
        folder = self.folder(attempt)
        folder.work.mkdir(parents=True, exist_ok=True)
        self.names.append(attempt)
        return Start(
            attempt=attempt,
            argv=argv,
            env=more.pop("env", {"PATH": os.environ["PATH"]}),
            cwd=cwd or folder.work,
            stdout=folder.stdout,
            stderr=folder.stderr,
            state=folder.state,
            **more,
        )

    def shell(self, script: str, **more) -> Start:
        return self.start("sh", "-c", script, **more)

    async def run(self, start: Start, stop: StopSignal | None = None) -> Ended:
        with trio.fail_after(PATIENCE_S):
            return await self.runner.run(start, stop=stop or StopSignal())

    async def said(self, word: str, attempt: str = ONE) -> list[str]:
        """Waits for a line that begins with this word; gives the words after it."""
        with trio.fail_after(PATIENCE_S):
            while True:
                with contextlib.suppress(FileNotFoundError):
                    for line in self.folder(attempt).stdout.read_text().splitlines(keepends=True):
                        if line.endswith("\n") and line.split()[0] == word:
                            return line.split()[1:]
                await trio.sleep(0.005)

    def marked(self, attempt: str) -> list[int]:
        return [pid for pid in all_pids() if read_marker(pid) == attempt]


def lives(pid: int | str) -> bool:
    found = read_stat(int(pid))
    return found is not None and not found.is_dead


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    left = {name: world.marked(name) for name in world.names}
    world.runner.close()
    assert not any(left.values()), left


class Running:
    """A command in the background: `stop` and its `ended`."""

    def __init__(self) -> None:
        self.stop = StopSignal()
        self.ended: Ended | None = None

    async def run(self, world: World, start: Start) -> None:
        self.ended = await world.run(start, self.stop)


# How it ended


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
async def test_exit_code(world, code):
    ended = await world.run(world.shell(f"exit {code}"))
    assert (ended.exit_code, ended.signal, ended.stopped_by, ended.started) == (code, None, None, True)
    assert ended.error is None and 0 < ended.duration_s < PATIENCE_S


async def test_death_by_a_signal_of_its_own(world):
    ended = await world.run(world.shell("kill -SEGV $$"))
    assert (ended.exit_code, ended.signal, ended.stopped_by) == (None, signal.SIGSEGV, None)


async def test_output_goes_to_the_two_files_and_is_appended(world):
    await world.run(world.shell("echo one; echo two >&2"))
    await world.run(world.shell("echo three"))
    folder = world.folder()
    assert folder.stdout.read_text() == "one\nthree\n"
    assert folder.stderr.read_text() == "two\n"


async def test_one_file_for_both_streams(world):
    start = world.shell("echo one; echo two >&2; echo three")
    merged = Start(
        **{name: getattr(start, name) for name in start.__struct_fields__} | {"stderr": start.stdout}
    )
    await world.run(merged)
    assert start.stdout.read_text() == "one\ntwo\nthree\n"


async def test_what_a_command_finds(world):
    code = (
        "import os, signal, sys\n"
        "print(os.getcwd()); print(sorted(os.environ)); print(os.environ['SWARMD_ATTEMPT'])\n"
        "print(sys.stdin.read() == '', os.getsid(0) == os.getpid() == os.getpgid(0))\n"
        "print(sorted(os.listdir('/proc/self/fd')))\n"
        "print([l for l in open('/proc/self/status') if l.startswith('SigBlk')])\n"
    )
    leak = os.open("/dev/null", os.O_RDONLY)
    start = world.start(
        PYTHON,
        "-I",
        "-X",
        "utf8=0",
        "-c",
        code,
        env={"A": "ä=", "SWARMD_ATTEMPT": "lie", "LC_ALL": "C.UTF-8"},
    )
    assert (await world.run(start)).exit_code == 0
    os.close(leak)
    cwd, names, marker, facts, fds, masks = world.folder().stdout.read_text().splitlines()
    assert cwd == str(world.folder().work.resolve())
    assert names == "['A', 'LC_ALL', 'SWARMD_ATTEMPT']" and marker == ONE
    assert facts == "True True"
    assert fds == "['0', '1', '2', '3']"  # 3 lists the folder
    assert "SigBlk:\\t0000000000000000" in masks


async def test_no_signal_is_ignored_by_inheritance(world):
    await world.run(world.start("/bin/cat", "/proc/self/status"))
    line = next(line for line in world.folder().stdout.read_text().splitlines() if line.startswith("SigIgn"))
    assert int(line.split()[1], 16) & ~(0b11 << 31) == 0  # glibc sets its own 32 and 33


async def test_the_record_names_the_process(world):
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run, world, world.shell("echo ready $$; exec sleep 60"))
        pid = int((await world.said("ready"))[0])
        record = read_record(world.folder().state)
        assert (record.attempt, record.pid) == (ONE, pid)
        assert record.leader().is_it(read_stat(pid)) and not record.leader().is_it(read_stat(os.getpid()))
        assert record.born_to - record.born_from < PATIENCE_S * os.sysconf("SC_CLK_TCK")
        running.stop.request("order", 10)
    assert running.ended.signal == signal.SIGTERM


async def test_the_working_folder_of_the_bot_stays(world):
    before = os.getcwd()
    await world.run(world.start("true"))
    await world.run(world.start("no-such-program"))
    assert os.getcwd() == before


# What cannot be started


async def test_not_found(world):
    ended = await world.run(world.start("no-such-program", env={"PATH": "/nowhere:/bin"}))
    assert (ended.started, ended.exit_code) == (False, None)
    assert "'no-such-program' was not found in PATH='/nowhere:/bin'" in ended.error


async def test_argv0_is_looked_up_in_the_path_of_the_task_and_its_folder(world):
    tool = world.folder().work / "bin" / "tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho ran $0\n")
    tool.chmod(0o755)
    assert (await world.run(world.start("tool", env={"PATH": "/nowhere:bin"}))).exit_code == 0
    assert (await world.run(world.start("bin/tool", env={}))).exit_code == 0
    assert world.folder().stdout.read_text() == "ran bin/tool\n" * 2


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        ("#!/bin/sh\n", 0o644, "is not executable"),
        ("no program\n", 0o755, "neither a binary"),
        ("#!/no/such/interpreter\n", 0o755, "interpreter that does not exist"),
    ],
)
async def test_not_executable(world, content, mode, sentence):
    world.folder().work.mkdir(parents=True)
    path = world.folder().work / "tool"
    path.write_text(content)
    path.chmod(mode)
    ended = await world.run(world.start("./tool"))
    assert not ended.started and sentence in ended.error and "./tool" in ended.error


async def test_a_folder_or_a_file_without_x_in_the_path_is_no_program(world):
    work = world.folder().work
    (work / "a" / "tool").mkdir(parents=True)
    (work / "tool").write_text("")
    ended = await world.run(world.start("tool", env={"PATH": "a:."}))
    assert not ended.started and "is not executable" in ended.error


async def test_bad_working_folder(world):
    missing = world.path / "missing"
    ended = await world.run(world.start("true", cwd=missing))
    assert not ended.started and f"working folder {str(missing)!r} does not exist" in ended.error
    (world.path / "file").write_text("")
    ended = await world.run(world.start("true", cwd=world.path / "file"))
    assert not ended.started and "is not a folder" in ended.error


@pytest.mark.parametrize("argv", [(), ("",), ("true", "a\0b")])
async def test_arguments_that_no_kernel_takes(world, argv):
    ended = await world.run(world.start(*argv))
    assert not ended.started and "cannot be started" in ended.error


async def test_too_long_arguments(world):
    ended = await world.run(world.start("true", "x" * (1 << 18)))
    assert not ended.started and "too long" in ended.error


async def test_output_file_that_cannot_be_opened(world):
    start = world.start("true")
    start.stdout.symlink_to("/dev/null")
    ended = await world.run(start)
    assert not ended.started and "could not open the output file" in ended.error


async def test_a_stop_asked_for_before_starts_nothing(world):
    stop = StopSignal()
    stop.request("order")
    ended = await world.run(world.shell("touch ran"), stop)
    assert (ended.started, ended.stopped_by, ended.error) == (False, "order", None)
    assert not (world.folder().work / "ran").exists()


# Limits and stops


async def test_hard_limit(world):
    ended = await world.run(world.start("sleep", "60", hard_limit_s=0.1, grace_s=10))
    assert (ended.stopped_by, ended.signal, ended.exit_code) == ("hard_limit", signal.SIGTERM, None)
    assert ended.duration_s >= 0.1


async def test_after_the_grace_comes_sigkill(world):
    ended = await world.run(world.shell("trap '' TERM; sleep 60 & wait; wait", hard_limit_s=0.2, grace_s=0.2))
    assert (ended.stopped_by, ended.signal) == ("hard_limit", signal.SIGKILL)
    assert ended.duration_s >= 0.4


async def test_a_command_may_end_with_a_code_within_the_grace(world):
    script = "trap 'echo bye; exit 3' TERM; echo ready; sleep 60 & wait"
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run, world, world.shell(script))
        await world.said("ready")
        assert running.stop.request("order", 20)
        assert not running.stop.request("another", 0)  # twice is one effect
    assert (running.ended.exit_code, running.ended.stopped_by) == (3, "order")
    assert world.folder().stdout.read_text() == "ready\nbye\n"


async def test_the_group_keeps_its_grace_when_the_first_process_dies(world):
    slow = "trap 'sleep 0.2; echo saved; exit' TERM; echo ready; while :; do sleep 0.02; done"
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run, world, world.shell(f'sh -c "{slow}" & wait'))
        await world.said("ready")
        running.stop.request("order", 20)
    assert running.ended.signal == signal.SIGTERM
    assert "saved" in world.folder().stdout.read_text()


async def test_a_suspended_command_can_follow_sigterm(world):
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            running.run, world, world.shell("trap 'exit 4' TERM; echo ready; kill -STOP $$; sleep 60")
        )
        await world.said("ready")
        running.stop.request("order", 20)
    assert running.ended.exit_code == 4


async def test_io_limit(world):
    ended = await world.run(world.shell("echo ready; exec sleep 60", io_limit_s=0.2, grace_s=10))
    assert (ended.stopped_by, ended.signal) == ("io_limit", signal.SIGTERM)


async def test_growing_output_of_either_stream_keeps_the_io_limit_away(world):
    script = "for i in 1 2 3 4 5 6; do sleep 0.1; echo $i >&2; done"
    ended = await world.run(world.shell(script, io_limit_s=5))
    assert (ended.stopped_by, ended.exit_code) == (None, 0)


def test_watch_counts_the_io_limit_from_the_last_growth_and_looks_seldom(world):
    watch = Watch(world.start("x", io_limit_s=100.0, hard_limit_s=1000.0), 0.0, 0.0, 10)
    action, now, looks = Action.NOTHING, 0.0, 0
    while action is Action.NOTHING:
        now = watch.wake_at()
        looks += 1
        size = 10 if now < 42 else 11
        action = watch.look(now, StopSignal(), lambda size=size: size)
    assert watch.stopped_by == "io_limit"
    assert now == 145.0  # growth at 42 is seen at 45: 5 % of the limit late
    assert looks <= 30
    assert watch.wake_at() == 175.0


# Nothing is left behind


async def test_a_background_process_ends_with_its_command(world):
    ended = await world.run(world.shell("trap '' TERM; sleep 60 & echo child $!"))
    assert ended.exit_code == 0
    assert not lives((await world.said("child"))[0])


async def test_a_grandchild_that_ignores_sigterm(world):
    script = "sh -c 'trap \"\" TERM; echo ready $$; sleep 60; sleep 60' & wait"
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run, world, world.shell(script))
        pid = (await world.said("ready"))[0]
        running.stop.request("order", 0.1)
    assert running.ended.signal == signal.SIGTERM
    assert not lives(pid)


@pytest.mark.parametrize(("script", "word"), [(ESCAPE, "escaped"), (CLEARED, "cleared")])
async def test_an_escaped_process_ends_with_its_command(world, script, word):
    wait = f"until grep -q {word} ../stdout; do sleep 0.01; done"
    ended = await world.run(world.shell(f"{script} {wait}"))
    assert ended.exit_code == 0
    assert not lives((await world.said(word))[0])


async def test_a_tree_of_sessions_is_killed_layer_by_layer(world):
    layer = "setsid sh -c 'setsid sh -c \"env -i sleep 61 & echo deep \\$!; wait\" & wait' &"
    running = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run, world, world.shell(f"{layer} sleep 60"))
        pid = (await world.said("deep"))[0]
        running.stop.request("order", 0.1)
    assert not lives(pid)


async def test_a_process_that_forks_away_again_and_again(world):
    hop = "import os, time\nos.setsid()\nprint('hops', flush=True)\n"
    hop += "while True:\n if os.fork(): os._exit(0)\n time.sleep(0.002)"
    start = world.shell(
        f'{PYTHON} -I -S -c "$HOP" & until grep -q hops ../stdout; do sleep 0.01; done',
        env={"PATH": os.environ["PATH"], "HOP": hop},
    )
    assert (await world.run(start)).left == ()


@pytest.mark.parametrize("escape", [ESCAPE, CLEARED])
async def test_two_attempts_with_escapees_are_told_apart(world, escape):
    word = "escaped" if escape is ESCAPE else "cleared"
    one, two = Running(), Running()
    async with trio.open_nursery() as nursery:
        for running, name in ((one, ONE), (two, TWO)):
            nursery.start_soon(running.run, world, world.shell(f"{escape} exec sleep 60", attempt=name))
        first, second = (await world.said(word, ONE))[0], (await world.said(word, TWO))[0]
        one.stop.request("order", 0.1)
        with trio.fail_after(PATIENCE_S):
            while one.ended is None:
                await trio.sleep(0.01)
        assert lives(second) and two.ended is None
        assert world.marked(ONE) == []
        if escape is ESCAPE:
            assert not lives(first)
        two.stop.request("order", 0.1)
    assert not lives(first) and not lives(second)


async def test_a_child_of_the_bot_itself_is_left_alone(world):
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            assert (await world.run(world.shell(f"{ESCAPE} exit 5"))).exit_code == 5
            assert other.poll() is None
        finally:
            other.kill()
        await world.run(world.start("true"))
        assert other.wait() == -signal.SIGKILL  # its status was not taken either


async def test_cancellation_kills_and_reaps(world):
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            script = f"trap '' TERM; {ESCAPE} echo ready $$; sleep 60; sleep 60"
            nursery.start_soon(world.run, world.shell(script))
            pid, escaped = (await world.said("ready"))[0], (await world.said("escaped"))[0]
            nursery.cancel_scope.cancel()
    assert not lives(escaped)
    assert read_stat(int(pid)) is None  # reaped, not only dead


async def test_many_in_a_row_leave_no_zombie_and_no_descriptor(world):
    start = world.start("/bin/true")
    fds = sorted(os.listdir("/proc/self/fd"))
    for _ in range(200):
        assert (await world.run(start)).exit_code == 0
    assert sorted(os.listdir("/proc/self/fd")) == fds
    assert [pid for pid in all_pids() if (s := read_stat(pid)) and s.ppid == os.getpid() and s.is_dead] == []


async def test_zombies_of_a_running_command_are_reaped_meanwhile(world, monkeypatch):
    monkeypatch.setattr("swarmd.bot.process.SWEEP_S", 0.05)
    running = Running()
    async with trio.open_nursery() as nursery:
        script = "(setsid sh -c 'echo daemon $$' &) & wait; sleep 60"
        nursery.start_soon(running.run, world, world.shell(script))
        pid = int((await world.said("daemon"))[0])
        with trio.fail_after(PATIENCE_S):
            while read_stat(pid) is not None:
                await trio.sleep(0.01)
        running.stop.request("order", 10)


async def test_no_descriptor_left_for_the_pidfd(world, monkeypatch):
    def full(pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    ended = await world.run(world.start("sleep", "60"))
    assert not ended.started and "could not watch 'sleep': Too many open files" in ended.error


async def test_what_does_not_die_is_reported_and_reaped_later(world, monkeypatch):
    monkeypatch.setattr("swarmd.bot.process.REAP_S", 0.1)
    monkeypatch.setattr(
        "swarmd.bot.process.kill_group", lambda pgid, number: None
    )  # as if it hung in the kernel
    ended = await world.run(world.start("sleep", "60", hard_limit_s=0.05, grace_s=0.05))
    (pid,) = ended.left
    assert (ended.exit_code, ended.signal, ended.stopped_by) == (None, None, "hard_limit")
    assert f"processes {pid} did not end" in ended.error
    monkeypatch.undo()
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(PATIENCE_S):
        while read_stat(pid) is not None:
            await world.run(world.start("true"))


async def test_a_command_survives_the_exec_of_its_bot(world):
    """A process replaces itself by exec; the new program resumes the command and gets its exit code."""
    start = world.shell("echo ready; until test -e go; do sleep 0.01; done; exit 9")
    program = (
        "import os, sys, trio; from pathlib import Path\n"
        "from swarmd.bot.process import PosixRunner, Start, StopSignal\n"
        "from swarmd.bot.workdir import AttemptFolder\n"
        "f = AttemptFolder(Path(sys.argv[1]))\n"
        "start = Start(attempt=sys.argv[4], argv=('sh', '-c', sys.argv[3]), env=dict(os.environ),\n"
        "              cwd=f.work, stdout=f.stdout, stderr=f.stderr, state=f.state)\n"
        "async def first():\n"
        "    async with trio.open_nursery() as n:\n"
        "        n.start_soon(lambda: PosixRunner().run(start, stop=StopSignal()))\n"
        "        while not f.stdout.exists() or not f.stdout.read_text(): await trio.sleep(0.01)\n"
        "        more = [sys.argv[1], 'second', *sys.argv[3:]]\n"
        "        os.execv(sys.executable, [sys.executable, '-c', PROGRAM, *more])\n"
        "async def second():\n"
        "    (f.work / 'go').touch()\n"
        "    print(await PosixRunner().resume(start, stop=StopSignal()))\n"
        "trio.run(first if sys.argv[2] == 'first' else second)\n"
    )
    program = f"PROGRAM = {program!r}\n" + program.replace(
        "PROGRAM,", "'PROGRAM = ' + repr(PROGRAM) + chr(10) + PROGRAM,"
    )
    argv = [PYTHON, "-c", program, str(world.folder().path), "first", start.argv[2], ONE]
    done = await trio.run_process(argv, capture_stdout=True)
    assert b"exit_code=9" in done.stdout and b"started=True" in done.stdout
    ended = await world.runner.resume(start, stop=StopSignal())  # nobody's child any more
    assert "its exit code is lost" in ended.error


# Scripted processes


async def test_scripted_end_and_output(world, autojump_clock):
    script = Script(
        after_s=100, exit_code=3, output=((1, "stdout", b"a"), (50, "stderr", b"b"), (200, "stdout", b"c"))
    )
    runner = FakeRunner(script)
    ended = await runner.run(world.start("x"), stop=StopSignal())
    assert ended == Ended(exit_code=3, duration_s=100)
    assert world.folder().stdout.read_bytes() == b"a" and world.folder().stderr.read_bytes() == b"b"
    assert runner.running == {} and len(runner.starts) == 1


@pytest.mark.parametrize(
    ("script", "limits", "ended"),
    [
        (Script(after_s=1e6), {"hard_limit_s": 60}, Ended(signal=15, duration_s=60, stopped_by="hard_limit")),
        (
            Script(after_s=1e6, ignores_sigterm=True),
            {"hard_limit_s": 60},
            Ended(signal=9, duration_s=90, stopped_by="hard_limit"),
        ),
        (
            Script(after_s=1e6, term_s=7),
            {"hard_limit_s": 60},
            Ended(signal=15, duration_s=67, stopped_by="hard_limit"),
        ),
        (
            Script(after_s=1e6, term_s=99),
            {"hard_limit_s": 60},
            Ended(signal=9, duration_s=90, stopped_by="hard_limit"),
        ),
        (
            Script(after_s=1e6, output=((10, "stdout", b"x"),)),
            {"io_limit_s": 20},
            Ended(signal=15, duration_s=30, stopped_by="io_limit"),
        ),
        (Script(error="no such thing"), {}, Ended(started=False, error="no such thing")),
    ],
)
async def test_scripted_limits(world, autojump_clock, script, limits, ended):
    assert await FakeRunner({"x": script}).run(world.start("x", **limits), stop=StopSignal()) == ended


async def test_scripted_stop_and_cancellation(world, autojump_clock):
    runner, stop = FakeRunner(lambda start: Script(after_s=1e6, ignores_sigterm=True)), StopSignal()
    async with trio.open_nursery() as nursery:

        async def run():
            ended = await runner.run(world.start("x"), stop=stop)
            assert ended == Ended(signal=9, duration_s=15, stopped_by="order")

        nursery.start_soon(run)
        await trio.sleep(10)
        stop.request("order", 5)
    with trio.move_on_after(5) as scope:
        await runner.run(world.start("x"), stop=StopSignal())
    assert scope.cancelled_caught and runner.running == {}


def test_time_is_not_needed_to_read_a_stop():
    stop = StopSignal()
    began = time.monotonic()
    assert stop.request("order", 1.5) and (stop.reason, stop.grace_s) == ("order", 1.5)
    assert time.monotonic() - began < PATIENCE_S
