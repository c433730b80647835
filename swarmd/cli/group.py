"""The group of all commands. Help and names stand here, so that listing them imports no command."""

from __future__ import annotations

import difflib
import importlib

import click

from swarmd import __version__

# name: (section, one line of help). The module is `swarmd.cli.<name>`, with `_` for `-`, and has `command`.
COMMANDS = {
    "serve": ("Run", "Run the daemon."),
    "bot": ("Run", "Run a bot: take tasks from a daemon and run them here."),
    "demo": ("Run", "See it work: a daemon, two bots and a small graph, then clean up."),
    "run": ("Tasks", "Run a command on a bot and follow its output."),
    "submit": ("Tasks", "Submit one or many tasks, or a graph."),
    "tasks": ("Tasks", "List tasks."),
    "show": ("Tasks", "Show everything about a task."),
    "logs": ("Tasks", "Print or follow the output of a task."),
    "outputs": ("Tasks", "List or download the files that a task left behind."),
    "wait": ("Tasks", "Wait until tasks have ended."),
    "cancel": ("Tasks", "Cancel tasks."),
    "retry": ("Tasks", "Submit ended tasks anew."),
    "explain": ("Tasks", "Say why a task waits, or how it ended."),
    "graphs": ("Graphs", "List graphs."),
    "close": ("Graphs", "Close an open graph."),
    "bots": ("Bots", "List bots, or show one."),
    "drain": ("Bots", "Let a bot finish its tasks and give it no more."),
    "quarantine": ("Bots", "Give a bot no tasks, for a reason."),
    "restart": ("Bots", "Restart a bot as soon as it is idle."),
    "terminate": ("Bots", "End a bot as soon as it is idle."),
    "swarming-bot": ("Bots", "Say how to make a machine a Swarming bot."),
    "delete-bot": ("Bots", "Forget a bot that is gone."),
    "events": ("Daemon", "Print or follow the events."),
    "backup": ("Daemon", "Copy the database of a running daemon into a file."),
    "check": ("Daemon", "Look for faults in a database file."),
    "openapi": ("Daemon", "Print the HTTP API as an OpenAPI file."),
}


class Commands(click.Group):
    """Imports a command's module when the command is used, and suggests the nearest for an unknown one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"swarmd.cli.{name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'there is no command "{args[0]}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(section for section, _ in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, about) for name, (of, about) in COMMANDS.items() if of == section])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="swarmd", message="%(prog)s %(version)s")
def swarmd() -> None:
    """One daemon, one SQLite file: a durable task queue for lab machines.

    Client commands find the daemon by SWARMD_URL (http://HOST:PORT or unix:PATH) or --server; the
    token, where one is needed, by SWARMD_TOKEN_FILE.
    """
