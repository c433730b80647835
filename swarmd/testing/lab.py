"""What a test holds: a daemon that can be stopped, killed and started again, its client, and bots around it."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
import trio.testing

from swarmd.api.native import messages as m
from swarmd.client import Client, Unreachable, open_client
from swarmd.client.calls import new_request_id
from swarmd.config import Config
from swarmd.core.ids import from_text
from swarmd.core.model import OpId
from swarmd.daemon.daemon import Daemon
from swarmd.offthread import in_thread
from swarmd.store.check import check_file
from swarmd.store.errors import StoreBroken
from swarmd.store.writer import Gate
from swarmd.testing.bots import Fault, NativeBot
from swarmd.testing.faults import FAILPOINTS, Failpoint, FailpointReached, Failure
from swarmd.testing.harness import RunningDaemon, running, virtual_wall
from swarmd.testing.story import story_of
from swarmd.testing.swarming_bots import SwarmingBot

if TYPE_CHECKING:
    from swarmd.api.grpc import Service
    from swarmd.testing.remote_bots import RemoteBot

T = TypeVar("T")
STATES = m.StateName.__args__  # type: ignore[attr-defined]
FINAL_STATES = frozenset(STATES) - {"BLOCKED", "PENDING", "RUNNING"}
VIRTUAL_PATIENCE_S = 30 * 86_400.0  # of `until`, on virtual time: longer than any default of a task
REAL_PATIENCE_S = 30.0
HISTORY = 200  # events of a task that `until` looks through after each change

Dimensions = Mapping[str, str | Sequence[str]]


class LabError(Exception):
    """The test asks for what this lab cannot do; the message says what can."""


class _Life:
    """One run of the daemon, from start to end."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.stop = trio.Event()
        self.ended = trio.Event()

    @property
    def is_ending(self) -> bool:
        return self.stop.is_set() or self.scope.cancel_called


class Lab:
    """A running daemon and what a test does with it. Made by the fixture `swarmd`, or by `open_lab`.

    `client` is a typed client and `url` the address for programs of your own; both stay the same when the daemon is
    started again. `path` is the database, None for one in memory. `seed` is where all chance of its bots comes from.
    """

    def __init__(
        self, path: Path | None, config: Config, seed: int, nursery: trio.Nursery, bots: trio.Nursery
    ) -> None:
        self.path = path
        self.seed = seed
        self.random = random.Random(seed)
        self.client: Client
        self.url = ""
        self.is_virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        self._config = config
        self._nursery = nursery
        self._bots = bots
        self._bot_count = 0
        self._life: _Life | None = None
        self._starting = trio.Lock()
        self._running: RunningDaemon | None = None
        self._up = trio.Event()
        self._failures: list[Failure] = []

    # ------------------------------------------------------------- time

    @property
    def now(self) -> float:
        """Engine time in seconds: it goes on over a restart."""
        return self.daemon.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Lets time pass: on virtual time at once, with everything that happens in it."""
        await trio.sleep(seconds)

    # ------------------------------------------------------------- the daemon

    @property
    def daemon(self) -> Daemon:
        """The daemon itself, for a look inside; another one after each start. Raises `LabError` while it is down."""
        if self._running is None:
            raise LabError("the daemon is down: `await swarmd.start()` starts it on the same file")
        return self._running.daemon

    @property
    def is_up(self) -> bool:
        return self._running is not None

    async def _begin(self, at: str) -> None:
        self.url = at
        await self.start()

    async def start(self) -> None:
        """Starts the daemon on the same file, at the same address; nothing when it runs."""
        async with self._starting:
            if self._life is not None and self._life.is_ending:
                await self._life.ended.wait()
            if self._life is not None:
                return
            self._life = life = _Life()
            try:
                await self._nursery.start(self._live, life)
            except BaseException:
                self._life = None
                raise

    async def stop(self) -> None:
        """Stops the daemon as SIGTERM does: held calls are answered, everything is committed. Then it is down."""
        self._needs_file("stop")
        await self._end()

    async def crash(self) -> None:
        """Ends the daemon as `kill -9` does: no call is answered, nothing more is committed. Then it is down."""
        self._needs_file("crash")
        if self._life is not None:
            self._life.scope.cancel()
            await self._life.ended.wait()

    async def restart(self, away_s: float = 0.0) -> None:
        """Stops it if it runs, lets `away_s` pass, and starts it on the same file."""
        self._needs_file("restart")
        await self._end()
        await trio.sleep(away_s)
        await self.start()

    def fail_at(self, name: Failpoint, *, nth: int = 1, back_after_s: float | None = 1.0) -> Failure:
        """The daemon ends, as `crash` does, when it gets to `name` the `nth` time from now.

        `before_commit`: nothing of the transaction is in the file. `after_commit`: all of it is, and nobody was told.
        It is started again `back_after_s` later; with None it stays down until `start`.
        """
        self._needs_file("fail_at")
        if name not in FAILPOINTS:
            raise LabError(f"there is no failpoint {name!r}; there are {', '.join(FAILPOINTS)}")
        failure = Failure(name, nth, back_after_s)
        self._failures.append(failure)
        return failure

    def hold_commits(self) -> Gate:
        """Holds everything back that would be committed, and so all answers that depend on it, until the end of the
        `with` block or `release()`. A daemon that is started meanwhile is not held.
        """
        return self.daemon.writer.hold_commits()

    async def check_file(self) -> None:
        """Fails when the database has a fault that `swarmd check` would name. The daemon may run."""
        self._needs_file("check_file")
        if self._running is not None:
            await self.daemon.settled()
        faults = await in_thread(check_file, self.path)
        assert not faults, "\n".join(
            [f"{self.path} is damaged:", *(f"  {f.name}: {f.sentence}" for f in faults)]
        )

    def _needs_file(self, what: str) -> None:
        if self.path is None:
            raise LabError(
                f"{what} needs a file, but this database is in memory: @pytest.mark.swarmd(path='file')"
            )

    def _failpoint(self, name: str) -> None:
        for failure in [f for f in self._failures if f.name == name]:
            if failure.reached():
                self._failures.remove(failure)
                assert self._life is not None
                self._life.scope.cancel()  # first: whoever waits for this commit must not be told anything
                if failure.back_after_s is not None:
                    self._nursery.start_soon(self._come_back, self._life, failure.back_after_s)
                raise FailpointReached(name)

    async def _come_back(self, life: _Life, after_s: float) -> None:
        await life.ended.wait()
        await trio.sleep(after_s)
        await self.start()

    async def _live(self, life: _Life, task_status: trio.TaskStatus[None]) -> None:
        at, is_told = self.url, False
        try:
            with life.scope:
                async with running(
                    self.path, config=self._config, at=at, tcp=not at, retention=True,
                    wall=virtual_wall if self.is_virtual else time.time, failpoint=self._failpoint,
                    is_dead=lambda: life.scope.cancel_called,
                ) as self._running:  # fmt: skip
                    self.url = self._running.url
                    self._up.set()
                    task_status.started()
                    is_told = True
                    await life.stop.wait()
                    self._up = trio.Event()
        except* (FailpointReached, StoreBroken):
            if not life.scope.cancel_called:
                raise
        finally:
            ended, self._running, self._life = self._running, None, None
            if self._up.is_set():
                self._up = trio.Event()
            if ended is not None:
                ended.daemon.news.publish_all()  # who waits for news of it waits for the next one
            life.ended.set()
        if not is_told:  # a failpoint was reached while it started
            task_status.started()

    async def _end(self) -> None:
        if self._life is not None:
            self._life.stop.set()
            await self._life.ended.wait()

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls the daemon; waits while it is down."""
        while True:
            await self._up.wait()
            life = self._life
            try:
                return await call()
            except Unreachable:
                if self._up.is_set() and self._life is life:
                    raise

    # ------------------------------------------------------------- tasks

    async def submit(self, *argv: str, dimensions: Dimensions | None = None, **fields: Any) -> str:
        """Submits one task and gives its id; without `argv` (or `commands`, `marker`, `payload`) it is a noop.

        `dimensions={"os": "Linux"}`: what it requires, each a text or a list. `fields` are those of
        `messages.TaskRequest`: retries, hard_limit_s, expiration_s, priority, after, …
        """
        return (await self.submit_many(1, *argv, dimensions=dimensions, **fields))[0]

    async def submit_many(
        self, count: int, *argv: str, dimensions: Dimensions | None = None, **fields: Any
    ) -> list[str]:
        """Submits `count` equal tasks in one request; gives their ids in order."""
        made = task_of(*argv, dimensions=dimensions, **fields)
        request_id = new_request_id()  # the same for every try: a daemon that died may have taken it
        return await self._patiently(lambda: self.client.submit([made] * count, request_id))

    async def submit_graph(
        self, after: Mapping[str, Sequence[str]], *argv: str, open: bool = False, **fields: Any
    ) -> dict[str, str]:
        """Submits a graph of equal tasks: `{"build": [], "test": ["build"]}`; gives the id of each key."""
        tasks = [task_of(*argv, key=key, after=list(on), **fields) for key, on in after.items()]
        request = m.GraphRequest(tasks=tasks, open=open, request_id=new_request_id())
        answer = await self._patiently(lambda: self.client.submit_graph(request))
        return dict(zip(after, answer.ids, strict=True))

    async def until(self, id: str, *states: m.StateName, within_s: float | None = None) -> m.TaskInfo:
        """Waits until the task is, or since this call has been, in one of `states` (none given: in a final one).

        Wakes with the daemon's own news, over restarts too; nothing is polled. Fails, with the task's story, when
        it is final in another state, or after `within_s` (by default 30 days of virtual or 30 s of real time).
        """
        wanted = frozenset(states) or FINAL_STATES
        _check_names(wanted)
        patience_s = within_s or (VIRTUAL_PATIENCE_S if self.is_virtual else REAL_PATIENCE_S)
        op = OpId(from_text(id) or 0)
        known: set[str] = set()
        first, when = True, f" within {patience_s:g} s"
        with trio.move_on_after(patience_s):
            while True:
                await self._up.wait()
                with self.daemon.news.waiting_for([op]) as news:
                    task = await self._patiently(lambda: self.client.get(id))
                    passed = await self._passed(task, known)
                    if task.state in wanted or (not first and wanted & passed):
                        return task
                    if task.state in FINAL_STATES:
                        break
                    first = False
                    await news.wait()
                when = ""
        raise AssertionError(await self._failed(id, wanted, when))

    async def _passed(self, task: m.TaskDetails, known: set[str]) -> set[str]:
        """The states that the task came to since the last look; `known`: ids of the events and started attempts
        seen by then. A start that is reported together with its end is no event of its own.
        """

        async def read() -> list[m.EventInfo]:
            return [event async for event in self.client.task_events(task.id, limit=HISTORY)]

        came_to = {event.id: event.state for event in await self._patiently(read) if event.kind == "task"}
        came_to |= {attempt.id: "RUNNING" for attempt in task.attempts if attempt.started_at}
        fresh = {state for id, state in came_to.items() if id not in known and state}
        known.update(came_to)
        return fresh

    # ------------------------------------------------------------- checks

    async def check_state(self, id: str, *states: m.StateName) -> m.TaskDetails:
        """The task, which is in one of `states` now; else fails with why, its attempts and its history."""
        _check_names(states)
        task = await self._patiently(lambda: self.client.get(id))
        if task.state not in states:
            raise AssertionError(await self._failed(id, states))
        return task

    async def check_attempts(self, id: str, *states: str) -> list[m.AttemptInfo]:
        """The task's attempts, which are in these states, in order: `"LOST", "ENDED"`; else fails with its story."""
        task = await self._patiently(lambda: self.client.get(id))
        found = tuple(attempt.state for attempt in task.attempts)
        if found != states:
            raise AssertionError(
                f"the attempts of task {id} are {', '.join(found) or 'none'}; expected {', '.join(states) or 'none'}\n"
                + await self.story(id)
            )
        return task.attempts

    async def check_output(self, id: str, expected: bytes, stream: str = "stdout", attempt: str = "") -> None:
        """The task has printed `expected`, no more and no less; else fails with both and its story."""
        pieces = [piece async for piece in self.client.output(id, stream, attempt=attempt)]
        found = b"".join(pieces)
        if found != expected:
            raise AssertionError(
                f"{stream} of task {id} is\n  {found!r}\nexpected\n  {expected!r}\n{await self.story(id)}"
            )

    async def story(self, id: str) -> str:
        """Why the task waits or how it ended, its attempts and its history, in lines."""
        return await self._patiently(lambda: story_of(self.client, id))

    async def _failed(self, id: str, wanted: Sequence[str] | frozenset[str], when: str = "") -> str:
        task = await self._patiently(lambda: self.client.get(id))
        name = f" ({task.name})" if task.name else ""
        return (
            f"task {id}{name} is {task.state}; expected {' or '.join(sorted(wanted))}{when}\n"
            f"{await self.story(id)}\nseed {self.seed}"
        )

    # ------------------------------------------------------------- bots

    def bot(self, id: str = "", *, slots: int = 1, dimensions: Dimensions | None = None) -> NativeBot:
        """A scripted bot that does nothing by itself: `await bot.open()`, then step by step (`NativeBot`)."""
        self._bot_count += 1
        return NativeBot(self.client, id or f"b{self._bot_count}", slots=slots, dimensions=_lists(dimensions))

    def swarming_bot(self, id: str = "", *, dimensions: Dimensions | None = None) -> SwarmingBot:
        """A scripted bot of LUCI Swarming: `await bot.handshake()`, then step by step (`SwarmingBot`)."""
        self._bot_count += 1
        return SwarmingBot(self.url, id or f"s{self._bot_count}", dimensions=_lists(dimensions))

    def remote_bot(
        self,
        id: str = "",
        *,
        instance: str = "",
        properties: Sequence[tuple[str, str]] = (),
        capacity: int | None = None,
    ) -> RemoteBot:
        """A scripted bot of the Remote Workers API: `await bot.create()`, then step by step (`RemoteBot`)."""
        from swarmd.testing.remote_bots import RemoteBot  # brings protobuf

        self._bot_count += 1
        name = id or f"w{self._bot_count}"
        return RemoteBot(self, name, instance=instance, properties=properties, capacity=capacity)

    @property
    def services(self) -> tuple[Service, ...]:
        """The services of gRPC, for calls that do not go over the wire. Raises `LabError` while the daemon is down."""
        if self._running is None:
            raise LabError("the daemon is down: `await swarmd.start()` starts it on the same file")
        return self._running.app.grpc.services

    def living_bot(
        self,
        id: str = "",
        *,
        slots: int = 1,
        dimensions: Dimensions | None = None,
        fault: Fault | str = Fault.NONE,
        chance: float = 1.0,
        runs_s: float = 0.0,
        wait_s: float = 30.0,
        outcome: int | Callable[[m.Offer], int] = 0,
    ) -> NativeBot:
        """A bot that works until the test ends: each task takes `runs_s` and ends with the exit code `outcome`.

        `fault`: what it does wrong (`late`, `silent`, `duplicate`, `lying`, `crashing`), each time with the
        probability `chance`, drawn from the lab's seed. `wait_s`: how long one of its calls is held, at most 50.
        """
        bot = self.bot(id, slots=slots, dimensions=dimensions)
        give = (lambda offer: outcome) if isinstance(outcome, int) else outcome
        chances = random.Random(f"{self.seed} {bot.id}")
        live = partial(
            bot.live, Fault(fault), runs_s=runs_s, wait_s=wait_s, outcome=give, chance=chance, random=chances
        )
        self._bots.start_soon(live)
        return bot


def task_of(*argv: str, dimensions: Dimensions | None = None, **fields: Any) -> m.TaskRequest:
    """A task as `Lab.submit` makes it."""
    if argv:
        fields["argv"] = list(argv)
    elif not any(fields.get(name) for name in ("argv", "commands", "marker", "payload")):
        fields["noop"] = True
    try:
        return m.TaskRequest(dimensions=_lists(dimensions), **fields)
    except TypeError as error:
        known = ", ".join(m.TaskRequest.__struct_fields__)
        raise LabError(f"a task cannot be made: {error}; its fields are {known}") from None


def _lists(dimensions: Dimensions | None) -> dict[str, list[str]]:
    given = dimensions or {}
    return {key: [value] if isinstance(value, str) else list(value) for key, value in given.items()}


def _check_names(states: Sequence[str] | frozenset[str]) -> None:
    unknown = sorted(set(states) - set(STATES))
    if unknown or not states:
        raise LabError(f"there is no state {unknown[0] if unknown else ''!r}; states are {', '.join(STATES)}")


def config_for_tests(settings: Mapping[str, Any]) -> Config:
    """Settings of the daemon by their names in its file. By default commits are not synced to the disk: what a test
    ends is a process, not a machine.
    """
    config = msgspec.convert({"durability": "process", **settings}, Config)
    config.networks  # noqa: B018 - a bad one is told now
    return config


@asynccontextmanager
async def open_lab(
    path: Path | None = None, *, config: Config | None = None, tcp: bool = False, seed: int = 0
) -> AsyncIterator[Lab]:
    """A lab with a running daemon, until the block is left; `path=None` keeps the database in memory.

    For tests that do not use the fixture. `tcp`: listens on a free port of 127.0.0.1, else on a Unix socket.
    At the end the daemon is stopped, and fails the test when its memory contradicts itself.
    """
    failed: Exception | None = None
    with tempfile.TemporaryDirectory(prefix="swarmd-lab-") as folder:
        async with trio.open_nursery() as daemons:
            async with trio.open_nursery() as bots:
                lab = Lab(path, config or config_for_tests({}), seed, daemons, bots)
                await lab._begin("" if tcp else f"unix:{folder}/s")
                async with open_client(lab.url) as lab.client:
                    await lab.client.health()  # from now on it has patience: it has reached the daemon once
                    try:
                        yield lab
                        if lab.is_up:
                            lab.daemon.engine.check()
                    except Exception as error:  # raised below as it is, not in the groups of these nurseries
                        failed = error
                bots.cancel_scope.cancel()
            await lab._end()
            daemons.cancel_scope.cancel()
    if failed is not None:
        raise failed
