"""`swarmd delete-bot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("delete-bot")
@click.argument("bot")
@client_command
def command(bot: str, server: str | None, as_json: bool) -> int:
    """Forget BOT, which must be gone; when it comes back it is a new one."""

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json
        from swarmd.cli.text import one_line

        await client.delete_bot(bot)
        if as_json:
            print_json({"id": bot})
        else:
            print(f"forgot {one_line(bot)}")
        return OK

    return with_client(server, work)
