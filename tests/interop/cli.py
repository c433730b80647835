"""The `swarming` command of LUCI, as its users run it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

PATIENCE_S = 60.0  # for one run; what it would repeat for minutes is a failure of the test
# What would let a run depend on who is logged in here, or on the task that runs the tests.
UNSET = ("LUCI_CONTEXT", "LUCI_AUTH_CREDENTIAL_HELPER", "SWARMING_TASK_ID", "SWARMING_SERVER")


class Done(NamedTuple):
    code: int
    out: str
    err: str
    took_s: float


class Cli:
    """Runs a program against one daemon, with a home folder of its own."""

    def __init__(self, program: Path, url: str, home: Path, environ: Mapping[str, str]) -> None:
        self._program = program
        self._home = home
        self._env = {name: value for name, value in environ.items() if name not in UNSET}
        self._env |= {"HOME": str(home), "USER": "alice"}
        if url:
            self._env["SWARMING_SERVER"] = url

    async def __call__(self, *argv: str, input: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Runs it to its end. Raises `trio.TooSlowError` for one that has none."""
        began = trio.current_time()
        run = partial(
            trio.run_process, [self._program, *argv], capture_stdout=True, capture_stderr=True, check=False,
            stdin=input.encode(), cwd=self._home, env={**self._env, **(env or {})},
        )  # fmt: skip
        with trio.fail_after(PATIENCE_S):
            done = await run()
        took_s = trio.current_time() - began
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode(), took_s)
