"""`swarmd submit`: one task, many equal ones, or a graph."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli import OK
from swarmd.cli.remote import client_command, with_client
from swarmd.cli.spans import RANGE, WORD
from swarmd.cli.task_options import NAMES, DashesFirst, task_from, task_options, upload_inputs
from swarmd.cli.wait import WAIT_PATIENCE_S

if TYPE_CHECKING:
    from swarmd.api.native.messages import GraphAnswer, GraphRequest, SubmitAnswer, SubmitRequest
    from swarmd.client import Client


@click.command("submit", cls=DashesFirst)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND…]")
@click.option(
    "--array", type=RANGE, metavar="FIRST-LAST[:STEP]", help="One task for each number, in SWARMD_INDEX."
)
@click.option(
    "--each-line",
    type=click.File("rb"),
    metavar="FILE",
    help="One task for each line, in SWARMD_LINE; - is stdin.",
)
@click.option(
    "--file", type=click.File("rb"), metavar="GRAPH", help="A graph as TOML or JSON instead of a command."
)
@click.option("--graph", type=WORD, metavar="ID", help="Add to this open graph.")
@click.option("--request-id", metavar="TEXT", help="The same id and tasks again give the same answer.")
@click.option("--wait", is_flag=True, help="Wait until all have ended, and exit as `swarmd wait` does.")
@task_options
@client_command
def command(
    argv: tuple[str, ...],
    array: tuple[int, int, int] | None,
    each_line: Any,
    file: Any,
    graph: str | None,
    request_id: str | None,
    wait: bool,
    server: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Submit one or many tasks, all or none, and print their ids.

    \b
    swarmd submit -- make test
    swarmd submit --array 1-100 -- sh -c 'echo $SWARMD_INDEX'
    swarmd submit --file graph.toml --wait
    """
    request: SubmitRequest | GraphRequest
    if file is not None:
        _check_alone(argv, array, each_line, graph, values)
        from swarmd.cli.graph_file import read_graph

        request = read_graph(file)
        request.name = values["name"] or request.name
    else:
        request = _tasks_request(argv, array, each_line, values)
    request.request_id = request_id or request.request_id

    async def work(client: Client) -> int:
        from swarmd.api.native.messages import GraphAnswer

        answer = await _send(client, request, graph or "", values["inputs"])
        _print(answer, as_json)
        if not wait:
            return OK
        from swarmd.cli.wait import wait_and_print, wait_for_graph

        if isinstance(answer, GraphAnswer) and not getattr(request, "open", False):
            return await wait_for_graph(client, answer.id, None, as_json)
        return await wait_and_print(client, answer.ids, None, False, as_json)

    return with_client(server, work, WAIT_PATIENCE_S if wait else None)


async def _send(
    client: Client, request: SubmitRequest | GraphRequest, graph: str, inputs: tuple[tuple[str, str], ...]
) -> SubmitAnswer | GraphAnswer:
    from swarmd.api.native.messages import GraphRequest

    if isinstance(request, GraphRequest):
        return await client.submit_graph(request)
    request.tasks[0].inputs = await upload_inputs(client, inputs)
    return await client.submit_request(request, graph)


def _print(answer: SubmitAnswer | GraphAnswer, as_json: bool) -> None:
    from swarmd.cli.run import say
    from swarmd.cli.table import print_json

    graph = getattr(answer, "id", None)
    for id, state in zip(answer.ids, answer.states, strict=True):
        if as_json:
            print_json({"id": id, "state": state, **({"graph": graph} if graph else {})})
        else:
            print(id)
    sys.stdout.flush()
    if graph and not as_json:
        say(f"graph {graph}")
    for warning in answer.warnings:
        say(warning)


def _check_alone(
    argv: tuple[str, ...], array: Any, each_line: Any, graph: str | None, values: dict[str, Any]
) -> None:
    """With --file the tasks stand in the file: only --name (of the graph) may be given beside it."""
    given = [f"--{name.replace('_', '-')}" for name in NAMES if name != "name" and values[name]]
    given += [
        name for name, value in (("--array", array), ("--each-line", each_line), ("--graph", graph)) if value
    ]
    if argv or given:
        raise click.UsageError(
            f"{given[0] if given else 'a command'} does not go with --file; write it into the file"
        )


def _tasks_request(
    argv: tuple[str, ...], array: Any, each_line: Any, values: dict[str, Any]
) -> SubmitRequest:
    from swarmd.api.native.messages import MAX_EXPANDED_TASKS, ArrayRange, SubmitRequest

    if array and each_line:
        raise click.UsageError("--array and --each-line do not go together")
    task = task_from(values, argv)
    if array:
        first, last, step = array
        task.array = ArrayRange(first=first, last=last, step=step)
        count = (last - first) // step + 1
    elif each_line:
        task.lines = read_lines(each_line)
        count = len(task.lines)
    else:
        count = 1
    if count > MAX_EXPANDED_TASKS:
        raise click.UsageError(
            f"{count:,} tasks are more than the {MAX_EXPANDED_TASKS:,} of one submit; split them"
        )
    return SubmitRequest(tasks=[task])


def read_lines(file: Any) -> list[str]:
    """The lines of a file as they are, also empty ones; raises `click.UsageError` when there are none.

    A line end at the end of the file begins no further line; the CR of a CR LF is not part of its line.
    """
    try:
        lines = [line.removesuffix("\r") for line in file.read().decode().split("\n")]
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"{file.name} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise click.UsageError(f"{file.name} has no lines")
    return lines
