"""`swarmd demo`: what it submits and says, and the whole of it with the real pieces."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import click
import pytest
import trio

from swarmd.cli import demo
from tests.cli.fake import Fake, Reply, bot_info, info

TASKS = "/api/v1/tasks"


class Line:
    """The standard output of a child that says one line."""

    def __init__(self, line: bytes) -> None:
        self.pieces = [line[:5], line[5:], b""]

    async def receive_some(self, _limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0)


@pytest.mark.parametrize(("last", "code"), [("COMPLETED", 0), ("TIMED_OUT", 1)])
async def test_it_tells_a_story(autojump_clock, monkeypatch, tmp_path, capsys, last, code):
    graph = demo.demo_graph(tmp_path)
    names = [task.name for task in graph.tasks]
    assert len(names) + 4 == 12
    running = [info(f"{n:013}", "RUNNING", name=name, bot="demo-1") for n, name in enumerate(names)]
    done = [info(f"{n:013}", name=name, number=2 if name == "flaky" else 1) for n, name in enumerate(names)]
    done[0] = info("0" * 13, last, name="build")
    head = {"swarmd-offset": "0", "swarmd-end": "4", "swarmd-final": "true", "swarmd-attempt": "a"}
    fake = Fake(
        {("POST", "/api/v1/graphs"): Reply({"id": "g", "ids": ["x"] * len(names), "states": []}, 201)}
    )
    both = [bot_info(id=bot, status="idle") for bot in demo.BOTS]
    fake.table["GET", "/api/v1/bots"] = Reply({"items": both})
    fake.table["GET", TASKS] = [Reply({"items": running[::-1]}), Reply({"items": done[::-1]})]
    fake.table["GET", f"{TASKS}/{names.index('lines'):013}/output/stdout"] = Reply(b"a\x1bb\n", headers=head)
    explained = {"id": "0" * 13, "state": last, "reason": "limit", "sentence": "it took too long"}
    fake.table["GET", f"{TASKS}/{'0' * 13}/explain"] = Reply(explained)
    started = []
    async with trio.open_nursery() as nursery:
        url = await nursery.start(fake.serve)

        @asynccontextmanager
        async def child(folder, kind, *arguments):
            started.append(kind)
            yield SimpleNamespace(stdout=Line(f"swarmd ready {url}\n".encode()))

        monkeypatch.setattr(demo, "_child", child)
        assert await demo._demo(tmp_path) == code
        nursery.cancel_scope.cancel()
    out, err = capsys.readouterr()
    assert started == ["serve", "bot", "bot"]
    assert "build      RUNNING    demo-1\n" in out and f"build      {last}\n" in out
    assert f"{8 - code} of 8 ended ok in 0." in out and "flaky needed a second try" in out
    assert "the output of lines: ab\n" in out and "Next: swarmd serve" in out
    assert ("build is TIMED_OUT: it took too long" in err) == bool(code)


async def test_a_daemon_that_does_not_start_is_quoted(autojump_clock, tmp_path):
    (tmp_path / "log").write_text("one\nthe disk is full\n")
    with pytest.raises(click.ClickException, match=r"the daemon did not start: one \| the disk is full"):
        await demo._ready_url(SimpleNamespace(stdout=Line(b"oops\n")), tmp_path)


def test_with_the_real_pieces(tmp_path):
    pytest.importorskip("swarmd.daemon.main")
    started_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "swarmd", "demo"],
        capture_output=True, text=True, timeout=60, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 ended ok" in done.stdout and "flaky needed a second try" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started_at < 15  # 5 on an idle machine
