"""The processes of a benchmark, and what they cost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")


class Process:
    """A child process with its CPU time, its own and that of children it has waited for."""

    def __init__(self, argv: list[str], log: Path, stdout: int | None = None) -> None:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("SWARMD_")}
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file,
                env=environment,
            )

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def end_cpu_s(self) -> float:
        """Waits for its end; the CPU time of its whole life. No other child may be waited for meanwhile."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.popen.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def memory_mib(self) -> float:
        return self._status("VmRSS:")

    def peak_mib(self) -> float:
        return self._status("VmHWM:")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))

    def _status(self, name: str) -> float:
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise ValueError(f"no {name}")

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder below the present one: on the disk of the project, not in memory."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as name:
        yield Path(name).resolve()


@contextmanager
def daemon(place: Path, *options: str) -> Iterator[tuple[Process, str]]:
    """A daemon on a free port with FULL durability, and its URL."""
    process, url = start_daemon(place, *options)
    try:
        yield process, url
    finally:
        process.end()


def start_daemon(place: Path, *options: str, listen: str = "127.0.0.1:0") -> tuple[Process, str]:
    """As `daemon`, for who ends it by themselves. It is ready when this returns."""
    argv = [sys.executable, "-m", "swarmd", "serve", "--db", str(place / "swarmd.db"), "--listen", listen]
    process = Process([*argv, "--log-level", "warning", *options], place / "log", subprocess.PIPE)
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline().decode()
    if not line.startswith("swarmd ready "):
        process.end()
        raise RuntimeError(f"the daemon did not start: {(place / 'log').read_text()[-2000:]}")
    return process, line.removeprefix("swarmd ready ").strip()


@contextmanager
def bot(place: Path, url: str, name: str, slots: int) -> Iterator[Process]:
    argv = [sys.executable, "-m", "swarmd", "bot", "--server", url, "--id", name, "--slots", str(slots)]
    process = Process([*argv, "--work-dir", str(place / name)], place / f"{name}.log")
    try:
        yield process
    finally:
        process.end()


def parts(server: Process, client: list[str]) -> dict[str, Any]:
    """What a client measures, part by part, each with what it cost the server. It writes the name of each part, and
    its result behind it, as JSON, and waits for a line after both."""
    process = subprocess.Popen(client, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    found: dict[str, Any] = {}
    cpu = memory = 0.0
    try:
        for line in process.stdout:
            told = json.loads(line)
            if isinstance(told, str):
                cpu, memory = server.cpu_s(), server.memory_mib()
            else:
                told["cpu_us"] = (server.cpu_s() - cpu) / told["count"] * 1e6
                told["kib"] = (server.memory_mib() - memory) * 1024 / told["count"]
                found[told["name"]] = told
            process.stdin.write(b"\n")
            process.stdin.flush()
    finally:
        process.kill()
        process.wait()
    return found


def tell(what: Any) -> None:
    """A client of `parts` tells, and waits until it may go on."""
    print(json.dumps(what), flush=True)
    sys.stdin.readline()
