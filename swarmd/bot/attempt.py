"""Runs one attempt: its folder, inputs, commands, outputs, and the report of how it ended."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import trio

from swarmd.api.native.messages import MAX_TEXT, FinishedAttempt
from swarmd.bot import events
from swarmd.bot.cache import Cache, InputFailed
from swarmd.bot.environment import check_variable, command_environment
from swarmd.bot.folders import Folders
from swarmd.bot.outputs import OutsideError, clean_path, collect, open_output, place_input
from swarmd.bot.process import Ended, Runner, Start
from swarmd.bot.slots import Held, Report
from swarmd.bot.uploads import Outputs
from swarmd.bot.wire import Wire, WireError, persist
from swarmd.bot.workdir import AttemptFolder
from swarmd.core.model import Command, OutputFile

STEP_BYTES = 1 << 20
BY_A_PERSON = "bot stopped by a person"


class Surroundings(NamedTuple):
    """What every attempt of a bot has in common."""

    bot: str
    url: str
    own: Mapping[str, str]  # the bot's environment
    keep: tuple[str, ...]  # variables of it that commands get too


class Attempts:
    """Runs attempts, several at the same time."""

    def __init__(
        self,
        around: Surroundings,
        folders: Folders,
        runner: Runner,
        wire: Wire,
        cache: Cache,
        outputs: Outputs,
        rng: random.Random,
    ) -> None:
        self._around = around
        self._folders = folders
        self._runner = runner
        self._wire = wire
        self._cache = cache
        self._outputs = outputs
        self._rng = rng
        # Part of every environment, found out once.
        self._base = command_environment(
            around.own, keep=around.keep, task_id="", attempt="", bot_id=around.bot, url=around.url
        )

    async def run(self, held: Held) -> Report | None:
        """Runs `held` to its end and gives its report; None for one that the daemon gave up meanwhile."""
        events.debug("attempt.started", attempt=held.attempt, task=held.task)
        folder: AttemptFolder | None = None
        try:
            folder = self._folders.take(held.attempt)
            return await self._run_in(folder, held)
        except (OSError, ValueError) as error:
            # A folder that cannot be made, a full disk: the bot's fault, so that another one may try.
            events.error("attempt.broken", attempt=held.attempt, reason=str(error))
            self._outputs.forget(held.attempt)
            return Report(_failed(held, f"the bot could not run it: {error}", died=True))
        finally:
            if folder is not None:
                await self._folders.put_back(folder, held.attempt)

    async def _run_in(self, folder: AttemptFolder, held: Held) -> Report | None:
        self._outputs.begin(held.attempt, folder.path)
        began_at = trio.current_time()
        finished = await self._prepare(folder, held) if held.work.inputs else None
        if finished is None:
            finished = await self._commands(folder, held, began_at)
        if held.unwanted:
            self._outputs.forget(held.attempt)
            return None
        if held.work.outputs and not finished.client_error and not finished.canceled:
            finished = await self._keep_outputs(folder, held, finished)
        tail, sentences = await self._outputs.end(held.attempt)
        _add_reasons(finished, sentences)
        return Report(finished, tail)

    async def _prepare(self, folder: AttemptFolder, held: Held) -> FinishedAttempt | None:
        """Puts the inputs in place; a report if that failed."""
        root = _open_work(folder)
        try:
            with held.stop.wait_until(trio.current_time() + held.work.hard_limit_s, noticed=False) as scope:
                for wanted in held.work.inputs:
                    await self._cache.place(root, wanted)
        except InputFailed as error:
            return _failed(held, str(error), client_error=True)
        finally:
            os.close(root)
        if not scope.cancelled_caught:
            return None
        if held.stop.reason is not None:
            return _stopped_early(held)
        return _failed(held, "the hard limit passed before the inputs were there", timed_out="hard_limit")

    async def _commands(self, folder: AttemptFolder, held: Held, began_at: float) -> FinishedAttempt:
        """Runs the commands until one fails; the hard limit counts from `began_at`."""
        ended: Ended | None = None
        for command in held.work.commands:
            if held.stop.reason is not None:
                if ended is None:
                    return _stopped_early(held)
                return _finished(held, Ended(stopped_by=held.stop.reason), began_at)
            try:
                if command.write_to:
                    _write_text(folder, command)
                    continue
                start = self._start(folder, held, command, began_at)
                if ended is None:  # no program has run yet, so that no link can lead anywhere else
                    with suppress(OSError):  # the runner says what is wrong with it
                        start.cwd.mkdir(parents=True, exist_ok=True)
            except ValueError as error:
                return _failed(held, str(error), client_error=True)
            ended = await self._runner.run(start, stop=held.stop)
            if ended.exit_code != 0 or ended.stopped_by is not None or not ended.started:
                break
        return _finished(held, Ended() if ended is None else ended, began_at, nothing_ran=ended is None)

    def _start(self, folder: AttemptFolder, held: Held, command: Command, began_at: float) -> Start:
        work = held.work
        cwd = folder.work.joinpath(*clean_path(command.cwd)) if command.cwd not in ("", ".") else folder.work
        left_s = max(0.0, began_at + work.hard_limit_s - trio.current_time())
        return Start(
            attempt=held.attempt,
            argv=command.argv,
            env=self._environment(held, command),
            cwd=cwd,
            stdout=folder.stdout,
            stderr=folder.stderr,
            state=folder.state,
            hard_limit_s=left_s,
            io_limit_s=work.io_limit_s or None,
            grace_s=work.grace_s,
        )

    def _environment(self, held: Held, command: Command) -> dict[str, str]:
        found = self._base.copy()
        found["SWARMD_TASK_ID"] = held.task
        found["SWARMD_ATTEMPT"] = held.attempt
        if held.index is not None:
            found["SWARMD_INDEX"] = str(held.index)
        if held.line is not None:
            found["SWARMD_LINE"] = held.line
        for settings in (held.work.env, command.env):
            for name, value in settings.items():
                check_variable(name, value)
                if value is None:
                    found.pop(name, None)
                else:
                    found[name] = value
        return found

    async def _keep_outputs(
        self, folder: AttemptFolder, held: Held, finished: FinishedAttempt
    ) -> FinishedAttempt:
        """Uploads what the task asked to keep. A missing file is told in the reason and changes nothing else."""
        try:
            root = _open_work(folder)
            try:
                found = collect(root, held.work.outputs)
                files = [await self._hash(root, output.path, output.executable) for output in found.files]
                problems = list(found.problems)
                if files:
                    await self._upload(root, files)
            finally:
                os.close(root)
        except WireError as failure:
            files, problems = [], [f"the outputs could not be uploaded: {failure.message}"]
        except (OutsideError, ValueError, OSError) as error:
            files, problems = [], [f"the outputs could not be read: {error}"]
        finished.outputs = files
        _add_reasons(finished, problems)
        return finished

    async def _hash(self, root: int, path: str, executable: bool) -> OutputFile:
        digest, size = hashlib.sha256(), 0
        fd = open_output(root, path)
        try:
            while chunk := os.pread(fd, STEP_BYTES, size):
                digest.update(chunk)
                size += len(chunk)
                await trio.lowlevel.checkpoint()
        finally:
            os.close(fd)
        return OutputFile(path=path, blob=digest.hexdigest(), size=size, executable=executable)

    async def _upload(self, root: int, files: list[OutputFile]) -> None:
        by_digest = {file.blob: file for file in files}
        ask = partial(self._wire.missing_blobs, list(by_digest))
        for digest in await persist("missing_blobs", ask, self._rng):
            file = by_digest[digest]
            put = partial(self._wire.put_blob, digest, file.size, partial(_chunks, root, file))
            await persist("put_blob", put, self._rng)


def _chunks(root: int, file: OutputFile) -> Iterator[bytes]:
    """The bytes of an output, exactly `file.size` of them."""
    fd = open_output(root, file.path)
    try:
        at = 0
        while at < file.size and (chunk := os.pread(fd, min(STEP_BYTES, file.size - at), at)):
            at += len(chunk)
            yield chunk
    finally:
        os.close(fd)


def _open_work(folder: AttemptFolder) -> int:
    """Opens the work folder. Raises `ValueError` if a command has left something else there."""
    try:
        return os.open(folder.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"the work folder is gone ({error.strerror}); a command took it away") from None


def _write_text(folder: AttemptFolder, command: Command) -> None:
    root = _open_work(folder)
    try:
        text = command.text.encode("utf-8", "surrogateescape")
        place_input(root, command.write_to, [text], replace=True)
    except PermissionError as error:
        why = f"cannot be written: {error.strerror}; let the command before it make it writable"
        raise ValueError(f"write_to {command.write_to!r} {why}") from None
    finally:
        os.close(root)


def _add_reasons(finished: FinishedAttempt, sentences: list[str]) -> None:
    if sentences:
        known = [finished.reason] if finished.reason else []
        finished.reason = "; ".join([*known, *sentences])[:MAX_TEXT]


def _failed(held: Held, reason: str, **facts: bool | str) -> FinishedAttempt:
    return FinishedAttempt(attempt=held.attempt, ok=False, reason=reason[:MAX_TEXT], **facts)  # type: ignore[arg-type]


def _stopped_early(held: Held) -> FinishedAttempt:
    """The report of an attempt that was told to stop before a command of it ran."""
    if held.stop.reason == BY_A_PERSON:
        return _failed(held, BY_A_PERSON, died=True)
    return _failed(held, f"stopped before it started: {held.stop.reason}", canceled=True)


def _finished(held: Held, ended: Ended, began_at: float, nothing_ran: bool = False) -> FinishedAttempt:
    """The report of an attempt whose last command ended like `ended`."""
    duration_s = round(trio.current_time() - began_at, 6)
    if not ended.started:
        if ended.stopped_by is not None:
            return _stopped_early(held)
        return _failed(held, ended.error or "it could not be started", client_error=True)
    finished = FinishedAttempt(attempt=held.attempt, ok=nothing_ran, duration_s=duration_s)
    if nothing_ran:
        return finished
    finished.exit_code = ended.exit_code if ended.signal is None else -ended.signal
    finished.ok = finished.exit_code == 0 and ended.stopped_by is None
    if ended.stopped_by in ("hard_limit", "io_limit") and held.stop.reason is None:
        finished.timed_out = ended.stopped_by  # type: ignore[assignment]
        finished.reason = (
            "the hard limit passed" if ended.stopped_by == "hard_limit" else "it was silent too long"
        )
    elif ended.stopped_by == BY_A_PERSON:
        finished.died = True
        finished.reason = BY_A_PERSON
    elif ended.stopped_by is not None:
        finished.reason = f"stopped: {ended.stopped_by}"
    elif ended.error is not None and ended.exit_code is None and ended.signal is None:
        finished.died = True  # its status is lost
    if ended.error is not None:
        finished.reason = f"{finished.reason}; {ended.error}" if finished.reason else ended.error
    return finished
