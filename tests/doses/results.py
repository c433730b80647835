"""The file in which doses add up: one JSON line for each chunk that ended, appended whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec


class Outcome(msgspec.Struct, kw_only=True):
    """What a chunk did: `done` in the unit of its part, `counts` for people, and what was broken."""

    done: float
    counts: dict[str, float] = {}
    faults: list[str] = []


class Chunk(msgspec.Struct, kw_only=True):
    """A line of the file. A chunk has used the seeds from `seed` to `seed + seeds - 1`."""

    part: str
    seed: int
    seeds: int = 1
    size: float  # what was asked; what was done may be less, or more where it is a time
    done: float
    seconds: float
    counts: dict[str, float] = {}
    faults: list[str] = []
    commit: str

    def overlaps(self, seed: int, seeds: int) -> bool:
        return seed < self.seed + self.seeds and self.seed < seed + seeds


class Anew(msgspec.Struct, kw_only=True):
    """A line of the file: what stands above of this part was done with code that was changed; it counts no more."""

    anew: str
    commit: str


class Results:
    """The chunks that count, in a file that one runner at a time may write; `look` only reads, also beside a runner.

    Raises BlockingIOError when another one does, ValueError for a line that is none of ours. A last line that was not
    written to its end is cut off: its chunk is not counted.
    """

    def __init__(self, path: Path, *, look: bool = False) -> None:
        self.path = path
        self._look = look
        self.chunks: list[Chunk] = []

    def __enter__(self) -> Self:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if not self._look:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = self.path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text) and not self._look:
                os.ftruncate(self._file, whole)
            for number, line in enumerate(text[:whole].splitlines(), 1):
                self._read(number, line)
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._file)

    def _read(self, number: int, line: bytes) -> None:
        try:
            read = msgspec.json.decode(line)
            kind = Anew if "anew" in read else Chunk
            self._take(msgspec.convert(read, kind))
        except (msgspec.MsgspecError, TypeError) as error:
            raise ValueError(f"{self.path}, line {number}: {error}") from None

    def _take(self, line: Chunk | Anew) -> None:
        if isinstance(line, Anew):
            self.chunks = [chunk for chunk in self.chunks if chunk.part != line.anew]
        elif all(
            chunk.part != line.part or not chunk.overlaps(line.seed, line.seeds) for chunk in self.chunks
        ):
            self.chunks.append(line)

    def add(self, line: Chunk | Anew) -> None:
        """One write: a reader, or a runner that is killed here, sees the whole line or none that counts."""
        assert not self._look
        self._take(line)
        data = json.dumps(msgspec.to_builtins(line)).encode() + b"\n"
        assert os.write(self._file, data) == len(data)

    def of(self, part: str) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.part == part]


def free_seed(taken: Iterable[Chunk], first: int, seeds: int) -> int:
    """The first of `seeds` seeds in a row, not below `first`, of which no chunk of `taken` has used one."""
    seed = first
    for chunk in sorted(taken, key=lambda chunk: chunk.seed):
        if chunk.overlaps(seed, seeds):
            seed = chunk.seed + chunk.seeds
    return seed
