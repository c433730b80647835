"""A task's life in words, for failed checks: why it waits, its attempts, its history."""

from __future__ import annotations

from datetime import datetime

from swarmd.api.native.messages import AttemptInfo, EventInfo, TaskDetails
from swarmd.client import Client

MAX_EVENTS = 100  # the newest ones are told


async def story_of(client: Client, id: str) -> str:
    """Several lines: the sentence of `explain`, each attempt, and the history, with seconds since the submission."""
    task = await client.get(id)
    explained = await client.explain(id)
    events = [event async for event in client.task_events(id, limit=MAX_EVENTS)]
    lines = [f"why: {explained.sentence}", "attempts:" if task.attempts else "attempts: none"]
    lines += [f"  {_attempt(task, attempt)}" for attempt in task.attempts]
    lines.append("history:" if len(events) < MAX_EVENTS else f"history, the newest {MAX_EVENTS}:")
    lines += [f"  {_event(task, event)}" for event in reversed(events)]
    return "\n".join(lines)


def _attempt(task: TaskDetails, attempt: AttemptInfo) -> str:
    moments = [f"offered {_since(task, attempt.offered_at)}"]
    if attempt.started_at:
        moments.append(f"started {_since(task, attempt.started_at)}")
    if attempt.ended_at:
        moments.append(f"ended {_since(task, attempt.ended_at)}")
    said = [f"exit code {attempt.exit_code}"] if attempt.exit_code is not None else []
    said += [attempt.reason] if attempt.reason else []
    said += [f"being stopped ({attempt.stopping})"] if attempt.stopping else []
    said += [f"{size} bytes of {stream}" for stream, size in sorted(attempt.streams.items())]
    end = f": {'; '.join(said)}" if said else ""
    return f"{attempt.number}  {attempt.state:<8} on {attempt.bot}, {', '.join(moments)}{end}"


def _event(task: TaskDetails, event: EventInfo) -> str:
    what = event.state if event.kind == "task" and event.state else event.kind
    where = f" on {event.bot}" if event.bot else ""
    details = [str(value) if key == "reason" else f"{key}={value}" for key, value in event.detail.items()]
    return f"{_since(task, event.at):>14}  {what}{where}{': ' if details else ''}{', '.join(details)}"


def _since(task: TaskDetails, moment: str) -> str:
    spent = datetime.fromisoformat(moment) - datetime.fromisoformat(task.created_at)
    return f"+{spent.total_seconds():.3f} s"
