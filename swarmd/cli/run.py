"""`swarmd run`: as if the command ran here."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli import INTERRUPTED, NO_CODE, OK, TIMED_OUT
from swarmd.cli.remote import client_command, with_client
from swarmd.cli.task_options import DashesFirst, task_from, task_options, upload_inputs

if TYPE_CHECKING:
    import trio

    from swarmd.api.native.messages import TaskInfo, TaskRequest
    from swarmd.client import Client

READER_LOOK_S = 0.25  # between looks at whether our output still has a reader


@click.command("run", cls=DashesFirst)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND…")
@task_options
@client_command
def command(argv: tuple[str, ...], server: str | None, as_json: bool, **values: Any) -> int:
    """Run COMMAND on a bot, follow its output, and end with its exit code.

    Ctrl-C cancels it and waits for its end; a second Ctrl-C leaves at once. It is also canceled when
    the output cannot be written any more. Exit codes: the command's
    own; 128 + n when signal n ended it; 124 when it ran into a limit; 125 when it ended without a code
    of its own.
    """
    task = task_from(values, argv, "run")
    return with_client(server, lambda client: Running(client, as_json).run(task, values["inputs"]))


class Running:
    """One `swarmd run`: the task, and what the signals we get mean for it."""

    def __init__(self, client: Client, as_json: bool) -> None:
        import trio

        self._client = client
        self._as_json = as_json
        self._id = ""
        self._submitted = trio.Event()

    async def run(self, task: TaskRequest, inputs: tuple[tuple[str, str], ...]) -> int:
        """Submits, follows, and gives the exit code."""
        import signal

        import trio

        code = INTERRUPTED
        task.inputs = await upload_inputs(self._client, inputs)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals, nursery)
                    nursery.start_soon(self._watch_reader)
                    code = await self._follow(task)
                    nursery.cancel_scope.cancel()
            except* OSError:  # the output can be written no more
                await self._cancel_unread()
                raise
        return code

    async def _watch_reader(self) -> None:
        """Raises `BrokenPipeError` when nobody can read our output any more, also while the task is silent."""
        import select

        import trio

        await self._submitted.wait()
        try:
            number = sys.stdout.fileno()
        except (OSError, ValueError):  # not a file of the system
            return
        look = select.poll()
        look.register(number, 0)
        while not any(state & select.POLLERR for _, state in look.poll(0)):  # noqa: ASYNC110 (another process)
            await trio.sleep(READER_LOOK_S)
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    async def _cancel_unread(self) -> None:
        """As after Ctrl-C, but nobody is there who would see the end: it is not waited for."""
        from swarmd.client import ClientError

        if self._id:
            try:
                await self._client.cancel([self._id], reason="nobody reads its output")
            except ClientError as error:
                say(f"could not cancel {self._id}: {error}")

    async def _follow(self, task: TaskRequest) -> int:
        from swarmd.api.native.messages import SubmitRequest
        from swarmd.cli.output import OutputWriter, copy_live
        from swarmd.cli.table import print_json

        answer = await self._client.submit_request(SubmitRequest(tasks=[task]))
        self._id = answer.ids[0]
        self._submitted.set()
        for warning in answer.warnings:
            say(warning)
        await copy_live(self._client, self._id, OutputWriter(self._as_json))
        end = await self._client.get(self._id)
        if self._as_json:
            print_json(end)
        code = exit_code(end)
        if end.state != "COMPLETED" or code == NO_CODE:
            say(f"task {end.id} ended as {end.state}" + (f": {end.reason}" if end.reason else ""))
        return code

    async def _obey(self, signals: Any, nursery: trio.Nursery) -> None:
        """The first signal cancels the task; the next one leaves."""
        canceled = False
        async for _ in signals:
            if canceled:
                say("left; the task goes on until its stop is done" if self._id else "left")
                nursery.cancel_scope.cancel()
                return
            canceled = True
            nursery.start_soon(self._cancel)

    async def _cancel(self) -> None:
        say("canceling; once more to leave at once")
        await self._submitted.wait()
        await self._client.cancel([self._id], reason="interrupted")


def exit_code(end: TaskInfo) -> int:
    """What `run` exits with; docs/http-api.md has the table."""
    if end.state == "TIMED_OUT":
        return TIMED_OUT
    if end.state not in ("COMPLETED", "KILLED"):
        return NO_CODE
    if end.exit_code is None:
        return OK if end.ok else NO_CODE
    if end.exit_code == 0:
        return OK if end.ok else NO_CODE
    return 128 - end.exit_code if end.exit_code < 0 else end.exit_code


def say(sentence: str) -> None:
    """One line on standard error."""
    from swarmd.cli.text import one_line

    print(f"swarmd: {one_line(sentence)}", file=sys.stderr)
