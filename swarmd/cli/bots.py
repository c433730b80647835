"""`swarmd bots`: all bots, or one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.api.native.messages import BotInfo, BotOrderRequest, InstanceInfo
    from swarmd.client import Client

# What each bot says of its machine without being told.
FOUND_OUT = {"os", "cpu", "cores", "hostname", "python", "kernel", "memory_gib", "id", "feature"}
SESSION = ("instance", "session")  # what is kept of a session of the Remote Workers API


@click.command("bots")
@click.argument("id", required=False)
@click.option("--instances", is_flag=True, help="Count the bots of the Remote Workers API, by instance.")
@client_command
def command(id: str | None, instances: bool, server: str | None, as_json: bool) -> int:
    """List all bots, or show the bot ID."""
    if instances and id is not None:
        raise click.UsageError("--instances shows all instances; leave ID out")

    async def work(client: Client) -> int:
        from swarmd.cli.table import age, print_json, print_table

        if instances:
            print_instances(await client.remote_instances(), as_json)
            return OK
        if id is not None:
            print_bot(await client.bot(id), as_json)
            return OK
        bots = await client.bots().all()
        if as_json:
            for bot in bots:
                print_json(bot)
        elif bots:
            rows = [
                (
                    b.id,
                    b.status,
                    f"{len(b.running)}/{b.slots}",
                    age(b.last_seen_at),
                    b.protocol,
                    " ".join(text for text in bot_dimensions(b.dimensions) if text[:8] != "feature="),
                )
                for b in bots
            ]
            print_table(("ID", "STATUS", "BUSY", "SEEN", "PROTOCOL", "DIMENSIONS"), rows)
        else:
            print(f"no bots yet; swarmd bot --server {client.url}")
        return OK

    return with_client(server, work)


def print_instances(found: list[InstanceInfo], as_json: bool) -> None:
    """How many bots of the Remote Workers API there are, how many call, and what they can still take."""
    from swarmd.cli.table import print_json, print_table

    if as_json:
        for instance in found:
            print_json(instance)
        return
    rows = [
        (
            instance.name or '""',
            ",".join(instance.pools),
            str(instance.connected),
            " ".join(f"{status}:{count}" for status, count in instance.bots.items() if count) or "none",
            str(instance.capacity.get("OK", 0)),
        )
        for instance in found
    ]
    print_table(("INSTANCE", "POOLS", "CALLING", "BOTS", "FREE"), rows)


def bot_dimensions(dimensions: dict[str, list[str]]) -> list[str]:
    """`gpu=a,b` for each dimension: first those that its owner gave, then those that each bot finds out."""
    from swarmd.cli.table import dimensions_text

    return [dimensions_text({key: dimensions[key]}) for key in sorted(dimensions, key=_found_out_last)]


def _found_out_last(key: str) -> tuple[bool, str]:
    return key in FOUND_OUT, key


def print_bot(bot: BotInfo, as_json: bool) -> None:
    """One bot, as facts or as JSON."""
    from swarmd.cli.table import print_facts, print_json

    if as_json:
        print_json(bot)
        return
    print_facts(
        [
            ("id", bot.id),
            ("status", bot.status),
            ("quarantined", bot.quarantined),
            ("maintenance", bot.maintenance),
            ("order", bot.order),
            ("slots", f"{len(bot.running)} of {bot.slots} busy"),
            ("running", " ".join(bot.running)),
            *(("" if n else "dimensions", text) for n, text in enumerate(bot_dimensions(bot.dimensions))),
            ("protocol", bot.protocol),
            *(
                (key, str(bot.state[key]))
                for key in SESSION
                if key in bot.state and bot.protocol == "remoteworkers"
            ),
            ("version", bot.version),
            ("first seen", bot.first_seen_at),
            ("last seen", bot.last_seen_at),
        ]
    )


def give_order(server: str | None, bot: str, order: BotOrderRequest, as_json: bool) -> int:
    """Tells the daemon what a bot shall do, and prints the bot."""

    async def work(client: Client) -> int:
        from swarmd.client import ApiError

        try:
            found = await client.order_bot(bot, order)
        except ApiError as error:
            if error.code != "bot_dead":
                raise
            remedy = f"{error.remedy}, or forget it with: swarmd delete-bot {bot}"
            raise click.ClickException(f"{error.message}; {remedy}") from None
        print_bot(found, as_json)
        return OK

    return with_client(server, work)
