"""A daemon and its bots, each a process of its own, as the programs of others find them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from swarmd.client import open_client, task
from swarmd.testing import SwarmingBot
from tests.api.swarming.services.client import native
from tests.faults.served import served

END_S = 20.0
FINISH_S = 2.0
SLOTS = 4
# Flags of a task that waits: the only bot that it is for never asks for work.
WAITING = ("-d", "bench=idle")


class RealLab:
    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    async def ended(self, *ids: str) -> None:
        """Returns when these have ended, ids as the `swarming` command prints them."""
        async with open_client(self.url) as client:
            done = await client.wait([native(id) for id in ids], timeout_s=END_S)
        assert len(done) == len(ids), f"{len(done)} of {len(ids)} have ended"

    async def started(self, id: str, output: bytes = b"") -> None:
        """Returns when it runs and has printed `output`."""
        async with open_client(self.url) as client:
            with trio.fail_after(END_S):
                while (await client.get(native(id))).state != "RUNNING":
                    await trio.sleep(0.02)
                while output and (await client.read_output(native(id), "stdout")).data != output:
                    await trio.sleep(0.02)


@contextmanager
def open_real_lab(folder: Path, *options: str) -> Iterator[RealLab]:
    """A daemon with the bundled bot `b1` ready to work, and one that never asks for any."""
    with (
        served(folder / "swarmd.db", *options, log=folder / "daemon.log") as daemon,
        bundled_bot(daemon.url, folder, "b1"),
    ):
        trio.run(_ready, daemon.url)
        yield RealLab(daemon.url, folder)


async def _ready(url: str) -> None:
    await swarming_bot(url, "idler", "idle")
    async with open_client(url) as client:
        [id] = await client.submit([task(noop=True)])
        assert await client.wait([id], timeout_s=END_S), "the bot does no work"


async def swarming_bot(url: str, id: str, bench: str) -> SwarmingBot:
    """A scripted one, which found nothing to do in its first poll: from then on tasks may wait for it."""
    bot = SwarmingBot(url, id, dimensions={"bench": [bench]})
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "sleep"
    return bot


@contextmanager
def bundled_bot(url: str, folder: Path, id: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`swarmd bot`, ended when the block is left, with what it runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
    with open(folder / f"{id}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "swarmd", "bot", "--server", url, "--id", id, "--slots", str(SLOTS),
             "--work-dir", str(folder / id), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
        )  # fmt: skip
    try:
        yield process
    finally:
        for patience_s in (FINISH_S, END_S):  # the second SIGTERM also ends what a failed test left running
            with suppress(subprocess.TimeoutExpired):
                process.send_signal(signal.SIGTERM)
                process.wait(patience_s)
        process.kill()
        process.wait()
