"""`swarmd bot`: the bot's options."""

from __future__ import annotations

from typing import Any

import click

from swarmd.cli.options import BotOptions
from swarmd.cli.spans import WORD, Pair


# SWARMD_BOT_ID is set for every task: a bot that a task starts must not take the name of the bot that
# runs it.
@click.command("bot", context_settings={"auto_envvar_prefix": "SWARMD_BOT"})
@click.option(
    "--server",
    metavar="URL",
    envvar="SWARMD_URL",
    show_envvar=True,
    help="The daemon: http://HOST:PORT, https://HOST:PORT or unix:PATH.  [default: http://127.0.0.1:8710]",
)
@click.option(
    "--id",
    type=WORD,
    metavar="ID",
    allow_from_autoenv=False,
    help="The bot's name, unique in the lab.  [default: the host's name]",
)
@click.option("--slots", type=click.IntRange(1, 1024), show_envvar=True, help="Tasks at once.  [default: 1]")
@click.option(
    "--work-dir",
    metavar="DIR",
    show_envvar=True,
    help="Where tasks run and the bot keeps its key.  [default: ./swarmd-bot-ID]",
)
@click.option(
    "-d",
    "--dimension",
    "dimensions",
    multiple=True,
    type=Pair("KEY=VALUE"),
    metavar="KEY=VALUE",
    show_envvar=True,
    help="What this machine has, beside what the bot finds out, as gpu=h200 or pool=NAME; repeat for more.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    envvar="SWARMD_TOKEN_FILE",
    show_envvar=True,
    help="A file with the token to show the daemon.",
)
@click.option(
    "--pass-env",
    multiple=True,
    metavar="NAME",
    show_envvar=True,
    help="Let tasks see this variable of the bot's environment; repeat for more.",
)
@click.option(
    "--output-limit-mib",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="Keep at most this much of each output stream.  [default: 1024]",
)
@click.option(
    "--cache-mib",
    type=click.IntRange(min=0),
    show_envvar=True,
    help="Keep inputs of this size for other tasks.  [default: 4096]",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), show_envvar=True, help="[default: text]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    show_envvar=True,
    help="[default: info]",
)
def command(dimensions: tuple[tuple[str, str], ...], **values: Any) -> int:
    """Run a bot until SIGTERM or Ctrl-C: take tasks from the daemon and run them here."""
    from swarmd.bot.main import run_bot_from_options

    pairs = [f"{key}={value}" for key, value in dimensions]
    values["pass_env"] = list(values["pass_env"])
    return run_bot_from_options(BotOptions(dimensions=pairs, **values))
