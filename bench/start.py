"""How long `serve` takes to be ready, against a bare import of its packages; and `demo`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.processes import daemon, folder

RUNS = 5
IMPORTS = "import trio, trio_asyncio, aiosqlite, hypercorn.trio, quart_trio, msgspec, click, h11, h2"


def main() -> None:
    imports, ready = [], []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        imports.append(time.perf_counter() - started)
        with folder() as place:
            started = time.perf_counter()
            with daemon(place):
                ready.append(time.perf_counter() - started)
    base, took = statistics.median(imports), statistics.median(ready)
    print(f"start: ready after {took:.2f} s; bare imports {base:.2f} s: ratio {took / base:.2f}")
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "swarmd", "demo"], check=True, stdout=subprocess.DEVNULL)
    print(f"demo: {time.perf_counter() - started:.1f} s")
