"""The command line. `main` is the entry point; each command has a module, imported only when it is used."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

OK, FAILED, USAGE, UNREACHABLE, TIMED_OUT, NO_CODE, INTERRUPTED = 0, 1, 2, 3, 124, 125, 130

WRITE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (by default the process's own) and gives its exit code; errors become one
    line.
    """
    from swarmd.cli.group import swarmd

    given = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
    if sys.stdout is None:
        if given[:1] not in (["serve"], ["bot"]):
            return _told("standard output is closed; send it to a file, a pipe or /dev/null", FAILED)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = swarmd.main(args=given, prog_name="swarmd", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except BaseException as error:
        code = _code_of(_alone(error))
        if code is None:
            raise
        return code


def _alone(error: BaseException) -> BaseException:
    """The one error inside nested groups of one, or of errors of one kind only; else `error` itself."""
    while isinstance(error, BaseExceptionGroup):
        first, *others = error.exceptions
        if any(type(_alone(other)) is not type(_alone(first)) for other in others):
            break
        error = first
    return error


def _code_of(error: BaseException) -> int | None:
    """The exit code of an error that we expect, told on standard error; None for any other."""
    import click

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "swarmd"
        return _told(f"{error.format_message().removesuffix('.')} (see: {path} --help)", USAGE)
    if isinstance(error, click.ClickException):
        return _told(error.format_message(), FAILED)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    if isinstance(error, OSError):
        is_output, where = _give_up_output(), error.filename
        if isinstance(error, BrokenPipeError):  # the reader has left, as in `swarmd tasks | head`
            return FAILED
        if where is None and not is_output and error.errno not in WRITE_FAULTS:
            return None
        return _told(f"{where or 'the output cannot be written'}: {error.strerror or error}", FAILED)
    # Whoever raised one of these has imported its module; the others need not be loaded.
    client = sys.modules.get("swarmd.client.errors")
    if client is not None and isinstance(error, client.ClientError):
        if isinstance(error, client.Unreachable):
            return _told(str(error), UNREACHABLE)
        if isinstance(error, client.ApiError) and error.refused_caller:
            remedy = error.remedy or "set SWARMD_TOKEN_FILE to a file with a token that may do this"
            return _told(f"{error.message}; {remedy}", UNREACHABLE)
        return _told(str(error), USAGE if isinstance(error, client.BadSetting) else FAILED)
    core = sys.modules.get("swarmd.core.errors")
    if core is not None and isinstance(error, core.CoreError):
        return _told(f"{error.message}; {error.remedy}" if error.remedy else error.message, FAILED)
    return None


def _give_up_output() -> bool:
    """Whether standard output or standard error takes no more; then Python's flush at exit goes nowhere."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what could not be written is still in its buffer
            found = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return found


def _told(sentence: str, code: int) -> int:
    from swarmd.cli.text import one_line

    try:
        print(f"swarmd: {one_line(sentence)}", file=sys.stderr)
    except OSError:  # standard error is as closed or full as standard output
        _give_up_output()
    return code
