"""What all client commands share: `--server`, `--json`, and running with a client."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from swarmd.cli.spans import WORD

if TYPE_CHECKING:
    from swarmd.client import Client

Function = TypeVar("Function", bound=Callable[..., Any])


def client_command(function: Function) -> Function:
    """Adds `--server` and `--json` to a command."""
    function = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")(
        function
    )
    return click.option(
        "--server",
        metavar="URL",
        envvar="SWARMD_URL",
        show_envvar=True,
        help="The daemon: http://HOST:PORT, https://HOST:PORT or unix:PATH.  [default: http://127.0.0.1:8710]",
    )(function)


def with_client(
    server: str | None, work: Callable[[Client], Awaitable[int]], patience_s: float | None = None
) -> int:
    """Runs `work` with a client of `server` and gives the exit code that it returns.

    `patience_s`: for how long calls are repeated when the daemon goes away; by default the client's own.
    """
    import trio

    from swarmd.client import open_client
    from swarmd.client.calls import PATIENCE_S

    async def run() -> int:
        async with open_client(
            server or None, patience_s=PATIENCE_S if patience_s is None else patience_s
        ) as client:
            return await work(client)

    return trio.run(run)


STATES = (
    "BLOCKED", "PENDING", "RUNNING", "COMPLETED", "TIMED_OUT", "KILLED", "CANCELED", "EXPIRED", "NO_RESOURCE",
    "BOT_DIED", "CLIENT_ERROR", "SKIPPED",
)  # fmt: skip
UNFINISHED = STATES[:3]


class StateList(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """States joined by commas, in any case: a tuple of their names."""

    name = "state"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = tuple(part.strip().upper().replace("-", "_") for part in value.split(",") if part.strip())
        for name in names:
            if name not in STATES:
                self.fail(f'"{name}" is no state; there are: {", ".join(STATES)}', param, ctx)
        return names


FILTER_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--bot", type=WORD, metavar="BOT", help="Those whose newest attempt is on this bot."),
    click.option("--graph", type=WORD, metavar="ID", help="Those of this graph."),
    click.option("--name", type=WORD, metavar="NAME", help="Those of exactly this name."),
    click.option("--tag", type=WORD, metavar="TAG", help="Those that carry this tag."),
    click.option("--pool", type=WORD, metavar="POOL", help="Those of this pool."),
    click.option(
        "--state",
        "states",
        multiple=True,
        type=StateList(),
        help="Those in this state; repeat, or join by commas.",
    ),
)


def filter_options(function: Function) -> Function:
    """Adds the options that say which tasks: --state, --pool, --tag, --name, --graph, --bot."""
    for option in FILTER_OPTIONS:
        function = option(function)
    return function


def joined(states: tuple[tuple[str, ...], ...]) -> list[str]:
    """All states of a repeated `--state`, each once."""
    return list(dict.fromkeys(name for names in states for name in names))


def filter_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `messages.Filter` that the options of `filter_options` in `values` give."""
    fields = {name: values[name] for name in ("pool", "tag", "name", "graph", "bot") if values[name]}
    if states := joined(values["states"]):
        fields["states"] = states
    return fields


def read_ids(ids: tuple[str, ...]) -> list[str]:
    """The ids given; `-` stands for those on standard input, separated by white space."""
    given: list[str] = []
    for id in ids:
        given += sys.stdin.read().split() if id == "-" else [id]
    return given


def check_ids(ids: list[str]) -> None:
    """Raises `click.ClickException`, in the daemon's words for one unknown task, for a text that is no id."""
    from swarmd.core.ids import from_text

    for id in ids:
        if from_text(id) is None:
            raise click.ClickException(
                f"there is no task {id[:40]!r}: ids have 13 characters of base 32; "
                "give an id as the daemon gave it"
            )
