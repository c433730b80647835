"""`swarmd show`: everything about one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.api.native.messages import AttemptInfo, TaskDetails
    from swarmd.client import Client


@click.command("show")
@click.argument("id")
@client_command
def command(id: str, server: str | None, as_json: bool) -> int:
    """Show everything about the task ID."""

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json

        details = await client.get(id)
        if as_json:
            print_json(details)
        else:
            print_details(details)
        return OK

    return with_client(server, work)


def print_details(details: TaskDetails) -> None:
    """Facts, then the attempts, then the files kept."""
    import shlex

    from swarmd.cli.table import dimensions_text, print_facts, print_table, size_text, span
    from swarmd.cli.tasks import shown_state

    work = details.work
    print_facts(
        [
            ("id", details.id),
            ("task", details.task if details.task != details.id else ""),
            ("name", details.name),
            ("key", details.key),
            ("state", shown_state(details)),
            ("reason", details.reason),
            ("exit code", details.exit_code),
            ("stopping", details.stopping),
            *(
                ("command", f"write {c.write_to}" if c.write_to else shlex.join(c.argv))
                for c in work.commands
            ),
            ("index", details.index),
            ("line", details.line),
            ("pool", details.pool),
            ("dimensions", dimensions_text(details.dimensions)),
            *((f"or {n}", dimensions_text(s.dimensions)) for n, s in enumerate(details.slices, 1)),
            ("priority", details.priority),
            (
                "limits",
                f"hard {span(work.hard_limit_s)}, grace {span(work.grace_s)}"
                + (f", io {span(work.io_limit_s)}" if work.io_limit_s else "")
                + (f", ping {span(work.ping_tolerance_s)}" if work.ping_tolerance_s else ""),
            ),
            ("retries", f"{details.retries}, after a lost bot {details.bot_retries}"),
            ("tags", ", ".join(details.tags)),
            ("graph", details.graph),
            ("after", ", ".join(f"{d.on} ({d.condition.value})" for d in details.after)),
            ("parent", details.parent),
            ("retry of", details.retry_of),
            ("created", details.created_at),
            ("started", details.started_at),
            ("ended", details.ended_at),
            ("took", span(details.duration_s) if details.duration_s is not None else ""),
        ]
    )
    if details.attempts:
        print()
        print_table(
            ("ATTEMPT", "ID", "STATE", "BOT", "EXIT", "TOOK", "OUTPUT", "REASON"),
            [_attempt_row(attempt) for attempt in details.attempts],
        )
    if details.outputs:
        print()
        print_table(("FILE", "SIZE"), [(file.path, size_text(file.size)) for file in details.outputs])


def _attempt_row(attempt: AttemptInfo) -> tuple[object, ...]:
    from swarmd.cli.table import size_text, span

    output = size_text(sum(attempt.streams.values()))
    if dropped := sum(attempt.dropped.values()):
        output += f" ({size_text(dropped)} dropped)"
    took = span(attempt.duration_s)
    return (
        attempt.number,
        attempt.id,
        attempt.state,
        attempt.bot,
        attempt.exit_code,
        took,
        output,
        attempt.reason,
    )
