"""The parts of a large dose, and what a chunk of each does. What a part needs is imported by its chunks alone."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .results import Outcome

LARGE_EVERY = 20  # of the simulation's seeds: each one that this divides is a world of full size
SMALL_TASKS = 36  # of the others, at most: as in tests/simulate/test_simulate.py
MODEL_STEPS = 100  # of one example, at most
RUNNER = "DOSES_RUNNER"  # in the environment of a chunk: the process that it shall not outlive
LAST_LINES = 40  # of a traceback or a log: what a fault tells


@dataclass(frozen=True)
class Part:
    """`goal` and `size` (of one chunk) are in `unit`; `run(seed, size)` does a chunk. It is over after `limit_s` at the
    latest: one that takes longer hangs, which is a fault."""

    name: str
    unit: str
    goal: float
    size: float
    limit_s: float
    run: Callable[[int, float], Outcome]
    seed_each: bool = False  # a chunk uses one seed for each unit, not one for all

    def seeds(self, size: float) -> int:
        return int(size) if self.seed_each else 1

    def command(self, seed: int, size: float) -> list[str]:
        return [sys.executable, "-m", "tests.doses", *self.replay(seed, size)]

    def replay(self, seed: int, size: float) -> list[str]:
        return ["--chunk", self.name, "--seed", str(seed), "--size", f"{size:g}"]


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def kills(seed: int, size: float) -> Outcome:
    """One file, killed `size` times under load."""
    from tests.crash.loop import crash_loop

    folder = Path(
        tempfile.mkdtemp(prefix="crash-")
    )  # it stays when there are faults: no second run is quite the same
    report = crash_loop(folder, kills=int(size), seed=seed)
    counts = {
        "requests": report.requests,
        "tasks": report.tasks,
        "events": report.events,
        "repeated requests": report.repeated_requests,
    }
    return Outcome(done=report.kills, counts=counts, faults=report.faults)


def seeds(seed: int, size: float) -> Outcome:
    """`size` worlds, from `seed` on."""
    from tests.simulate.run import MOST_TASKS, simulate

    total, faults = Counter[str](), list[str]()
    for one in range(seed, seed + int(size)):
        tasks = SMALL_TASKS if one % LARGE_EVERY else MOST_TASKS
        with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
            report = simulate(one, Path(folder), tasks)
        total.update(tasks=report.tasks, events=report.events, starts=report.starts)
        total["virtual s"] += int(report.virtual_s)
        total["large worlds"] += tasks == MOST_TASKS
        replay = f"python -m tests.simulate --seeds 1 --seed {one} --tasks {tasks}"
        faults += [f"{replay}: {fault}" for fault in report.faults]
    return Outcome(done=int(size), counts=dict(total), faults=faults)


def model(seed: int, size: float) -> Outcome:
    """`size` examples of the engine against its model. A chunk ends with the first that fails, made small."""
    import hypothesis
    from hypothesis.stateful import invariant, run_state_machine_as_test

    from tests.core.test_model import EngineMachine

    total, faults = Counter[str](), list[str]()

    @hypothesis.seed(seed)
    class Counted(EngineMachine):
        @invariant()
        def count_step(self) -> None:
            if not total["failed"]:
                total["steps"] += 1

        def teardown(self) -> None:
            error = sys.exception()
            try:
                super().teardown()
            except Exception as late:
                error = late
                raise
            finally:
                # What follows a failure repeats it; what Hypothesis stopped early was no example.
                total["failed"] += isinstance(error, Exception)
                total["examples"] += error is None and not total["failed"]

    settings = hypothesis.settings(
        max_examples=int(size), stateful_step_count=MODEL_STEPS, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), print_blob=True, report_multiple_bugs=False,
    )  # fmt: skip
    try:
        run_state_machine_as_test(Counted, settings=settings)
    except Exception as error:
        checks = {f"state.{check.function.__name__}()" for check in Counted().invariants}
        steps = [line for note in error.__notes__ for line in note.splitlines() if line not in checks]
        error.__notes__ = []
        faults.append("\n".join([last_lines(traceback.format_exc()), *steps]))
    return Outcome(done=total["examples"], counts={"steps": total["steps"]}, faults=faults)


def fuzz(seed: int, size: float) -> Outcome:
    """`size` seconds of odd clients: half of them at the server alone, half at the whole daemon."""
    import trio

    from tests.daemon.fuzz import fuzz_daemon, fuzz_server

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    alone = trio.run(partial(fuzz_server, seed=seed, seconds=size / 2))
    whole = trio.run(partial(fuzz_daemon, folder, seed=seed, seconds=size / 2))
    total, faults = Counter[str](), list[str]()
    for name, counts in (("server", alone), ("daemon", whole)):
        total[f"connections to the {name}"] = counts.connections
        total["well-behaved requests"] += counts.requests
        total["failed requests"] += counts.failed
        total["leaked descriptors"] += counts.leaked
        faults += [f"{name}: {fault}" for fault in counts.faults]
    return Outcome(done=round(alone.seconds + whole.seconds, 1), counts=dict(total), faults=faults)


def schemas(seed: int, size: float) -> Outcome:
    """`size` seconds of calls made from the OpenAPI file."""
    from tests.schemas.run import run_schemas

    folder = Path(tempfile.mkdtemp(prefix="schemas-"))
    report = run_schemas(folder, seconds=size, seed=seed)
    return Outcome(done=round(report.seconds, 1), counts={"calls": report.calls}, faults=report.faults)


PARTS = {
    part.name: part
    for part in (
        Part("kills", "kills", 1_000, 50, 900, kills),
        Part("seeds", "seeds", 5_000, LARGE_EVERY, 900, seeds, seed_each=True),
        Part("model", "examples", 20_000, 500, 1_800, model),
        Part("schemas", "s", 900, 60, 600, schemas),
        Part("fuzz", "s", 600, 60, 600, fuzz),
    )
}


def environment(folder: Path) -> dict[str, str]:
    """Of a chunk: its files are in `folder`; nothing of ours is set that could change what it does."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
    return {**env, "TMPDIR": str(folder), RUNNER: str(os.getpid())}
