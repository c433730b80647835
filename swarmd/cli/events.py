"""`swarmd events`: what happened, and what happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.api.native.messages import EventInfo
    from swarmd.client import Client

DEFAULT_LIMIT = 50


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Print events as they happen, until Ctrl-C.")
@click.option("--after", default="", metavar="ID", help="With -f: begin after this event.")
@click.option("--task", metavar="ID", help="Only those of this task.")
@click.option("--bot", metavar="BOT", help="Only those of this bot.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at the most.",
)
@client_command
def command(
    follow: bool, after: str, task: str | None, bot: str | None, limit: int, server: str | None, as_json: bool
) -> int:
    """Print the newest events, oldest first, or follow them."""
    if task and bot:
        raise click.UsageError("--task and --bot do not go together")
    if after and not follow:
        raise click.UsageError("--after needs -f")

    async def work(client: Client) -> int:
        if follow:
            async with client.stream_events(after) as events:
                async for event in events:
                    if (not task or event.op == task) and (not bot or event.bot == bot):
                        print_event(event, as_json)
        pages = (
            client.task_events(task, limit)
            if task
            else client.bot_events(bot, limit)
            if bot
            else client.events(limit)
        )
        newest_first = await pages.all()
        for event in reversed(newest_first):
            print_event(event, as_json)
        if not newest_first and not as_json:
            print("no events yet")
        return OK

    return with_client(server, work)


def print_event(event: EventInfo, as_json: bool) -> None:
    """One event on one line."""
    from swarmd.cli.table import print_json
    from swarmd.cli.text import one_line

    if as_json:
        print_json(event)
    else:
        named = (("task", event.op), ("attempt", event.attempt), ("bot", event.bot), ("graph", event.graph))
        facts = [f"{name}={value}" for name, value in (*named, ("state", event.state)) if value]
        facts += [f"{name}={_word(value)}" for name, value in event.detail.items() if value is not None]
        print(one_line(f"{event.at}  {event.kind}  {' '.join(facts)}"))
    sys.stdout.flush()


def _word(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
