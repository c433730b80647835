"""Commands on a real terminal (a pty): neutralised output, questions, progress."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

from swarmd.cli.progress import SHOW_AFTER_S
from tests.cli.fake import ID, Fake, Reply, details, info, sse

TASKS = "/api/v1/tasks"
LIMIT_S = 20.0


def on_terminal(url, *arguments, answer=b""):
    """Runs a command with a pty as all its streams; gives what it showed, and its exit code."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "SWARMD_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmd", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    os.write(ours, answer)
    shown, give_up_at = b"", time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < give_up_at:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # Linux: the other side is closed
                    break
                shown += data
        return shown.replace(b"\r\n", b"\n"), process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_output_cannot_control_the_terminal():
    data = "YRtbMkobWzMxbXJlZBtdMDt0B2I="  # a ESC[2J ESC[31m red ESC]0;t BEL b
    follow = sse(
        ("1", "output", {"stream": "stdout", "offset": 0, "data": data, "attempt": "x"}), ("2", "end", {})
    )
    fake = Fake({("GET", f"{TASKS}/{ID}/follow"): follow})
    with fake.in_thread() as url:
        shown, code = on_terminal(url, "logs", "-f", ID)
    assert (shown, code) == (b"a^[[2J\x1b[31mred^[]0;t^Gb\x1b[0m", 0)


def test_canceling_all_asks():
    fake = Fake({("POST", f"{TASKS}/cancel"): Reply({"matched": 1, "changed": 1})})
    with fake.in_thread() as url:
        shown, code = on_terminal(url, "cancel", "--all", answer=b"n\n")
        assert code == 130 and b"cancel all tasks that have not ended? [y/N]" in shown and not fake.seen
        shown, code = on_terminal(url, "cancel", "--all", answer=b"y\n")
        assert code == 0 and b"canceled 1 task" in shown and len(fake.seen) == 1


def test_waiting_shows_how_far_it_is():
    asked_at = []

    def answer(seen):
        asked_at.append(time.monotonic())
        if sum(at > asked_at[0] + SHOW_AFTER_S for at in asked_at) < 3:  # two answers after a bar is due
            time.sleep(0.2)  # the fake has a thread of its own
            return Reply({"items": [], "pending": 2})
        return Reply({"items": [info(id) for id in seen.json["ids"]], "pending": 0})

    fake = Fake({("POST", f"{TASKS}/wait"): answer})
    with fake.in_thread() as url:
        shown, code = on_terminal(url, "wait", ID, "0" * 13)
    assert code == 0 and b"waiting" in shown and b"/2" in shown
    assert b"\x1b[32mCOMPLETED" in shown  # the table that follows, in colour


def test_names_of_tasks_cannot_control_the_terminal():
    fake = Fake({("GET", TASKS): Reply({"items": [info(name="\x1b]0;x\x07" * 50)], "next": None})})
    fake.table["GET", f"{TASKS}/{ID}"] = Reply(details(name="\x1b[2J", reason="\x9b2J"))
    with fake.in_thread() as url:
        shown, _ = on_terminal(url, "tasks")
        assert b"]0;x]0;x" in shown and b"\x07" not in shown and b"\x1b]" not in shown
        shown, _ = on_terminal(url, "show", ID)
        assert b"[2J" in shown and b"\x1b[2J" not in shown and "\x9b".encode() not in shown
