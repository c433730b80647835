"""`swarmd graphs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.api.native.messages import GraphInfo
    from swarmd.client import Client

DEFAULT_LIMIT = 100


@click.command("graphs")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at the most.",
)
@client_command
def command(limit: int, server: str | None, as_json: bool) -> int:
    """List graphs, newest first."""

    async def work(client: Client) -> int:
        from swarmd.cli.table import age, print_json, print_table

        graphs = await client.graphs(limit).all()
        if as_json:
            for graph in graphs:
                print_json(graph)
        elif graphs:
            rows = [(g.id, shown_state(g), counts_text(g.counts), age(g.created_at), g.name) for g in graphs]
            print_table(("ID", "STATE", "TASKS", "AGE", "NAME"), rows)
        else:
            print("no graphs yet; swarmd submit --file graph.toml")
        return OK

    return with_client(server, work)


def shown_state(graph: GraphInfo) -> str:
    """open, running, ok or failed."""
    if graph.done:
        return "ok" if graph.ok else "failed"
    return "open" if graph.open else "running"


def counts_text(counts: dict[str, int]) -> str:
    """`12 COMPLETED, 1 RUNNING`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
