"""`swarmd serve` as a process that can be killed, starved of space, and given a faulty disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import trio

from swarmd.client import Client, open_client

PROGRAM = ("-m", "swarmd")
END_S = 20.0


class Served:
    """A running daemon. `url` is its address; `ended` waits for its end and gives exit code and standard error.

    With `log`, standard error goes to that file: a daemon that has much to say does not wait for a reader.
    """

    def __init__(
        self,
        path: Path,
        *options: str,
        program: Sequence[str] = PROGRAM,
        log: Path | None = None,
        listen: str = "127.0.0.1:0",
        **environment: str,
    ) -> None:
        self.path = path
        env = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
        command = [sys.executable, *program, "serve", "--db", str(path)]
        with open(log, "ab") if log else nullcontext(subprocess.PIPE) as errors:
            self.process = subprocess.Popen(
                [*command, "--listen", listen, "--log-level", "error", *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**env, **environment},
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.removeprefix("swarmd ready ").strip() if line.startswith("swarmd ready") else ""

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=END_S)
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=END_S)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.communicate(timeout=END_S)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def served(
    path: Path,
    *options: str,
    program: Sequence[str] = PROGRAM,
    log: Path | None = None,
    **environment: str,
) -> Iterator[Served]:
    """A daemon that is ready; ended when the block is left."""
    daemon = Served(path, *options, program=program, log=log, **environment)
    try:
        assert daemon.url, daemon.ended()
        yield daemon
    finally:
        daemon.stop()


def refused(path: Path, **environment: str) -> str:
    """Standard error of a daemon that does not start; it must end with exit code 1 and say why in one sentence."""
    daemon = Served(path, **environment)
    try:
        assert not daemon.url, "it started"
        code, errors = daemon.ended()
    finally:
        daemon.stop()
    assert code == 1 and errors.startswith("swarmd: ") and "Traceback" not in errors, (code, errors)
    return errors


def talk(daemon: Served, work: object, *, patience_s: float = 0.0) -> object:
    """Runs `work(client)` in an event loop of its own; gives what it returns."""

    async def main() -> object:
        async with open_client(daemon.url, patience_s=patience_s) as client:
            return await work(client)  # type: ignore[operator]

    return trio.run(main)


async def until(found: object, client: Client, within_s: float = 10.0) -> None:
    """Returns when `found(client)` is true."""
    end = time.monotonic() + within_s
    while not await found(client):  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come"
        await trio.sleep(0.05)
