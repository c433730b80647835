"""`swarmd restart`."""

from __future__ import annotations

import click

from swarmd.cli.remote import client_command


@click.command("restart")
@click.argument("bot")
@click.option("--undo", is_flag=True, help="Take it back.")
@client_command
def command(bot: str, undo: bool, server: str | None, as_json: bool) -> int:
    """Restart BOT as soon as it is idle; it takes no new tasks until then."""
    from swarmd.api.native.messages import BotOrderRequest
    from swarmd.cli.bots import give_order

    return give_order(server, bot, BotOrderRequest(order=None if undo else "restart"), as_json)
