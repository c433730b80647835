"""What must be true of a file and of the log of those who used it, when all is over."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from swarmd.core.ids import from_text, made_at, to_text
from swarmd.core.model import AttemptState, Outcome, TaskState
from swarmd.core.states import TASK_STEPS
from swarmd.store import queries, selecting

from .history import History
from .robots import DOUBLE, LIE

WITHDRAWN = (TaskState.CANCELED, TaskState.KILLED)


def verify(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    """The broken promises, as sentences."""
    yield from _submissions(conn, history)
    yield from _retries(conn, history)
    yield from _cancels(conn, history)
    yield from _attempts(conn, history)
    yield from _ends(conn, history)
    yield from _events(conn, history)


def _submissions(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for id, name in conn.execute("SELECT id, name FROM ops WHERE retry_of IS NULL ORDER BY id"):
        names[name].append(to_text(id))
    sent = {name for s in history.submits for name in s.names} | {e.name for e in history.ends}
    yield from (f"nobody submitted {name!r}" for name in sorted(set(names) - sent))
    for submitted in history.submits:
        found = [names.get(name, []) for name in submitted.names]
        if submitted.ids is not None and found != [[id] for id in submitted.ids]:
            yield f"{submitted.names} was acknowledged as {submitted.ids}, and is there as {found}"
        if submitted.ids is None and {len(ids) for ids in found} not in ({0}, {1}):
            yield f"{submitted.names} was not acknowledged, and is there in part or twice: {found}"


def _retries(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    there: dict[str, list[str]] = defaultdict(list)
    for id, of in conn.execute("SELECT id, retry_of FROM ops WHERE retry_of IS NOT NULL ORDER BY id"):
        there[to_text(of)].append(to_text(id))
    sent: dict[str, int] = defaultdict(int)
    acknowledged: set[str] = set()
    for retried in history.retries:
        for id in retried.ids:
            sent[id] += 1
        acknowledged.update(retried.new_ids or ())
    for of, ids in there.items():
        if len(ids) > sent[of]:
            yield f"{of} was retried {len(ids)} times, asked for {sent[of]} times"
    lost = acknowledged - {id for ids in there.values() for id in ids}
    if lost:
        yield f"acknowledged retries are not there: {sorted(lost)}"


def _cancels(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    wanted = {from_text(id) for c in history.cancels for id in (*c.ids, *c.finals)}
    rows = selecting.ops_by_id(conn, sorted(id for id in wanted if id is not None))  # type: ignore[misc]
    ended = {
        op: made_at(id)
        for id, op in conn.execute(
            "SELECT id, op FROM events WHERE kind = 'task' AND state >= 10 ORDER BY id"
        )
    }
    for canceled in history.cancels:
        for text, state in canceled.finals.items():
            row = rows.get(from_text(text))  # type: ignore[call-overload]
            if row is None or row.state.name != state:
                yield f"{text} was shown as {state}, and is {row and row.state.name}"
        if canceled.acknowledged_at is None or not canceled.kill:
            continue
        for text in canceled.ids:
            row = rows[from_text(text)]  # type: ignore[index]
            if row.state not in WITHDRAWN and ended.get(row.id, 1e18) > canceled.acknowledged_at:
                yield f"the cancel of {text} was acknowledged before it ended as {row.state.name}"
    asked = {id for c in history.cancels for id in c.ids}
    for id, state in conn.execute(
        "SELECT o.id, COALESCE(o.ended, t.state) FROM ops AS o JOIN tasks AS t ON t.id = o.task "
        "WHERE COALESCE(o.ended, t.state) IN (12, 13) AND o.parent IS NULL AND o.task = o.id"
    ):
        shares = conn.execute("SELECT 1 FROM ops WHERE task = ? AND id <> task", (id,)).fetchone()
        if to_text(id) not in asked and not shares:
            yield f"nobody canceled {to_text(id)}, which is {TaskState(state).name}"


def _attempts(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    ends = _termination_tasks(conn)
    for id, task, state, raw, streams in conn.execute(
        "SELECT id, task, state, outcome, streams FROM attempts ORDER BY id"
    ):
        text = to_text(id)
        told = history.told.get(text)
        outcome = msgspec.json.decode(raw, type=Outcome) if raw is not None else None
        if outcome is None:
            yield f"attempt {text} is {AttemptState(state).name} and has no outcome"
            continue
        if outcome.exit_code == LIE:
            yield f"a stranger's report on attempt {text} was taken"
        if outcome.exit_code == DOUBLE:
            yield f"a second report on attempt {text} replaced the first"
        if state != AttemptState.ENDED or task in ends:
            continue
        said = [] if told is None else told.outcomes
        if outcome.exit_code is not None and (outcome.ok, outcome.exit_code, outcome.canceled) not in said:
            yield f"attempt {text} has the outcome {outcome}, its bot said {said}"
        if told is not None:
            whole = (
                told.whole and outcome.exit_code is not None
            )  # else a stop ran out before its bot reported
            yield from _output(conn, id, dict(msgspec.json.decode(streams)), told.output, whole)


def _termination_tasks(conn: sqlite3.Connection) -> dict[int, str]:
    """Tasks that end a bot, and the bot."""
    query = "SELECT id, slices FROM tasks WHERE instr(CAST(work AS TEXT), '\"terminate\":true')"
    return {id: msgspec.json.decode(slices)[0]["dimensions"]["id"][0] for id, slices in conn.execute(query)}


def _ends(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    tasks = _termination_tasks(conn)
    names = Counter(name for (name,) in conn.execute("SELECT name FROM ops WHERE retry_of IS NULL"))
    for ended in history.ends:
        if ended.id is not None and tasks.get(from_text(ended.id) or 0) != ended.bot:
            yield f"{ended.id} was said to end {ended.bot}, and does not"
        if names[ended.name] > 1:
            yield f"{ended.name} is there {names[ended.name]} times"
    obeyed: Counter[str] = Counter()
    for (task,) in conn.execute("SELECT id FROM tasks WHERE ok"):
        if task in tasks:
            obeyed[tasks[task]] += 1
    for bot, count in obeyed.items():
        if count > history.goodbyes[bot]:
            yield f"{bot} was ended {count} times, and said goodbye {history.goodbyes[bot]} times"
    for task in tasks:
        others = conn.execute(
            "SELECT COUNT(*) FROM attempts AS e JOIN attempts AS o ON o.session = e.session AND o.id > e.id"
            " WHERE e.task = ? AND o.id < (SELECT MIN(id) FROM events WHERE op = e.task AND state >= 10)",
            (task,),
        ).fetchone()[0]
        if others:
            yield f"{others} tasks were given to {tasks[task]} after it was told to end by {to_text(task)}"


def _output(
    conn: sqlite3.Connection, attempt: int, streams: dict[str, list[int]], written: bytes, whole: bool
) -> Iterator[str]:
    end = streams.get("stdout", [0, 0])[0]
    stored = queries.read_output(conn, attempt, "stdout", 0, end)  # type: ignore[arg-type]
    if not written.startswith(stored):
        yield f"the output of attempt {to_text(attempt)} is not what its bot wrote"
    elif whole and stored != written:
        yield f"of the output of attempt {to_text(attempt)}, {len(stored)} of {len(written)} bytes are there"


def _events(conn: sqlite3.Connection, history: History) -> Iterator[str]:
    stored = [to_text(id) for (id,) in conn.execute("SELECT id FROM events ORDER BY id")]
    followed = [event.id for event in history.events]
    if len(set(followed)) != len(followed):
        yield "the event stream repeated an event"
    if followed != stored:
        yield f"the event stream had {len(followed)} events, the file has {len(stored)}"
    states: dict[int, list[int]] = defaultdict(list)
    for op, state in conn.execute("SELECT op, state FROM events WHERE kind = 'task' ORDER BY id"):
        states[op].append(state)
    shared = {id for (id,) in conn.execute("SELECT id FROM ops WHERE task <> id")}
    shared |= {id for (id,) in conn.execute("SELECT DISTINCT task FROM ops WHERE task <> id")}
    rows = conn.execute(
        "SELECT o.id, COALESCE(o.ended, t.state) FROM ops AS o JOIN tasks AS t ON t.id = o.task ORDER BY o.id"
    )
    for op, state in rows:
        told = [TaskState(s) for s in states[op]]
        finals = [s for s in told if s.is_final]
        if not TaskState(state).is_final:
            yield f"{to_text(op)} is still {TaskState(state).name}"
        elif finals != [TaskState(state)] or told[-1:] != finals:
            yield f"{to_text(op)} is {TaskState(state).name}, its history tells {[s.name for s in told]}"
        elif op not in shared:
            for before, after in pairwise(told):
                # An attempt whose end is reported before its start is told by its end alone.
                if (before, after) not in TASK_STEPS and (before, after) != (
                    TaskState.PENDING,
                    TaskState.PENDING,
                ):
                    yield f"{to_text(op)} stepped from {before.name} to {after.name} in {[s.name for s in told]}"
