"""`swarmd openapi`: the HTTP API, for other programs."""

from __future__ import annotations

import click

from swarmd.cli import OK


@click.command("openapi")
def command() -> int:
    """Print the HTTP API as an OpenAPI file; needs no daemon."""
    import json

    from swarmd.api.openapi import document

    print(json.dumps(document(), indent=2))
    return OK
