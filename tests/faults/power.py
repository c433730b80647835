"""A model of what loss of power leaves of a file: recorded writes and syncs, cut at any place.

`recorder.c` writes down what a daemon does to its file, in order; whoever got an answer adds what it was told. A cut is
a place in these records. What was synced before it is on the disk; of what was written since, anything may be: nothing,
all, some of the writes in any order, some sectors of a write, or garbage where a sector was being written; and a name
that was made, moved or removed since the last sync of the folder may be as it was. That is what SQLite expects of an
honest disk, no more.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD = struct.Struct("<cBHIQ")
SECTOR = 512


@dataclass(frozen=True)
class Record:
    """`kind`: w(rite), t(runcate), s(ync), u(nlink), r(ename, to the part in `data`), d: the folder was synced,
    a: somebody was told `fact`.
    """

    kind: str
    part: str  # what stands behind the file's name: "", "-wal", "-journal"
    at: int
    data: bytes

    @property
    def fact(self) -> Any:
        return json.loads(self.data)


def read_records(path: Path) -> list[Record]:
    """All records, in order. The last one must be whole."""
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        kind, name, _, size, offset = HEAD.unpack_from(raw, at)
        at += HEAD.size
        part = raw[at : at + name].decode()
        at += name
        found.append(Record(kind.decode(), part, offset, raw[at : at + size]))
        at += size
    assert at == len(raw), "half a record"
    return found


def tell(path: Path, fact: Any) -> None:
    """Adds what an answer has told. Call it after the answer has come."""
    data = json.dumps(fact).encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, HEAD.pack(b"a", 0, 0, len(data), 0) + data)
    finally:
        os.close(file)


# ------------------------------------------------------------- the disk


@dataclass
class File:
    """One file: what is on the disk, and what is on its way there."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Record] = field(default_factory=list)
    is_named: bool = False  # its name is on the disk as well
    before: File | None = None  # the file of this name that was removed, while that is not on the disk

    def sync(self) -> None:
        for record in self.pending:
            _apply(self.synced, record, record.data)
        self.pending.clear()


Fate = Callable[[random.Random, bytes], list[tuple[int, bytes]]]  # the pieces of a write that arrive


def _nothing(rng: random.Random, data: bytes) -> list[tuple[int, bytes]]:
    return []


def _all(rng: random.Random, data: bytes) -> list[tuple[int, bytes]]:
    return [(0, data)]


def _some(rng: random.Random, data: bytes) -> list[tuple[int, bytes]]:
    return [(0, data)] if rng.random() < 0.5 else []


def _torn(rng: random.Random, data: bytes) -> list[tuple[int, bytes]]:
    """Whole sectors of it, in any order; those at its ends as far as they belong to it."""
    if rng.random() < 0.3:
        return _some(rng, data)
    sectors = [(start, data[start : start + SECTOR]) for start in range(0, len(data), SECTOR)]
    if rng.random() < 0.5:
        return sectors[: rng.randint(0, len(sectors))]
    return [sector for sector in sectors if rng.random() < 0.5]


def _garbage(rng: random.Random, data: bytes) -> list[tuple[int, bytes]]:
    """As `_torn`; a sector that was being written may hold anything."""
    return [
        (start, rng.randbytes(len(sector)) if rng.random() < 0.1 else sector)
        for start, sector in _torn(rng, data)
    ]


FATES: dict[str, Fate] = {
    "nothing": _nothing, "all": _all, "some": _some, "torn": _torn, "garbage": _garbage,
}  # fmt: skip


class Disk:
    """Takes records one after the other; `after_power_loss` is one of the states in which it may be found."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    def take(self, record: Record) -> None:
        if record.kind == "a":
            return
        if record.kind == "d":
            self._folder_synced()
            return
        if record.kind == "u":
            self.files[record.part] = File(before=self.files.get(record.part))
            return
        if record.kind == "r":
            moved, to = self.files.pop(record.part), record.data.decode()
            self.files[to] = File(moved.synced, moved.pending, before=self.files.get(to))
            return
        file = self.files.setdefault(record.part, File())
        if record.kind == "s":
            file.sync()  # not its name: that takes a sync of the folder
        else:
            file.pending.append(record)

    def _folder_synced(self) -> None:
        for part, file in list(self.files.items()):
            file.before = None
            if file.pending or file.synced:
                file.is_named = True
            elif not file.is_named:
                del self.files[part]  # removed, and not made again

    def after_power_loss(self, rng: random.Random, fate: Fate) -> dict[str, bytes]:
        """The content of each file that is there."""
        left = {}
        for part, file in self.files.items():
            there: File | None = file
            while there is not None and not there.is_named and rng.random() < 0.5:
                there = there.before  # the name still leads to the one that was removed, or to none
            if there is not None and (there.is_named or there.pending or there.synced):
                left[part] = _left_of(there, rng, fate)
        return left

    def whole(self) -> dict[str, bytes]:
        """What the files hold as long as the power is there."""
        return {
            part: content
            for part, file in self.files.items()
            if (content := _left_of(file, random.Random(), _all))
        }


def _left_of(file: File, rng: random.Random, fate: Fate) -> bytes:
    content = bytearray(file.synced)
    for record in file.pending:
        if record.kind == "t":
            if fate(rng, b"-"):
                _apply(content, record, b"")
            continue
        for start, piece in fate(rng, record.data):
            _apply(content, Record("w", record.part, record.at + start, b""), piece)
    return bytes(content)


def _apply(content: bytearray, record: Record, data: bytes) -> None:
    if record.kind == "t":
        del content[record.at :]
        content.extend(bytes(record.at - len(content)))
        return
    end = record.at + len(data)
    content.extend(bytes(max(0, end - len(content))))
    content[record.at : end] = data


# ------------------------------------------------------------- cuts


@dataclass(frozen=True)
class Cut:
    """A place in the records, and what becomes of what was not synced there. Repeatable by its seed."""

    place: int
    fate: str
    seed: int


def cuts(records: list[Record], count: int, seed: int) -> list[Cut]:
    """`count` cuts in order of place: around syncs, spread over all of them, and some anywhere."""
    rng = random.Random(seed)
    syncs = [place for place, record in enumerate(records) if record.kind in "sdur"]
    found = []
    for number in range(count):
        if number % 4 == 3:
            place = rng.randrange(len(records))
        else:  # just before it is done, or just after
            place = syncs[(number * len(syncs)) // count + rng.randrange(1 + len(syncs) // count)]
            place += rng.randrange(2)
        fate = list(FATES)[number % len(FATES)]
        found.append(Cut(place, fate, rng.randrange(1 << 32)))
    return sorted(found, key=lambda cut: cut.place)


def losses(records: list[Record], at: list[Cut]) -> Iterator[tuple[Cut, dict[str, bytes], list[Any]]]:
    """For each cut, in order of place: the files that are left, and the facts that had been told before it."""
    disk, told, place = Disk(), list[Any](), 0
    for cut in at:
        while place < cut.place:
            disk.take(records[place])
            if records[place].kind == "a":
                told.append(records[place].fact)
            place += 1
        yield cut, disk.after_power_loss(random.Random(cut.seed), FATES[cut.fate]), told
