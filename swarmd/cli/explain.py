"""`swarmd explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("explain")
@click.argument("id")
@client_command
def command(id: str, server: str | None, as_json: bool) -> int:
    """Say in one sentence why the task ID waits, or how it ended."""

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json
        from swarmd.cli.text import one_line

        answer = await client.explain(id)
        if as_json:
            print_json(answer)
        else:
            again = f"it is {answer.state}"  # as sentences about ended tasks begin
            about = answer.sentence.removeprefix(again)
            colon = ": " if about == answer.sentence else ""
            print(f"{answer.state}{colon}{one_line(about)}")
        return OK

    return with_client(server, work)
