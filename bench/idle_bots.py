"""Many bots in one process that wait for work: each is the conversation of the bundled bot, without processes to run.

    python -m bench.idle_bots URL FIRST COUNT

Bots b<FIRST> to b<FIRST + COUNT - 1> open a session each and let the daemon hold their calls; no-op tasks that they are
offered they report as done. For each line on standard input the process answers one line of JSON with what happened
since the one before (`Tally`); at the end of its input it ends.
"""

from __future__ import annotations

import gc
import logging
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import trio

from swarmd import __version__
from swarmd.api.native.messages import OutputPiece, SessionAnswer, SyncAnswer
from swarmd.bot import events
from swarmd.bot.machine import machine_dimensions
from swarmd.bot.session import Conversation, Introduction
from swarmd.bot.slots import Slots
from swarmd.bot.wire import ClientWire, WireError
from swarmd.client.address import parse_address
from swarmd.daemon.listeners import raise_open_files_limit

LONGEST_S = 600.0  # a process whose parent is stuck ends by itself


@dataclass
class Tally:
    """What the bots of one process saw."""

    sessions: int = 0  # opened
    calls: int = 0
    failures: dict[str, int] = field(
        default_factory=Counter
    )  # calls without a usable answer, by status or reason
    offers: dict[str, float] = field(default_factory=dict)  # task, and the monotonic time of its offer
    worst: int = 0  # the most failures of one bot
    cpu_s: float = 0.0  # of the process, since its start


class CountingWire(ClientWire):
    """The bundled bot's wire; tells the tally of each call."""

    def __init__(self, url: str, tally: Tally) -> None:
        super().__init__(parse_address(url), None)
        self._url = self._transport.address.url
        self.tally = tally
        self.failed = 0

    async def open_session(self, bot: str, body: bytes) -> SessionAnswer:
        try:
            answer = await super().open_session(bot, body)
        except WireError as failure:
            self._note(failure)
            raise
        self.tally.calls += 1
        self.tally.sessions += 1
        return answer

    async def sync(self, session: str, body: bytes, *, held_s: float) -> SyncAnswer:
        try:
            answer = await super().sync(session, body, held_s=held_s)
        except WireError as failure:
            self._note(failure)
            raise
        self.tally.calls += 1
        for offer in answer.offers:
            self.tally.offers[offer.task] = time.monotonic()
        return answer

    def _note(self, failure: WireError) -> None:
        self.failed += 1
        self.tally.calls += 1
        self.tally.worst = max(self.tally.worst, self.failed)
        reason = failure.message.partition(f"{self._url}: ")[2].partition(";")[0] or failure.message
        self.tally.failures[str(failure.status or reason.rpartition(": ")[2].lower())] += 1


class NoOutput:
    """In place of `swarmd.bot.uploads.Outputs`: nothing runs here, so nothing is printed."""

    has_news = False

    def pieces(self, room: int) -> list[OutputPiece]:
        return []

    def answered(self) -> None:
        """Nothing waits for it."""


class IdleBots:
    """`count` bots in the nursery of `run`."""

    def __init__(self, url: str, first: int, count: int, seed: int) -> None:
        self.tally = Tally()
        dimensions = machine_dimensions()
        self._wires: list[CountingWire] = []
        self._talks: list[Conversation] = []
        for number in range(first, first + count):
            name = f"b{number}"
            wire = CountingWire(url, self.tally)
            own = dimensions | {"hostname": [name]}
            state = {"pid": number, "host": name, "work_dir": f"/var/lib/swarmd-bot/{name}"}
            introduction = Introduction(name, f"the key of bot {name}", own, __version__, state)
            talk = Conversation(introduction, wire, Slots(1), random.Random(seed + number))
            talk.outputs = NoOutput()  # type: ignore[assignment]
            self._wires.append(wire)
            self._talks.append(talk)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for talk in self._talks:
                nursery.start_soon(talk.run)

    def report(self) -> Tally:
        """What happened since the last report."""
        told, fresh = self.tally, Tally()
        told.cpu_s = time.process_time()
        self.tally = fresh
        for wire in self._wires:
            wire.tally, wire.failed = fresh, 0
        return told


async def _serve_reports(bots: IdleBots) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bots.run)
        requests = trio.lowlevel.FdStream(0)
        with trio.move_on_after(LONGEST_S):
            while await requests.receive_some(1):
                sys.stdout.buffer.write(msgspec.json.encode(bots.report()) + b"\n")
                sys.stdout.buffer.flush()
        nursery.cancel_scope.cancel()


def main() -> None:
    url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    raise_open_files_limit()
    events.LOGGER.setLevel(logging.CRITICAL)  # failures are counted instead
    bots = IdleBots(url, first, count, seed=1)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    trio.run(_serve_reports, bots)


if __name__ == "__main__":
    main()
