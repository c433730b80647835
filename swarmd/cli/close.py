"""`swarmd close`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("close")
@click.argument("graph")
@client_command
def command(graph: str, server: str | None, as_json: bool) -> int:
    """Close the open graph GRAPH: nothing more is added, and failures skip what depends on them."""

    async def work(client: Client) -> int:
        from swarmd.cli.graphs import counts_text, shown_state
        from swarmd.cli.table import print_json

        info = await client.close_graph(graph)
        if as_json:
            print_json(info)
        else:
            print(f"{info.id} is closed; {shown_state(info)}: {counts_text(info.counts)}")
        return OK

    return with_client(server, work)
