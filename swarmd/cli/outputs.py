"""`swarmd outputs`: the files that a task left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client
    from swarmd.core.model import OutputFile


@click.command("outputs")
@click.argument("id")
@click.option("--to", metavar="DIR", help="Download them into this folder (made when missing).")
@click.option("--force", is_flag=True, help="With --to: replace files that are there.")
@client_command
def command(id: str, to: str | None, force: bool, server: str | None, as_json: bool) -> int:
    """List the files that the task ID left behind, or download them."""
    if force and to is None:
        raise click.UsageError("--force needs --to DIR")

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json, print_table, size_text

        files = (await client.get(id)).outputs
        if to is not None:
            await download(client, files, to, force)
        if as_json:
            for file in files:
                print_json(file)
        elif files:
            print_table(
                ("FILE", "SIZE", "SHA-256"), [(f.path, size_text(f.size), f.blob[:16]) for f in files]
            )
        else:
            print("the task kept no files; submit it with --output GLOB")
        return OK

    return with_client(server, work)


async def download(client: Client, files: list[OutputFile], folder: str, force: bool) -> None:
    """Downloads all `files` into `folder`; what has a path that leads out of it is refused before the
    first byte.
    """
    from swarmd.cli.progress import Bar
    from swarmd.cli.safe_files import NewFile, check_path

    for file in files:
        check_path(file.path)
    done, total = 0, sum(file.size for file in files)
    with Bar("downloading", in_bytes=True) as bar:
        for file in files:
            with NewFile(folder, file.path, file.executable, force) as target:

                def write(data: bytes, target: NewFile = target) -> None:
                    nonlocal done
                    target.write(data)
                    done += len(data)
                    bar.update(done, total)

                await client.save_blob(file.blob, write)
                target.keep()
