"""One simulated run: everything that happens in it follows from its seed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio._core._run as trio_run
import trio.testing

from swarmd.client import Client
from swarmd.core.ids import from_text
from swarmd.core.model import TaskState
from swarmd.store.check import check_file
from swarmd.testing.clock import install_hold

from .disk import Disk
from .history import History
from .lab import COMMIT_POINTS, Lab
from .network import Network, sim_client
from .people import Person, follow
from .robots import Robot
from .verify import verify

FEWEST_TASKS, MOST_TASKS = 30, 200
MAX_VIRTUAL_S = 48 * 3600.0
SETTLE_S = (
    6 * 3600.0
)  # everything accepted is final by then: no limit or expiration of a task is above 20 min
QUIET_S = 400.0  # the slowest replay, delay or silence is over
LAST_LINES = 40  # of the traceback of a run that ends with an exception


@dataclass
class Report:
    """What one run did and found. `faults` is empty when all promises held."""

    seed: int
    backend: str = ""
    starts: int = 0
    tasks: int = 0
    acknowledged: int = 0
    events: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    injected: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    faults: list[str] = field(default_factory=list)


def simulate(seed: int, folder: Path, most_tasks: int = MOST_TASKS) -> Report:
    """Runs `seed`, with 30 to `most_tasks` tasks and its file in `folder` (which must have none yet).

    A daemon or a client that ends with an exception is a fault like others: the next seed can be run.
    """
    started = time.monotonic()
    clock = trio.testing.MockClock(autojump_threshold=0)
    with _repeatable(seed):
        run = _Run(seed, folder, most_tasks)
        report = run.report
        try:
            with _watched(run.history.faults, run.disk):
                trio.run(run.run, clock=clock)
        except Exception:
            lines = traceback.format_exc().splitlines()[-LAST_LINES:]
            report.faults = [*run.history.faults, "\n".join(["the run ended with an exception:", *lines])]
    report.real_s = round(time.monotonic() - started, 2)
    return report


@contextlib.contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """trio's order of tasks and everybody's jitter come from `seed`."""
    before = (random.getstate(), trio_run._r.getstate(), trio_run._ALLOW_DETERMINISTIC_SCHEDULING)
    random.seed(seed)
    trio_run._r.seed(seed)
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        yield
    finally:
        random.setstate(before[0])
        trio_run._r.setstate(before[1])
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[2]  # type: ignore[misc]


class _Errors(logging.Handler):
    """Each error that the daemon logs is a broken promise: nothing here may end in one. What is logged after a kill
    comes from nobody."""

    def __init__(self, faults: list[str], disk: Disk) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults
        self._disk = disk

    def emit(self, record: logging.LogRecord) -> None:
        if self._disk.dead:
            return
        error = record.exc_info[1] if record.exc_info else None
        self._faults.append(f"the daemon logged {record.getMessage()}: {error!r}")


@contextlib.contextmanager
def _watched(faults: list[str], disk: Disk) -> Iterator[None]:
    log, handler = logging.getLogger("swarmd"), _Errors(faults, disk)
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


class _Run:
    def __init__(self, seed: int, folder: Path, most_tasks: int) -> None:
        self.rng = random.Random(seed)
        self.most_tasks = most_tasks
        self.report = Report(seed)
        self.injected: Counter[str] = Counter()
        self.history = History()
        self.path = None if seed % 4 == 3 else folder / "swarmd.db"
        self.disk = Disk(self.path, self._rng(), self.injected)
        self.report.backend = "memory" if self.path is None else "file"

    def _rng(self) -> random.Random:
        return random.Random(self.rng.random())

    async def run(self) -> None:
        install_hold(trio.lowlevel.current_clock())  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            self.net = Network(self._rng(), nursery, self.injected)
            self.lab = Lab(self.disk, self.net, self._rng(), self.injected)
            nursery.start_soon(self.lab.run)
            nursery.start_soon(follow, sim_client(self.net), self.history)
            robots = self._robots()
            for robot in robots:
                nursery.start_soon(robot.live)
            with trio.move_on_after(MAX_VIRTUAL_S) as scope:
                await self._faulty_time()
                for robot in robots:
                    robot.honest = True
                await self._settle()
            if scope.cancelled_caught:
                self._fault(f"the run did not end within {MAX_VIRTUAL_S:g} s")
            await self._end()
            nursery.cancel_scope.cancel()
        self._verify()
        self.report.virtual_s = round(trio.current_time(), 3)

    def _fault(self, text: str) -> None:
        self.history.faults.append(text)

    def _robots(self) -> list[Robot]:
        count = self.rng.randint(2, 5)
        liar = self.rng.randint(1, count) if self.rng.random() < 0.6 else 0
        return [
            Robot(f"bot{n}", sim_client(self.net, 5.0), self.history, self._rng(), self.injected, n == liar)
            for n in range(1, count + 1)
        ]

    # ------------------------------------------------------------- what happens

    async def _faulty_time(self) -> None:
        self.net.rate = self.rng.choice((0.0, 0.02, 0.05, 0.1))
        self.disk.slow = self.rng.random() < 0.7
        tasks = self.rng.randint(FEWEST_TASKS, self.most_tasks)
        people = self.rng.randint(2, 3)
        async with trio.open_nursery() as chaos:
            chaos.start_soon(self._chaos)
            async with trio.open_nursery() as working:
                for number in range(people):
                    client = sim_client(self.net, self.rng.choice((0.0, 10.0, 60.0)))
                    person = Person(
                        f"p{number}", client, self.lab, self.history, self._rng(), tasks // people
                    )
                    working.start_soon(person.work)
            chaos.cancel_scope.cancel()
        self.net.rate = 0.0
        self.disk.full = self.disk.slow = False
        self.lab.forget_kill()
        self.lab.down_s = 0.0

    async def _chaos(self) -> None:
        rng, lab = self.rng, self.lab
        every_s = rng.choice((20.0, 60.0, 200.0))
        while True:
            await trio.sleep(rng.expovariate(1 / every_s))
            await lab.up()
            lab.down_s = rng.choices((0.0, 3.0, 60.0, 240.0, 4_000.0), (8, 4, 2, 2, 0.3))[0]
            kind = rng.choice(("stop", "kill", "kill at", "kill at", "full", "wall"))
            if kind == "stop":
                lab.stop()
            elif kind == "kill":
                lab.kill()
            elif kind == "kill at":
                lab.kill_at(rng.choice(COMMIT_POINTS), rng.randint(0, 12))
            elif kind == "wall":
                lab.jump_wall(rng.choice((-3600.0, -1.0, 1.0, 3600.0, 86_400.0)))
            else:
                self.injected["disk full"] += 1
                self.disk.full = True
                await trio.sleep(rng.uniform(1, 90))
                self.disk.full = False

    # ------------------------------------------------------------- what must come of it

    async def _settle(self) -> None:
        """No more faults: everything accepted ends, also what nobody was told of."""
        await trio.sleep(QUIET_S)
        daemon = await self.lab.up()
        client = sim_client(self.net, 60.0)
        for graph in await client.graphs().all():
            if graph.open:
                await client.close_graph(graph.id)
        ids = self.history.acknowledged
        with trio.move_on_after(SETTLE_S) as scope:
            if ids:
                await client.wait(ids)
            while daemon.engine.tasks:
                await trio.sleep(60)
        if scope.cancelled_caught:
            left = [f"{t.id} {t.state.name}" for t in daemon.engine.tasks.values()][:5]
            self._fault(f"not final {SETTLE_S:g} s after the last fault: {left}")
        await self._compare_reads(client, ids)

    async def _compare_reads(self, client: Client, ids: list[str]) -> None:
        """What the API says is what the file says."""
        daemon = await self.lab.up()
        for id in self.rng.sample(ids, min(10, len(ids))):
            found = await client.get(id)
            op = from_text(id)
            state = await daemon.backend.read(
                lambda conn, op=op: conn.execute(
                    "SELECT COALESCE(o.ended, t.state) FROM ops AS o JOIN tasks AS t ON t.id = o.task WHERE o.id = ?",
                    (op,),
                ).fetchone()
            )
            if state is None or found.ok is None or found.state != TaskState(state[0]).name:
                self._fault(f"{id} is {found.state} by the API, and {state} in the file")

    async def _end(self) -> None:
        """The follower has caught up; the last stop is a clean one."""
        await trio.sleep(60)
        daemon = await self.lab.up()
        self.report.starts = self.lab.starts
        await daemon.backend.read(self._look)
        await self.lab.compare(daemon, daemon.backend)
        self.lab.stop()
        await trio.sleep(1)

    def _look(self, conn: sqlite3.Connection) -> None:
        report = self.report
        self.history.faults += verify(conn, self.history)
        digest = hashlib.sha256()
        for line in conn.iterdump():
            if 'INTO "migrations"' in line:
                continue  # it tells the real time
            digest.update(line.encode("utf-8", "surrogateescape"))
        report.digest = digest.hexdigest()
        report.tasks = conn.execute("SELECT COUNT(*) FROM ops").fetchone()[0]
        report.events = conn.execute("SELECT COUNT(*) FROM events").fetchone()[0]

    def _verify(self) -> None:
        report = self.report
        report.acknowledged = len(self.history.acknowledged)
        report.faults = [*self.lab.faults, *self.history.faults]
        if self.path is not None:
            report.faults += [f"check: {f.name}: {f.sentence}" for f in check_file(self.path, deep=True)]
        report.injected = dict(sorted(self.injected.items()))
        report.calls = dict(sorted(self.history.calls.items()))
