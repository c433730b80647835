"""`swarmd demo`: the real pieces, a few seconds of work, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli import FAILED, OK

if TYPE_CHECKING:
    import trio

    from swarmd.api.native.messages import GraphRequest, TaskInfo
    from swarmd.client import Client

BOTS = ("demo-1", "demo-2")
SLOTS = 3
READY = "swarmd ready "
READY_S = 15.0  # for the daemon to start
BOTS_READY_S = 15.0  # for both bots to connect
WORK_S = 30.0  # for the tasks to end
STOP_S = 3.0  # for a child to end after SIGTERM
LOOK_S = 0.1  # between two looks at the tasks
MAX_LINE_BYTES = 4096
TAIL_LINES = 5

FLAKY = 'test -e "$1" && echo "the second try works" || { touch "$1"; echo "the first try fails"; exit 1; }'
GREETING = 'for n in 1 2 3; do echo "line $n of $SWARMD_TASK_ID"; sleep 0.1; done'


@click.command("demo")
def command() -> int:
    """Start a daemon and two bots in a temporary folder, run a dozen tasks, show them, and clean up.

    Among them: a graph (build, then three tests, then a report), an array, and one that fails and is tried again.
    """
    import trio

    with tempfile.TemporaryDirectory(prefix="swarmd-demo-") as folder:
        return trio.run(_demo, Path(folder))


async def _demo(folder: Path) -> int:
    from swarmd.client import open_client

    started_at = time.monotonic()
    async with _child(folder, "serve", "--db", f"{folder}/swarmd.db", "--listen", "127.0.0.1:0") as daemon:
        url = await _ready_url(daemon, folder)
        print(f"a daemon is ready at {url}, with the file {folder}/swarmd.db", flush=True)
        first, second = (_bot(folder, url, bot) for bot in BOTS)
        async with first, second, open_client(url) as client:
            await _bots_ready(client)
            ready_at = time.monotonic()
            graph = await client.submit_graph(demo_graph(folder))
            print(f"two bots, {len(graph.ids)} tasks in the graph {graph.id}:", flush=True)
            tasks = await _watch(client, graph.id, len(graph.ids))
            code = await _summary(client, tasks, ready_at - started_at, time.monotonic() - ready_at)
    print("all of it is gone again. Next: swarmd serve, swarmd bot, and swarmd submit -- echo hello")
    return code


def demo_graph(folder: Path) -> GraphRequest:
    """Twelve tasks: build → 3 tests → report, an array of 5, a flaky one, and one that prints lines."""
    from swarmd.client import GraphRequest, array, task

    tests = [f"test-{n}" for n in (1, 2, 3)]
    return GraphRequest(
        name="demo",
        tasks=[
            task(key="build", name="build", argv=["sh", "-c", "sleep 0.3; echo built"]),
            *(
                task(key=key, name=key, argv=["sh", "-c", "sleep 0.2; echo passed"], after=["build"])
                for key in tests
            ),
            task(key="report", name="report", argv=["echo", "3 of 3 passed"], after=list(tests)),
            task(name="array", argv=["sh", "-c", "echo number $SWARMD_INDEX"], array=array(first=1, last=5)),
            task(name="flaky", argv=["sh", "-c", FLAKY, "sh", f"{folder}/tried"], retries=1),
            task(name="lines", argv=["sh", "-c", GREETING]),
        ],
    )


@asynccontextmanager
async def _child(folder: Path, kind: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """A `swarmd` process in a session of its own (Ctrl-C reaches only us); ended when the context is left."""
    import subprocess

    import trio

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
    with _log(folder).open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "swarmd", kind, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if kind == "serve" else log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _end(process: trio.Process) -> None:
    """SIGTERM, and SIGKILL when that was not enough."""
    import trio

    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_S):
        await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()


async def _bots_ready(client: Client) -> None:
    """Returns when both bots have a session; raises `click.ClickException` when one does not come."""
    import trio

    with trio.move_on_after(BOTS_READY_S):
        while {bot.id async for bot in client.bots() if bot.status == "idle"} < set(BOTS):  # noqa: ASYNC110 (another process)
            await trio.sleep(0.05)
        return
    raise click.ClickException(f"the bots did not connect within {BOTS_READY_S:g} s")


def _bot(folder: Path, url: str, bot: str) -> AbstractAsyncContextManager[trio.Process]:
    return _child(
        folder, "bot", "--server", url, "--id", bot, "--slots", str(SLOTS), "--work-dir", f"{folder}/{bot}"
    )


def _log(folder: Path) -> Path:
    return folder / "log"


async def _ready_url(daemon: trio.Process, folder: Path) -> str:
    """The URL in the daemon's first line; without one, raises `click.ClickException` with the end of its log."""
    import trio

    assert daemon.stdout is not None
    line = b""
    with trio.move_on_after(READY_S):
        while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            data = await daemon.stdout.receive_some(MAX_LINE_BYTES)
            if not data:
                break
            line += data
    text = line.decode("utf-8", "replace").split("\n")[0]
    if not text.startswith(READY):
        tail = " | ".join(_log(folder).read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise click.ClickException(f"the daemon did not start: {tail or text or 'it said nothing'}")
    return text.removeprefix(READY).strip()


async def _watch(client: Client, graph: str, count: int) -> list[TaskInfo]:
    """Shows the tasks until all are final: a live table on a terminal, else a line for each change."""
    import trio

    tasks: list[TaskInfo] = []
    with _shown() as show, trio.move_on_after(WORK_S):
        while len(tasks) < count or any(task.ok is None for task in tasks):
            tasks = (await client.tasks(graph=graph).all())[::-1]
            show(tasks)
            await trio.sleep(LOOK_S)
    return tasks


def _shown() -> LiveTable | ChangedLines:
    return LiveTable() if sys.stdout.isatty() else ChangedLines()


class ChangedLines:
    """Prints a line for each task whose state is another one than before."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def __enter__(self) -> ChangedLines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, tasks: list[TaskInfo]) -> None:
        from swarmd.cli.tasks import shown_name, shown_state

        for task in tasks:
            state = shown_state(task)
            if self._states.get(task.id) != state:
                self._states[task.id] = state
                print(f"  {shown_name(task):10} {state:10} {task.bot or ''}".rstrip(), flush=True)


class LiveTable:
    """A table that changes in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(refresh_per_second=10)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, tasks: list[TaskInfo]) -> None:
        from rich.table import Table
        from rich.text import Text

        from swarmd.cli.table import COLOURS, span
        from swarmd.cli.tasks import shown_name, shown_state

        table = Table("task", "state", "bot", "attempt", "took", box=None)
        for task in tasks:
            state = shown_state(task)
            row = (Text(shown_name(task)), Text(state, COLOURS.get(state, "")), Text(task.bot or ""))
            table.add_row(*row, str(task.number or ""), span(task.duration_s))
        self._live.update(table)


async def _summary(client: Client, tasks: list[TaskInfo], start_s: float, work_s: float) -> int:
    """Says how it went, and gives the exit code."""
    from swarmd.cli.text import one_line

    for task in tasks:
        if not task.ok:
            reason = (await client.explain(task.id)).sentence
            print(f"{one_line(task.name)} is {task.state}: {one_line(reason)}", file=sys.stderr)
    good = sum(bool(task.ok) for task in tasks)
    retried = [task.name for task in tasks if task.number > 1]
    print(f"{good} of {len(tasks)} ended ok in {work_s:.1f} s, after a start of {start_s:.1f} s", end="")
    print(f"; {one_line(', '.join(retried))} needed a second try" if retried else "")
    lines = next((task for task in tasks if task.name == "lines"), None)
    if lines is not None:
        output = b"".join([data async for data in client.output(lines.id)])
        print("the output of lines: " + one_line(" / ".join(output.decode(errors="replace").splitlines())))
    return OK if good == len(tasks) else FAILED
