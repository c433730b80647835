"""Takes what commands print to the daemon: small pieces travel with the bot's requests, large ones as raw bytes.

The files on disk are the buffer: they are read by offset when there is room in a request, so nothing piles up in memory
while the daemon is away.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from swarmd.api.native.messages import OutputPiece
from swarmd.bot import events
from swarmd.bot.growth import Growth
from swarmd.bot.wire import Wire, WireError, persist

PIECES_BYTES = 262_144  # of output in one request
TAIL_BYTES = 65_536  # of an ended attempt, kept in memory to travel with its report
BULK_BYTES = 4 << 20  # in one raw call
NAMES = ("stdout", "stderr")
DAEMON = "the daemon's output limit"


class Stream:
    """One output file of an attempt, and how far it was sent."""

    __slots__ = ("attempt", "capped_at", "capped_by", "name", "path", "sent")

    def __init__(self, attempt: str, name: str, path: str, limit_bytes: int) -> None:
        self.attempt = attempt
        self.name = name
        self.path = path
        self.sent = 0
        self.capped_at = limit_bytes  # no byte above it is sent
        self.capped_by = "the bot's output limit"

    def size(self) -> int:
        """Of the file; 0 for what is no file: a command can put anything in its place."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def pending(self) -> int:
        """Bytes to send."""
        return max(0, min(self.size(), self.capped_at) - self.sent)

    def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; they are not counted as sent. A file that cannot be read is given up."""
        try:
            return self._bytes_at(self.sent, min(limit, self.capped_at - self.sent))
        except OSError as error:
            self.capped_at = self.sent
            self.capped_by = f"what the command did to its file ({error.strerror})"
            return b""

    def _bytes_at(self, offset: int, count: int) -> bytes:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(fd, count, offset)
        finally:
            os.close(fd)

    def piece(self, limit: int) -> OutputPiece | None:
        """The next bytes as a piece of a request, counted as sent; None if there are none."""
        size = min(self.pending(), limit)
        data = self.read(size) if size else b""
        if not data:
            return None
        piece = OutputPiece(attempt=self.attempt, stream=self.name, offset=self.sent, data=data)  # type: ignore[arg-type]
        self.sent += len(data)
        return piece

    def last_byte(self) -> OutputPiece | None:
        """Where the file ends, if the daemon's limit kept the end from being sent: it counts what it does not get."""
        size = self.size()
        if self.capped_by != DAEMON or size <= self.sent:
            return None
        try:
            data = self._bytes_at(size - 1, 1)
        except OSError:
            return None
        return OutputPiece(attempt=self.attempt, stream=self.name, offset=size - 1, data=data)  # type: ignore[arg-type]

    def shortfall(self) -> str | None:
        """A sentence about what the bot did not send, None if it sent all or the daemon counts the rest."""
        missing = self.size() - self.sent
        if missing <= 0 or self.capped_by == DAEMON:
            return None
        return f"{self.name}: {missing} bytes were not sent because of {self.capped_by}"


class Outputs:
    """The output of all attempts that run. `news()` is called when there is something for the next request."""

    def __init__(self, wire: Wire, rng: random.Random, limit_bytes: int, news: Callable[[], None]) -> None:
        self._wire = wire
        self._rng = rng
        self._limit_bytes = limit_bytes
        self._news = news
        self._streams: dict[str, tuple[Stream, ...]] = {}
        self._grown: dict[str, None] = {}  # attempts with something to send, first come first served
        self._bulk: dict[str, trio.Event] = {}  # attempts whose output goes as raw bytes at the moment
        # Attempts with pieces in a request that has no answer yet. Raw bytes must not overtake them: the daemon would
        # fill the gap with NULs and then ignore the pieces.
        self._unanswered: set[str] = set()
        self._answered = trio.Event()
        self._growth = Growth(self._on_growth)
        self._nursery: trio.Nursery | None = None

    @property
    def has_news(self) -> bool:
        return bool(self._grown)

    async def run(self) -> None:
        """Watches the files until it is canceled."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._growth.run()
        finally:
            self._growth.close()

    def begin(self, attempt: str, folder: Path) -> None:
        """From now on `stdout` and `stderr` in `folder` are sent while they grow."""
        base = str(folder)
        self._streams[attempt] = tuple(
            Stream(attempt, name, f"{base}/{name}", self._limit_bytes) for name in NAMES
        )
        self._growth.add(attempt, base)

    def pieces(self, room: int) -> list[OutputPiece]:
        """Output for one request, at most `room` bytes. What is too much for requests starts to go as raw bytes.

        Until `answered` is called, it counts as being on its way.
        """
        found: list[OutputPiece] = []
        for attempt in list(self._grown):
            if room <= 0:
                break
            del self._grown[attempt]
            streams = self._streams[attempt]
            if attempt not in self._unanswered and any(s.pending() > PIECES_BYTES for s in streams):
                self._start_bulk(attempt, streams)
                continue
            for stream in streams:
                piece = stream.piece(room)
                if piece is not None:
                    found.append(piece)
                    room -= len(piece.data)
                    self._unanswered.add(attempt)
            if any(stream.pending() for stream in streams):
                self._grown[attempt] = None
        return found

    def answered(self) -> None:
        """The request with the newest pieces was answered: the daemon has them."""
        if self._unanswered:
            self._unanswered.clear()
            self._answered.set()
            self._answered = trio.Event()

    async def end(self, attempt: str) -> tuple[tuple[OutputPiece, ...], list[str]]:
        """Call it when the commands have ended: gives the last bytes, after what is too much for them was sent.

        Also gives a sentence for each stream that the daemon does not get whole from this bot.
        """
        self._growth.remove(attempt)
        self._grown.pop(attempt, None)
        streams = self._streams.pop(attempt)
        bulk = self._bulk.get(attempt)
        if bulk is not None:
            await bulk.wait()
        for stream in streams:
            if stream.pending() > TAIL_BYTES // 2:
                while attempt in self._unanswered:
                    await self._answered.wait()
                await self._send_raw(stream)
        pieces = [stream.piece(TAIL_BYTES // 2) for stream in streams]
        pieces += [stream.last_byte() for stream in streams]
        sentences = [stream.shortfall() for stream in streams]
        return tuple(p for p in pieces if p is not None), [s for s in sentences if s is not None]

    def forget(self, attempt: str) -> None:
        """Ends the sending of an attempt that nobody wants any more."""
        self._growth.remove(attempt)
        self._grown.pop(attempt, None)
        for stream in self._streams.pop(attempt, ()):
            stream.capped_at = stream.sent

    def _on_growth(self, attempt: str) -> None:
        if attempt in self._bulk or attempt in self._grown:
            return
        if any(stream.pending() for stream in self._streams.get(attempt, ())):
            self._grown[attempt] = None
            self._news()

    def _start_bulk(self, attempt: str, streams: tuple[Stream, ...]) -> None:
        assert self._nursery is not None
        self._bulk[attempt] = trio.Event()
        self._nursery.start_soon(self._run_bulk, attempt, streams)

    async def _run_bulk(self, attempt: str, streams: tuple[Stream, ...]) -> None:
        try:
            for stream in streams:
                await self._send_raw(stream)
        finally:
            self._bulk.pop(attempt).set()
        self._on_growth(attempt)

    async def _send_raw(self, stream: Stream) -> None:
        """Sends until little is left; learns the daemon's limit. A refusal ends the sending of this stream."""
        while (size := stream.pending()) > TAIL_BYTES // 2:
            data = stream.read(min(size, BULK_BYTES))
            if not data:
                return
            call = partial(self._wire.append_output, stream.attempt, stream.name, stream.sent, data)
            try:
                answer = await persist("append_output", call, self._rng)
            except WireError as failure:
                events.warning(
                    "output.refused", attempt=stream.attempt, stream=stream.name, reason=failure.message
                )
                stream.capped_at = stream.sent
                stream.capped_by = f"a refusal ({failure.message})"
                return
            stream.sent += len(data)
            limit = max(answer.limit, stream.sent)
            if limit < stream.capped_at:
                stream.capped_at, stream.capped_by = limit, DAEMON
