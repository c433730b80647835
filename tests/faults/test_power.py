"""Loss of power at any moment: what was acknowledged is there, whatever became of what was not synced.

The daemon is a real one. Its writes and syncs are recorded, cut at many places, and what a disk may hold then is
opened as after any start. See `tests.faults.power`.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_asyncio

from swarmd.client import Client, task
from swarmd.config import Config
from swarmd.core.ids import from_text
from swarmd.core.model import TaskState
from swarmd.daemon.daemon import open_daemon
from swarmd.store.backend import open_backend
from swarmd.store.check import check_file
from swarmd.store.schema import MIGRATIONS
from swarmd.testing.bots import NativeBot
from tests.faults.power import Cut, Disk, Record, cuts, losses, read_records, tell
from tests.faults.served import Served, served, talk

SEED = 20_261_128
CUTS = 60
CHECKPOINT_PAGES = 150  # the daemon's own 4,000 would come to a checkpoint only after 16 MiB
PROGRAM = (
    "-c",
    f"import swarmd.store.backend as b; b.CHECKPOINT_PAGES = {CHECKPOINT_PAGES}; "
    "from swarmd.cli import main; main()",
)


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the library that records."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler (cc) to see system calls")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True
    )
    return str(library)


# ------------------------------------------------------------- a busy run


class Busy:
    """Submits, runs, cancels and uploads for a while; notes what each answer has told."""

    def __init__(self, client: Client, note: Callable[[Any], None], rng: random.Random, rounds: int) -> None:
        self.client, self.note, self.rng, self.rounds = client, note, rng, rounds

    async def run(self, name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._submits)
            nursery.start_soon(self._works, NativeBot(self.client, name, slots=6))
            nursery.start_soon(self._uploads)

    async def _submits(self) -> None:
        for _ in range(self.rounds):
            text = "x" * self.rng.choice((10, 2_000, 30_000))
            made = [task(argv=["a", text], bot_retries=9) for _ in range(self.rng.randint(1, 4))]
            ids = await self.client.submit(made)
            self.note({"submitted": ids})
            if self.rng.random() < 0.2:
                never = task(argv=["b"], dimensions={"os": ["amiga"]})
                [id] = await self.client.submit([never])
                await self.client.cancel([id])
                self.note({"canceled": id})

    async def _works(self, bot: NativeBot) -> None:
        await bot.open()
        self.note({"session": bot.session})
        for _ in range(self.rounds):
            await bot.take()
            for attempt in list(bot.queued):
                bot.start(attempt)
                bot.write(attempt, self.rng.randbytes(self.rng.choice((10, 5_000))))
            await bot.sync()
            tasks, ends = dict(bot.running), dict(bot._ends)
            for attempt in tasks:
                self.note({"output": [attempt, ends[attempt, "stdout"]]})
                bot.finish(attempt)
            await bot.sync()
            for offer in tasks.values():
                assert offer is not None
                self.note({"finished": offer.task})

    async def _uploads(self) -> None:
        for _ in range(self.rounds // 4):
            data = self.rng.randbytes(self.rng.choice((100, 50_000)))
            self.note({"blob": (await self.client.upload_bytes(data)).sha256})


def record(folder: Path, library: str, rounds: int, *options: str) -> list[Record]:
    """What a daemon does to its file from the first moment on: busy, stopped, busy, killed, and busy again."""
    path, to = folder / "swarmd.db", folder / "records"
    environment = {"LD_PRELOAD": library, "RECORD_FILE": str(path), "RECORD_TO": str(to)}
    rng = random.Random(SEED)

    async def busy(client: Client, number: int) -> None:
        await Busy(client, partial(tell, to), rng, rounds).run(f"bot{number}")

    ends: list[Callable[[Served], None]] = [Served.stop, Served.kill, Served.kill]
    for number, end in enumerate(ends):
        with served(path, *options, program=PROGRAM, **environment) as daemon:
            talk(daemon, partial(busy, number=number))
            end(daemon)
    return read_records(to)


@dataclass(frozen=True)
class Recorded:
    folder: Path
    records: list[Record]


@pytest.fixture(scope="session")
def run(recorder: str, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One busy run, for all tests here."""
    folder = tmp_path_factory.mktemp("power")
    return Recorded(folder, record(folder, recorder, 12))


def test_the_records_are_all_that_was_done(run):
    """Played back, they give the files byte for byte; there were checkpoints in between."""
    disk = Disk()
    for each in run.records:
        disk.take(each)
    files = {path.name.removeprefix("swarmd.db"): path.read_bytes() for path in run.folder.glob("swarmd.db*")}
    assert {part: files[part] for part in files if part not in (".lock", "-shm")} == disk.whole()
    assert sum(each.kind == "s" and each.part == "" for each in run.records) > 5


# ------------------------------------------------------------- what is left


def missing(folder: Path, left: dict[str, bytes], told: list[Any]) -> list[str]:
    """What was told and is not in the file, after it was opened as a daemon does; and what `swarmd check` finds."""
    for old in folder.glob("swarmd.db*"):
        old.unlink()
    for part, content in left.items():
        (folder / f"swarmd.db{part}").write_bytes(content)
    path = folder / "swarmd.db"

    async def look() -> list[str]:
        async with trio_asyncio.open_loop():
            backend = await open_backend(path, migrations=MIGRATIONS)
            try:
                daemon = await open_daemon(Config(db=str(path)), backend)
                daemon.engine.check()
                return await backend.read(lambda conn: [fact for fact in told if not _holds(conn, fact)])
            finally:
                await backend.close()

    lost = [f"lost: {fact}" for fact in trio.run(look)]
    return lost + [f"{fault.name}: {fault.sentence}" for fault in check_file(path)]


def _holds(conn: Any, fact: dict[str, Any]) -> bool:
    """Whether the file agrees with what somebody was told."""

    def there(sql: str, *values: object) -> bool:
        return conn.execute(f"SELECT EXISTS ({sql})", values).fetchone()[0] == 1

    [(kind, what)] = fact.items()
    match kind:
        case "submitted":
            return all(there("SELECT 1 FROM ops WHERE id = ?", from_text(id)) for id in what)
        case "finished":
            done = "SELECT 1 FROM tasks WHERE id = ? AND state = ? AND ok = 1"
            return there(done, from_text(what), TaskState.COMPLETED)
        case "canceled":
            return there(
                "SELECT 1 FROM tasks WHERE id = ? AND state = ?", from_text(what), TaskState.CANCELED
            )
        case "output":
            attempt, end = what
            size = "SELECT 1 FROM output WHERE attempt = ? GROUP BY attempt HAVING SUM(size) >= ?"
            return there(size, from_text(attempt), end)
        case "blob":
            return there("SELECT 1 FROM blobs WHERE sha256 = ? AND complete = 1", what)
        case "session":
            return there("SELECT 1 FROM sessions WHERE id = ?", from_text(what))
    raise ValueError(kind)


def found_at(records: list[Record], at: list[Cut], folder: Path) -> list[str]:
    """What went wrong, with the cut that shows it. The records are kept with the test's other files."""
    found = []
    for cut, left, told in losses(records, at):
        try:
            found += [f"{cut}: {sentence}" for sentence in missing(folder, left, told)]
        except Exception as error:  # told with its cut
            found.append(f"{cut}: {type(error).__name__}: {error}")
    return found


def test_what_was_acknowledged_outlives_loss_of_power(run, tmp_path):
    assert found_at(run.records, cuts(run.records, CUTS, SEED), tmp_path) == []


def test_a_file_whose_making_was_cut_off_is_made_anew(run, tmp_path):
    """It was taken back to nothing when it was opened next, with the mark by which we know it: the daemon started on
    it, and the one after that refused it as the file of another program.
    """
    until_told = [each.kind for each in run.records].index("a")
    making = run.records[:until_told]
    assert found_at(making, cuts(making, CUTS // 2, SEED), tmp_path) == []


@pytest.mark.parametrize("part", ["", "-wal"])
def test_the_model_sees_a_disk_that_lies(run, tmp_path, part):
    """Without the syncs of one of the files facts are lost, or the whole file: else this model would show nothing."""
    lies = [each for each in run.records if (each.kind, each.part) != ("s", part)]
    assert found_at(lies, cuts(lies, 20, SEED), tmp_path) != []


@pytest.mark.nightly
def test_what_was_acknowledged_outlives_loss_of_power_at_a_thousand_places(recorder, tmp_path):
    seed = int(os.environ.get("SWARMD_POWER_SEED", SEED))
    print(f"SWARMD_POWER_SEED={seed}")
    records = record(tmp_path, recorder, 60)
    assert found_at(records, cuts(records, 1_200, seed), tmp_path) == []
