"""`swarmd tasks`: what was submitted, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, filter_options, joined, with_client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarmd.api.native.messages import TaskInfo
    from swarmd.client import Client

DEFAULT_LIMIT = 100


@click.command("tasks")
@filter_options
@click.option("--failed", is_flag=True, help="Those that ended and did not end ok.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at the most.",
)
@client_command
def command(
    states: Any, failed: bool, limit: int, server: str | None, as_json: bool, **filters: str | None
) -> int:
    """List tasks, newest first."""

    async def work(client: Client) -> int:
        query = {**filters, "state": ",".join(joined(states)), "failed": failed or None}
        await print_tasks(client.tasks(limit=limit, **query), as_json, any(query.values()))
        return OK

    return with_client(server, work)


async def print_tasks(tasks: Any, as_json: bool, is_filtered: bool) -> None:
    """Prints a list of tasks as it comes in, or says that there are none."""
    from swarmd.cli.table import print_json

    found: list[TaskInfo] = []
    async for task in tasks:
        if as_json:
            print_json(task)
        else:
            found.append(task)
    if as_json:
        return
    if found:
        print_task_table(found)
    else:
        print("no task matches" if is_filtered else "no tasks yet; swarmd submit -- echo hello")


def print_task_table(tasks: Iterable[TaskInfo]) -> None:
    """One line for each task."""
    from swarmd.cli.table import age, print_table, span

    heads = ("ID", "STATE", "EXIT", "AGE", "TOOK", "BOT", "NAME")
    rows = [
        (
            task.id,
            shown_state(task),
            task.exit_code,
            age(task.created_at),
            span(task.duration_s),
            task.bot,
            shown_name(task),
        )
        for task in tasks
    ]
    print_table(heads, rows)


def shown_state(task: TaskInfo) -> str:
    """The state; a task that ran to its end and was not ok reads FAILED, one being stopped STOPPING."""
    if task.state == "COMPLETED" and not task.ok:
        return "FAILED"
    return "STOPPING" if task.stopping else task.state


def shown_name(task: TaskInfo) -> str:
    """Its name (or key in its graph), with the number or line of an array."""
    name = task.name or task.key
    if task.index is not None:
        return f"{name}[{task.index}]"
    return f"{name}[{task.line}]" if task.line is not None else name or "-"
