"""How long a page of tasks takes, and a count of them, out of a million in the file."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio
import trio_asyncio

from bench.processes import folder
from swarmd.api.migrations import MIGRATIONS
from swarmd.core.model import TaskState as T
from swarmd.store.backend import open_backend
from swarmd.store.runs import BotFilter, list_runs, runs_by_id, runs_of_bot
from swarmd.store.selecting import OpFilter, count_ops

COUNT = 1_000_000
PAGE = 100
LIMIT_MS = 50.0
BATCH = 1_000
BATCH_LIMIT_MS = 15.0
BOTS = 50
DAYS = 365
BEGAN = 1_700_000_000.0  # wall time
NIGHT_S = 6 * 3600.0  # each night the daemon is down; engine time goes on by an hour
WORK = b'[{"payload":{"type":"bench","data":"%s"}}]' % (b"x" * 400)
OUTCOME = '{"ok":%s,"exit_code":0,"duration_s":1.5%s,"payload":{"type":"bench","data":"' + "x" * 100 + '"}}'
ENDS = {T.TIMED_OUT: ',"timed_out":true', T.BOT_DIED: ',"died":true', T.CLIENT_ERROR: ',"client_error":true'}
FINALS = (
    [(T.COMPLETED, 1)] * 900 + [(T.COMPLETED, 0)] * 60 + [(T.TIMED_OUT, 0)] * 10 + [(T.KILLED, 0)] * 5
    + [(T.CANCELED, 0)] * 10 + [(T.EXPIRED, 0)] * 8 + [(T.BOT_DIED, 0)] * 7
)  # fmt: skip
NEVER_RAN = (T.CANCELED, T.EXPIRED, T.NO_RESOURCE, T.PENDING, T.BLOCKED)


def main() -> None:
    kept = os.environ.get("BENCH_LISTS_DB")  # made if it is not there, and left there
    if kept:
        _measure_file(Path(kept))
    else:
        with folder() as place:
            _measure_file(place / "swarmd.db")


def _measure_file(path: Path) -> None:
    if not path.exists():
        started = time.perf_counter()
        trio.run(fill, path, COUNT)
        print(f"lists: a file of {COUNT:,} tasks made in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"  {path.stat().st_size >> 20:,} MiB")
    trio.run(_measure, path)


# ------------------------------------------------------------- the file


def day_of(number: int, count: int) -> int:
    return number * DAYS // count


def created(number: int, count: int) -> tuple[float, float]:
    """Engine time and wall time: two thirds of each day the daemon runs, then it sleeps."""
    day = day_of(number, count)
    first, after = -(-day * count // DAYS), -(-(day + 1) * count // DAYS)
    spent = (number - first) / (after - first) * (86_400 - NIGHT_S)
    return BEGAN + day * (86_400 - NIGHT_S + 3_600) + spent, BEGAN + day * 86_400 + spent


def tags_of(number: int, count: int) -> list[str]:
    """`pool` and `priority` are on all, `os` on up to a half, `user` on 5 %, `build` on 20, `rare` on few old ones."""
    tags = [
        "pool:lab",
        "priority:100",
        ("os:Linux", "os:Linux", "os:Mac", "os:Windows")[number % 4],
        f"user:u{number * 7919 % 20}",
        f"build:{number // 20}",
    ]
    if number < count // 10 and number % 1_000 == 0:
        tags.append("rare:1")
    if number % 100_000 == 5:
        tags.append(f"odd:{number // 100_000 % 3}")
    return tags


def _state(number: int, count: int, rng: random.Random) -> tuple[T, int | None]:
    if number >= count - 300:
        return (T.RUNNING if number < count - 250 else T.PENDING), None
    if number % 5_000 == 7:
        return T.PENDING, None  # for a bot that never comes
    if number < count // 100 and number % 100 == 3:
        return T.CLIENT_ERROR, 0
    if number % 5_000 == 11:
        return T.NO_RESOURCE, 0
    return rng.choice(FINALS)


def _rows(count: int) -> Iterator[tuple[list[Any], list[Any], list[Any], list[Any]]]:
    """Rows of tasks, ops, tags and attempts, 10,000 operations at a time."""
    rng = random.Random(0)
    newest_ok = 0
    for first in range(0, count, 10_000):
        tasks, ops, tags, attempts = [], [], [], []
        for number in range(first, min(count, first + 10_000)):
            at, wall = created(number, count)
            id = (int(at * 1000) << 20) + number % 1_000
            mine = tags_of(number, count)
            tags += [(tag, id) for tag in mine]
            shares = number % 20 == 19 and newest_ok
            text = "[" + ",".join(f'"{tag}"' for tag in mine) + "]"
            ops.append(
                (
                    id,
                    newest_ok if shares else id,
                    None,
                    f"job {number % 977}",
                    "",
                    "lab",
                    "me",
                    100,
                    text,
                    wall,
                )
            )
            if shares:
                continue
            state, ok = _state(number, count, rng)
            ran = state not in NEVER_RAN
            attempt = id + 500_000 if ran else None
            ended = wall + rng.uniform(5, 7_200) if state.is_final else None
            tasks.append((id, int(state), attempt, ok, None if ok is None else 1 - ok, ended, WORK))
            if ran:
                over = state.is_final
                outcome = OUTCOME % ("true" if ok else "false", ENDS.get(state, ""))
                attempts.append((
                    attempt, id, f"bot{rng.randrange(BOTS)}", 10 if over else 2, at + 1, wall + 1, at + 2, wall + 2,
                    "canceled" if state is T.KILLED else None, outcome.encode() if over else None, ended,
                ))  # fmt: skip
            if ok:
                newest_ok = id
        yield tasks, ops, tags, attempts


async def fill(path: Path, count: int) -> None:
    """Writes a file with a year of tasks of a lab whose daemon sleeps each night."""
    async with trio_asyncio.open_loop():
        backend = await open_backend(path, durability="process", migrations=MIGRATIONS)
        for rows in _rows(count):
            await backend.transact(lambda conn, rows=rows: _insert(conn, *rows))
        offsets = []
        for day in range(DAYS):
            at, wall = created(-(-day * count // DAYS), count)
            offsets.append((int(at * 1000) << 20, wall - at - 1, wall - at + 1))
        await backend.transact(
            lambda conn: conn.executemany(
                "INSERT INTO wall_offsets (first, low, high) VALUES (?, ?, ?)", offsets
            )
        )
        await backend.close()


def _insert(
    conn: sqlite3.Connection, tasks: list[Any], ops: list[Any], tags: list[Any], attempts: list[Any]
) -> None:
    conn.executemany(
        "INSERT INTO tasks (id, state, slice, priority, tries, task_faults, bot_faults, drops, attempt, retries, "
        "bot_retries, retry_wait_s, carry_time, share, ok, exit_code, ended_wall, work, slices) "
        "VALUES (?1, ?2, 0, 100, 0, 0, 0, 0, ?3, 0, 1, 0, 0, 'none', ?4, ?5, ?6, ?7, '[{}]')",
        tasks,
    )
    conn.executemany(
        "INSERT INTO ops (id, task, graph, name, key, pool, owner, priority, tags, created_wall) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ops,
    )
    conn.executemany("INSERT INTO tags (tag, op) VALUES (?, ?)", tags)
    conn.executemany(
        "INSERT INTO attempts (id, task, number, bot, session, offer_key, state, offered_at, offered_wall, started_at, "
        "started_wall, queued, remaining_s, stop_reason, streams, merged_end, outcome, ended_wall) "
        "VALUES (?1, ?2, 1, ?3, 7, '', ?4, ?5, ?6, ?7, ?8, 0, 60, ?9, '{}', 0, ?10, ?11)",
        attempts,
    )


# ------------------------------------------------------------- figures


def questions() -> dict[str, OpFilter]:
    day = 86_400.0
    now = BEGAN + DAYS * day
    by_state = {
        state.name: OpFilter(states=(state,))
        for state in (T.PENDING, T.RUNNING, T.TIMED_OUT, T.KILLED, T.CANCELED, T.EXPIRED, T.NO_RESOURCE, T.BOT_DIED,
                      T.CLIENT_ERROR, T.SKIPPED)
    }  # fmt: skip
    lab = (("pool:lab",),)
    return {
        "all": OpFilter(),
        "a tag on all": OpFilter(tags=lab),
        "a tag on few, old": OpFilter(tags=(("rare:1",),)),
        "a tag on none": OpFilter(tags=(("none:1",),)),
        "two tags, one on all, one on few": OpFilter(tags=(*lab, ("rare:1",))),
        "two tags, on all and on 5 %": OpFilter(tags=(*lab, ("user:u3",))),
        "two tags, on all and on a half": OpFilter(tags=(*lab, ("os:Linux",))),
        "two tags that exclude each other": OpFilter(tags=(("os:Mac",), ("os:Windows",))),
        "alternatives, common": OpFilter(tags=(("os:Mac", "os:Windows"),)),
        "alternatives, rare, with a tag on all": OpFilter(tags=(*lab, ("odd:0", "odd:1", "odd:2"))),
        "PENDING or RUNNING": OpFilter(states=(T.BLOCKED, T.PENDING, T.RUNNING)),
        "COMPLETED": OpFilter(states=(T.COMPLETED,)),
        "COMPLETED, ok": OpFilter(states=(T.COMPLETED,), failed=False),
        "COMPLETED, not ok": OpFilter(states=(T.COMPLETED,), failed=True),
        "shared": OpFilter(states=(T.COMPLETED,), shared=True),
        **by_state,
        **{
            f"{name}, with a tag on all": OpFilter(tags=lab, states=wanted.states)
            for name, wanted in by_state.items()
        },
        "CLIENT_ERROR, with a tag on 5 %": OpFilter(tags=(("user:u3",),), states=(T.CLIENT_ERROR,)),
        "TIMED_OUT, with a tag on 5 %": OpFilter(tags=(("user:u3",),), states=(T.TIMED_OUT,)),
        "created in the last day": OpFilter(created_from=now - day),
        "created in the last day, EXPIRED, with a tag on all": OpFilter(
            created_from=now - day, states=(T.EXPIRED,), tags=lab
        ),
        "created on one day, ten months ago": OpFilter(
            created_from=now - 300 * day, created_before=now - 299 * day
        ),
        "the same with a tag on all": OpFilter(
            created_from=now - 300 * day, created_before=now - 299 * day, tags=lab
        ),
        "the same, and KILLED": OpFilter(
            created_from=now - 300 * day, created_before=now - 299 * day, tags=lab, states=(T.KILLED,)
        ),
        "created before the first": OpFilter(created_before=BEGAN),
        "created from then till a month ago": OpFilter(created_from=BEGAN, created_before=now - 30 * day),
        "the same, CLIENT_ERROR, with a tag on all": OpFilter(
            created_from=BEGAN, created_before=now - 30 * day, states=(T.CLIENT_ERROR,), tags=lab
        ),
    }


def questions_of_a_bot() -> dict[str, BotFilter]:
    return {
        "by creation": BotFilter("bot7"),
        "by creation, KILLED": BotFilter("bot7", states=(T.KILLED,)),
        "by creation, of one day, ten months ago": BotFilter(
            "bot7", begin=BEGAN + (DAYS - 300) * 86_400.0, end=BEGAN + (DAYS - 299) * 86_400.0
        ),
        "by start": BotFilter("bot7", "started"),
        "by end": BotFilter("bot7", "ended"),
    }


async def _measure(path: Path) -> None:
    async with trio_asyncio.open_loop():
        backend = await open_backend(path, durability="process", migrations=MIGRATIONS)

        async def cost(fn: Callable[[sqlite3.Connection], Any], times: int) -> tuple[float, float, Any]:
            """The medians of wall time and of the reader's CPU time, in ms, and what was read."""
            walls, cpus = [], []

            def timed(conn: sqlite3.Connection) -> Any:
                before = time.thread_time()
                found = fn(conn)
                cpus.append((time.thread_time() - before) * 1e3)
                return found

            for _ in range(times):
                started = time.perf_counter()
                found = await backend.read(timed)
                walls.append((time.perf_counter() - started) * 1e3)
            return statistics.median(walls), statistics.median(cpus), found

        over = 0
        for name, wanted in questions().items():
            wall, cpu, rows = await cost(lambda conn, wanted=wanted: list_runs(conn, wanted, None, PAGE), 7)
            count_wall, count_cpu, count = await cost(lambda conn, wanted=wanted: count_ops(conn, wanted), 3)
            over += wall > LIMIT_MS
            print(
                f"  {name:52} page of {len(rows):3}: {wall:6.1f} ms, {cpu:6.1f} CPU; "
                f"count: {count_wall:6.1f} ms, {count_cpu:6.1f} CPU ({count:,})",
                flush=True,
            )
        print(f"lists: {over} of {len(questions())} pages took more than {LIMIT_MS:g} ms")
        for name, asked in questions_of_a_bot().items():
            wall, cpu, runs = await cost(lambda conn, asked=asked: runs_of_bot(conn, asked, None, PAGE), 7)
            name = f"what ran on a bot, {name}"
            print(f"  {name:52} page of {len(runs):3}: {wall:6.1f} ms, {cpu:6.1f} CPU")
        every = await backend.read(lambda conn: [row[0] for row in conn.execute("SELECT id FROM ops")])
        for name, ids in (
            ("newest", every[-BATCH:]),
            ("of all times", random.Random(1).sample(every, BATCH)),
        ):
            wall, cpu, found = await cost(lambda conn, ids=ids: runs_by_id(conn, ids), 7)
            print(
                f"{len(found):,} tasks by their ids, {name}: {wall:.1f} ms, {cpu:.1f} CPU (limit {BATCH_LIMIT_MS:g})"
            )
        await backend.close()
