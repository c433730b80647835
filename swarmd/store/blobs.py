"""Blobs: bytes named by their SHA-256, as rows of at most 1 MiB, streamed in and out.

A blob is visible when it is complete. Its parts are written under its row's id as they arrive; the digest is
set at the end. What a crash leaves incomplete is removed at the next start (`drop_incomplete`).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import cast

from swarmd.offthread import in_thread

from .backend import Backend
from .errors import StoreBroken, StoreError
from .writer import MAX_BULK_BYTES, Ticket, Writer

PART_BYTES = 1 << 20  # every part but the last has exactly this size
UPLOAD_PARTS_AHEAD = 4  # parts of one upload that may wait for the disk
HASH_INLINE_BYTES = 128 << 10  # below this a trip to a thread costs more than the hash
REMOVE_PARTS = 64  # parts removed in one transaction: their pages are read for it
MAX_ASKED = 500  # digests per query

BLOB_TABLES: tuple[str, ...] = (
    """
    CREATE TABLE blobs (
        id INTEGER PRIMARY KEY,
        sha256 TEXT UNIQUE,                    -- NULL while it arrives or leaves
        size INTEGER NOT NULL DEFAULT 0,       -- bytes
        created_at REAL NOT NULL,
        used_at REAL NOT NULL,
        complete INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX blobs_incomplete ON blobs (id) WHERE complete = 0",
    """
    CREATE TABLE blob_parts (
        blob_id INTEGER NOT NULL,
        part INTEGER NOT NULL,                 -- 0, 1, 2, …
        data BLOB NOT NULL,
        PRIMARY KEY (blob_id, part)
    )
    """,
)


@dataclass(frozen=True)
class Blob:
    """A complete blob: its row, the lower-case hex of its SHA-256, its length in bytes."""

    id: int
    sha256: str
    size: int


class BlobWriter:
    """One upload: `write` chunks, then `finish`. Use it in `async with`; leaving it unfinished removes what
    arrived.
    """

    def __init__(self, writer: Writer, now: float) -> None:
        """`now` becomes `created_at` and `used_at`."""
        self.size = 0
        self._writer = writer
        self._now = now
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._parts = 0
        self._tickets: list[Ticket] = []  # at most UPLOAD_PARTS_AHEAD
        self._id: int | None = None  # set on the database thread by the first part, before any later one runs
        self._over = False

    async def __aenter__(self) -> BlobWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            self._abandon()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes, of any length; waits while too much is on its way to the disk."""
        assert not self._over
        view = memoryview(chunk)
        while len(view):
            taken = view[: PART_BYTES - len(self._held)]
            self._held += taken
            view = view[len(taken) :]
            if len(self._held) == PART_BYTES:
                await self._put_part()

    async def finish(self, *, sha256: str | None = None, size: int | None = None) -> Blob:
        """Makes the blob visible, on disk, and returns it; if its content was there already, the older one.

        `sha256` and `size` are what the sender promised: `StoreError("digest_mismatch")` or
        `("size_mismatch")` if the bytes differ; then nothing is kept.
        """
        assert not self._over
        if self._held or not self._parts:
            await self._put_part()
        digest = self._hash.hexdigest()
        if size is not None and size != self.size:
            self._abandon()
            raise StoreError(
                "size_mismatch", f"The blob has {self.size} bytes, expected {size}. Send it again, whole."
            )
        if sha256 is not None and sha256.lower() != digest:
            self._abandon()
            raise StoreError(
                "digest_mismatch",
                f"The {self.size} bytes received have SHA-256 {digest}, expected {sha256.lower()}. Send "
                f"the blob again.",
            )
        found: list[int] = []
        ticket = await self._writer.submit_bytes(lambda conn: found.append(self._complete(conn, digest)), 0)
        self._over = True  # from here on the writer finishes it, whatever becomes of this call
        try:
            await ticket.wait()
        finally:
            if (
                not found or found[-1] != self._id
            ):  # the content was there already (or we do not know: it asks again)
                self._remove()
        return Blob(found[-1], digest, self.size)

    async def _put_part(self) -> None:
        data, self._held = bytes(self._held), bytearray()
        if len(data) > HASH_INLINE_BYTES:
            await in_thread(self._hash.update, data)
        else:
            self._hash.update(data)
        part = self._parts
        ticket = await self._writer.submit_bytes(lambda conn: self._insert(conn, part, data), len(data))
        self._parts += 1
        self.size += len(data)
        self._tickets.append(ticket)
        if len(self._tickets) >= UPLOAD_PARTS_AHEAD:
            await self._tickets.pop(0).wait()

    def _insert(self, conn: sqlite3.Connection, part: int, data: bytes) -> None:
        if (
            part == 0
        ):  # also when the disk was full and all of it runs again: the first row was rolled back then
            row = conn.execute(
                "INSERT INTO blobs (created_at, used_at) VALUES (?, ?)", (self._now, self._now)
            )
            self._id = row.lastrowid
        conn.execute("INSERT INTO blob_parts (blob_id, part, data) VALUES (?, ?, ?)", (self._id, part, data))

    def _complete(self, conn: sqlite3.Connection, digest: str) -> int:
        assert self._id is not None
        older = conn.execute("SELECT id FROM blobs WHERE sha256 = ?", (digest,)).fetchone()
        if older:
            conn.execute("UPDATE blobs SET used_at = MAX(used_at, ?) WHERE id = ?", (self._now, older[0]))
            return int(older[0])
        conn.execute(
            "UPDATE blobs SET sha256 = ?, size = ?, complete = 1 WHERE id = ?", (digest, self.size, self._id)
        )
        return self._id

    def _abandon(self) -> None:
        self._over = True
        self._held = bytearray()
        if self._parts:
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(StoreBroken):  # then the next start removes it
            _queue_removal(self._writer, lambda: self._id, self._parts)


async def find(backend: Backend, sha256: str) -> Blob | None:
    """The complete blob with this digest (lower-case hex), or None."""
    row = await backend.read(
        lambda conn: conn.execute("SELECT id, size FROM blobs WHERE sha256 = ?", (sha256,)).fetchone()
    )
    return Blob(row[0], sha256, row[1]) if row else None


async def existing(backend: Backend, digests: Collection[str]) -> set[str]:
    """Those of `digests` (lower-case hex) that are here, complete."""
    asked, found = list(dict.fromkeys(digests)), set[str]()
    for first in range(0, len(asked), MAX_ASKED):
        some = asked[first : first + MAX_ASKED]
        marks = ", ".join("?" * len(some))
        query = f"SELECT sha256 FROM blobs WHERE sha256 IN ({marks})"
        found.update(row[0] for row in await backend.read(partial(_rows, query=query, values=some)))
    return found


async def mark_used(writer: Writer, digests: Collection[str], now: float) -> None:
    """Notes engine time `now` as the last use of these blobs; returns when it is on disk."""
    rows = [(now, digest) for digest in digests]
    sql = "UPDATE blobs SET used_at = ? WHERE sha256 = ?"
    await writer.submit(lambda conn: conn.executemany(sql, rows)).wait()


async def read_blob(
    backend: Backend, blob: Blob, start: int = 0, stop: int | None = None
) -> AsyncIterator[bytes]:
    """Yields the bytes from `start` up to, not including, `stop` (default: the end) in pieces of at most 1
    MiB.

    Raises `StoreError("blob_missing")` when it was removed meanwhile.
    """
    stop = blob.size if stop is None else stop
    assert 0 <= start <= stop <= blob.size
    if start == stop:
        return
    for part in range(start // PART_BYTES, -(-stop // PART_BYTES)):
        first = max(start - part * PART_BYTES, 0)
        count = min(stop - part * PART_BYTES, PART_BYTES) - first
        row = await backend.read(partial(_read_part, blob_id=blob.id, part=part, first=first, count=count))
        if row is None or len(row[0]) != count:
            raise StoreError(
                "blob_missing",
                f"Blob {blob.sha256} was removed while it was read. Send it again if it is needed.",
            )
        yield row[0]


def _rows(conn: sqlite3.Connection, *, query: str, values: list[str]) -> list[tuple[str]]:
    return conn.execute(query, values).fetchall()


def _read_part(
    conn: sqlite3.Connection, *, blob_id: int, part: int, first: int, count: int
) -> tuple[bytes] | None:
    if count == PART_BYTES:
        query, values = "SELECT data FROM blob_parts WHERE blob_id = ? AND part = ?", (blob_id, part)
        return cast(tuple[bytes] | None, conn.execute(query, values).fetchone())
    query = "SELECT substr(data, ?, ?) FROM blob_parts WHERE blob_id = ? AND part = ?"
    row = conn.execute(query, (first + 1, count, blob_id, part)).fetchone()
    return cast(tuple[bytes] | None, row)


async def remove_blob(writer: Writer, blob: Blob) -> None:
    """Removes a complete blob; it is invisible with the first transaction, its bytes go in steps. Whoever
    reads it fails.
    """
    await writer.submit_bytes(
        lambda conn: conn.execute("UPDATE blobs SET sha256 = NULL, complete = 0 WHERE id = ?", (blob.id,)), 0
    )
    await _queue_removal(writer, lambda: blob.id, max(1, -(-blob.size // PART_BYTES))).wait()


async def drop_incomplete(backend: Backend, writer: Writer) -> int:
    """Removes what earlier runs left incomplete; returns how many blobs. Call it before the first upload of
    this run.
    """
    rows = await backend.read(
        lambda conn: conn.execute(
            "SELECT id, (SELECT MAX(part) + 1 FROM blob_parts WHERE blob_id = id) FROM blobs WHERE "
            "complete = 0"
        ).fetchall()
    )
    for blob_id, parts in rows:
        await _queue_removal(writer, partial(int, blob_id), parts or 1).wait()
    return len(rows)


def _queue_removal(writer: Writer, blob_id: Callable[[], int | None], parts: int) -> Ticket:
    """Queues the removal of an incomplete blob behind all that was queued for it; the ticket is that of the
    last step.

    Each step counts as a full transaction of bulk: that is about what it costs.
    """
    for first in range(0, parts, REMOVE_PARTS):
        last = first + REMOVE_PARTS >= parts
        ticket = writer.queue_bytes(
            partial(_remove_step, blob_id=blob_id, first=first, last=last), MAX_BULK_BYTES
        )
    return ticket


def _remove_step(
    conn: sqlite3.Connection, *, blob_id: Callable[[], int | None], first: int, last: bool
) -> None:
    which = blob_id()
    if not conn.execute("SELECT 1 FROM blobs WHERE id = ? AND complete = 0", (which,)).fetchone():
        return
    conn.execute(
        "DELETE FROM blob_parts WHERE blob_id = ? AND part BETWEEN ? AND ?",
        (which, first, first + REMOVE_PARTS - 1),
    )
    if last:
        conn.execute("DELETE FROM blobs WHERE id = ?", (which,))
