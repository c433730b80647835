"""examples/bot_with_tests as its reader would have it: in a folder of its own, without any settings of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "bot_with_tests"
PLUGINS = ("-p", "pytest_trio.plugin", "-p", "swarmd.testing.plugin", "-p", "no:cacheprovider")


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        *PLUGINS,
        "--rootdir",
        str(folder),
        "-W",
        "error",
        "-q",
        str(folder),
    ]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))


def test_its_tests_pass(copy):
    done = run_tests(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.parametrize(
    "right, wrong, failing",
    [
        ("ALIVE_S = 20.0", "ALIVE_S = 90.0", "test_it_keeps_a_task_of_three_hours"),
        ("scope.cancel()\n            await", "pass\n            await", "test_it_stops_what_was_canceled"),
        ('"finished": [ended], ', "", "test_it_runs_what_it_is_given"),
    ],
    ids=["silent", "deaf", "mute"],
)
def test_they_find_what_is_wrong_with_a_bot(copy, right, wrong, failing):
    """Each of these mistakes shows only with time, or with a daemon that has an opinion."""
    program = copy / "lab_bot.py"
    text = program.read_text()
    assert text.count(right) == 1
    program.write_text(text.replace(right, wrong))
    test = copy / "test_lab_bot.py"
    test.write_text(test.read_text().split("@pytest.mark.swarmd(tcp=True")[0])  # nothing that really waits
    done = run_tests(copy)
    assert done.returncode == 1 and f"FAILED test_lab_bot.py::{failing}" in done.stdout, (
        done.stdout + done.stderr
    )
