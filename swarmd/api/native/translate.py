"""The native API's forms ↔ the core's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from swarmd.api.calls import id_of
from swarmd.api.native import messages as m
from swarmd.core.errors import Refused
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Bot, Command, Input, OpId, TaskState, Work
from swarmd.core.submitting import MAX_EDGES, After, SliceSpec, TaskSpec
from swarmd.store.queries import AttemptRow, EventRow, TaskText
from swarmd.store.selecting import OpRow

MIN_PING_TOLERANCE_S = 10.0

Keys = Mapping[str, Sequence[OpId]]  # operations of a graph by their key, submitted earlier


def moment(wall: float | None) -> str | None:
    """RFC 3339 UTC with milliseconds."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# --------------------------------------------------------------------- submitting


def specs_of(tasks: Sequence[m.TaskRequest], owner: str, keys: Keys | None = None) -> list[TaskSpec]:
    """The tasks of a request, arrays and lines expanded in place. Raises `Refused`."""
    spans: list[tuple[int, int]] = []  # where each request's tasks stand
    by_key: dict[str, int] = {}
    total = 0
    for number, task in enumerate(tasks):
        count = _count(task, number)
        spans.append((total, count))
        total += count
        if total > m.MAX_EXPANDED_TASKS:
            raise Refused(
                "too_many_tasks",
                f"the request expands to more than {m.MAX_EXPANDED_TASKS} tasks",
                "send several",
            )
        if task.key:
            if task.key in by_key or (keys and task.key in keys):
                raise Refused("doubled_key", f"two tasks have the key {task.key!r}", "give each its own")
            by_key[task.key] = number
    _check_edges(tasks, by_key, spans)
    specs: list[TaskSpec] = []
    for number, task in enumerate(tasks):
        after = _after(task, by_key, spans, keys or {})
        specs.extend(_expand(_spec(task, number, after, owner), task))
    return specs


def _check_edges(
    tasks: Sequence[m.TaskRequest], by_key: Mapping[str, int], spans: Sequence[tuple[int, int]]
) -> None:
    """Raises `Refused` when arrays that wait for arrays make too many dependencies; counts, builds none."""
    edges = 0
    for number, task in enumerate(tasks):
        names = [one.on if isinstance(one, m.Dependency) else one for one in task.after]
        edges += spans[number][1] * sum(spans[by_key[name]][1] if name in by_key else 1 for name in names)
    if edges > MAX_EDGES:
        raise Refused(
            "too_many_edges",
            f"the tasks have {edges} dependencies; at most {MAX_EDGES} in one request",
            "put a marker between two arrays",
        )


def _count(task: m.TaskRequest, number: int) -> int:
    if task.array is not None and task.lines is not None:
        raise Refused("bad_task", f"{_which(task, number)} has both array and lines", "give one of them")
    if task.array is not None:
        if task.array.last < task.array.first:
            raise Refused(
                "bad_task", f"{_which(task, number)}: array ends before it begins", "give first <= last"
            )
        return (task.array.last - task.array.first) // task.array.step + 1
    if task.lines is not None:
        if not task.lines:
            raise Refused(
                "bad_task",
                f"{_which(task, number)} has no lines",
                "give at least one line, or leave lines out",
            )
        return len(task.lines)
    return 1


def _expand(spec: TaskSpec, task: m.TaskRequest) -> list[TaskSpec]:
    if task.array is not None:
        array = task.array
        return [
            msgspec.structs.replace(spec, index=n) for n in range(array.first, array.last + 1, array.step)
        ]
    if task.lines is not None:
        return [msgspec.structs.replace(spec, index=n, line=line) for n, line in enumerate(task.lines)]
    return [spec]


def _which(task: m.TaskRequest, number: int) -> str:
    return f"task {task.key or task.name or number!r}"


def _spec(task: m.TaskRequest, number: int, after: tuple[After, ...], owner: str) -> TaskSpec:
    work = _work(task, number)
    if task.slices and task.dimensions:
        raise Refused(
            "bad_task",
            f"{_which(task, number)} has both slices and dimensions",
            "write the dimensions into each slice",
        )
    if task.slices:
        slices = tuple(SliceSpec(s.dimensions, s.expiration_s, s.wait_for_capacity) for s in task.slices)
    else:
        slices = (SliceSpec(task.dimensions, task.expiration_s, task.wait_for_capacity),)
    return TaskSpec(
        work=(work,), slices=slices, pool=task.pool, name=task.name, key=task.key, priority=task.priority,
        retries=task.retries, bot_retries=task.bot_retries, retry_wait_s=task.retry_wait_s, after=after,
        tags=tuple(dict.fromkeys(task.tags)), parent=None if task.parent is None else OpId(id_of(task.parent, "task")),
        sameness=task.sameness or None, share=task.share, owner=owner,
    )  # fmt: skip


def _work(task: m.TaskRequest, number: int) -> Work:
    ways = [bool(task.argv), bool(task.commands), task.noop, task.marker, task.payload is not None]
    if sum(ways) != 1:
        raise Refused(
            "empty_command" if not any(ways) else "bad_task",
            f"{_which(task, number)} says {'nothing' if not any(ways) else 'more than one thing'} to run",
            "give exactly one of argv, commands, noop, marker, payload",
        )
    commands = tuple(task.commands) or ((Command(tuple(task.argv), {}, task.cwd),) if task.argv else ())
    if 0 < task.ping_tolerance_s < MIN_PING_TOLERANCE_S:
        raise Refused(
            "bad_task",
            f"{_which(task, number)} has ping_tolerance_s {task.ping_tolerance_s:g}: bots call less often",
            f"give {MIN_PING_TOLERANCE_S:g} or more, or 0 for what its bot has for all tasks",
        )
    for command in commands:
        _check_size(command, task, number)
        if bool(command.argv) == bool(command.write_to):
            raise Refused(
                "empty_command",
                f"a command of {_which(task, number)} has no argv",
                "give argv, or write_to and text",
            )
        if any("\0" in part for part in (*command.argv, command.cwd, command.write_to)):
            raise Refused(
                "bad_task", f"a command of {_which(task, number)} has a NUL character in it", "take it out"
            )
        _check_path(command.cwd, task, number)
        _check_path(command.write_to, task, number)
    for needed in task.inputs:
        _check_input(needed, task, number)
    for pattern in task.outputs:
        _check_path(pattern, task, number)
    for name, value in [pair for env in (task.env, *(c.env for c in commands)) for pair in env.items()]:
        if not name or "=" in name or "\0" in name or "\0" in (value or ""):
            raise Refused(
                "bad_task",
                f"{_which(task, number)} sets a variable {name[:40]!r}",
                "a name has at least one character and no '='; neither it nor its value has a NUL",
            )
    return Work(
        commands=commands, env=task.env, inputs=tuple(task.inputs), outputs=tuple(task.outputs),
        hard_limit_s=task.hard_limit_s, io_limit_s=task.io_limit_s, grace_s=task.grace_s,
        ping_tolerance_s=task.ping_tolerance_s, noop=task.noop, marker=task.marker, payload=task.payload,
    )  # fmt: skip


def _check_size(command: Command, task: m.TaskRequest, number: int) -> None:
    """`commands` have the same limits as `argv` and `env`."""
    longest = max(
        (len(text or "") for text in (*command.argv, *command.env, *command.env.values())), default=0
    )
    for what, size, limit in (
        ("arguments", len(command.argv), m.MAX_ARGV),
        ("variables", len(command.env), m.MAX_ENV),
        ("characters in one text", longest, m.MAX_TEXT),
    ):
        if size > limit:
            raise Refused(
                "bad_task",
                f"a command of {_which(task, number)} has {size} {what}; at most {limit} are allowed",
                "put them into a file: write_to, or an input",
            )


def _check_input(needed: Input, task: m.TaskRequest, number: int) -> None:
    if not needed.path:
        raise Refused("bad_task", f"an input of {_which(task, number)} has no path", "give a relative path")
    _check_path(needed.path, task, number)
    if len(needed.blob) != 64 or any(c not in "0123456789abcdef" for c in needed.blob):
        raise Refused(
            "bad_task", f"input {needed.path!r} names no blob", "give the SHA-256 as 64 lower-case hex digits"
        )


def _check_path(path: str, task: m.TaskRequest, number: int) -> None:
    """Paths stay inside the work folder."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path or len(path) > 4_096:
        raise Refused(
            "bad_path",
            f"{_which(task, number)} names the path {path[:80]!r}",
            "use a path relative to the work folder, no '..'",
        )


def _after(
    task: m.TaskRequest, by_key: Mapping[str, int], spans: Sequence[tuple[int, int]], keys: Keys
) -> tuple[After, ...]:
    found: list[After] = []
    for one in task.after:
        dependency = one if isinstance(one, m.Dependency) else m.Dependency(on=one)
        if dependency.on in by_key:
            start, count = spans[by_key[dependency.on]]
            found.extend(After(index=start + n, condition=dependency.condition) for n in range(count))
        elif dependency.on in keys:
            found.extend(After(on=op, condition=dependency.condition) for op in keys[dependency.on])
        else:
            found.append(After(on=op_named(dependency.on), condition=dependency.condition))
    unique = {(a.on, a.index): a for a in found}
    return tuple(unique.values())


def op_named(text: str) -> OpId:
    """An operation that a dependency names. Raises `Refused` when it is neither a key nor an id."""
    id = from_text(text)
    if id is None:
        raise Refused(
            "unknown_dependency",
            f"{text[:60]!r} is no key of a task here, and no id",
            "name a key of the same graph, or an id",
        )
    return OpId(id)


# --------------------------------------------------------------------- reading


def task_info(row: OpRow) -> m.TaskInfo:
    return m.TaskInfo(**_info(row))


def _info(row: OpRow) -> dict[str, Any]:
    ended, started = row.ended_wall, row.started_wall
    return {
        "id": to_text(row.id),
        "task": to_text(row.task),
        "name": row.name,
        "state": row.state.name,
        "ok": row.ok,
        "exit_code": row.exit_code,
        "reason": row.reason,
        "pool": row.pool,
        "priority": row.priority,
        "created_at": moment(row.created_wall),
        "started_at": moment(started),
        "ended_at": moment(ended),
        "duration_s": round(ended - started, 6) if ended is not None and started is not None else None,
        "bot": row.bot,
        "attempt": _id(row.attempt),
        "number": row.number,
        "tags": list(row.tags),
        "index": row.index,
        "line": row.line,
        "graph": _id(row.graph),
        "key": row.key,
        "parent": _id(row.parent),
        "retry_of": _id(row.retry_of),
        "stopping": row.stop_reason,
    }


def task_details(row: OpRow, text: TaskText, attempts: Sequence[AttemptRow]) -> m.TaskDetails:
    last = next((a.outcome for a in reversed(attempts) if a.outcome is not None), None)
    return m.TaskDetails(
        **_info(row),
        work=text.work[0],
        dimensions=text.slices[0].dimensions,
        slices=[
            m.SliceRequest(
                dimensions=s.dimensions, expiration_s=s.expiration_s, wait_for_capacity=s.wait_for_capacity
            )
            for s in text.slices
        ],
        retries=text.retries,
        bot_retries=text.bot_retries,
        after=[m.Dependency(on=to_text(on), condition=c) for on, c in text.after],  # type: ignore[arg-type]
        attempts=[attempt_info(a) for a in attempts],
        outputs=list(last.outputs) if last is not None else [],
    )


def attempt_info(row: AttemptRow) -> m.AttemptInfo:
    outcome = row.outcome
    return m.AttemptInfo(
        id=to_text(row.id),
        number=row.number,
        state=row.state.name,  # type: ignore[arg-type]
        bot=row.bot,
        offered_at=moment(row.offered_wall) or "",
        started_at=moment(row.started_wall),
        ended_at=moment(row.ended_wall),
        ok=None if outcome is None else outcome.ok,
        exit_code=None if outcome is None else outcome.exit_code,
        duration_s=None if outcome is None else outcome.duration_s,
        reason="" if outcome is None else outcome.reason,
        stopping=row.stop_reason,
        outputs=[] if outcome is None else list(outcome.outputs),
        streams={name: end for name, (end, _) in row.streams.items()},
        dropped={name: dropped for name, (_, dropped) in row.streams.items() if dropped},
        payload=None if outcome is None else outcome.payload,
    )


def event_info(row: EventRow) -> m.EventInfo:
    return m.EventInfo(
        id=to_text(row.id),
        at=moment(row.wall) or "",
        kind=row.kind,
        op=_id(row.op),
        attempt=_id(row.attempt),
        bot=row.bot,
        graph=_id(row.graph),
        state=None if row.state is None else TaskState(row.state).name,
        detail={} if row.detail is None else msgspec.json.decode(row.detail),
    )


def bot_info(bot: Bot, wall_offset: float) -> m.BotInfo:
    """`wall_offset`: wall time minus engine time."""
    session = bot.session
    return m.BotInfo(
        id=bot.id,
        protocol=bot.protocol,
        status=bot.status,  # type: ignore[arg-type]
        dimensions={k: list(v) for k, v in sorted({**bot.dimensions, **bot.assigned}.items())},
        version=bot.version,
        slots=session.slots if session is not None else 0,
        running=[to_text(id) for id in session.attempts] if session is not None else [],
        first_seen_at=moment(bot.first_seen_at + wall_offset) or "",
        last_seen_at=moment(bot.last_seen_at + wall_offset) or "",
        quarantined=bot.quarantined,
        maintenance=bot.maintenance,
        draining=bot.draining,
        order=bot.order.value if bot.order is not None else None,
        state=msgspec.json.decode(bot.state),
    )


def _id(id: int | None) -> str | None:
    return to_text(id) if id else None
