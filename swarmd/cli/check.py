"""`swarmd check`: faults in a database file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from swarmd.cli import FAILED, OK


@click.command("check")
@click.option(
    "--db", required=True, metavar="PATH", type=click.Path(dir_okay=False), help="The database file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(db: str, as_json: bool) -> int:
    """Open a database read-only, also beside a running daemon, and name each fault in it.

    Exit codes: 0 no faults, 1 faults.
    """
    if not os.path.exists(db):
        raise click.ClickException(f"{db} does not exist")
    from swarmd.cli.table import print_json
    from swarmd.cli.text import one_line
    from swarmd.store.check import check_file
    from swarmd.store.errors import StoreError

    try:
        faults = check_file(Path(db))
    except StoreError as error:
        raise click.ClickException(error.message) from None
    for fault in faults:
        if as_json:
            print_json({"name": fault.name, "sentence": fault.sentence})
        else:
            print(f"{fault.name}: {one_line(fault.sentence)}")
    if not faults and not as_json:
        print(f"{db}: no faults")
    return FAILED if faults else OK
