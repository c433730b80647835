"""`swarmd cancel`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli import OK
from swarmd.cli.remote import (
    UNFINISHED,
    check_ids,
    client_command,
    filter_fields,
    filter_options,
    read_ids,
    with_client,
)

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("cancel")
@click.argument("ids", nargs=-1, metavar="[IDS…]")
@filter_options
@click.option("--all", "everything", is_flag=True, help="All tasks that have not ended.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-kill", is_flag=True, help="Leave alone those that run.")
@click.option("--reason", default="", metavar="TEXT", help="A reason to be kept with them.")
@client_command
def command(
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    no_kill: bool,
    reason: str,
    server: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Cancel tasks by id (`-` takes ids from standard input) or by what they have in common."""
    given, fields = read_ids(ids), filter_fields(values)
    if sum((bool(given), bool(fields), everything)) != 1:
        raise click.UsageError("which tasks? Give ids, or options such as --tag or --graph, or --all")
    check_ids(given)
    if everything:
        _ask(yes)
        fields = {"states": list(UNFINISHED)}

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json

        answer = await client.cancel(given, kill=not no_kill, reason=reason, **fields)
        if as_json:
            print_json(answer)
        else:
            which = "1 task" if answer.changed == 1 else f"{answer.changed} tasks"
            rest = answer.matched - answer.changed
            print(f"canceled {which}" + (f"; {rest} had ended or were being stopped already" if rest else ""))
        return OK

    return with_client(server, work)


def _ask(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("--all needs --yes where nobody can be asked")
    click.confirm("cancel all tasks that have not ended?", abort=True, err=True)
