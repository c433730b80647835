"""`swarmd backup`: a copy of the database of a running daemon."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, BinaryIO

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client

if TYPE_CHECKING:
    from swarmd.client import Client

MAGIC = b"SQLite format 3\0"


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@client_command
def command(file: str, server: str | None, as_json: bool) -> int:
    """Write a consistent copy of the daemon's database to FILE, which must not be there yet."""
    if os.path.lexists(file):
        raise click.ClickException(f"{file} is there already; give another name")
    folder = os.path.dirname(os.path.abspath(file))
    if not os.path.isdir(folder):
        raise click.ClickException(f"there is no folder {folder}; make it, or give another path")

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json, size_text

        size = await save_backup(client, file)
        if as_json:
            print_json({"file": file, "size": size})
        else:
            print(f"wrote {file}, {size_text(size)}; look at it with: swarmd check --db {file}")
        return OK

    return with_client(server, work)


async def save_backup(client: Client, path: str) -> int:
    """Writes the backup and gives its size in bytes. `path` appears only when the copy is whole and on
    the disk.
    """
    from swarmd.cli.progress import Bar

    file, temporary = _new_beside(path)
    try:
        size, start = 0, b""
        with file, Bar("backup", in_bytes=True) as bar:
            async with client.backup() as response:
                total = int(response.headers.get("content-length", 0))
                async for data in response:
                    start = start or data[: len(MAGIC)]
                    file.write(data)
                    size += len(data)
                    bar.update(size, total)
            file.flush()
            os.fsync(file.fileno())
        if not start.startswith(MAGIC):
            raise click.ClickException("what the server sent is not a database; nothing was kept")
        _rename_new(temporary, path)
    finally:
        _remove(temporary)
    return size


def _new_beside(path: str) -> tuple[BinaryIO, str]:
    """A new file that only its owner can read, in the folder of `path`, and its name."""
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise click.ClickException(f"no file can be made in the folder {folder}: {error.strerror}") from None
    return open(descriptor, "wb"), temporary


def _remove(temporary: str) -> None:
    if os.path.lexists(temporary):
        os.unlink(temporary)


def _rename_new(temporary: str, path: str) -> None:
    """Renames without replacing: a file that appeared at `path` meanwhile stays."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise click.ClickException(f"{path} has appeared meanwhile; it was left alone") from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise click.ClickException(f"{path} has appeared meanwhile; it was left alone") from None
        os.rename(temporary, path)
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
