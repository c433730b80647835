"""Standard output that is closed, full or left by its reader."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.fake import ID, Reply, info, sse

TASKS = "/api/v1/tasks"


def shell(line):
    """Runs a line of bash, with Python's own buffers unless the line says otherwise."""
    line = line.replace("swarmd", f"{sys.executable} -m swarmd")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20, env=environment)


@pytest.mark.parametrize("count", [1, 1000])
def test_a_full_standard_output_is_one_sentence(fake, count):
    fake.table["GET", TASKS] = Reply({"items": [info() for _ in range(count)], "next": None})
    lines = ("swarmd tasks --json > /dev/full", "swarmd --help > /dev/full")
    for line in (f"{mode} {line}" for mode in ("", "PYTHONUNBUFFERED=1") for line in lines):
        done = shell(line)
        assert (done.returncode, done.stderr) == (
            1,
            "swarmd: the output cannot be written: No space left on device\n",
        )
    assert shell("swarmd tasks > /dev/full 2>&1").returncode == 1


def test_full_output_of_two_streams_is_one_sentence(fake):
    head = {"swarmd-offset": "0", "swarmd-end": "2", "swarmd-final": "true", "swarmd-attempt": ID}
    for stream in ("stdout", "stderr"):
        fake.table["GET", f"{TASKS}/{ID}/output/{stream}"] = Reply(b"hi", headers=head)
    done = shell(f"swarmd logs -f --attempt {ID} {ID} > /dev/full")
    assert (
        done.returncode == 1
        and "swarmd: the output cannot be written: No space left on device\n" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_closed_standard_output_is_one_sentence_and_nothing_is_asked(fake):
    done = shell("swarmd tasks >&-")
    assert done.returncode == 1 and done.stderr.startswith("swarmd: standard output is closed; send it to")
    assert done.stderr.count("\n") == 1 and not fake.seen
    done = shell("swarmd nonsense 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_run_whose_reader_leaves_cancels_its_task(fake):
    fake.table["POST", TASKS] = Reply({"ids": [ID], "states": ["PENDING"]}, 201)
    part = ("1", "output", {"stream": "stdout", "offset": 0, "data": "aGkKaG8K", "attempt": "a"})
    fake.table["GET", f"{TASKS}/{ID}/follow"] = lambda seen: (
        Reply(hang=True) if "last-event-id" in seen.headers else sse(part)
    )
    fake.table["POST", f"{TASKS}/cancel"] = Reply({"matched": 1, "changed": 1})
    done = shell("swarmd run -- x | head -n 1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "hi\n", "")
    [seen] = fake.asked("POST", f"{TASKS}/cancel")
    assert seen.json == {"filter": {"ids": [ID]}, "reason": "nobody reads its output"}
