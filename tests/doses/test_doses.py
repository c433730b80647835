"""The runner of large doses, with parts that are a line of Python each."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.doses.parts import PARTS, Part
from tests.doses.results import Anew, Chunk, Results, free_seed
from tests.doses.run import MOST_IN_VAIN, ROOT, Runner


@dataclass(frozen=True)
class FakePart(Part):
    """Its chunks run `code`, which knows `seed` and `size`."""

    code: str = ""

    def command(self, seed: int, size: float) -> list[str]:
        return [sys.executable, "-c", f"seed, size = {seed}, {size}\n{self.code}"]


DOES = """print('{"done":%d,"counts":{"sum":%d},"faults":[]}' % (size, seed))"""
BROKEN = """print('{"done":%d,"faults":["seed %d: two plus two is five"]}' % (size, seed))"""
CRASHES = "print('{'); raise RuntimeError('the world ended')"
KILLED = "import os; os.kill(os.getpid(), 9)"


def part(code: str, name: str = "sums", goal: float = 10, size: float = 4, **more: bool) -> FakePart:
    return FakePart(
        name, "sums", goal, size, 60, lambda seed, size: pytest.fail("not here"), code=code, **more
    )


def run(path: Path, *parts: Part, **options: float) -> Runner:
    said: list[str] = []
    with Results(path) as results:
        runner = Runner(parts, results, commit=lambda: "c0ffee", say=said.append, **options)  # type: ignore[arg-type]
        trio.run(runner.run)
    runner.said = "\n".join(said)  # type: ignore[attr-defined]
    return runner


@pytest.fixture
def path(tmp_path):
    return tmp_path / "doses.jsonl"


def lines(path: Path) -> list[Chunk]:
    with Results(path) as results:
        return results.chunks


def test_chunks_add_up_to_the_goal_in_a_file_that_tells_which_commit(path):
    runner = run(path, part(DOES))
    assert [(c.seed, c.size, c.done) for c in lines(path)] == [(1, 4, 4), (2, 4, 4), (3, 2, 2)]
    assert {c.commit for c in lines(path)} == {"c0ffee"}
    assert runner.reached()
    assert "10/10 sums" in runner.table() and "6 sum" in runner.table() and "10 at c0ffee" in runner.table()


def test_a_run_goes_on_where_an_earlier_one_stopped(path):
    assert not run(path, part(DOES), seconds=0).reached()
    run(path, part(DOES, goal=4))
    run(path, part(DOES, goal=10))
    assert [(c.seed, c.done) for c in lines(path)] == [(1, 4), (2, 4), (3, 2)]
    run(path, part(DOES, goal=10))
    assert len(lines(path)) == 3


def test_a_part_that_uses_a_seed_for_each_unit_uses_none_twice(path):
    run(path, part(DOES, seed_each=True), first_seed=100)
    run(path, part(DOES, goal=15, size=7, seed_each=True), first_seed=98)
    assert [(c.seed, c.seeds) for c in lines(path)] == [(100, 4), (104, 4), (108, 2), (110, 5)]


def test_a_line_that_is_there_twice_counts_once(path):
    run(path, part(DOES))
    path.write_bytes(path.read_bytes() * 2)
    assert sum(c.done for c in lines(path)) == 10


def test_a_line_that_was_not_written_to_its_end_does_not_count(path):
    run(path, part(DOES))
    path.write_bytes(path.read_bytes()[:-1])
    assert sum(c.done for c in lines(path)) == 8
    assert run(path, part(DOES)).reached()
    assert [c.seed for c in lines(path)] == [1, 2, 3]


def test_a_line_of_something_else_is_refused_with_its_number(path):
    run(path, part(DOES))
    with path.open("a") as file:
        file.write('{"part": "sums"}\n')
    with pytest.raises(ValueError, match=r"line 4: .*missing required field"):
        run(path, part(DOES))


def test_two_runners_never_share_a_file(path):
    with Results(path), pytest.raises(BlockingIOError):
        run(path, part(DOES))


def test_faults_are_counted_and_say_how_to_get_them_again(path):
    runner = run(path, part(BROKEN))
    assert lines(path)[0].faults == ["seed 1: two plus two is five"]
    assert sum(c.done for c in lines(path)) == 10 and not runner.reached()
    assert runner.table().splitlines()[1].endswith(" 3")
    assert "python -m tests.doses --chunk sums --seed 1 --size 4" in runner.said


def test_what_a_faulty_chunk_left_is_kept_and_else_nothing(path):
    code = "import os, tempfile; open(tempfile.mkdtemp() + '/db', 'w').write('x')\n"
    run(path, part(code + BROKEN, goal=4))
    run(path, part(code + DOES, goal=8))
    assert [p.name for p in path.with_suffix(".faulty").iterdir()] == ["sums-1"]
    assert list(path.with_suffix(".faulty").glob("sums-1/*/db"))


def test_a_chunk_that_crashes_is_a_fault_with_its_last_lines(path):
    """The run goes on, but not for ever."""
    runner = run(path, part(CRASHES), part(DOES, name="more", goal=40))
    crashed = [c for c in lines(path) if c.part == "sums"]
    assert [(c.seed, c.done) for c in crashed] == [(n + 1, 0) for n in range(MOST_IN_VAIN)]
    assert crashed[0].faults[0].startswith("the chunk ended with code 1:")
    assert crashed[0].faults[0].endswith("RuntimeError: the world ended")
    assert runner.done(runner.parts[1]) == 40 and not runner.reached()


def test_a_chunk_that_was_killed_is_not_counted_and_comes_again(path, tmp_path):
    code = f"import os\nif not os.path.exists({str(tmp_path / 'once')!r}):\n    open({str(tmp_path / 'once')!r}, 'w')\n"
    runner = run(path, part(code + "    os.kill(os.getpid(), 9)\n" + DOES))
    assert [c.seed for c in lines(path)] == [1, 2, 3] and runner.reached()
    assert "seed 1 was killed" in runner.said


def test_a_part_whose_chunks_are_always_killed_is_given_up(path):
    runner = run(path, part(KILLED))
    assert lines(path) == [] and not runner.reached()
    assert "given up" in runner.said


def test_parts_come_along_together(path):
    run(path, part(DOES, "a", goal=40), part(DOES, "b", goal=8))
    assert "".join(c.part for c in lines(path)) == "abaaaaabaaaa"


def test_anew_lets_earlier_chunks_of_a_part_count_no_more_and_keeps_the_rest(path):
    run(path, part(BROKEN, "a"), part(DOES, "b"))
    with Results(path) as results:
        results.add(Anew(anew="a", commit="c0ffee"))
    assert {c.part for c in lines(path)} == {"b"}
    assert run(path, part(DOES, "a"), part(DOES, "b")).reached()
    assert [c.seed for c in lines(path) if c.part == "a"] == [1, 2, 3]


def test_several_chunks_at_once_use_seeds_of_their_own(path):
    run(path, part(DOES, goal=20), jobs=3)
    assert sorted(c.seed for c in lines(path)) == [1, 2, 3, 4, 5]


MAIN = """
import sys, tests.doses.parts as parts
from tests.doses.test_doses import part
parts.PARTS.clear()
parts.PARTS["sums"] = part({code!r})
from tests.doses.__main__ import main
sys.exit(main())
"""


def main(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(code=code), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_what_runs_and_prints_how_far_it_came(number, path):
    """The second chunk sends the signal to the runner, and then waits to be ended."""
    waits = f"import os, signal\nif seed == 2: os.kill(os.getppid(), {int(number)}); signal.pause()\n"
    ended = main(waits + DOES, "--results", str(path))
    assert ended.returncode == 1, ended.stderr
    assert [c.seed for c in lines(path)] == [1]
    assert "4/10 sums" in ended.stdout.splitlines()[-3]
    assert main(DOES, "--results", str(path)).returncode == 0
    assert [c.seed for c in lines(path)] == [1, 2, 3]


def test_a_runner_that_is_killed_leaves_a_file_to_go_on_with(path):
    dies = "import os\nif seed == 2: os.kill(os.getppid(), 9)\n"
    assert main(dies + DOES, "--results", str(path)).returncode == -signal.SIGKILL
    assert main(DOES, "--results", str(path)).returncode == 0
    assert [(c.seed, c.done) for c in lines(path)] == [(1, 4), (2, 4), (3, 2)]


def test_the_command_names_its_parts_and_refuses_others(path):
    refused = main(DOES, "--only", "sums,wishes", "--results", str(path))
    assert refused.returncode == 2 and "no part 'wishes'; there are sums" in refused.stderr
    with Results(path):
        busy = main(DOES, "--results", str(path))
        looks = main(DOES, "--results", str(path), "--seconds", "0")
    assert busy.returncode == 2 and "another run writes to" in busy.stderr
    assert looks.returncode == 1 and "0/10 sums" in looks.stdout


def test_free_seed_fills_a_gap_only_when_it_is_wide_enough():
    taken = [
        Chunk(part="a", seed=s, seeds=n, size=n, done=n, seconds=0, commit="") for s, n in ((1, 4), (8, 2))
    ]
    assert [free_seed(taken, 1, wide) for wide in (3, 4)] == [5, 10]
    assert free_seed(taken, 20, 1) == 20


# ------------------------------------------------------------- the real parts, a drop of each


@pytest.mark.parametrize("name", ["kills", "seeds", "model", "fuzz"])
def test_a_chunk_of_each_part_does_what_it_was_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = PARTS[name].run(1, 2)
    assert outcome.faults == []
    assert outcome.done >= 2
    assert outcome.counts and any(outcome.counts.values()), outcome.counts


def test_the_model_counts_what_ran_and_tells_what_failed(monkeypatch):
    from tests.core.test_model import EngineMachine

    def fails(self: EngineMachine, down_s: float) -> None:
        assert down_s < 100.0, "down for too long"

    monkeypatch.setattr(EngineMachine.restart.hypothesis_stateful_rule, "function", fails)  # type: ignore[attr-defined]
    outcome = PARTS["model"].run(1, 50)
    assert 0 < outcome.done < 50 and outcome.counts["steps"] > outcome.done
    [fault] = outcome.faults
    assert "AssertionError: down for too long" in fault
    assert "\nstate.begin()\n" in fault and "\nstate.memory_is_sound()\n" not in fault


def test_a_world_whose_daemon_dies_is_a_fault_and_the_next_one_runs(monkeypatch):
    from tests.simulate import run as simulation

    lives = simulation.Lab._one_life
    dead: list[int] = []

    async def dies_once(self: simulation.Lab) -> None:
        if not dead:
            dead.append(1)
            raise AssertionError("memory contradicts itself")
        await lives(self)

    monkeypatch.setattr(simulation.Lab, "_one_life", dies_once)
    outcome = PARTS["seeds"].run(1, 2)
    assert outcome.done == 2 and len(outcome.faults) == 1
    assert outcome.faults[0].startswith(
        "python -m tests.simulate --seeds 1 --seed 1 --tasks 36: the run ended"
    )
    assert "AssertionError: memory contradicts itself" in outcome.faults[0]


CHUNK = """
import os, sys
from tests.doses.chunk import run_chunk
from tests.doses.parts import Part
from tests.doses.results import Outcome

def run(seed, size):
    try:
        os.write(1, b"began\\n")
        return Outcome(done=len(os.read(0, 1)))
    finally:
        os.write(1, b"ended what it started\\n")

sys.exit(run_chunk(Part("a", "a", 1, 1, 60, run), 1, 1))
"""
STARTS = """
import os, subprocess, sys, threading
words, env = [sys.executable, "-c", sys.argv[1]], {**os.environ, "DOSES_RUNNER": str(os.getpid())}
"""


def started(runner: str) -> subprocess.Popen[bytes]:
    """A process whose program is `runner`, which runs CHUNK."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTS + runner, CHUNK],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param("subprocess.run(words, env=env)", id="its runner is killed"),
        pytest.param("os.execve(words[0], words, os.environ)", id="it is told to"),
    ],
)
def test_a_chunk_ends_what_it_started_when(runner):
    with started(runner) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"began\n"
        if "execve" in runner:
            process.terminate()
        else:
            process.kill()
        assert process.stdout.read() == b"ended what it started\n"  # and nobody holds the pipe
    assert process.returncode == (-signal.SIGTERM if "execve" in runner else -signal.SIGKILL)


def test_a_chunk_outlives_the_thread_that_started_it():
    """Once it was told of that thread's end as if it were its runner's."""
    runner = """
def start():
    global chunk
    chunk = subprocess.Popen(words, env=env, stdin=subprocess.PIPE)
    sys.stdin.readline()
thread = threading.Thread(target=start)
thread.start()
thread.join()
chunk.communicate(b"x")
sys.exit(chunk.returncode)
"""
    with started(runner) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"began\n"
        process.stdin.write(b"it runs\n")
        process.stdin.flush()
        assert process.stdout.read().splitlines()[-1] == b'{"done":1,"counts":{},"faults":[]}'
    assert process.returncode == 0
