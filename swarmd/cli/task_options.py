"""The options that describe a task, shared by `run` and `submit`, and the request made of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from swarmd.cli.spans import AFTER, GRACE, ID_TEXT, LIMIT, MAX_PRIORITY, PAUSE, WORD, Pair

if TYPE_CHECKING:
    from swarmd.api.native.messages import TaskRequest
    from swarmd.client import Client
    from swarmd.core.model import Input

Function = TypeVar("Function", bound=Callable[..., Any])
READ_BYTES = 1 << 20

OPTIONS = (
    click.option("--name", type=WORD, metavar="NAME", help="A name for people; need not be unique."),
    click.option("--pool", type=WORD, metavar="POOL", help="Bots of this pool only.  [default: default]"),
    click.option(
        "-d",
        "--dimension",
        "dimensions",
        multiple=True,
        type=Pair("KEY=VALUE"),
        metavar="KEY=VALUE",
        help="What the bot must have; repeat for more. VALUE may be a|b.",
    ),
    click.option(
        "--priority",
        type=click.IntRange(-MAX_PRIORITY, MAX_PRIORITY),
        help="Lower runs first; may be negative.  [default: 0]",
    ),
    click.option("--hard-limit", type=LIMIT, metavar="SPAN", help="Stop it after this long.  [default: 1h]"),
    click.option(
        "--io-limit",
        type=PAUSE,
        metavar="SPAN",
        help="Stop it after this long without output.  [default: none]",
    ),
    click.option(
        "--grace", type=GRACE, metavar="SPAN", help="Between the polite and the forced stop.  [default: 30s]"
    ),
    click.option(
        "--ping-tolerance",
        type=PAUSE,
        metavar="SPAN",
        help="Its bot is lost when silent so long, 10s or more.  [default: as for all its tasks]",
    ),
    click.option(
        "--expiration",
        type=LIMIT,
        metavar="SPAN",
        help="Give up when no bot took it so long.  [default: 24h]",
    ),
    click.option(
        "--retries", type=click.IntRange(0, 1000), help="More tries after a fault of the task.  [default: 0]"
    ),
    click.option(
        "--bot-retries", type=click.IntRange(0, 1000), help="More tries after a lost bot.  [default: 1]"
    ),
    click.option("--retry-wait", type=PAUSE, metavar="SPAN", help="Pause before another try.  [default: 0]"),
    click.option(
        "--after",
        multiple=True,
        type=AFTER,
        metavar="ID[:failed|:any]",
        help="Start after that task succeeded (failed; ended in any way); repeat for more.",
    ),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        type=WORD,
        metavar="TAG",
        help="A word to find it by; repeat for more.",
    ),
    click.option(
        "--env",
        multiple=True,
        type=Pair("NAME=VALUE"),
        metavar="NAME=VALUE",
        help="A variable of its environment; repeat.",
    ),
    click.option("--cwd", metavar="DIR", help="Working folder, relative to the task's own."),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        type=Pair("PATH=FILE"),
        metavar="PATH=FILE",
        help="Upload FILE; it stands at PATH when the command starts; repeat for more.",
    ),
    click.option(
        "--output",
        "outputs",
        multiple=True,
        metavar="GLOB",
        help="Keep these files when it ends; repeat for more.",
    ),
    click.option("--noop", is_flag=True, help="Take a bot's slot but start no process."),
    click.option("--no-wait-for-capacity", is_flag=True, help="End as NO_RESOURCE when no bot could run it."),
    click.option("--parent", type=ID_TEXT, metavar="ID", help="End it when that task ends."),
    click.option("--sameness", type=WORD, metavar="KEY", help="Tasks of equal KEY have equal results."),
    click.option(
        "--share",
        type=click.Choice(["none", "finished", "join"]),
        help="Take the result of a finished task of KEY; join: also of an unfinished one.  [default: none]",
    ),
)
NAMES = (
    "name", "pool", "dimensions", "priority", "hard_limit", "io_limit", "grace", "ping_tolerance", "expiration",
    "retries", "bot_retries", "retry_wait", "after", "tags", "env", "cwd", "inputs", "outputs", "noop",
    "no_wait_for_capacity", "parent", "sameness", "share",
)  # fmt: skip


def task_options(function: Function) -> Function:
    """Adds all options that describe a task."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


class DashesFirst(click.Command):
    """A command that takes a command line after `--`; when options of that cannot be read, it says so."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "--" in given or all(word.startswith("-") for word in given):
                raise
            line = shlex.join(given) if not given[0].startswith("-") else "COMMAND…"
            reason = error.format_message().removesuffix(".")
            raise click.UsageError(
                f"{reason}; if that is part of the command to run, put -- before it: {ctx.command_path} -- {line}",
                ctx,
            ) from None


def task_from(values: dict[str, Any], argv: tuple[str, ...], command: str = "submit") -> TaskRequest:
    """The task that `argv` and the options in `values` describe; its inputs are uploaded later.

    `command` is who asks, for its errors. Raises `click.UsageError` for what the daemon would refuse.
    """
    import msgspec

    from swarmd.api.native.messages import Dependency, TaskRequest
    from swarmd.core.model import Condition, Share

    if argv and values["noop"]:
        raise click.UsageError("--noop starts no process: leave the command out")
    if not argv and not values["noop"]:
        raise click.UsageError(
            f"nothing to run; give a command after --, as in: swarmd {command} -- echo hello"
        )
    if argv and not argv[0]:
        raise click.UsageError("the name of the program to run is empty")
    if values["share"] and not values["sameness"]:
        raise click.UsageError("--share needs --sameness KEY")
    fields: dict[str, Any] = {
        name: values[name] for name in ("name", "pool", "cwd", "parent", "sameness") if values[name]
    }
    for name in ("priority", "retries", "bot_retries"):
        if values[name] is not None:
            fields[name] = values[name]
    for name in ("hard_limit", "io_limit", "grace", "ping_tolerance", "expiration", "retry_wait"):
        if values[name] is not None:
            fields[f"{name}_s"] = values[name]
    dimensions: dict[str, list[str]] = {}
    for key, value in values["dimensions"]:
        dimensions.setdefault(key, []).append(value)
    task = TaskRequest(
        argv=list(argv),
        noop=values["noop"],
        dimensions=dimensions,
        after=[Dependency(on=on, condition=Condition(condition)) for on, condition in values["after"]],
        tags=list(values["tags"]),
        env=dict(values["env"]),
        outputs=list(values["outputs"]),
        share=Share(values["share"] or "none"),
        wait_for_capacity=not values["no_wait_for_capacity"],
        **fields,
    )
    try:
        return msgspec.json.decode(msgspec.json.encode(task), type=TaskRequest)
    except msgspec.ValidationError as error:
        from swarmd.cli.graph_file import fault_of_task

        fault = fault_of_task(msgspec.to_builtins(task)) or str(error)
        raise click.UsageError(f"the task is not valid: {fault}") from None
    except UnicodeEncodeError:
        raise click.UsageError("the command or an option is not UTF-8 text") from None


async def upload_inputs(client: Client, pairs: tuple[tuple[str, str], ...]) -> list[Input]:
    """Uploads the files of `--input` that the daemon does not have yet; gives the inputs of the task."""
    from swarmd.cli.progress import Bar
    from swarmd.core.model import Input

    digests = {file: file_digest(file) for file in dict.fromkeys(file for _, file in pairs)}
    missing = set(await client.missing_blobs(list(dict.fromkeys(digests.values())))) if digests else set()
    for file, sha256 in digests.items():
        if sha256 not in missing:
            continue
        missing.discard(sha256)  # two names of the same bytes
        with Bar(f"uploading {os.path.basename(file)}", in_bytes=True) as bar:
            await client.upload_file(file, sha256, bar.update)
    return [Input(path=path, blob=digests[file], executable=os.access(file, os.X_OK)) for path, file in pairs]


def file_digest(path: str) -> str:
    """The SHA-256 of a file, lower-case hex."""
    import hashlib

    from swarmd.cli.progress import Bar

    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file, Bar(f"reading {os.path.basename(path)}", in_bytes=True) as bar:
        size = os.fstat(file.fileno()).st_size
        while data := file.read(READ_BYTES):
            digest.update(data)
            done += len(data)
            bar.update(done, size)
    return digest.hexdigest()
