"""Real processes, real `kill -9`, at random moments under load; then the file and the clients' own logs are compared.

    python -m tests.crash.loop --kills 100 --seed 1

What must hold, however often the daemon was killed: every acknowledged task ended once; bots that
outlived the daemon went on, so each command ran exactly once; the same request id gives the same ids;
an event stream, resumed, has each event once; `swarmd check` finds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

from swarmd.api.native import messages as m
from swarmd.client import Client, Unreachable, open_client, task
from swarmd.core.ids import from_text
from swarmd.store.check import check_file

SUBMITTERS = 4
BATCH = 25  # tasks of one request
BOTS = 2
SLOTS = 4
READY_S = 30.0
DRAIN_S = 120.0  # for everything acknowledged to end after the last kill
PATIENCE_S = 60.0


@dataclass
class Report:
    """What one run did and found. `faults` is empty when all promises held."""

    seed: int
    kills: int = 0
    requests: int = 0
    tasks: int = 0
    events: int = 0
    repeated_requests: int = 0
    wall_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class Daemon:
    """A daemon process on a fixed port that can be killed and started again."""

    def __init__(self, folder: Path, port: int, log: int) -> None:
        self.folder, self.port, self._log = folder, port, log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it is ready. Raises RuntimeError with the end of its log when it does not start."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarmd", "serve", "--db", str(self.folder / "swarmd.db"),
             "--listen", f"127.0.0.1:{self.port}", "--log-level", "warning"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, env=_environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        pipe = trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno()))
        line = b""
        with trio.move_on_after(READY_S):
            async with pipe:
                while not line.endswith(b"\n") and (data := await pipe.receive_some(200)):
                    line += data
        if not line.startswith(b"swarmd ready"):
            raise RuntimeError(
                f"the daemon did not start: {line!r} {(self.folder / 'log').read_text()[-2000:]}"
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Run:
    """One run of the loop."""

    def __init__(self, folder: Path, kills: int, seed: int, tasks: int, pause_s: tuple[float, float]) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.report = Report(seed)
        self.kills = kills
        self.goal = tasks
        self.pause_s = pause_s
        self.acknowledged: dict[str, tuple[m.SubmitRequest, list[str]]] = {}
        self.killing_done = trio.Event()
        self.events: list[str] = []
        self.ran = folder / "ran"

    async def run(self, daemon: Daemon) -> Report:
        started = time.monotonic()
        await daemon.start()
        try:
            with ExitStack() as bots:
                for number in range(BOTS):
                    bots.enter_context(_bot(self.folder, daemon.url, f"bot{number}"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow, daemon.url, nursery.cancel_scope)
                    async with trio.open_nursery() as submitters:
                        for number in range(SUBMITTERS):
                            submitters.start_soon(self._submit, daemon.url, number)
                        submitters.start_soon(self._kill, daemon)
                    async with open_client(daemon.url, patience_s=PATIENCE_S) as client:
                        await self._verify(client)
                        await self._until_followed(client)
                    nursery.cancel_scope.cancel()
        finally:
            daemon.end()
        self._verify_file()
        self.report.wall_s = round(time.monotonic() - started, 1)
        return self.report

    # ------------------------------------------------------------- what happens

    async def _kill(self, daemon: Daemon) -> None:
        for _ in range(self.kills):
            await trio.sleep(self.rng.uniform(*self.pause_s))
            daemon.kill()
            self.report.kills += 1
            await daemon.start()
        self.killing_done.set()

    async def _submit(self, url: str, number: int) -> None:
        """Submits until there were enough kills and tasks; each request until it is acknowledged."""
        async with open_client(url, patience_s=PATIENCE_S) as client:
            await _reached(client)
            count = 0
            while not self.killing_done.is_set() or self.report.tasks < self.goal:
                if self.report.tasks >= self.goal and self.killing_done.is_set():
                    return
                count += 1
                request = self._request(f"{number}-{count}")
                answer = await client.submit_request(request)
                self.acknowledged[request.request_id] = (request, answer.ids)
                self.report.requests += 1
                self.report.tasks += len(answer.ids)
                await trio.sleep(self.rng.uniform(0, 0.05) if self.report.tasks < self.goal else 0.2)

    def _request(self, name: str) -> m.SubmitRequest:
        size = self.rng.randint(1, BATCH)
        tasks = []
        for number in range(size):
            if self.rng.random() < 0.7:
                tasks.append(task(noop=True))
            else:
                tasks.append(task(argv=["sh", "-c", f'echo "$SWARMD_TASK_ID" >> {self.ran}; echo {number}']))
        return m.SubmitRequest(tasks=tasks, request_id=f"{self.report.seed}-{name}")

    async def _follow(self, url: str, scope: trio.CancelScope) -> None:
        """An event stream over all the kills."""
        async with open_client(url, patience_s=PATIENCE_S) as client:
            await _reached(client)
            async with client.stream_events() as stream:
                async for event in stream:
                    self.events.append(event.id)

    # ------------------------------------------------------------- what must hold

    def fault(self, text: str) -> None:
        self.report.faults.append(text)

    async def _verify(self, client: Client) -> None:
        ids = [id for _, answered in self.acknowledged.values() for id in answered]
        if len(set(ids)) != len(ids):
            self.fault("one id was given to two tasks")
        with trio.move_on_after(DRAIN_S) as scope:
            for start in range(0, len(ids), 1000):
                part = ids[start : start + 1000]
                while (await client.wait_once(part, wait_s=20.0)).pending:
                    pass
        if scope.cancelled_caught:
            counts = await client.counts()
            self.fault(f"not everything ended within {DRAIN_S:g} s: {counts.tasks} {counts.bots}")
        for name, (request, answered) in self.rng.sample(
            sorted(self.acknowledged.items()), min(20, len(self.acknowledged))
        ):
            again = await client.submit_request(request)
            self.report.repeated_requests += 1
            if again.ids != answered:
                self.fault(f"request {name} gave other ids the second time")

    async def _until_followed(self, client: Client) -> None:
        newest = (await client.events(limit=1).all())[0].id
        with trio.move_on_after(30):
            while not self.events or self.events[-1] < newest:
                await trio.sleep(0.05)

    def _verify_file(self) -> None:
        path = self.folder / "swarmd.db"
        self.report.faults += [f"check: {f.name}: {f.sentence}" for f in check_file(path)]
        conn = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        final = dict(conn.execute("SELECT id, state * 10 + COALESCE(ok, 0) FROM tasks"))
        ids = [id for _, answered in self.acknowledged.values() for id in answered]
        for text in ids:
            if final.get(from_text(text)) != 101:  # COMPLETED, ok
                self.fault(f"acknowledged task {text} is {final.get(from_text(text))} in the file")
        lost = conn.execute("SELECT COUNT(*) FROM attempts WHERE state = 11").fetchone()[0]
        if lost:
            self.fault(f"{lost} attempts were lost although their bots lived on")
        self._verify_runs(conn, ids)
        stored = [row[0] for row in conn.execute("SELECT id FROM events ORDER BY id")]
        conn.close()
        followed = [from_text(id) for id in self.events]
        self.report.events = len(followed)
        if len(set(followed)) != len(followed):
            self.fault("the event stream repeated an event")
        if followed and followed != [id for id in stored if id >= (followed[0] or 0)][: len(followed)]:
            self.fault("the event stream left out an event or changed the order")

    def _verify_runs(self, conn: sqlite3.Connection, ids: list[str]) -> None:
        """Each command ran exactly once: its bot outlived the daemon."""
        ran = self.ran.read_text().split() if self.ran.exists() else []
        doubled = len(ran) - len(set(ran))
        if doubled:
            self.fault(f"{doubled} commands ran twice")
        commands = {
            row[0] for row in conn.execute("SELECT id FROM tasks WHERE CAST(work AS TEXT) NOT LIKE '%noop%'")
        }
        acknowledged = {from_text(id) for id in ids}
        missing = (commands & acknowledged) - {from_text(text) for text in ran}
        if missing:
            self.fault(f"{len(missing)} commands never ran")


async def _reached(client: Client) -> None:
    """A client is patient only with a daemon that it has reached once."""
    with trio.fail_after(READY_S):
        while True:
            try:
                await client.health()
                return
            except Unreachable:
                await trio.sleep(0.02)


class _bot:
    """A bot process, ended when the block is left."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self._log = open(folder / f"{name}.log", "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "swarmd", "bot", "--server", url, "--id", name, "--slots", str(SLOTS),
             "--work-dir", str(folder / name)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=_environment(),
        )  # fmt: skip

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}


def free_port() -> int:
    """Below those that the kernel gives to the near ends of connections: while the daemon is down, one of its own
    clients could get its port, and even reach itself there."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, max(ephemeral, 11_000))))
            return probe.getsockname()[1]


def crash_loop(
    folder: Path, *, kills: int, seed: int, tasks: int = 1_000, pause_s: tuple[float, float] = (0.05, 0.5)
) -> Report:
    """Runs the loop in `folder`; at most `kills` kills, `pause_s` apart, under `tasks` tasks or more."""

    async def main() -> Report:
        with open(folder / "log", "ab") as log:
            return await Run(folder, kills, seed, tasks, pause_s).run(
                Daemon(folder, free_port(), log.fileno())
            )

    return trio.run(main)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="in all")
    parser.add_argument("--per-run", type=int, default=50, help="kills on one file")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--results", type=Path, help="a file to which a JSON line is added for each run")
    options = parser.parse_args()
    left, seed, bad = options.kills, options.seed, 0
    while left > 0:
        with tempfile.TemporaryDirectory(prefix="swarmd-crash-") as folder:
            report = crash_loop(Path(folder), kills=min(left, options.per_run), seed=seed)
            bad += bool(report.faults)
            print(json.dumps(asdict(report)), flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps(asdict(report)) + "\n")
            if report.faults:
                print((Path(folder) / "log").read_text()[-3000:], file=sys.stderr)
        left, seed = left - options.per_run, seed + 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
