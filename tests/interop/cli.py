"""The `swarming` command of LUCI, as its users run it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

PATIENCE_S = 60.0  # for one run; what it would repeat for minutes is a failure of the test
QUICKLY_S = 20.0  # far below the five minutes for which it repeats a call
REPEATED = "RPC failed transiently"  # what it writes each time before it repeats one
# What would let a run depend on who is logged in here, or on the task that runs the tests.
UNSET = ("LUCI_CONTEXT", "LUCI_AUTH_CREDENTIAL_HELPER", "SWARMING_TASK_ID", "SWARMING_SERVER")


class Done(NamedTuple):
    code: int
    out: str
    err: str
    took_s: float

    @property
    def repeats(self) -> int:
        """How many calls it sent again."""
        return self.err.count(REPEATED)

    @property
    def json(self) -> Any:
        """What was printed, by a run that went well."""
        assert self.code == 0, self
        return msgspec.json.decode(self.out)


class Cli:
    """Runs a program against one daemon, in a home folder of its own: `folder`."""

    def __init__(self, program: Path, url: str, home: Path, environ: Mapping[str, str]) -> None:
        self._program = program
        self.url = url
        self.folder = home
        self._env = {name: value for name, value in environ.items() if name not in UNSET}
        self._env |= {"HOME": str(home), "USER": "alice"}
        if url:
            self._env["SWARMING_SERVER"] = url

    async def __call__(self, *argv: str, input: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Runs it to its end. Raises `trio.TooSlowError` for one that has none."""
        began = trio.current_time()
        run = partial(
            trio.run_process, [self._program, *argv], capture_stdout=True, capture_stderr=True, check=False,
            stdin=input.encode(), cwd=self.folder, env={**self._env, **(env or {})},
        )  # fmt: skip
        with trio.fail_after(PATIENCE_S):
            done = await run()
        took_s = trio.current_time() - began
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode(), took_s)

    async def refused(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """A run that must fail at once, with nothing on standard output; gives what it told."""
        done = await self(*argv, env=env)
        assert (done.code, done.out, done.repeats) == (1, "", 0) and done.took_s < QUICKLY_S, done
        return done.err

    async def trigger(self, *argv: str, env: Mapping[str, str] | None = None) -> Any:
        """`argv`: further flags, "--" and the command. Gives what was made, as the command writes it."""
        done = await self("trigger", "-d", "pool=default", "-json-output", "-", *argv, env=env)
        [made] = done.json["tasks"]
        assert f"/task?id={made['task_id']}" in done.err
        return made

    async def collect(self, *argv: str) -> Any:
        """The summary of `collect`."""
        done = await self("collect", "-task-summary-json", "summary.json", *argv)
        assert done.code == 0, done
        return msgspec.json.decode((self.folder / "summary.json").read_bytes())
