"""How long the test takes in which a year passes: a daemon, a bot that comes for ten minutes each week, retention."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.start import IMPORTS

TEST = "tests/testing/test_year.py"


def main() -> None:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    imports = time.perf_counter() - started
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", TEST], check=True, stdout=subprocess.DEVNULL
    )
    took = time.perf_counter() - started
    print(
        f"year: a year of virtual time in {took:.1f} s (limit 60); a bare import of the packages {imports:.2f} s"
    )
