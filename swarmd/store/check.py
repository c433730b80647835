"""Faults in a database file, each by its name: what `swarmd check` says.

The file is opened read-only and looked at as one snapshot, also beside a running daemon. Each fault has one
statement (or one walk) here that finds it; legal data finds nothing. Source: docs/http-api.md, `check`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from swarmd.core.ids import to_text
from swarmd.core.model import AttemptState, TaskState

from .backend import APPLICATION_ID
from .blobs import PART_BYTES
from .errors import StoreError
from .migrate import CORE, check_versions, versions
from .packing import unpack
from .schema import CORE_MIGRATIONS, MIGRATIONS

MAX_EACH = 20  # faults of one name that get a sentence of their own; the rest are counted
MAX_TAILS = 8  # streams of one attempt that were cut at their limit; their gaps are told from missing bytes
BUSY_TIMEOUT_MS = 5_000

_streams = msgspec.json.Decoder(dict[str, tuple[int, int]])
_REMEDY = "Give --db the path of a swarmd database."


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `name` is stable, `sentence` is for people."""

    name: str
    sentence: str


Sentences = Iterator[str]
Finder = Callable[[sqlite3.Connection], Sentences]


def check_file(
    path: Path | str, *, deep: bool = False, progress: Callable[[str], None] = lambda name: None
) -> list[Fault]:
    """The faults of the database `path`, at most `MAX_EACH` + 1 of each name. Blocks; cost O(file).

    Never writes. Without a WAL beside the file nothing is made or locked. `deep` also computes the digest of each
    blob. `progress` is called with the name of what is looked for next. Raises `StoreError`: `not_a_file`,
    `not_readable`, `not_swarmd`, `damaged_file` (not even its first page can be read), `newer_file`, `older_file`.
    """
    path = _looked_at(Path(path))
    before = _mark(path)
    if (
        (found := _check(path, before.has_wal, deep, progress))
        and _mark(path) != before
        and not before.has_wal
    ):
        # A daemon began to write while the file was read without locks: what was seen may be no one moment.
        found = _check(path, True, deep, progress)
    return found


@dataclass(frozen=True)
class _Mark:
    has_wal: bool
    size: int
    changed_ns: int


def _mark(path: Path) -> _Mark:
    found = path.stat()
    return _Mark(path.with_name(path.name + "-wal").exists(), found.st_size, found.st_mtime_ns)


def _looked_at(path: Path) -> Path:
    """The real path, once it is clear that there is a file to open. The file is not opened here: closing it would
    drop the locks that SQLite holds on it in this process."""
    path = path.resolve()
    try:
        if not path.is_file():
            raise StoreError("not_a_file", f"There is no regular file {path}. {_REMEDY}")
        if not os.access(path, os.R_OK, effective_ids=True):
            raise StoreError(
                "not_readable", f"User {os.geteuid()} may not read {path}. Change its mode, or be its owner."
            )
        if path.stat().st_size == 0:
            raise StoreError("not_swarmd", f"{path} is empty, so not a swarmd database. {_REMEDY}")
    except OSError as error:
        raise StoreError(
            "not_readable", f"Cannot look at {path}: {error.strerror}. Check the rights of its folders."
        ) from error
    return path


def _check(path: Path, has_wal: bool, deep: bool, progress: Callable[[str], None]) -> list[Fault]:
    how = "mode=ro" if has_wal else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)) as conn:
            conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            conn.execute("PRAGMA query_only = ON")
            conn.execute("PRAGMA mmap_size = 0")
            conn.execute("BEGIN")
            _is_ours(conn, path)
            return list(_faults(conn, deep, progress))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise StoreError("not_swarmd", f"{path} is not an SQLite database. {_REMEDY}") from None
        raise StoreError(
            "damaged_file", f"{path} cannot be read: {error}. Nothing was touched. Use a backup."
        ) from error


def _is_ours(conn: sqlite3.Connection, path: Path) -> None:
    found = conn.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StoreError(
            "not_swarmd",
            f"{path} is an SQLite database of another program (application id {found:#x}, expected "
            f"{APPLICATION_ID:#x}). {_REMEDY}",
        )
    check_versions(conn, path, MIGRATIONS)
    version = versions(conn).get(CORE, 0)
    if version < len(CORE_MIGRATIONS):
        raise StoreError(
            "older_file",
            f"{path} has version {version} of the schema; this swarmd checks version {len(CORE_MIGRATIONS)}. "
            "Start the daemon on it once, which migrates it, or check it with the swarmd that wrote it.",
        )


def _faults(conn: sqlite3.Connection, deep: bool, progress: Callable[[str], None]) -> Iterator[Fault]:
    finders: list[tuple[str, Finder]] = [("page_damage", _page_damage), *_FINDERS.items()]
    finders += [(name, partial(_output, name=name)) for name in OUTPUT_FAULTS]
    finders.append(("damaged_blob", partial(_damaged_blobs, deep=deep)))
    broken: set[str] = set()
    for name, find in finders:
        progress(name)
        count = 0
        try:
            for sentence in find(conn):
                count += 1
                if count <= MAX_EACH:
                    yield Fault(name, sentence)
        except sqlite3.DatabaseError as error:
            if str(error) not in broken:
                broken.add(str(error))
                yield Fault("page_damage", f"The search for {name} ended early: {error}.")
        if count > MAX_EACH:
            yield Fault(name, f"And {count - MAX_EACH} more of these.")


def _page_damage(conn: sqlite3.Connection) -> Sentences:
    for (message,) in conn.execute(f"PRAGMA integrity_check({MAX_EACH + 1})"):
        if message != "ok":
            yield f"SQLite says: {message}."


# ------------------------------------------------------------- faults that one statement finds


def _told(sql: str, sentence: Callable[..., str]) -> Finder:
    """Finds the rows of `sql` and tells each."""

    def find(conn: sqlite3.Connection) -> Sentences:
        return (sentence(*row) for row in conn.execute(sql))

    return find


def _t(id: object) -> str:
    """An id in its text form; what is not one as it is."""
    return to_text(id) if isinstance(id, int) and 0 <= id < 1 << 63 else repr(id)


def _state(number: int) -> str:
    return TaskState(number).name if number in TaskState.__members__.values() else str(number)


_ENDED_OK = f"""
    state = {AttemptState.ENDED:d} AND stop_reason IS NULL AND json_valid(CAST(outcome AS TEXT))
    AND json_extract(CAST(outcome AS TEXT), '$.ok') = 1
    AND COALESCE(json_extract(CAST(outcome AS TEXT), '$.timed_out'), 0) = 0
    AND COALESCE(json_extract(CAST(outcome AS TEXT), '$.canceled'), 0) = 0
    AND COALESCE(json_extract(CAST(outcome AS TEXT), '$.client_error'), 0) = 0
    AND COALESCE(json_extract(CAST(outcome AS TEXT), '$.died'), 0) = 0
"""  # an outcome that makes a task COMPLETED and ok: core.states.final_state

_FINDERS: dict[str, Finder] = {
    "two_live_attempts": _told(
        "SELECT task, COUNT(*) FROM attempts WHERE state < 10 GROUP BY task HAVING COUNT(*) > 1",
        lambda task, count: f"Task {_t(task)} has {count} live attempts.",
    ),
    "two_final_attempts": _told(
        f"SELECT task, COUNT(*) FROM attempts WHERE {_ENDED_OK} GROUP BY task HAVING COUNT(*) > 1",
        lambda task, count: f"Task {_t(task)} has {count} attempts that ended ok.",
    ),
    "final_task_with_live_attempt": _told(
        "SELECT t.id, t.state, a.id FROM attempts AS a JOIN tasks AS t ON t.id = a.task "
        "WHERE a.state < 10 AND t.state >= 10",
        lambda task, state, attempt: (
            f"Task {_t(task)} is {_state(state)}, but its attempt {_t(attempt)} lives."
        ),
    ),
    "running_without_attempt": _told(
        f"SELECT t.id FROM tasks AS t INDEXED BY tasks_alive WHERE t.state < 10 AND t.state = {TaskState.RUNNING:d} "
        f"AND NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.task = t.id AND a.state = {AttemptState.RUNNING:d})",
        lambda task: f"Task {_t(task)} is RUNNING, but no attempt of it runs.",
    ),
    "running_without_session": _told(
        "SELECT a.id, a.task, a.session FROM attempts AS a "
        "LEFT JOIN sessions AS s ON s.id = a.session AND s.ended_wall IS NULL WHERE a.state < 10 AND s.id IS NULL",
        lambda id, task, session: (
            f"Attempt {_t(id)} of task {_t(task)} lives, but its session {_t(session)} is not open."
        ),
    ),
    "attempt_of_unknown_task": _told(
        # the task of an operation that joined another one is gone; its earlier attempts stay with the operation
        "SELECT a.id, a.task FROM attempts AS a WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = a.task) "
        "AND NOT EXISTS (SELECT 1 FROM ops WHERE id = a.task)",
        lambda id, task: f"Attempt {_t(id)} belongs to task {_t(task)}, which is not there.",
    ),
    "operation_without_task": _told(
        "SELECT o.id, o.task FROM ops AS o LEFT JOIN tasks AS t ON t.id = o.task WHERE t.id IS NULL",
        lambda id, task: f"Operation {_t(id)} is a handle on task {_t(task)}, which is not there.",
    ),
    "task_without_operation": _told(
        "SELECT t.id FROM tasks AS t LEFT JOIN ops AS o ON o.id = t.id WHERE o.id IS NULL",
        lambda id: f"Task {_t(id)} has no operation of its own.",
    ),
    "operation_without_graph": _told(
        "SELECT o.id, o.graph FROM ops AS o INDEXED BY ops_graph LEFT JOIN graphs AS g ON g.id = o.graph "
        "WHERE o.graph IS NOT NULL AND g.id IS NULL",
        lambda id, graph: f"Operation {_t(id)} belongs to graph {_t(graph)}, which is not there.",
    ),
    "final_without_end": _told(
        "SELECT id, state FROM tasks WHERE state >= 10 AND (ok IS NULL OR ended_wall IS NULL)",
        lambda id, state: f"Task {_t(id)} is {_state(state)}, but it is not told how or when it ended.",
    ),
    "output_of_unknown_attempt": _told(
        "SELECT o.attempt, COUNT(*) FROM output AS o INDEXED BY output_merged "
        "WHERE NOT EXISTS (SELECT 1 FROM attempts WHERE id = o.attempt) GROUP BY o.attempt",
        lambda attempt, count: (
            f"{count} pieces of output belong to attempt {_t(attempt)}, which is not there."
        ),
    ),
    "missing_blob": _told(
        "SELECT u.task, u.sha256 FROM tasks AS t INDEXED BY tasks_alive JOIN blob_uses AS u ON u.task = t.id "
        "LEFT JOIN blobs AS b ON b.sha256 = u.sha256 AND b.complete = 1 WHERE t.state < 10 AND b.id IS NULL",
        lambda task, sha256: f"Task {_t(task)} is not final and needs blob {sha256}, which is not there.",
    ),
    "edge_to_nowhere": _told(
        # of a task that no longer waits, what it waited for may have been forgotten
        "SELECT e.task, e.on_op FROM edges AS e LEFT JOIN tasks AS t ON t.id = e.task "
        "WHERE NOT EXISTS (SELECT 1 FROM ops WHERE id = e.task) "
        "OR (e.met = 0 AND t.state < 10 AND NOT EXISTS (SELECT 1 FROM ops WHERE id = e.on_op))",
        lambda task, on: f"There is a dependency of {_t(task)} on {_t(on)}, but one of them is not there.",
    ),
    "graph_count_wrong": _told(
        "SELECT * FROM (SELECT g.id, g.alive, (SELECT COUNT(*) FROM ops AS o INDEXED BY ops_graph "
        "JOIN tasks AS t ON t.id = o.task WHERE o.graph = g.id AND o.ended IS NULL AND t.state < 10) AS found "
        "FROM graphs AS g) WHERE alive <> found",
        lambda id, alive, found: (
            f"Graph {_t(id)} says that {alive} of its operations are not final; there are {found}."
        ),
    ),
    "tag_of_nothing": _told(
        "SELECT g.tag, g.op FROM tags AS g WHERE NOT EXISTS (SELECT 1 FROM ops WHERE id = g.op)",
        lambda tag, op: f"Tag {tag!r} is on operation {_t(op)}, which is not there.",
    ),
    "creation_out_of_place": _told(
        "SELECT o.id FROM ops AS o WHERE COALESCE((SELECT o.created_wall - (o.id >> 20) / 1000.0 BETWEEN low AND high "
        "FROM wall_offsets WHERE first <= o.id ORDER BY first DESC LIMIT 1), 0) = 0",
        lambda id: f"The moment at which operation {_t(id)} was created is not where lists look for it.",
    ),
    "id_from_the_future": _told(
        "WITH last (id) AS (SELECT COALESCE(MAX(last_id), 0) FROM clock) SELECT kind, newest, last.id FROM ("
        + " UNION ALL ".join(
            f"SELECT '{table}' AS kind, MAX(id) AS newest FROM {table}"
            for table in ("tasks", "ops", "attempts", "sessions", "graphs", "events")
        )
        + "), last WHERE newest > last.id",
        lambda table, id, last: (
            f"The newest row of {table} is {_t(id)}; the last id given out is {_t(last)}: ids could come twice."
        ),
    ),
    "two_open_sessions": _told(
        "SELECT bot, COUNT(*) FROM sessions INDEXED BY sessions_alive WHERE ended_wall IS NULL "
        "GROUP BY bot HAVING COUNT(*) > 1",
        lambda bot, count: f"Bot {bot} has {count} open sessions.",
    ),
    "session_without_bot": _told(
        "SELECT s.id, s.bot FROM sessions AS s INDEXED BY sessions_alive LEFT JOIN bots AS b ON b.id = s.bot "
        "WHERE s.ended_wall IS NULL AND b.id IS NULL",
        lambda id, bot: f"Session {_t(id)} is open, but its bot {bot} is not there.",
    ),
}


# ------------------------------------------------------------- output

OUTPUT_FAULTS = ("gap_in_output", "overlapping_output", "damaged_output")


def _output(conn: sqlite3.Connection, *, name: str) -> Sentences:
    """The faults `name` of all output. An attempt without streams says nothing of its output: that of an old one
    is being removed in steps."""
    for attempt, streams, merged_end in conn.execute(
        "SELECT id, streams, merged_end FROM attempts WHERE streams <> '{}' ORDER BY id"
    ):
        if name == "damaged_output":
            chunks = conn.execute(
                "SELECT stream, offset, size, data FROM output INDEXED BY output_merged WHERE attempt = ?",
                (attempt,),
            )
            yield from _damaged_chunks(attempt, chunks)
            continue
        places = conn.execute(
            "SELECT stream, offset, merged, size FROM output INDEXED BY output_merged WHERE attempt = ? "
            "ORDER BY merged, id",
            (attempt,),
        )
        ends = conn.execute(
            "SELECT stream, MAX(offset + size) FROM output INDEXED BY output_stream WHERE attempt = ? GROUP BY stream",
            (attempt,),
        )
        for found, sentence in misplaced(attempt, places, dict(ends), _streams.decode(streams), merged_end):
            if found == name:
                yield sentence


def _damaged_chunks(attempt: int, chunks: Iterable[tuple[str, int, int, bytes]]) -> Sentences:
    for stream, offset, size, data in chunks:
        try:
            unpack(data, size)
        except ValueError as error:
            yield f"Attempt {_t(attempt)}, {stream}, at byte {offset}: {error}."


def misplaced(
    attempt: int,
    chunks: Iterable[tuple[str, int, int, int]],
    last: dict[str, int],
    streams: dict[str, tuple[int, int]],
    merged_end: int,
) -> Iterator[tuple[str, str]]:
    """(name, sentence) of what is wrong with the places of an attempt's chunks, given in order of arrival as
    (stream, offset, merged, size); `last` is where the last chunk of each stream ends.

    A bot may skip bytes of a stream; the gap then counts in the merged stream too. So bytes are missing where the
    merged position moved on by more than the stream's gap, and where the stream's recorded end was never reached.
    A stream that was cut at its limit may have such a gap at its end, which came at any moment.
    Source: core/reporting.py, `report_output`.
    """
    who = f"Attempt {_t(attempt)}"
    tails = [
        end - last.get(name, 0)
        for name, (end, dropped) in streams.items()
        if dropped and end > last.get(name, 0)
    ]
    allowed = {0}
    for tail in tails[:MAX_TAILS]:
        allowed |= {tail + other for other in allowed}
    ends: dict[str, int] = {}
    at, skipped = 0, 0  # in the merged stream; of it, gaps at the ends of streams
    for stream, offset, merged, size in chunks:
        end = ends.get(stream, 0)
        jump = merged - (at + offset - end)
        if offset < end or jump < 0:
            yield "overlapping_output", f"{who}, {stream}: bytes at {offset} are there twice."
        elif skipped + jump in allowed:
            skipped += jump
        else:
            yield "gap_in_output", f"{who}: {jump} bytes are missing before {stream} at {offset}."
        ends[stream], at = max(end, offset + size), max(at, merged + size)
    for stream, (recorded, dropped) in streams.items():
        missing = recorded - ends.pop(stream, 0)
        if missing > 0 and not dropped:
            yield "gap_in_output", f"{who}, {stream}: its last {missing} of {recorded} bytes are missing."
        elif missing < 0:
            yield (
                "overlapping_output",
                f"{who}, {stream}: there are {-missing} bytes behind its end at {recorded}.",
            )
    for stream in ends:
        yield "overlapping_output", f"{who} has output of a stream {stream!r} that it does not know."


# ------------------------------------------------------------- blobs


def _damaged_blobs(conn: sqlite3.Connection, *, deep: bool) -> Sentences:
    rows = conn.execute("""
        SELECT b.id, b.sha256, b.size, COUNT(p.part), COALESCE(MAX(p.part), -1) + 1,
            COALESCE(SUM(LENGTH(p.data)), 0), COALESCE(MAX(LENGTH(p.data)), 0)
        FROM blobs AS b LEFT JOIN blob_parts AS p ON p.blob_id = b.id WHERE b.complete = 1 GROUP BY b.id
    """)
    for id, sha256, size, count, last, found, largest in rows:
        expected = max(1, -(-size // PART_BYTES))
        if sha256 is None:
            yield f"Blob {id} is complete but has no name."
        elif found != size or count != expected or last != expected or largest > PART_BYTES:
            yield f"Blob {sha256} has {found} bytes in {count} parts, expected {size} in {expected}."
        elif deep and (digest := _digest(conn, id)) != sha256:
            yield f"Blob {sha256} has content with SHA-256 {digest}."


def _digest(conn: sqlite3.Connection, blob: int) -> str:
    digest = hashlib.sha256()
    for (data,) in conn.execute("SELECT data FROM blob_parts WHERE blob_id = ? ORDER BY part", (blob,)):
        digest.update(data)
    return digest.hexdigest()
