"""What is old goes, in small steps; what is alive, shared or awaited stays."""

import pytest
import trio
import trio_asyncio

from swarmd.core.model import Share
from swarmd.core.submitting import After, Known
from swarmd.store import retention
from swarmd.store.backend import open_backend
from swarmd.store.check import check_file
from swarmd.store.queries import same_tasks
from swarmd.store.retention import DAY_S, RECENT_S, REST_S, Removed, Retention, next_due, run_once, used_bytes
from swarmd.store.schema import MIGRATIONS
from swarmd.store.writer import Writer
from swarmd.testing.clock import install_hold
from tests.store.builders import DIGEST, NOW, WALL, Lab, busy_lab, dump, spec

START = NOW + WALL
AGED = START + 31 * DAY_S
TABLES = (
    "tasks", "ops", "attempts", "output", "events", "tags", "edges", "blob_uses", "requests", "sessions", "graphs",
    "blobs", "blob_parts",
)  # fmt: skip


class World:
    """A lab on a backend; its changes are written by the writer."""

    def __init__(self, backend):
        self.backend = backend
        self.writer = Writer(backend, lambda: None)
        self.steps = []

    async def do(self, fn):
        """Runs `fn(conn)` in one transaction; a lab in it must not open its own."""
        given = []
        await self.writer.submit(lambda conn: given.append(fn(Inside(conn)))).wait()
        return given[-1]

    async def counts(self):
        return await self.backend.read(
            lambda conn: {t: conn.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in TABLES}
        )

    async def names(self):
        return await self.backend.read(lambda conn: {row[0] for row in conn.execute("SELECT name FROM ops")})

    async def clean(self, wall=AGED, **settings):
        return await run_once(self.backend, self.writer, wall, Retention(**settings))

    async def check(self):
        await self.writer.drain()
        if hasattr(self.backend, "path"):
            assert await trio.to_thread.run_sync(check_file, self.backend.path) == []


class Inside:
    """A connection inside a transaction: BEGIN and COMMIT of the lab do nothing."""

    def __init__(self, conn):
        self._conn = conn

    def execute(self, sql, *values):
        if sql in ("BEGIN IMMEDIATE", "COMMIT"):
            return None
        return self._conn.execute(sql, *values)

    def executemany(self, sql, rows):
        return self._conn.executemany(sql, rows)


@pytest.fixture(params=["file", "memory"])
async def world(request, tmp_path, autojump_clock):
    install_hold(autojump_clock)
    async with trio_asyncio.open_loop():
        backend = await open_backend(
            tmp_path / "a.db" if request.param == "file" else None, migrations=MIGRATIONS
        )
        world = World(backend)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.writer.run)
            yield world
            world.writer.stop()
        await backend.close()


def at_rest(conn):
    """A lab where everything has ended, with one blob that was made and one that was needed."""
    lab = Lab(conn)
    lab.bot()
    lab.put_blob()
    lab.put_blob("cd" * 32)
    graph = lab.engine.new_graph(lab.now, "g", "me", False)
    first = spec(name="first", tags=("x",), inputs=("cd" * 32,))
    lab.submit(first, spec(name="second", after=(After(index=0),)), graph=graph)
    for _ in range(2):
        attempt = lab.start()
        lab.write(attempt, "stdout", 0, b"out" * 100)
        lab.finish(attempt)
    lab.engine.close_session(lab.now, lab.sessions["bot1"], "bye")
    lab.commit()
    conn.execute("INSERT INTO requests VALUES ('me', 'r1', x'00', x'00', ?)", (START,))
    return lab


async def test_everything_old_goes_and_nothing_is_left_behind(world, autojump_clock):
    await world.do(at_rest)
    removed = await world.clean()
    assert await world.counts() == dict.fromkeys(TABLES, 0)
    assert (removed.tasks, removed.ops, removed.output_bytes, removed.blobs) == (2, 2, 600, 2)
    assert (removed.requests, removed.sessions, removed.graphs) == (1, 1, 1)
    await world.check()


async def test_how_far_clocks_were_apart_is_forgotten_with_the_operations_that_needed_it(
    world, autojump_clock
):
    def with_jump(conn):
        lab = Lab(conn)
        lab.bot()
        lab.run(spec(name="old"))
        lab.wall += DAY_S
        lab.now += 20 * DAY_S
        lab.run(spec(name="young"))

    def offsets(conn):
        return [
            row[0] - WALL for row in conn.execute("SELECT (low + high) / 2 FROM wall_offsets ORDER BY first")
        ]

    await world.do(with_jump)
    assert await world.backend.read(offsets) == pytest.approx([0, DAY_S], abs=0.1)
    await world.clean()
    assert await world.names() == {"young"} and await world.backend.read(offsets) == pytest.approx(
        [DAY_S], abs=0.1
    )
    await world.check()


async def test_what_is_younger_than_the_limit_stays(world, autojump_clock):
    await world.do(at_rest)
    before = await world.counts()
    assert await world.clean(START + 29.9 * DAY_S) == Removed()
    assert await world.counts() == before
    assert world.writer.commits == 1


async def test_nothing_alive_is_touched(world, autojump_clock):
    """The engine that a start would load is the same before and after."""
    lab = await world.do(busy_lab)
    before = dump(await world.backend.read(lambda conn: Lab.restarted(Lab.on(conn, lab))))
    removed = await world.clean()
    after = dump(await world.backend.read(lambda conn: Lab.restarted(Lab.on(conn, lab))))
    assert after == before and removed.tasks >= 4
    names = await world.names()
    assert {"ok", "bad", "lost", "canceled", "m"}.isdisjoint(names)
    assert {"fails", "doomed", "never", "second", "joins", "later", "waits", "child", "parent"} <= names
    await world.check()


async def test_a_task_that_a_younger_operation_shares_stays_until_that_one_is_old(world, autojump_clock):
    def share(conn):
        lab = Lab(conn)
        lab.bot()
        lab.run(spec(name="old", sameness="s"))
        lab.now += 20 * DAY_S
        lab.submit(spec(name="young", sameness="s", share=Share.FINISHED))
        lab.commit()

    await world.do(share)
    assert (await world.clean()).tasks == 0
    assert await world.names() == {"old", "young"}
    removed = await world.clean(AGED + 20 * DAY_S)
    assert (removed.tasks, removed.ops) == (1, 2) and await world.names() == set()


async def test_a_submission_that_just_found_a_task_to_share_keeps_it(world, autojump_clock):
    """The lookup is made, then a run begins, then the operation arrives."""

    def begin(conn):
        lab = Lab(conn)
        lab.bot()
        lab.run(spec(name="old", sameness="s"))
        return lab

    lab = await world.do(begin)
    lab.now += 31 * DAY_S

    def arrive(conn):
        lab.conn = conn
        lab.engine.submit(lab.now, [spec(name="late", sameness="s", share=Share.FINISHED)], None, lab.found)
        lab.commit()

    lab.found = Known(same=await world.backend.read(lambda conn: same_tasks(conn, ["s"])))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.clean)
        await trio.sleep(retention.SETTLE_S / 2)
        await world.do(arrive)
    assert await world.names() == {"old", "late"}
    await world.check()


async def test_what_a_blocked_task_waits_for_stays(world, autojump_clock):
    def wait(conn):
        lab = Lab(conn, open_graph_idle_s=1e9)
        lab.bot()
        failed = lab.run(spec(name="failed"), ok=False)
        graph = lab.engine.new_graph(lab.now, "g", "me", True)
        lab.submit(spec(name="doomed", after=(failed,)), graph=graph)
        lab.commit()

    await world.do(wait)
    assert (await world.clean()).tasks == 0
    await world.check()


async def test_large_things_go_in_small_steps(world, autojump_clock, monkeypatch):
    monkeypatch.setattr(retention, "STEP_ROWS", 7)
    monkeypatch.setattr(retention, "PAGE", 3)

    def fill(conn):
        lab = Lab(conn)
        lab.bot()
        for number in range(5):
            lab.submit(spec(name=f"t{number}", sameness="s" if number == 0 else None, share=Share.FINISHED))
            lab.look_up()
            attempt = lab.start()
            for chunk in range(12):
                lab.write(attempt, "stdout", chunk * 4, b"text")
            lab.finish(attempt)
            lab.commit()
        for _ in range(9):
            lab.submit(spec(name="shares", sameness="s", share=Share.FINISHED))
        lab.commit()

    await world.do(fill)
    before, rows = world.writer.commits, await world.counts()
    largest = 0

    async def watch(task_status):
        nonlocal largest
        transact = world.backend.transact

        async def measured(fn):
            nonlocal largest
            changed = await transact(fn)
            largest = max(largest, changed)
            return changed

        monkeypatch.setattr(world.backend, "transact", measured)
        task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
    removed = await world.clean()
    assert (removed.tasks, removed.ops, removed.output_bytes) == (5, 14, 5 * 48)
    assert 0 < largest <= 7 + 7  # a step, and the few rows that end its last task
    assert world.writer.commits - before > sum(rows.values()) / 20
    counts = await world.counts()
    assert counts["output"] == counts["tasks"] == counts["ops"] == counts["attempts"] == 0


async def test_a_run_that_was_cut_off_leaves_a_good_file_and_is_taken_up(world, autojump_clock, monkeypatch):
    monkeypatch.setattr(retention, "STEP_ROWS", 3)

    def fill(conn):
        lab = Lab(conn)
        lab.bot()
        lab.submit(spec(name="t"))
        attempt = lab.start()
        for chunk in range(20):
            lab.write(attempt, "stdout", chunk * 4, b"text")
        lab.finish(attempt)
        lab.commit()

    await world.do(fill)
    commits = world.writer.commits
    with trio.CancelScope() as scope:
        transact = world.backend.transact

        async def cut(fn):
            changed = await transact(fn)
            if world.writer.commits >= commits + 2:
                scope.cancel()
            return changed

        monkeypatch.setattr(world.backend, "transact", cut)
        await world.clean()
    assert scope.cancelled_caught and 0 < (await world.counts())["output"] < 20
    await world.check()
    assert (await world.clean()).tasks == 1
    assert (await world.counts())["output"] == 0


async def test_a_file_that_is_too_large_loses_its_oldest_tasks(world, autojump_clock):
    def fill(conn):
        lab = Lab(conn)
        lab.bot(slots=1)
        for number in range(40):
            lab.now += 1
            lab.run(spec(name=f"t{number}"), output=bytes(range(256)) * 400)
        lab.submit(spec(name="alive"))
        lab.commit()
        return lab

    lab = await world.do(fill)
    used = await world.backend.read(used_bytes)
    wall = WALL + lab.now + RECENT_S + 1
    assert (await world.clean(wall, bytes=used)).tasks == 0
    removed = await world.clean(wall, bytes=used - 1)
    left = await world.names()
    assert removed.tasks > 0 and "alive" in left
    assert (await world.backend.read(used_bytes)) < used * retention.LOW_WATER
    assert left - {"alive"} == {f"t{number}" for number in range(removed.tasks, 40)}
    assert (await world.clean(WALL + lab.now, bytes=1)).tasks == 0, "what ended just now stays"


async def test_pinned_blobs_stay_and_incomplete_ones_are_left_alone(world, autojump_clock):
    def fill(conn):
        lab = Lab(conn)
        lab.put_blob()
        lab.put_blob("cd" * 32)
        lab.put_blob("ef" * 32, used_at=lab.now + 20 * DAY_S)
        lab.submit(spec(inputs=(DIGEST,)))
        lab.commit()
        conn.execute("INSERT INTO blobs (created_at, used_at) VALUES (0, 0)")

    await world.do(fill)
    removed = await world.clean()
    assert (removed.blobs, removed.blob_bytes) == (1, 7)
    rows = await world.backend.read(
        lambda conn: conn.execute("SELECT sha256 FROM blobs ORDER BY id").fetchall()
    )
    assert rows == [(DIGEST,), ("ef" * 32,), (None,)]


async def test_when_the_next_run_is_due(world, autojump_clock):
    settings = Retention(days=30, bytes=1 << 40)
    calm = retention.CALM_S
    assert await next_due(world.backend, START, settings) == START + calm
    await world.do(at_rest)
    assert await next_due(world.backend, START, settings) == START + calm
    soon = START + 30 * DAY_S - calm / 2
    assert await next_due(world.backend, soon, settings) == START + 30 * DAY_S
    assert await next_due(world.backend, AGED, settings) == AGED + REST_S
    assert await next_due(world.backend, START, Retention(bytes=1)) == START + REST_S
