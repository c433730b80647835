"""`swarmd swarming-bot`: how to make a machine an unmodified Swarming bot of this daemon."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import click
from msgspec import structs

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client
from swarmd.logs import printable

if TYPE_CHECKING:
    from swarmd.api.native.messages import BootstrapAnswer
    from swarmd.client import Client

SHOWN_DIGITS = 12  # of a version


@click.command("swarming-bot")
@click.argument("bot", required=False)
@client_command
def command(bot: str | None, server: str | None, as_json: bool) -> int:
    """Print the shell lines that make a machine the Swarming bot BOT (by default it has the machine's name).

    \b
    1. Give the daemon your copy of the bot, a folder or zip: bot_code = "/srv/swarming_bot"
       in the table [swarming] of the file of `swarmd serve --config`.
    2. Let the machine reach the daemon: listen and allow_host there, and allow_network or
       token_file. Send the daemon SIGHUP (for listen: restart it).
    3. On the machine: Python 3, and a user of its own without passwordless sudo.
    4. Run what this command prints there, in a shell or as a service. Each bot has a folder
       of its own, and deletes in it what it does not know.
    5. `swarmd bots` shows it within seconds, and `swarmd run -d id=BOT -- uname -a` uses it.

    All of it is in docs/swarming.md.
    """
    from swarmd.api.swarming.wire import BOT_ID

    if bot is not None and not BOT_ID.fullmatch(bot):
        raise click.ClickException(
            f"{bot!r} cannot be a bot's id; use letters, digits, '.', '_' and '-', a letter or digit first"
        )

    async def work(client: Client) -> int:
        from swarmd.cli.table import print_json

        told = await client.mint_bootstrap()
        if as_json:
            print_json(told)
        else:
            print("\n".join(lines(told, bot)))
        return OK

    return with_client(server, work)


def lines(told: BootstrapAnswer, bot: str | None) -> list[str]:
    """A script for the machine, and what to know about it as comments. No text of the daemon begins a line of it."""
    told = structs.replace(
        told, url=printable(told.url), digest=printable(told.digest), expires_at=printable(told.expires_at)
    )
    name, folder = (bot, f"swarming-{bot}") if bot else ('"$(hostname)"', "swarming-bot")
    link = f"{told.url}/bootstrap" + (f"?tok={quote(told.token, safe='')}" if told.token_needed else "")
    fetch = f"import urllib.request as u; exec(u.urlopen({json.dumps(link)}, timeout=60).read())"
    return [
        f"# A Swarming bot of {told.url}, with the bot code {told.digest[:SHOWN_DIGITS]}… that is served there.",
        "# On the machine, as a user of its own without passwordless sudo; Python 3 is all it needs:",
        *_remarks(told),
        f"mkdir -p {folder}/tmp && cd {folder} || exit",
        f'export SWARMING_BOT_ID={name} SWARMING_EXTERNAL_BOT_SETUP=1 TMPDIR="$PWD/tmp"',
        f"exec python3 -c {shlex.quote(fetch)}",
    ]


def _remarks(told: BootstrapAnswer) -> list[str]:
    from swarmd.config import is_loopback

    found = []
    if told.token_needed:
        found += [
            f"# - The link below is good until {told.expires_at}; it opens nothing but the bot code.",
            '# - The bot\'s own calls need a token, too, or a listed network: docs/swarming.md, "Authentication".',
        ]
    if is_loopback(urlsplit(told.url).hostname or ""):
        found += [
            "# - The address is that of the daemon's own machine. For another machine set server_url in [swarming],",
            "#   or ask by a name that both know: SWARMD_URL=http://NAME:PORT swarmd swarming-bot",
        ]
    return found
