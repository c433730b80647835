"""How long the test takes in which a year passes: a daemon, a bot that comes for ten minutes each week, retention."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.processes import Process, folder
from bench.start import IMPORTS

TEST = "tests/testing/test_year.py"
LIMIT_S = 60


def main() -> None:
    with folder() as place:
        base_s, base_cpu_s = _took(["-c", IMPORTS], place)
        year_s, year_cpu_s = _took(["-m", "pytest", "-q", TEST], place)
    print(f"year: a year of virtual time in {year_s:.1f} s, {year_cpu_s:.1f} s CPU (limit {LIMIT_S})")
    print(f"  a bare import of the packages takes {base_s:.2f} s, {base_cpu_s:.2f} s CPU")


def _took(arguments: list[str], place: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of a Python process. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    process = Process([sys.executable, *arguments], place / "log", subprocess.DEVNULL)
    used_s = process.end_cpu_s()
    if process.popen.returncode:
        raise RuntimeError((place / "log").read_text()[-2000:])
    return time.perf_counter() - started, used_s
