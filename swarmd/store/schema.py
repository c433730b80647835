"""The tables of the core, as numbered migrations. Forward only; a released one never changes.

Indexes end with the row's id, as all of SQLite's do.

Moments ending in `_at` are engine time and decide; those ending in `_wall` are seconds since 1970 UTC, for people.
Enumerations are stored by the numbers in `core.model`.
"""

from __future__ import annotations

from .blobs import BLOB_TABLES
from .migrate import CORE, Migration

_CLOCK = """
CREATE TABLE clock (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    now REAL NOT NULL,                  -- engine time of the last commit
    wall REAL NOT NULL,                 -- wall time of the last commit
    last_id INTEGER NOT NULL
)
"""
_TASKS = """
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    due_at REAL,                        -- end of the expiration; negative: end of a retry wait; NULL: never
    tries INTEGER NOT NULL,
    task_faults INTEGER NOT NULL,
    bot_faults INTEGER NOT NULL,
    drops INTEGER NOT NULL,
    attempt INTEGER,                    -- the newest
    retries INTEGER NOT NULL,
    bot_retries INTEGER NOT NULL,
    retry_wait_s REAL NOT NULL,
    carry_time INTEGER NOT NULL,
    sameness TEXT,
    share TEXT NOT NULL,
    idx INTEGER,
    line TEXT,
    work BLOB NOT NULL,                 -- JSON array of core.model.Work: one, or one for each slice
    slices BLOB NOT NULL,               -- JSON array of core.submitting.SliceSpec
    ok INTEGER,
    exit_code INTEGER,
    reason TEXT,
    ended_wall REAL
)
"""
_OPS = """
CREATE TABLE ops (
    id INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,              -- equal to id unless it shares another's
    graph INTEGER,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    pool TEXT NOT NULL,
    owner TEXT NOT NULL,
    priority INTEGER NOT NULL,
    parent INTEGER,
    retry_of INTEGER,
    tags TEXT NOT NULL,                 -- JSON array
    created_wall REAL NOT NULL,
    ended INTEGER                       -- a final state of its own, apart from its task's
)
"""
_ATTEMPTS = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,
    number INTEGER NOT NULL,
    bot TEXT NOT NULL,
    session INTEGER NOT NULL,
    offer_key TEXT NOT NULL,
    state INTEGER NOT NULL,
    offered_at REAL NOT NULL,
    offered_wall REAL NOT NULL,
    started_at REAL,
    started_wall REAL,
    accept_due_at REAL,
    limit_due_at REAL,
    queued INTEGER NOT NULL,
    remaining_s REAL NOT NULL,          -- of the task's expiration, when it was offered
    stop_reason TEXT,
    stop_since_at REAL,
    stop_due_at REAL,
    stop_grace_s REAL,
    streams TEXT NOT NULL,              -- JSON: {name: [end, dropped]}
    merged_end INTEGER NOT NULL,
    outcome BLOB,                       -- JSON of core.model.Outcome
    ended_wall REAL
)
"""
_SESSIONS = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    bot TEXT NOT NULL,
    protocol TEXT NOT NULL,
    key TEXT NOT NULL,
    slots INTEGER NOT NULL,
    deadline_s REAL NOT NULL,
    enforces_limits INTEGER NOT NULL,
    opened_at REAL NOT NULL,
    opened_wall REAL NOT NULL,
    ended_wall REAL,
    end_reason TEXT
)
"""
_BOTS = """
CREATE TABLE bots (
    id TEXT PRIMARY KEY,
    protocol TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    dimensions TEXT NOT NULL,           -- JSON
    assigned TEXT NOT NULL,             -- JSON
    version TEXT NOT NULL,
    state BLOB NOT NULL,                -- JSON
    first_seen_wall REAL NOT NULL,
    last_seen_wall REAL NOT NULL,
    quarantined TEXT,
    by_person INTEGER NOT NULL,
    maintenance TEXT,
    draining INTEGER NOT NULL,
    ordered TEXT
) WITHOUT ROWID
"""
_GRAPHS = """
CREATE TABLE graphs (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    created_wall REAL NOT NULL,
    touched_at REAL NOT NULL,
    alive INTEGER NOT NULL,             -- operations that are not final
    failed INTEGER NOT NULL
)
"""
_EDGES = """
CREATE TABLE edges (
    task INTEGER NOT NULL,
    on_op INTEGER NOT NULL,
    condition TEXT NOT NULL,
    met INTEGER NOT NULL,
    PRIMARY KEY (task, on_op)
) WITHOUT ROWID
"""
_EVENTS = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    wall REAL NOT NULL,
    kind TEXT NOT NULL,
    op INTEGER,
    attempt INTEGER,
    bot TEXT,
    graph INTEGER,
    state INTEGER,
    detail TEXT                         -- JSON
)
"""
_OUTPUT = """
CREATE TABLE output (
    id INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    stream TEXT NOT NULL,
    offset INTEGER NOT NULL,
    merged INTEGER NOT NULL,            -- where it stands in the order of arrival
    size INTEGER NOT NULL,              -- of the bytes before packing
    data BLOB NOT NULL                  -- packed (store.packing)
)
"""
_REQUESTS = """
CREATE TABLE requests (
    owner TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    answer BLOB NOT NULL,               -- JSON of what was answered
    wall REAL NOT NULL,
    PRIMARY KEY (owner, request_id)
) WITHOUT ROWID
"""

_WALL_OFFSETS = """
CREATE TABLE wall_offsets (
    first INTEGER PRIMARY KEY,          -- from this operation on
    low REAL NOT NULL,                  -- created_wall less the time in the id, in seconds
    high REAL NOT NULL
)
"""
# Of the operations that are there: parted where the offset jumps by more than a second.
_OFFSETS_SO_FAR = """
INSERT INTO wall_offsets (first, low, high)
SELECT MIN(id), MIN(ahead) - 1, MAX(ahead) + 1 FROM (
    SELECT id, ahead, SUM(jumps) OVER (ORDER BY id) AS part FROM (
        SELECT id, ahead, ABS(ahead - LAG(ahead, 1, ahead) OVER (ORDER BY id)) > 1 AS jumps FROM (
            SELECT id, created_wall - (id >> 20) / 1000.0 AS ahead FROM ops
        )
    )
) GROUP BY part
"""

CORE_MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "first",
        (
            _CLOCK,
            _TASKS,
            "CREATE INDEX tasks_alive ON tasks (state) WHERE state < 10",
            "CREATE INDEX tasks_same ON tasks (sameness) WHERE sameness IS NOT NULL AND ok = 1",
            "CREATE INDEX tasks_final ON tasks (state, ok) WHERE state >= 10",
            "CREATE INDEX tasks_ended ON tasks (ended_wall) WHERE ended_wall IS NOT NULL",
            _OPS,
            "CREATE INDEX ops_shared ON ops (task, ended) WHERE task <> id",
            "CREATE INDEX ops_graph ON ops (graph) WHERE graph IS NOT NULL",
            # partial: an operation of the default pool writes nothing into it
            "CREATE INDEX ops_pool ON ops (pool) WHERE pool <> 'default'",
            "CREATE INDEX ops_name ON ops (name) WHERE name <> ''",
            "CREATE TABLE tags (tag TEXT NOT NULL, op INTEGER NOT NULL, PRIMARY KEY (tag, op)) WITHOUT ROWID",
            _ATTEMPTS,
            "CREATE INDEX attempts_task ON attempts (task, number)",
            "CREATE INDEX attempts_bot ON attempts (bot)",
            _SESSIONS,
            "CREATE INDEX sessions_alive ON sessions (id) WHERE ended_wall IS NULL",
            "CREATE INDEX sessions_ended ON sessions (ended_wall) WHERE ended_wall IS NOT NULL",
            _BOTS,
            _GRAPHS,
            "CREATE INDEX graphs_alive ON graphs (id) WHERE is_open = 1 OR alive > 0",
            _EDGES,
            _EVENTS,
            "CREATE INDEX events_op ON events (op) WHERE op IS NOT NULL",
            "CREATE INDEX events_bot ON events (bot) WHERE bot IS NOT NULL AND op IS NULL",
            "CREATE INDEX events_graph ON events (graph) WHERE graph IS NOT NULL AND op IS NULL",
            _OUTPUT,
            "CREATE INDEX output_stream ON output (attempt, stream, offset)",
            "CREATE INDEX output_merged ON output (attempt, merged)",
            _REQUESTS,
            "CREATE INDEX requests_wall ON requests (wall)",
            *BLOB_TABLES,
            # which blobs a task needs or made: pinned while it lives, kept as long as it is
            """
            CREATE TABLE blob_uses (
                task INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (task, sha256)
            ) WITHOUT ROWID
            """,
            "CREATE INDEX blob_uses_sha256 ON blob_uses (sha256)",
        ),
    ),
    Migration(
        2,
        "lists",
        (
            _WALL_OFFSETS,
            _OFFSETS_SO_FAR,
            "CREATE INDEX ops_sharing ON ops (id, task, ended) WHERE task <> id",
            "CREATE INDEX ops_ended ON ops (ended) WHERE ended IS NOT NULL",
        ),
    ),
)

MIGRATIONS = {CORE: CORE_MIGRATIONS}
