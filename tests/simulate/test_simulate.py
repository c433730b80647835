"""A small dose of the simulation; the large one is `python -m tests.simulate --seeds 1000`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.simulate.run import Report, simulate

FIRST_SEED = 20_261_123
SEEDS = 24
TASKS = 36  # at most; small worlds find most of what large ones find
GROUPS = 4  # of seeds, so that a failure names few


def replay(report: Report) -> str:
    return f"python -m tests.simulate --seeds 1 --seed {report.seed} --tasks {TASKS}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_promise_is_broken_whatever_goes_wrong(group, tmp_path):
    """Each promise of README.md ("Promises"), under faults on every edge."""
    for seed in range(FIRST_SEED + group, FIRST_SEED + SEEDS, GROUPS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        report = simulate(seed, folder, TASKS)
        assert not report.faults, (replay(report), report.faults)
        assert report.acknowledged and report.events


@pytest.mark.parametrize(
    "seed",
    [pytest.param(8, id="a task that becomes ready on a full disk is looked up when there is room")],
)
def test_a_seed_that_found_a_defect_finds_it_no_more(seed, tmp_path):
    """Each defect also has a test of its own in tests/faults: what a seed does changes with the code."""
    report = simulate(seed, tmp_path)
    assert not report.faults, report.faults


def test_a_seed_gives_the_same_run_again(tmp_path):
    """A failure can be had again: the same calls, the same events, the same bytes in the file."""
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        runs.append(simulate(FIRST_SEED + 1, tmp_path / name, TASKS))
    one, other = runs
    assert (one.events, one.digest, one.virtual_s) == (other.events, other.digest, other.virtual_s)
    assert (one.calls, one.injected) == (other.calls, other.injected)


def test_a_seed_gives_the_same_run_in_another_process(tmp_path):
    """Nothing depends on the order of hashes or on addresses in memory."""
    digests = set()
    for hash_seed in ("1", "2"):
        results = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-m", "tests.simulate", "--seeds", "1", "--seed", "8", "--tasks", str(TASKS),
             "--results", str(results)],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        digests.add(json.loads(results.read_text())["digest"])
    assert len(digests) == 1


@pytest.mark.nightly
def test_five_hundred_large_worlds(tmp_path):
    for seed in range(500):
        folder = tmp_path / str(seed)
        folder.mkdir()
        report = simulate(seed, folder)
        assert not report.faults, (report.seed, report.faults)
