"""A lab in a database: a real engine whose changes are written as the daemon writes them."""

import sqlite3

from swarmd.core.engine import Engine
from swarmd.core.model import Command, Condition, Input, Outcome, OutputFile, Share, Work
from swarmd.core.sessions import Newcomer
from swarmd.core.submitting import After, Known, SliceSpec, TaskSpec
from swarmd.core.world import Settings
from swarmd.store.backend import APPLICATION_ID
from swarmd.store.loading import load, read_clock
from swarmd.store.migrate import migrate
from swarmd.store.queries import ops_done, same_tasks
from swarmd.store.rows import batch_of
from swarmd.store.schema import MIGRATIONS

WALL = 1_700_000_000.0  # wall time of engine time 0
NOW = 1_000.0
DIGEST = "ab" * 32


def new_database(path=None):
    """An empty database with the core's tables: the file `path`, in WAL mode, or one in memory."""
    conn = sqlite3.connect(path or ":memory:", isolation_level=None)
    conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    conn.execute("PRAGMA journal_mode = WAL")
    migrate(conn, None, MIGRATIONS)
    return conn


def spec(*, noop=True, slices=1, requires=None, inputs=(), marker=False, after=(), **options):
    work = Work(
        commands=() if noop or marker else (Command(argv=("true",)),),
        noop=noop and not marker,
        marker=marker,
        inputs=tuple(Input(path=f"in{n}", blob=blob) for n, blob in enumerate(inputs)),
    )
    edges = tuple(one if isinstance(one, After) else After(on=one) for one in after)
    return TaskSpec(
        work=(work,),
        slices=(SliceSpec(dimensions=requires or {}),) * slices,
        after=edges,
        owner="me",
        **options,
    )


class Lab:
    """Drives an engine on `conn`; `commit` writes what changed."""

    def __init__(self, conn, now=NOW, **settings):
        self.conn = conn
        self.now = now
        self.settings = Settings(**settings)
        self.engine = Engine(self.settings, now)
        self.sessions = {}
        self.blobs = 0
        self.wall = WALL  # wall time of engine time 0, as the clocks show it now

    def batch(self):
        engine = self.engine
        return batch_of(
            engine.take_changes(), engine.version, self.now, self.now + self.wall, engine.ids.last
        )

    def commit(self):
        batch = self.batch()
        self.conn.execute("BEGIN IMMEDIATE")
        batch.write(self.conn)
        self.conn.execute("COMMIT")

    @classmethod
    def on(cls, conn, other):
        """A lab with the settings of `other`, to look at what is in `conn`."""
        lab = cls(conn)
        lab.settings = other.settings
        return lab

    def restarted(self, down_s=0.0):
        """A fresh engine, loaded from what was committed, `down_s` later."""
        clock = read_clock(self.conn)
        now = clock.now + down_s
        engine = Engine(self.settings, now, clock.last_id)
        load(self.conn, engine, clock, now, now + WALL)
        return engine

    def submit(self, *specs, graph=None):
        known = Known(
            done=ops_done(self.conn, [a.on for s in specs for a in s.after if a.on is not None]),
            same=same_tasks(self.conn, [s.sameness for s in specs if s.sameness]),
        )
        ids = [one.id for one in self.engine.submit(self.now, specs, graph, known)]
        return ids[0] if len(ids) == 1 else ids

    def bot(self, name="bot1", slots=4, key="k1", keeps=(), **dimensions):
        opened = self.engine.open_session(
            self.now,
            Newcomer(
                bot=name, protocol="native", session_key=key, key_hash="h", features=("noop", "inputs"), slots=slots,
                dimensions={k: list(v) for k, v in dimensions.items()}, keeps=keeps,
            ),
        )  # fmt: skip
        self.sessions[name] = opened.session
        return opened

    def offer(self, name="bot1", limit=1, key=""):
        key = key or f"offer-{self.engine.ids.last}"
        return self.engine.offer(self.now, self.sessions[name], key, limit)

    def start(self, name="bot1"):
        (attempt,) = self.offer(name)
        self.engine.accept(self.now, attempt)
        return attempt

    def write(self, attempt, stream, offset, data):
        return self.engine.report_output(self.now, attempt, stream, offset, data)

    def finish(self, attempt, *, ok=True, **outcome):
        assert self.engine.finish(self.now, attempt.session, attempt.id, Outcome(ok=ok, **outcome))

    def run(self, *specs, output=b"", **outcome):
        """Submits tasks and runs each to its end, with `output`; their operations."""
        ids = self.submit(*specs)
        for _ in specs:
            attempt = self.start()
            if output:
                self.write(attempt, "stdout", 0, output)
            self.finish(attempt, **outcome)
        self.commit()
        return ids

    def put_blob(self, digest=DIGEST, data=b"content", used_at=None):
        """A complete blob of one part."""
        at = self.now if used_at is None else used_at
        id = self.conn.execute(
            "INSERT INTO blobs (sha256, size, created_at, used_at, complete) VALUES (?, ?, ?, ?, 1)",
            (digest, len(data), at, at),
        ).lastrowid
        self.conn.execute("INSERT INTO blob_parts (blob_id, part, data) VALUES (?, 0, ?)", (id, data))

    def look_up(self):
        """Answers the lookups that ready tasks wait for."""
        engine = self.engine
        lookups, engine.lookups = engine.lookups, []
        for lookup in lookups:
            found = same_tasks(self.conn, [lookup.sameness])
            engine.looked_up(self.now, lookup.task, found.get(lookup.sameness))


def busy_lab(conn):
    """A lab in which every kind of thing has happened, and something of every kind is alive."""
    lab = Lab(conn, output_limit=1_000)
    engine = lab.engine
    lab.bot("bot1", gpu=("a100",))
    lab.bot("bot2", os=("linux", "debian"))
    lab.put_blob()
    _ended(lab)
    _graphs(lab)
    _sharing(lab)
    lab.submit(
        spec(name="input", inputs=(DIGEST,), tags=("nightly", "x"), requires={"gpu": ["h200|b200"]}, index=3)
    )
    parent = lab.submit(spec(name="parent", requires={"gpu": ["a100"]}))
    running = lab.start()
    lab.submit(spec(name="child", parent=parent, requires={"os": ["none"]}, slices=2, carry_time=True))
    lab.write(running, "stdout", 0, b"begin")
    lab.write(running, "stderr", 3, b"after a gap")
    lab.write(running, "stdout", 990, b"beyond the limit")
    lab.submit(spec(name="stopping", requires={"gpu": ["a100"]}))
    stopping = lab.start()
    engine.withdraw(lab.now, stopping.task, "no longer wanted", kill=True)
    lab.submit(spec(name="offered", requires={"os": ["linux"]}))
    lab.offer("bot2", key="again")
    lab.submit(spec(name="retried", retries=2, retry_wait_s=50.0, requires={"gpu": ["a100"]}))
    lab.finish(lab.start(), ok=False, exit_code=3)
    engine.change_bot(lab.now, "bot2", drain=True, quarantine="smells", maintenance="fan", order="restart")
    lab.commit()
    return lab


def _ended(lab):
    lab.bot("gone", key="g")
    lab.submit(spec(name="lost", bot_retries=0, requires={"id": ["gone"]}))
    lab.start("gone")
    lab.engine.close_session(lab.now, lab.sessions["gone"], "goodbye")
    attempts = [lab.submit(spec(name=name)) and lab.start() for name in ("ok", "bad")]
    for number, attempt in enumerate(attempts):
        lab.write(attempt, "stdout", 0, b"x" * 300)
        lab.write(attempt, "stderr", 0, b"err")
        lab.write(attempt, "stdout", 300, b"y" * 10)
        made = (OutputFile(path="o", blob=DIGEST, size=7),)
        lab.finish(attempt, ok=not number, exit_code=number, outputs=made, reason="as told")
    lab.engine.withdraw(lab.now, lab.submit(spec(name="canceled")), "changed my mind", kill=False)
    lab.now += 10
    lab.commit()


def _graphs(lab):
    engine = lab.engine
    done = engine.new_graph(lab.now, "done", "me", False)
    lab.submit(spec(name="m", key="a", marker=True), graph=done)
    graph = engine.new_graph(lab.now, "build", "me", True)
    never = spec(name="never", requires={"os": ["none"]})
    first, *_ = lab.submit(
        never,
        spec(name="second", after=(After(index=0),)),
        spec(
            name="any",
            after=(After(index=0, condition=Condition.ANY), After(index=1, condition=Condition.FAILED)),
        ),
        graph=graph,
    )
    fails = lab.submit(spec(name="fails", key="f", requires={"gpu": ["a100"]}), graph=graph)
    lab.submit(spec(name="doomed", after=(fails, first)), graph=graph)
    lab.commit()
    lab.finish(lab.start(), ok=False, exit_code=1)
    lab.commit()


def _sharing(lab):
    engine = lab.engine
    build = {"requires": {"gpu": ["a100"]}, "sameness": "key"}
    lab.run(spec(name="finished", requires={"gpu": ["a100"]}, sameness="old"))
    lab.submit(spec(name="reuses", sameness="old", share=Share.FINISHED, requires={"gpu": ["a100"]}))
    lab.now += 1
    original = lab.submit(spec(name="original", **build))
    attempt = lab.start()
    lab.submit(spec(name="joins", share=Share.JOIN, priority=-3, **build))
    third = lab.submit(spec(name="third", share=Share.JOIN, **build))
    engine.withdraw(lab.now, third, "one of many", kill=True)
    waits = lab.submit(spec(name="waits", requires={"os": ["none"]}))
    lab.submit(spec(name="later", share=Share.JOIN, after=(waits,), **build))
    engine.withdraw(lab.now, original, "its own is withdrawn", kill=True)
    lab.commit()
    assert attempt.state < 10


def dump(engine):
    """Everything that an engine knows and a file keeps, in a form that can be compared."""
    return {
        "tasks": {id: _task(engine, task) for id, task in sorted(engine.tasks.items())},
        "joined": {id: (op.task, op.priority, op.graph) for id, op in sorted(engine.joined.items())},
        "attempts": {id: _attempt(a) for id, a in sorted(engine.attempts.items())},
        "sessions": {
            id: (
                s.bot,
                s.protocol,
                s.key,
                s.slots,
                s.deadline_s,
                s.enforces_limits,
                s.opened_at,
                sorted(s.attempts),
            )
            for id, s in sorted(engine.sessions.items())
        },
        "bots": {id: _bot(b) for id, b in sorted(engine.bots.items())},
        "graphs": {
            id: (g.name, g.owner, g.is_open, g.touched_at, sorted(g.alive), sorted(g.doomed), g.failed)
            for id, g in sorted(engine.graphs.items())
        },
        "plans": {repr(key): plan.users for key, plan in engine.plans.items()},
        "dependents": {
            on: sorted(waiting)
            for on, waiting in sorted(engine.dependents.items())
            # a failed one is named again after a start: it dooms, as before
            if engine.task_of(on) is not None
        },
        "children": {parent: sorted(ops) for parent, ops in sorted(engine.children.items())},
        "by_sameness": dict(engine.by_sameness),
        "queued": {
            repr(s.requirements): sorted(s.queued_tasks(engine.tasks))
            for s in engine.matching.sets.values()
            if s.count
        },
    }


def _task(engine, t):
    due_at = None if t.due_at == float("inf") else round(t.due_at, 6)
    ops = None if t.ops is None else sorted(t.ops)
    return (
        repr(t.plan.key), t.priority, t.state, t.slice, due_at, t.tries, t.task_faults,
        t.bot_faults, t.drops, t.attempt.id if t.attempt else None, t.last_attempt, ops, t.own_withdrawn, t.graph,
        t.sameness, t.share, dict(t.waits or {}), t.queued.requirements if t.queued else None,
    )  # fmt: skip


def _attempt(a):
    stop = (a.stop.reason, a.stop.since_at, a.stop.due_at, a.stop.grace_s) if a.stop else None
    streams = {name: (s.end, s.dropped) for name, s in a.streams.items()}
    return (
        a.task, a.number, a.bot, a.session, a.offer_key, a.offered_at, a.state, a.started_at, a.accept_due_at,
        a.limit_due_at, a.queued, stop, streams, a.merged_end,
    )  # fmt: skip


def _bot(b):
    return (
        b.protocol, b.key_hash, b.dimensions, b.assigned, b.values, b.version, b.state, b.first_seen_at, b.quarantined,
        b.quarantined_by_person, b.maintenance, b.draining, b.order, b.session.id if b.session else None,
        sorted(s.requirements for s in b.satisfies) if b.session else None,
    )  # fmt: skip
