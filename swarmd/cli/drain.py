"""`swarmd drain`."""

from __future__ import annotations

import click

from swarmd.cli.remote import client_command


@click.command("drain")
@click.argument("bot")
@click.option("--undo", is_flag=True, help="Take it back.")
@client_command
def command(bot: str, undo: bool, server: str | None, as_json: bool) -> int:
    """Let BOT finish its tasks and give it no more."""
    from swarmd.api.native.messages import BotOrderRequest
    from swarmd.cli.bots import give_order

    return give_order(server, bot, BotOrderRequest(drain=not undo), as_json)
