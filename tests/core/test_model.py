"""The engine against a small model of what it promised, driven at random: bots come, go, lie, repeat themselves,
come back late; work is shared, chained and canceled; time jumps; the daemon starts again from its file.

A failing run prints how to get it again (`@reproduce_failure`). What was found stands as a test with a name in the test
file of its subject.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from swarmd.core.errors import Conflict, Refused, Unknown
from swarmd.core.model import (
    Attempt,
    AttemptState,
    Condition,
    OpId,
    Outcome,
    Session,
    Share,
    StopReason,
    Task,
    TaskId,
    TaskState,
    Work,
)
from swarmd.core.submitting import After, SliceSpec, TaskSpec

from .builders import DIED, FAILED, OK, FakeBot, World, spec
from .dumps import check_deeply, differences, dump

DAY_S = 86_400.0
OUTCOMES = (
    OK, FAILED, DIED,
    Outcome(ok=False, timed_out=True), Outcome(ok=False, canceled=True), Outcome(ok=False, client_error=True),
    Outcome(ok=True, died=True),  # a lie: only COMPLETED can be ok
)  # fmt: skip
NEEDS: tuple[dict[str, list[str]], ...] = (
    {}, {"os": ["linux"]}, {"os": ["linux|mac"]}, {"os": ["mac"], "gpu": ["h200"]}, {"os": ["amiga"]},
)  # fmt: skip
HAVES: tuple[dict[str, list[str]], ...] = (
    {"os": ["linux"]}, {"os": ["mac"], "gpu": ["h200", "a10"]}, {"os": ["linux"], "pool": ["default", "lab"]},
    {"os": ["linux"], "pool": ["lab"]},
)  # fmt: skip
BAD: tuple[dict[str, list[str]], ...] = ({"os": []}, {"os": ["linux", "linux"]}, {"gpu": ["a|b"]})

END = Work(terminate=True, hard_limit_s=50.0, grace_s=2.0)

picks = st.integers(0, 1_000)
spans = st.sampled_from((0.0, 0.5, 5.0, 29.0, 31.0, 61.0, 200.0, 3_700.0, DAY_S))


def satisfies(needs: dict[str, list[str]], has: dict[str, list[str]], pool: str = "default") -> bool:
    """The requirement language, written down once more."""
    if pool and pool not in has.get("pool", ["default"]):
        return False
    return all(
        any(v in has.get(key, ()) for v in value.split("|"))
        for key, values in needs.items()
        for value in values
    )


def ends_as(outcome: Outcome, stop: StopReason | None) -> TaskState:
    """The state that an attempt's end names, written down once more."""
    if stop is not None and not (stop is StopReason.CANCELED and outcome.canceled):
        return TaskState.KILLED if stop is StopReason.CANCELED else TaskState.TIMED_OUT
    told = {
        "canceled": TaskState.CANCELED, "timed_out": TaskState.TIMED_OUT, "client_error": TaskState.CLIENT_ERROR,
        "died": TaskState.BOT_DIED,
    }  # fmt: skip
    return next((state for name, state in told.items() if getattr(outcome, name)), TaskState.COMPLETED)


class EngineMachine(RuleBasedStateMachine):
    """What the model knows: everything ever submitted, every final state ever seen, what each bot has."""

    @initialize()
    def begin(self) -> None:
        self.world = World(max_drops=3)
        self.specs: dict[TaskId, TaskSpec] = {}
        self.ops: list[OpId] = []
        self.finals: dict[OpId, TaskState] = {}
        self.graphs: list[Any] = []
        self.bots: list[FakeBot] = []
        self.seen: list[Attempt] = []  # every attempt that ever was, to repeat and to lie about
        self.held: dict[int, bool] = {}  # session: whether its handler takes what it is woken for
        self.frees: dict[int, int] = {}  # how many offers it would take
        self.bots.append(self.world.bot("a", key="one", bot_key="x", slots=2, dimensions=HAVES[0]))
        self.accept([spec(bot_retries=1, retries=1), spec(os="linux", expiration_s=50.0)])

    # ------------------------------------------------------------- work

    def accept(self, specs: list[TaskSpec], graph: Any = None) -> None:
        for one, submitted in zip(specs, self.world.submit_all(specs, graph), strict=True):
            self.specs[TaskId(submitted.id)] = one
            self.ops.append(submitted.id)
            assert self.world.state(submitted.id) is submitted.state
            task = self.world.engine.task_of(submitted.id)
            assert task is None or task.id == submitted.task

    @rule(
        needs=st.sampled_from(NEEDS), priority=st.integers(-1, 1), retries=st.integers(0, 1),
        bot_retries=st.integers(0, 1), wait_s=st.sampled_from((0.0, 7.0)),
        expiration_s=st.sampled_from((3.0, 100.0, DAY_S)),
        patient=st.booleans(), copies=st.integers(1, 2),
    )  # fmt: skip
    def submit(self, needs, priority, retries, bot_retries, wait_s, expiration_s, patient, copies) -> None:  # type: ignore[no-untyped-def]
        self.accept([
            spec(dimensions=needs, priority=priority, retries=retries, bot_retries=bot_retries, retry_wait_s=wait_s,
                 expiration_s=expiration_s, wait_for_capacity=patient, hard_limit_s=50.0, grace_s=2.0)
        ] * copies)  # fmt: skip

    @rule(
        name=st.sampled_from("ab"),
        priority=st.integers(-1, 1),
        bot_retries=st.integers(0, 1),
        expiration_s=st.sampled_from((3.0, DAY_S)),
        patient=st.booleans(),
        then=st.sampled_from(("silence", "goodbye", "told", "")),
    )
    def terminate(self, name, priority, bot_retries, expiration_s, patient, then) -> None:  # type: ignore[no-untyped-def]
        """A task that ends its bot; there may be several. `then`: what the bot does, if it has nothing else to do."""
        self.accept([
            spec(work=END, pool="", dimensions={"id": [name]}, priority=priority, bot_retries=bot_retries,
                 expiration_s=expiration_s, wait_for_capacity=patient)
        ])  # fmt: skip
        bot = self.world.engine.bots.get(name)
        if then and bot is not None and bot.session is not None and not bot.session.attempts:
            session = bot.session
            [attempt] = self.world.engine.offer(self.world.now, session.id, "end", 0)
            assert self.ends_its_bot(self.world.engine.tasks[attempt.task])
            self.world.engine.accept(self.world.now, attempt)
            self.seen.append(attempt)
            if then == "goodbye":
                self.world.engine.close_session(self.world.now, session.id, "as it was told")
                assert self.world.state(OpId(attempt.task)) is TaskState.COMPLETED
            elif then == "silence":
                self.world.pass_time(session.deadline_s)
                assert session.id not in self.world.engine.sessions
                assert self.world.state(OpId(attempt.task)) is not TaskState.COMPLETED

    @rule(
        needs=st.tuples(st.sampled_from(NEEDS), st.sampled_from(NEEDS)),
        patient=st.booleans(),
        carry=st.booleans(),
    )
    def submit_slices(self, needs, patient, carry) -> None:  # type: ignore[no-untyped-def]
        slices = [SliceSpec(dict(n), 20.0, wait_for_capacity=patient) for n in needs]
        self.accept([spec(slices=slices, carry_time=carry)])

    @rule(same=st.sampled_from(("k1", "k2")), share=st.sampled_from(Share), priority=st.integers(-1, 1), on=picks,
          chained=st.booleans(), condition=st.sampled_from(Condition))  # fmt: skip
    def submit_shared(self, same, share, priority, on, chained, condition) -> None:  # type: ignore[no-untyped-def]
        after = [After(self.ops[on % len(self.ops)], None, condition)] if chained and self.ops else []
        self.accept([spec(sameness=same, share=share, priority=priority, after=after)])

    @precondition(lambda self: self.ops)
    @rule(parent=picks)
    def submit_child(self, parent: int) -> None:
        op = self.ops[parent % len(self.ops)]
        if self.world.engine.task_of(op) is not None:
            self.accept([spec(parent=op)])
        else:
            with pytest.raises(Conflict, match="children end with it"):
                self.world.submit(parent=op)

    nodes = st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Condition)), max_size=2),
            st.sampled_from(("noop", "marker", "k1", "k2")),
        ),
        min_size=1, max_size=4,
    )  # fmt: skip

    @rule(nodes=nodes, is_open=st.booleans(), outside=picks, add=st.booleans())
    def submit_graph(self, nodes, is_open, outside, add) -> None:  # type: ignore[no-untyped-def]
        specs = []
        for number, (edges, kind) in enumerate(nodes):
            after: list[After] = []
            for to, condition in edges:
                if to < number:
                    after.append(After(index=to, condition=condition))
                elif self.ops:
                    after.append(After(self.ops[outside % len(self.ops)], None, condition))
            sameness = kind if kind.startswith("k") else None
            share = Share.JOIN if sameness else Share.NONE
            specs.append(spec(after=after, marker=kind == "marker", sameness=sameness, share=share))
        open_ones = [
            g for g in self.graphs if g in self.world.engine.graphs and self.world.engine.graphs[g].is_open
        ]
        if add and open_ones:
            graph = self.world.engine.graphs[open_ones[0]]
        else:
            graph = self.world.graph(is_open=is_open)
            self.graphs.append(graph.id)
        self.accept(specs, graph)

    @precondition(lambda self: self.graphs)
    @rule(which=picks)
    def close_graph(self, which: int) -> None:
        graph = self.world.engine.graphs.get(self.graphs[which % len(self.graphs)])
        if graph is not None:
            self.world.engine.close_graph(self.world.now, graph)

    @precondition(lambda self: self.ops)
    @rule(which=picks, on=st.lists(st.tuples(picks, st.sampled_from(Condition)), max_size=2))
    def change_edges(self, which, on) -> None:  # type: ignore[no-untyped-def]
        op = self.ops[-1 - which % len(self.ops)]
        edges = [After(self.ops[n % len(self.ops)], None, condition) for n, condition in on]
        task = self.world.engine.task_of(op)
        try:
            self.world.set_after(op, *edges)
        except Conflict:
            assert task is None or task.attempt or task.ops or task.state > TaskState.PENDING
        except Refused as refused:
            assert refused.code == "cycle" and edges

    @precondition(lambda self: self.ops)
    @rule(which=picks, kill=st.booleans())
    def cancel(self, which: int, kill: bool) -> None:
        op = self.ops[-1 - which % len(self.ops)]
        task = self.world.engine.task_of(op)
        alone = task is not None and len(self.world.engine.ops_of(task)) == 1
        runs = task is not None and task.state is TaskState.RUNNING
        self.world.cancel(op, kill)
        if task is None or (runs and alone and not kill):
            return
        if alone and runs:
            assert task.attempt is not None and task.attempt.stop is not None
        else:
            assert self.world.state(op) is TaskState.CANCELED

    @rule()
    def look_up(self) -> None:
        self.world.look_up()

    # ------------------------------------------------------------- bots

    @rule(
        name=st.sampled_from("ab"), key=st.sampled_from(("one", "two")), bot_key=st.sampled_from(("x", "x", "x", "y")),
        has=st.sampled_from(HAVES), wins=st.booleans(), enforces=st.booleans(), keeps=st.lists(picks, max_size=3),
    )  # fmt: skip
    def open(self, name, key, bot_key, has, wins, enforces, keeps) -> None:  # type: ignore[no-untyped-def]
        world = self.world
        bot = FakeBot(world, name, key=key, bot_key=bot_key, dimensions=has, slots=2, enforces_limits=enforces,
                      always_wins=wins)  # fmt: skip
        before = world.engine.bots.get(bot.name)
        old = before.session if before is not None else None
        known_key = before.key_hash if before is not None else ""
        kept = [self.seen[n % len(self.seen)] for n in keeps] if self.seen else []
        own = {id for id, a in old.attempts.items()} if old is not None else set()
        try:
            opened = bot.open(kept)
        except Conflict as conflict:
            assert conflict.code == "bot_in_use"
            assert old is not None and old.key != key and known_key != bot_key and not wins
            return
        assert set(opened.lost) == {a.id for a in kept} - own
        assert opened.is_new == (old is None or old.key != key)
        assert {a.id for a in kept} & own <= set(bot.attempts)
        if opened.is_new:
            assert set(bot.attempts) <= {a.id for a in kept}
        self.bots.append(bot)

    @rule(which=picks, has=st.sampled_from((*HAVES, *BAD)), version=st.sampled_from(("1", "2")))
    def describe(self, which, has, version) -> None:  # type: ignore[no-untyped-def]
        """A bot says anew what it is: while it waits, while it runs something, the same as before, what cannot be."""
        bot, session = self.with_session(which)
        if bot is None or session is None:
            return
        engine = self.world.engine
        it = engine.bots[session.bot]
        before = (it.version, it.dimensions, it.assigned)
        count = engine.version
        try:
            bot.describe(dimensions=has, version=version)
        except Refused:
            assert (
                has in BAD and engine.version == count and (it.version, it.dimensions, it.assigned) == before
            )
            return
        assert has not in BAD
        told = {
            "id": (bot.name,),
            "pool": ("default",),
            **{key: tuple(values) for key, values in has.items()},
        }
        assert (it.version, it.dimensions) == (version, told)
        assert (engine.version == count) == ((it.version, it.dimensions, it.assigned) == before)

    def with_session(self, which: int) -> tuple[FakeBot | None, Session | None]:
        """A bot as it was started once; its session may have ended without its knowing."""
        if not self.bots:
            return None, None
        bot = self.bots[-1 - which % len(self.bots)]
        return bot, self.world.engine.sessions.get(bot.session)

    def could_take(self, session: Session, task: Task) -> bool:
        """Whether it would get this queued task, were there no better one of the kind."""
        if task.queued is None or not self.suits(session, task):
            return False
        if self.ends_its_bot(task):
            return not session.attempts
        holds_one = any(self.ends_its_bot(self.world.engine.tasks[a.task]) for a in session.attempts.values())
        return not holds_one and not any(
            self.ends_its_bot(t) and t.queued is not None and self.suits(session, t)
            for t in self.world.engine.tasks.values()
        )

    def suits(self, session: Session, task: Task) -> bool:
        has = {k: list(v) for k, v in self.world.engine.bots[session.bot].dimensions.items()}
        one = self.specs[task.id]
        return satisfies(one.slices[task.slice].dimensions, has, one.pool)

    def ends_its_bot(self, task: Task) -> bool:
        return self.specs[task.id].work[0].terminate

    @rule(
        which=picks,
        limit=st.integers(0, 3),
        key=st.sampled_from((None, None, None, "again")),
        heard=st.booleans(),
    )
    def poll(self, which, limit, key, heard) -> None:  # type: ignore[no-untyped-def]
        bot, session = self.with_session(which)
        if bot is None:
            return
        if session is None:
            with pytest.raises(Unknown):
                bot.poll(limit, key)
            return
        engine = self.world.engine
        again = [a for a in session.attempts.values() if a.offer_key == key]
        best = sorted(
            (t for t in engine.tasks.values() if self.could_take(session, t)),
            key=lambda t: (t.priority, t.id),
        )
        offered = bot.poll(limit, key)
        if again:
            assert offered == [a for a in again if a.state is AttemptState.OFFERED]
        elif best and self.ends_its_bot(best[0]):
            assert [a.task for a in offered] == [best[0].id]  # whatever its health and limit
        elif self.is_healthy(session):
            assert [a.task for a in offered] == [t.id for t in best][:limit]
        else:
            assert offered == []
        assert all(a.number == engine.tasks[a.task].tries for a in offered)
        self.seen += offered if heard else []

    def is_healthy(self, session: Session) -> bool:
        bot = self.world.engine.bots[session.bot]
        return (bot.quarantined, bot.maintenance, bot.draining, bot.order) == (None, None, False, None)

    @rule(which=picks, free=st.integers(0, 2), faithful=st.booleans())
    def wait(self, which, free, faithful) -> None:  # type: ignore[no-untyped-def]
        bot, session = self.with_session(which)
        if bot is None or session is None or session.id in self.held:
            return
        if bot.wait(free):
            assert any(self.could_take(session, t) for t in self.world.engine.tasks.values())
        else:
            self.held[session.id], self.frees[session.id] = faithful, free

    @rule()
    def handlers_run(self) -> None:
        """Held calls that were told something go on: they take their tasks and wait again, or are gone."""
        world = self.world
        for _ in range(20):
            told = [id for id in dict.fromkeys(world.engine.take_woken()) if id in self.held]
            if not told:
                return
            for id in told:
                faithful = self.held.pop(id)
                session = world.engine.sessions.get(id)
                free = session.free if session is not None else 0
                woken = world.engine.unwait(id)
                if session is None:
                    continue
                if not faithful:
                    if woken:
                        world.engine.pass_on(id)
                    continue
                self.seen += world.engine.offer(world.now, id, f"held-{world.engine.ids.last}", free or 1)
                if id in world.engine.sessions and not world.engine.wait(world.now, id, free or 1):
                    self.held[id], self.frees[id] = False, free or 1
        raise AssertionError("handlers wake each other for ever")

    @rule(which=picks, attempt=picks)
    def start(self, which, attempt) -> None:  # type: ignore[no-untyped-def]
        bot, session = self.with_session(which)
        if bot is not None and session is not None and session.attempts:
            bot.start(list(session.attempts.values())[attempt % len(session.attempts)])

    @precondition(lambda self: self.seen)
    @rule(
        which=picks,
        attempt=picks,
        outcome=st.sampled_from(OUTCOMES),
        live=st.sampled_from((True, True, False)),
    )
    def finish(self, which, attempt, outcome, live) -> None:  # type: ignore[no-untyped-def]
        """Of one of its own, or of any that ever was: late, twice, or somebody else's."""
        bot, session = self.with_session(which)
        if bot is None:
            return
        among = (
            list(session.attempts.values())
            if session is not None and session.attempts and live
            else self.seen
        )
        reported = among[attempt % len(among)]
        engine = self.world.engine
        before = dump(engine)
        mine = engine.attempts.get(reported.id)
        mine = mine if mine is not None and mine.session == bot.session else None
        task = engine.tasks.get(reported.task)
        spent = (task.task_faults, task.bot_faults) if task is not None else (0, 0)
        stop = mine.stop.reason if mine is not None and mine.stop is not None else None
        assert bot.finish(reported, outcome) == (mine is not None)
        if mine is None:
            assert dump(engine) == before
            return
        assert task is not None
        state = ends_as(outcome, stop)
        retried = stop is not StopReason.CANCELED and not (state is TaskState.COMPLETED and outcome.ok) and (
            (state is TaskState.BOT_DIED and spent[1] < task.plan.bot_retries)
            or (state in (TaskState.COMPLETED, TaskState.TIMED_OUT) and spent[0] < task.plan.retries)
        )  # fmt: skip
        assert task.state is (TaskState.PENDING if retried else state)
        assert not bot.finish(reported, outcome), "a second report must change nothing"

    @rule(which=picks, running=st.lists(picks, max_size=2), queued=st.lists(picks, max_size=2), judged=st.booleans(),
          honest=st.booleans())  # fmt: skip
    def holds(self, which, running, queued, judged, honest) -> None:  # type: ignore[no-untyped-def]
        bot, session = self.with_session(which)
        if bot is None or session is None:
            return
        pool = list(session.attempts.values()) if honest else self.seen
        if not pool:
            return
        runs = [pool[n % len(pool)] for n in running]
        waits = [pool[n % len(pool)] for n in queued]
        mine = set(session.attempts)
        foreign = bot.holds(runs, waits, judged)
        named = {a.id for a in runs} | {a.id for a in waits}
        assert set(foreign) == named - mine
        left = session.attempts.values()
        assert all(
            a.id in named or (a.state is AttemptState.OFFERED and not a.queued and not judged) for a in left
        )

    @precondition(lambda self: self.world.engine.attempts)
    @rule(attempt=picks, offset=st.integers(0, 6), data=st.binary(max_size=4))
    def output(self, attempt, offset, data) -> None:  # type: ignore[no-untyped-def]
        attempts = list(self.world.engine.attempts.values())
        one = attempts[attempt % len(attempts)]
        end = one.streams["out"].end if "out" in one.streams else 0
        told = self.world.engine.report_output(self.world.now, one, "out", offset, data)
        assert told == (max(end, offset + len(data)) if data else end)

    @rule(which=picks)
    def close(self, which: int) -> None:
        bot, session = self.with_session(which)
        if bot is None or session is None:
            return
        ends = [
            (a.task, a.stop) for a in session.attempts.values()
            if a.state is AttemptState.RUNNING and self.ends_its_bot(self.world.engine.tasks[a.task])
        ]  # fmt: skip
        bot.close()
        for task, stop in ends:
            state = ends_as(OK, stop.reason if stop is not None else None)
            assert self.world.state(OpId(task)) is state

    @rule(name=st.sampled_from("ab"), what=st.sampled_from((
        {"drain": True}, {"drain": False}, {"quarantine": "bad disk"}, {"quarantine": None},
        {"maintenance": "new disk"}, {"maintenance": None},
        {"order": "restart"}, {"order": "terminate"}, {"order": None},
    )))  # fmt: skip
    def person(self, name, what) -> None:  # type: ignore[no-untyped-def]
        bot = self.world.engine.bots.get(name)
        try:
            self.world.engine.change_bot(self.world.now, name, **what)
        except Conflict:
            assert bot is not None and bot.session is None and what.get("order")
        except Unknown:
            assert bot is None

    @rule(name=st.sampled_from("ab"), quarantined=st.sampled_from((None, "hot")))
    def bot_says(self, name, quarantined) -> None:  # type: ignore[no-untyped-def]
        if name in self.world.engine.bots:
            self.world.engine.bot_says(self.world.now, name, quarantined, None)

    @rule(name=st.sampled_from("ab"))
    def delete_bot(self, name) -> None:  # type: ignore[no-untyped-def]
        bot = self.world.engine.bots.get(name)
        if bot is not None and bot.session is None:
            self.world.engine.delete_bot(self.world.now, name)
            assert name not in self.world.engine.bots

    # ------------------------------------------------------------- time

    @rule(span=spans)
    def time_passes(self, span: float) -> None:
        self.world.pass_time(span)

    @rule()
    def time_passes_to_the_next_thing(self) -> None:
        due = self.world.next_due()
        if due < float("inf"):
            self.world.pass_until(due)

    @rule(span=spans)
    def timers_are_late(self, span: float) -> None:
        self.world.now += span
        self.world.act()
        self.world.pass_time(0.0)

    @rule(down_s=st.sampled_from((0.0, 1.0, 100.0)))
    def restart(self, down_s: float) -> None:
        self.world.restart(down_s)
        self.held.clear()
        self.seen = [self.world.engine.attempts.get(a.id, a) for a in self.seen]
        self.world.pass_time(0.0)

    # ------------------------------------------------------------- what must hold

    @invariant()
    def memory_is_sound(self) -> None:
        check_deeply(self.world.engine)

    @invariant()
    def nothing_is_lost_and_final_is_final(self) -> None:
        engine = self.world.engine
        self.world.write()
        rows = dict(
            self.world.file.execute(
                "SELECT o.id, COALESCE(o.ended, t.state) FROM ops AS o JOIN tasks AS t ON t.id = o.task"
            )
        )
        for op in self.ops:
            state = TaskState(rows[op])
            assert (engine.task_of(op) is None) == state.is_final, (
                f"operation {op} is {state.name} in the file"
            )
            if state.is_final:
                assert self.finals.setdefault(op, state) is state
            else:
                assert op not in self.finals, "it was final before"

    @invariant()
    def the_file_says_the_same(self) -> None:
        if not self.world.engine.lookups:  # a start asks for them again, and may find another to join
            assert not differences(dump(self.world.loaded()), dump(self.world.engine))

    @invariant()
    def nobody_waits_for_what_it_could_take(self) -> None:
        engine = self.world.engine
        told = [s for s in engine.sessions.values() if s.woken and s.id in self.held]
        for id in self.held:
            session = engine.sessions.get(id)
            if session is None or not self.frees[id] or not self.is_healthy(session):
                continue
            for task in engine.tasks.values():
                if self.could_take(session, task) and id not in engine.woken:
                    assert any(self.could_take(s, task) for s in told), (
                        f"{session.bot} sleeps while {task.id} waits"
                    )

    @invariant()
    def who_is_to_end_is_told(self) -> None:
        engine = self.world.engine
        for task in engine.tasks.values():
            if not self.ends_its_bot(task):
                continue
            if task.attempt is not None:
                assert list(engine.sessions[task.attempt.session].attempts) == [task.attempt.id]
            for id in self.held:
                session = engine.sessions.get(id)
                if session is not None and self.could_take(session, task):
                    assert id in engine.woken, f"{session.bot} sleeps and is to end"

    @invariant()
    def nothing_is_overdue(self) -> None:
        for task in self.world.engine.tasks.values():
            assert task.due_at > self.world.now or task.due_at >= self.world.engine.next_due()

    def teardown(self) -> None:
        """Whatever happened: without any bot everything ends in bounded time."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for session in list(world.engine.sessions):
            world.engine.close_session(world.now, session, "all go home")
        for graph in list(world.engine.graphs.values()):
            world.engine.close_graph(world.now, graph)
        for _ in range(10):
            world.look_up()
            world.pass_time(2 * DAY_S)
        assert not world.engine.tasks and not world.engine.attempts and not world.engine.graphs
        assert not world.engine.joined and not world.engine.dependents and not world.engine.by_sameness
        assert not world.engine.plans
        assert world.engine.matching.sets == world.engine.matching.unused
        assert all(world.state(op).is_final for op in self.ops)


def test_the_engine_keeps_its_promises() -> None:
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.nightly
def test_the_engine_keeps_its_promises_for_long() -> None:
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=3_000,
            stateful_step_count=120,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
