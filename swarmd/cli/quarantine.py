"""`swarmd quarantine`."""

from __future__ import annotations

import click

from swarmd.cli.remote import client_command


@click.command("quarantine")
@click.argument("bot")
@click.argument("words", nargs=-1, metavar="[REASON]")
@click.option("--undo", is_flag=True, help="Take it back.")
@client_command
def command(bot: str, words: tuple[str, ...], undo: bool, server: str | None, as_json: bool) -> int:
    """Give BOT no tasks, because of REASON; what it runs goes on."""
    from swarmd.api.native.messages import BotOrderRequest
    from swarmd.cli.bots import give_order

    if len(words) > 1:
        raise click.UsageError(f'quote the reason: swarmd quarantine {bot} "{" ".join(words)}"')
    reason = words[0] if words else None
    if undo == bool(reason):
        raise click.UsageError("give a reason, or --undo")
    return give_order(server, bot, BotOrderRequest(quarantine=None if undo else reason), as_json)
