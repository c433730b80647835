"""Blobs in and out, whole, by range, twice, broken and cut off."""

import hashlib
import random

import pytest
import trio
import trio_asyncio

from swarmd.store.backend import open_backend
from swarmd.store.blobs import (
    BLOB_TABLES,
    PART_BYTES,
    REMOVE_PARTS,
    Blob,
    BlobWriter,
    drop_incomplete,
    existing,
    find,
    read_blob,
    remove_blob,
)
from swarmd.store.errors import StoreError
from swarmd.store.migrate import Migration
from swarmd.store.writer import Writer
from swarmd.testing.clock import install_hold

TABLES = {"core": [Migration(1, "blobs", BLOB_TABLES)]}


class World:
    def __init__(self, backend):
        self.backend = backend
        self.writer = Writer(backend, lambda: None)

    async def put(self, data, *, chunk=1 << 18, now=1.0, **expected):
        async with BlobWriter(self.writer, now) as upload:
            for first in range(0, len(data), chunk):
                await upload.write(data[first : first + chunk])
            return await upload.finish(**expected)

    async def get(self, blob, *span):
        pieces = [piece async for piece in read_blob(self.backend, blob, *span)]
        assert all(0 < len(piece) <= PART_BYTES for piece in pieces)
        return b"".join(pieces)

    async def count(self, table):
        await self.writer.drain()
        return await self.backend.read(
            lambda conn: conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        )


@pytest.fixture(params=["file", "memory"])
async def world(request, tmp_path, autojump_clock):
    install_hold(autojump_clock)
    async with trio_asyncio.open_loop():
        backend = await open_backend(
            tmp_path / "a.db" if request.param == "file" else None, migrations=TABLES
        )
        world = World(backend)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.writer.run)
            yield world
            world.writer.stop()
        await backend.close()


def content(size, seed=1):
    return random.Random(seed).randbytes(size)


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
async def test_what_goes_in_comes_out(world, size):
    data = content(size)
    blob = await world.put(data, sha256=sha(data).upper(), size=size)
    assert (blob.sha256, blob.size) == (sha(data), size)
    assert await world.get(blob) == data
    assert await find(world.backend, blob.sha256) == blob


@pytest.mark.parametrize("chunk", [7_777, PART_BYTES, 5 * PART_BYTES])
async def test_chunks_of_any_length_make_the_same_parts(world, chunk):
    data = content(4 * PART_BYTES + 5)
    blob = await world.put(data, chunk=chunk)
    assert blob.sha256 == sha(data) and await world.count("blob_parts") == 5
    assert await world.get(blob) == data


async def test_ranges(world):
    data = content(2 * PART_BYTES + 100)
    blob = await world.put(data)
    edges = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(data) - 1, len(data)]
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert await world.get(blob, start, stop) == data[start:stop], (start, stop)


async def test_a_blob_is_visible_when_it_is_complete_and_not_before(world):
    data = content(3 * PART_BYTES)
    async with BlobWriter(world.writer, 1.0) as upload:
        await upload.write(data)
        await world.writer.drain()
        assert await world.count("blob_parts") == 3
        assert await existing(world.backend, [sha(data)]) == set()
        await upload.finish()
    assert await existing(world.backend, [sha(data), sha(b"other")]) == {sha(data)}


async def test_existing_takes_many_digests(world):
    blobs = [await world.put(bytes([number])) for number in range(5)]
    digests = [blob.sha256 for blob in blobs] + [sha(str(number).encode()) for number in range(1_200)]
    assert await existing(world.backend, digests) == {blob.sha256 for blob in blobs}
    assert await existing(world.backend, []) == set()


async def test_the_same_content_is_kept_once(world):
    data = content(2 * PART_BYTES)
    first = await world.put(data, now=5.0)
    again = await world.put(data, now=9.0)
    older = await world.put(data, now=7.0)
    assert first == again == older
    assert (await world.count("blobs"), await world.count("blob_parts")) == (1, 2)
    row = await world.backend.read(
        lambda conn: conn.execute("SELECT created_at, used_at FROM blobs").fetchone()
    )
    assert row == (5.0, 9.0)
    assert await world.get(first) == data


async def test_uploads_of_the_same_content_at_once_end_as_one(world):
    data, blobs = content(PART_BYTES + 3), []

    async def put():
        blobs.append(await world.put(data))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(put)
    assert len(set(blobs)) == 1 and len(blobs) == 5
    assert (await world.count("blobs"), await world.count("blob_parts")) == (1, 2)


@pytest.mark.parametrize(
    "expected, code", [({"sha256": "0" * 64}, "digest_mismatch"), ({"size": 9}, "size_mismatch")]
)
async def test_what_was_promised_otherwise_is_refused_and_removed(world, expected, code):
    with pytest.raises(StoreError, match="expected") as caught:
        await world.put(content(2 * PART_BYTES), **expected)
    assert caught.value.code == code
    assert (await world.count("blobs"), await world.count("blob_parts")) == (0, 0)


async def test_an_upload_that_is_cut_off_leaves_nothing(world):
    with pytest.raises(ConnectionError):
        async with BlobWriter(world.writer, 1.0) as upload:
            await upload.write(content(3 * PART_BYTES))
            raise ConnectionError
    assert (await world.count("blobs"), await world.count("blob_parts")) == (0, 0)


async def test_an_upload_cancelled_at_its_end_is_complete_or_gone(world):
    for known in (False, True):  # the second time the content is there already
        with world.writer.hold_commits(), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery, BlobWriter(world.writer, 1.0) as upload:
                await upload.write(b"x")
                nursery.start_soon(upload.finish)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert await world.count("blobs") == await world.count("blob_parts") == 1, known
    assert await world.get(await find(world.backend, sha(b"x"))) == b"x"


async def test_what_a_crash_left_is_dropped_at_the_next_start(world):
    kept = await world.put(b"kept")
    parts = REMOVE_PARTS + 2

    def leave(conn):
        conn.execute("INSERT INTO blobs (id, created_at, used_at) VALUES (77, 1, 1)")
        conn.executemany("INSERT INTO blob_parts VALUES (77, ?, x'00')", [(part,) for part in range(parts)])
        conn.execute("INSERT INTO blobs (id, created_at, used_at) VALUES (78, 1, 1)")

    await world.writer.submit(leave).wait()
    assert await drop_incomplete(world.backend, world.writer) == 2
    assert (await world.count("blobs"), await world.count("blob_parts")) == (1, 1)
    assert await world.get(kept) == b"kept"
    assert await drop_incomplete(world.backend, world.writer) == 0


async def test_removal(world):
    blob, other = await world.put(content(3 * PART_BYTES)), await world.put(b"other")
    reading = read_blob(world.backend, blob)
    await anext(reading)
    await remove_blob(world.writer, blob)
    with pytest.raises(StoreError, match="removed while it was read") as caught:
        await anext(reading)
    assert caught.value.code == "blob_missing"
    assert await find(world.backend, blob.sha256) is None
    assert await world.get(other) == b"other"
    assert (await world.count("blobs"), await world.count("blob_parts")) == (1, 1)
    await remove_blob(world.writer, blob)  # twice does nothing


async def test_uncommitted_bytes_stay_within_their_bound(world):
    most = 0

    async def put(seed):
        data = content(20 * PART_BYTES, seed)
        await world.put(data, chunk=PART_BYTES)

    async def watch():
        nonlocal most
        while True:
            most = max(most, world.writer.uncommitted_bytes)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with trio.open_nursery() as uploads:
            for seed in range(2):
                uploads.start_soon(put, seed)
        nursery.cancel_scope.cancel()
    assert 0 < most <= 16 * PART_BYTES  # 8 parts ahead each


async def test_a_blob_of_a_missing_row_is_told(world):
    with pytest.raises(StoreError, match="removed"):
        await world.get(Blob(99, sha(b"x"), 1))
