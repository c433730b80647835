"""The bot's cache of inputs: right bytes or none, of bounded size."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
import trio

from swarmd.bot.cache import Cache, InputFailed
from swarmd.bot.wire import WireError
from swarmd.core.model import Input
from tests.bot.fake_daemon import FakeDaemon

ONE, TWO, THREE = (bytes([n]) * 1000 for n in (1, 2, 3))


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.daemon = FakeDaemon()
        self.count = 0

    def cache(self, limit_bytes: int = 10_000) -> Cache:
        return Cache(self.path / "cache", limit_bytes, self.daemon, random.Random(1))

    async def place(self, cache: Cache, digest: str) -> bytes:
        """Puts the blob into a new work folder; gives what stands there."""
        self.count += 1
        folder = self.path / f"work{self.count}"
        folder.mkdir()
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            await cache.place(root, Input("in", digest))
        finally:
            os.close(root)
        return (folder / "in").read_bytes()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_blob_is_fetched_once(world, autojump_clock):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    assert [await world.place(cache, digest) for _ in range(3)] == [ONE] * 3
    assert world.daemon.gets == [digest]


async def test_a_blob_wanted_by_many_at_once_is_fetched_once(world, autojump_clock):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(world.place, cache, digest)
    assert world.daemon.gets == [digest] and not cache._fetching


async def test_a_task_that_writes_to_its_input_does_not_damage_the_cache(world, autojump_clock):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    await world.place(cache, digest)
    (world.path / "work1" / "in").write_bytes(b"damaged")
    assert await world.place(cache, digest) == ONE


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_damaged_entry_is_fetched_anew(world, autojump_clock, restarts):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    await world.place(cache, digest)
    entry = world.path / "cache" / digest
    times = entry.stat()
    entry.chmod(0o600)
    entry.write_bytes(TWO)
    os.utime(entry, ns=(times.st_atime_ns, times.st_mtime_ns))
    if restarts:
        cache = world.cache()
    assert await world.place(cache, digest) == ONE
    assert world.daemon.gets == [digest] * 2


async def test_an_entry_that_was_removed_is_fetched_anew(world, autojump_clock):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    await world.place(cache, digest)
    (world.path / "cache" / digest).unlink()
    assert await world.place(cache, digest) == ONE


async def test_a_new_bot_uses_what_the_last_one_fetched(world, autojump_clock):
    digest = world.daemon.keep(ONE)
    await world.place(world.cache(), digest)
    assert await world.place(world.cache(), digest) == ONE
    assert world.daemon.gets == [digest]


async def test_what_was_used_longest_ago_goes_first(world, autojump_clock):
    one, two, three = (world.daemon.keep(data) for data in (ONE, TWO, THREE))
    cache = world.cache(2500)
    for digest in (one, two, one, three):
        await world.place(cache, digest)
    assert {path.name for path in (world.path / "cache").iterdir()} == {one, three}
    assert cache.size_bytes == 2000


async def test_a_blob_larger_than_the_cache_is_placed_and_forgotten(world, autojump_clock):
    cache, digest = world.cache(0), world.daemon.keep(ONE)
    assert await world.place(cache, digest) == ONE
    assert not list((world.path / "cache").iterdir())


async def test_a_smaller_limit_takes_effect_at_the_next_start(world, autojump_clock):
    for data in (ONE, TWO, THREE):
        await world.place(world.cache(), world.daemon.keep(data))
    assert world.cache(1500).size_bytes == 1000


async def test_wrong_bytes_are_never_placed(world, autojump_clock):
    digest = world.daemon.keep(ONE)
    world.daemon.blobs[digest] = TWO
    with pytest.raises(InputFailed, match="other bytes"):
        await world.place(world.cache(), digest)
    assert not list((world.path / "cache").iterdir()) and not list((world.path / "work1").iterdir())


async def test_a_download_cut_off_by_a_crash_is_removed(world):
    (world.path / "cache").mkdir()
    (world.path / "cache" / f"{'0' * 64}.part").write_bytes(b"half")
    world.cache()
    assert not list((world.path / "cache").iterdir())


async def test_a_daemon_that_is_away_is_waited_for(world, autojump_clock):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    world.daemon.is_away = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.place, cache, digest)
        await trio.sleep(100)
        world.daemon.is_away = False
    assert (world.path / "work1" / "in").read_bytes() == ONE


async def test_a_blob_that_the_daemon_does_not_have_is_named(world, autojump_clock):
    with pytest.raises(InputFailed, match="0" * 64):
        await world.place(world.cache(), "0" * 64)


def test_which_failures_pass():
    assert [s for s in (None, 400, 404, 408, 409, 413, 429, 500, 503, 507) if WireError(s, "", "").is_passing] == [
        None, 408, 429, 500, 503, 507,
    ]  # fmt: skip


SPECIAL = {
    "fifo": os.mkfifo,
    "socket": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
    "folder": lambda path: (path / "with" / "more").mkdir(parents=True),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("restarts", [True, False])
async def test_what_is_no_file_is_never_opened_and_is_fetched_anew(world, autojump_clock, kind, restarts):
    """Commands run as the bot's own user and can put anything there; a FIFO would stop the bot for good."""
    cache, digest = world.cache(), world.daemon.keep(ONE)
    await world.place(cache, digest)
    (world.path / "cache" / digest).unlink()
    SPECIAL[kind](world.path / "cache" / digest)
    if restarts:
        cache = world.cache()
    assert await world.place(cache, digest) == ONE
    assert stat.S_ISREG((world.path / "cache" / digest).lstat().st_mode)


@pytest.mark.parametrize("kind", SPECIAL)
async def test_a_download_goes_to_a_file_of_its_own(world, autojump_clock, kind):
    cache, digest = world.cache(), world.daemon.keep(ONE)
    victim = world.path / "victim"
    victim.write_bytes(b"as it was")
    part = world.path / "cache" / f"{digest}.part"
    if kind == "link":
        part.symlink_to(victim)
    else:
        SPECIAL[kind](part)
    assert await world.place(cache, digest) == ONE
    assert victim.read_bytes() == b"as it was" and not part.exists()


@pytest.mark.parametrize("kind", SPECIAL)
async def test_what_does_not_belong_there_does_not_keep_a_bot_from_starting(world, kind):
    (world.path / "cache").mkdir()
    SPECIAL[kind](world.path / "cache" / "lost+found")
    assert world.cache().size_bytes == 0
