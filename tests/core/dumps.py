"""What an engine holds, in a form that two engines can be compared by: memory, and what the file would give."""

from __future__ import annotations

from typing import Any

from swarmd.core.engine import Engine
from swarmd.core.model import NEVER, Attempt, AttemptState, Bot, Graph, Session, Task, is_own


def dump(engine: Engine) -> dict[str, Any]:
    """Everything durable that is alive. Left out: what is memory only (signs of life, capacity of bots that may come
    back, waiting sessions), and what follows from the rest."""
    return {
        "tasks": {id: _task(task) for id, task in engine.tasks.items()},
        "attempts": {id: _attempt(attempt) for id, attempt in engine.attempts.items()},
        "sessions": {id: _session(session) for id, session in engine.sessions.items()},
        "bots": {id: _bot(bot) for id, bot in engine.bots.items()},
        "graphs": {id: _graph(graph) for id, graph in engine.graphs.items()},
        "joined": {id: (op.task, op.graph) for id, op in engine.joined.items()},
        "dependents": {
            on: sorted(tasks) for on, tasks in engine.dependents.items() if engine.task_of(on) is not None
        },
        "children": _children(engine),
        "queued": {
            requirements: sorted(found.queued_tasks(engine.tasks))
            for requirements, found in engine.matching.sets.items()
            if found.count
        },
        "able": {
            requirements: sorted(id for id, bot in found.bots.items() if bot.session is not None)
            for requirements, found in engine.matching.sets.items()
            if found.users
        },
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "state": task.state,
        "slice": task.slice,
        "priority": task.priority,
        "due_at": task.due_at,
        "tries": task.tries,
        "faults": (task.task_faults, task.bot_faults, task.drops),
        "attempt": (task.attempt.id if task.attempt else None, task.last_attempt),
        "ops": {id: (op.priority, op.graph) for id, op in task.ops.items()} if task.ops else None,
        "graph": task.graph if not task.own_withdrawn else None,
        "withdrawn": task.own_withdrawn,
        "same": (task.sameness, task.share),
        "waits": task.waits or None,
        "queued": task.queued.requirements if task.queued else None,
        "plan": task.plan.key,
    }


def _attempt(a: Attempt) -> dict[str, Any]:
    return {
        "task": (a.task, a.number),
        "where": (a.bot, a.session, a.offer_key),
        "state": (a.state, a.queued, a.ends_bot),
        "at": (a.offered_at, a.started_at, a.accept_due_at, a.limit_due_at),
        "remaining_s": a.remaining_s,
        "stop": (a.stop.reason, a.stop.since_at, a.stop.due_at, a.stop.grace_s) if a.stop else None,
        "streams": {name: (stream.end, stream.dropped) for name, stream in a.streams.items()},
        "merged_end": a.merged_end,
    }


def _session(s: Session) -> dict[str, Any]:
    return {
        "bot": (s.bot, s.protocol, s.key),
        "limits": (s.slots, s.deadline_s, s.enforces_limits, s.opened_at),
        "attempts": sorted(s.attempts),
    }


def _bot(b: Bot) -> dict[str, Any]:
    return {
        "who": (b.protocol, b.key_hash, b.version, b.state),
        "has": (b.dimensions, b.assigned, sorted(b.values)),
        "told": (b.quarantined, b.quarantined_by_person, b.maintenance, b.draining, b.order),
        "session": b.session.id if b.session else None,
    }


def _graph(g: Graph) -> dict[str, Any]:
    return {
        "who": (g.name, g.owner),
        "open": (g.is_open, g.touched_at),
        "alive": sorted(g.alive),
        "doomed": sorted(g.doomed),
        "failed": g.failed,
    }


def _children(engine: Engine) -> dict[int, list[int]]:
    """Finished children stay in memory until their parent ends; they mean nothing."""
    alive = {
        parent: sorted(child for child in children if engine.task_of(child) is not None)
        for parent, children in engine.children.items()
    }
    return {parent: children for parent, children in alive.items() if children}


def check_deeply(engine: Engine) -> None:
    """What must hold between the parts of an engine, beyond `Engine.check`."""
    engine.check()
    held: dict[int, int] = {}
    for attempt in engine.attempts.values():
        held[attempt.task] = held.get(attempt.task, 0) + 1
        offered = attempt.state is AttemptState.OFFERED
        assert not offered or attempt.accept_due_at != NEVER, "an offer that may wait for ever"
    assert all(count == 1 for count in held.values()), f"two live attempts: {held}"
    for session in engine.sessions.values():
        assert engine.bots[session.bot].session is session
        assert all(engine.attempts[id] is attempt for id, attempt in session.attempts.items())
    for id, op in engine.joined.items():
        task = engine.tasks[op.task]
        assert task.ops is not None and task.ops[id] is op and not is_own(id, task.id)
    users: dict[object, int] = {}
    for task in engine.tasks.values():
        users[task.plan.key] = users.get(task.plan.key, 0) + 1
        assert task.ops is None or task.ops, f"task {task.id} has no operation"
        assert task.ops is None or task.priority == min(op.priority for op in task.ops.values())
        for on in task.waits or ():
            assert task.id in engine.dependents.get(on, ()) or engine.task_of(on) is None
    assert users == {key: plan.users for key, plan in engine.plans.items()}
    for same, task_id in engine.by_sameness.items():
        assert engine.tasks[task_id].sameness == same and not engine.tasks[task_id].waits
    for graph in engine.graphs.values():
        assert all(engine.task_of(op) is not None for op in graph.alive)
        assert graph.is_open or graph.alive, f"graph {graph.id} is done but alive"
        assert graph.is_open or not graph.doomed, f"graph {graph.id} is closed but has tasks that cannot run"
    for on, tasks in engine.dependents.items():
        assert len(set(tasks)) == len(tasks)
        assert all(on in (engine.tasks[id].waits or ()) for id in tasks)
    waiting = [session for bucket in engine.waiting.values() for session in bucket.values()]
    assert all(engine.sessions[session.id] is session and session.bucket >= 0 for session in waiting)
    for bot in engine.bots.values():
        ends = [s for s in bot.satisfies if s.ends_bot and s.queued_tasks(engine.tasks)]
        assert bot.is_to_end == bool(ends), f"bot {bot.id} is wrong about whether it is to end"
    for requirement_set in engine.matching.sets.values():
        assert (requirement_set.users > 0) != (requirement_set.requirements in engine.matching.unused)
        assert requirement_set.entries == sum(map(len, requirement_set.heaps.values()))
        for id in requirement_set.impatient:
            assert engine.tasks[id].queued is requirement_set


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two dumps do not share, for an assertion's message."""
    return [
        f"{part}[{id}].{name}: {left!r} != {right!r}"
        for part in one
        for id in sorted({*one[part], *other[part]}, key=str)
        if (a := one[part].get(id)) != (b := other[part].get(id))
        for name, left, right in _fields(a, b)
    ]


def _fields(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [("", a, b)]
    return [(str(name), a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)]
