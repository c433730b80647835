"""The command line. `main` is the entry point; each command has a module, imported only when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

OK, FAILED, USAGE, UNREACHABLE, TIMED_OUT, NO_CODE, INTERRUPTED = 0, 1, 2, 3, 124, 125, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (by default the process's own) and gives its exit code; errors become one
    line.
    """
    from swarmd.cli.group import swarmd

    try:
        code = swarmd.main(
            args=None if arguments is None else list(arguments), prog_name="swarmd", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except BaseException as error:
        code = _code_of(_alone(error))
        if code is None:
            raise
        return code


def _alone(error: BaseException) -> BaseException:
    """The one error inside nested groups of one; else `error` itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
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
    if isinstance(error, BrokenPipeError):
        # The reader of our output has left (`swarmd tasks | head`): Python must not try to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return _told(f"{error.filename}: {error.strerror}", FAILED)
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


def _told(sentence: str, code: int) -> int:
    from swarmd.cli.text import one_line

    print(f"swarmd: {one_line(sentence)}", file=sys.stderr)
    return code
