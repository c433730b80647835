"""Scripted clients: they submit, cancel, retry, change and read at random, and log what they were told."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Client, StrangeAnswer, Unreachable
from swarmd.core.errors import CoreError
from swarmd.core.ids import to_text
from swarmd.core.model import BotId, Condition, Share
from swarmd.daemon.daemon import NoSpace
from swarmd.daemon.terminating import terminate_bot
from swarmd.store.errors import StoreError

from .history import Canceled, Ended, History, Retried, Submitted
from .lab import Lab

T = TypeVar("T")
GIVE_UP_S = 60.0
MAX_TRIES = 12  # of one request whose outcome is not known; then it stays unknown
# What the daemon may say to a call that comes too late, or while it cannot.
EXPECTED = {
    "unknown_task", "not_final", "parent_final", "graph_closed", "unknown_graph", "task_final", "task_started",
    "cycle", "busy", "stopping", "no_space", "store_broken", "bot_connected", "unknown_bot", "bot_dead",
}  # fmt: skip
LATER = {"busy", "stopping", "no_space", "store_broken"}


class Person:
    """One client program. `work` ends after `tasks` tasks."""

    def __init__(
        self, name: str, client: Client, lab: Lab, history: History, rng: random.Random, tasks: int
    ) -> None:
        self.name = name
        self.client = client
        self.lab = lab
        self.history = history
        self.rng = rng
        self.left = tasks
        self.graphs: list[tuple[str, list[str]]] = []
        self._count = 0

    async def work(self) -> None:
        while self.left > 0:
            await trio.sleep(self.rng.expovariate(1 / 12))
            act = self.rng.choices(
                (
                    self.submit,
                    self.submit_graph,
                    self.cancel,
                    self.retry,
                    self.change_edges,
                    self.look,
                    self.tidy,
                    self.end_a_bot,
                ),
                (6, 3, 3, 2, 1, 3, 1, 1),
            )[0]
            await act()

    # ------------------------------------------------------------- calls

    async def call(self, kind: str, make: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None when it was refused or its outcome is not known."""
        for _ in range(MAX_TRIES):
            try:
                answer = await make()
            except (Unreachable, StrangeAnswer):
                self.history.called(kind, "unknown")
            except ApiError as error:
                self.history.called(kind, error.code)
                if error.code not in EXPECTED:
                    self.history.faults.append(
                        f"{kind} of {self.name} was answered {error.code}: {error.message}"
                    )
                if error.code not in LATER:
                    return None
            else:
                self.history.called(kind, "acknowledged")
                return answer
            if self.rng.random() < 0.15:
                return None  # gives up; it may have taken effect
            await trio.sleep(self.rng.uniform(0, 40))
        return None

    def _request_id(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    # ------------------------------------------------------------- submitting

    def task(self, name: str, **fields: object) -> m.TaskRequest:
        rng = self.rng
        needs = rng.choices(({}, {"os": ["linux"]}, {"gpu": ["a|b"]}, {"os": ["amiga"]}), (4, 4, 2, 1))[0]
        task = m.TaskRequest(
            name=name, argv=["run", name], dimensions=needs, priority=rng.randint(-2, 2),
            hard_limit_s=rng.choice((5.0, 60.0, 600.0)), grace_s=rng.choice((0.0, 5.0)),
            expiration_s=rng.choice((40.0, 300.0, 1200.0)), retries=rng.choice((0, 0, 1, 2)),
            bot_retries=rng.choice((0, 1, 3)), retry_wait_s=rng.choice((0.0, 0.0, 15.0)),
            wait_for_capacity=rng.random() < 0.8,
        )  # fmt: skip
        if rng.random() < 0.2:
            task.sameness, task.share = f"same {rng.randint(0, 4)}", rng.choice((Share.FINISHED, Share.JOIN))
        if rng.random() < 0.1:
            task.slices = [
                m.SliceRequest(dimensions=d, expiration_s=30.0) for d in ({"gpu": ["c"]}, {"os": ["linux"]})
            ]
            task.dimensions, task.expiration_s, task.wait_for_capacity = {}, m.DEFAULT_EXPIRATION_S, True
        for field, value in fields.items():
            setattr(task, field, value)
        return task

    def _names(self, count: int) -> list[str]:
        id = self._request_id()
        return [f"{id}-{number}" for number in range(count)]

    async def submit(self) -> None:
        names = self._names(self.rng.randint(1, 5))
        tasks = [self.task(name) for name in names]
        known = self.history.acknowledged
        for task in tasks:
            if known and self.rng.random() < 0.2:
                task.after = [
                    m.Dependency(on=self.rng.choice(known[-20:]), condition=self.rng.choice(list(Condition)))
                ]
            if known and self.rng.random() < 0.05:
                task.parent = self.rng.choice(known[-5:])
        await self._submit(m.SubmitRequest(tasks=tasks, request_id=names[0]), names)

    async def _submit(self, request: m.SubmitRequest, names: list[str], graph: str = "") -> list[str] | None:
        entry = Submitted(names, graph=graph)
        self.history.submits.append(entry)
        self.left -= len(names)
        answer = await self.call("submit", lambda: self.client.submit_request(request, graph))
        if answer is None:
            return None
        entry.ids = answer.ids
        if self.rng.random() < 0.2:
            again = await self.call("submit again", lambda: self.client.submit_request(request, graph))
            if again is not None and again.ids != answer.ids:
                self.history.faults.append(
                    f"request {request.request_id} gave {again.ids} after {answer.ids}"
                )
        return answer.ids

    async def submit_graph(self) -> None:
        names = self._names(self.rng.randint(2, 6))
        tasks = []
        for number, name in enumerate(names):
            before = [names[n] for n in range(number) if self.rng.random() < 0.5]
            task = self.task(name, key=name, after=[
                m.Dependency(on=b, condition=self.rng.choice((Condition.SUCCEEDED, Condition.SUCCEEDED, Condition.ANY)))
                for b in before
            ])  # fmt: skip
            if self.rng.random() < 0.1:
                task = m.TaskRequest(name=name, key=name, marker=True, after=task.after)
            tasks.append(task)
        request = m.GraphRequest(tasks=tasks, open=self.rng.random() < 0.4, request_id=names[0])
        entry = Submitted(names)
        self.history.submits.append(entry)
        self.left -= len(names)
        answer = await self.call("submit graph", lambda: self.client.submit_graph(request))
        if answer is None:
            return
        entry.ids, entry.graph = answer.ids, answer.id
        if request.open:
            await self._grow(answer.id, names)

    async def _grow(self, graph: str, names: list[str]) -> None:
        for _ in range(self.rng.randint(0, 2)):
            await trio.sleep(self.rng.uniform(0, 60))
            more = self._names(2)
            tasks = [self.task(name, key=name, after=[self.rng.choice(names)]) for name in more]
            if await self._submit(m.SubmitRequest(tasks=tasks, request_id=more[0]), more, graph):
                names = names + more
        await self.call("close graph", lambda: self.client.close_graph(graph))

    # ------------------------------------------------------------- changing

    def _some(self, most: int) -> list[str]:
        known = self.history.acknowledged[-40:]
        return sorted(self.rng.sample(known, min(len(known), self.rng.randint(1, most))))

    async def cancel(self) -> None:
        if not (ids := self._some(3)):
            return
        entry = Canceled(ids, kill=self.rng.random() < 0.8)
        self.history.cancels.append(entry)
        if await self.call("cancel", lambda: self.client.cancel(ids, kill=entry.kill)) is not None:
            entry.acknowledged_at = (await self.lab.up()).clock.now()

    async def retry(self) -> None:
        if not (ids := self._some(2)):
            return
        entry = Retried(ids)
        self.history.retries.append(entry)
        id = self._request_id()
        answer = await self.call("retry", lambda: self.client.retry(ids, request_id=id))
        if answer is not None:
            entry.new_ids = answer.ids
            self.left -= len(answer.ids)

    async def change_edges(self) -> None:
        if len(ids := self._some(2)) == 2:
            await self.call("change edges", lambda: self.client.set_after(ids[1], [ids[0]]))

    async def end_a_bot(self) -> None:
        """By a task. No call of the native API makes one, so it is asked of the daemon itself."""
        entry = Ended(f"bot{self.rng.randint(1, 5)}", self._request_id())
        self.history.ends.append(entry)
        daemon = await self.lab.up()
        told = "unknown"  # the daemon dies meanwhile
        with trio.move_on_after(GIVE_UP_S):
            try:
                op = await terminate_bot(
                    daemon, BotId(entry.bot), name=entry.name, tags=(), owner=self.name, priority=0
                )
            except (CoreError, StoreError, NoSpace) as error:
                told = getattr(error, "code", "no_space")
            else:
                told, entry.id = "acknowledged", to_text(op)
        self.history.called("end a bot", told)

    # ------------------------------------------------------------- reading

    async def look(self) -> None:
        if not (ids := self._some(2)):
            return
        kind = self.rng.choice(("get", "wait", "explain", "output", "events", "list"))
        client = self.client

        async def read() -> object:
            if kind == "get":
                return await client.get(ids[0])
            if kind == "wait":
                return await client.wait_once(ids, self.rng.uniform(0, 40))
            if kind == "explain":
                return await client.explain(ids[0])
            if kind == "output":
                return await client.read_output(ids[0], "stdout", wait_s=self.rng.uniform(0, 20))
            if kind == "events":
                return await client.task_events(ids[0], 10).all()
            return await client.tasks(20).all()

        if await self.call(kind, read) is None:
            return
        for id in ids if kind == "get" else ():  # what was shown once must never be taken back
            found = await self.call("get", lambda id=id: client.get(id))
            if found is not None and found.ok is not None:
                self.history.cancels.append(Canceled([], False, finals={id: found.state}))

    async def tidy(self) -> None:
        bots = await self.call("bots", lambda: self.client.bots().all())
        dead = [bot.id for bot in bots or () if bot.status == "dead"]
        if dead:
            await self.call("delete bot", lambda: self.client.delete_bot(dead[0]))


async def follow(client: Client, history: History) -> None:
    """An event stream over all restarts, from the first event on."""
    last = to_text(0)
    while True:
        try:
            async with client.stream_events(after=last) as stream:
                async for event in stream:
                    history.events.append(event)
                    last = event.id
        except (Unreachable, StrangeAnswer):
            await trio.sleep(5)
        except ApiError as error:
            if error.code not in LATER:
                raise
            await trio.sleep(5)
