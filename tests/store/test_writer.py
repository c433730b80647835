"""Group commit: what waits, what travels together, and what happens when the disk is full or broken."""

import resource
import sqlite3
from dataclasses import dataclass

import pytest
import trio
import trio_asyncio

from swarmd.store.backend import MemoryBackend, open_backend
from swarmd.store.errors import StoreBroken
from swarmd.store.migrate import Migration
from swarmd.store.writer import MAX_BULK_BYTES, MAX_UNCOMMITTED_BYTES, Writer
from swarmd.testing.clock import install_hold

TABLE = {"core": [Migration(1, "start", ("CREATE TABLE t (a INTEGER PRIMARY KEY, b)",))]}
MIB = 1 << 20


@dataclass(frozen=True)
class Rows:
    version: int
    values: tuple[object, ...]

    def write(self, conn):
        conn.executemany("INSERT INTO t (b) VALUES (?)", [(value,) for value in self.values])


class Core:
    """Stands for the engine: each `put` is a change with its own version."""

    def __init__(self):
        self.version = 0
        self.pending = []

    def put(self, value):
        self.version += 1
        self.pending.append(value)
        return self.version

    def collect(self):
        if not self.pending:
            return None
        values, self.pending = tuple(self.pending), []
        return Rows(self.version, values)


class Faulty(MemoryBackend):
    """Fails transactions with the errors in `faults`, first to last; each may be an SQLite error code or an
    exception.
    """

    def __init__(self):
        super().__init__()
        self.migrate(TABLE)
        self.faults = []
        self.tries = 0

    async def transact(self, fn):
        self.tries += 1
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if fault == "full at commit":
            fault = sqlite3.SQLITE_FULL
            with pytest.raises(ZeroDivisionError):  # everything ran, then it was rolled back
                await super().transact(lambda conn: (fn(conn), 1 / 0))
        if fault is not None:
            error = sqlite3.OperationalError("made up")
            error.sqlite_errorcode = fault
            raise error
        return await super().transact(fn)


class World:
    def __init__(self, backend, **options):
        self.backend = backend
        self.core = Core()
        self.seen = []
        self.writer = Writer(backend, self.core.collect, committed=self.seen.append, **options)

    def put(self, value):
        version = self.core.put(value)
        self.writer.kick()
        return version

    async def stored(self):
        return await self.backend.read(
            lambda conn: [row[0] for row in conn.execute("SELECT b FROM t ORDER BY a")]
        )


def adds(value):
    return lambda conn: conn.execute("INSERT INTO t (b) VALUES (?)", (value,))


@pytest.fixture(params=["file", "memory"])
async def world(request, tmp_path, autojump_clock):
    install_hold(autojump_clock)
    async with trio_asyncio.open_loop():
        backend = await open_backend(tmp_path / "a.db" if request.param == "file" else None, migrations=TABLE)
        world = World(backend)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.writer.run)
            yield world
            world.writer.stop()
        await backend.close()


@pytest.fixture
async def faulty(autojump_clock):
    world = World(Faulty())
    yield world
    await world.backend.close()


async def test_a_change_is_on_disk_when_the_wait_ends(world, autojump_clock):
    version = world.put("x")
    assert world.writer.version == 0
    await world.writer.committed_at_least(version)
    assert (world.writer.version, world.seen, await world.stored()) == (version, [version], ["x"])
    assert (world.writer.commits, world.writer.rows) == (1, 1)


async def test_what_is_committed_already_does_not_wait(world, autojump_clock):
    await world.writer.committed_at_least(world.put("x"))
    with trio.fail_after(0):
        await world.writer.committed_at_least(1)
        await world.writer.committed_at_least(0)


async def test_what_arrives_during_a_commit_goes_into_the_next_one(world, autojump_clock):
    woken = []

    async def change(value):
        version = world.put(value)
        await world.writer.committed_at_least(version)
        woken.append(value)

    with world.writer.hold_commits() as gate:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(change, number)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == [] and await world.stored() == []
            gate.release()
    assert sorted(woken) == list(range(50))
    assert world.writer.commits == 1 and world.writer.rows == 50


async def test_load_makes_batches_grow(world, autojump_clock):
    async def change():
        for _ in range(10):
            await world.writer.committed_at_least(world.put("x"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(change)
    assert world.writer.rows == 200
    assert world.writer.commits <= 12  # one batch for all, each round
    assert world.seen == sorted(world.seen)


async def test_submitted_rows_travel_with_the_change_before_them(world, autojump_clock):
    with world.writer.hold_commits():
        version = world.put("core")
        ticket = world.writer.submit(adds("package"))
        await world.writer.submit_bytes(adds("bulk"), 10)
        second = world.writer.submit(adds("package 2"))
    await ticket.wait()
    assert world.writer.version == version
    await second.wait()
    assert await world.stored() == ["core", "package", "package 2", "bulk"]
    assert world.writer.commits == 1


async def test_rows_alone_are_committed_and_move_no_version(world, autojump_clock):
    await world.writer.submit(adds("x")).wait()
    assert (world.writer.version, world.seen, await world.stored()) == (0, [], ["x"])


async def test_bulk_is_spread_over_transactions_in_order_and_rows_overtake_it(world, autojump_clock):
    with world.writer.hold_commits():
        tickets = [await world.writer.submit_bytes(adds(number), 3 * MIB) for number in range(5)]
        world.writer.submit(adds("rows"))
        assert world.writer.uncommitted_bytes == 15 * MIB
    await tickets[-1].wait()
    assert await world.stored() == ["rows", 0, 1, 2, 3, 4]
    assert world.writer.commits == 3  # two of 3 MiB fit into 8
    assert world.writer.uncommitted_bytes == 0
    await tickets[0].wait()


async def test_a_single_large_function_still_goes(world, autojump_clock):
    await (await world.writer.submit_bytes(adds("big"), MAX_BULK_BYTES + 1)).wait()
    assert await world.stored() == ["big"]


async def test_uncommitted_bytes_are_bounded(world, autojump_clock):
    with world.writer.hold_commits():
        await world.writer.submit_bytes(adds("first"), MAX_UNCOMMITTED_BYTES)
        with trio.move_on_after(10) as scope:
            await world.writer.submit_bytes(adds("never"), 1)
        assert scope.cancelled_caught
        world.writer.queue_bytes(adds("not held up"), 1)
    await (await world.writer.submit_bytes(adds("second"), 1)).wait()
    assert await world.stored() == ["first", "not held up", "second"]


async def test_drain_waits_for_everything(world, autojump_clock):
    with world.writer.hold_commits():
        for number in range(6):
            await world.writer.submit_bytes(adds(number), 8 * MIB)
        world.put("core")
    await world.writer.drain()
    assert len(await world.stored()) == 7 and world.writer.uncommitted_bytes == 0
    await world.writer.drain()


async def test_stop_commits_what_was_handed_over_and_refuses_more(faulty, autojump_clock):
    world = faulty
    async with trio.open_nursery() as nursery:
        await nursery.start(world.writer.run)
        world.put("x")
        await world.writer.submit_bytes(adds("y"), 1)
        world.writer.stop()
    assert await world.stored() == ["x", "y"]
    with pytest.raises(StoreBroken, match="shutting down"):
        world.writer.submit(adds("z"))


async def test_a_cancelled_waiter_does_not_take_its_change_with_it(world, autojump_clock):
    with world.writer.hold_commits():
        with trio.move_on_after(1):
            await world.writer.committed_at_least(world.put("x"))
    await world.writer.drain()
    assert await world.stored() == ["x"]


async def test_failpoints_stand_around_each_commit(faulty, autojump_clock):
    world, names = faulty, []
    world.writer = Writer(
        world.backend, world.core.collect, failpoint=lambda name: names.append((name, len(world.seen)))
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(world.writer.run)
        await world.writer.committed_at_least(world.put("x"))
        world.writer.stop()
    assert names == [("before_commit", 0), ("after_commit", 0)]


@pytest.mark.parametrize("fault", [sqlite3.SQLITE_FULL, "full at commit"])
async def test_a_full_disk_is_waited_out_with_the_same_batch(faulty, fault, autojump_clock):
    world = faulty
    world.backend.faults = [fault] * 5
    async with trio.open_nursery() as nursery:
        await nursery.start(world.writer.run)
        first = world.put("x")
        world.writer.submit(adds("with x"))
        with trio.move_on_after(2.5):
            await world.writer.committed_at_least(first)
        assert world.writer.out_of_space and world.writer.version == 0
        second = world.put("y")  # waits behind, in its own batch
        await world.writer.committed_at_least(second)
        assert trio.current_time() == pytest.approx(5)  # once a second
        assert not world.writer.out_of_space
        world.writer.stop()
    assert await world.stored() == ["x", "with x", "y"]
    assert world.seen == [first, second] and world.backend.tries == 7


async def test_stop_ends_the_wait_for_space_with_a_sentence(faulty, autojump_clock):
    world = faulty
    world.backend.faults = [sqlite3.SQLITE_FULL] * 1000

    async def stop_later():
        await trio.sleep(10.5)
        world.writer.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_later)
        world.put("x")
        with pytest.raises(StoreBroken, match="no space"):
            await world.writer.run()
    assert trio.current_time() == pytest.approx(10.5)


@pytest.mark.parametrize(
    "fault, words",
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "OperationalError: made up"),
        (sqlite3.SQLITE_IOERR_WRITE, "OperationalError: made up"),  # in memory: nothing to be full
        (sqlite3.SQLITE_READONLY, "OperationalError: made up"),
        (KeyError("our bug"), "our bug"),
        (StoreBroken("gone"), "^gone$"),
    ],
)
async def test_any_other_failure_ends_the_writer_and_wakes_all(faulty, fault, words, autojump_clock):
    world, told = faulty, []
    world.backend.faults = [fault]

    async def waits(wait):
        with pytest.raises(StoreBroken, match=words):
            await wait()
        told.append(wait)

    async with trio.open_nursery() as nursery:
        version = world.put("x")
        nursery.start_soon(waits, lambda: world.writer.committed_at_least(version))
        nursery.start_soon(waits, lambda: world.writer.committed_at_least(version + 1))
        nursery.start_soon(waits, world.writer.submit(adds("y")).wait)
        for _ in range(2):
            nursery.start_soon(waits, (await world.writer.submit_bytes(adds("z"), MAX_BULK_BYTES)).wait)
        nursery.start_soon(waits, world.writer.drain)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreBroken, match=words):
            await world.writer.run()
    assert len(told) == 6 and await world.stored() == []
    assert world.backend.tries == 1  # never tried again
    with pytest.raises(StoreBroken, match=words):
        await world.writer.submit_bytes(adds("late"), 1)


async def test_waiters_do_not_hang_when_the_writer_is_cancelled(faulty, autojump_clock):
    async with trio.open_nursery() as nursery:
        await nursery.start(faulty.writer.run)
        faulty.writer.hold_commits()
        version = faulty.put("x")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(StoreBroken):
        await faulty.writer.committed_at_least(version)


async def test_a_file_size_limit_is_no_space_and_the_file_stays_sound(tmp_path, autojump_clock):
    install_hold(autojump_clock)
    async with trio_asyncio.open_loop():
        backend = await open_backend(tmp_path / "a.db", migrations=TABLE)
        world = World(backend)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.writer.run)
            await world.writer.committed_at_least(world.put("before"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))
            try:
                version = world.put(b"x" * 6 * MIB)
                with trio.move_on_after(3.5) as scope:
                    await world.writer.committed_at_least(version)
                assert scope.cancelled_caught and world.writer.out_of_space
                assert await world.stored() == ["before"]  # reads go on
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await world.writer.committed_at_least(version)
            assert not world.writer.out_of_space and len(await world.stored()) == 2
            world.writer.stop()
        assert await backend.read(lambda conn: conn.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
        await backend.close()


async def test_an_error_of_the_disk_itself_is_not_taken_for_want_of_space(tmp_path):
    async with trio_asyncio.open_loop():
        backend = await open_backend(tmp_path / "a.db")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        assert not await backend.lacks_space(error)
        assert not await backend.lacks_space(ValueError())
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        assert await backend.lacks_space(error)
        await backend.close()


async def test_a_removed_file_ends_the_writer(tmp_path):
    async with trio_asyncio.open_loop():
        world = World(await open_backend(tmp_path / "a.db", migrations=TABLE))
        (tmp_path / "a.db").unlink()
        world.put("x")
        with pytest.raises(StoreBroken, match="was removed"):
            await world.writer.run()
        await world.backend.close()
