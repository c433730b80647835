"""`swarmd logs`: the output of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client


@click.command("logs")
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="Only this one.  [default: both]")
@click.option(
    "--attempt", metavar="ID", default="", help="Of this attempt.  [default: the newest; with -f all]"
)
@client_command
def command(
    id: str, follow: bool, stream: str | None, attempt: str, server: str | None, as_json: bool
) -> int:
    """Print the output of the task ID: its stdout to stdout, its stderr to stderr.

    Bytes pass unchanged into a file or pipe. On a terminal colours pass, and other control characters
    are shown instead of obeyed.
    """

    async def work(client: Client) -> int:
        import trio

        from swarmd.cli.output import STREAMS, OutputWriter, copy_live, copy_stream

        writer = OutputWriter(as_json)
        streams = (stream,) if stream else STREAMS
        if follow and not attempt:
            await copy_live(client, id, writer, streams)
            return OK
        if follow:
            async with trio.open_nursery() as nursery:
                for name in streams:
                    nursery.start_soon(copy_stream, client, id, writer, name, attempt, True)
        else:
            for name in streams:
                await copy_stream(client, id, writer, name, attempt)
        writer.close()
        return OK

    return with_client(server, work)
