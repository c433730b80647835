"""`swarmd retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from swarmd.cli import OK
from swarmd.cli.remote import (
    check_ids,
    client_command,
    filter_fields,
    filter_options,
    read_ids,
    with_client,
)

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("retry")
@click.argument("ids", nargs=-1, metavar="[IDS…]")
@filter_options
@click.option("--failed", is_flag=True, help="Those that ended and did not end ok.")
@click.option("--request-id", default="", metavar="TEXT", help="The same id again gives the same answer.")
@client_command
def command(
    ids: tuple[str, ...], failed: bool, request_id: str, server: str | None, as_json: bool, **values: Any
) -> int:
    """Submit ended tasks anew, and print the new ids; the old ones stay as they are."""
    given, fields = read_ids(ids), filter_fields(values)
    if failed:
        fields["failed"] = True
    if bool(given) == bool(fields):
        raise click.UsageError("which tasks? Give ids, or --failed, or options such as --tag or --graph")
    check_ids(given)

    async def work(client: Client) -> int:
        from swarmd.cli.run import say
        from swarmd.cli.table import print_json

        answer = await client.retry(given, request_id, **fields)
        for id in answer.ids:
            if as_json:
                print_json({"id": id})
            else:
                print(id)
        if not as_json:
            say(f"submitted {answer.changed} of {answer.matched} tasks anew")
        return OK

    return with_client(server, work)
