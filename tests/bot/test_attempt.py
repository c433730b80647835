"""One attempt, from its folder to its report."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import trio

from swarmd.bot.process import PosixRunner, Start
from swarmd.core.model import Command, Input
from swarmd.testing.fake_runner import FakeRunner, Script
from tests.bot.fake_daemon import Lab, open_lab

RUN = (Command(argv=("run",)),)


class Programs:
    """Scripts by argv[0]; each may also look at its folder when it starts."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.effects: dict[str, object] = {}

    def __call__(self, start: Start) -> Script:
        effect = self.effects.get(start.argv[0])
        if callable(effect):
            effect(start)
        return self.scripts.get(start.argv[0], Script())


@pytest.fixture
def programs() -> Programs:
    return Programs()


@pytest.fixture
async def lab(tmp_path: Path, programs: Programs):
    async with open_lab(tmp_path / "bot", FakeRunner(programs)) as lab:
        yield lab


async def report_of(lab: Lab, **work):
    attempt = lab.daemon.add(**work)
    await lab.start_bot()
    await lab.daemon.until(lambda: attempt in lab.daemon.finished, within_s=5000)
    return lab.daemon.finished[attempt]


async def test_the_first_line_arrives_while_the_command_still_runs(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(
        after_s=100.0, output=((50.0, "stdout", b"first\n"), (99.0, "stderr", b"second\n"))
    )
    attempt = lab.daemon.add(commands=RUN)
    await lab.start_bot()
    await lab.daemon.until(lambda: bool(lab.daemon.output))
    assert lab.daemon.output == {(attempt, "stdout"): b"first\n"}
    assert 50.0 <= trio.current_time() < 50.06 and attempt not in lab.daemon.finished
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    assert lab.daemon.output[attempt, "stderr"] == b"second\n"


async def test_the_last_output_travels_with_the_report(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(output=((0.0, "stdout", b"out"), (0.0, "stderr", b"err")))
    report = await report_of(lab, commands=RUN)
    call = next(call for call in lab.daemon.calls if call.request.finished)
    assert [(p.stream, p.offset, p.data) for p in call.request.output] == [
        ("stdout", 0, b"out"),
        ("stderr", 0, b"err"),
    ]
    assert report.ok


@pytest.mark.parametrize("at_s", [0.0, 1.0])
async def test_large_output_goes_as_raw_bytes_before_the_report(lab, programs, autojump_clock, at_s):
    data = bytes(range(256)) * 40_000
    programs.scripts["run"] = Script(after_s=2.0, output=((at_s, "stdout", data), (1.5, "stdout", b"end")))
    await report_of(lab, commands=RUN)
    (received,) = lab.daemon.output.values()
    assert received == data + b"end"
    assert lab.daemon.raw_calls >= 2
    assert max(len(call.body) for call in lab.daemon.calls) < 400_000


async def test_output_is_neither_lost_nor_doubled_when_the_session_is(lab, programs, autojump_clock):
    lines = tuple((n / 10, "stdout", b"%d\n" % n) for n in range(300))
    programs.scripts["run"] = Script(after_s=31.0, output=lines)
    attempt = lab.daemon.add(commands=RUN)
    await lab.start_bot()
    for _ in range(5):
        await trio.sleep(5)
        lab.daemon.is_away = True
        lab.daemon.wake()
        await trio.sleep(0.5)
        lab.daemon.is_away = False
        lab.daemon.forget_session()
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    assert lab.daemon.output[attempt, "stdout"] == b"".join(line for _, _, line in lines)
    assert len(lab.daemon.opened) == 6


async def test_no_more_is_sent_than_the_bot_keeps(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(output=((0.0, "stdout", b"x" * 5000),))
    attempt = lab.daemon.add(commands=RUN)
    await lab.start_bot(output_limit_bytes=1000)
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    assert lab.daemon.output[attempt, "stdout"] == b"x" * 1000
    report = lab.daemon.finished[attempt]
    assert report.ok and report.reason == "stdout: 4000 bytes were not sent because of the bot's output limit"


async def test_the_daemons_limit_ends_the_sending(lab, programs, autojump_clock):
    lab.daemon.output_limit = 5 << 20
    programs.scripts["run"] = Script(after_s=1.0, output=((0.0, "stdout", b"x" * (20 << 20)),))
    await report_of(lab, commands=RUN)
    assert [len(received) for received in lab.daemon.output.values()] == [5 << 20]
    assert list(lab.daemon.dropped.values()) == [15 << 20] and lab.daemon.raw_calls == 2


async def test_commands_run_in_order_until_one_fails(lab, programs, autojump_clock):
    programs.scripts["two"] = Script(exit_code=7)
    report = await report_of(lab, commands=tuple(Command(argv=(name,)) for name in ("one", "two", "three")))
    assert [start.argv[0] for start in lab.runner.starts] == ["one", "two"]
    assert (report.ok, report.exit_code) == (False, 7)


async def test_the_folder_of_the_first_command_is_made(lab, programs, autojump_clock):
    """Nothing but an input could have made it, and a Swarming bot makes it too."""
    seen = []
    for name in ("run", "next"):
        programs.effects[name] = lambda start: seen.append((start.cwd.parts[-2:], start.cwd.is_dir()))
    commands = (Command(argv=("run",), cwd="sub/dir"), Command(argv=("next",), cwd="other/dir"))
    assert (await report_of(lab, commands=commands)).ok
    assert seen == [(("sub", "dir"), True), (("other", "dir"), False)]


@pytest.mark.parametrize("cwd", ["a", "a/b"])
async def test_a_file_in_the_place_of_the_first_commands_folder_stays(lab, programs, autojump_clock, cwd):
    seen = []
    programs.effects["run"] = lambda start: seen.append(start.cwd.is_dir())
    await report_of(lab, commands=(Command(write_to="a", text="x"), Command(argv=("run",), cwd=cwd)))
    assert seen == [False]  # and the runner says what is wrong: test_process.py


async def test_a_text_is_written_before_the_command_that_reads_it(lab, programs, autojump_clock):
    seen = []
    programs.effects["run"] = lambda start: seen.append((start.cwd / "a/b.txt").read_text())
    report = await report_of(lab, commands=(Command(write_to="a/b.txt", text="héllo"), *RUN))
    assert seen == ["héllo"] and report.ok


async def test_a_text_replaces_a_file_that_the_task_may_write(lab, programs, autojump_clock):
    seen = []
    programs.effects["run"] = lambda start: seen.append((start.cwd / "b").read_text())
    texts = [Command(write_to="b", text=text) for text in ("a longer one", "new")]
    report = await report_of(lab, commands=(texts[0], *RUN, texts[1], *RUN))
    assert seen == ["a longer one", "new"] and report.ok


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
async def test_a_text_goes_through_nothing_but_a_file(lab, programs, tmp_path, autojump_clock, kind):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    make = {"link": lambda path: path.symlink_to(outside), "folder": Path.mkdir, "fifo": os.mkfifo}[kind]
    programs.effects["run"] = lambda start: make(start.cwd / "b")
    report = await report_of(lab, commands=(*RUN, Command(write_to="b", text="x")))
    assert report.client_error and "its place is taken" in report.reason
    assert outside.read_text() == "precious"


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../b"])
async def test_a_path_that_leaves_the_work_folder_is_refused(lab, autojump_clock, path):
    report = await report_of(lab, commands=(Command(write_to=path, text="x"),))
    assert report.client_error and repr(path) in report.reason


async def test_what_the_command_finds_in_its_environment(lab, autojump_clock):
    attempt = lab.daemon.add(
        commands=(Command(argv=("run",), env={"B": "command", "HOME": None}),), env={"A": "task", "B": "task"}, 
    )  # fmt: skip
    lab.daemon.pending[0].index, lab.daemon.pending[0].line = 3, "a line"
    task = lab.daemon.pending[0].task
    await lab.start_bot()
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    env = lab.runner.starts[0].env
    wanted = {
        "SWARMD_TASK_ID": task, "SWARMD_ATTEMPT": attempt, "SWARMD_BOT_ID": "bot1", "SWARMD_INDEX": "3",
        "SWARMD_LINE": "a line", "SWARMD_URL": "http://127.0.0.1:8710", "A": "task", "B": "command",
    }  # fmt: skip
    assert {name: env[name] for name in wanted} == wanted and "HOME" not in env


async def test_inputs_stand_there_before_the_first_command(lab, programs, autojump_clock):
    blob = lab.daemon.keep(b"#!/bin/sh\n" * 1000)
    seen = []
    programs.effects["run"] = lambda start: seen.append(
        [
            ((start.cwd / name).read_bytes(), (start.cwd / name).stat().st_mode & 0o777)
            for name in ("x", "d/y")
        ]
    )
    report = await report_of(lab, commands=RUN, inputs=(Input("x", blob, True), Input("d/y", blob)))
    assert seen == [[(b"#!/bin/sh\n" * 1000, 0o755), (b"#!/bin/sh\n" * 1000, 0o644)]] and report.ok
    assert lab.daemon.gets == [blob]


async def test_an_input_that_nobody_has_is_the_submitters_fault(lab, autojump_clock):
    report = await report_of(lab, commands=RUN, inputs=(Input("x", "0" * 64),))
    assert report.client_error and "0" * 64 in report.reason and not lab.runner.starts


async def test_outputs_are_kept_as_blobs_and_sent_only_once(lab, programs, autojump_clock):
    def write(start: Start) -> None:
        for name in ("a.txt", "b.txt"):
            (start.cwd / name).write_bytes(b"same")
        (start.cwd / "c.txt").write_bytes(b"known")

    programs.effects["run"] = write
    known = lab.daemon.keep(b"known")
    report = await report_of(lab, commands=RUN, outputs=("*.txt", "missing"))
    assert [(f.path, f.size) for f in report.outputs] == [("a.txt", 4), ("b.txt", 4), ("c.txt", 5)]
    assert set(lab.daemon.blobs) == {f.blob for f in report.outputs} and report.outputs[2].blob == known
    assert report.ok and "'missing'" in report.reason


async def test_the_hard_limit_counts_for_all_commands_together(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(after_s=40.0)
    report = await report_of(lab, commands=RUN * 3, hard_limit_s=100.0, grace_s=1.0)
    assert report.timed_out == "hard_limit" and not report.ok
    assert report.duration_s == pytest.approx(100.0, abs=0.1)


async def test_a_stop_while_inputs_are_fetched_ends_it_unstarted(lab, autojump_clock):
    attempt = lab.daemon.add(commands=RUN, inputs=(Input("x", "0" * 64),))
    lab.daemon.get_s = math.inf
    await lab.start_bot()
    await lab.daemon.until(lambda: attempt in lab.daemon.accepted)
    lab.daemon.order("stop", attempt)
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    assert lab.daemon.finished[attempt].canceled and not lab.runner.starts


async def test_a_program_that_cannot_be_started_is_the_submitters_fault(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(error="program 'run' was not found")
    report = await report_of(lab, commands=RUN)
    assert (report.client_error, report.exit_code, report.reason) == (
        True,
        None,
        "program 'run' was not found",
    )


async def test_a_work_folder_that_fails_is_the_bots_fault(lab, autojump_clock):
    attempt = lab.daemon.add(commands=RUN)
    (lab.path / "attempts").mkdir(parents=True)
    await lab.start_bot()
    (lab.path / "attempts").rename(lab.path / "elsewhere")
    await lab.daemon.until(lambda: attempt in lab.daemon.finished)
    assert lab.daemon.finished[attempt].died and "could not run it" in lab.daemon.finished[attempt].reason


async def test_nothing_is_left_in_the_work_folder(lab, programs, autojump_clock):
    def litter(start: Start) -> None:
        (start.cwd / "a").mkdir()
        (start.cwd / "a" / "b").write_bytes(b"x")

    programs.effects["run"] = litter
    await report_of(lab, commands=RUN)
    await trio.sleep(1)
    assert not list((lab.path / "attempts").iterdir()) and not list((lab.path / "trash").iterdir())


async def test_a_silent_command_keeps_the_bot_asleep(lab, programs, autojump_clock):
    programs.scripts["run"] = Script(after_s=math.inf)
    attempt = lab.daemon.add(commands=RUN)
    await lab.start_bot()
    await lab.daemon.until(lambda: attempt in lab.daemon.accepted)
    await trio.sleep(1)
    before = len(lab.daemon.calls)
    await trio.sleep(89)
    assert len(lab.daemon.calls) - before <= 4


async def test_with_real_processes_the_first_line_arrives_at_once(tmp_path):
    async with open_lab(tmp_path / "bot", PosixRunner()) as lab:
        command = Command(argv=("sh", "-c", "sleep 0.1; echo first; sleep 0.4; echo last >&2; exit 3"))
        attempts = [lab.daemon.add(commands=(command,)) for _ in range(2)]
        await lab.start_bot(slots=2)
        await lab.daemon.until(lambda: len(lab.daemon.finished) == 2, within_s=20)
        for attempt in attempts:
            assert lab.daemon.finished[attempt].exit_code == 3
            assert lab.daemon.output[attempt, "stdout"] == b"first\n"
            assert lab.daemon.output[attempt, "stderr"] == b"last\n"
            # By its own clock it ran for half a second; its first line was here long before its last one.
            assert lab.daemon.output_at[attempt, "stdout"] < lab.daemon.output_at[attempt, "stderr"] - 0.2
