"""`swarmd wait`: until tasks, or all of a graph, have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmd.cli import FAILED, OK, TIMED_OUT
from swarmd.cli.remote import UNFINISHED, check_ids, client_command, read_ids, with_client
from swarmd.cli.spans import SPAN, WORD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarmd.api.native.messages import TaskInfo
    from swarmd.client import Client

WAIT_PATIENCE_S = 300.0  # every call of a wait survives a restart of the daemon


def patience_of(timeout_s: float | None) -> float:
    """How long to try again while the daemon is away: never longer than the user wants to wait."""
    return WAIT_PATIENCE_S if timeout_s is None else min(WAIT_PATIENCE_S, timeout_s)


GRAPH_PAUSE_S = 1.0  # between looks at an open graph in which nothing runs


@click.command("wait")
@click.argument("ids", nargs=-1, metavar="[IDS…]")
@click.option(
    "--graph",
    type=WORD,
    metavar="ID",
    help="Wait for all tasks of this graph instead, until it is closed and done.",
)
@click.option(
    "--timeout", "timeout_s", type=SPAN, metavar="SPAN", help="Wait at most this long.  [default: for ever]"
)
@click.option("--any", "any_one", is_flag=True, help="Until one of them has ended.")
@client_command
def command(
    ids: tuple[str, ...],
    graph: str | None,
    timeout_s: float | None,
    any_one: bool,
    server: str | None,
    as_json: bool,
) -> int:
    """Wait until all tasks have ended; `-` takes ids from standard input.

    Exit codes: 0 all ended ok (a graph: nothing in it failed), 1 one did not, 124 not all have ended in time.
    """
    given = read_ids(ids)
    if bool(given) == bool(graph):
        raise click.UsageError("give ids of tasks, or --graph ID")
    if graph and any_one:
        raise click.UsageError("--any does not go with --graph")
    check_ids(given)

    async def work(client: Client) -> int:
        if graph:
            return await wait_for_graph(client, graph, timeout_s, as_json)
        return await wait_and_print(client, given, timeout_s, any_one, as_json)

    return with_client(server, work, patience_of(timeout_s))


async def wait_and_print(
    client: Client, ids: Sequence[str], timeout_s: float | None, any_one: bool, as_json: bool
) -> int:
    """Waits, prints what ended, and gives the exit code."""
    from swarmd.cli.progress import Bar
    from swarmd.cli.run import say

    with Bar("waiting") as bar:
        progress = bar.update if bar.is_wanted and len(ids) > 1 else None
        done = await client.wait(ids, timeout_s, any_one, progress)
    _print(done, as_json)
    count = len(set(ids))
    if len(done) < (1 if any_one else count):
        say(f"{count - len(done)} of {count} have not ended in time")
        return TIMED_OUT
    return OK if all(task.ok for task in done) else FAILED


async def wait_for_graph(client: Client, graph: str, timeout_s: float | None, as_json: bool) -> int:
    """Waits until the graph is closed and done, prints its tasks, and gives the exit code: its own `ok`."""
    import trio

    from swarmd.cli.graphs import counts_text, shown_state
    from swarmd.cli.progress import Bar
    from swarmd.cli.run import say

    with Bar("waiting") as bar, trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while not (info := await client.graph(graph)).done:
            total = sum(info.counts.values())
            bar.update(total - sum(info.counts.get(state, 0) for state in UNFINISHED), total)
            alive = await client.tasks(limit=1000, graph=graph, state=",".join(UNFINISHED)).all()
            if alive:
                await client.wait_once([task.id for task in alive], 1.0 if bar.is_wanted else 30.0)
            else:
                await trio.sleep(GRAPH_PAUSE_S)
    info = await client.graph(graph)
    done = [task for task in await client.tasks(graph=graph).all() if task.ok is not None]
    _print(done[::-1], as_json)  # in the order in which they were submitted
    if not info.done:
        total = sum(info.counts.values())
        unfinished = sum(info.counts.get(state, 0) for state in UNFINISHED)
        say(
            f"{unfinished} of {total} have not ended in time"
            if unfinished
            else f"graph {graph} is still open"
        )
        return TIMED_OUT
    say(f"graph {graph} is {shown_state(info)}: {counts_text(info.counts)}")
    return OK if info.ok else FAILED


def _print(done: list[TaskInfo], as_json: bool) -> None:
    from swarmd.cli.table import print_json
    from swarmd.cli.tasks import print_task_table

    if as_json:
        for task in done:
            print_json(task)
    elif done:
        print_task_table(done)
