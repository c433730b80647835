"""Puts a new bot in the place of this one, in the same process: what runs below it stays below it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def own_command() -> list[str]:
    """The command line that started this program, for any way of starting it: script, `-m`, or one frozen file."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


def replace_bot(command: Sequence[str]) -> NoReturn:
    """Starts `command` in the place of this process. An installed update takes effect by this.

    Process number, environment, working folder and children stay; open files of Python are closed by the kernel, with
    them the lock of the work folder. Raises `OSError` if the program is gone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], list(command))
